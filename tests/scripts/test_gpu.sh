#!/usr/bin/env bash
# gpu_check.sh with a machine made up: programs that do as these files say, and no others. What it
# makes of their answers is what is tested.
# shellcheck source=tests/scripts/lib.sh
source "$(dirname "$0")/lib.sh"
mkdir "$work/bin" "$work/tree" "$work/tree/scripts"
cp "$scripts/gpu_check.sh" "$scripts/lib.sh" "$work/tree/scripts"
for tool in awk basename bash cat cp dirname env mkdir nproc rm tail timeout; do
    ln -s "$(command -v $tool)" "$work/bin/$tool"
done

# program NAME LINE...: a program of the machine
program() {
    printf '#!/usr/bin/env bash\n' >"$work/bin/$1"
    printf '%s\n' "${@:2}" >>"$work/bin/$1"
    chmod +x "$work/bin/$1"
}

# tested LINE...: what ctest says
tested() {
    program ctest "cat <<'END'" "$@" END
}

# check STATUS WORDS...: gpu_check.sh, its table in $work/table, steps of the same name once
check() {
    called "$1" env -i LC_ALL=C PATH="$work/bin" bash "$work/tree/scripts/gpu_check.sh" "${@:2}" \
        "$work/out"
    sed -n '/^step /,$p' "$work/said" >"$work/table"
    grep -q '^{"schema": "witan.gpu_check/1", .*]}$' "$work/out/gpu_check.json" ||
        wrong "gpu_check.json: $(cat "$work/out/gpu_check.json")"
    grep -q "\"status\": $1, " "$work/out/gpu_check.json" ||
        wrong "status in gpu_check.json: $(cat "$work/out/gpu_check.json")"
}

# result STEP TEXT: in the table and in the JSON
result() {
    grep -qE "^$1 +$2 +[0-9]+$" "$work/table" || wrong "$1, expected $2: $(cat "$work/table")"
    grep -q "\"name\": \"$1\", \"result\": \"$2\"" "$work/out/gpu_check.json" ||
        wrong "$1, expected $2: $(cat "$work/out/gpu_check.json")"
}

# no_gpu TEXT: one line, and nothing was built
no_gpu() {
    check 77
    equal "without a GPU" "$(cat "$work/said")" "gpu_check.sh: no GPU: nvidia-smi: $1"
    grep -q '"name": "machine", "result": "no GPU"' "$work/out/gpu_check.json" ||
        wrong "gpu_check.json: $(cat "$work/out/gpu_check.json")"
    [ ! -e "$work/built" ] || wrong "built without a GPU"
}

program cmake "echo >'$work/built'"
no_gpu "not found"
program nvidia-smi 'echo "NVIDIA-SMI has failed"' 'echo "more" >&2' 'exit 9'
no_gpu "NVIDIA-SMI has failed"
program nvidia-smi 'echo "No devices were found"'
no_gpu "No devices were found"
program nvidia-smi 'exit 3'
no_gpu "exit status 3"

# All is well, with neither PyTorch nor compute-sanitizer.
passed='1/2 Test #1: cuda.wrappers ....   Passed    0.01 sec'
skipped='2/2 Test #2: cuda.nccl.np2 ....***Skipped   0.01 sec'
program nvidia-smi 'echo "GPU 0: NVIDIA H200 (UUID: GPU-0)"'
mkdir "$work/tree/build-gpu"
program cmake "cp '$work/bin/witan' '$work/tree/build-gpu/witan'"
program witan 'echo "witan $*"'
program mpirun 'echo "mpirun $*"'
program python3 'exit 1'
tested "$passed" "$skipped"
check 0
for step in machine build tests conformance synth ranks-2-exact ranks-4-direct bench-layer; do
    result $step ok
done
result peers "skipped: no torch"
result memcheck "skipped: no tool"
result racecheck "skipped: no tool"
equal "steps" "$(grep -c ' [0-9]*$' "$work/table")" 15
check 0 --no-bench
equal "steps without benchmarks" "$(grep -c ' [0-9]*$' "$work/table")" 13

# With them
program python3 true
program compute-sanitizer true
check 0
for step in peers memcheck racecheck; do
    result $step ok
done
program compute-sanitizer 'exit 9'
check 1
result racecheck "FAILED 1"
program compute-sanitizer true

# ctest is content where every test was skipped, or where only the emulator's passed.
tested "1/2 Test #1: cuda.wrappers ....***Skipped   0.01 sec" "$skipped"
check 1
result tests "FAILED 1"
grep -q 'no test of the device passed' "$work/said" || wrong "skipped: $(cat "$work/said")"
tested "${passed/cuda/emulator}" "$skipped"
check 1
result conformance "FAILED 1"
program ctest "echo '$passed'" 'exit 8'
check 1
result tests "FAILED 8"
tested "$passed"

# What can not be built is the end, with a table.
program cmake 'echo "no such compiler"' 'exit 2'
check 1
result build "FAILED 2"
equal "steps" "$(grep -c ' [0-9]*$' "$work/table")" 2
finish
