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

stop() { echo "unpack.sh: $*" >&2 && exit 1; }

has_sha256() { sha256sum --check --status 2>/dev/null <<<"$2  $1"; }

# Join the parts of file $1, whose SHA-256 is $2, as file $3. Name those that are missing or damaged,
# and fail if there are any.
join_parts() {
    local parts
    parts=$(grep -F "  $1.part" "$manifest")
    if ! (cd "$here" && LC_ALL=C sha256sum --check --quiet 2>/dev/null <<<"$parts") | sed '
        s/\(.*\): FAILED open or read$/missing   \1/
        s/\(.*\): FAILED$/damaged   \1: its SHA-256 differs; copy it again/'; then
        complete=false
        return 1
    fi
    mkdir -p "$(dirname "$3")"
    (cd "$here" && cut -d " " -f 3 <<<"$parts" | xargs cat) >"$3"
    has_sha256 "$3" "$2" || stop "$3 is not what was bundled as $1: is the disk full?"
}

unpack_data() {
    local name=$1 sha256=$2 joined=data/.$1.joined
    if ! has_sha256 "data/$name" "$sha256"; then
        join_parts "$name" "$sha256" "$joined" || return 0
        case $name in *.tar | *.tar.gz) tar --no-same-owner -xf "$joined" -C data ;; esac
        mv "$joined" "data/$name" # last, so that the name stands for all of it
    fi
    echo "in place  data/$name"
}

# Say what this Python lacks for the wheels; fail if it lacks something.
python_fits() {
    "$python" - "$@" <<'PROGRAM'
import platform
import sys
from importlib.util import find_spec

wanted, machine, glibc = sys.argv[1:]
here, version = platform.machine(), "%d.%d" % sys.version_info[:2]
libc, found = platform.libc_ver()
old = libc == "glibc" and [int(n) for n in found.split(".")] < [int(n) for n in glibc.split(".")]
for unfit, reason in [
    (version != wanted, "%s is Python %s; the wheels are for %s" % (sys.executable, version, wanted)),
    (here != machine, "this is %s; the wheels are for %s" % (here, machine)),
    (old, "this system has glibc %s; the wheels need %s" % (found, glibc)),
] + [
    (not find_spec(name), "%s sees no %s; name a Python that does" % (sys.executable, name))
    for name in ("pip", "torch", "torchvision", "numpy")
]:
    if unfit:
        sys.exit("unfit     " + reason)
PROGRAM
}

install_wheels() {
    local project pip
    join_parts "$1" "$2" "$scratch/$1" && $fits || return 0
    tar -xf "$scratch/$1" -C "$scratch"
    project=$(echo "$scratch"/wheels/swa_bench-*.whl)
    # As if nothing were configured: no index, no constraints of the image, no other links.
    pip=(env PIP_CONFIG_FILE=/dev/null "$python" -m pip --isolated --disable-pip-version-check
        install --root-user-action=ignore --no-index --find-links "$scratch/wheels")
    # The second call replaces a project of the same version; the first would keep that one.
    if { "${pip[@]}" "$project" && "${pip[@]}" --no-deps --force-reinstall "$project"; } \
        >"$scratch/log" 2>&1; then
        grep WARNING "$scratch/log" || true # such as: the scripts' folder is not on PATH
        echo "in place  $(basename "$project"), seen by $python"
    else
        tail -n 15 "$scratch/log"
        echo "unfit     pip could not install into $python; its reasons are above. Where packages" \
            "may not be added: python3 -m venv --system-site-packages env; bash unpack.sh env"
        complete=false
    fi
}

main() {
    local sha256 name target
    python=${1:-python3} complete=true fits=true
    [[ ! -d $python ]] || python=$python/bin/python
    command -v "$python" >/dev/null ||
        stop "there is no $python; python3 -m venv --system-site-packages env makes one in env"
    [[ -f $manifest && $(tail -n 1 "$manifest") == end ]] ||
        stop "$manifest is missing or cut short; copy it first"
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT

    read -ra target <"$manifest" # "target", Python, machine, glibc
    python_fits "${target[@]:1}" || fits=false
    while read -r sha256 name <&3; do
        case $sha256:$name in
        target:* | end:* | *.part[0-9]*) ;;
        *:wheels.tar) install_wheels "$name" "$sha256" ;;
        *) unpack_data "$name" "$sha256" ;;
        esac
    done 3<"$manifest"

    $fits && $complete || stop "not all is in place yet: mend what is named above, and start again"
    echo "All is in place. Start swa-train in $PWD."
}

main "$@" # last, so that a file that was cut short does nothing
