#!/usr/bin/env bash
# Check the parts of this bundle that have arrived; unpack and install what is complete.
#
#     bash unpack.sh [PYTHON]
#
# PYTHON is a Python that sees torch 2.6 or newer, or the folder of its virtual environment; python3
# if left out. The parts are read beside this file. Data sets go to data/ below the folder that this
# is started in: there swa-train looks for them. No registry is asked for anything. Start it again
# whenever more parts have come; it exits with 0 once all is in place, and until then with 1.
set -euo pipefail

here=$(CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
manifest=$here/manifest.txt
problems=0

problem() {
    printf '%s\n' "$*"
    problems=$((problems + 1))
}

stop() {
    printf 'unpack.sh: %s\n' "$*" >&2
    exit 1
}

mib() {
    local tenths=$((($1 * 10 + 524288) / 1048576))
    printf '%d.%d MiB' $((tenths / 10)) $((tenths % 10))
}

sha256_of() {
    sha256sum <"$1" | cut -c 1-64
}

# Name each part of a file that is missing or damaged; fail if there is one.
parts_arrived() {
    local kind sha256 bytes name size before=$problems
    while read -r kind sha256 bytes name; do
        if [[ $kind != part || $name != "$1".part* ]]; then
            continue
        elif [[ ! -e $here/$name ]]; then
            problem "missing   $name ($(mib "$bytes"))"
            continue
        fi
        size=$(wc -c <"$here/$name")
        if ((size != bytes)); then
            problem "damaged   $name: $((size)) bytes of $bytes; copy it again"
        elif [[ $(sha256_of "$here/$name") != "$sha256" ]]; then
            problem "damaged   $name ($(mib "$bytes")): its SHA-256 differs; copy it again"
        fi
    done <"$manifest"
    ((problems == before))
}

# Join the parts of file $1 as $2, whose SHA-256 is to be $3.
join_parts() {
    local kind sha256 bytes name
    while read -r kind sha256 bytes name; do
        if [[ $kind == part && $name == "$1".part* ]]; then
            cat "$here/$name"
        fi
    done <"$manifest" >"$2"
    [[ $(sha256_of "$2") == "$3" ]] || stop "$2 is not what was bundled as $1: is the disk full?"
}

unpack_data() {
    local name=$1 sha256=$2 joined=data/.$1.joined
    if [[ ! -f data/$name || $(sha256_of "data/$name") != "$sha256" ]]; then
        parts_arrived "$name" || return 0
        mkdir -p data
        join_parts "$name" "$joined" "$sha256"
        case $name in *.tar | *.tar.gz) tar --no-same-owner -xf "$joined" -C data ;; esac
        mv "$joined" "data/$name" # last, so that the name stands for all of it
    fi
    echo "in place  data/$name"
}

# Say what this Python lacks for the wheels, as seen by pip; fail if it lacks something.
python_fits() {
    "$python" - "$@" <<'PROGRAM'
import platform
import sys

wanted, machine, glibc = sys.argv[1:]
version = "%d.%d" % sys.version_info[:2]
name, libc = platform.libc_ver()
if version != wanted:
    sys.exit("unfit     %s is Python %s; the wheels are for %s" % (sys.executable, version, wanted))
if platform.machine() != machine:
    sys.exit("unfit     this is %s; the wheels are for %s" % (platform.machine(), machine))
if name == "glibc" and [int(n) for n in libc.split(".")] < [int(n) for n in glibc.split(".")]:
    sys.exit("unfit     this system has glibc %s; the wheels need %s" % (libc, glibc))

from importlib import metadata

found = {}
for name in ("pip", "torch", "torchvision", "numpy"):
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        sys.exit("unfit     %s sees no %s; name a Python that does" % (sys.executable, name))
print("python    %s, Python %s, torch %s" % (sys.executable, version, found["torch"]))
PROGRAM
}

# pip as if nothing were configured: no index, no constraints of the image, no other links.
offline_pip_install() {
    PIP_CONFIG_FILE=/dev/null "$python" -m pip --isolated --disable-pip-version-check install \
        --root-user-action=ignore --no-index --find-links "$scratch" "$@" >>"$scratch/pip.log" 2>&1
}

install_wheels() {
    local name=$1 sha256=$2 project
    parts_arrived "$name" || return 0
    join_parts "$name" "$scratch/$name" "$sha256"
    tar -xf "$scratch/$name" -C "$scratch"
    project=$(echo "$scratch"/swa_bench-*.whl)
    # The second call replaces a project of the same version; the first would keep that one.
    if offline_pip_install "$project" &&
        offline_pip_install --no-deps --force-reinstall "$project"; then
        grep WARNING "$scratch/pip.log" || true # such as: the scripts' folder is not on PATH
        echo "in place  $(basename "$project"), seen by $python"
    else
        tail -n 15 "$scratch/pip.log"
        problem "unfit     pip could not install into $python; its reasons are above. Where" \
            "packages may not be added:" \
            "python3 -m venv --system-site-packages env; bash unpack.sh env"
    fi
}

main() {
    local kind sha256 bytes name fits=true
    python=${1:-python3}
    if [[ -d $python ]]; then
        python=$python/bin/python
    fi
    command -v "$python" >/dev/null ||
        stop "there is no $python; python3 -m venv --system-site-packages env makes one in env"
    [[ -f $manifest && $(tail -n 1 "$manifest") == end ]] ||
        stop "$manifest is missing or cut short; copy it first"
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT

    while read -r kind sha256 bytes name <&3; do
        case $kind:$name in
        target:*) python_fits "$sha256" "$bytes" "$name" || fits=false ;;
        whole:wheels.tar)
            if $fits; then
                install_wheels "$name" "$sha256"
            else
                parts_arrived "$name" || true
            fi
            ;;
        whole:*) unpack_data "$name" "$sha256" ;;
        esac
    done 3<"$manifest"

    if $fits && ((problems == 0)); then
        echo "All is in place. Start swa-train in $PWD."
    else
        echo "Not all is in place yet. Mend what is named above, and start this again."
        exit 1
    fi
}

main "$@" # last, so that a file that was cut short does nothing
