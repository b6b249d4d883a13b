# shellcheck shell=bash disable=SC2034
# What the scripts of this folder share. A script calls `finish` last.
set -u
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../scripts" && pwd)
work=$(mktemp -d)
failed=0
export LC_ALL=C
trap 'rm -rf "$work"' EXIT

wrong() {
    echo "WRONG: $*"
    failed=1
}

finish() {
    [ "$failed" -eq 0 ] && echo "all good"
    exit "$failed"
}

# equal NAME FOUND EXPECTED
equal() {
    [ "$2" = "$3" ] || wrong "$1: found '$2', expected '$3'"
}

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
