#!/usr/bin/env bash
# scale.sh: how an expert layer scales on several nodes of this machine. See usage below.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

usage() {
    cat <<'END'
scale.sh [--tiny] [--rate RATE] [OUTDIR]: how an expert layer scales on several nodes of this
machine (scripts/cluster.sh), measured and predicted, in under ten minutes

  --tiny       small sizes, once each, to try the script
  --rate RATE  of each link, 1gbit without

Leaves report.md with tables, the pictures (SVG, PNG) and every figure as JSON in OUTDIR,
build/scale without. Exit status 77 where no cluster is possible.
END
}

wrong() {
    printf 'scale.sh: %s; see scale.sh --help\n' "$*" >&2
    exit 2
}

rate=1gbit
experts=32 topk=4 hidden=1024 inter=704
strong=1024 weak=256 # tokens of all ranks, of each rank
passes=3 iterations=20 rounds=40
link=(--experts 256 --topk 8 --hidden 1024 --inter 32) link_tokens=256
comm=(-b 16K -e 1M -n 10)
tiny=
out=
while [[ $# -gt 0 ]]; do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --tiny)
            tiny=' --tiny'
            experts=16 topk=4 hidden=128 inter=64 strong=64 weak=16 passes=1 iterations=3 rounds=1
            link=(--experts 32 --topk 4 --hidden 128 --inter 32) link_tokens=32
            comm=(-b 4K -e 16K -n 3)
            ;;
        --rate)
            [[ -n ${2:-} ]] || wrong "--rate: expected a rate, as 1gbit"
            rate=$2
            shift
            ;;
        -*) wrong "unknown option '$1'" ;;
        *)
            [[ -z $out ]] || wrong "'$1' is one argument too many"
            out=$1
            ;;
    esac
    shift
done
out=${out:-$root/build/scale}
shape=(--experts "$experts" --topk "$topk" --hidden "$hidden" --inter "$inter")
witan=${WITAN:-$root/build/witan}
name=scale$$
# Nodes and ranks; of one and of two ranks a node.
layouts=("1 1" "2 2" "4 4" "1 2" "2 4" "4 8")
if [[ -n $tiny ]]; then
    layouts=("1 1" "2 4")
fi
slots=$((experts + experts / 4))
begin=$SECONDS

cluster() {
    "$root/scripts/cluster.sh" --name "$name" "$@"
}

# on NODES RANKS WORDS...: the program on a cluster of so many nodes
on() {
    local nodes=$1 ranks=$2
    shift 2
    cluster up "$nodes" "$rate"
    timeout -k 5 180 "$root/scripts/cluster.sh" --name "$name" run -n "$ranks" --bytes \
        "$witan" "$@" 2>"$out/raw/stderr" || {
        cat "$out/raw/stderr" >&2
        die "that failed: witan $*"
    }
}

# hierarchies NODES RANKS: those that differ there
hierarchies() {
    if [[ $1 -gt 1 && $2 -gt $1 ]]; then
        echo flat two-level
    else
        echo flat
    fi
}

# columns FILE NAME...: of each row of a table under a line of names that starts with #
columns() {
    awk -v names="${*:2}" '
        BEGIN { count = split(names, wanted, " ") }
        /^#/ {
            gsub(/[#|]/, " ")
            for (i = 1; i <= NF; i++) place[$i] = i
            next
        }
        NF {
            for (i = 1; i <= count; i++)
                printf "%s%s", $(place[wanted[i]]), i < count ? " " : "\n"
        }' "$1"
}

# cells FILE NAME...: the same of a file of comma-separated values
cells() {
    sed 's/ /_/g; s/,/ /g; 1s/^/# /' "$1" >"$out/raw/cells"
    columns "$out/raw/cells" "${@:2}"
}

load() {
    cut -d ' ' -f 1 /proc/loadavg
}

calibrate() {
    say "calibrate: one rank alone, then 4 ranks on 2 nodes"
    on 2 4 plan calibrate --threads 1 "${shape[@]}" --rounds $rounds \
        --output "$out/machine.json" >"$out/raw/calibrate.txt"
}

# measure: the layer on every layout; passes interleave, so that a disturbance hits them alike. A
# busy machine gets fewer passes.
measure() {
    local pass layout nodes ranks hierarchy
    for ((pass = 1; pass <= passes; pass++)); do
        if ((SECONDS - begin > 200)); then
            passes=$((pass - 1))
            break
        fi
        for layout in "${layouts[@]}"; do
            read -r nodes ranks <<<"$layout"
            for hierarchy in $(hierarchies "$nodes" "$ranks"); do
                say "layer: $ranks ranks on $nodes nodes, $hierarchy, pass $pass of $passes"
                on "$nodes" "$ranks" bench layer --threads 1 "${shape[@]}" -w 2 -n $iterations \
                    --skew uniform --hierarchy "$hierarchy" \
                    --tokens "$((strong / ranks)),$weak" \
                    --json "$out/raw/layer-$nodes-$ranks-$hierarchy-$pass.json" \
                    >"$out/raw/layer-$nodes-$ranks-$hierarchy-$pass.txt"
            done
        done
    done
}

# points: a line for each measured point, the pass with the least time
points() {
    local layout nodes ranks hierarchy kind line
    for layout in "${layouts[@]}"; do
        read -r nodes ranks <<<"$layout"
        for hierarchy in $(hierarchies "$nodes" "$ranks"); do
            for kind in strong weak; do
                line=1
                [[ $kind == strong ]] || line=2
                for file in "$out/raw/layer-$nodes-$ranks-$hierarchy"-*.txt; do
                    columns "$file" tokens min_us p50_us route plan dispatch shared experts \
                        combine reduce imbalance wrong | sed -n ${line}p
                done | sort -g -k 2 | head -n 1 | sed "s/^/$kind $nodes $ranks $hierarchy /"
            done
        done
    done
}

# study RANKS_PER_NODE least|median: points as JSON, for the pictures; 0: of all
study() {
    awk -v per_node="$1" -v which="$2" -v shape="${shape[*]}" -v rate="$rate" '
        BEGIN {
            split(shape, word, " ")
            printf "{\n\"schema\": \"witan.study/1\",\n"
            printf "\"model\": {\"experts\": %d, \"topk\": %d, \"hidden\": %d, \"inter\": %d},\n",
                word[2], word[4], word[6], word[8]
            printf "\"machine\": {\"name\": \"this-host\", \"link\": \"%s\"},\n\"points\": [", rate
        }
        $3 == per_node * $2 || per_node == 0 {
            printf "%s\n{\"scaling\": \"%s\", \"nodes\": %d, \"ranks\": %d, ", comma, $1, $2, $3
            printf "\"tokens_per_rank\": %d, \"mode\": \"ep\", \"hierarchy\": \"%s\", ", $5, $4
            printf "\"combine\": \"exact\", \"chunks\": 1, \"measured\": true, "
            seconds = which == "least" ? $6 : $7
            printf "\"seconds\": %.9f, \"seconds_median\": %.9f, ", seconds / 1e6, $7 / 1e6
            printf "\"phases\": {\"route\": %.9f, \"plan\": %.9f, ", $8 / 1e6, $9 / 1e6
            printf "\"dispatch\": %.9f, \"shared\": %.9f, ", $10 / 1e6, $11 / 1e6
            printf "\"experts\": %.9f, \"combine\": %.9f, \"reduce\": %.9f}, ",
                $12 / 1e6, $13 / 1e6, $14 / 1e6
            printf "\"imbalance\": %s}", $15
            comma = ","
        }
        END { printf "\n]\n}\n" }' "$out/raw/points.txt"
}

# predict: the same points from the calibrated machine
predict() {
    local per_node kind tokens file
    say "predict"
    for per_node in 1 2; do
        for kind in strong weak; do
            tokens=$weak
            [[ $kind == weak ]] || tokens=$((strong / per_node))
            file=plan-$per_node-$kind
            "$witan" plan scale --machine "$out/machine.json" "${shape[@]}" --mode ep --chunks 1 \
                --all --nodes 1,2,4 --ranks-per-node $per_node --tokens "$tokens" \
                --scaling $kind --csv "$out/raw/$file.csv" --json "$out/$file.json" \
                >"$out/raw/$file.txt"
            cells "$out/raw/$file.csv" scaling nodes ranks hierarchy seconds limit
        done
    done >"$out/raw/predicted.txt"
}

# links: what a step sends over the links, by the interfaces' counters: of a run with more
# iterations, less one with fewer, so that the start and the end of the program drop out
links() {
    local hierarchy combine count sent
    for hierarchy in flat two-level; do
        for combine in exact reduced; do
            say "links: 8 ranks on 2 nodes, $hierarchy, $combine"
            sent=()
            for count in 2 6; do
                on 2 8 bench layer --threads 1 "${link[@]}" --tokens $link_tokens -w 1 -n $count \
                    -c 0 --skew uniform --hierarchy "$hierarchy" --combine $combine \
                    >"$out/raw/links.txt"
                sent+=("$(awk '/^[0-9]/ { sum += $2 }
                    END { printf "%.0f", sum }' "$out/raw/stderr")")
            done
            "$witan" plan scale --machine "$out/machine.json" "${link[@]}" --mode ep --chunks 1 \
                --hierarchy "$hierarchy" --combine $combine --nodes 2 --ranks-per-node 4 \
                --tokens $link_tokens --scaling weak --csv "$out/raw/links.csv" >/dev/null
            printf '%s %s %d %s\n' "$hierarchy" $combine $(((sent[1] - sent[0]) / 4)) \
                "$(cells "$out/raw/links.csv" between_bytes)"
        done
    done >"$out/raw/links-table.txt"
}

communicate() {
    local hierarchy
    for hierarchy in flat two-level; do
        say "bench comm: 4 ranks on 2 nodes, $hierarchy"
        on 2 4 bench comm --threads 1 --experts $experts --topk $topk --hidden $hidden \
            "${comm[@]}" --hierarchy "$hierarchy" --json "$out/comm-$hierarchy.json" \
            >"$out/comm-$hierarchy.txt"
    done
    for hierarchy in flat two-level; do
        say "traffic: 8 ranks on 4 nodes, $hierarchy"
        on 4 8 bench comm --threads 1 --experts $experts --topk $topk --hidden $hidden -n 2 -w 1 \
            --tokens $weak --skew zipf:1.2 --hierarchy $hierarchy \
            --traffic "$out/traffic-$hierarchy.json" >"$out/raw/traffic.txt"
    done
}

# place: routing with a zipf load of exponent 1.2, the same tokens with and without replicas
place() {
    local line placed=()
    say "placement: 8 ranks on 4 nodes, zipf 1.2"
    awk -v experts=$experts -v topk=$topk -v tokens=4096 'BEGIN {
        srand(7)
        for (e = 0; e < experts; e++) { order[e] = e }
        for (e = experts - 1; e > 0; e--) {
            o = int(rand() * (e + 1)); t = order[e]; order[e] = order[o]; order[o] = t }
        for (e = 0; e < experts; e++) { sum += (e + 1) ^ -1.2; upto[e] = sum }
        for (t = 0; t < tokens; t++) {
            split("", taken)
            for (k = 0; k < topk; k++) {
                do { x = rand() * sum; for (e = 0; upto[e] < x; e++) { } } while (e in taken)
                taken[e] = 1
                printf "%d%s", order[e], k + 1 < topk ? " " : "\n"
            }
        } }' >"$out/raw/trace.txt"
    awk -v experts=$experts '
        { for (k = 1; k <= NF; k++) load[$k]++ }
        END { for (e = 0; e < experts; e++) printf "%d ", load[e]; print "" }' \
        "$out/raw/trace.txt" >"$out/loads.txt"
    "$witan" plan place --load "$out/loads.txt" --slots $slots --gpus 8 --json "$out/place.json" \
        >"$out/placement.txt"
    for line in contiguous replicas; do
        on 4 8 bench layer --threads 1 "${shape[@]}" -w 2 -n $iterations --tokens $weak \
            --skew "trace:$out/raw/trace.txt" \
            "${placed[@]}" >"$out/raw/place-$line.txt"
        placed=(--placement "$out/placement.txt")
    done
}

roofline() {
    say "experts of one rank"
    "$witan" bench experts --threads 1 "${shape[@]}" --rows 1,4,16,64,256 -n $iterations \
        --json "$out/experts.json" >"$out/experts.txt"
}

# draw PICTURE FILE WORDS...: as SVG and as PNG
draw() {
    local kind
    for kind in svg png; do
        "$witan" plot "$1" --output "$out/$2.$kind" "${@:3}"
    done
}

pictures() {
    local per_node text hierarchy
    if [[ -n $(missing "${packages_test[@]}") ]]; then
        say "no gnuplot: no pictures"
        return
    fi
    say "pictures"
    for per_node in 1 2; do
        text="ranks a node: $per_node, links of $rate"
        draw scaling "scaling-$per_node" --all \
            --title "E $experts, K $topk, H $hidden, I $inter, $text" --input \
            "$out/plan-$per_node-strong.json" "$out/plan-$per_node-weak.json" \
            "$out/study-$per_node.json"
        draw phases "phases-$per_node" --title "$text" --scaling weak \
            --input "$out/raw/medians-$per_node.json"
    done
    draw roofline roofline --input "$out/experts.json"
    for hierarchy in flat two-level; do
        draw traffic "traffic-$hierarchy" --input "$out/traffic-$hierarchy.json"
    done
    draw load load --input "$out/place.json"
}

# shown NAME TEXT: the picture in the report, if it was drawn
shown() {
    if [[ -e $out/$1.svg ]]; then
        printf '\n![%s](%s.svg)\n' "$2" "$1"
    fi
}

fenced() { # FILE
    # shellcheck disable=SC2016 # Markdown
    printf '\n```\n%s\n```\n' "$(cat "$1")"
}

# compared: prediction beside measurement, a row for each point
compared() {
    printf '| scaling | nodes | ranks | tokens of a rank | hierarchy | measured, ms (median) '
    printf '| predicted, ms | error | limit |\n|---|--:|--:|--:|---|--:|--:|--:|---|\n'
    awk '
        NR == FNR { key = $1 " " $2 " " $3 " " $4; seconds[key] = $5; limit[key] = $6; next }
        {
            key = $1 " " $2 " " $3 " " $4
            gsub("_", " ", limit[key])
            printf "| %s | %d | %d | %d | %s | %.2f (%.2f) | %.2f | %+.0f%% | %s |\n", $1, $2, $3,
                $5, $4, $6 / 1e3, $7 / 1e3, seconds[key] * 1e3,
                100 * (seconds[key] * 1e6 / $6 - 1), limit[key]
        }' "$out/raw/predicted.txt" "$out/raw/points.txt"
}

# phases: where the measured time went
phases() {
    printf '| scaling | nodes | ranks | hierarchy | route | plan | dispatch | shared | experts '
    printf '| combine | imbalance |\n|---|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|\n'
    awk '{ printf "| %s | %d | %d | %s", $1, $2, $3, $4
           for (i = 8; i <= 13; i++) printf " | %.3f", $i / 1e3
           printf " | %s |\n", $15 }' "$out/raw/points.txt"
}

report() {
    local wrong hierarchy line
    wrong=$(awk '{ sum += $16 } END { print sum }' "$out/raw/points.txt")
    cat <<END
# An expert layer on several nodes of one machine

\`scripts/scale.sh$tiny\`, $(date -u +%Y-%m-%d), \
$((SECONDS - begin)) s. E $experts, K $topk, H $hidden, I $inter, bf16, one thread a rank, uniform
routing, exact combine, one round; links of $rate in each direction (scripts/cluster.sh). Load of
the machine when it began and ended: $load_before, $(load). Wrong tokens in all measurements: $wrong.

Nodes are network namespaces of one machine with $jobs cores: beyond $jobs ranks, ranks take turns
on the cores, so compute does not scale; what crosses the links does as on real nodes. Predictions are
for a machine that does nothing else: where it does, measured times are longer.

## Time of a layer

Measured is the least of $((passes * iterations)) steps (passes: $passes), of the slowest rank, in
brackets the median of that pass; predicted comes from \`witan plan scale\` with the machine that
\`witan plan calibrate\` measured on one rank alone and on 4 ranks on 2 nodes (machine.json). Strong
scaling: $strong tokens in all; weak: $weak on each rank.

$(compared)
$(shown scaling-1 "time by ranks, one rank a node")
$(shown scaling-2 "time by ranks, two ranks a node")

Phases as measured, ms, medians, means over ranks (the line in the pictures is the median step of
the slowest rank):

$(phases)
$(shown phases-1 "phases, one rank a node")
$(shown phases-2 "phases, two ranks a node")

## What crosses the links

2 nodes with 4 ranks each, ${link[*]}, $link_tokens tokens on each rank: bytes that a step sends
over both links together, by the counters of the interfaces (with the headers of TCP), and what the
model says that its rows take.

| hierarchy | combine | counted | predicted |
|---|---|--:|--:|
$(awk '{ printf "| %s | %s | %d | %d |\n", $1, $2, $3, $4 }' "$out/raw/links-table.txt")

Source by destination, 8 ranks on 4 nodes, zipf 1.2 (traffic-flat.json, traffic-two-level.json):
$(shown traffic-flat "bytes by source and destination, flat")
$(shown traffic-two-level "bytes by source and destination, two-level")

## Dispatch and combine alone

4 ranks on 2 nodes, beside MPI_Alltoallv of the same rows.
$(for hierarchy in flat two-level; do fenced "$out/comm-$hierarchy.txt"; done)

## Placement

Routing by zipf 1.2, 8 ranks on 4 nodes, $weak tokens on each; replicas: $slots slots for $experts
experts, placed by \`witan plan place\` from the loads of the same tokens.

| experts | imbalance | least, ms | median, ms |
|---|--:|--:|--:|
$(for line in contiguous replicas; do
        columns "$out/raw/place-$line.txt" imbalance min_us p50_us |
            awk -v line=$line '{
                printf "| %s | %s | %.2f | %.2f |\n", line, $1, $2 / 1e3, $3 / 1e3 }'
    done)
$(shown load "load of the ranks before and after")

## The machine
$(shown roofline "experts of one rank under the roofline")
$(fenced "$out/machine.txt")
$(fenced "$out/raw/calibrate.txt")
END
}

[[ -x $witan ]] || die "$witan is not there; scripts/build.sh makes it"
mkdir -p "$out/raw"
out=$(cd "$out" && pwd)
# Of an earlier run: all layers that are there count, and pictures may not be drawn again.
rm -f "$out"/raw/layer-* "$out"/{scaling,phases,traffic,roofline,load}{,-*}.{svg,png}
trap 'cluster down' EXIT
load_before=$(load)
cluster up 2 "$rate" # or refuse now
"$witan" info | sed '/^environment/,$d' >"$out/machine.txt"
calibrate
measure
points >"$out/raw/points.txt"
study 0 least >"$out/study.json"
for per_node in 1 2; do
    study $per_node least >"$out/study-$per_node.json"
    study $per_node median >"$out/raw/medians-$per_node.json"
done
predict
links
communicate
place
roofline
pictures
report >"$out/report.md"
say "$out/report.md, $((SECONDS - begin)) s"
