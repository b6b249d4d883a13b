#!/usr/bin/env bash
# shellcheck disable=SC2154 # lib.sh sets program, work and fixtures
# witan plan scale: words, outputs, faults.
# shellcheck source=tests/launcher/lib.sh
. "$(dirname "$0")/../launcher/lib.sh"

plan() { timeout 60 "$program" plan scale "$@"; }

# refused STATUS TEXT WORDS...: that exit status, and one line that says so.
refused() {
    local want=$1 text=$2 line status
    shift 2
    line=$(plan "$@" 2>&1)
    status=$?
    [ "$status" -eq "$want" ] || wrong "$*: exit status $status, expected $want"
    case "$line" in *"$text"*) ;; *) wrong "$*: '$line' without '$text'" ;; esac
    [ "$(printf '%s\n' "$line" | wc -l)" -eq 1 ] || wrong "$*: more than one line"
}

plan --machine h200-ib --experts 64 --topk 4 --nodes 1..4 --tokens 256 --json "$work/s.json" \
    --csv "$work/s.csv" >"$work/s.txt" || wrong "plan scale failed"
[ "$(grep -v '^#' "$work/s.txt" | grep -c ' best$')" -eq 6 ] || wrong "expected six best points"
grep -q '"schema": "witan.plan.scale/1"' "$work/s.json" || wrong "schema"
[ "$(grep -c '"best": true' "$work/s.json")" -eq 6 ] || wrong "six best points in JSON"
[ "$(head -1 "$work/s.csv" | tr , '\n' | wc -l)" -eq \
  "$(sed -n 2p "$work/s.csv" | tr , '\n' | wc -l)" ] || wrong "CSV columns"

# A model's own shape; weak scaling only, one mode, skewed.
plan --machine h100-ib --model "$fixtures/mixtral_f32" --nodes 2 --tokens 64 --scaling weak \
    --mode ep --skew zipf:1.2 >"$work/m.txt" || wrong "plan scale --model failed"
[ "$(grep -vc '^#' "$work/m.txt")" -eq 1 ] || wrong "one point for one mode"

# Simulated, with a straggler.
plan --machine h200-ib --experts 64 --topk 4 --nodes 2 --mode ep --scaling weak --tokens 256 \
    --simulate --slow-rank 3 --slow-factor 3 >"$work/x.txt" || wrong "plan scale --simulate"
grep -q simulated "$work/x.txt" || wrong "no simulated column"

# Two levels asked for where a group has one: said once, in the table and with the point.
flat() { # TEXT WORDS...
    local text=$1
    shift
    plan --machine h200-ib --experts 64 --topk 4 --tokens 256 --scaling weak --hierarchy two-level \
        --json "$work/f.json" "$@" >"$work/f.txt" || wrong "two-level $*"
    [ "$(grep -c "^# two-level asked for, but flat .*: $text" "$work/f.txt")" -eq 1 ] ||
        wrong "two-level $*: $(cat "$work/f.txt")"
    grep -q "\"flat_because\": \"$text" "$work/f.json" || wrong "two-level $*: JSON"
}
flat "it lies inside one node"    --nodes 1 --mode ep
flat "its rank exchanges with no" --nodes 1,2 --mode ep1xtp8
flat "each of its ranks is on a"  --nodes 2 --mode ep2xtp8
flat "its ranks do not fill its"  --nodes 3 --mode ep12xtp1
plan --machine h200-ib --experts 64 --topk 4 --nodes 2 --mode ep --hierarchy two-level >"$work/f.txt"
! grep -q 'asked for' "$work/f.txt" || wrong "two levels there: $(cat "$work/f.txt")"
[ "$(grep -c ' not built$' "$work/f.txt")" -eq 2 ] || wrong "not built: $(cat "$work/f.txt")"
grep -q '^# kind .* memory state$' "$work/f.txt" || wrong "the last column has no name"

# One of each is one.
plan --machine h200-ib --ranks-per-node 1 --nodes 2 --scaling weak | grep -q '(1 rank and 1 NIC a node)' ||
    wrong "one rank and one NIC"

plan --published | grep -q 'UCCL-EP' || wrong "--published"
refused 2 "--nodes contradicts --published"    --published --nodes 2
refused 2 "--machine contradicts --published"  --machine h200-ib --published
refused 2 "--json contradicts --published"     --published --json "$work/p.json"

refused 2 "--machine: expected"                --nodes 1
refused 2 "--nodes: expected a list"           --machine h200-ib --nodes 4..1
refused 2 "--nodes: expected a list"           --machine h200-ib --nodes 5000
refused 2 "--mode: expected auto"              --machine h200-ib --mode ep4
refused 2 "--slow-factor: expected"            --machine h200-ib --slow-factor nan --simulate
refused 2 "--congestion: expected"             --machine h200-ib --congestion 1 --simulate
refused 2 "beside --simulate"                  --machine h200-ib --slow-rank 1
refused 2 "--skew"                             --machine h200-ib --skew zipfy
refused 2 "of 8200 ranks; expected at most 8192, for all its pairs are counted" \
    --machine h200-ib --nodes 1025 --mode ep
refused 1 "no-such: expected a machine file"   --machine no-such --nodes 1
refused 2 "--topk: expected at most"           --machine h200-ib --experts 2 --topk 3
refused 2 "--experts contradicts --model"      --machine h200-ib --experts 2 --model x
refused 2 "divides"                            --machine h200-ib --nodes 1 --mode ep3xtp1
refused 2 "divides the 8 ranks of 1 node"      --machine h200-ib --nodes 1 --mode ep3xtp2
refused 2 "--slow-rank: expected below the 8 ranks, found 99" \
    --machine h200-ib --nodes 1 --mode ep --simulate --slow-rank 99
sed 's/"step_s": 80e-6/"step_s": -1/' "$fixtures/../../share/machines/h200-ib.json" >"$work/bad.json"
refused 1 "bad.json: step_s: expected a number from 0, found -1" --machine "$work/bad.json"
sed 's/"expert_efficiency": \[0.70, /"expert_efficiency": [/' \
    "$fixtures/../../share/machines/h200-ib.json" >"$work/bad.json"
refused 1 "expert_efficiency: expected 9 numbers, as many as expert_rows has, found 8" \
    --machine "$work/bad.json"
sed 's/"expert_rows": \[.*\]/"expert_rows": []/' "$fixtures/../../share/machines/h200-ib.json" \
    >"$work/bad.json"
refused 1 "expert_rows: expected 1 to 24 numbers, found 0" --machine "$work/bad.json"
finish
