#!/bin/bash
# shellcheck source-path=SCRIPTDIR source=lib.sh
# Outputs by odd names: what is read is never written over, links are followed, devices stay.
. "$(dirname "$0")/lib.sh"

works 0 synth --preset olmoe-1b-7b --scale tiny --tokens 9 --out "$work/model"
model=$work/model
input=$model/input.safetensors
run="run --model $model --layer 0 --timeout 10"
bench="bench experts --experts 1 --topk 1 --hidden 8 --inter 8 --rows 1 -n 1 -w 0"
before=$(sha256sum "$model"/*)

# refused N TEXT WORDS...: wrong usage, and the model is as it was
refused() {
    local ranks=$1 text=$2
    shift 2
    fails "$ranks" 2 "$text" "$@"
    [ "$(sha256sum "$model"/*)" = "$before" ] || wrong "'$*': the model has changed"
}

# shellcheck disable=SC2086
{
    # ---- the input, the model and the other output, by every name ----
    refused 2 "--input and --output name the same file" $run --input "$input" --output "$input"
    refused 0 "--input and --routing-out" $run --input "$input" --output "$work/out" \
        --routing-out "$model/../model/input.safetensors"
    ln -s "$input" "$work/soft"
    ln "$input" "$work/hard"
    refused 0 "--input and --output" $run --input "$input" --output "$work/soft"
    refused 0 "--input and --output" $run --input "$input" --output "$work/hard"
    refused 3 "--output '$model/model.safetensors' is model.safetensors of --model" \
        $run --input "$input" --output "$model/model.safetensors"
    ln "$model/config.json" "$work/hard.json"
    refused 0 "is config.json of --model" $run --input "$input" --output "$work/out" \
        --routing-out "$work/hard.json"
    refused 0 "--output and --routing-out" $run --input "$input" --output "$work/out" \
        --routing-out "$work/../$(basename "$work")/./out"
    mkdir "$work/deep" && ln -s ../out "$work/deep/absent" && ln -s deep "$work/alias"
    refused 0 "--output and --routing-out" $run --input "$input" --output "$work/out" \
        --routing-out "$work/alias/absent"
    refused 0 "--json '$model/config.json'" bench layer --model "$model" --layer 0 \
        --json "$model/config.json"

    # ---- links are written through ----
    echo old >"$work/deep/file"
    ln -s deep/file "$work/link"
    works 0 $run --input "$input" --output "$work/link" --routing-out "$work/deep/absent"
    works 0 $run --input "$input" --output "$work/plain" --routing-out "$work/plain.routing"
    [ -L "$work/link" ] || wrong "--output: the link was replaced"
    [ -L "$work/deep/absent" ] || wrong "--routing-out: the link was replaced"
    same "$work/plain" "$work/deep/file"
    same "$work/plain.routing" "$work/out"
    rm "$work/out"
    ln -s json.target "$work/json"
    works 0 $bench --json "$work/json"
    [ -L "$work/json" ] || wrong "--json: the link was replaced"
    grep -q witan.bench "$work/json.target" || wrong "--json: not where the link leads"
    ln -s loop "$work/loop"
    fails 0 1 "$work/loop" $run --input "$input" --output "$work/loop"

    # ---- what is no regular file stays; a bench says so before it measures ----
    mkfifo "$work/special"
    mknod "$work/device" c 1 7 2>/dev/null
    for path in "$work/special" "$work/device"; do
        [ -e "$path" ] || continue
        type=$(stat -c %F "$path")
        fails 0 1 "expected a regular file or none, found" $run --input "$input" --output "$path"
        fails 0 1 "expected a regular file or none, found" $bench --json "$path"
        [ ! -s "$work/stdout" ] || wrong "bench measured first: $(cat "$work/stdout")"
        fails 2 1 "$path" bench layer --hidden 8 --inter 8 --tokens 1 --json "$path"
        [ ! -s "$work/stdout" ] || wrong "bench measured first: $(cat "$work/stdout")"
        [ "$(stat -c %F "$path")" = "$type" ] || wrong "$path was replaced"
    done
}
finish
