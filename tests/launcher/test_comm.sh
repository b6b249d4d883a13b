#!/bin/bash
# shellcheck source-path=SCRIPTDIR source=lib.sh
# bench comm: columns, files, what is refused, and that wrong values are seen.
# $2: the library that corrupts messages
. "$(dirname "$0")/lib.sh"
corrupt=$2

# Each rank a node of its own: all that is sent is sent as messages.
export WITAN_RANKS_PER_NODE=1

shape=(--experts 7 --topk 3 --hidden 40 -n 3 -w 1)

# rows N: lines of figures, each of them with as many columns as there are names
rows() {
    local names
    names=$(grep 'imbalance' "$work/stdout" | tail -n 1 | wc -w)
    [ "$(grep -vc '^#' "$work/stdout")" -eq "$1" ] || wrong "rows: $(cat "$work/stdout")"
    [ "$(grep -v '^#' "$work/stdout" | awk -v n="$names" 'NF != n - 1' | wc -l)" -eq 0 ] ||
        wrong "columns: $(cat "$work/stdout")"
}

# Sizes: 80 bytes a row, so 1K is 12 tokens, and 4K 51.
works 3 bench comm "${shape[@]}" -b 1K -e 4095 -f 2 -c 2 --json "$work/c.json" --csv "$work/c.csv" \
    --traffic "$work/t.json"
rows 2
[ "$(grep -v '^#' "$work/stdout" | awk '{ print $1, $2 }' | tr '\n' ' ')" = "960 12 2000 25 " ] ||
    wrong "sizes: $(cat "$work/stdout")"
[ "$(grep -v '^#' "$work/stdout" | awk '$NF != 0' | wc -l)" -eq 0 ] || wrong "#wrong"
# The formulas: a token counts once for each of its ranks, a row once for each expert.
awk -F, '
NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
function near(a, b) { return a > 0.999 * b && a < 1.001 * b }
function bytes(what) { return $at[what "_gbps"] * 1e3 }
{
    bad += $at["size_bytes"] != 80 * $at["tokens"] || $at["checked"] != 6 * $at["tokens"]
    bad += $at["wrong"] != 0 || $at["imbalance"] < 1
    bad += $at["ranks_per_token"] < 1 || $at["ranks_per_token"] > 3
    bad += !near(bytes("dispatch_logical") * $at["dispatch_p50_us"],
                 $at["size_bytes"] * $at["ranks_per_token"])
    bad += !near(bytes("combine_logical") * $at["combine_p50_us"], 3 * $at["size_bytes"])
    for (name in at) {
        if (name ~ /_wire_gbps/) bad += $at[name] <= 0
        if (name ~ /_p50_us/) bad += $at[name] <= 0
    }
    bad += !near($at["dispatch_ratio"] * $at["dispatch_p50_us"], $at["dispatch_a2av_p50_us"])
    bad += $at["dispatch_between_gbps"] != $at["dispatch_wire_gbps"]
    bad += $at["hierarchy"] != "flat"
    lines++
}
END { exit bad || lines != 2 }' "$work/c.csv" || wrong "CSV: $(cat "$work/c.csv")"
for text in '"schema": "witan.bench.comm/1"' '"ranks": 3' '"nodes": 3' '"skew": "uniform"' \
    '"tokens": 25' '"hierarchy": "flat"' '"logical_bytes": [0-9]' '"between_bytes": [1-9]' '"alltoallv": {' '"ratio": [0-9]' \
    '"checked": 150' '"wrong": 0'; do
    grep -q "$text" "$work/c.json" || wrong "JSON: no $text in $(cat "$work/c.json")"
done
[ "$(tail -n 2 "$work/c.json" | head -n 1)" = "  ]" ] || wrong "results are not last"
grep -q '"schema": "witan.traffic/1"' "$work/t.json" || wrong "traffic: $(cat "$work/t.json")"
[ "$(grep -cE '^ +0,?$' "$work/t.json")" -eq 6 ] || wrong "traffic to oneself: $(cat "$work/t.json")"
[ "$(grep -cE '^ +[0-9]+,?$' "$work/t.json")" -eq 18 ] || wrong "traffic: $(cat "$work/t.json")"
# Sizes of less than a token are one token; those of the same number of tokens are one line.
works 0 bench comm "${shape[@]}" -b 1 -e 200 -f 2
rows 1
works 0 bench comm "${shape[@]}" -b 10 -e 400 -f 2
[ "$(grep -v '^#' "$work/stdout" | awk '{ print $1, $2 }' | tr '\n' ' ')" = "80 1 160 2 320 4 " ] ||
    wrong "small sizes: $(cat "$work/stdout")"
works 0 bench comm "${shape[@]}" --tokens 0,5
rows 2
grep -v '^#' "$work/stdout" | awk '$8 != "-" || $9 != "-" { exit 1 }' ||
    wrong "alone: $(cat "$work/stdout")"
for skew in zipf:1.2 hot:6 balanced; do
    works 0 bench comm "${shape[@]}" --tokens 9 --skew "$skew"
    rows 1
done
works 2 bench comm "${shape[@]}" --tokens 9 --skew zero-rank --combine reduced --dtype f16
works 4 bench comm "${shape[@]}" --tokens 9 --ep 2 --chunks 3 --dtype f32
# Two of three ranks on a node: between nodes travels less than leaves the rank.
WITAN_RANKS_PER_NODE=2 works 3 bench comm "${shape[@]}" --tokens 9 --hierarchy two-level --csv "$work/n.csv"
awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
{ exit !($at["hierarchy"] == "two-level" && $at["dispatch_between_gbps"] > 0) }' "$work/n.csv" ||
    wrong "two-level: $(cat "$work/n.csv")"
printf '0 1 2\n6 -1 -1\n' >"$work/ids"
works 0 bench comm "${shape[@]}" --tokens 4 --skew "trace:$work/ids"
rows 1
# As many tokens as experts: exactly equal.
works 2 bench comm --experts 6 --topk 3 --hidden 40 -n 1 --tokens 6 --skew balanced
[ "$(grep -v '^#' "$work/stdout" | awk '{ print $(NF - 3) }')" = 1.000 ] || wrong "balanced"

# Usage
fails 0 2 "--begin: expected bytes from 1 to" bench comm -b 3X
fails 0 2 "--begin: expected at most --end 1024, found 2048" bench comm -b 2K -e 1K
fails 0 2 "--end: expected at least the 80 bytes of a token, found 79" bench comm "${shape[@]}" -b 1 -e 79
fails 0 2 "--begin contradicts --tokens" bench comm -b 2K --tokens 1
fails 0 2 "--skew: expected uniform" bench comm --skew zipf
fails 0 2 "--backend: expected auto or host" bench comm --backend cuda
fails 0 2 "--tp: expected expert parallelism only" bench comm --tp 2
fails 0 2 "--topk: expected at most --experts 4, found 5" bench comm --experts 4 --topk 5
fails 0 2 "name the same file" bench comm --json "$work/same" --csv "$work/same"
fails 0 2 "name the same file" bench comm --skew "trace:$work/ids" --csv "$work/ids"
fails 0 1 "ids:1: expected 8 integers" bench comm --skew "trace:$work/ids"
fails 0 2 "--skew hot:64: expected an expert from 0 to 63" bench comm --skew hot:64
fails 2 2 "--budget-rows: expected" bench comm --budget-rows 1

# Bytes changed on their way out (2: tokens) or back (3: rows) are wrong tokens.
for tag in 2 3; do
    ASAN_OPTIONS=${ASAN_OPTIONS:-}:verify_asan_link_order=0:detect_leaks=0 timeout -k 5 60 mpirun \
        --oversubscribe --bind-to none -x LD_PRELOAD="$corrupt" -x WITAN_TEST_TAG=$tag -n 2 \
        "$program" bench comm "${shape[@]}" --tokens 9 >"$work/stdout" 2>"$work/stderr"
    status=$?
    [ $status -eq 1 ] || wrong "corrupted, tag $tag: exit $status"
    one_line "corrupted, tag $tag" "tokens are wrong"
    grep -v '^#' "$work/stdout" | awk '$NF == 0 { exit 1 }' || wrong "tag $tag: $(cat "$work/stdout")"
done
finish
