# gnuplot -d FILE.gp >FILE.svg
set encoding utf8
set terminal svg noenhanced size 676,510 background rgb '#ffffff' font 'sans-serif,13'
set multiplot
$d0 << EOD
1 2e+10 1
8 1.44e+11 8
64 4.48e+11 64
EOD
$r0 << EOD
0.666666667 1.66666667e+10
20 5e+11
128 5e+11
EOD
set lmargin at screen 0.136095
set rmargin at screen 0.964497
set tmargin at screen 0.913725
set bmargin at screen 0.247059
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
set title 'Roofline' offset 0,-0.2
set logscale x 2
set xrange [0.533333333:160]
set xtics ('1' 1 0, '2' 2 0, '4' 4 0, '8' 8 0, '16' 16 0, '32' 32 0, '64' 64 0, '128' 128 0)
set logscale y 10
set yrange [1.28205128e+10:6.5e+11]
set ytics ('20 G' 2e+10 0, '' 3e+10 1, '' 4e+10 1, '50 G' 5e+10 0, '' 6e+10 1, '' 7e+10 1, '' 8e+10 1, '' 9e+10 1, '100 G' 1e+11 0, '200 G' 2e+11 0, '' 3e+11 1, '' 4e+11 1, '500 G' 5e+11 0, '' 6e+11 1)
set xlabel 'operations per byte of weights [FLOP/B]'
set label 'rate [FLOP/s]' at screen 0.020710,0.580392 center rotate by 90
set key at screen 0.091716,0.109804 top left horizontal maxcols 1 Left reverse samplen 2 spacing 1.15 noautotitle
plot $r0 using 1:2 with lines linewidth 2 linecolor rgb '#0072b2' title '500 GFLOP/s peak, 25 GB/s read', \
$d0 using 1:2 with points pointtype 7 pointsize 0.8 linecolor rgb '#0072b2' title 'the experts, by rows per expert', \
$d0 using 1:2:3 with labels offset 0,-0.8 font ',10.5' textcolor rgb '#0072b2' notitle
unset multiplot
