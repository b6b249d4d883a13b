#!/usr/bin/env bash
# gpu_check.sh [--packages FOLDER] [--no-bench] OUTDIR: everything about the cuda backend that only a
# GPU can show, in one call of at most ten minutes: build, tests on the device, emulator against
# hardware, compute-sanitizer, several ranks on one GPU, benchmarks beside PyTorch's.
#
# Needs a GPU, nvcc and CMake; the rest comes from the system or from FOLDER, which
# scripts/gpu_pack.sh makes. Python with PyTorch is needed for the peers' figures only. Leaves logs and
# JSON in OUTDIR, ends with a table; exit 1 if any step failed.
set -uo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

limit_s=585 # of the whole call
packages=
bench=true
while [[ $# -gt 1 ]]; do
    case $1 in
    --packages)
        packages=$(cd "$2" && pwd) || die "$2: not found"
        shift 2
        ;;
    --no-bench)
        bench=false
        shift
        ;;
    *) die "unknown option '$1'; usage: gpu_check.sh [--packages FOLDER] [--no-bench] OUTDIR" ;;
    esac
done
[[ $# -eq 1 ]] || die "usage: gpu_check.sh [--packages FOLDER] [--no-bench] OUTDIR"
mkdir -p "$1" || die "$1: could not be made"
out=$(cd "$1" && pwd)
build=$root/build-gpu
lib=x86_64-linux-gnu

# Programs unpacked into a folder of their own have to be told where they are.
use_packages() { # FOLDER
    local tool
    for tool in mpicc mpirun mpiexec; do
        ln -sf "$tool.openmpi" "$1/usr/bin/$tool"
    done
    export PATH=$1/usr/bin:$PATH
    export LD_LIBRARY_PATH=$1/usr/lib/$lib:$1/lib/$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export OPAL_PREFIX=$1/usr PMIX_INSTALL_PREFIX=$1/usr/lib/$lib/pmix2
    export OMPI_MCA_plm_rsh_agent=/bin/false PMIX_MCA_pcompress_base_silence_warning=1
    export PKG_CONFIG_LIBDIR=$1/usr/lib/$lib/pkgconfig:$1/usr/share/pkgconfig
    export PKG_CONFIG_SYSROOT_DIR=$1
}
if [[ -n $packages ]]; then
    use_packages "$packages"
fi

names=()
results=()
seconds=()
record() { # NAME RESULT SECONDS
    names+=("$1")
    results+=("$2")
    seconds+=("$3")
    printf '%-28s %-9s %4d s\n' "$1" "$2" "$3" >&2
}

# step NAME SECONDS COMMAND...: run with a limit; the output goes to OUTDIR/NAME.log.
step() {
    local name=$1 limit=$2 begin=$SECONDS rc
    local left=$((limit_s - SECONDS))
    shift 2
    if ((left < 5)); then
        record "$name" "no time" 0
        return 1
    fi
    timeout -k 5 "$((limit < left ? limit : left))" bash -c '"$@"' bash "$@" \
        >"$out/$name.log" 2>&1 </dev/null
    rc=$?
    case $rc in
    0) record "$name" ok $((SECONDS - begin)) ;;
    77) record "$name" skipped $((SECONDS - begin)) ;;
    124 | 137) record "$name" "TIMED OUT" $((SECONDS - begin)) ;;
    *)
        record "$name" "FAILED $rc" $((SECONDS - begin))
        tail -n 15 "$out/$name.log" >&2
        ;;
    esac
    return "$rc"
}

# What follows is run by step, in a shell of its own.
# shellcheck disable=SC2317
build_all() {
    cmake -S "$root" -B "$build" -DWITAN_CUDA=ON -DBUILD_TESTING=ON &&
        cmake --build "$build" --parallel "$jobs"
}

# Each wrapper of the hardware has one test, which demands the same bits of the device and of the
# emulator: both against plain C.
# shellcheck disable=SC2317
conformance() {
    ctest --test-dir "$build" -R '\.wrappers' --output-on-failure --no-tests=error
}

# shellcheck disable=SC2317
sanitizer() { # TOOL
    local test rc=0 options=(--kernel-name-exclude kernel_substring=nvjet) # cuBLAS's own
    local tests=(cuda_routing/test_cuda_schedule cuda_routing/test_cuda_topk
        cuda_routing/test_cuda_rows emulator/test_wrappers emulator/test_wrappers_sm90)
    if [[ $1 == memcheck ]]; then
        options+=(--report-api-errors no) # some tests call for them
        tests+=(cuda_ffn/test_cuda_ffn_limits) # racecheck itself fails on the sm_90a product
    fi
    for test in "${tests[@]}"; do
        echo "== $1 $test"
        compute-sanitizer --tool "$1" "${options[@]}" --error-exitcode 9 \
            "$build/tests/${test}_cuda" || rc=1
    done
    return "$rc"
}

# Several ranks on this one GPU, over NCCL: correct and slow, never timed.
# shellcheck disable=SC2317
ranks() { # COUNT OPTIONS...
    local count=$1
    shift
    WITAN_TIMEOUT=60 mpirun --oversubscribe --bind-to none -n "$count" "$build/witan" check \
        --model "$out/model" --layer 0 --backend cuda --share-device "$@"
}

# shellcheck disable=SC2317
smi() {
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,power.limit \
        --format=csv
    nvidia-smi topo -m
}

export root out build jobs
export -f build_all conformance sanitizer ranks smi

step machine 20 smi
if ! step build 240 build_all; then
    die "build failed: $out/build.log"
fi
step tests 200 ctest --test-dir "$build" -L cuda -j "$jobs" --output-on-failure --no-tests=error
step conformance 60 conformance
step synth 60 "$build/witan" synth --preset qwen3-30b-a3b --scale small --out "$out/model"
for mode in exact padded direct; do
    step "ranks-2-$mode" 60 ranks 2 --exchange "$mode"
done
step ranks-4-direct 60 ranks 4 --exchange direct
step ranks-2-tensor 60 ranks 2 --mode tp
step ranks-2-reduced 60 ranks 2 --combine reduced
rm -rf "$out/model"

if $bench; then
    step bench-layer 60 "$build/witan" bench layer --backend cuda --experts 128 --topk 8 \
        --hidden 2048 --inter 768 --tokens 1,16,128,4096,32768 --json "$out/layer.json"
    step peers 200 python3 "$root/scripts/gpu_bench.py" --witan "$build/witan" --out "$out"
    cat "$out/bench-layer.log" "$out/peers.log" 2>/dev/null
fi

if command -v compute-sanitizer >/dev/null; then
    step memcheck 60 sanitizer memcheck
    step racecheck 60 sanitizer racecheck
else
    record memcheck "no tool" 0
fi

failed=0
{
    printf '{"schema": "witan.gpu_check/1", "seconds": %d, "steps": [' "$SECONDS"
    for i in "${!names[@]}"; do
        ((i == 0)) || printf ', '
        printf '{"name": "%s", "result": "%s", "seconds": %d}' \
            "${names[i]}" "${results[i]}" "${seconds[i]}"
    done
    printf ']}\n'
} >"$out/gpu_check.json"
printf '\n%-28s %-9s %6s\n' step result seconds
for i in "${!names[@]}"; do
    printf '%-28s %-9s %6d\n' "${names[i]}" "${results[i]}" "${seconds[i]}"
    [[ ${results[i]} == ok || ${results[i]} == skipped ]] || failed=1
done
printf 'gpu_check: %d steps in %d s%s\n' "${#names[@]}" "$SECONDS" \
    "$( ((failed)) && echo ', some FAILED')"
exit $failed
