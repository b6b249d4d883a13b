# shellcheck shell=bash disable=SC2034
# What all test scripts share: a folder of their own in $work, and what is wrong, told. A script
# calls `finish` last.
set -u
work=$(mktemp -d)
failed=0
export LC_ALL=C

cleanup() {
    rm -rf "$work"
}
trap 'cleanup' EXIT

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
