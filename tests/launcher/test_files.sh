#!/bin/bash
# shellcheck source-path=SCRIPTDIR source=lib.sh
# Bad files: exit status 1 on every rank, one line that names the thing, no output.
. "$(dirname "$0")/lib.sh"

works 0 synth --preset olmoe-1b-7b --scale tiny --dtype f32 --tokens 9 --out "$work/good"
layer=$(sed -n 's/.*, layer \([0-9]*\):.*/\1/p' "$work/stdout")
input=$work/good/input.safetensors
hidden=$(sed -n 's/.*"hidden_size": *\([0-9]*\).*/\1/p' "$work/good/config.json")

# model NAME: a copy to damage
model() {
    rm -rf "${work:?}/$1"
    cp -r "$work/good" "$work/$1"
    rm "$work/$1/input.safetensors"
}

# bad N TEXT MODEL [INPUT]
bad() {
    fails "$1" 1 "$2" run --model "$work/$3" --layer "$layer" --input "${4:-$input}" \
        --output "$work/out" --routing-out "$work/out.routing" --timeout 10
}

# ---- the input ----
bad 2 "$work/absent" good "$work/absent"
bad 0 "$work" good "$work"
tensors "$work/x" '{"other":{"dtype":"F32","shape":[1,4],"data_offsets":[0,16]}}' 16
bad 2 "expected a tensor hidden_states" good "$work/x"
tensors "$work/x" '{"hidden_states":{"dtype":"F32","shape":[2,5],"data_offsets":[0,40]}}' 40
bad 3 "expected width $hidden (the layer's hidden size), found 5" good "$work/x"
tensors "$work/x" '{"hidden_states":{"dtype":"F32","shape":[10],"data_offsets":[0,40]}}' 40
bad 0 "expected 2 dimensions" good "$work/x"
bytes=$((hidden * 2))
header='{"hidden_states":{"dtype":"F16","shape":[1,'$hidden'],"data_offsets":[0,'$bytes']}}'
tensors "$work/x" "$header" $bytes
bad 0 "expected dtype F32 (the layer's), found F16" good "$work/x"
tensors "$work/x" "$header" $((bytes - 1))
bad 0 "$work/x" good "$work/x"
tensors "$work/x" "$header" $((bytes + 1))
bad 0 "$work/x" good "$work/x"
tensors "$work/x" '{"hidden_states":{"dtype":"F32","shape":[-1,4],"data_offsets":[0,16]}}' 16
bad 0 "$work/x" good "$work/x"
tensors "$work/x" '{"a":{"dtype":"F32","shape":[9e99],"data_offsets":[0,16]}}' 16
bad 0 "$work/x" good "$work/x"
tensors "$work/x" "$(printf '[%.0s' $(seq 5000))" 16
bad 0 "$work/x" good "$work/x"
tensors "$work/x" '{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}' 16
bad 0 "$work/x" good "$work/x"
head -c 7 /dev/zero >"$work/x"
bad 0 "$work/x" good "$work/x"
head -c 64 /dev/urandom >"$work/x"
bad 0 "$work/x" good "$work/x"

# ---- the model ----
bad 2 "absent" absent
bad 0 "x" x # a file where the folder should be
fails 2 1 "layer" run --model "$work/good" --layer 4000 --input "$input" --output "$work/out"
model m && rm "$work/m/config.json"
bad 0 "config.json" m
model m && echo '{' >"$work/m/config.json"
bad 0 "config.json" m
model m && rm "$work/m/config.json" && mkdir "$work/m/config.json"
bad 0 "config.json" m
model m && sed -i 's/"olmoe"/"nomoe"/' "$work/m/config.json"
bad 0 "nomoe" m
model m && sed -i 's/"silu"/"sulu"/' "$work/m/config.json"
bad 2 "sulu" m
model m && sed -i 's/"num_experts_per_tok": *[0-9]*/"num_experts_per_tok": 0/' "$work/m/config.json"
bad 0 "num_experts_per_tok" m
model m && sed -i 's/"num_experts_per_tok": *[0-9]*/"num_experts_per_tok": 999/' "$work/m/config.json"
bad 0 "999" m
model m && sed -i 's/"intermediate_size": *[0-9]*/"intermediate_size": 7/' "$work/m/config.json"
bad 3 "expected" m
model m && truncate -s -1 "$work/m/model.safetensors"
bad 3 "model.safetensors" m
model m && printf x >>"$work/m/model.safetensors"
bad 0 "model.safetensors" m
model m && sed -i 's/"F32"/"F99"/' "$work/m/model.safetensors"
bad 0 "F99" m
model m && sed -i "0,/layers\.$layer\.mlp\.gate\./s//layers.$layer.mlp.gxte./" "$work/m/model.safetensors"
bad 0 "mlp.gate.weight" m
model m && rm "$work/m/model.safetensors" && mkdir "$work/m/model.safetensors"
bad 0 "model.safetensors" m
model m && rm "$work/m/model.safetensors" && ln -s nowhere "$work/m/model.safetensors"
bad 2 "model.safetensors: cannot be opened: a link to nothing" m
long=$work/$(printf 'folder-with-a-long-name/%.0s' $(seq 30))
bad 2 "config.json: cannot be opened: No such file" "${long#"$work/"}"
bad 2 "x: cannot be opened: No such file" good "$long/x"

# ---- options that only the layer can judge ----
fails 2 2 "--budget-rows: expected 0 or at least the layer's K" run --model "$work/good" \
    --layer "$layer" --input "$input" --output "$work/out" --budget-rows 1
fails 0 2 "--budget-rows: expected" check --model "$work/good" --layer "$layer" --budget-rows 1
fails 2 2 "--budget-rows: expected" bench layer --model "$work/good" --layer "$layer" --tokens 2 \
    --budget-rows 1

# ---- a dense layer ----
fails 2 1 "dense" check --model "$fixtures/qwen3_moe_sharded_bf16" --layer 1

# ---- the index ----
cp -r "$fixtures/qwen3_moe_sharded_bf16" "$work/sharded"
index=$work/sharded/model.safetensors.index.json
shards() { # TEXT
    fails 0 1 "$1" check --model "$work/sharded" --layer 2
    cp "$fixtures/qwen3_moe_sharded_bf16/model.safetensors.index.json" "$index"
}
sed -i 's#model-00001-of-00003.safetensors#../good/model.safetensors#' "$index"
shards "../good/model.safetensors"
sed -i 's#model-00001-of-00003.safetensors#/etc/passwd#' "$index"
shards "/etc/passwd"
sed -i 's#model-00001-of-00003.safetensors#model-00009-of-00003.safetensors#' "$index"
shards "model-00009-of-00003.safetensors"

# ---- ranks that see different files under one name ----
mkdir "$work/a" "$work/b"
model m && cp -r "$work/m/." "$work/a/" && cp -r "$work/m/." "$work/b/"
sed -i 's/"norm_topk_prob": *false/"norm_topk_prob": true/' "$work/b/config.json"
for side in a b; do
    printf '#!/bin/bash\ncd %s && exec %q "$@"\n' "$work/$side" "$(realpath "$program")" \
        >"$work/$side.sh"
    chmod +x "$work/$side.sh"
done
mpi -n 1 "$work/a.sh" check --model . --layer "$layer" : \
    -n 1 "$work/b.sh" check --model . --layer "$layer" >"$work/stdout" 2>"$work/stderr"
[ $? -eq 1 ] || wrong "different files: $(cat "$work/stderr")"
one_line "different files" "on rank 1"

# ---- and the same content under different names ----
mpi -n 1 "$program" check --model "$work/a" --layer "$layer" : \
    -n 1 "$program" check --model "$work/good" --layer "$layer" >"$work/stdout" 2>"$work/stderr" ||
    wrong "copies of a model: $(cat "$work/stderr")"

# ---- NaN stays in its token ----
works 2 run --model "$work/good" --layer "$layer" --input "$input" --output "$work/clean"
cp "$input" "$work/nan"
size=$(stat -c %s "$input")
row=$((hidden * 4))
at=$((size - 4 * row)) # the fourth token from the end
printf '\0\0\300\177' | dd of="$work/nan" bs=1 seek=$at conv=notrunc status=none
works 2 run --model "$work/good" --layer "$layer" --input "$work/nan" --output "$work/marked"
cmp <(head -c $at "$work/clean") <(head -c $at "$work/marked") || wrong "NaN went to earlier tokens"
cmp <(tail -c $((3 * row)) "$work/clean") <(tail -c $((3 * row)) "$work/marked") ||
    wrong "NaN went to later tokens"
! cmp -s "$work/clean" "$work/marked" || wrong "NaN was lost"
fails 2 1 "found nan" check --model "$work/good" --layer "$layer" --input "$work/nan"
finish
