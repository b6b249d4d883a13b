#!/usr/bin/env bash
# test.sh [ctest arguments]: install what is missing, build with warnings as errors, run every test.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

need --install "${packages_build[@]}" "${packages_test[@]}"
if [[ $(id -u) -eq 0 ]]; then
    need --install "${packages_cluster[@]}" # without, tests on several nodes are skipped
fi
say "build"
configure "$root/build" -DWITAN_WERROR=ON -DBUILD_TESTING=ON
cmake --build "$root/build" --parallel "$jobs"

# Tests tell ctest how many processors they keep busy, so ranks of two tests seldom meet; one more
# than there are, as many wait most of their time.
say "test"
ctest --test-dir "$root/build" --parallel $((jobs + 1)) --output-on-failure --no-tests=error "$@"
