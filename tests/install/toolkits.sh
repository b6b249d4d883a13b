#!/usr/bin/env bash
# toolkits.sh CMAKE FINDER WORK: which CUDA toolkit FINDER, cmake/WitanCuda.cmake, takes among made-up
# ones below WORK. A toolkit is a script that knows its release, headers and an empty library.
set -euo pipefail

cmake=$1
finder=$2
work=$3
failed=0

rm -rf "$work"
mkdir -p "$work"
work=$(cd "$work" && pwd -P)
unset CUDACXX CUDAToolkit_ROOT CUDA_HOME CUDA_PATH

cat >"$work/find.cmake" <<'END'
set(CMAKE_FIND_LIBRARY_PREFIXES lib)
set(CMAKE_FIND_LIBRARY_SUFFIXES .so .a)
include(${FINDER})
witan_find_cuda()
message("${WITAN_CUDA_TEXT}${WITAN_CUDA_REASON} [${WITAN_CUDART_FOLDER}]")
END

toolkit() { # FOLDER RELEASE CUDART_VERSION LIBRARY...
    local folder=$work/$1
    mkdir -p "$folder/bin" "$folder/include" "$folder/lib"
    printf '#!/bin/sh\necho "release %s, V%s.1"\n' "$2" "$2" >"$folder/bin/nvcc"
    chmod +x "$folder/bin/nvcc"
    echo "#define CUDART_VERSION  $3" >"$folder/include/cuda_runtime_api.h"
    touch "$folder/include/cublas_v2.h" "$folder/include/nccl.h"
    shift 3
    for library in "$@"; do
        touch "$folder/lib/$library"
    done
}

finds() { # WHAT EXPECTED [VARIABLE=VALUE...] [-D...]: EXPECTED is found in what cmake says
    local what=$1 expected=$2 said
    shift 2
    local environment=()
    while [[ $# -gt 0 && $1 != -D* ]]; do
        environment+=("$1")
        shift
    done
    said=$(env "${environment[@]}" "$cmake" "$@" "-DFINDER=$finder" -P "$work/find.cmake" 2>&1)
    if [[ $said != *"$expected"* ]]; then
        echo "$what: expected '$expected', found '$said'" >&2
        failed=1
    fi
}

toolkit full 13.0 13000 libcudart.so libcudart_static.a
toolkit wheels/cu13 13.0 13000 libcudart.so.13
toolkit other 12.9 12090 libcudart_static.a
toolkit old 12.4 12040 libcudart_static.a
toolkit mixed 13.0 12090 libcudart_static.a
toolkit bare 13.0 13000
toolkit headless 13.0 13000 libcudart_static.a
rm "$work/headless/include/cuda_runtime_api.h"
mkdir -p "$work/wheels/nccl/include" "$work/links/bin" "$work/scripts/bin"
mv "$work/wheels/cu13/include/nccl.h" "$work/wheels/nccl/include"
ln -s "$work/full/bin/nvcc" "$work/links/bin/nvcc"
printf '#!/bin/sh\necho "release 13.0"\necho "#$ TOP=%s/full/bin/.."\n' "$work" >"$work/scripts/bin/nvcc"
chmod +x "$work/scripts/bin/nvcc"
path=PATH=$work/other/bin:$PATH

finds "static before shared" "CUDA 13.0, $work/full/bin/nvcc, $work/full/lib/libcudart_static.a, \
$work/full/include/nccl.h []" "CUDA_HOME=$work/full" "$path"
finds "wheels" "$work/wheels/cu13/lib/libcudart.so.13, $work/wheels/nccl/include/nccl.h \
[$work/wheels/cu13/lib]" "CUDA_HOME=$work/wheels/cu13" "$path"
finds "a link" "$work/full/lib/libcudart_static.a" "CUDA_HOME=$work/links" "$path"
finds "a script" "$work/full/lib/libcudart_static.a" "CUDA_HOME=$work/scripts" "$path"

finds "PATH" "$work/other/bin/nvcc" "$path"
finds "CUDA_PATH" "$work/full/bin/nvcc" "CUDA_PATH=$work/full" "$path"
finds "CUDA_HOME first" "$work/full/bin/nvcc" "CUDA_HOME=$work/full" "CUDA_PATH=$work/other"
finds "CUDAToolkit_ROOT first" "$work/full/bin/nvcc" "CUDAToolkit_ROOT=$work/full" \
    "CUDA_HOME=$work/other"
finds "CUDACXX first" "$work/full/bin/nvcc" "CUDACXX=$work/full/bin/nvcc" \
    "CUDAToolkit_ROOT=$work/other"
finds "-DCUDAToolkit_ROOT first" "$work/full/bin/nvcc" "CUDACXX=$work/other/bin/nvcc" \
    "-DCUDAToolkit_ROOT=$work/full"
finds "-DWITAN_NVCC first" "$work/full/bin/nvcc" "$path" "-DWITAN_NVCC=$work/full/bin/nvcc" \
    "-DCUDAToolkit_ROOT=$work/other"
finds "-DWITAN_CUDART" "$work/full/lib/libcudart.so, $work/full/include/nccl.h [$work/full/lib]" \
    "CUDA_HOME=$work/full" "-DWITAN_CUDART=$work/full/lib/libcudart.so"
finds "-DWITAN_NCCL_INCLUDE" "$work/wheels/nccl/include/nccl.h" "CUDA_HOME=$work/full" \
    "-DWITAN_NCCL_INCLUDE=$work/wheels/nccl/include"

finds "old" "$work/old/bin/nvcc is of CUDA '12.4', expected 12.8 or newer" "CUDA_HOME=$work/old"
finds "two releases" "$work/mixed/bin/nvcc is of CUDA 13.0, \
$work/mixed/include/cuda_runtime_api.h of '12.9'" "CUDA_HOME=$work/mixed"
finds "no runtime" "no CUDA runtime library in $work/bare" "CUDA_HOME=$work/bare" "$path"
finds "no headers" "no include/cuda_runtime_api.h in $work/headless" "CUDA_HOME=$work/headless"
finds "nothing there" "CUDA_HOME=$work/none: nvcc was not found there" "CUDA_HOME=$work/none" "$path"
finds "no runtime there" "WITAN_CUDART=$work/none: there is no such file" "CUDA_HOME=$work/full" \
    "-DWITAN_CUDART=$work/none"
finds "no nccl.h there" "nccl.h was not found" "CUDA_HOME=$work/full" \
    "-DWITAN_NCCL_INCLUDE=$work/none"
exit $failed
