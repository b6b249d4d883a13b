#!/bin/bash
# shellcheck source-path=SCRIPTDIR source=lib.sh
# Ranks that stop or die during `run`: the others end in time and name them; nothing stays behind.
. "$(dirname "$0")/lib.sh"

works 0 synth --preset olmoe-1b-7b --scale tiny --tokens 200000 --out "$work/model"
layer=$(sed -n 's/.*, layer \([0-9]*\):.*/\1/p' "$work/stdout")
# Where Open MPI keeps shared memory: apart from that of other jobs on this machine.
mkdir "$work/shared"
export OMPI_MCA_btl_vader_backing_directory=$work/shared

# begin RECOVERY: a run of 4 ranks that takes long; $launcher is mpirun, ranks[i] its processes
begin() {
    # shellcheck disable=SC2086
    ASAN_OPTIONS=detect_leaks=0 mpirun $1 --oversubscribe --bind-to none -n 4 "$program" run --model "$work/model" \
        --layer "$layer" --input "$work/model/input.safetensors" --output "$work/out" \
        --tokens-per-step 1 --timeout "${deadline:-2}" >"$work/stdout" 2>"$work/stderr" &
    launcher=$!
    sleep 2
    ranks=()
    local pid rank
    for pid in $(pgrep -P "$launcher"); do
        rank=$(tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null |
            sed -n 's/^OMPI_COMM_WORLD_RANK=//p')
        [ -n "$rank" ] && ranks[rank]=$pid
    done
    [ "${#ranks[@]}" -eq 4 ] || wrong "found ${#ranks[@]} ranks: $(cat "$work/stderr")"
}

# gone PID: within 3 s; a zombie that nobody reaps counts as gone
gone() {
    for _ in $(seq 30); do
        [[ "$(ps -o stat= -p "$1")" =~ ^(Z.*)?$ ]] && return 0
        sleep 0.1
    done
    return 1
}

# ended NAME SECONDS [any-status]: mpirun ends in time and fails; no process, no file, no shared memory is left
ended() {
    local since=$SECONDS status pid
    timeout $(($2 + 20)) tail --pid="$launcher" -f /dev/null
    [ $((SECONDS - since)) -le "$2" ] || wrong "$1: took $((SECONDS - since)) s"
    wait "$launcher"
    status=$?
    [ "$status" -ne 0 ] || [ -n "${3:-}" ] || wrong "$1: exit status 0"
    for pid in "${ranks[@]}"; do
        gone "$pid" || wrong "$1: process $pid is left: $(ps -o stat=,args= -p "$pid")"
    done
    no_output "$1"
    [ -z "$(ls -A "$work/shared")" ] || wrong "$1: left shared memory: $(ls "$work/shared")"
    rm -rf "${work:?}/shared/"*
}

begin ""
kill -STOP "${ranks[3]}"
ended "rank 3 stopped" 8
one_line "rank 3 stopped" "not heard from rank 3"

# The line comes a second after the deadline, not a deadline after it.
deadline=5 begin ""
kill -STOP "${ranks[2]}"
for _ in $(seq 75); do
    grep -q 'witan: ' "$work/stderr" && break
    sleep 0.1
done
grep -q 'witan: ' "$work/stderr" || wrong "rank 2 stopped: not a word after 7.5 s"
ended "rank 2 stopped" 8
one_line "rank 2 stopped" "not heard from rank 2 within 5 s"

begin ""
kill -STOP "${ranks[0]}"
ended "rank 0 stopped" 8
one_line "rank 0 stopped" "not heard from rank 0"

# mpirun itself ends the job; a line of ours may come first or not.
begin ""
kill -KILL "${ranks[2]}"
ended "rank 2 killed" 8

# Where the launcher does not end the job, the ranks do.
begin "--enable-recovery"
kill -KILL "${ranks[2]}"
ended "rank 2 killed, no launcher to help" 10 any-status
grep -v '^mpirun\|^---' "$work/stderr" | grep -q 'not heard from rank 2' ||
    wrong "rank 2 killed: $(cat "$work/stderr")"

# Interrupted by the user.
begin ""
kill -INT "$launcher"
ended "interrupted" 8
finish
