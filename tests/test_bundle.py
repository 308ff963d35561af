"""The bundle for a node without network: its parts, what unpack.sh says of them, its wheels."""

import os
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import bundle
import numpy as np
import pytest
from packaging.requirements import Requirement

DATA = "cifar10-npm.npz"
# Whoever asks a registry all the same finds nobody there.
NOWHERE = "http://127.0.0.1:9"
OFFLINE = {name: NOWHERE for name in ("PIP_INDEX_URL", "PIP_FIND_LINKS", "https_proxy")}


def unpack(parts: Path, folder: Path, python: Path | str = sys.executable) -> tuple[int, str]:
    """Start unpack.sh in a folder, as on a node: its exit code and all that it said."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["bash", str(parts / "unpack.sh"), str(python)],
        cwd=folder,
        env={**os.environ, **OFFLINE},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.fixture
def made_data(tmp_path: Path) -> Path:
    """A data folder with a file of 2.5 MiB."""
    path = tmp_path / "home" / DATA
    path.parent.mkdir()
    path.write_bytes(np.random.default_rng(0).bytes(5 * bundle.MIB // 2))
    return path.parent


def target() -> str:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return f"{version} {os.uname().machine} 2.{bundle.GLIBC_MINOR}"


def test_parts_arrive_one_after_another(
    made_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, parts, work = (tmp_path / name for name in ("out", "parts", "work"))
    files = list(bundle.present_data(made_data, tmp_path))
    assert files == [made_data / DATA]
    assert "cifar100 is not in" in capsys.readouterr().out
    bundle.write_bundle(files, target(), out, bundle.MIB)
    first, second, third = (out / f"{DATA}.part00{n}" for n in (1, 2, 3))
    assert [part.stat().st_size for part in (first, second, third)] == [2**20, 2**20, 2**19]

    parts.mkdir()
    (parts / "unpack.sh").write_bytes((out / "unpack.sh").read_bytes())
    code, said = unpack(parts, work)
    assert (code, "manifest.txt is missing or cut short" in said) == (1, True)

    (parts / "manifest.txt").write_bytes((out / "manifest.txt").read_bytes())
    (parts / first.name).write_bytes(first.read_bytes())
    (parts / second.name).write_bytes(first.read_bytes())
    code, said = unpack(parts, work)
    assert code == 1
    assert f"damaged   {second.name}: its SHA-256 differs" in said
    assert f"missing   {third.name}" in said
    assert first.name not in said
    assert list(work.iterdir()) == []

    (parts / second.name).write_bytes(second.read_bytes())
    (parts / third.name).write_bytes(third.read_bytes()[:1000])
    code, said = unpack(parts, work)
    assert (code, f"damaged   {third.name}: its SHA-256 differs" in said) == (1, True)

    (parts / third.name).write_bytes(third.read_bytes())
    code, said = unpack(parts, work)
    assert code == 0, said
    assert (work / "data" / DATA).read_bytes() == (made_data / DATA).read_bytes()
    assert [path.name for path in (work / "data").iterdir()] == [DATA]

    for part in parts.glob("*.part*"):
        part.unlink()  # what is in place needs them no more
    assert unpack(parts, work)[0] == 0


def test_an_unpacked_folder_stands_for_a_damaged_archive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    (home / "cifar-100-python").mkdir(parents=True)
    (home / "cifar-100-python" / "train").write_bytes(b"images")
    (home / "cifar-100-python.tar.gz").write_bytes(b"the first half")
    files = list(bundle.present_data(home, tmp_path))
    assert "cifar-100-python.tar.gz is truncated or altered" in capsys.readouterr().out
    bundle.write_bundle(files, target(), tmp_path / "out", bundle.MIB)
    code, said = unpack(tmp_path / "out", tmp_path / "work")
    assert code == 0, said
    assert (tmp_path / "work/data/cifar-100-python/train").read_bytes() == b"images"


def test_a_python_that_the_wheels_do_not_fit_is_named(tmp_path: Path) -> None:
    parts, work = tmp_path / "parts", tmp_path / "work"
    version, machine, _ = target().split()
    venv.create(tmp_path / "bare", with_pip=False)
    for wanted, python, reason in (
        (f"3.99 {machine} 2.28", sys.executable, f"is Python {version}; the wheels are for 3.99"),
        (f"{version} z80 2.28", sys.executable, f"this is {machine}; the wheels are for z80"),
        (f"{version} {machine} 2.99", sys.executable, "the wheels need 2.99"),
        (target(), tmp_path / "bare", "sees no pip"),
    ):
        bundle.write_bundle([], wanted, parts, bundle.MIB)
        code, said = unpack(parts, work, python)
        assert (code, reason in said) == (1, True), said


def stock_image(folder: Path) -> Path:
    """A new virtual environment that sees torch and torchvision and what these need, no more."""
    stock = folder / "stock"
    stock.mkdir()
    seen, names = set(), ["torch", "torchvision"]
    while names:
        try:
            found = metadata.distribution(names.pop())
        except metadata.PackageNotFoundError:
            continue  # not for this system
        if found.name in seen:
            continue
        seen.add(found.name)
        for line in found.requires or []:
            if "extra ==" not in line or line.startswith("nvidia"):  # the extras that torch takes
                names.append(Requirement(line).name)
        for top in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
            if not (stock / top).exists():
                (stock / top).symlink_to(found.locate_file(top))  # type: ignore[arg-type]
    venv.create(folder / "env", with_pip=True, symlinks=True)
    (site,) = folder.glob("env/lib/python*/site-packages")
    (site / "stock.pth").write_text(str(stock))
    return folder / "env"


@pytest.mark.slow
def test_wheels_install_beside_the_nodes_torch_without_a_registry(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "mdurl"]
    if subprocess.run(pip, cwd=tmp_path, capture_output=True, check=False).returncode:
        pytest.skip("the package registry cannot be reached")
    out, work = tmp_path / "out", tmp_path / "work"
    bundle.main(["--out", str(out), "--data", str(tmp_path), "--part-mib", "20"])
    assert all(part.stat().st_size <= 20 * bundle.MIB for part in out.glob("*.part*"))
    env = stock_image(tmp_path)
    code, said = unpack(out, work, env)
    assert code == 0, said
    program = (
        "import sys\n"
        "from importlib import metadata\n"
        "for found in metadata.distributions():\n"
        "    print(found.name.lower(), found.locate_file('').is_relative_to(sys.prefix))\n"
        "import hydra, matplotlib, pandas, rich, safetensors, scipy, swa_bench\n"
    )
    done = subprocess.run(
        [env / "bin" / "python", "-I", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    own = dict(line.split() for line in done.stdout.splitlines())
    assert {own[name] for name in ("torch", "torchvision", "numpy")} == {"False"}
    assert {own[name] for name in ("swa-bench", "hydra-core", "pandas", "scipy")} == {"True"}
    assert {own[name] for name in ("antlr4-python3-runtime", "omegaconf", "tabulate")} == {"True"}
    plan = [env / "bin" / "swa-train", "model=vgg16", "method=sgd", "dry_run=csv", "device=cpu"]
    done = subprocess.run(plan, cwd=work, capture_output=True, text=True, check=False)
    assert "200,0.0005," in done.stdout, done.stderr
