# gnuplot -d FILE.gp >FILE.svg
set encoding utf8
set terminal svg noenhanced size 1112,526 background rgb '#ffffff' font 'sans-serif,13'
set multiplot title 'a title' noenhanced font ',16'
$s0 << EOD
1 0.008
3 0.003
16 0.001
EOD
$i0 << EOD
1 0.008
16 0.0005
EOD
set lmargin at screen 0.082734
set rmargin at screen 0.478417
set tmargin at screen 0.851711
set bmargin at screen 0.281369
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
set title 'Strong scaling: 1000 tokens in all' offset 0,-0.2
set logscale x 2
set xrange [0.8:20]
set xtics ('1' 1 0, '2' 2 0, '4' 4 0, '8' 8 0, '16' 16 0)
set logscale y 10
set yrange [0.000384615385:0.0104]
set ytics ('' 0.0004 1, '500 µs' 0.0005 0, '' 0.0006 1, '' 0.0007 1, '' 0.0008 1, '' 0.0009 1, '1 ms' 0.001 0, '2 ms' 0.002 0, '' 0.003 1, '' 0.004 1, '5 ms' 0.005 0, '' 0.006 1, '' 0.007 1, '' 0.008 1, '' 0.009 1, '10 ms' 0.01 0)
set xlabel 'ranks'
set label 'time of a step' at screen 0.012590,0.566540 center rotate by 90
set key at screen 0.055755,0.148289 top left horizontal maxcols 1 Left reverse samplen 2 spacing 1.15 noautotitle
plot $i0 using 1:2 with lines linewidth 1.5 dashtype 2 linecolor rgb '#888888' title 'ideal', \
$s0 using 1:2 with lines linewidth 2 dashtype 1 linecolor rgb '#0072b2' title 'predicted for machine of the test'
$s1 << EOD
1 0.0005
3 0.00055
16 0.00075
EOD
$s2 << EOD
1 0.0005125
2 0.000525
EOD
$i1 << EOD
1 0.0005125
16 0.0005125
EOD
set lmargin at screen 0.582734
set rmargin at screen 0.978417
set tmargin at screen 0.851711
set bmargin at screen 0.281369
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
set logscale x 2
set xrange [0.8:20]
set xtics ('1' 1 0, '2' 2 0, '4' 4 0, '8' 8 0, '16' 16 0)
set yrange [0:0.0007875]
set ytics ('0' 0 0, '200 µs' 0.0002 0, '400 µs' 0.0004 0, '600 µs' 0.0006 0)
set xlabel 'ranks'
set label 'time of a step' at screen 0.512590,0.566540 center rotate by 90
set key at screen 0.555755,0.148289 top left horizontal maxcols 1 Left reverse samplen 2 spacing 1.15 noautotitle
plot $i1 using 1:2 with lines linewidth 1.5 dashtype 2 linecolor rgb '#888888' title 'ideal', \
$s1 using 1:2 with lines linewidth 2 dashtype 1 linecolor rgb '#0072b2' title 'predicted for machine of the test', \
$s2 using 1:2 with points pointtype 7 pointsize 0.7 linecolor rgb '#0072b2' title 'measured'
unset multiplot
