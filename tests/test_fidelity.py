"""Faster arithmetic reaches the error of the authors', within the noise of seeds."""

import shutil
from pathlib import Path

import pytest
from scipy import stats
from training_helpers import TINY_NET, SwaTrain, records_of

from swa_bench.training.hardware import native_precisions

# 200 steps of each of three seeds, with which errors fall from 90 % to about 70 %.
SHORT = [*TINY_NET, "+model.arguments.width=32", "dataset=cifar10_mini", "method=sgd"]
SHORT += ["dataset.train_images=1000", "model.budget_epochs=10", "batch_size=50"]
SHORT += ["evaluation.every=10"]

CPU_HAS_BF16 = "bf16" in native_precisions("cpu")


def errors(swa_train: SwaTrain, folder: Path, *options: str) -> list[float]:
    """Test errors of three seeds in %."""
    outcome = swa_train(*SHORT, "seeds_together=3", f"results_dir={folder}", *options)
    assert outcome.code == 0, outcome.err
    found = [record["result"]["test_error_pct"] for record in records_of(folder).values()]
    assert len(found) == 3
    return found


def assert_same_within_noise(ours: list[float], theirs: list[float]) -> None:
    """The bound of 5 points is for seeds that happen to differ much, the test for all others."""
    difference = sum(ours) / 3 - sum(theirs) / 3
    p_value = stats.ttest_ind(ours, theirs, equal_var=False).pvalue
    assert p_value > 0.01 and abs(difference) < 5, (ours, theirs)


@pytest.fixture(scope="module")
def cache() -> dict[str, list[float]]:
    """Errors of variants that several tests need."""
    return {}


@pytest.mark.skipif(not CPU_HAS_BF16, reason="this CPU does not compute in bf16")
def test_bf16_reaches_the_error_of_fp32(
    tmp_path: Path, swa_train: SwaTrain, cache: dict[str, list[float]]
) -> None:
    exact = errors(swa_train, tmp_path / "fp32")
    cache["bf16"] = errors(swa_train, tmp_path / "bf16", "precision=bf16")
    assert cache["bf16"] != exact
    assert_same_within_noise(cache["bf16"], exact)


@pytest.mark.skipif(not CPU_HAS_BF16, reason="this CPU does not compute in bf16")
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiled_steps_reach_the_error_of_eager_ones(
    tmp_path: Path, swa_train: SwaTrain, cache: dict[str, list[float]]
) -> None:
    compiled = errors(swa_train, tmp_path / "compiled", "precision=bf16", "compile=true")
    eager = cache.get("bf16") or errors(swa_train, tmp_path / "eager", "precision=bf16")
    assert_same_within_noise(compiled, eager)
