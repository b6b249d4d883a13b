# shellcheck shell=bash disable=SC2034
# What the scripts of this folder share.
# shellcheck source=tests/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../scripts" && pwd)

# called STATUS COMMAND...: that exit status; what it says is in $work/said
called() {
    local status=0
    timeout -k 5 20 "${@:2}" >"$work/said" 2>&1 || status=$?
    [ "$status" -eq "$1" ] ||
        wrong "'${*:2}': exit $status, expected $1: $(tail -n 20 "$work/said")"
}

# refused STATUS TEXT COMMAND...: that exit status, one line with TEXT
refused() {
    called "$1" "${@:3}"
    equal "lines of '${*:3}'" "$(wc -l <"$work/said")" 1
    grep -qF -- "$2" "$work/said" || wrong "'${*:3}': expected '$2' in: $(cat "$work/said")"
}
