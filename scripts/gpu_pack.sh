#!/usr/bin/env bash
# gpu_pack.sh: what gpu_check.sh needs, for a machine without a network. See usage below.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

packages=(libopenmpi3 libopenmpi-dev openmpi-bin openmpi-common libpmix2 libevent-core-2.1-7
    libevent-pthreads-2.1-7 libhwloc15 libhwloc-dev libjansson4 libjansson-dev check libsubunit0
    libsubunit-dev libudev1 pkgconf pkgconf-bin libpkgconf3 zlib1g libmunge2)
limit_kib=$((60 * 1000))

usage() {
    cat <<'END'
gpu_pack.sh FOLDER: unpack what gpu_check.sh needs beside CUDA, a compiler and CMake into FOLDER
(Open MPI, hwloc, jansson, Check and pkg-config of this Debian release), to be carried to a GPU
machine without a network. FOLDER is made, or is empty. Below 60 MB. Installs nothing.
END
}

wrong() {
    printf 'gpu_pack.sh: %s; see gpu_pack.sh --help\n' "$*" >&2
    exit 2
}

case ${1:-} in
    -h | --help)
        usage
        exit 0
        ;;
    -*) wrong "unknown option '$1'" ;;
    '') wrong "no FOLDER" ;;
esac
[[ $# -eq 1 ]] || wrong "'$2' is one argument too many"
command -v apt-get >/dev/null || die "apt-get: not found; this script runs on Debian"
text=$(mkdir -p "$1" 2>&1) || die "$text"
[[ -z $(ls -A "$1") ]] || die "$1: not empty"
[[ -w $1 ]] || die "$1: can not be written"
folder=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# As root apt downloads as another user, who must reach the folder.
chmod 755 "$work"
(cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "${packages[@]}" >&2) ||
    die "the packages could not be downloaded; as root: apt-get update"
for package in "$work"/*.deb; do
    dpkg-deb -x "$package" "$folder"
done
rm -rf "$folder"/usr/share/{doc,man,info,lintian,locale,bug} \
    "$folder"/usr/lib/x86_64-linux-gnu/openmpi/lib/fortran \
    "$folder"/usr/lib/x86_64-linux-gnu/fortran
# Wants a compressor that is not carried, and says so at every start.
rm -f "$folder"/usr/lib/x86_64-linux-gnu/pmix2/lib/pmix/pmix_mca_pcompress_zlib.so
find "$folder" -name '*.a' ! -name 'libcheck*' ! -name 'libsubunit*' -delete
find "$folder" -name '*_java*' -delete -o -name '*mpifh*' -delete -o -name '*usempi*' -delete -o \
    -name '*.mod' -delete

size=$(du -sk "$folder" | cut -f1)
((size < limit_kib)) || die "$folder: $size KiB, expected less than $limit_kib"
say "$folder: $size KiB; on the GPU machine: scripts/gpu_check.sh --packages ${1@Q} OUTDIR"
