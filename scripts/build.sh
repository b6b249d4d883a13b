#!/usr/bin/env bash
# build.sh [-DOPTION=...]: build the program and the library; leaves build/witan and
# build/libwitan.so. Arguments go to cmake.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

need "${packages_build[@]}"
configure "$root/build" "$@"
cmake --build "$root/build" --parallel "$jobs" --target witan_library witan_program >&2
