#!/usr/bin/env bash
# check_registers.sh OBJDUMP OBJECTS...: no vector register of a tile kernel lies on the stack.
set -euo pipefail
objdump=$1
shift
for object in "$@"; do
    if "$objdump" -d "$object" | grep -E 'rsp\).*[yz]mm|[yz]mm.*\(%rsp'; then
        echo "$object: vector registers on the stack" >&2
        exit 1
    fi
done
echo "$# objects, none with vector registers on the stack"
