#!/usr/bin/env bash
# test_check.sh PROGRAM: two nodes with two ranks each compute what one rank computes, bit for bit.
# shellcheck source=tests/cluster/lib.sh
source "$(dirname "$0")/lib.sh"
program=$1
fixtures=$(cd "$(dirname "$0")/../fixtures" && pwd)

up 2 1gbit
for hierarchy in flat two-level; do
    cluster run -n 4 "$program" check --model "$fixtures/mixtral_f32" --layer 1 \
        --hierarchy $hierarchy >"$work/out" || wrong "check, $hierarchy: exit $?"
    grep -q 'ranks:one_rank bits .* equal .* ok$' "$work/out" || wrong "$(cat "$work/out")"
done
cluster run -n 4 "$program" info >"$work/out" || wrong "info: exit $?"
equal "nodes" "$(awk '/^node / { print $2 }' "$work/out" | tr '\n' ' ')" \
    "witan-$name-0 witan-$name-1 "
equal "ranks of nodes" \
    "$(awk '$1 ~ /^[0-9]/ && $2 ~ /^witan-/ { print $1, $3 }' "$work/out" | tr '\n' ' ')" \
    "0 0/2 1 1/2 2 0/2 3 1/2 "
finish
