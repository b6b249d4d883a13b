#!/bin/bash
# The command line of `witan synth`: exit status and one line of error. $1: the program.
set -u
program=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0

# expect STATUS TEXT WORDS...: the exit status, and a text in what is printed
expect() {
    local status=$1 text=$2 printed found
    shift 2
    printed=$("$program" synth "$@" 2>&1 >"$folder/stdout")
    found=$?
    [ "$found" -ne 0 ] || printed=$(cat "$folder/stdout")
    if [ "$found" -ne "$status" ]; then
        echo "synth $*: exit $found, expected $status: $printed"
        failed=1
    fi
    if [[ "$printed" != *"$text"* ]]; then
        echo "synth $*: expected '$text' in: $printed"
        failed=1
    fi
    if [ "$status" -ne 0 ] && { [ "$(wc -l <<<"$printed")" -ne 1 ] || [[ "$printed" != witan:* ]]; }; then
        echo "synth $*: expected one line 'witan: ...': $printed"
        failed=1
    fi
}

expect 0 "layer 3" --preset deepseek-v3 --scale tiny --out "$folder/a"
expect 1 "$folder/a" --preset deepseek-v3 --scale tiny --out "$folder/a"
expect 1 "$folder/no/such" --preset olmoe-1b-7b --scale tiny --out "$folder/no/such"
expect 2 "gpt-oss-120b" --preset nothing --scale tiny --out "$folder/b"
expect 2 "--scale" --preset olmoe-1b-7b --scale huge --out "$folder/b"
expect 2 "--tokens" --preset olmoe-1b-7b --tokens -1 --out "$folder/b"
expect 2 "--seed" --preset olmoe-1b-7b --seed x --out "$folder/b"
expect 2 "--out" --preset olmoe-1b-7b
expect 2 "--preset" --out "$folder/b"
expect 2 "MXFP4" --preset olmoe-1b-7b --dtype mxfp4 --out "$folder/b"
expect 0 "usage" --help

if [ -e "$folder/b" ] || compgen -G "$folder/*.partial.*" >/dev/null; then
    echo "left behind: $(ls "$folder")"
    failed=1
fi

# A long write that is ended removes what it wrote.
"$program" synth --preset olmoe-1b-7b --scale full --out "$folder/c" 2>"$folder/stderr" &
pid=$!
for _ in $(seq 100); do
    compgen -G "$folder/c.partial.*" >/dev/null && break
    sleep 0.01
done
kill -TERM "$pid"
wait "$pid"
status=$?
if [ "$status" -ne 1 ] || [ -e "$folder/c" ] || compgen -G "$folder/c.partial.*" >/dev/null; then
    echo "ended by SIGTERM: exit $status, left $(ls "$folder")"
    failed=1
fi
exit $failed
