#!/usr/bin/env bash
# exports.sh LIBRARY HEADERS: the library exports exactly what the public headers declare.
set -euo pipefail
export LC_ALL=C

library=$1
headers=$2

exported=$(nm -D --defined-only "$library" | awk '{print $NF}' | sort -u)
# A declaration starts with WITAN_API and names its function before the first parenthesis.
declared=$(cat "$headers"/*.h | tr '\n' ' ' | grep -oE 'WITAN_API [a-z][^(;]*\(' |
    grep -oE 'witan_[a-z0-9_]+ ?\($' | tr -d ' (' | sort -u)

status=0
if [[ -z $declared ]]; then
    echo "no declaration found in $headers" >&2
    status=1
fi
extra=$(comm -23 <(echo "$exported") <(echo "$declared"))
missing=$(comm -13 <(echo "$exported") <(echo "$declared"))
if [[ -n $extra ]]; then
    printf 'exported but not declared:\n%s\n' "$extra" >&2
    status=1
fi
if [[ -n $missing ]]; then
    printf 'declared but not exported:\n%s\n' "$missing" >&2
    status=1
fi

soname=$(readelf -d "$library" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p')
if [[ $soname != libwitan.so.0 ]]; then
    echo "soname: expected libwitan.so.0, found '$soname'" >&2
    status=1
fi
exit $status
