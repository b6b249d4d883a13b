#!/usr/bin/env bash
# test_info.sh WITAN: what `witan info` says alone, under mpirun, and bound by either.
set -euo pipefail

witan=$1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
unset WITAN_TIMEOUT WITAN_NUM_THREADS WITAN_KERNEL_TIER
failed=0

# expect TEXT PATTERN...: each pattern must match a line of TEXT.
expect() {
    local text=$1 pattern
    shift
    for pattern in "$@"; do
        if ! grep -qE "$pattern" <<<"$text"; then
            printf 'no line matches: %s\nin:\n%s\n' "$pattern" "$text" >&2
            failed=1
        fi
    done
}

ranks() {
    mpirun --oversubscribe "$@"
}

alone=$("$witan" info)
expect "$alone" "^witan [0-9]+\.[0-9]+\.[0-9]+$" "^node $(hostname | cut -c1-63)$" \
    '^  cores +[0-9]+ \([0-9]+ hardware threads?\)$' '^1 rank: .*transport self$' \
    '^  host +available$' '^  cuda +(available|not available: (built without CUDA|no .+))$' \
    '^  self +available$' '^  mpi +not available: MPI is not initialised' \
    '^  nccl +(available|not available: .+)$' '^  scalar +available$' '^  avx512_bf16 +(available|not available: .+)$' \
    '^  WITAN_TIMEOUT=60$' '^  WITAN_KERNEL_TIER=auto$'

expect "$(WITAN_TIMEOUT=7 "$witan" info)" '^  WITAN_TIMEOUT=7 \(default 60\)$'

free=$(ranks --bind-to none -n 4 "$witan" info --tp 2 --bind none)
expect "$free" '^4 ranks: expert parallel 2 x tensor parallel 2 x data parallel 1, transport mpi$' \
    '^ +0 .* 0/4 .* none ' '^ +3 .* 3/4 .* none ' '^  mpi +available$'

cores=$(sed -n 's/^  cores *\([0-9]*\) .*/\1/p' <<<"$alone" | head -n 1)
if [[ $cores -ge 2 ]]; then # on one core there is nothing to narrow
    expect "$(ranks --bind-to none -n 2 "$witan" info)" '^ +0 .* by witan ' '^ +1 .* by witan '
    expect "$(ranks --bind-to core -n 2 "$witan" info)" \
        '^ +0 .* by the launcher ' '^ +1 .* by the launcher '
fi
exit $failed
