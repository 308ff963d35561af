"""A record is data: what it names is built only if it is known here, or the user says --trust."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from training_helpers import SHORT_RECIPE, SwaTrain, config_of

from swa_bench.analysis import export as exporting
from swa_bench.analysis import trust
from swa_bench.analysis.export import load_model
from swa_bench.commands import export, width
from swa_bench.config import renames
from swa_bench.config.grid import shipped_yaml
from swa_bench.config.schema import to_dict
from swa_bench.errors import SwaBenchError

ROOT = Path(__file__).parent.parent
EVIL = "import pathlib\npathlib.Path('MARK').write_text('it ran')\ndef net(**options): pass\n"
SMALL = ["model=preresnet20", *SHORT_RECIPE, "dataset.train_images=64", "dataset.test_images=50"]
SMALL += ["model.budget_epochs=1", "method=sgd", "model.swa_start=1"]


def known_config() -> dict[str, Any]:
    return to_dict(config_of("model=preresnet20", "dataset=cifar10_mini"))


def changed(name: str, value: Any) -> dict[str, Any]:
    return renames.nest(renames.flatten(known_config()) | {name: value})


def test_all_that_the_program_ships_is_known() -> None:
    for path in (ROOT / "conf").rglob("*.yaml"):
        options = shipped_yaml(str(path.relative_to(ROOT / "conf")))
        kind = path.parent.name
        target = options.get("_target_")
        if target and kind in trust.KNOWN and "???" not in target:
            assert target in trust.KNOWN[kind], path
        if kind == "method" and "method" not in options:
            for predictor in (options.get("predictors") or {}).values():
                assert predictor._target_ in trust.PREDICTORS
    for path in (ROOT / "results" / "shipped").rglob("cell-*.json"):
        trust.check_trusted(renames.to_present(json.loads(path.read_text())["config"]))
    trust.check_trusted(known_config())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model._target_", "evil.net"),
        ("model._target_", "hydra.utils.instantiate"),
        ("model._target_", "swa_bench.models.os.system"),
        ("model._target_", "swa_bench.models:nn.sys"),
        ("model._target_", "swa_bench.models:build_model"),
        ("model._target_", "swa_bench.models.build_model "),
        ("model._target_", "swa_bench.models.MODELS"),
        ("model._target_", "torch.optim.SGD"),
        ("model._target_", ["swa_bench.models.build_model"]),
        ("model._target_", {"_target_": "swa_bench.models.build_model"}),
        ("model._target_", None),
        ("model.arguments._target_", "swa_bench.models.build_model"),
        ("model.arguments.deep", [{"_target_": "sympy.sympify"}]),
        ("model.arguments.name", "${oc.env:HOME}"),
        ("model.arguments.${oc.env:HOME}", 1),
        ("model.arguments.pretrained", True),
        ("optimizer._target_", "torch.optim.sgd.torch.hub.load"),
        ("optimizer._target_", "torch.optim.lr_scheduler"),
        ("optimizer._target_", "torch.hub.load"),
        ("schedule._target_", "swa_bench.schedules.math.exp"),
        ("schedule._target_", "evil.rate"),
        ("dataset._target_", "swa_bench.data.cifar.fetch_npm"),
        ("dataset._target_", "evil.images"),
        ("augmentation._target_", "swa_bench.data.augmentation.torch.load"),
        ("method.predictors.mine._target_", "evil.Mean"),
        ("method.predictors.mine.decay", 0.9),
        ("hydra._target_", "evil.net"),
    ],
)
def test_what_is_not_known_is_refused(name: str, value: Any) -> None:
    with pytest.raises(SwaBenchError, match="--trust, or load_model"):
        trust.check_trusted(changed(name, value))


@pytest.fixture
def exported(swa_train: SwaTrain, tmp_path: Path) -> Path:
    """A network of the program's own, trained for an epoch and exported."""
    assert swa_train(*SMALL).code == 0
    (cell,) = Path("results").rglob("cell-1.json")
    export.swa_export([str(cell), "net.safetensors"])
    return tmp_path / "net.safetensors"


def rewritten(path: Path, tensors: dict[str, torch.Tensor], content: Any, digest: bool) -> None:
    """An exported file made up by somebody else, with or without a digest that fits."""
    text = json.dumps(content)
    metadata = {exporting.METADATA: text}
    if digest:
        metadata[exporting.DIGEST] = exporting.content_digest(text, tensors)
    safetensors.torch.save_file(tensors, path, metadata)


def content_of(path: Path) -> Any:
    with safetensors.safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()[exporting.METADATA])


def test_a_hostile_file_runs_nothing_unless_trusted(
    exported: Path, tmp_path: Path, capfd: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The record's folders, its logger and its first weights are of no effect either."""
    (tmp_path / "evil.py").write_text(EVIL)
    tensors, content = safetensors.torch.load_file(exported), content_of(exported)
    content["config"]["dataset"] |= {"root": str(tmp_path / "theirs"), "source": "npm"}
    content["config"] |= {"results_dir": str(tmp_path / "theirs"), "logger": "wandb"}
    content["config"] |= {"init": str(tmp_path / "theirs.safetensors")}
    rewritten(exported, tensors, content, digest=True)
    export.swa_evaluate([str(exported), "--device", "cpu"])
    ours, recorded = capfd.readouterr().out.splitlines()[-2:]
    assert recorded.startswith(f"its record: {ours.removeprefix('test error ')}")
    assert not (tmp_path / "theirs").exists()
    content["config"]["model"]["_target_"] = "evil.net"
    rewritten(exported, tensors, content, digest=True)
    with pytest.raises(SystemExit, match=r"model._target_=evil.net: is not a part .* --trust"):
        export.swa_evaluate([str(exported)])
    with pytest.raises(SwaBenchError, match="trust=True"):
        load_model(exported)
    (cell,) = (tmp_path / "results").rglob("cell-1.json")
    record = json.loads(cell.read_text())
    record["config"]["schedule"]["_target_"] = "evil.net"
    cell.write_text(json.dumps(record))
    with pytest.raises(SystemExit, match=r"swa-export: schedule._target_=evil.net"):
        export.swa_export([str(cell), "other.safetensors"])
    with pytest.raises(SystemExit, match=r"swa-width: schedule._target_=evil.net"):
        width.swa_width(["--sgd", str(cell), "--swa", str(cell), str(cell.parent)])
    assert not (tmp_path / "MARK").exists()
    with pytest.raises(SystemExit, match=r"evil.net: gives a NoneType, not a torch.nn.Module"):
        export.swa_evaluate([str(exported), "--trust"])
    assert (tmp_path / "MARK").exists()


def test_altered_weights_are_refused(exported: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = exported.read_bytes()
    load_model(exported)
    for place in (len(whole) - 1, len(whole) // 2, whole.index(b"test_error_pct") + 17):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        exported.write_bytes(flipped)
        with pytest.raises(SwaBenchError, match="is damaged"):
            load_model(exported)
    exported.write_bytes(whole)
    tensors, content = safetensors.torch.load_file(exported), content_of(exported)
    assert not caplog.records
    rewritten(exported, tensors, content, digest=False)
    with pytest.raises(SwaBenchError, match="it has lost its SHA-256"):
        load_model(exported)
    earlier = content | {"versions": content["versions"] | {"swa_bench": "0.2.0"}}
    rewritten(exported, tensors, earlier, digest=False)
    load_model(exported)
    assert "without a digest: it cannot be checked" in caplog.text
    for name in ("running_var", "weight"):
        (first, *_) = [key for key in tensors if key.endswith(name)]
        bad = {key: value.clone() for key, value in tensors.items()}
        bad[first].view(-1)[0] = torch.inf if name == "weight" else torch.nan
        rewritten(exported, bad, content, digest=True)
        with pytest.raises(SwaBenchError, match=f"1 values of {first} are not finite"):
            load_model(exported)
    rewritten(exported, {first: tensors[first]}, content, digest=True)
    with pytest.raises(SwaBenchError, match=r"does not fit its network: .*Missing key"):
        load_model(exported)
