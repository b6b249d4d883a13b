#!/bin/bash
# shellcheck source-path=SCRIPTDIR source=../launcher/lib.sh
# witan plot with gnuplot: pictures are whole and well-formed, and no word of a user is a command.
. "$(dirname "$0")/../launcher/lib.sh"
here=$(cd "$(dirname "$0")" && pwd)

command -v gnuplot >/dev/null || { echo "no gnuplot here"; exit 77; }

# well_formed FILE: of what there is to look at XML with
well_formed() {
    if command -v xmllint >/dev/null; then
        xmllint --noout "$1" || wrong "$1 is not well-formed"
    elif command -v python3 >/dev/null; then
        python3 -c 'import sys, xml.dom.minidom as d; d.parse(sys.argv[1])' "$1" ||
            wrong "$1 is not well-formed"
    fi
}

# draw NAME WORDS...: as SVG
draw() {
    local name=$1
    shift
    works 0 plot "$@" --output "$work/$name.svg"
    [ ! -s "$work/stdout" ] || wrong "$name.svg: $(cat "$work/stdout")"
    well_formed "$work/$name.svg"
}

# both NAME WORDS...: and as PNG
both() {
    draw "$@"
    local name=$1
    shift
    works 0 plot "$@" --output "$work/$name.png"
    [ "$(head -c 4 "$work/$name.png" | tail -c 3)" = PNG ] || wrong "$name.png is none"
}
both scaling scaling --input "$here/scale.json" "$here/study.json" --title "a title"
grep -q '>Strong scaling: 1000 tokens in all<' "$work/scaling.svg" || wrong "scaling.svg: no title"
grep -q '>500 µs<' "$work/scaling.svg" || wrong "scaling.svg: no ticks"
draw all scaling --input "$here/scale.json" --all --metric tokens
for bars in seconds percent rank-seconds; do
    draw $bars phases --input "$here/scale.json" "$here/study.json" --bars $bars
done
both roofline roofline --input "$here/experts.json"
both traffic traffic --input "$here/traffic.json" "$here/traffic.json"
both load load --input "$here/place.json" "$here/place.json" --layer 3

# No traffic at all, one rank, and more ranks than cells have room for.
printf '{"schema": "witan.traffic/1", "ranks": 1, "bytes": [[0]]}' >"$work/one.json"
draw one traffic --input "$work/one.json"
{
    row=$(printf '%s,' {1..299})0
    printf '{"schema": "witan.traffic/1", "ranks": 300, "bytes": [[%s]' "$row"
    for _ in {1..299}; do
        printf ',[%s]' "$row"
    done
    printf ']}'
} >"$work/many.json"
draw many traffic --input "$work/many.json"
grep -q '>a cell: 2 x 2 ranks, summed<' "$work/many.svg" || wrong "many.svg: no word of cells"
# Phases that took no time, at one number of ranks.
printf '{"schema": "witan.study/1", "points": [{"ranks": 5, "tokens_per_rank": 0, "seconds": 1e-12,
    "phases": {"plan": 0}}]}' >"$work/zero.json"
for bars in seconds percent; do
    draw zero phases --input "$work/zero.json" --bars $bars
done
draw zero scaling --input "$work/zero.json"

touch="touch $work/pwned"
# shellcheck disable=SC2016 # those are not to be expanded
name='`touch pwned`.json'
nasty="'it's \"x\" \`$touch\` \$(id) @x <b>&amp; {/*9 y}_z^2 \\\\ %s"$'\n'"!$touch"$'\n'"'; system('$touch'); '"
# shellcheck disable=SC2016
printf '{"schema": "witan.plan.scale/1", "machine": {"name": "%s"}, "points": [
    {"ranks": 2, "tokens_per_rank": 4, "seconds": 1, "mode": "%s",
     "phases": {"`%s`": 1, "'"'"'!%s": 1}}]}' "\`$touch\`\\n!$touch" "';!$touch" "id" "id" \
    >"$work/nasty.json"
(
    cd "$work" || exit 1
    cp nasty.json "$name"
    both nasty phases --input nasty.json "$name" --title "$nasty"
    draw nasty scaling --input nasty.json "$name" --title "$nasty" --all
    draw nasty roofline --input "$here/experts.json" --label "$nasty"
    exit "$failed"
) || failed=1
[ ! -e "$work/pwned" ] || wrong "a word of the user was a command"
grep -qF "’it’s \"x\" \`touch" "$work/nasty.svg" || wrong "nasty.svg: $(grep "it's" "$work/nasty.svg")"
finish
