# shellcheck shell=bash disable=SC2034
# What the scripts of this folder share. $1: the program.
# shellcheck source=tests/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
program=$1
fixtures=$(cd "$(dirname "${BASH_SOURCE[0]}")/../fixtures" && pwd)
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 WITAN_NUM_THREADS=1

cleanup() {
    chmod -R u+rwx "$work" 2>/dev/null
    rm -rf "$work"
}

# mpi WORDS...: mpirun with a time limit. Open MPI unloads the modules that own its leaks, so with
# sanitizers the leaks of several ranks are not looked for.
mpi() {
    ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_leaks=0 \
        timeout -k 5 60 mpirun --oversubscribe --bind-to none "$@"
}

# launch N WORDS...: the program on N ranks; 0: without a launcher
launch() {
    local ranks=$1
    shift
    if [ "$ranks" -eq 0 ]; then
        timeout -k 5 60 "$program" "$@"
    else
        mpi -n "$ranks" "$program" "$@"
    fi
}

# works N WORDS...: exit status 0 and not a word on stderr
works() {
    local status
    launch "$@" >"$work/stdout" 2>"$work/stderr"
    status=$?
    [ "$status" -eq 0 ] || wrong "'$*': exit $status: $(cat "$work/stderr")"
    [ ! -s "$work/stderr" ] || wrong "'$*': stderr: $(cat "$work/stderr")"
}

# one_line NAME STATUS TEXT: $work/stderr has one line of ours with TEXT in it, and no signal
one_line() {
    local lines
    lines=$(grep -c 'witan: ' "$work/stderr")
    [ "$lines" -eq 1 ] || wrong "'$1': $lines lines of ours: $(cat "$work/stderr")"
    grep 'witan: ' "$work/stderr" | grep -qF -- "$2" ||
        wrong "'$1': expected '$2' in: $(grep 'witan: ' "$work/stderr")"
    ! grep -qiE 'signal|MPI_ABORT|core dumped|sanitizer' "$work/stderr" ||
        wrong "'$1': $(cat "$work/stderr")"
}

# fails N STATUS TEXT WORDS...: exit status STATUS within seconds, one line with TEXT, no output
fails() {
    local ranks=$1 expected=$2 text=$3 status begin
    shift 3
    begin=$SECONDS
    launch "$ranks" "$@" >"$work/stdout" 2>"$work/stderr"
    status=$?
    [ "$status" -eq "$expected" ] ||
        wrong "'$*' on $ranks: exit $status, expected $expected: $(cat "$work/stderr")"
    [ $((SECONDS - begin)) -le 20 ] || wrong "'$*' on $ranks: took $((SECONDS - begin)) s"
    one_line "$* on $ranks" "$text"
    no_output "$*"
}

# no_output NAME: nothing of an output, whole or in part
no_output() {
    ! compgen -G "$work/out*" >/dev/null || wrong "'$1': left $(ls "$work"/out*)"
    rm -rf "$work"/out*
}

# same A B: equal bytes
same() {
    cmp "$1" "$2" || wrong "$1 and $2 differ"
}

# tensors FILE HEADER BYTES: a safetensors file of a header and zeros
tensors() {
    local bytes=${#2}
    {
        printf '%b' "$(printf '\\x%02x\\x%02x\\x%02x\\x%02x\\0\\0\\0\\0' $((bytes & 255)) \
            $((bytes >> 8 & 255)) $((bytes >> 16 & 255)) $((bytes >> 24 & 255)))"
        printf '%s' "$2"
        head -c "$3" /dev/zero
    } >"$1"
}
