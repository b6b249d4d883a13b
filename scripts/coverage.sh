#!/usr/bin/env bash
# coverage.sh: line coverage of the library by all tests; fails below 90%.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

need --install "${packages_build[@]}" "${packages_coverage[@]}"
folder=$root/build-coverage
configure "$folder" -DWITAN_COVERAGE=ON -DWITAN_CUDA=OFF
cmake --build "$folder" --parallel "$jobs"
find "$folder" -name '*.gcda' -delete
# Other orders of threads, more ranks and more rows run the same lines; the program's own are not
# counted, and its tests are long.
ctest --test-dir "$folder" --parallel "$jobs" --output-on-failure --no-tests=error \
    -E '^cluster\.|cuda_ffn_limits|\.(random1|reverse|reverseearly)$|^emulator\..*\.np3$|launcher_[a-z]+$|\.plot|\.plan_|\.np[458]$'

say "line coverage of the library"
cd "$root"
gcovr --root . --object-directory "$folder" -j "$jobs" --sort-uncovered \
    --filter 'core/' --filter 'comm/' --filter 'dispatch/' --filter 'experts/' \
    --filter 'topology/' --filter 'kernels/' --fail-under-line 90 "$folder"
