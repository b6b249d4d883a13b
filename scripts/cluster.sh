#!/usr/bin/env bash
# cluster.sh: several "nodes" on this machine: network namespaces, each with a host name of its own
# and one link to a common switch, limited in both directions. See usage below.
#
# Nothing of a cluster is outside of its namespaces, witan-NAME-0 ... and witan-NAME-switch, except
# /etc/netns/witan-NAME-*, which `ip netns exec` shows a node as its /etc/hosts. So what a crash
# leaves is found by name alone, and two clusters never meet, not even with the same addresses.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

# Exit status where a cluster can not be made here; ctest takes it for "skipped".
refused=77
mtu=9000

usage() {
    cat <<'END'
cluster.sh [--name NAME] COMMAND: several nodes on one machine, for tests and measurements

  up [--cores N] NODES [RATE]
                   make NODES nodes, each link limited to RATE (as 1gbit, 200mbit) in both
                   directions, unlimited without; --cores: each node's programs keep to N cores
                   of this machine, dealt in turn. If the same cluster is up, nothing is done;
                   another one of this name is taken down first.
  run [-n RANKS] [--bytes] [MPIRUN OPTIONS --] PROGRAM ARGUMENTS...
                   mpirun over the nodes, RANKS dealt in equal blocks (one on each node without
                   -n); --bytes: then print what each link carried, to stderr
  exec NODE COMMAND...
                   run a command on node 0, 1, ...
  bytes            a table of what the link of each node carried since up
  status           a table of the nodes; exit status 1 where there is no such cluster
  down             end what still runs in the nodes, and remove them

NAME, or WITAN_CLUSTER in the environment, is letters and digits; "node" without. The nodes are
called witan-NAME-0 and so on. Needs root and iproute2; exit status 77 where that can not be had.
END
}

wrong() {
    printf 'cluster.sh: %s; see cluster.sh --help\n' "$*" >&2
    exit 2
}

refuse() {
    printf 'cluster.sh: %s\n' "$*" >&2
    exit $refused
}

# rights: what every command needs.
rights() {
    local lacking
    mapfile -t lacking < <(missing "${packages_cluster[@]}")
    if [[ ${#lacking[@]} -ne 0 ]]; then
        refuse "missing packages; as root: apt-get install ${lacking[*]}"
    fi
    if [[ $(id -u) -ne 0 ]]; then
        refuse "network namespaces need root"
    fi
}

# possible: what `up` needs, tried in a namespace that vanishes with the trial.
possible() {
    local text
    text=$(unshare --net --mount --uts sh -ec '
        hostname witan
        ip link add switch type bridge
        ip link add port type veth peer name eth0
        tc qdisc add dev eth0 root tbf rate 1gbit burst 128k latency 1ms' 2>&1) ||
        refuse "no network namespaces with bridge, veth and tbf here: ${text//$'\n'/; }"
    text=$(mkdir -p /etc/netns /run/netns 2>&1) || refuse "$text"
}

# parts: what there is of this cluster, whole or not: the nodes by number, then the switch.
parts() {
    local path
    for path in /run/netns/"$prefix"* /etc/netns/"$prefix"*; do
        if [[ ${path##*/} =~ ^"$prefix"([0-9]+|switch)$ ]]; then
            printf '%s\n' "${BASH_REMATCH[1]}"
        fi
    done | sort -Vu
}

# described: NODES RATE CORES ALLOWED of a cluster that is up. `up` writes this last, into the
# kernel's name for the switch, so a cluster that is half made has none.
described() {
    ip -n "${prefix}switch" link show switch 2>/dev/null | sed -n 's/^ *alias //p'
}

# running: nodes, rate, cores and allowed are set, or there is no such cluster.
running() {
    rights
    read -r nodes rate cores allowed < <(described) ||
        die "no cluster '$name'; cluster.sh up NODES makes one"
}

in_node() { # NODE COMMAND...
    ip netns exec "$prefix$1" "${@:2}"
}

# enter NODE COMMAND...: become the command, with the node's host name, hosts and cores.
enter() {
    local node=$1 keep=()
    shift
    if [[ $cores != all ]]; then
        keep=(taskset --cpu-list "$(core_list "$node")")
    fi
    # shellcheck disable=SC2016 # for the inner shell
    exec ip netns exec "$prefix$node" unshare --uts "${keep[@]}" \
        sh -c 'hostname "$0" && exec "$@"' "$prefix$node" "$@"
}

# core_list NODE: its cores, out of those that `up` was allowed to use (as 0-3,8).
core_list() {
    local range core all=() list=
    for range in ${allowed//,/ }; do
        for ((core = ${range%-*}; core <= ${range#*-}; core++)); do
            all+=("$core")
        done
    done
    for ((core = $1 * cores; core < ($1 + 1) * cores; core++)); do
        list+=,${all[core % ${#all[@]}]}
    done
    printf '%s' "${list#,}"
}

# A link's limit, in one direction. The bucket holds 1 ms, and at least two of the 64 KiB pieces
# that the kernel hands over at once. The queue holds 100 ms: as in the lossless fabrics of real
# clusters senders wait, and hardly a packet is dropped, where many send to one.
limit() { # NAMESPACE DEVICE
    local bytes burst
    if [[ $rate == unlimited ]]; then
        return
    fi
    bytes=$(rate_bytes "$rate")
    burst=$((bytes / 1000 > 131072 ? bytes / 1000 : 131072))
    tc -n "$1" qdisc add dev "$2" root tbf rate "$rate" burst "$burst" \
        limit $((burst + bytes / 10))
}

# rate_bytes RATE: bytes per second, or nothing if it is no rate.
rate_bytes() {
    if [[ $1 =~ ^([0-9]+(\.[0-9]+)?)([kmg]bit)$ ]]; then
        awk -v number="${BASH_REMATCH[1]}" -v unit="${BASH_REMATCH[3]}" 'BEGIN {
            scale["kbit"] = 1e3; scale["mbit"] = 1e6; scale["gbit"] = 1e9
            printf "%.0f", number * scale[unit] / 8 }'
    fi
}

up() {
    local node host hosts text bytes
    cores=all
    allowed=$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status)
    if [[ ${1:-} == --cores ]]; then
        cores=${2:-}
        [[ $cores =~ ^[1-9][0-9]*$ && $cores -le $jobs ]] ||
            wrong "--cores: '$cores', expected 1 to $jobs"
        shift 2
    fi
    nodes=${1:-}
    rate=${2:-unlimited}
    [[ $# -le 2 ]] || wrong "up: '$3' is one argument too many"
    [[ $nodes =~ ^[1-9][0-9]{0,2}$ && $nodes -le 250 ]] ||
        wrong "up: '$nodes' nodes, expected 1 to 250"
    if [[ $rate != unlimited ]]; then
        bytes=$(rate_bytes "$rate")
        # What tbf can hold of a tenth of a second is 32 bits of bytes.
        [[ -n $bytes && $bytes -ge 1000 && $bytes -le 25000000000 ]] ||
            wrong "up: rate '$rate', expected a number with kbit, mbit or gbit, 8kbit to 200gbit"
    fi
    rights
    possible
    if [[ $(described) == "$nodes $rate $cores $allowed" ]]; then
        return
    fi
    clear
    [[ -z $(parts) ]] || die "what is left of cluster '$name' can not be removed"

    host=${prefix}switch
    text=$(ip netns add "$host" 2>&1 && ip netns exec "$host" true 2>&1) || {
        clear
        refuse "no network namespaces here: ${text//$'\n'/; }"
    }
    ip -n "$host" link add switch mtu $mtu type bridge forward_delay 0 mcast_snooping 0
    silence "$host" switch
    ip -n "$host" link set switch up
    hosts="127.0.0.1 localhost"$'\n'
    for ((node = 0; node < nodes; node++)); do
        hosts+="10.0.0.$((node + 1)) $prefix$node"$'\n'
    done
    for ((node = 0; node < nodes; node++)); do
        plug "$node" "$host" "$hosts"
    done
    ip -n "$host" link set switch alias "$nodes $rate $cores $allowed"
}

# silence NAMESPACE DEVICE: neither counters nor timings should see what IPv6 says on its own.
silence() {
    ip -n "$1" link set "$2" addrgenmode none 2>/dev/null || true # a kernel without IPv6
}

# plug NODE SWITCH HOSTS: one node, its link, and the names it knows.
plug() {
    local host=$prefix$1
    ip netns add "$host"
    mkdir -p "/etc/netns/$host"
    printf '%s' "$3" >"/etc/netns/$host/hosts"
    ip -n "$host" link add eth0 mtu $mtu type veth peer name "port$1" mtu $mtu netns "$2"
    silence "$host" eth0
    silence "$2" "port$1"
    ip -n "$host" link set lo up
    ip -n "$host" address add "10.0.0.$(($1 + 1))/24" dev eth0
    limit "$host" eth0
    limit "$2" "port$1"
    ip -n "$2" link set "port$1" master switch up
    ip -n "$host" link set eth0 up
}

# living: the processes in the nodes.
living() {
    local part
    for part in $(parts); do
        ip netns pids "$prefix$part" 2>/dev/null || true
    done
}

# clear: remove whatever there is of this cluster. Programs have a second to end by themselves.
clear() {
    local part pids signal=TERM begin=$SECONDS
    while mapfile -t pids < <(living) && [[ ${#pids[@]} -ne 0 && $((SECONDS - begin)) -le 20 ]]; do
        kill -$signal "${pids[@]}" 2>/dev/null || true
        sleep 0.2
        if ((SECONDS - begin > 1)); then
            signal=KILL
        fi
    done
    for part in $(parts); do
        # An orphan of `ip netns add` is a plain file, which `ip netns delete` does not know.
        ip netns delete "$prefix$part" 2>/dev/null || rm -f "/run/netns/$prefix$part"
        rm -rf "/etc/netns/$prefix$part"
        # Open MPI leaves these where it was killed.
        rm -rf "${TMPDIR:-/tmp}/ompi.$prefix$part".* /dev/shm/*."$prefix$part".*
    done
    rmdir /etc/netns 2>/dev/null || true
}

# run: mpirun stands in node 0, so that no rank and no message is outside of the cluster.
run() {
    local ranks counted=false options=() hosts='' node share word before status=0
    running
    ranks=$nodes
    while [[ ${1:-} == -n || ${1:-} == --bytes ]]; do
        if [[ $1 == --bytes ]]; then
            counted=true
            shift
            continue
        fi
        ranks=${2:-}
        [[ $ranks =~ ^[1-9][0-9]{0,4}$ ]] || wrong "run: -n '$ranks', expected a number of ranks"
        shift 2
    done
    for word in "$@"; do
        if [[ $1 != -* ]]; then
            break # the program: what follows is its own
        fi
        if [[ $word == -- ]]; then
            while [[ $1 != -- ]]; do
                options+=("$1")
                shift
            done
            shift
            break
        fi
    done
    [[ $# -gt 0 ]] || wrong "run: no program"
    [[ $1 != -* ]] || wrong "run: '$1' is no program: mpirun's options end with --"
    for ((node = 0; node < nodes; node++)); do
        share=$((ranks / nodes + (node < ranks % nodes)))
        if ((share > 0)); then
            hosts+=,$prefix$node:$share
        fi
    done

    # Settings, not options: the caller's own --mca wins. The agent is found by PATH, since Open MPI
    # splits it at blanks. Nodes share the cores, so Open MPI must not bind ranks of two to one.
    export PATH=$PATH:$root/scripts WITAN_CLUSTER=$name
    export OMPI_MCA_plm_rsh_agent="cluster.sh agent"
    export OMPI_MCA_plm_rsh_no_tree_spawn=1
    export OMPI_MCA_oob_tcp_if_include=eth0 OMPI_MCA_btl_tcp_if_include=eth0
    export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader,tcp OMPI_MCA_osc=^ucx
    export OMPI_MCA_hwloc_base_binding_policy=none
    # No node has more ranks than cores, so Open MPI would have idle ranks spin; but all nodes have
    # the same cores, and those who compute or move messages would wait for those who spin.
    if ((ranks > jobs)); then
        export OMPI_MCA_mpi_yield_when_idle=1
    fi
    # A put is one piece as long as its message, and the answers that the other direction waits for
    # queue behind it: one direction at a time.
    export OMPI_MCA_btl_tcp_flags=send
    # Those answers share a connection with the data sent back: a buffer that takes a whole message
    # has them wait until it has left, one direction at a time again.
    export OMPI_MCA_btl_tcp_sndbuf=131072
    # Debian's Open MPI asks for devices that a node does not have, and says so.
    export OMPI_MCA_btl_base_warn_component_unused=0
    before=$(! $counted || counters)
    quietly enter 0 mpirun --host "${hosts#,}" -n "$ranks" "${options[@]}" "$@" || status=$?
    if $counted; then
        {
            counters_head
            paste -d ' ' <(printf '%s\n' "$before") <(counters) | awk '{
                printf "%-6d %14.0f %14.0f %12.0f %12.0f\n", $1, $7 - $2, $8 - $3, $9 - $4, $10 - $5
            }'
        } >&2
    fi
    return $status
}

# quietly COMMAND...: run it, without the one warning of Open MPI's launcher that it gives by
# chance, when an agent has started before the launcher looks at it again. A signal is handed on.
quietly() {
    local errors filter child status=0
    exec {errors}> >(grep --line-buffered -v 'plm:rsh: Warning: setpgid(' >&2)
    filter=$!
    ("$@") 2>&"$errors" {errors}>&- <&0 &
    child=$!
    exec {errors}>&-
    trap 'kill "$child"' HUP INT TERM
    wait "$child" || status=$?
    trap - HUP INT TERM
    if [[ $status -gt 128 ]]; then # perhaps of a signal to this script
        wait "$child" 2>/dev/null || status=$?
    fi
    wait "$filter" || true
    return $status
}

counters_head() {
    printf '%-6s %14s %14s %12s %12s\n' '# node' sent_bytes received_bytes sent_pieces \
        received_pieces
}

# counters: a line for each node; what its end of the link counted.
counters() {
    local node
    for ((node = 0; node < nodes; node++)); do
        # shellcheck disable=SC2016 # for the inner shell
        printf '%d %s\n' "$node" "$(in_node "$node" sh -c 'cd /sys/class/net/eth0/statistics
            echo $(cat tx_bytes rx_bytes tx_packets rx_packets)')"
    done
}

bytes() {
    running
    counters_head
    counters | awk '{ printf "%-6d %14.0f %14.0f %12.0f %12.0f\n", $1, $2, $3, $4, $5 }'
}

status() {
    local node list=all
    running
    printf '%-6s %-24s %-12s %-10s %-8s %s\n' '# node' host address rate cores processes
    for ((node = 0; node < nodes; node++)); do
        if [[ $cores != all ]]; then
            list=$(core_list "$node")
        fi
        printf '%-6d %-24s %-12s %-10s %-8s %d\n' "$node" "$prefix$node" "10.0.0.$((node + 1))" \
            "$rate" "$list" "$(ip netns pids "$prefix$node" | wc -l)"
    done
}

# agent HOST WORDS...: what mpirun calls in place of ssh.
agent() {
    local host=$1
    running
    shift
    enter "${host#"$prefix"}" sh -c "$*"
}

name=${WITAN_CLUSTER:-node}
while [[ ${1:-} == -* ]]; do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --name)
            name=${2:-}
            shift $(($# > 1 ? 2 : 1))
            ;;
        *) wrong "unknown option '$1'" ;;
    esac
done
[[ $name =~ ^[a-z0-9]{1,20}$ ]] || wrong "name '$name', expected up to 20 letters and digits"
prefix=witan-$name-
verb=${1:-}
shift $(($# > 0 ? 1 : 0))

case $verb in
    up | down)
        # One change at a time; the script itself is the lock, so nothing is left of it.
        exec {lock}<"${BASH_SOURCE[0]}"
        flock --timeout 60 "$lock" || die "another cluster.sh has been at work for a minute"
        ;;&
    up) up "$@" ;;
    down)
        rights
        clear
        ;;
    exec)
        [[ $# -ge 2 ]] || wrong "exec: expected a node and a command"
        running
        [[ $1 =~ ^(0|[1-9][0-9]{0,2})$ && $1 -lt $nodes ]] ||
            wrong "exec: no node '$1' of $nodes"
        enter "$@"
        ;;
    run | bytes | status | agent) "$verb" "$@" ;;
    '') wrong "no command" ;;
    *) wrong "unknown command '$verb'" ;;
esac
