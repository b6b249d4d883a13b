#!/bin/bash
# shellcheck source-path=SCRIPTDIR source=lib.sh
# --placement: slots with replicas give the bits of one rank; bad files are refused by line.
. "$(dirname "$0")/lib.sh"

works 0 synth --preset qwen3-30b-a3b --scale tiny --tokens 41 --out "$work/model"
layer=$(sed -n 's/.*, layer \([0-9]*\):.*/\1/p' "$work/stdout")
experts=$(sed -n 's/.*"num_experts": *\([0-9]*\).*/\1/p' "$work/model/config.json")
model="--model $work/model --layer $layer"

# Loads of a skewed layer -> slots, a quarter more than experts -> the same result.
for ((e = 1; e <= experts; e++)); do printf '%s ' $((1000 / e)); done >"$work/load"
works 0 plan place --load "$work/load" --slots $((experts * 5 / 4)) --gpus 3
cp "$work/stdout" "$work/slots"
# shellcheck disable=SC2086
works 0 run $model --input "$work/model/input.safetensors" --output "$work/one"
# shellcheck disable=SC2086
works 3 run $model --input "$work/model/input.safetensors" --output "$work/three" \
    --placement "$work/slots"
same "$work/one" "$work/three"
# shellcheck disable=SC2086
works 2 check $model --placement "$work/slots"
grep -q 'ranks:one_rank bits *equal' "$work/stdout" || wrong "check: $(cat "$work/stdout")"
echo "0 1 2 3 4 4 4 5 6 7" >"$work/eight"
works 2 bench layer --experts 8 --hidden 64 --inter 32 --tokens 5 -n 2 --placement "$work/eight"

bad() { # bad TEXT LINES...: what is wrong is said once, with the file's name
    printf '%s\n' "${@:2}" >"$work/bad"
    fails 0 1 "$work/bad: $1" bench layer --experts 3 --hidden 64 --inter 32 --tokens 5 -n 1 \
        --placement "$work/bad"
}
bad 'line 2: slot_expert[2]: expected 0 to 2, found 3' '# slots' '0 1 3 2'
bad 'line 1: slot_expert: expert 1 has no slot' '0 0 2'
bad 'line 1: slot_count: expected 3' '0 1'
bad 'line 1, number 2: expected an expert' '0 0.5 2'
bad 'line 1, number 2: expected a finite number' '0 x 2'
bad 'expected one line, found 2' '0 1 2' '0 1 2'
bad 'expected a line of numbers' ''
fails 2 1 "$work/none" bench layer --experts 3 --hidden 64 --inter 32 -n 1 --placement "$work/none"
for ((i = 0; i <= layer; i++)); do echo '0 1 2'; done | head -n "$layer" >"$work/short"
[ "$layer" -lt 2 ] ||
    fails 0 1 "or one for layer $layer" check --model "$work/model" --layer "$layer" \
        --placement "$work/short"
finish
