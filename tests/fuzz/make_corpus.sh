#!/usr/bin/env bash
# make_corpus.sh OUT: seeds for the fuzz targets, from the fixtures and a few written out here.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
out=${1:?usage: make_corpus.sh OUT}
mkdir -p "$out/header" "$out/config" "$out/index" "$out/table" "$out/machine"

# header: u16 of data bytes, then the JSON.
seed_header() { # NAME DATA_BYTES JSON
    {
        printf '%b' "$(printf '\\x%02x\\x%02x' $(($2 % 256)) $(($2 / 256)))"
        printf '%s' "$3"
    } >"$out/header/$1"
}
seed_header empty 0 '{}'
seed_header rank0 4 '{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}} '
seed_header meta 0 '{"__metadata__":{"format":"pt","k":"\u00e9\ud83d\ude00\n"}}'
seed_header two 11 '{"b":{"dtype":"F64","shape":[1,1],"data_offsets":[3,11]},"a":{"shape":[3,1],"dtype":"BOOL","data_offsets":[0,3]}}'
seed_header hole 8 '{"a":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]}}'
seed_header zero 0 '{"a":{"dtype":"I64","shape":[0,4294967296],"data_offsets":[0,0]}}'
seed_header huge 4 '{"a":{"dtype":"U8","shape":[9223372036854775807,2],"data_offsets":[0,18446744073709551615]}}'

# config: one byte of layer index, then the JSON.
for config in "$root"/tests/fixtures/*/config.json; do
    name=$(basename "$(dirname "$config")")
    for layer in 00 01; do
        { printf '%b' "\\x$layer" && tr -d ' \n' <"$config"; } >"$out/config/$name.$layer"
    done
done

for index in "$root"/tests/fixtures/*/model.safetensors.index.json; do
    cp "$index" "$out/index/$(basename "$(dirname "$index")")"
done
printf '%s' '{"metadata":{"total_size":1},"weight_map":{"a":"m-1","b":"../m"}}' >"$out/index/leaves"

printf '90 132 40 61\n20 107\t104 64\n' >"$out/table/two"
printf '# loads\n\n1e3 0.5 -0 +7.25\r\n' >"$out/table/numbers"
printf '1 nan 2\n' >"$out/table/nan"
printf '3e38 3e38\n1e39 1\n' >"$out/table/huge"
printf '1 2\n1 2 3' >"$out/table/ragged"

cp "$root"/share/machines/*.json "$out/machine/"
