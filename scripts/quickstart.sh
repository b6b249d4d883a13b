#!/usr/bin/env bash
# quickstart.sh [PRESET]: install what is missing, build, make one block of a model with random
# weights, run it on 4 ranks in both modes, check each result, and print a table. PRESET as in
# `witan synth --help`.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

preset=${1:-qwen3-30b-a3b}
ranks=4
tokens=512

need --install "${packages_build[@]}"
say "build"
"$root/scripts/build.sh"

cd "$root"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
block=$folder/block

# Print a command as the user would type it, then run it and keep what it prints.
try() { # LOG COMMAND...
    local log=$folder/$1.log
    shift
    printf '$ %s\n' "${*//$folder/\$TMP}" >&2
    "$@" >"$log" || { cat "$log" >&2; die "that failed"; }
}

# stats NAME: seconds, tokens/s, most weights of a rank in MiB, most KiB a rank sent.
stats() {
    awk '
        / tokens, .* s$/ { seconds = $(NF - 1) }
        / tokens\/s / { rate = $2 }
        /^# rank / { ranks = 1; next }
        /^#/ { ranks = 0 }
        ranks { if ($3 > weights) weights = $3; if ($7 > sent) sent = $7 }
        END { printf "%8.3f %9.0f %11.1f %9.0f", seconds, rate, weights / 1048576, sent / 1024 }
    ' "$folder/$1.log"
}

# found NAME COMPARISON: what `witan check` found.
found() {
    awk -v name="$2" '$1 " " $2 == name { print $3 }' "$folder/$1.log"
}

say "$preset at scale small, $ranks ranks"
model=(--model "$block" --input "$block/input.safetensors")
try synth build/witan synth --preset "$preset" --scale small --tokens "$tokens" --out "$block"
layer=$(sed -n 's/.* layer \([0-9]*\):.*/\1/p' "$folder/synth.log")
model+=(--layer "$layer")
try run1 build/witan run "${model[@]}" --output "$folder/1.safetensors" --stats
try check1 build/witan check "${model[@]}"
for mode in ep tp; do
    try "run$mode" mpirun --oversubscribe -n $ranks build/witan run "${model[@]}" \
        --output "$folder/$mode.safetensors" --mode $mode --stats
    try "check$mode" mpirun --oversubscribe -n $ranks build/witan check "${model[@]}" --mode $mode
done

printf '\n%s; %d tokens; %s\n\n' "$(head -n 1 "$folder/synth.log" | sed 's/^[^:]*: //')" \
    "$tokens" "$(sed -n 's/.*), \([a-z]* [a-z0-9_]*\), .*/\1/p' "$folder/run1.log")"
printf '%-16s %5s %8s %9s %11s %9s  %-13s %s\n' \
    mode ranks seconds tokens/s 'MiB/rank' 'KiB/rank' 'as one rank' 'error against float64'
row() { # TITLE RANKS NAME
    local bits=$4
    printf '%-16s %5d %s  %-13s %s (limit %s)\n' "$1" "$2" "$(stats "run$3")" "$bits" \
        "$(found "check$3" 'ranks:float64 norm')" \
        "$(awk '$1 == "ranks:float64" { print $5 }' "$folder/check$3.log")"
}
same() { # NAME: are the bits of its output those of one rank?
    if cmp -s "$folder/1.safetensors" "$folder/$1.safetensors"; then
        echo "same bits"
    else
        echo "rounding"
    fi
}
row 'one rank' 1 1 '-'
row 'expert parallel' $ranks ep "$(same ep)"
row 'tensor parallel' $ranks tp "$(same tp)"
cat <<END

MiB/rank: weights held by a rank. KiB/rank: what a rank sent to others; tokens and rows of one
node are read in shared memory.
same bits: the output file equals that of one rank, byte for byte, as expert parallelism promises;
tensor parallelism sums in another order, so it differs by rounding.
$ranks ranks share the $jobs cores of this machine: seconds show that it works, not how it scales.
END
