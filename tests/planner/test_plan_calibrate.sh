#!/usr/bin/env bash
# shellcheck disable=SC2154 # lib.sh sets program, work and fixtures
# witan plan calibrate: a machine file that plan scale takes; faults.
# shellcheck source=tests/launcher/lib.sh
. "$(dirname "$0")/../launcher/lib.sh"

small=(--experts 4 --topk 2 --hidden 64 --inter 32 --rounds 1 --threads 1)

mpi -n 3 "$program" plan calibrate "${small[@]}" --output "$work/m.json" >"$work/out" 2>"$work/err" ||
    wrong "calibrate failed: $(cat "$work/err")"
grep -q 'inside .* GB/s' "$work/out" || wrong "no link in the output"
"$program" plan scale --machine "$work/m.json" --nodes 1,2 --tokens 64 >"$work/scale" ||
    wrong "plan scale does not take what calibrate wrote"
grep -q 'on this-host (3 ranks' "$work/scale" || wrong "not the machine that was measured"

# One rank has no link: the base's are kept.
"$program" plan calibrate "${small[@]}" --output "$work/n.json" --base "$work/m.json" \
    --name one >/dev/null || wrong "calibrate --base failed"
[ "$(grep -A 5 '"between"' "$work/n.json")" = "$(grep -A 5 '"between"' "$work/m.json")" ] ||
    wrong "--base: other links"
line=$("$program" plan calibrate "${small[@]}" --output "$work/o.json" 2>&1) &&
    wrong "one rank without --base is accepted"
case "$line" in *"at least 2 ranks"*) ;; *) wrong "one rank: '$line'" ;; esac

# refused TEXT WORDS...: wrong usage, and no file
refused() {
    local text=$1 status
    shift
    line=$("$program" plan calibrate "${small[@]}" --output "$work/o.json" "$@" 2>&1)
    status=$?
    [ "$status" -eq 2 ] || wrong "$*: exit status $status"
    case "$line" in *"$text"*) ;; *) wrong "$*: '$line' without '$text'" ;; esac
    [ ! -e "$work/o.json" ] || wrong "$*: a file in spite of the failure"
}
refused "--base: expected a machine of the host backend, found h200-ib of cuda" --base h200-ib
small[3]=5
refused "--topk: expected at most --experts 4, found 5" --base "$work/m.json"
[ ! -e "$work/o.json" ] || wrong "a file in spite of the failure"
finish
