#!/usr/bin/env bash
# Help is an answer, not an error; what a script can not do it refuses at once and in one line.
# shellcheck source=tests/scripts/lib.sh
source "$(dirname "$0")/lib.sh"
touch "$work/file"
mkdir "$work/full"
touch "$work/full/file"

for script in gpu_check.sh gpu_pack.sh scale.sh; do
    for option in -h --help; do
        called 0 "$scripts/$script" $option
        grep -q "^$script .*: " "$work/said" || wrong "$script $option: $(cat "$work/said")"
    done
    refused 2 "unknown option '--wrong'" "$scripts/$script" --wrong
    refused 2 "'more' is one argument too many" "$scripts/$script" "$work/out" more
done

check=$scripts/gpu_check.sh
refused 2 "no OUTDIR" "$check"
refused 2 "no OUTDIR" "$check" --no-bench
refused 2 "unknown option '--no-bensh'" "$check" --no-bensh "$work/out"
refused 2 "--packages: expected a folder" "$check" --packages
refused 2 "--packages: '/nonexist' is no folder" "$check" --packages /nonexist
refused 2 "--packages: '/nonexist' is no folder" "$check" --packages /nonexist "$work/out"
refused 2 "is not of scripts/gpu_pack.sh" "$check" --packages "$work/full" "$work/out"
refused 1 "$work/file" "$check" "$work/file"
refused 1 "$work/file" "$check" "$work/file/out"
refused 1 "/proc/witan" "$check" /proc/witan
refused 1 "/proc: can not be written" "$check" /proc
[ ! -e "$work/out" ] || wrong "a refused call made a folder"

pack=$scripts/gpu_pack.sh
refused 2 "no FOLDER" "$pack"
if command -v apt-get >/dev/null; then
    refused 1 "$work/full: not empty" "$pack" "$work/full"
    refused 1 "$work/file" "$pack" "$work/file"
    refused 1 "/proc/witan" "$pack" /proc/witan
fi

refused 2 "--rate: expected a rate" "$scripts/scale.sh" --rate
refused 2 "--rate: expected a rate" "$scripts/scale.sh" --rate ''

# Python without PyTorch, whatever this machine has.
if command -v python3 >/dev/null; then
    mkdir "$work/path"
    echo 'raise ImportError("none")' >"$work/path/torch.py"
    export PYTHONPATH=$work/path
    called 0 python3 "$scripts/gpu_bench.py" --help
    grep -q '^usage: gpu_bench.py' "$work/said" || wrong "gpu_bench.py: $(cat "$work/said")"
    refused 1 "gpu_bench.py: needs PyTorch with CUDA: none" \
        python3 "$scripts/gpu_bench.py" --witan witan --out "$work/out"
    called 2 python3 "$scripts/gpu_bench.py" --witan witan --out "$work/out" --shapes wrong
    grep -q "'wrong', expected some of" "$work/said" || wrong "--shapes: $(cat "$work/said")"
fi
finish
