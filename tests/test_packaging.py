"""The wheel holds all that the commands need, and works from another directory."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_wheel_works_from_another_directory(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("swa_bench-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "swa_bench/conf/train.yaml",
        "swa_bench/conf/experiment/quickstart.yaml",
        "swa_bench/conf/hydra/help/swa_train.yaml",
        "swa_bench/models/vgg.py",
        "swa_bench/data/cifar10_mini/train.png",
        "swa_bench/published/published.csv",
        "swa_bench/reporting/page.html",
    ):
        assert name in names
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    program = (
        "import contextlib, sys, swa_bench.train, swa_bench.commands.records\n"
        "assert swa_bench.train.__file__.startswith(sys.argv.pop())\n"
        "swa_bench.commands.records.swa_tables([])\n"
        "sys.argv[1:] = ['--help']\n"
        "with contextlib.suppress(SystemExit):\n"
        "    swa_bench.train.main()\n"
        "assert 'torch' not in sys.modules, 'it takes seconds to import'\n"
        "sys.argv[1:] = ['model=vgg16', 'method=sgd', 'dry_run=csv', 'device=cpu']\n"
        "swa_bench.train.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(site)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "6.36 ± 0.18 (n=3)" in done.stdout  # VGG16, SWA 1.5, published
    assert "200,0.0005," in done.stdout
