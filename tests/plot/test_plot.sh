#!/bin/bash
# shellcheck source-path=SCRIPTDIR source=../launcher/lib.sh
# witan plot without gnuplot: scripts, wrong inputs, wrong usage, and a gnuplot that does not do.
. "$(dirname "$0")/../launcher/lib.sh"
here=$(cd "$(dirname "$0")" && pwd)

# script NAME PICTURE WORDS...: the script of these words is the recorded one
script() {
    local name=$1
    shift
    works 0 plot "$@" --output "$work/$name.gp"
    diff "$here/$name.gp" "$work/$name.gp" || wrong "$name.gp differs from the recorded one"
}
script scaling scaling --input "$here/scale.json" "$here/study.json" --title "a title"
script phases phases --input "$here/scale.json" --input "$here/study.json" --scaling weak
script roofline roofline --input "$here/experts.json" --label "the experts"
script traffic traffic --input "$here/traffic.json"
script load load --input "$here/place.json"

# holds NAME TEXT: the script says so
holds() {
    grep -qF -- "$2" "$work/$1.gp" || wrong "$1.gp: expected '$2' in: $(cat "$work/$1.gp")"
}
draws() { # NAME WORDS...
    local name=$1
    shift
    works 0 plot "$@" --output "$work/$name.gp"
}
draws tokens scaling --input "$here/study.json" --metric tokens
holds tokens '1 124878.049'
holds tokens 'tokens per second'
draws all scaling --input "$here/scale.json" --all
holds all 'predicted for machine of the test, ep, flat, exact'

draws only scaling --input "$here/scale.json" --only flat
[ "$(grep -c '^[$]s' "$work/only.gp")" -eq 4 ] || wrong "only.gp: $(cat "$work/only.gp")"

# Measured files of one number of ranks each are one line.
for ranks in 1 2; do
    printf '{"schema": "witan.bench.layer/1", "ranks": %s, "tensor_parallel": 1, "results":
        [{"tokens": 8, "p50_us": %s00, "phases_us": {"experts": 50}}]}' $ranks $ranks \
        >"$work/layer$ranks.json"
done
draws layers scaling --input "$work/layer1.json" "$work/layer2.json"
holds layers $'$s0 << EOD\n1 0.0001\n2 0.0002\nEOD'

printf '{"schema": "witan.traffic/1", "ranks": 1, "bytes": [[3]], "combine_bytes": [[4]]}' \
    >"$work/both.json"
draws both traffic --input "$work/both.json"
holds both "'both.json: dispatch'"
holds both "'both.json: combine'"

# ---- strings ----

# Quotes, commands, markup, line ends, control characters and broken UTF-8 in labels, titles and
# names of files: all of it is within single quotes and in one line, its own quotes are apostrophes.
nasty=$'\'it\'s "so" `touch '"$work"$'/pwned` @x $y {a}_b \\ \n\r\x01\x7f\xff\xed\xa0\x80 \xe2\x80\xae\xc3\xa9'
cp "$here/experts.json" "$work/$(printf '%s' "$nasty" | tr / _).json"
draws nasty roofline --input "$here/experts.json" "$work/$(printf '%s' "$nasty" | tr / _).json" --label "$nasty" --title "$nasty"
holds nasty "'’it’s \"so\" \`touch $(printf '%.4s' "$work")"
[ "$(LC_ALL=C grep -c $'[\x01-\x08\x0b-\x1f\x7f\xff]' "$work/nasty.gp")" -eq 0 ] ||
    wrong "nasty.gp: control characters"
[ "$(grep -c "so" "$work/nasty.gp")" -eq 3 ] || wrong "nasty.gp: lines: $(cat "$work/nasty.gp")"
! sed "s/'[^']*'//g" "$work/nasty.gp" | grep -n "['\"\`]" || wrong "nasty.gp: outside of quotes"

# ---- wrong inputs ----

# bad PICTURE TEXT JSON: exit status 1, the line names the file and has TEXT, and nothing is left
bad() {
    printf '%s' "$3" >"$work/bad.json"
    fails 0 1 "bad.json: $2" plot "$1" --input "$work/bad.json" --output "$work/out.gp"
}
plan='{"schema": "witan.plan.scale/1", "points": ['
point='"ranks": 2, "tokens_per_rank": 4, "seconds": 1'
bad scaling "line 1, column 0" ''
bad scaling "line 1, column" '{"schema": "witan'
bad scaling "schema: expected a value, found nothing" '{}'
bad scaling "the whole: expected an object, found an array of 0" '[]'
bad scaling "schema: expected a string, found 3" '{"schema": 3}'
bad scaling "schema: expected witan.plan.scale/1 or witan.study/1 or witan.bench.layer/1, found 'x" \
    '{"schema": "x\ny"}'
bad traffic "schema: expected witan.traffic/1, found 'witan.study/1'" '{"schema": "witan.study/1"}'
bad scaling "points: expected a value" '{"schema": "witan.study/1"}'
bad scaling "points: expected an array of 0 to 100000, found an object" \
    '{"schema": "witan.study/1", "points": {}}'
bad scaling "expected points, found none" "$plan]}"
bad scaling "points[0]: expected an object, found 1" "${plan}1]}"
bad scaling "points[1].ranks: expected an integer from 1 to" "$plan{$point}, {\"ranks\": 0}]}"
bad scaling "points[0].ranks: expected an integer from 1 to 1099511627776, found 2.5" \
    "$plan{\"ranks\": 2.5}]}"
bad scaling "points[0].seconds: expected a value, found nothing" \
    "$plan{\"ranks\": 2, \"tokens_per_rank\": 4}]}"
bad scaling "points[0].seconds: expected a number from 1e-12 to 1e+12, found 0" \
    "$plan{\"ranks\": 2, \"tokens_per_rank\": 4, \"seconds\": 0}]}"
bad scaling "points[0].scaling: expected strong or weak, found 'steep'" \
    "$plan{$point, \"scaling\": \"steep\"}]}"
bad scaling "points[0].best: expected true or false, found 1" "$plan{$point, \"best\": 1}]}"
bad scaling "points[0].mode: expected a string, found 1" "$plan{$point, \"mode\": 1}]}"
bad phases "the point of 2 ranks: expected phases, found none" "$plan{$point}]}"
bad phases "points[0].phases: expected an object, found 3" "$plan{$point, \"phases\": 3}]}"
bad phases "points[0].phases.plan: expected a number from 0 to 1e+12, found -1" \
    "$plan{$point, \"phases\": {\"plan\": -1}}]}"
bad phases "points[0].phases.a b: expected a number" "$plan{$point, \"phases\": {\"a\\nb\": []}}]}"
bad phases "points[0].phases: expected at most 16 phases" "$plan{$point, \"phases\":
    {$(printf '"p%s": 1,' {1..16}) \"p17\": 1}}]}"
bad roofline "results: expected an array of 1 to 1024, found an array of 0" \
    '{"schema": "witan.bench.experts/1", "results": []}'
bad roofline "results[0].peak_gflops: expected a number from 1e-06 to 1e+12, found 0" \
    '{"schema": "witan.bench.experts/1", "results": [{"peak_gflops": 0}]}'
bad traffic "ranks: expected an integer from 1 to 4096, found 0" \
    '{"schema": "witan.traffic/1", "ranks": 0}'
bad traffic "bytes: expected an array of 2, found an array of 1" \
    '{"schema": "witan.traffic/1", "ranks": 2, "bytes": [[1, 2]]}'
bad traffic "bytes[1]: expected an array of 2, found an array of 1" \
    '{"schema": "witan.traffic/1", "ranks": 2, "bytes": [[1, 2], [3]]}'
bad traffic "bytes[1][0]: expected a number from 0 to 1e+18, found -3" \
    '{"schema": "witan.traffic/1", "ranks": 2, "bytes": [[1, 2], [-3, 4]]}'
bad load "layers[0].rank_load_after: expected an array of 2, found an array of 1" \
    '{"schema": "witan.plan.place/1", "layers": [{"rank_load_before": [1, 2],
      "rank_load_after": [3]}]}'
bad load "layers[0].rank_load_before[1]: expected a number from 0 to 1e+18, found 'x'" \
    '{"schema": "witan.plan.place/1", "layers": [{"rank_load_before": [1, "x"]}]}'

out=(--output "$work/out.gp")
study=(--input "$here/study.json")
fails 0 1 "missing.json: cannot be opened" plot load --input "$work/missing.json" "${out[@]}"
fails 0 1 "a folder" plot load --input "$work" "${out[@]}"
fails 0 1 "no/such.gp: cannot be created" plot scaling "${study[@]}" --output "$work/no/such.gp"
fails 0 1 "expected layer 7" plot load --input "$here/place.json" --layer 7 "${out[@]}"
fails 0 1 "scaling, tokens and modes asked for, found none" plot scaling "${study[@]}" --tokens 5 \
    "${out[@]}"

# ---- wrong usage ----

fails 0 2 "expected scaling, phases, roofline, traffic or load, found ''" plot
fails 0 2 "expected scaling, phases, roofline, traffic or load, found 'pie'" plot pie
fails 0 2 "--input FILE... is missing" plot scaling "${out[@]}"
fails 0 2 "--output FILE is missing" plot scaling "${study[@]}"
fails 0 2 "--output: expected a name that ends in .svg, .png or .gp, found '$work/out.pdf'" \
    plot scaling "${study[@]}" --output "$work/out.pdf"
fails 0 2 "--label: expected at most one for each --input, found 2 for 1" \
    plot scaling "${study[@]}" --label a b "${out[@]}"
fails 0 2 "unknown option '--layer'" plot scaling "${study[@]}" --layer 1 "${out[@]}"
cp "$here/study.json" "$work/same.gp"
fails 0 2 "--input and --output name the same file" plot scaling --input "$work/same.gp" \
    --output "$work/./same.gp"
works 0 plot --help
works 0 plot scaling --help
grep -q -- '--metric seconds|tokens' "$work/stdout" || wrong "help: $(cat "$work/stdout")"
! grep -q -- '--layer' "$work/stdout" || wrong "help of scaling tells of --layer"

# ---- a gnuplot that is missing or does not do ----

# gnuplot TEXT BODY: exit status 1, one line with TEXT and no file where gnuplot is BODY
gnuplot() {
    mkdir -p "$work/bin"
    rm -f "$work/bin/gnuplot"
    if [ -n "$2" ]; then
        printf '#!/bin/sh\n%s\n' "$2" >"$work/bin/gnuplot"
        chmod +x "$work/bin/gnuplot"
    fi
    timeout -k 5 20 env PATH="$work/bin" "$program" plot scaling "${study[@]}" \
        --output "$work/out.svg" >"$work/stdout" 2>"$work/stderr"
    [ $? -eq 1 ] || wrong "gnuplot '$2': exit status"
    one_line "gnuplot '$2'" "$1"
    no_output "gnuplot '$2'"
}
gnuplot "expected gnuplot in PATH, found none (Debian: gnuplot-nox)" ''
gnuplot 'exit status 3, 0 bytes of a picture: line 7: what is that' \
    'echo "plot x" >&2; echo "     ^" >&2; echo "  line 7: what is that" >&2; exit 3'
gnuplot 'exit status 0, 0 bytes of a picture: no word why' 'exit 0'
gnuplot 'exit status 0, 6 bytes of a picture' 'echo "<svg>"'
chmod -x "$work/bin/gnuplot"
[ "$(id -u)" -eq 0 ] || gnuplot 'cannot be started' 'exit 0'

# What it writes is the file, and neither an old one nor a link is lost before it is whole.
# shellcheck disable=SC2016
printf '#!/bin/sh\nprintf "%%s" "<svg>$(/bin/cat | /usr/bin/wc -l | /usr/bin/tr -d " ")</svg>"\n' \
    >"$work/bin/gnuplot"
chmod +x "$work/bin/gnuplot"
works 0 plot scaling "${study[@]}" --output "$work/study.gp"
echo old >"$work/old.svg"
ln -s old.svg "$work/link.svg"
PATH=$work/bin:$PATH works 0 plot scaling "${study[@]}" --output "$work/link.svg"
[ "$(cat "$work/old.svg")" = "<svg>$(grep -vc '^#' "$work/study.gp")</svg>" ] ||
    wrong "link.svg: $(cat "$work/old.svg")"
[ -L "$work/link.svg" ] || wrong "link.svg is no link any more"

# No room for the script: the line says so, and the old file stays. A program built for coverage
# complains of the limit too.
cp "$work/study.gp" "$work/before.gp"
grep -q '\.gcda' "$program" || (
    ulimit -f 1
    fails 0 1 "study.gp: cannot be written: File too large" \
        plot load --input "$here/place.json" --output "$work/study.gp"
    exit "$failed"
) || failed=1
same "$work/study.gp" "$work/before.gp"
! compgen -G "$work/*.tmp" >/dev/null || wrong "left $(ls "$work"/*.tmp)"
finish
