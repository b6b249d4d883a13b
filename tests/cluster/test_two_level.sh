#!/usr/bin/env bash
# test_two_level.sh PROGRAM: what crosses the links, by the counters of their interfaces. 2 nodes of
# 4 ranks, E 256, K 8: in two levels a token and its sum cross once, flat once for each rank.
# shellcheck source=tests/cluster/lib.sh
source "$(dirname "$0")/lib.sh"
program=$1
tokens=64 hidden=2048

# crossed HIERARCHY STEPS: bytes that both links carried in so many steps, and in starting
crossed() {
    cluster run -n 8 --bytes "$program" bench layer --experts 256 --topk 8 --hidden $hidden \
        --inter 8 --tokens $tokens --skew uniform -w 0 -c 0 -n "$2" --combine reduced \
        --hierarchy "$1" >"$work/out" 2>"$work/bytes" || {
        echo "WRONG: $1, $2 steps: exit $?"
        cat "$work/out" "$work/bytes"
    } >&2
    awk '/^[01] / { sum += $2 } END { printf "%d", sum }' "$work/bytes"
}

# a_step HIERARCHY: bytes of one step
a_step() {
    local few many
    few=$(crossed "$1" 5)
    many=$(crossed "$1" 25)
    echo $(((many - few) / 20))
}

up 2
two_level=$(a_step two-level)
flat=$(a_step flat)
# Chance that none of a token's 8 experts is on the other node, and that none is on one of its ranks.
least=$(awk -v t=$tokens -v h=$hidden 'BEGIN {
    miss = one = 1
    for (i = 0; i < 8; i++) { miss *= (128 - i) / (256 - i); one *= (224 - i) / (256 - i) }
    printf "%d %d", 8 * t * (1 - miss) * 2 * h * 2, 8 * t * 4 * (1 - one) * 2 * h * 2
}')
# The tokens drawn may hit the other node a little less often than by chance.
above "two-level, bytes of a step" "$two_level" "$(awk '{ print 0.99 * $1 }' <<<"$least")"
below "two-level, bytes of a step" "$two_level" "$(awk '{ print 1.05 * $1 }' <<<"$least")"
above "flat, bytes of a step" "$flat" "$(awk '{ print 0.97 * $2 }' <<<"$least")"
finish
