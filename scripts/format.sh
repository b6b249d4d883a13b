#!/usr/bin/env bash
# format.sh [--check]: bring C files into the form of .clang-format, or only tell which are not.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

mode=(-i)
case ${1:-} in
--check) mode=(--dry-run --Werror) ;;
"") ;;
*) die "usage: format.sh [--check]" ;;
esac
need --install "${packages_format[@]}"
cd "$root"
sources '*.c' '*.h' | xargs -d '\n' -n 16 -P "$jobs" clang-format "${mode[@]}"
