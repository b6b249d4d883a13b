#!/usr/bin/env bash
# plan_check.sh: is the planner to be believed? See usage below.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

usage() {
    cat <<'END'
plan_check.sh [--rate RATE] [--tokens N] [--passes N] [--folder DIR]

Calibrate on a namespace cluster (scripts/cluster.sh) of 4 ranks on 2 nodes, measure a layer on 1 to 8
ranks over 1, 2 and 4 nodes, and print beside each what witan plan scale says of it. RATE
(1gbit) limits the links. The least time of --passes passes (3) counts: on a machine that others use
take more. DIR keeps the files; layers measured there before count too, and a machine.json is used.
Exit status 1 where a prediction is off by more than 20%, 77 where no cluster can be made.
END
}

rate=1gbit tokens=256 passes=3 folder=
while [[ $# -gt 0 ]]; do
    case $1 in
    --help | -h)
        usage
        exit
        ;;
    --rate | --tokens | --passes | --folder)
        [[ $# -gt 1 ]] || die "$1: expected a word; see plan_check.sh --help"
        declare "${1#--}=$2"
        shift 2
        ;;
    *) die "unknown word '$1'; see plan_check.sh --help" ;;
    esac
done
witan=${WITAN:-$root/build/witan}
[[ -x $witan ]] || die "$witan: not found; scripts/build.sh builds it"
if [[ -z $folder ]]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
fi
mkdir -p "$folder"
export WITAN_CLUSTER=${WITAN_CLUSTER:-plancheck}

shape=(--experts 16 --topk 4 --hidden 1024 --inter 704)
points=(1:1 1:2 1:4 1:8 2:2 2:4 4:4 4:8) # nodes:ranks

cluster() {
    timeout 300 "$root/scripts/cluster.sh" "$@"
}

calibrate() {
    [[ ! -e $folder/machine.json ]] || return 0
    cluster up 2 "$rate" >&2
    cluster run -n 4 "$witan" plan calibrate "${shape[@]}" --threads 1 --rounds 60 \
        --output "$folder/machine.json" >&2
}

measure() {
    local point nodes ranks
    for point in "${points[@]}"; do
        nodes=${point%:*} ranks=${point#*:}
        cluster up "$nodes" "$rate" >&2
        # Else a rank that looks for messages between two tiles gives its core away each time.
        cluster run -n "$ranks" --mca mpi_yield_when_idle 0 -- "$witan" bench layer "${shape[@]}" \
            --tokens "$tokens" --threads 1 --hierarchy flat --check 0 -w 2 -n 30 |
            grep -v '^#' >>"$folder/layer.$tokens.$nodes.$ranks"
    done
}

# predict NODES RANKS: microseconds.
predict() {
    "$witan" plan scale --machine "$folder/machine.json" "${shape[@]}" --tokens "$tokens" \
        --nodes "$1" --ranks-per-node $(($2 / $1)) --mode ep --hierarchy flat --chunks 1 \
        --scaling weak | awk '!/^#/ { print $8 }'
}

calibrate
for ((pass = 0; pass < passes; pass++)); do
    say "pass $((pass + 1)) of $passes"
    measure
done
cluster down >&2

printf '# tokens of a rank %s, links %s; times in us, the least of all passes\n' "$tokens" "$rate"
printf '# %5s %5s %12s %12s %8s\n' nodes ranks measured predicted error
off=0
for point in "${points[@]}"; do
    nodes=${point%:*} ranks=${point#*:}
    measured=$(awk 'NR == 1 || $2 < least { least = $2 } END { print least }' \
        "$folder/layer.$tokens.$nodes.$ranks")
    awk -v nodes="$nodes" -v ranks="$ranks" -v measured="$measured" \
        -v predicted="$(predict "$nodes" "$ranks")" 'BEGIN {
            error = predicted / measured - 1
            printf "  %5d %5d %12.1f %12.1f %7.1f%%\n", nodes, ranks, measured, predicted, 100 * error
            exit error > 0.2 || error < -0.2
        }' || off=1
done
exit $off
