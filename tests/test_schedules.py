"""Rates and collections of every model and method against the formulae, in exact fractions."""

import math
from fractions import Fraction

import pytest
from training_helpers import plan_of, spec_of

from swa_bench.schedules import authors, cyclic

# From the paper and the authors' README: lr, SGD / SWA epochs, swa_start, swa_lr per data set.
RECIPES = {
    "vgg16": ("0.05", 200, 161, {"cifar10": "0.01", "cifar100": "0.01"}),
    "preresnet110": ("0.1", 150, 126, {"cifar10": "0.01", "cifar100": "0.05"}),
    "preresnet164": ("0.1", 150, 126, {"cifar10": "0.01", "cifar100": "0.05"}),
    "wrn28_10": ("0.1", 200, 161, {"cifar10": "0.05", "cifar100": "0.05"}),
}
CASES = [(model, dataset) for model in RECIPES for dataset in ("cifar10", "cifar100")]


def rate(epoch: int, horizon: int, ratio: Fraction, first: Fraction) -> Fraction:
    t = Fraction(epoch, horizon)
    if t <= Fraction(1, 2):
        return first
    if t <= Fraction(9, 10):
        return first * (1 - (1 - ratio) * (t - Fraction(1, 2)) / Fraction(4, 10))
    return first * ratio


@pytest.mark.parametrize(("model", "dataset"), CASES)
def test_sgd_decays_over_the_run(model: str, dataset: str) -> None:
    lr, budget, _, _ = RECIPES[model]
    for multiple in (1, 1.5):
        epochs = int(budget * multiple)
        plan = plan_of(f"model={model}", f"dataset={dataset}", "method=sgd", f"budget={multiple}")
        assert plan.config.epochs == epochs
        assert plan.steps_per_epoch == 391
        for epoch in range(epochs):
            expected = float(rate(epoch, epochs, Fraction(1, 100), Fraction(lr)))
            assert plan.rates(epoch) == pytest.approx([expected] * 391, rel=1e-12)
            assert not plan.collects(epoch)
        assert [(report.epochs, report.budget) for report in plan.reports] == [(epochs, multiple)]


@pytest.mark.parametrize(("model", "dataset"), CASES)
def test_swa_decays_to_its_start_and_collects_from_there(model: str, dataset: str) -> None:
    lr, budget, start, swa_lr = RECIPES[model]
    plan = plan_of(f"model={model}", f"dataset={dataset}", "method=swa", "budget=1.5")
    ratio = Fraction(swa_lr[dataset]) / Fraction(lr)
    for epoch in range(plan.config.epochs):
        expected = float(rate(epoch, start, ratio, Fraction(lr)))
        assert plan.rates(epoch)[0] == pytest.approx(expected, rel=1e-12)
        assert plan.collects(epoch) == (epoch + 1 >= start)
    reports = {report.budget: report.epochs for report in plan.reports}
    assert reports == {1: budget, 1.25: budget * 5 // 4, 1.5: budget * 3 // 2}
    collected = [sum(map(plan.collects, range(done))) for done in reports.values()]
    assert collected == ([40, 90, 140] if budget == 200 else [25, 62, 100])


def test_where_the_decay_begins_and_ends() -> None:
    """T = 161: from e = 81 to e = 145; T = 126: from 64 to 114."""
    for horizon, begins, ends in ((161, 81, 145), (126, 64, 114)):
        rates = [
            authors(e, 0, 391, learning_rate=0.1, decay_epochs=horizon, final_ratio=0.1)
            for e in range(200)
        ]
        assert rates[: begins + 1].count(0.1) == begins
        assert rates[ends - 1] > rates[ends] == rates[-1] == pytest.approx(0.01)


def test_cycle_length_and_collections_at_cycle_ends() -> None:
    """Cycles of 2 epochs of 3 steps that end with epochs 4 and 6 (1-based), by hand."""
    own = {"learning_rate": 1.0, "decay_epochs": 100, "final_ratio": 0.1}
    own |= {"collect_from": 4, "cycle_epochs": 2, "cycle_first": 0.6, "cycle_last": 0.0}
    rates = [cyclic(epoch, step, 3, **own) for epoch in range(6) for step in range(3)]
    fall = [0.5, 0.4, 0.3, 0.2, 0.1, 0.0]  # t = 1/6, 2/6, ..., 1
    assert rates == pytest.approx([1.0] * 6 + fall + fall)


def test_swa_cyclic_collects_where_the_rate_is_lowest() -> None:
    plan = plan_of("method=swa_cyclic", "budget=1.5")
    lows = [e for e in range(160, 300) if plan.rates(e)[-1] == 0.01]
    assert lows == [e for e in range(160, 300) if plan.collects(e)] == list(range(160, 300, 2))
    assert plan.rates(161)[0] == pytest.approx(0.05 - 0.04 / 782)


def test_fge_goes_down_and_up_from_80_percent_of_sgd() -> None:
    """0.05 -> 0.01 -> 0.05 in cycles of 2 epochs of 391 steps, a member in the middle of each."""
    plan, sgd = plan_of("method=fge"), plan_of("method=sgd")
    assert all(plan.rates(e) == sgd.rates(e) for e in range(160))
    for e in range(160, 200):
        for step in (0, 1, 195, 390):
            t = Fraction((e - 160) % 2 * 391 + step, 2 * 391)
            down = 2 * t if t <= Fraction(1, 2) else 2 - 2 * t
            expected = Fraction(5, 100) - down * Fraction(4, 100)
            assert plan.rates(e)[step] == pytest.approx(float(expected), rel=1e-12)
    members = [e + 1 for e in range(200) if plan.collects(e)]
    assert members == list(range(161, 200, 2)) and len(members) == 20
    four = plan_of("method=fge", "method.cycle_epochs=4")
    assert [e + 1 for e in range(200) if four.collects(e)] == list(range(162, 200, 4))
    assert four.rates(161)[-1] == pytest.approx(0.01 + 0.04 / 782) and four.rates(162)[0] == 0.01
    preresnet = plan_of("method=fge", "model=preresnet110")
    assert [e + 1 for e in range(150) if preresnet.collects(e)] == list(range(121, 150, 2))


def test_swa_fge_averages_what_fge_ensembles() -> None:
    fge, swa = plan_of("method=fge"), plan_of("method=swa_fge")
    assert fge.schedule_sha256(200) == swa.schedule_sha256(200)


def test_snapshot_falls_to_zero_five_times() -> None:
    """0.05 / 2 * (cos(pi * i / c) + 1), i = 0 .. c - 1, c = 40 epochs of 391 steps."""
    plan = plan_of("method=snapshot")
    steps = 40 * 391
    for e in (0, 1, 19, 20, 39, 40, 199):
        for step in (0, 200, 390):
            i = (e % 40) * 391 + step
            half = math.sin(math.pi * (steps - i) / (2 * steps)) ** 2  # = (cos(pi * i / c) + 1) / 2
            assert plan.rates(e)[step] == pytest.approx(0.05 * half, rel=1e-9, abs=1e-15)
    assert [e + 1 for e in range(200) if plan.collects(e)] == [40, 80, 120, 160, 200]


def test_sgd_bn_collects_the_last_weights_alone() -> None:
    plan, sgd = plan_of("method=sgd_bn"), plan_of("method=sgd")
    assert all(plan.rates(e) == sgd.rates(e) for e in range(200))
    assert [e + 1 for e in range(200) if plan.collects(e)] == [200]


def test_constant() -> None:
    plan = plan_of("schedule=constant", "method=sgd", "model.learning_rate=0.3")
    assert {rate for epoch in range(200) for rate in plan.rates(epoch)} == {0.3}
    # The rate does not depend on the run's length, but method.decay_epochs does: SGD runs of other
    # lengths are other runs, and this one reports its own budget alone.
    assert [report.budget for report in plan.reports] == [1]


def test_a_fixed_rate_is_that_of_the_first_epoch_and_collects_from_0_7_of_the_run() -> None:
    """A budget of WRN-28-10 is 200 epochs; runs of other lengths collect from other epochs."""
    for budget, start, end in ((1, 140, 200), (1.25, 175, 250), (1.5, 210, 300)):
        options = ["model=wrn28_10", "dataset=cifar100", f"budget={budget}"]
        plan, last = (plan_of(f"method={one}_fixed_rate", *options) for one in ("swa", "sgd"))
        assert {rate for epoch in range(end) for rate in plan.rates(epoch)} == {0.1}
        collected = [epoch + 1 for epoch in range(end) if plan.collects(epoch)]
        assert collected == list(range(start, end + 1))
        assert [(one.budget, one.epochs) for one in plan.reports] == [(budget, end)]
        # The last weights of the very same states.
        assert plan.state_keys("data", "first") == last.state_keys("data", "first")
        assert (plan.config.method.result, last.config.method.result) == ("swa", "last")
    assert plan_of("method=swa_fixed_rate").config.budget == 1


@pytest.mark.parametrize(
    ("model", "rates", "ends", "counts"),
    [
        ("shakeshake26_2x64d", (0.2, 0.02), (1800, 2250, 2700), [360, 810, 1260]),
        ("pyramidnet272_a200", (0.5, 0.05), (300, 375, 450), [60, 135, 210]),
    ],
)
def test_rows_without_published_code(
    model: str, rates: tuple[float, float], ends: tuple[int, ...], counts: list[int]
) -> None:
    plan = plan_of(f"model={model}", "budget=1.5", "batch_size=50000")
    assert (plan.rates(0), plan.rates(ends[-1] - 1)) == ([rates[0]], [pytest.approx(rates[1])])
    assert tuple(one.epochs for one in plan.reports) == ends
    assert [sum(map(plan.collects, range(end))) for end in ends] == counts


def test_fractions_of_an_epoch_are_dropped() -> None:
    assert plan_of("model=preresnet110", "budget=1.25").config.epochs == 187
    assert plan_of("budget=1.15", "method=sgd").config.epochs == 230  # not 229.99999999999997


def test_two_budgets_that_end_with_one_epoch_are_two_reports() -> None:
    plan = plan_of("model.budget_epochs=2", "model.swa_start=1", "budget=1.5")
    assert [(report.budget, report.epochs) for report in plan.reports] == [
        (1, 2),
        (1.25, 2),
        (1.5, 3),
    ]


def test_another_method_brings_its_own_schedule_also_where_rates_were_changed() -> None:
    cyclic = spec_of("method=swa_cyclic", "schedule.cycle_first=0.04").with_method("sgd")
    assert cyclic.config.schedule["_target_"] == "swa_bench.schedules.authors"
    chosen = spec_of("method=swa", "schedule=constant").with_method("sgd")
    assert chosen.config.schedule["_target_"] == "swa_bench.schedules.constant"
