"""Which files are deleted, overwritten and made, with which rights, and which paths are taken."""

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from training_helpers import TINY, SwaTrain, TinyNet, checkpoint_of

from swa_bench.commands import export, records
from swa_bench.results import stored

SGD = [*TINY, "method=sgd"]
A, B = "a" * 16, "b" * 16


def parallel(num_classes: int) -> nn.Module:
    """A network whose tensors are named module.conv.weight and so on."""
    return nn.DataParallel(TinyNet(num_classes))


def cell() -> Path:
    (path,) = Path("results").rglob("cell-1.json")
    return path


def names(folder: Path = Path()) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_only_own_checkpoints_make_room(swa_train: SwaTrain, tmp_path: Path) -> None:
    """Beside other projects' checkpoints, files named like ours, and links to both."""
    limit = ["results_dir=.", "checkpoints.max_gb=1e-8"]
    assert swa_train(*SGD, "results_dir=.").code == 0
    own = checkpoint_of(tmp_path, 4)
    for folder in ("other/checkpoints", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("best.pt", f"seed0-epoch0001-{A}-{B}.pt"):
            (tmp_path / folder / name).write_bytes(b"theirs")
    (own.parent / "best.pt").write_bytes(b"theirs")
    (own.parent / f"seed0-epoch0001-{A}-{B}.pt").symlink_to(tmp_path / "elsewhere" / "best.pt")
    (tmp_path / "elsewhere" / stored.MARKER).touch()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "checkpoints").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / stored.MARKER).unlink()
    outcome = swa_train(*SGD, "seed=1", *limit)
    assert outcome.code == 0, outcome.err
    assert not own.exists()
    theirs = [path for path in tmp_path.rglob("*.pt") if path.read_bytes() == b"theirs"]
    assert len(theirs) == 6


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    results, elsewhere = tmp_path / "results", tmp_path / "elsewhere"
    results.mkdir()
    elsewhere.mkdir()
    (elsewhere / stored.MARKER).touch()
    (elsewhere / f"seed0-epoch0001-{A}-{B}.pt").write_bytes(b"theirs")
    (results / "checkpoints").symlink_to(elsewhere)
    assert stored.limit_size(results, 0, ()) == 0
    assert stored.limit_size(elsewhere, 10, ()) == 6
    assert stored.limit_size(elsewhere, 0, ()) == 0
    assert [path.name for path in elsewhere.iterdir()] == [stored.MARKER]


def test_a_folder_of_an_earlier_version_is_marked(swa_train: SwaTrain, tmp_path: Path) -> None:
    assert swa_train(*SGD).code == 0
    folder = checkpoint_of(tmp_path, 4).parent
    (folder / stored.MARKER).unlink()
    assert stored.limit_size(tmp_path, 0, ()) == 0
    assert checkpoint_of(tmp_path, 4).exists()
    assert swa_train(*SGD, "budget=1.5").code == 0
    assert (folder / stored.MARKER).exists()


def test_an_export_replaces_nothing_but_an_export(swa_train: SwaTrain, tmp_path: Path) -> None:
    """Its path is looked at before the network is restored: here there is no record at all."""
    (tmp_path / "folder").mkdir()
    os.mkfifo("fifo")
    Path("target").touch()
    Path("link").symlink_to("target")
    Path("dangling").symlink_to("nowhere")
    for name in ("folder", "fifo", "link", "dangling"):
        with pytest.raises(SystemExit, match=f"swa-export: {name} is no regular file"):
            export.swa_export(["no.json", name, "--force"])
    with pytest.raises(SystemExit, match="target is there and no export"):
        export.swa_export(["no.json", "target", "--force"])
    with pytest.raises(SystemExit, match="OUT=target: cannot write to target"):
        export.swa_export(["no.json", "target/net.safetensors"])
    assert names() == ["dangling", "fifo", "folder", "link", "target"]
    assert swa_train(*SGD).code == 0
    record = cell().read_bytes()
    with pytest.raises(SystemExit, match=r"cell-1.json is there and no export"):
        export.swa_export([str(cell()), str(cell()), "--force"])
    assert cell().read_bytes() == record
    export.swa_export([str(cell()), "net.safetensors", "--trust"])
    with pytest.raises(SystemExit, match="is there already: --force overwrites it"):
        export.swa_export([str(cell()), "net.safetensors", "--trust"])
    export.swa_export([str(cell()), "net.safetensors", "--trust", "--force"])


@pytest.mark.parametrize("more", [[], ["dry_run=true"], ["epochs=3"]])
def test_a_sweep_leaves_nothing_in_the_folder_for_temporary_files(
    swa_train: SwaTrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    """Where a link has the name that was predictable once: what it leads to stays as it is."""
    victim, temporary = tmp_path / "victim", tmp_path / "tmp"
    victim.mkdir()
    temporary.mkdir()
    (victim / "multirun.yaml").write_text("precious")
    (temporary / "swa-train-sweep-me").symlink_to(victim)
    monkeypatch.setenv("USER", "me")
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    outcome = swa_train("-m", *SGD, "seed=0", *more)
    assert outcome.code == (2 if "epochs=3" in more else 0), outcome.err
    assert (victim / "multirun.yaml").read_text() == "precious"
    assert names(temporary) == ["swa-train-sweep-me"]
    made = {path.name for path in tmp_path.iterdir()} - {"victim", "tmp"}
    assert made == (set() if more else {"results"})


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_rights_that_the_umask_leaves(
    swa_train: SwaTrain, mask: int, mode: int
) -> None:
    before = os.umask(mask)
    try:
        assert swa_train(*SGD).code == 0
        export.swa_export([str(cell()), "net.safetensors", "--trust"])
    finally:
        os.umask(before)
    files = [path for path in Path().rglob("*") if path.is_file()]
    assert len(files) >= 7
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in files} == {
        path.name: mode for path in files
    }


@pytest.fixture
def shared(swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a finished run, seen as another user if this one is root."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o777)
        assert swa_train(*SGD, f"results_dir={folder}/runs").code == 0
        for path in folder.rglob("*"):
            if path.is_dir():
                path.chmod(0o777)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        monkeypatch.chdir(folder)
        yield folder
        os.seteuid(user)
        for path in folder.rglob("*"):
            path.chmod(0o777)


def forbid(path: Path) -> None:
    """Take all rights from everybody but root; the file's owner does so."""
    user = os.geteuid()
    if user == 65534:
        os.seteuid(0)
    path.chmod(0)
    os.seteuid(user)


def test_files_of_another_user_are_named_in_a_line(shared: Path, swa_train: SwaTrain) -> None:
    (run,) = (shared / "runs").rglob("sgd-*")
    runs = f"results_dir={shared}/runs"
    assert "Finished already" in swa_train(*SGD, runs).err
    for path in checkpoint_of(shared, 4).parent.iterdir():
        forbid(path)
    longer = swa_train(*SGD, runs, "budget=1.5", "seed=0", "method=swa")
    assert longer.code == 0, longer.err
    forbid(run / "lock")
    locked = swa_train(*SGD, runs, "force=true")
    assert locked.code == 1
    assert locked.err.splitlines()[-1] == f"swa-train: {run}/lock: Permission denied"
    forbid(run)
    hidden = swa_train(*SGD, runs)
    assert hidden.code == 1
    (line,) = hidden.err.splitlines()
    assert line == f"swa-train: {run}/cell-1.json cannot be read (Permission denied)"


def test_records_that_may_not_be_read_are_named(
    shared: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    (run,) = (shared / "runs").rglob("sgd-*")
    forbid(run)
    records.swa_tables(["--records", f"{shared}/runs", "--out", f"{shared}/tables"])
    assert f"{run}: Permission denied: left out." in caplog.text
    assert "0 records from" in capfd.readouterr().out


QUOTED = [
    ("results_dir=a=b", "'results_dir=\"a=b\"'"),
    ("results_dir=~/runs", "'results_dir=\"~/runs\"'"),
    ("results_dir=a (b)", "'results_dir=\"a (b)\"'"),
    ("dataset.root=a,b", "'dataset.root=\"a,b\"'"),
    ("results_dir=it's", "'results_dir=\"it'\"'\"'s\"'"),
    ("init=ä.safetensors", "'init=\"ä.safetensors\"'"),
]


@pytest.mark.parametrize(("typed", "quoted"), QUOTED)
def test_a_path_that_hydra_cannot_read_is_quoted(
    swa_train: SwaTrain, tmp_path: Path, typed: str, quoted: str
) -> None:
    outcome = swa_train(*SGD, typed, "dry_run=true")
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert line.startswith(f"swa-train: {typed}: ") and line.endswith(f"quote it: {quoted}")
    assert list(tmp_path.iterdir()) == []


def test_the_home_folder(
    swa_train: SwaTrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert swa_train("-m", *SGD, 'results_dir="~/my = runs"').code == 0
    assert list((tmp_path / "home" / "my = runs").rglob("cell-1.json"))
    records.swa_tables(["--records=~/my = runs", "--out=~/tables"])
    assert (tmp_path / "home" / "tables").exists()
    assert names() == ["home"]
    outcome = swa_train(*SGD, 'results_dir="~nobody-at-all/x"')
    assert outcome.code == 2
    assert "results_dir=~nobody-at-all/x: ~ stands for a home folder" in outcome.err


@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_results_do_not_move_with_hydra(
    swa_train: SwaTrain, tmp_path: Path, sweep: list[str]
) -> None:
    outcome = swa_train(*sweep, *SGD, "hydra.job.chdir=true")
    assert outcome.code == 2
    assert "hydra.job.chdir=true: results would go to another folder: set results_dir" in (
        outcome.err
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("prefix", ["module", "_orig_mod"])
def test_first_weights_with_a_prefix_are_named(swa_train: SwaTrain, prefix: str) -> None:
    tensors = {f"{prefix}.{name}": one for name, one in TinyNet(10).state_dict().items()}
    save_file(tensors, "w.safetensors")
    outcome = swa_train(*SGD, "init=w.safetensors")
    assert outcome.code == 2
    assert f"init=w.safetensors: does not fit: its tensors begin with {prefix}." in outcome.err
    assert f"save that of the network inside, model.{prefix}, instead" in outcome.err


def test_exports_have_no_prefix(swa_train: SwaTrain, capfd: pytest.CaptureFixture[str]) -> None:
    assert swa_train(*SGD, f"model._target_={__name__}.parallel").code == 0
    export.swa_export([str(cell()), "net.safetensors", "--trust"])
    tensors = load_file("net.safetensors")
    assert set(tensors) == set(TinyNet(10).state_dict())
    TinyNet(10).load_state_dict(tensors)
    assert all(isinstance(one, torch.Tensor) for one in tensors.values())
    capfd.readouterr()
    export.swa_evaluate(["net.safetensors", "--trust"])
    ours, recorded = capfd.readouterr().out.splitlines()
    assert recorded.startswith(f"its record: {ours.removeprefix('test error ')}")
    again = swa_train(*SGD, f"model._target_={__name__}.parallel", "init=net.safetensors", "seed=1")
    assert again.code == 0, again.err
