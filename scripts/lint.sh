#!/usr/bin/env bash
# lint.sh: clang-tidy, cppcheck and shellcheck; fails on any finding.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

need --install "${packages_build[@]}" "${packages_lint[@]}"
cd "$root"
folders=()
for folder in core comm dispatch experts topology kernels launcher; do
    if [[ -d $folder ]]; then
        folders+=("$folder")
    fi
done

findings=0

say "shellcheck"
mapfile -t scripts < <(sources '*.sh' '.ci/run')
shellcheck -x "${scripts[@]}" || findings=1

# Left to clang's analyzer, which follows memory through memcpy, casts and calls: cppcheck does not.
say "cppcheck"
suppressions=(missingIncludeSystem uninitvar legacyUninitvar uninitdata memleak
    arrayIndexThenCheck arrayIndexOutOfBoundsCond invalidFunctionArg)
cppcheck --quiet --error-exitcode=1 --std=c11 --enable=warning,performance,portability \
    --inline-suppr "${suppressions[@]/#/--suppress=}" -I . -I include -j "$jobs" \
    "${folders[@]}" || findings=1

# clang reads the commands of a gcc build: what it does not know of them is no finding.
say "clang-tidy"
configure build-lint -DBUILD_TESTING=OFF
# Sources that need CUDA's headers are in the list where there are any.
grep -o '"file": "[^"]*\.c"' build-lint/compile_commands.json | cut -d '"' -f 4 | sort -u |
    xargs -n 2 -P "$jobs" clang-tidy -p build-lint --quiet \
        --extra-arg=-Wno-unknown-warning-option --extra-arg=-Wno-ignored-optimization-argument ||
    findings=1
exit $findings
