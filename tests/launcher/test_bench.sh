#!/bin/bash
# shellcheck source-path=SCRIPTDIR source=lib.sh
# Benchmarks: tables, JSON and exit status, on shapes that take no time.
. "$(dirname "$0")/lib.sh"

# key FILE TEXT: the JSON has it
key() {
    grep -q "$2" "$1" || wrong "$1: expected $2 in: $(cat "$1")"
}

works 0 bench experts --experts 3 --hidden 64 --inter 32 --rows 1,5 -n 5 -w 1 -c 3 \
    --json "$work/e.json"
[ "$(grep -vc '^#' "$work/stdout")" -eq 2 ] || wrong "bench experts: $(cat "$work/stdout")"
[ "$(grep -c '#wrong' "$work/stdout")" -ge 1 ] || wrong "bench experts: no header"
key "$work/e.json" '"schema": "witan.bench.experts/1"'
key "$work/e.json" '"rows_per_expert": 5'
key "$work/e.json" '"gflops": [0-9]'
key "$work/e.json" '"fraction_of_roof": [0-9]'
key "$work/e.json" '"fraction_of_peak": [0-9]'
key "$work/e.json" '"iterations": 5'
key "$work/e.json" '"warmup": 1'
! grep -q "$(hostname)" "$work/e.json" || wrong "the JSON names the host"
for dtype in f32 f16; do
    works 0 bench experts --experts 2 --hidden 40 --inter 24 --rows 3 --dtype $dtype -n 2
done
works 0 bench experts --experts 2 --hidden 40 --inter 24 --rows 3 -n 1 -w 0 --executor masked

works 3 bench layer --experts 7 --topk 3 --hidden 64 --inter 32 --tokens 0,1,9 -n 4 -w 1 \
    --json "$work/l.json"
[ "$(grep -vc '^#' "$work/stdout")" -eq 3 ] || wrong "bench layer: $(cat "$work/stdout")"
key "$work/l.json" '"schema": "witan.bench.layer/1"'
key "$work/l.json" '"tokens": 9'
key "$work/l.json" '"ranks": 3'
keys() { # FILE: its outer keys that both have, in order
    sed -nE 's/^  "(schema|version|machine|shape|iterations|warmup|threads|backend|kernel_tier|results)".*/\1/p' "$1"
}
[ "$(keys "$work/e.json" | wc -l)" -eq 10 ] || wrong "keys: $(keys "$work/e.json")"
[ "$(keys "$work/e.json")" = "$(keys "$work/l.json")" ] ||
    wrong "order of keys: $(keys "$work/e.json") and $(keys "$work/l.json")"
[ "$(tail -n 2 "$work/e.json" | head -n 1)" = "  ]" ] || wrong "results are not last"
# More memory than there can be says what is out of.
fails 0 1 "out of memory" bench experts --experts 2 --hidden 2000000000 --inter 2000000000 --rows 1
works 4 bench layer --experts 4 --topk 2 --hidden 64 --inter 32 --tokens 5 -n 2 --ep 2 --tp 2
works 0 synth --preset qwen2-57b-a14b --scale tiny --tokens 1 --out "$work/model"
works 2 bench layer --model "$work/model" --layer 0 --tokens 3 -n 2 --skew zero-rank --json "$work/s.json"
key "$work/s.json" '"skew": "zero-rank"'
fails 0 2 "--skew: expected uniform" bench layer --skew hot
works 0 bench experts --model "$work/model" --layer 0 --rows 2 -n 2
works 3 bench rebalance --experts 7 --topk 2 --hidden 64 --inter 32 --tokens 90 -n 2 -w 1 \
    --skew hot:3 --step-bytes 4096 --commit-every 2 --json "$work/r.json"
[ "$(grep -vc '^#' "$work/stdout")" -eq 3 ] || wrong "bench rebalance: $(cat "$work/stdout")"
key "$work/r.json" '"schema": "witan.bench.rebalance/1"'
key "$work/r.json" '"slots": 9'
imbalance() { sed -nE "s/^ +$1 +.* ([0-9.]+) +[0-9.]+ +0$/\1/p" "$work/stdout"; }
awk "BEGIN { exit !($(imbalance after) < $(imbalance before)) }" ||
    wrong "bench rebalance: $(cat "$work/stdout")"
grep -q ' 3 ranks (.* x 1 thread, ' "$work/stdout" || wrong "one of each: $(head -1 "$work/stdout")"
fails 2 2 "--slots: expected 0 or at least the 7 experts, found 6" bench rebalance --experts 7 \
    --slots 6 --hidden 64 --inter 32
fails 0 2 "--budget-rows: expected" bench rebalance --budget-rows 1 --hidden 64 --inter 32
fails 2 2 "--skew hot:7: expected an expert from 0 to 6" bench layer --experts 7 --skew hot:7 \
    --hidden 64 --inter 32
finish
