#!/bin/bash
# shellcheck source-path=SCRIPTDIR source=lib.sh
# Writes that fail: one line that names the file, and no part of an output.
. "$(dirname "$0")/lib.sh"

works 0 synth --preset olmoe-1b-7b --scale tiny --tokens 3000 --out "$work/model"
layer=$(sed -n 's/.*, layer \([0-9]*\):.*/\1/p' "$work/stdout")
run="run --model $work/model --layer $layer --input $work/model/input.safetensors --timeout 10"

# shellcheck disable=SC2086
{
    fails 2 1 "$work/no/such/y" $run --output "$work/no/such/y"
    mkdir "$work/folder"
    fails 2 1 "$work/folder" $run --output "$work/folder"
    [ -z "$(ls -A "$work/folder")" ] || wrong "left in the folder: $(ls -A "$work/folder")"
    fails 2 1 "$work/no/such/r" $run --output "$work/out" --routing-out "$work/no/such/r"
    fails 0 1 "$work/no/such/j" bench experts --experts 1 --topk 1 --hidden 8 --inter 8 --rows 1 \
        --json "$work/no/such/j"

    # What is printed has nowhere to go: a failure, so there is no output and an old one stays.
    for stats in "" --stats; do
        echo old >"$work/old"
        "$program" $run --output "$work/old" --routing-out "$work/out" $stats >/dev/full \
            2>"$work/stderr"
        [ $? -eq 1 ] || wrong "run $stats to /dev/full: exit status"
        one_line "run $stats to /dev/full" "standard output: No space left"
        no_output "run $stats to /dev/full"
        [ "$(cat "$work/old")" = old ] || wrong "run $stats to /dev/full: the old output is gone"
    done
    for command in --help --version "run --help" "bench --help" "bench layer --help" "synth --help" \
        "check --model $work/model --layer $layer --tokens 1" info; do
        "$program" $command >/dev/full 2>"$work/stderr"
        [ $? -eq 1 ] || wrong "$command to /dev/full: exit status"
        one_line "$command to /dev/full" "standard output: No space left"
    done
    "$program" $run --output "$work/out" >&- 2>"$work/stderr"
    [ $? -eq 1 ] || wrong "standard output closed: exit status"
    one_line "standard output closed" "standard output: "
    no_output "standard output closed"

    # The limit of a file's size is an error of the write, not a signal. A program built for coverage
    # writes files of its own at its end and complains of the limit too.
    mkdir "$work/limited"
    grep -q '\.gcda' "$program" || (
        ulimit -f 64
        fails 0 1 "$work/limited/y: cannot be written: File too large" \
            $run --output "$work/limited/y"
        fails 0 1 "cannot be written: File too large" \
            synth --preset olmoe-1b-7b --out "$work/limited/model"
        ulimit -f 0 # for the text of config.json
        "$program" synth --preset olmoe-1b-7b --scale tiny --out "$work/limited/model" 2>&1 |
            grep -q "config.json: cannot be written: File too large" || wrong "config.json"
        exit "$failed"
    ) || failed=1
    [ -z "$(ls -A "$work/limited")" ] || wrong "limited: left $(ls -A "$work/limited")"

    if [ "$(id -u)" -ne 0 ]; then
        mkdir "$work/locked" && chmod 555 "$work/locked"
        fails 2 1 "$work/locked/y" $run --output "$work/locked/y"
        finish
    fi

    # As root: a small disk, then one that is read-only.
    mkdir "$work/disk"
    if ! mount -t tmpfs -o size=64k witan_test "$work/disk" 2>/dev/null; then
        echo "no tmpfs here: the full and the read-only disk are not tested"
        finish
    fi
    trap 'umount "$work/disk"; cleanup' EXIT
    fails 2 1 "$work/disk/y" $run --tokens-per-step 10 --output "$work/disk/y"
    [ -z "$(ls -A "$work/disk")" ] || wrong "full disk: left $(ls -A "$work/disk")"
    echo old >"$work/disk/y"
    fails 0 1 "$work/disk/y" $run --output "$work/disk/y"
    [ "$(cat "$work/disk/y")" = old ] || wrong "full disk: the old output is gone"
    fails 2 1 "$work/disk/r" $run --output "$work/out" --routing-out "$work/disk/r"
    mount -o remount,ro "$work/disk"
    fails 2 1 "$work/disk/z" $run --output "$work/disk/z"
}
finish
