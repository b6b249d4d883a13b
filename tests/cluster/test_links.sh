#!/usr/bin/env bash
# test_links.sh SEND: what ranks send each other on a node is in memory; between nodes it is on
# their links, and each direction of each link is limited. Times are only bounded from below, which
# holds on a busy machine too.
# shellcheck source=tests/cluster/lib.sh
source "$(dirname "$0")/lib.sh"
send=$1

# sent WORDS...: run, and keep the seconds it says and the table of bytes
sent() {
    cluster run --bytes "$@" >"$work/out" 2>"$work/table" || wrong "$*: exit $?"
    seconds=$(awk '/^seconds/ { print $2 }' "$work/out")
}

column() { # NODE COLUMN
    awk -v node="$1" -v column="$2" '$1 == node { print $column }' "$work/table"
}

million=1000000
up 2
sent -n 4 "$send" inside $((8 * million))
equal "nodes as MPI sees them" "$(grep '^rank' "$work/out" | sort)" \
    "rank 0 on witan-$name-0 with 2
rank 1 on witan-$name-0 with 2
rank 2 on witan-$name-1 with 2
rank 3 on witan-$name-1 with 2"
for node in 0 1; do
    for direction in 2 3; do # columns: sent, received
        below "bytes on the link, inside" "$(column $node $direction)" 200000
    done
done
sent -n 4 "$send" between $((8 * million))
for node in 0 1; do
    for direction in 2 3; do
        above "bytes on the link, between" "$(column $node $direction)" $((16 * million))
        below "bytes on the link, between" "$(column $node $direction)" $((17 * million))
    done
done

# 12.5 million bytes a second. Of 6 million a bucket of 131072 goes at once, at either end.
up 3 100mbit
sent "$send" gather $((3 * million))
above "seconds into one link" "$seconds" 0.42
sent "$send" scatter $((3 * million))
above "seconds out of one link" "$seconds" 0.42
above "bytes out of one link" "$(cluster bytes | awk '$1 == 0 { print $2 }')" $((6 * million))
finish
