# gnuplot -d FILE.gp >FILE.svg
set encoding utf8
set terminal svg noenhanced size 1052,472 background rgb '#ffffff' font 'sans-serif,13'
set multiplot
$k0 << EOD
0 4 1.5
1 0 1
2 0 1
3 0 0.5
EOD
set lmargin at screen 0.087452
set rmargin at screen 0.543726
set tmargin at screen 0.906780
set bmargin at screen 0.313559
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
set title 'Load of the ranks, layer 4' offset 0,-0.2
set xlabel 'rank'
set label 'load / mean' at screen 0.013308,0.610169 center rotate by 90
set grid noxtics ytics
set xrange [-0.7:3.7]
set xtics 0,1
set yrange [0:4.2]
set ytics ('0' 0 0, '1' 1 0, '2' 2 0, '3' 3 0, '4' 4 0)
set key at screen 0.058935,0.165254 top left horizontal maxcols 1 Left reverse samplen 2 spacing 1.15 noautotitle
plot $k0 using ($1-0.2):2:(0.38) with boxes fillstyle solid noborder linecolor rgb '#e69f00' title 'before: imbalance 4.000', \
$k0 using ($1+0.2):3:(0.38) with boxes fillstyle solid noborder linecolor rgb '#0072b2' title 'after: imbalance 1.500', \
1 with lines linewidth 1.5 dashtype 2 linecolor rgb '#444444' title 'mean'
$l0 << EOD
3 1.5 1
4 4 1.5
5 1 1
EOD
set lmargin at screen 0.653992
set rmargin at screen 0.977186
set tmargin at screen 0.906780
set bmargin at screen 0.313559
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
set title 'Imbalance of the layers' offset 0,-0.2
set xlabel 'layer'
set label 'load of the busiest rank / mean' at screen 0.579848,0.610169 center rotate by 90
set xtics 0,1
set xrange [3-0.7:5+0.7]
set yrange [1:4.15]
set ytics ('1' 1 0, '2' 2 0, '3' 3 0, '4' 4 0)
set key at screen 0.625475,0.165254 top left horizontal maxcols 2 Left reverse samplen 2 spacing 1.15 noautotitle
plot $l0 using 1:2 with linespoints pointtype 7 pointsize 0.5 linecolor rgb '#e69f00' title 'before', \
$l0 using 1:3 with linespoints pointtype 5 pointsize 0.5 linecolor rgb '#0072b2' title 'after'
unset multiplot
