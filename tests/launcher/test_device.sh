#!/bin/bash
# shellcheck source-path=SCRIPTDIR source=lib.sh
# The cuda backend, emulated: the same bits for every number of ranks, exchange and split; tensor
# groups both ways; what cannot be is refused.
. "$(dirname "$0")/lib.sh"
export OMP_WAIT_POLICY=passive WTN_EMULATOR_PROTECT=0

works 0 info
grep -q '^  device 0 .*capability 9.0' "$work/stdout" || wrong "info: $(cat "$work/stdout")"
grep -q '^  sm_90a *available' "$work/stdout" || wrong "info: $(cat "$work/stdout")"

works 0 synth --preset deepseek-v3 --scale tiny --tokens 37 --out "$work/model"
layer=$(sed -n 's/.*, layer \([0-9]*\):.*/\1/p' "$work/stdout")
model="--model $work/model --layer $layer"
input="--input $work/model/input.safetensors --backend cuda"

# transport N: what carries tokens between so many ranks by $exchange
transport() {
    case $1,${exchange:-exact} in
        0,*) echo self ;;
        *,direct) echo direct ;;
        *) echo nccl ;;
    esac
}

# compute N NAME WORDS...: $exchange is what the words say
compute() {
    local ranks=$1 name=$2
    shift 2
    # shellcheck disable=SC2086
    works "$ranks" run $model $input --output "$work/$name" --routing-out "$work/$name.routing" "$@"
    grep -q ", cuda sm_90a, exchange ${exchange:-exact}, transport $(transport "$ranks")," \
        "$work/stdout" || wrong "$name: $(cat "$work/stdout")"
}

alike() { # NAME: the bits of the first run
    same "$work/first" "$work/$1"
    same "$work/first.routing" "$work/$1.routing"
}

compute 0 first
for exchange in exact padded direct; do
    for ranks in 2 4; do
        compute $ranks $exchange$ranks --exchange $exchange && alike $exchange$ranks
    done
    compute 3 "${exchange}3" --exchange $exchange --budget-tokens 3 --tokens-per-step 6 --stats &&
        alike "${exchange}3"
done
exchange=exact compute 4 data --ep 2 && alike data
exchange=padded compute 3 reduced --exchange padded --combine reduced
exchange=exact

# Tensor groups: twice the same bits.
for way in allreduce scatter; do
    compute 4 $way --ep 2 --tp 2 --tensor-exchange $way
    compute 4 ${way}_again --ep 2 --tp 2 --tensor-exchange $way
    same "$work/$way" "$work/${way}_again"
done

# Against one rank and float64.
for words in "" "--exchange padded --combine reduced" "--exchange direct" \
    "--mode tp" "--mode tp --tensor-exchange scatter"; do
    # shellcheck disable=SC2086
    works 2 check $model --backend cuda --tokens 21 $words
    case $words in *padded*) exchange=padded ;; *direct*) exchange=direct ;; *) exchange=exact ;; esac
    grep -q "^# check: .*, cuda sm_90a, exchange $exchange, transport $(transport 2)$" \
        "$work/stdout" || wrong "check $words: $(head -1 "$work/stdout")"
done
for preset in mixtral-8x7b qwen2-57b-a14b gpt-oss-120b; do
    works 0 synth --preset $preset --scale tiny --tokens 5 --out "$work/$preset"
    layer=$(sed -n 's/.*, layer \([0-9]*\):.*/\1/p' "$work/stdout")
    for tier in cublas sm_80 sm_90a; do
        works 2 check --model "$work/$preset" --layer "$layer" --tokens 11 --backend cuda \
            --kernel-tier $tier --exchange padded
    done
done

# The benchmarks run, and what they compute is right.
works 2 bench layer --backend cuda --experts 8 --topk 2 --hidden 64 --inter 32 --tokens 0,5 -n 2 -w 1 \
    --exchange direct --json "$work/l.json"
[ "$(grep -vc '^#' "$work/stdout")" -eq 2 ] || wrong "bench layer: $(cat "$work/stdout")"
[ "$(grep -c 'cuda sm_90a, 2 ranks .*, exchange direct, transport direct, 2 iter' "$work/stdout")" \
    -eq 1 ] || wrong "bench layer: $(cat "$work/stdout")"
grep -q '^# device: .*, capability 9.0, 8 multiprocessors' "$work/stdout" ||
    wrong "bench layer: $(cat "$work/stdout")"
for field in '"exchange": "direct"' '"transport": "direct"' '"device": ".*multiprocessors'; do
    grep -q "$field" "$work/l.json" || wrong "bench layer: JSON without $field"
done
works 2 bench layer --experts 8 --topk 2 --hidden 64 --inter 32 --tokens 5 -n 1 -w 0 \
    --json "$work/l.json"
for field in '"exchange": null' '"transport": "mpi"' '"device": null'; do
    grep -q "$field" "$work/l.json" || wrong "bench layer on the host: JSON without $field"
done
works 0 bench experts --backend cuda --experts 4 --topk 2 --hidden 64 --inter 32 --rows 3 -n 2 -w 1 \
    --json "$work/e.json"
grep -q '^# device: .*, capability 9.0' "$work/stdout" || wrong "bench experts: no device"
grep -q '"device": ".*capability 9.0' "$work/e.json" || wrong "bench experts: JSON without device"

# Replays of a captured call compute the same, and say so.
works 0 bench experts --backend cuda --experts 4 --topk 2 --hidden 64 --inter 32 --rows 3 -n 2 -w 1 \
    --graph --json "$work/e.json"
for words in "0 --exchange auto" "2 --exchange padded" "2 --exchange direct --skew uniform"; do
    # shellcheck disable=SC2086
    works ${words%% *} bench layer --backend cuda --experts 8 --topk 2 --hidden 64 --inter 32 \
        --tokens 0,5 -n 3 -w 1 --graph --json "$work/l.json" ${words#* }
    for what in experts layer; do
        grep -q '"graph": true' "$work/${what:0:1}.json" || wrong "bench $what: JSON without graph"
    done
    [ "$(grep -c 'times: replays' "$work/stdout")" -eq 1 ] || wrong "graph: $(cat "$work/stdout")"
    ! grep -q phases_us "$work/l.json" || wrong "phases of a captured step: $(cat "$work/l.json")"
done
fails 2 1 'exact exchange waits for its counts' bench layer --backend cuda --experts 4 --hidden 64 \
    --inter 32 --tokens 5 -n 1 --exchange exact --graph
fails 0 1 'cublas waits for the device' bench experts --backend cuda --experts 4 --hidden 64 \
    --inter 32 --rows 2 -n 1 --kernel-tier cublas --graph

# What cannot be.
# silent: what was refused was refused before any output
silent() {
    [ ! -s "$work/stdout" ] || wrong "output before the refusal: $(cat "$work/stdout")"
}
for what in experts layer; do
    fails 0 2 "--graph: expected --backend cuda, found 'host'" bench $what --backend host \
        --experts 2 --hidden 64 --inter 32 -n 1 --graph
    silent
done
for words in "--exchange padded" "--tensor-exchange scatter" "--sm-reserved 4"; do
    # shellcheck disable=SC2086
    fails 2 2 "${words% *}: expected --backend cuda, found 'host'" run $model --backend host $words \
        --input "$work/model/input.safetensors" --output "$work/out"
    # shellcheck disable=SC2086
    fails 0 2 "${words% *}: expected --backend cuda, found 'auto'" check $model $words
    # shellcheck disable=SC2086
    fails 0 2 "${words% *}: expected --backend cuda, found 'auto'" bench layer --experts 2 \
        --hidden 64 --inter 32 -n 1 $words
    silent
done
# shellcheck disable=SC2086
works 0 check $model --tokens 2 --exchange auto --tensor-exchange allreduce --sm-reserved 0 --device -1
# What the folding and the device do not have.
for words in "--tensor-exchange scatter: expected --tp of at least 2, found 1" \
    "--sm-reserved 8: expected less than the device's 8 multiprocessors, found 8"; do
    given=${words%%:*}
    # shellcheck disable=SC2086
    fails 2 2 "${given/ 8/}: ${words#*: }" run $model $input $given --output "$work/out"
    # shellcheck disable=SC2086
    fails 0 2 "${given/ 8/}: ${words#*: }" bench layer --backend cuda --experts 2 --hidden 64 \
        --inter 32 -n 1 $given
    silent
done
fails 0 1 'device: expected -1 to 7, found 9' bench experts --backend cuda --experts 2 --hidden 64 \
    --inter 32 --rows 2 -n 1 --device 9
# shellcheck disable=SC2086
fails 0 2 "--kernel-tier sm_90a: expected --backend cuda, found 'auto'" check $model \
    --kernel-tier sm_90a
# shellcheck disable=SC2086
fails 0 2 "--kernel-tier avx2: expected --backend host, found 'cuda'" check $model --backend cuda \
    --kernel-tier avx2
# shellcheck disable=SC2086
WTN_EMULATOR_DEVICES=0 fails 0 2 "expected one of auto, cublas, sm_80, sm_90a, found 'nope'" \
    check $model --backend cuda --kernel-tier nope
for what in 'bench comm' 'bench rebalance' 'plan calibrate'; do
    output=
    [ "$what" != 'plan calibrate' ] || output="--output $work/out"
    # shellcheck disable=SC2086
    fails 0 2 "--backend: expected auto or host, as " $what --backend cuda $output
    silent
    # shellcheck disable=SC2086
    works 0 $what --help
    ! grep -E 'cuda|device|exchange|reserved|sm_90a' "$work/stdout" ||
        wrong "$what --help: options of another backend"
done
# shellcheck disable=SC2086
fails 0 1 'device: expected -1 to 7, found 9' run $model $input --device 9 --output "$work/out"
# shellcheck disable=SC2086
fails 2 1 'expected a GPU for each rank, found ranks 0 and 1' run $model $input --device 1 --output "$work/out"
# shellcheck disable=SC2086
WTN_EMULATOR_DEVICES=0 fails 0 1 'backend cuda: not available' run $model $input \
    --output "$work/out"
# shellcheck disable=SC2086
WTN_EMULATOR_NCCL=stall:3@1 fails 3 1 'not done within 3 s' run $model $input --timeout 3 \
    --output "$work/out"
finish
