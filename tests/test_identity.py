"""What names a run on disk outlives versions: hashes, keys, and records of earlier ones."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass
from training_helpers import SHORT_RECIPE, config_of, plan_of, spec_of

from swa_bench.config import identity, renames
from swa_bench.config.identity import recipe_hash
from swa_bench.config.schema import (
    KNOWN_ONLY,
    MethodConfig,
    TrainConfig,
    from_dict,
    shaping,
    to_dict,
)
from swa_bench.results.record import parse_record

SHIPPED = Path(__file__).parent.parent / "results" / "shipped"
# Records of version 0.1, by their path: all of quickstart and the questions with seed 0, and more.
OLD = json.loads((Path(__file__).parent / "fixtures" / "records-format-1.json").read_text())
DATA, WEIGHTS = "f" * 64, "i" * 64

# Of version 0.1: the hash of the recipe, the first 12 digits of that of the rates, and the keys of
# the states before the first epoch, halfway and at the end.
PINNED = {
    "method=sgd model=vgg16 dataset=cifar10": (
        "eacced1d296b 550138dda327 0b29c97ccfccaf10 9948d875ebe5159c c87132a6d566b405"
    ),
    "method=swa model=vgg16 dataset=cifar10": (
        "d6593a540b88 99ebb89d9699 0b29c97ccfccaf10 095022271d08353e ba385f63151a57f4"
    ),
    "method=swa model=preresnet164 dataset=cifar100": (
        "1fa959f326be d287564a2fb2 35909445096ffc14 2a7e3689a2e240be 7e254e3a2f7fd6b9"
    ),
    "method=fge model=wrn28_10 dataset=cifar10": (
        "3fb5f2cc502e 8f5b3cdfc1b6 5e3715f6423ddc8a e90cdf942f45174a b08dc89e778d0f7f"
    ),
    "method=snapshot model=vgg16 dataset=cifar100": (
        "32c0b52c1588 763b1aa75618 0b29c97ccfccaf10 25f74a74750b9242 a0c9bf8e77a61776"
    ),
    "method=swa_cyclic model=preresnet110 dataset=cifar10": (
        "e0c964c7807d 68a48257e6ef c54c3a9114d195a9 4c115d20d808f60e 1c978cca18a0dafd"
    ),
    "method=swa_fge model=vgg16 dataset=cifar10": (
        "cc51c388ea5e e9071a795ede 0b29c97ccfccaf10 9948d875ebe5159c c8b113a7993a41b2"
    ),
    "method=sgd_bn model=preresnet20 dataset=cifar10_mini": (
        "aabae37e973c f818cd56b58e f714ad54e7ae927b 23ecea3aa380924e 600bfbe20d3c4323"
    ),
    "experiment=quickstart precision=fp32 method=swa": (
        "9346c3328d54 d7b16a30ac02 9796488bf2eb08fa fb4cedb592b6b73e c4f10f16086a1999"
    ),
    "experiment=quickstart precision=fp32 method=sgd": (
        "02786aa3ed41 72a2fd734af5 9796488bf2eb08fa d467ffb34354d18b 9ab73ae3fe979510"
    ),
    "method=swa model=vgg16 augmentation.padding_mode=reflect": (
        "0492c5fb1355 99ebb89d9699 b41e7b8cb95f9766 c2d489274e386bbf 77a621e807507fff"
    ),
    "method=swa model=vgg16 augmentation.flip=false": (
        "0ddeeea42ad1 99ebb89d9699 6716e689b966a879 f47ad83ebe1b49d4 1e39f5f820bfcd2b"
    ),
    "method=swa model=vgg16 batch_size=64": (
        "46dbaae414ad feecd711e43f cafd26f57a129c62 0b388401cd89607b a27681836fb4200f"
    ),
    "method=swa model=vgg16 optimizer.momentum=0.8": (
        "06bec5291a12 99ebb89d9699 a086834f10eb7cb5 38b5935bd6512fcb 94eb1c6bd34be360"
    ),
    "method=swa model=vgg16 precision=bf16": (
        "682b608a320c 99ebb89d9699 6663da12fbcb02b3 388823ecd008b129 ef970c52efefc34c"
    ),
    "method=swa model=vgg16 channels_last=false": (
        "9a6064b2ba07 99ebb89d9699 1f6da1288b33b6b0 6b3d77cc3feba1b1 46fe31fb22814cad"
    ),
    "method=swa model=vgg16 schedule=constant": (
        "1bafa862f1c8 b6543704233e 0b29c97ccfccaf10 9948d875ebe5159c 0321d4731e27d7bf"
    ),
    "method=swa model=vgg16 dataset.content=abc": (
        "1eb0dd7d2d4d 99ebb89d9699 0b29c97ccfccaf10 095022271d08353e ba385f63151a57f4"
    ),
    "method=swa model=vgg16 init=pretrained": (
        "0d27afe2b814 99ebb89d9699 0b29c97ccfccaf10 095022271d08353e ba385f63151a57f4"
    ),
    "method=swa model=vgg16 seed=7": (
        "d6593a540b88 99ebb89d9699 8e58451b2bc94587 33d0bfa530272fec 6456cb6748397e5b"
    ),
}


@pytest.mark.parametrize("options", PINNED)
def test_hashes_and_keys_are_those_of_version_0_1(
    options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swa_bench.training.hardware.cpu_has_bf16", lambda: True)
    default = ["budget=1"] * ("experiment" not in options)  # as it was then
    plan = plan_of(*default, *options.split())
    keys = plan.state_keys(DATA, WEIGHTS)
    found = [recipe_hash(plan.config), plan.schedule_sha256(plan.config.epochs)[:12]]
    assert [*found, keys[0], keys[len(keys) // 2], keys[-1]] == PINNED[options].split()


def test_an_ensemble_of_whole_runs_has_its_hash_too() -> None:
    assert recipe_hash(config_of("method=independent", "model=vgg16")) == "743b0d143854"


def test_shipped_recipes_hash_as_when_they_were_trained() -> None:
    paths = sorted(SHIPPED.rglob("cell-*.json"))
    assert len(paths) == 165
    for path in paths:
        record = parse_record(json.loads(path.read_text()))
        assert record.recipe_hash == path.parent.name.rsplit("-", 1)[1]
        assert recipe_hash(from_dict(record.config)) == record.recipe_hash, path


def test_records_of_version_0_1_are_migrated_and_their_recipes_hash_as_then() -> None:
    assert len(OLD) > 30
    for path, raw in OLD.items():
        record = parse_record(raw)
        assert raw["format"] == 1 and record.format == 2, path
        assert record.recipe_hash == raw["identity"] == Path(path).parent.name.rsplit("-", 1)[1]
        assert record.schedule_sha256 == raw["path_sha256"]
        assert record.segments == raw.get("origins", [])
        assert record.result.model_dump(exclude_unset=True) == raw["result"]
        assert len(record.recipe_diff) == len(raw["variant"])
        assert not renames.RENAMED.keys() & renames.flatten(record.config).keys()
        assert recipe_hash(from_dict(record.config)) == raw["identity"], path


def test_formats_1_and_2_of_one_run_are_equal() -> None:
    """What a migrated record says of its run is what a new record would say."""
    for path, raw in OLD.items():
        old = parse_record(raw)
        assert parse_record(json.loads(old.model_dump_json(exclude_unset=True))) == old, path
    (raw,) = (OLD[path] for path in OLD if path.endswith("swa-seed1-9346c3328d54/cell-1.25.json"))
    old = parse_record(raw)
    options = ["experiment=quickstart", "method=swa", "budget=1.25", "seed=1"]
    new = spec_of(*options, f"precision={old.config['precision']}")
    assert shaping(old.config) == shaping(to_dict(new.config))
    assert old.recipe_diff == new.recipe_diff()
    plan = plan_of(*options, f"precision={old.config['precision']}")
    assert old.schedule_sha256 == plan.schedule_sha256(plan.config.epochs)
    assert old.option("method", "result") == "swa"


def both(*options: str) -> list[str]:
    """The hash of a recipe and the keys of its first and last state."""
    plan = plan_of("model=preresnet20", *SHORT_RECIPE, *options)
    keys = plan.state_keys(DATA, WEIGHTS)
    return [recipe_hash(plan.config), keys[0], keys[-1]]


@pytest.mark.parametrize("option", ["optimizer.nesterov", "augmentation.cutout", "method.new"])
def test_a_later_option_at_its_default_changes_no_name(
    option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three that do not exist: one of a group that is open, one of a group with known options."""
    before = both()
    group, _, name = option.partition(".")

    def with_value(value: bool) -> list[str]:
        def more_shaping(values: dict[str, Any]) -> dict[str, Any]:
            kept = shaping(values)
            return kept | {group: kept[group] | {name: value}}

        monkeypatch.setattr(identity, "shaping", more_shaping)
        return both()

    monkeypatch.setitem(renames.LATER, option, (False,))
    assert with_value(False) == before
    assert all(a != b for a, b in zip(with_value(True), before, strict=True))


@dataclass(frozen=True, kw_only=True, config=KNOWN_ONLY)
class LaterMethod(MethodConfig):
    shrink: float


@dataclass(frozen=True, kw_only=True, config=KNOWN_ONLY)
class LaterConfig(TrainConfig):
    method: LaterMethod


def test_what_a_method_gets_later_is_in_the_states_keys_by_construction() -> None:
    """Nothing but its field says so; nor need a predictor's new argument be listed anywhere."""
    plan = plan_of("model=preresnet20", *SHORT_RECIPE, "method=ema")
    values = to_dict(plan.config)

    def names(**changes: Any) -> list[str]:
        changed = values | {"method": values["method"] | {"shrink": 0.0} | changes}
        config = TypeAdapter(LaterConfig).validate_python(changed)
        keys = dataclasses.replace(plan, config=config).state_keys(DATA, WEIGHTS)
        return [recipe_hash(config), keys[0], keys[-1]]

    ema = values["method"]["predictors"]["ema"]
    several = [names(), names(shrink=0.5), names(predictors={"ema": ema | {"warm_up": 3}})]
    several.append(names(predictors={"ema": ema, "second": ema}))
    assert all(len(set(found)) == 4 for found in zip(*several, strict=True))
    # Only what is marked as such is left out.
    assert names(table_budget=2.0) == names()


def test_a_revision_moves_the_runs_that_it_concerns_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    reflected = "augmentation.padding_mode=reflect"
    zeros, reflect = both(), both(reflected)

    def concerns(config: Any) -> bool:
        return bool(config.augmentation["padding_mode"] == "reflect")

    monkeypatch.setattr(identity, "REVISIONS", (("padding 2", concerns),))
    assert both() == zeros
    assert all(a != b for a, b in zip(both(reflected), reflect, strict=True))


def test_renamed_options_map_to_the_names_of_version_0_1() -> None:
    first = renames.flatten(
        renames.to_first(shaping(to_dict(config_of("method=swa_cyclic", "model=vgg16"))))
    )
    assert first["method.combine"] == "weights"
    assert first["method.first_copy"] == first["schedule.first_copy"] == 161
    assert first["optimizer.batch_size"] == 128
    assert first["dataset.augmentation.padding_mode"] == "zeros"
    assert not [name for name in renames.FIRST_NAMES if name in first]
    assert not [name for name in renames.LATER if name in first]


def test_what_was_renamed_comes_back() -> None:
    """to_present undoes to_first, the values of options that were renamed too."""
    for method in ("sgd", "swa", "fge", "swa_cyclic"):
        config = config_of(f"method={method}", "model=vgg16", "dataset=cifar100")
        values = shaping(to_dict(config))
        first = renames.to_first(values)
        assert shaping(renames.to_present(first)) == values


def test_the_options_of_a_users_own_schedule_keep_their_names() -> None:
    schedule = {"_target_": "own.rate", "first_copy": 3}
    assert renames.to_present({"schedule": schedule})["schedule"] == schedule
