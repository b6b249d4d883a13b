#!/usr/bin/env bash
# install.sh CMAKE BUILD SOURCE WORK MPIEXEC: install into a prefix below WORK, build the examples
# against it with find_package and with pkg-config, and run both builds.
set -euo pipefail

cmake=$1
build=$2
source=$3
work=$4
mpiexec=$5

prefix=$work/prefix
rm -rf "$work"
mkdir -p "$work/make"
"$cmake" --install "$build" --prefix "$prefix" >"$work/install.log"

libdir=$(dirname "$(find "$prefix" -name libwitan.so)")
for file in include/witan/witan.h include/witan/witan_mpi.h bin/witan; do
    [[ -e $prefix/$file ]] || { echo "not installed: $file" >&2; exit 1; }
done
[[ ! -e $source/docs/witan.1 || -e $prefix/share/man/man1/witan.1 ]] ||
    { echo "not installed: the man page" >&2; exit 1; }

run_both() { # FOLDER
    "$1/forward"
    "$1/forward_device" host
    "$mpiexec" --oversubscribe --bind-to none -n 2 "$1/forward_mpi"
}

echo "find_package:"
"$cmake" -S "$source/examples" -B "$work/cmake" -DCMAKE_PREFIX_PATH="$prefix" >"$work/cmake.log"
"$cmake" --build "$work/cmake" >>"$work/cmake.log"
run_both "$work/cmake"

echo "pkg-config:"
cp "$source"/examples/*.c "$source"/examples/*.h "$source/examples/Makefile" "$work/make"
PKG_CONFIG_PATH=$libdir/pkgconfig make -C "$work/make" >"$work/make.log"
export LD_LIBRARY_PATH=$libdir
run_both "$work/make"

"$prefix/bin/witan" --version
