#!/bin/bash
# shellcheck source-path=SCRIPTDIR source=lib.sh
# Wrong usage: exit status 2 and one line, alone and on several ranks.
. "$(dirname "$0")/lib.sh"

works 0 --help
works 0 --version
grep -q '^witan [0-9]' "$work/stdout" || wrong "--version: $(cat "$work/stdout")"
for command in run check info 'bench experts' 'bench layer'; do
    # shellcheck disable=SC2086
    works 0 $command --help
    grep -q "^usage: witan $command" "$work/stdout" || wrong "$command --help"
done
works 2 run --help
[ "$(grep -c '^usage' "$work/stdout")" -eq 1 ] || wrong "--help on 2 ranks: printed twice"

files="--model $work --input $work/x --output $work/out"
fails 0 2 "a command"
fails 0 2 "'frob'" frob
fails 2 2 "'frob'" frob
fails 0 2 "'--frob'" run --frob
fails 0 2 "'-z'" run -z
fails 0 2 "unexpected argument 'word'" run word
# shellcheck disable=SC2086
{
    fails 0 2 "--layer N is missing" run $files
    fails 0 2 "--layer: expected an integer from 0" run $files --layer one
    fails 0 2 "found '1e3'" run $files --layer 1e3
    fails 0 2 "found ' 1'" run $files --layer " 1"
    fails 0 2 "found '0x1'" run $files --layer 0x1
    fails 0 2 "found '-1'" run $files --layer -1
    fails 0 2 "found '99999999999999999999'" run $files --layer 99999999999999999999
    fails 0 2 "--layer: expected N, found nothing" run $files --layer
    fails 0 2 "--layer: given twice" run $files --layer 0 --layer 1
    fails 0 2 "--mode: expected ep|tp, found 'pp'" run $files --layer 0 --mode pp
    fails 0 2 "--stats: expected no value" run $files --layer 0 --stats=1
    fails 0 2 "--timeout: expected seconds" run $files --layer 0 --timeout soon
    fails 0 2 "found 'nan'" run $files --layer 0 --timeout nan
    fails 0 2 "--tokens-per-step" run $files --layer 0 --tokens-per-step 0
    fails 0 2 "name the same file" run $files --layer 0 --routing-out "$work/out"
    fails 0 2 "found 1 rank" run $files --layer 0 --tp 2
    fails 3 2 "found 3 ranks" run $files --layer 0 --ep 2
    fails 2 2 "--mode tp contradicts" run $files --layer 0 --mode tp --ep 2 --tp 1
    fails 3 2 "--layer: expected an integer" run $files --layer x
}
fails 0 2 "--model: expected DIR, found nothing" run --model ""
fails 0 2 "--model and --layer" bench layer --model "$work"
fails 0 2 "--topk contradicts --model" bench layer --model "$work" --layer 0 --topk 2
fails 0 2 "--topk: expected at most --experts 2" bench layer --experts 2 --topk 3
fails 0 2 "found '1,,2'" bench experts --rows 1,,2
fails 0 2 "found '0'" bench experts --rows 0
fails 0 2 "experts, layer or rebalance" bench
fails 2 2 "expected one rank, found 2" bench experts
fails 0 2 "--input contradicts" check --model "$work" --layer 0 --input x --tokens 3
WITAN_TIMEOUT=soon fails 0 2 "WITAN_TIMEOUT" check --model "$work" --layer 0
WITAN_TIMEOUT=soon fails 2 2 "WITAN_TIMEOUT" check --model "$work" --layer 0
WITAN_KERNEL_TIER=bad fails 0 2 "WITAN_KERNEL_TIER: expected one of auto, scalar" \
    check --model "$work" --layer 0
WITAN_NUM_THREADS=many fails 0 2 "WITAN_NUM_THREADS" check --model "$work" --layer 0
fails 0 1 "no-such-dir" check --model "$work/no-such-dir" --layer 0
if ! "$program" info | grep -q '^  cuda *available'; then
    fails 0 1 "backend cuda: not available: " check --model "$work" --layer 0 --backend cuda
fi
fails 2 2 "expected" check --model "$work" --layer 0 --backend metal
fails 0 2 "--device: expected --backend cuda, found 'auto'" check --model "$work" --layer 0 --device 0
fails 2 2 "--share-device: expected --backend cuda, found 'host'" \
    check --model "$work" --layer 0 --backend host --share-device
fails 0 2 "expected" check --model "$work" --layer 0 --kernel-tier sse2

# A launcher that witan's MPI does not know: every process would be alone in its world.
ASAN_OPTIONS=detect_leaks=0 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_RANK=0 \
    fails 0 1 "OMPI_COMM_WORLD_SIZE says 4 ranks" info

# Ranks called differently.
differently() { # TEXT STATUS WORDS_0 -- WORDS_1
    local text=$1 expected=$2 status
    shift 2
    local first=() second=()
    while [ "$1" != -- ]; do first+=("$1"); shift; done
    shift
    second=("$@")
    mpi -n 1 "$program" "${first[@]}" : -n 1 "$program" "${second[@]}" \
        >"$work/stdout" 2>"$work/stderr"
    status=$?
    [ "$status" -eq "$expected" ] || wrong "'$*': exit $status: $(cat "$work/stderr")"
    one_line "${first[*]} and ${second[*]}" "$text"
}
differently "layer: 0 on rank 0, 1 on rank 1" 1 \
    check --model "$work" --layer 0 -- check --model "$work" --layer 1
differently "'--frob'" 2 check --model "$work" --layer 0 -- check --frob
differently "command: check on rank 0, info on rank 1" 1 check --model "$work" --layer 0 -- info
finish
