# Shared by the scripts; sourced, never run. Sets `root`, the top of the source tree, and `jobs`.
# shellcheck shell=bash
# shellcheck disable=SC2034 # the scripts that source this file use them

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
jobs=$(nproc)

# Open MPI refuses root unless told twice that it is meant.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

# Debian's package, then a command that succeeds where what it brings is there already.
packages_build=(
    "build-essential: command -v cc && command -v make"
    "cmake: command -v cmake"
    "pkg-config: command -v pkg-config"
    "libopenmpi-dev: command -v mpicc"
    "openmpi-bin: command -v mpirun"
    "libhwloc-dev: pkg-config --exists hwloc"
    "libjansson-dev: pkg-config --exists jansson"
    "check: pkg-config --exists check"
)
packages_test=("gnuplot-nox: command -v gnuplot")
packages_format=("clang-format: command -v clang-format")
packages_lint=(
    "clang-tidy: command -v clang-tidy"
    "libomp-dev: test -e \"\$(clang_file omp.h include)\""
    "cppcheck: command -v cppcheck"
    "shellcheck: command -v shellcheck"
)
packages_fuzz=(
    "clang: command -v clang"
    "libclang-rt-dev: test -e \"\$(clang -print-file-name=libclang_rt.fuzzer-x86_64.a)\""
)
packages_cluster=("iproute2: command -v ip && command -v tc")
packages_coverage=("gcovr: command -v gcovr")

say() {
    printf '\n== %s\n' "$*" >&2
}

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# clang_file NAME FOLDER: a file of clang's own resource folder, or nothing.
clang_file() {
    local file
    for file in /usr/lib/llvm-*/lib/clang/*/"$2"/"$1"; do
        printf '%s' "$file"
        return
    done
}

# missing ENTRY...: the packages whose probe fails.
missing() {
    local entry
    for entry in "$@"; do
        eval "${entry#*: }" >/dev/null 2>&1 || printf '%s\n' "${entry%%:*}"
    done
}

# need ENTRY...: fail with the exact command unless all is there. need --install ENTRY...: install
# what is missing, as root or where sudo asks no password.
need() {
    local install=false as_root=() wanted
    if [[ ${1:-} == --install ]]; then
        install=true
        shift
    fi
    mapfile -t wanted < <(missing "$@")
    if [[ ${#wanted[@]} -eq 0 ]]; then
        return
    fi
    if [[ $(id -u) -ne 0 ]]; then
        as_root=(sudo -n)
    fi
    if ! $install || ! command -v apt-get >/dev/null || ! "${as_root[@]}" true 2>/dev/null; then
        die "missing packages; as root: apt-get install ${wanted[*]}"
    fi
    say "installing ${wanted[*]}"
    "${as_root[@]}" apt-get update -qq </dev/null >&2
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq -y --no-install-recommends "${wanted[@]}" </dev/null >&2
    mapfile -t wanted < <(missing "$@")
    if [[ ${#wanted[@]} -ne 0 ]]; then
        die "installed, but still not found: ${wanted[*]}"
    fi
}

# configure FOLDER [-DOPTION=...]: Ninja where there is one.
configure() {
    local folder=$1 generator=()
    shift
    if [[ ! -e $folder/CMakeCache.txt ]] && command -v ninja >/dev/null; then
        generator=(-G Ninja)
    fi
    cmake -S "$root" -B "$folder" "${generator[@]}" "$@" >&2
}

# sources PATTERN...: tracked files; all files where this is no git checkout.
sources() {
    local pattern found=()
    if git -C "$root" rev-parse --git-dir >/dev/null 2>&1; then
        git -C "$root" ls-files --cached --others --exclude-standard -- "$@"
    else
        for pattern in "$@"; do
            found+=(-o -name "$pattern")
        done
        (cd "$root" && find . -path './build*' -prune -o \( "${found[@]:1}" \) -type f -print)
    fi
}
