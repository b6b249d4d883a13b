#!/usr/bin/env bash
# sanitize.sh: the host and emulator tests and two ranks of the MPI tests under AddressSanitizer and
# UndefinedBehaviorSanitizer, then the fuzz targets for a fixed number of executions each.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

need --install "${packages_build[@]}" "${packages_fuzz[@]}"

say "build with sanitizers"
configure "$root/build-sanitize" -DWITAN_SANITIZE=address,undefined -DWITAN_CUDA=OFF
cmake --build "$root/build-sanitize" --parallel "$jobs"

# What Open MPI loads, keeps and unloads again shows as leaks without a name, which no suppression
# matches: leaks are looked for in the host tests.
say "test with sanitizers"
export UBSAN_OPTIONS=print_stacktrace=1
export LSAN_OPTIONS=suppressions=$root/tests/lsan.supp:print_suppressions=0
check() { # LEAKS PATTERN
    ASAN_OPTIONS=detect_leaks=$1 ctest --test-dir "$root/build-sanitize" --parallel "$jobs" \
        --output-on-failure --no-tests=error -R "$2"
}
check 1 '^host\.'
check 0 '^mpi\..*\.np2$'
check 0 '^emulator\.([a-z0-9_]+|.*\.np2)$'

say "fuzz"
"$root/tests/fuzz/run.sh" 50000
