# shellcheck shell=bash disable=SC2034
# What the scripts of this folder share. Each has a cluster of its own, $name, taken down at the end.
# shellcheck source=tests/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
cluster=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../scripts" && pwd)/cluster.sh
name=test$$
export WITAN_NUM_THREADS=1

cleanup() {
    "$cluster" --name "$name" down
    "$cluster" --name "${name}b" down
    rm -rf "$work"
}

cluster() {
    timeout -k 5 60 "$cluster" --name "$name" "$@"
}

# up WORDS...: or the test is skipped, where not even the first cluster is possible
possible=false
up() {
    local status=0
    cluster up "$@" || status=$?
    $possible || [ $status -ne 77 ] || exit 77
    [ $status -eq 0 ] || wrong "up $*: exit $status"
    possible=true
}

# nothing_left NAME: no namespace, file or shared memory of cluster NAME
nothing_left() {
    local left
    left=$(ip netns list | grep "^witan-$1-"; compgen -G "/run/netns/witan-$1-*"
        compgen -G "/etc/netns/witan-$1-*"; compgen -G "${TMPDIR:-/tmp}/ompi.witan-$1-*"
        compgen -G "/dev/shm/*witan-$1-*")
    equal "what is left of $1" "$left" ""
}

# above NAME FOUND LIMIT, below NAME FOUND LIMIT: any numbers
above() {
    awk -v found="$2" -v limit="$3" 'BEGIN { exit !(found >= limit) }' ||
        wrong "$1: found $2, expected at least $3"
}

below() {
    awk -v found="$2" -v limit="$3" 'BEGIN { exit !(found <= limit) }' ||
        wrong "$1: found $2, expected at most $3"
}
