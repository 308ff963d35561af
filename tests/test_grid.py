"""Grids as they are read from their files: columns by hand, and the rest as Hydra composes it."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from record_helpers import write_record

from swa_bench.config.grid import Experiment, grids, paper_columns, paper_models, read_experiment
from swa_bench.config.plan import Plan, divergence, make_plan
from swa_bench.config.spec import RunSpec, compose_spec
from swa_bench.labels import plain_recipe, recipe_text
from swa_bench.reporting import tables
from swa_bench.results import frames
from swa_bench.results.record import read_records

EXPERIMENTS = [experiment for grid in grids().values() for experiment in grid.experiments]
TRAINED = [("swa", 1.0), ("swa", 1.25), ("swa", 1.5)]


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("paper_tables", [("sgd", 1.0), *TRAINED]),
        ("imagenet", [("pretrained", 0.0), ("swa", 0.5), ("swa", 1.0)]),
        ("shakeshake", [("sgd", 1.0), *TRAINED]),
        ("pyramidnet", [("sgd", 1.0), *TRAINED]),
        ("fixed_rate", [("sgd_fixed_rate", 1.0), ("swa_fixed_rate", 1.0)]),
        ("cifar10_cpu_long", [("sgd", 1.5), *TRAINED]),
        ("cifar10_cpu,reflection_padding", [*TRAINED, ("sgd", 1.0)]),
    ],
)
def test_columns(name: str, columns: list[tuple[str, float]]) -> None:
    assert list(read_experiment(name).columns) == columns


def test_ensembles_of_one_size_have_no_seed_in_common() -> None:
    """Of seeds 0 to 2: three of one run, one of seeds 0 and 1, one of all."""
    cells = read_experiment("cifar10_cpu_more").cells
    expected = [(1.0, 0), (1.0, 1), (1.0, 2), (2.0, 0), (3.0, 0)]
    for method in ("fge", "snapshot", "independent"):
        assert [cell[1:] for cell in cells if cell[0] == method] == expected


def recorded(spec: RunSpec, plan: Plan, seeds: Iterable[int]) -> Iterator[tuple[float, int]]:
    """Budget and seed of what the jobs of a spec report: runs, and ensembles of them."""
    for seed in seeds:
        for ensemble in spec.replace(seed=seed).ensembles():
            yield ensemble.config.budget, ensemble.config.seed
        if spec.config.method.name == plan.config.method.name:
            yield from ((report.budget, seed) for report in plan.reports)


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_runs_are_those_that_hydra_composes(experiment: Experiment) -> None:
    """Their lengths, recipes, which cells they report, and where two methods of a row part."""
    for dataset, model in experiment.rows:
        choice = [experiment.option, f"dataset={dataset}", f"model={model}"]
        plans, cells = {}, set[tuple[str, float, int]]()
        for method in experiment.own:
            spec = compose_spec(*choice, f"method={method}", "device=cpu", "precision=fp32")
            specs = [spec, *map(spec.with_method, spec.config.also_train)]
            plans |= {one.config.method.name: make_plan(one.members()[0]) for one in specs}
            for one in specs:
                name = one.config.method.name
                recipe = plain_recipe(recipe_text(one.recipe_diff()))
                assert experiment.recipe(dataset, model, name) == recipe
                cells |= {(name, *cell) for cell in recorded(one, plans[name], experiment.seeds)}
        assert sorted(cells) == sorted(experiment.cells)
        states = {method: experiment.states(dataset, model, method) for method in plans}
        assert {method: len(names) for method, names in states.items()} == {
            method: plan.config.epochs for method, plan in plans.items()
        }
        for one, other in itertools.combinations(plans, 2):
            if not {one, other} <= {*plans[one].config.checkpoints.keep_for}:
                continue  # such epochs are not kept for the other
            parts = divergence(plans[one], plans[other])
            shorter = min(plans[one].config.epochs, plans[other].config.epochs)
            shared = len({*states[one]} & {*states[other]})
            assert shared == (shorter if parts is None else parts), (one, other)


def test_what_the_paper_has_of_a_data_set() -> None:
    assert paper_models("imagenet") == ["resnet50", "resnet152", "densenet161"]
    assert paper_models("cifar10")[-1] == "wrn28_10"  # the other networks only have rows with runs
    assert paper_columns("cifar10_mini") == ()


def tables_of(folder: Path) -> dict[str, tables.Table]:
    cells = frames.cells_frame(read_records([folder]))
    return {table.name: table for table in tables.make_tables(cells, frames.epochs_frame(cells))}


def test_other_networks_are_rows_of_the_cifar_tables_once_they_have_runs(tmp_path: Path) -> None:
    """Published is 97.12 % accuracy of SWA 1.5."""
    write_record(tmp_path, error=7.0)
    before = tables_of(tmp_path)["cifar10"]
    write_record(tmp_path, model="shakeshake26_2x64d", method="swa", budget=1.5, error=3.0)
    write_record(tmp_path, model="wrn28_10", method="swa_fixed_rate", error=5.0)
    table = tables_of(tmp_path)["cifar10"]
    assert [line[0] for line in table.rows if line[0]][4:] == ["Shake-Shake-26 2x64d"]
    assert [line[5] for line in table.rows[16:]] == ["3.00 (n=1)", "2.88", "+0.12", "no n: no test"]
    assert [row[:6] for row in table.rows[:12]] == before.rows[:12]
    assert table.header[:6] == before.header and len(table.header) == 7
    (added,) = set(table.notes) - set(before.notes)
    assert "this project's choice" in added


def test_the_imagenet_table(tmp_path: Path) -> None:
    """Published of ResNet-50, in % right: 76.15 before, 76.83 after 5 epochs, 76.97 after 10."""
    row = {"dataset": "imagenet", "model": "resnet50"}
    write_record(tmp_path, **row, method="pretrained", budget=0.0, epochs=0, error=23.87)
    for seed, error in enumerate((23.10, 23.12)):
        write_record(tmp_path, **row, method="swa", budget=0.5, seed=seed, error=error)
    (table,) = tables_of(tmp_path).values()
    assert table.header[2:] == ["Before", "SWA, 5 epochs", "SWA, 10 epochs"]
    assert [line[0] for line in table.rows if line[0]] == [
        "ResNet-50",
        "ResNet-152",
        "DenseNet-161",
    ]
    assert [line[1:] for line in table.rows[:3]] == [
        ["ours", "23.87 (n=1)", "23.11 ± 0.01 (n=2)", "no runs"],
        ["published", "23.85", "23.17 ± 0.01 (n=3)", "23.03 ± 0.05 (n=3)"],
        ["difference", "+0.02", "−0.06", "-"],
    ]
    assert "Top-1 error." in table.notes[0] and len(table.notes) == 1
