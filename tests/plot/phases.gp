# gnuplot -d FILE.gp >FILE.svg
set encoding utf8
set terminal svg noenhanced size 416,530 background rgb '#ffffff' font 'sans-serif,13'
set multiplot
$p0 << EOD
1 0.0005 0 3.125e-05 4.6875e-05 0.000109375 0.000109375 0.000359375 0.000421875
2 0.0005125 0 3.203125e-05 4.8046875e-05 0.000112109375 0.000112109375 0.000368359375 0.000432421875
3.5 0.000525 0 3.28125e-05 4.921875e-05 0.00011484375 0.00011484375 0.00037734375 0.00044296875
5 0.00055 0 3.4375e-05 5.15625e-05 0.0001203125 0.0001203125 0.0003953125 0.0004640625
6.5 0.00075 0 4.6875e-05 7.03125e-05 0.0001640625 0.0001640625 0.0005390625 0.0006328125
EOD
set lmargin at screen 0.221154
set rmargin at screen 0.942308
set tmargin at screen 0.916981
set bmargin at screen 0.388679
unset logscale
unset key
unset label
unset colorbox
unset xlabel
set autoscale
set border 3 linecolor rgb '#444444'
set grid linecolor rgb '#dddddd' linetype 1 linewidth 0.5
set xtics out nomirror norotate scale 0.6,0.3 font ',11.5'
set ytics out nomirror norotate scale 0.6,0.3 font ',11.5'
set cbtics out nomirror norotate scale 0.6,0.3 font ',11.5'
set title 'Weak scaling: 64 tokens per rank' offset 0,-0.2
set xrange [0:7.5]
set grid noxtics ytics
set bars 0
set xtics scale 0 offset 0,-0.7 ('1' 1.5, '2' 3.5, '3' 5, '16' 6.5)
set yrange [0:0.0007875]
set ytics ('0' 0 0, '200 µs' 0.0002 0, '400 µs' 0.0004 0, '600 µs' 0.0006 0)
set xlabel 'ranks' offset 0,-0.6
set label 'time of a step' at screen 0.033654,0.652830 center rotate by 90
set label 'a' at first 1, graph 0 offset 0,-0.6 center textcolor rgb '#444444'
set label 'b' at first 2, graph 0 offset 0,-0.6 center textcolor rgb '#444444'
set label 'b' at first 3.5, graph 0 offset 0,-0.6 center textcolor rgb '#444444'
set label 'a' at first 5, graph 0 offset 0,-0.6 center textcolor rgb '#444444'
set label 'a' at first 6.5, graph 0 offset 0,-0.6 center textcolor rgb '#444444'
set label 'a: predicted for machine of the test' at screen 0.173077,0.084906 left
set label 'b: measured' at screen 0.173077,0.043396 left
set key at screen 0.149038,0.230189 top left horizontal maxcols 2 Left reverse samplen 2 spacing 1.15 noautotitle
plot $p0 using 1:4:($1-0.42):($1+0.42):3:4 with boxxyerror fillstyle solid noborder linecolor rgb '#56b4e9' title 'route', \
$p0 using 1:5:($1-0.42):($1+0.42):4:5 with boxxyerror fillstyle solid noborder linecolor rgb '#999999' title 'plan', \
$p0 using 1:6:($1-0.42):($1+0.42):5:6 with boxxyerror fillstyle solid noborder linecolor rgb '#0072b2' title 'dispatch', \
$p0 using 1:8:($1-0.42):($1+0.42):7:8 with boxxyerror fillstyle solid noborder linecolor rgb '#e69f00' title 'experts', \
$p0 using 1:9:($1-0.42):($1+0.42):8:9 with boxxyerror fillstyle solid noborder linecolor rgb '#cc79a7' title 'combine', \
$p0 using 1:2:(0.45) with xerrorbars pointtype -1 linewidth 1.5 linecolor rgb '#000000' title 'whole step'
unset multiplot
