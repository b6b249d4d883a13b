#!/usr/bin/env bash
# A cluster goes up and down however often it is asked to; programs see the nodes; what can not be
# is refused.
# shellcheck disable=SC2016 # what ranks expand
# shellcheck source=tests/cluster/lib.sh
source "$(dirname "$0")/lib.sh"

# refused STATUS TEXT COMMAND...: that exit status, one line with TEXT
refused() {
    local status=0
    "${@:3}" >"$work/out" 2>&1 || status=$?
    equal "'${*:3}'" $status "$1"
    equal "lines of '${*:3}'" "$(wc -l <"$work/out")" 1
    grep -qF -- "$2" "$work/out" || wrong "'${*:3}': expected '$2' in: $(cat "$work/out")"
}

# made: when the switch was made, so to say
made() {
    stat -c %i "/run/netns/witan-$name-switch"
}

up 3 50mbit
first=$(made)
equal "status" "$(cluster status | awk '!/^#/ { print $1, $2, $3, $4, $5, $6 }')" \
    "0 witan-$name-0 10.0.0.1 50mbit all 0
1 witan-$name-1 10.0.0.2 50mbit all 0
2 witan-$name-2 10.0.0.3 50mbit all 0"
up 3 50mbit
equal "the same cluster, asked for again" "$(made)" "$first"
up --cores 1 2
[ "$(made)" != "$first" ] || wrong "another cluster is the first one"
equal "nodes" "$(cluster status | awk '!/^#/ { print $2, $4 }')" \
    "witan-$name-0 unlimited
witan-$name-1 unlimited"
equal "a node's name" "$(cluster exec 1 hostname)" "witan-$name-1"
equal "a node's cores" "$(cluster exec 1 nproc)" 1
equal "this machine's name" "$(hostname)" "$(cat /proc/sys/kernel/hostname)"

equal "blocks of ranks" \
    "$(cluster run -n 5 sh -c 'echo "$OMPI_COMM_WORLD_RANK $(hostname) $(nproc)"' | sort)" \
    "0 witan-$name-0 1
1 witan-$name-0 1
2 witan-$name-0 1
3 witan-$name-1 1
4 witan-$name-1 1"
equal "stdin, options, an environment" \
    "$(echo word | cluster run -n 2 -x COLOUR=blue --tag-output -- sh -c 'echo "$COLOUR $(cat)"' |
        sed 's/.*,\([0-9]\)\]<stdout>:/\1 /' | sort)" \
    "0 blue word
1 blue "
cluster run sh -c 'exit 5' >/dev/null 2>&1
equal "the program's exit status" $? 5

# Two clusters have the same addresses and do not meet.
beside() {
    local name=${name}b
    up 2
    equal "the other cluster" "$(cluster run hostname | sort | tr '\n' ' ')" \
        "witan-$name-0 witan-$name-1 "
    cluster down
    nothing_left "$name"
}
beside
equal "the first cluster" "$(cluster run hostname | sort | tr '\n' ' ')" \
    "witan-$name-0 witan-$name-1 "

cluster down || wrong "down: exit $?"
nothing_left "$name"
cluster down || wrong "down twice: exit $?"

refused 1 "no cluster '$name'" cluster status
refused 1 "no cluster '$name'" cluster run true
refused 2 "'0' nodes" cluster up 0
refused 2 "'251' nodes" cluster up 251
refused 2 "rate '3'" cluster up 2 3
refused 2 "--cores: '0'" cluster up --cores 0 2
refused 2 "name 'a_b'" "$cluster" --name a_b up 2
refused 2 "unknown command 'start'" cluster start
refused 2 "no command" cluster
up 1
refused 2 "'--tag-output' is no program" cluster run --tag-output true
refused 2 "no program" cluster run -n 2
refused 2 "no node '1' of 1" cluster exec 1 true
cluster down
# Without rights over this machine, as root of a namespace and as nobody in one.
if unshare --user true 2>/dev/null; then
    refused 77 "need root" unshare --user "$cluster" --name "$name" up 2
    refused 77 "cluster.sh: " unshare --user --map-root-user "$cluster" --name "$name" up 2
    nothing_left "$name"
fi
finish
