#!/usr/bin/env bash
# Whatever is killed, and whenever: `down` removes it all, and `up` makes the whole cluster.
# shellcheck source=tests/cluster/lib.sh
source "$(dirname "$0")/lib.sh"

# children PID: it and its children, all the way
children() {
    local child
    local found=()
    read -ra found 2>/dev/null <"/proc/$1/task/$1/children"
    for child in "${found[@]}"; do
        children "$child"
    done
    echo "$1"
}

# `up` killed at another point each time
up 1
cluster down
for delay in 0.03 0.06 0.1 0.15; do
    "$cluster" --name "$name" up 12 10mbit &
    script=$!
    sleep $delay
    mapfile -t killed < <(children $script)
    # The shell says of each that it was killed.
    { kill -9 "${killed[@]}"; wait $script; } 2>/dev/null
done
up 2
equal "nodes" "$(cluster status | grep -cv '^#')" 2
equal "namespaces" "$(ip netns list | grep -c "^witan-$name-")" 3
equal "ranks" "$(cluster run hostname | sort | tr '\n' ' ')" "witan-$name-0 witan-$name-1 "
cluster down
nothing_left "$name"

# what a crash may leave: a name without a namespace, a folder without a node
touch "/run/netns/witan-$name-7"
mkdir -p "/etc/netns/witan-$name-9"
up 2
cluster run true || wrong "run after a crash: exit $?"
equal "nodes" "$(cluster status | grep -cv '^#')" 2
touch "/run/netns/witan-$name-7"
cluster down
nothing_left "$name"

# `run` killed: the ranks live on, without a launcher, until `down`
up 2
"$cluster" --name "$name" run -n 4 sh -c 'trap "" TERM HUP; while :; do sleep 0.1; done' \
    >/dev/null 2>&1 &
script=$!
for ((try = 0; try < 100; try++)); do
    ranks=$(ip netns pids "witan-$name-1" | xargs -r ps -o args= -p | grep -c '^sh -c trap')
    [ "$ranks" -lt 2 ] || break
    sleep 0.05
done
above "ranks on node 1" "$ranks" 2 # and what they fork
mapfile -t before < <(ip netns pids "witan-$name-0"; ip netns pids "witan-$name-1")
{ kill -9 $script; wait $script; } 2>/dev/null
cluster down || wrong "down: exit $?"
nothing_left "$name"
for pid in "${before[@]}"; do
    [ ! -e "/proc/$pid" ] || grep -q '^State:.*zombie' "/proc/$pid/status" ||
        wrong "process $pid is left: $(tr '\0' ' ' <"/proc/$pid/cmdline")"
done
finish
