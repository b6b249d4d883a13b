#!/usr/bin/env bash
# gpu_check.sh: everything about the cuda backend that only a GPU can show. See usage below.
set -uo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

# Exit status without a GPU; ctest takes it for "skipped".
no_gpu=77
limit_s=585 # of the whole call

usage() {
    cat <<'END'
gpu_check.sh [--packages FOLDER] [--no-bench] OUTDIR: everything about the cuda backend that only a
GPU can show, in one call of at most ten minutes: build, tests on the device, emulator against
hardware, compute-sanitizer, several ranks on one GPU, benchmarks beside PyTorch's.

  --packages FOLDER  what scripts/gpu_pack.sh made, where Open MPI and the like are not installed
  --no-bench         no benchmarks

Needs a GPU, nvcc and CMake. The peers' figures need Python with PyTorch and CUDA, memcheck and
racecheck need compute-sanitizer: skipped without. Leaves logs and JSON in OUTDIR, gpu_check.json
among them, ends with a table; exit status 1 if any step failed, 77 without a GPU.
END
}

wrong() {
    printf 'gpu_check.sh: %s; see gpu_check.sh --help\n' "$*" >&2
    exit 2
}

packages=
bench=true
while [[ ${1:-} == -* ]]; do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --packages)
            [[ $# -gt 1 ]] || wrong "--packages: expected a folder"
            packages=$(cd "$2" 2>/dev/null && pwd) || wrong "--packages: '$2' is no folder"
            [[ -e $packages/usr/bin/mpirun.openmpi ]] ||
                wrong "--packages: '$2' is not of scripts/gpu_pack.sh: no usr/bin/mpirun.openmpi"
            shift
            ;;
        --no-bench) bench=false ;;
        *) wrong "unknown option '$1'" ;;
    esac
    shift
done
[[ $# -gt 0 && -n $1 ]] || wrong "no OUTDIR"
[[ $# -eq 1 ]] || wrong "'$2' is one argument too many"
text=$(mkdir -p "$1" 2>&1) || die "$text"
out=$(cd "$1" && pwd) || die "$1: can not be entered"
# What an earlier call found does not outlive the beginning of this one.
{ : >"$out/gpu_check.json"; } 2>/dev/null || die "$1: can not be written"
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
    printf '%-28s %-17s %4d s\n' "$1" "$2" "$3" >&2
}

# write_json: the steps so far and the exit status, however the script ends: 1 where it is killed.
# shellcheck disable=SC2317
write_json() {
    local i
    {
        printf '{"schema": "witan.gpu_check/1", "seconds": %d, "status": %d, "steps": [' \
            "$SECONDS" "$ended"
        for i in "${!names[@]}"; do
            ((i == 0)) || printf ', '
            printf '{"name": "%s", "result": "%s", "seconds": %d}' \
                "${names[i]}" "${results[i]}" "${seconds[i]}"
        done
        printf ']}\n'
    } >"$out/gpu_check.json"
}
ended=1
trap write_json EXIT

# finish: the table. What was skipped is no failure.
finish() {
    local i failed=0
    printf '\n%-28s %-17s %6s\n' step result seconds
    for i in "${!names[@]}"; do
        printf '%-28s %-17s %6d\n' "${names[i]}" "${results[i]}" "${seconds[i]}"
        [[ ${results[i]} == ok || ${results[i]} == skipped* ]] || failed=1
    done
    printf 'gpu_check: %d steps in %d s%s\n' "${#names[@]}" "$SECONDS" \
        "$( ((failed)) && echo ', some FAILED')"
    ended=$failed
    exit $ended
}

# find_gpu: nothing is worth building without one.
find_gpu() {
    local text status
    text=$(timeout -k 5 60 nvidia-smi -L 2>&1)
    status=$?
    if [[ $text =~ (^|$'\n')"GPU "[0-9]+: ]]; then
        return
    fi
    case $status in
        124 | 137) text="no answer in 60 s" ;;
        127) text="not found" ;;
    esac
    record machine "no GPU" "$SECONDS" 2>/dev/null
    text=${text%%$'\n'*}
    printf 'gpu_check.sh: no GPU: nvidia-smi: %s\n' "${text:-exit status $status}" >&2
    ended=$no_gpu
    exit $ended
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

# ctest counts it as success if every test is skipped: here tests have to pass on the device.
# shellcheck disable=SC2317
tests() { # OPTIONS...
    local status
    ctest --test-dir "$build" "$@" --output-on-failure --no-tests=error | awk '
        { print; fflush() }
        /^ *[0-9]+\/[0-9]+ Test +#[0-9]+: cuda\..* Passed / { passed = 1 }
        END { exit !passed }'
    status=("${PIPESTATUS[@]}")
    if ((status[0] == 0 && status[1] != 0)); then
        echo "no test of the device passed"
    fi
    return $((status[0] ? status[0] : status[1]))
}

# Each wrapper of the hardware has one test, which demands the same bits of the device and of the
# emulator: both against plain C.
# shellcheck disable=SC2317
conformance() {
    tests -R '\.wrappers'
}

# shellcheck disable=SC2317
sanitizer() { # TOOL
    local test rc=0 options=(--kernel-name-exclude kernel_substring=nvjet) # cuBLAS's own
    local tests=(cuda_routing/test_cuda_sort cuda_routing/test_cuda_schedule
        cuda_routing/test_cuda_topk cuda_routing/test_cuda_rows
        emulator/test_wrappers emulator/test_wrappers_sm90)
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
export -f build_all tests conformance sanitizer ranks smi

find_gpu

step machine 20 smi
if ! step build 240 build_all; then
    say "build failed: $out/build.log"
    finish
fi
step tests 200 tests -L cuda -j "$jobs"
step conformance 60 conformance
step synth 60 "$build/witan" synth --preset qwen3-30b-a3b --scale small --out "$out/model"
for mode in exact padded direct; do
    step "ranks-2-$mode" 60 ranks 2 --exchange "$mode"
done
step ranks-4-direct 60 ranks 4 --exchange direct
step ranks-2-tensor 60 ranks 2 --mode tp
step ranks-2-reduced 60 ranks 2 --combine reduced
rm -rf "$out/model"

torch_there='import sys, torch; sys.exit(not torch.cuda.is_available())'
if $bench; then
    step bench-layer 60 "$build/witan" bench layer --backend cuda --experts 128 --topk 8 \
        --hidden 2048 --inter 768 --tokens 1,16,128,4096,32768 --json "$out/layer.json"
    cat "$out/bench-layer.log" 2>/dev/null
    if timeout -k 5 60 python3 -c "$torch_there" >/dev/null 2>&1; then
        step peers 200 python3 "$root/scripts/gpu_bench.py" --witan "$build/witan" --out "$out"
        cat "$out/peers.log" 2>/dev/null
    else
        record peers "skipped: no torch" 0
    fi
fi

if command -v compute-sanitizer >/dev/null; then
    step memcheck 60 sanitizer memcheck
    step racecheck 60 sanitizer racecheck
else
    record memcheck "skipped: no tool" 0
    record racecheck "skipped: no tool" 0
fi
finish
