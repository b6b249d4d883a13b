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

    # The summary has nowhere to go; the result itself is good.
    "$program" $run --output "$work/y" >/dev/full 2>"$work/stderr"
    [ $? -eq 1 ] || wrong "/dev/full: exit status"
    one_line "/dev/full" "standard output"

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
