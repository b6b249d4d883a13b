# gnuplot -d FILE.gp >FILE.svg
set encoding utf8
set terminal svg noenhanced size 626,570 background rgb '#ffffff' font 'sans-serif,13'
set multiplot
$m0 << EOD
1 0 1000
3 0 2048
0 1 1000
2 1 1.04858e+06
1 2 16
3 2 1.07374e+09
0 3 999.6
2 3 12345
EOD
set lmargin at screen 0.146965
set rmargin at screen 0.785942
set tmargin at screen 0.922807
set bmargin at screen 0.221053
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
set title 'traffic.json' offset 0,-0.2
unset arrow
unset grid
set border 15 linecolor rgb '#444444'
set xrange [-0.5:3.5]
set yrange [3.5:-0.5]
set xtics ('0' 0, '1' 1, '2' 2, '3' 3)
set ytics ('0' 0, '1' 1, '2' 2, '3' 3)
set xlabel 'destination rank'
set label 'source rank' at screen 0.022364,0.571930 center rotate by 90
set arrow from first 1.5, graph 0 to first 1.5, graph 1 nohead front linewidth 1.5 linecolor rgb '#444444'
set arrow from graph 0, first 1.5 to graph 1, first 1.5 nohead front linewidth 1.5 linecolor rgb '#444444'
set label '0' at first 0,0 center front textcolor rgb '#000000' font ',10.5'
set label '0.977K' at first 1,0 center front textcolor rgb '#000000' font ',10.5'
set label '0' at first 2,0 center front textcolor rgb '#000000' font ',10.5'
set label '2K' at first 3,0 center front textcolor rgb '#000000' font ',10.5'
set label '0.977K' at first 0,1 center front textcolor rgb '#000000' font ',10.5'
set label '0' at first 1,1 center front textcolor rgb '#000000' font ',10.5'
set label '1M' at first 2,1 center front textcolor rgb '#ffffff' font ',10.5'
set label '0' at first 3,1 center front textcolor rgb '#000000' font ',10.5'
set label '0' at first 0,2 center front textcolor rgb '#000000' font ',10.5'
set label '16' at first 1,2 center front textcolor rgb '#000000' font ',10.5'
set label '0' at first 2,2 center front textcolor rgb '#000000' font ',10.5'
set label '1G' at first 3,2 center front textcolor rgb '#ffffff' font ',10.5'
set label '0.976K' at first 0,3 center front textcolor rgb '#000000' font ',10.5'
set label '0' at first 1,3 center front textcolor rgb '#000000' font ',10.5'
set label '12.1K' at first 2,3 center front textcolor rgb '#000000' font ',10.5'
set label '0' at first 3,3 center front textcolor rgb '#000000' font ',10.5'
set label '1.001 GiB in all; white: nothing' at screen 0.115016,0.078947 left
set palette defined (0 '#f7f4c8', 0.25 '#a1d6b5', 0.5 '#3fa9b8', 0.75 '#2c6aa6', 1 '#17254f')
set logscale cb 2
set cbrange [16:1.07374182e+09]
set cbtics ('16 B' 16 0, '' 32 1, '64 B' 64 0, '' 128 1, '256 B' 256 0, '' 512 1, '1 KiB' 1024 0, '' 2048 1, '4 KiB' 4096 0, '' 8192 1, '16 KiB' 16384 0, '' 32768 1, '64 KiB' 65536 0, '' 131072 1, '256 KiB' 262144 0, '' 524288 1, '1 MiB' 1048576 0, '' 2097152 1, '4 MiB' 4194304 0, '' 8388608 1, '16 MiB' 16777216 0, '' 33554432 1, '64 MiB' 67108864 0, '' 134217728 1, '256 MiB' 268435456 0, '' 536870912 1, '1 GiB' 1.07374182e+09 0)
set colorbox user origin screen 0.808307,0.221053 size screen 0.025559,0.701754 border
set cblabel 'bytes'
plot $m0 using 1:2:($1-0.5):($1+0.5):($2-0.5):($2+0.5):3 with boxxyerror fillstyle solid noborder linecolor palette notitle
unset multiplot
