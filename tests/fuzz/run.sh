#!/usr/bin/env bash
# run.sh [EXECUTIONS [BUILD]]: build the fuzz targets with clang, AddressSanitizer and
# UndefinedBehaviorSanitizer, and run each for a number of executions (default 50000).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
executions=${1:-50000}
build=${2:-$root/build-fuzz}

sources=()
for name in scan file json safetensors safetensors_header activation family config files; do
    sources+=("$root/experts/$name.c")
done
sources+=("$root"/core/{status,util}.c "$root"/launcher/{plan_table,machine_file}.c
    "$root/topology/balance.c")

mkdir -p "$build"
"$root/tests/fuzz/make_corpus.sh" "$build/corpus"
for target in header config index table machine; do
    clang -std=gnu11 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
        -I"$root" -I"$root/include" "$root/tests/fuzz/fuzz_$target.c" "${sources[@]}" \
        -o "$build/fuzz_$target" -ljansson -lm
    mkdir -p "$build/found/$target"
    # What is found new stays in the build folder; a crash leaves its input there too.
    "$build/fuzz_$target" -runs="$executions" -seed=1 -max_len=8192 -rss_limit_mb=2048 -timeout=10 \
        -dict="$root/tests/fuzz/json.dict" -artifact_prefix="$build/$target." -verbosity=0 \
        -print_final_stats=1 "$build/found/$target" "$build/corpus/$target" 2>&1 |
        { grep -E '^stat::number|ERROR|SUMMARY|Test unit' || true; } | sed "s/^/fuzz $target: /"
done
