#!/bin/bash
# shellcheck source-path=SCRIPTDIR source=lib.sh
# Good runs: the same bits for every number of ranks and every split; check agrees.
. "$(dirname "$0")/lib.sh"

works 0 synth --preset qwen3-30b-a3b --scale tiny --tokens 67 --out "$work/model"
layer=$(sed -n 's/.*, layer \([0-9]*\):.*/\1/p' "$work/stdout")
model="--model $work/model --layer $layer --input $work/model/input.safetensors"

# compute N NAME WORDS...
compute() {
    local ranks=$1 name=$2
    shift 2
    # shellcheck disable=SC2086
    works "$ranks" run $model --output "$work/$name" --routing-out "$work/$name.routing" "$@"
    [ "$(wc -l <"$work/stdout")" -ge 1 ] || wrong "$name: no summary"
    rm -f "$work/last" && ln "$work/$name" "$work/last"
}

alike() { # the run before gave the bits of the first
    same "$work/first" "$work/last"
    same "$work/first.routing" "$1.routing"
}

compute 0 first
compute 1 one && alike "$work/one"
for ranks in 2 3 4 5 8; do
    compute $ranks "ep$ranks" && alike "$work/ep$ranks"
done
compute 3 steps --tokens-per-step 4 && alike "$work/steps"
compute 2 single --tokens-per-step 1 && alike "$work/single"
compute 4 chunks --chunks 3 && alike "$work/chunks"
compute 3 budget --budget-tokens 2 --budget-rows 16 && alike "$work/budget"
compute 2 contiguous --executor contiguous && alike "$work/contiguous"
compute 4 data --ep 2 && alike "$work/data"
compute 2 threads --threads 3 && alike "$work/threads"

# Twice the same: the bits of a layout do not vary from run to run.
compute 4 tp --mode tp
compute 4 tp_again --mode tp
same "$work/tp" "$work/tp_again"
compute 4 folded --ep 2 --tp 2 --stats
grep -q '# tokens per expert: min' "$work/stdout" || wrong "--stats: $(cat "$work/stdout")"
topk=$(sed -n 's/.*"num_experts_per_tok": *\([0-9]*\).*/\1/p' "$work/model/config.json")
sum=$(sed -n '/tokens per expert/,$s/^ *[0-9]*://p' "$work/stdout" | tr -s ' ' '\n' | paste -sd+)
[ "$((${sum#+}))" -eq $((67 * topk)) ] || wrong "tokens per expert: $(cat "$work/stdout")"
grep -q '# imbalance' "$work/stdout" || wrong "--stats: $(cat "$work/stdout")"
grep -q 'ep 2, tp 2, dp 1' "$work/stdout" || wrong "summary: $(cat "$work/stdout")"

# An output that is there already is replaced.
echo old >"$work/ep2"
compute 2 ep2 && alike "$work/ep2"

# No tokens at all.
works 0 synth --preset olmoe-1b-7b --scale tiny --tokens 0 --out "$work/none"
works 3 run --model "$work/none" --layer 0 --input "$work/none/input.safetensors" \
    --output "$work/nothing" --routing-out "$work/nothing.routing"
grep -q '^0 tokens' "$work/stdout" || wrong "no tokens: $(cat "$work/stdout")"

# One token on eight ranks.
works 8 check --model "$work/model" --layer "$layer" --tokens 1
grep -q 'check: 1 token, .* 8 ranks' "$work/stdout" || wrong "one token: $(cat "$work/stdout")"
works 0 check --model "$work/model" --layer "$layer"
grep -q 'check: 64 tokens, .* 1 rank (' "$work/stdout" || wrong "one rank: $(cat "$work/stdout")"
for preset in mixtral-8x7b qwen2-57b-a14b deepseek-v3 gpt-oss-120b; do
    works 0 synth --preset $preset --scale tiny --tokens 5 --out "$work/$preset"
    layer=$(sed -n 's/.*, layer \([0-9]*\):.*/\1/p' "$work/stdout")
    works 3 check --model "$work/$preset" --layer "$layer" --tokens 21
    grep -q 'ranks:one_rank bits *equal' "$work/stdout" || wrong "$preset: $(cat "$work/stdout")"
done
works 4 check --model "$work/mixtral-8x7b" --layer 0 --mode tp
works 4 check --model "$work/mixtral-8x7b" --layer 0 --ep 2 --tp 2 --combine reduced
works 2 check --model "$work/mixtral-8x7b" --layer 0 --input "$work/mixtral-8x7b/input.safetensors"
finish
