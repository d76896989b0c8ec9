"""Learning rules side by side: equal conditions, the choice of the learning rate, the verb."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tsslbp import cli, stats, training
from tsslbp.cli import runs, trainings
from tsslbp.data import DataSet
from tsslbp.errors import InvalidInput, RunError
from tsslbp.experiment import Experiment, load_recipe
from tsslbp.losses import Loss
from tsslbp.rules import TSSLBP
from tsslbp.run import Run
from tsslbp.studies import compare
from tsslbp.studies.compare import Cell, Comparison
from tsslbp.studies.jobs import Engine, Job, Watch
from tsslbp.studies.trials import Trial
from tsslbp.training import cost
from tsslbp.training.history import StepResult

RULES = ("TSSLBP", "TSSLBP(warm_up=always)")
RATES = (0.001, 0.002, 0.004)
RECIPE = """
data = "mine.npz"
network = "4C3-P2-8"
weight_scale = 4
validation_images = 12
epochs = 1
batch_size = 16
learning_rate = 0.01
loss = "softmax"
"""
LOST = 0.02  # the learning rate at which TSSLBP(warm_up=always) shall diverge
Program = Callable[..., tuple[int, str, str]]


def recipe(**changes: Any) -> Experiment:
    return replace(load_recipe("digits"), epochs=2, **changes)


def comparison(seeds: int = 3, **changes: Any) -> Comparison:
    settings: dict[str, Any] = {"time_steps": (1, 5), "learning_rates": RATES}
    settings |= {"experiment": recipe(loss="softmax"), "rules": RULES, "seeds": seeds}
    return Comparison(**(settings | changes))


def made(trial: Trial, validation: float, test: float = 0.5, epochs: int = 2) -> None:
    """Make up the records of a run: `validation` and `test` are reached in the first epoch."""
    run = Run.create(trial.folder, trial.experiment)
    for epoch in range(1, epochs + 1):
        run.append_epoch(
            {
                "epoch": epoch,
                "train_accuracy": 0.5,
                "validation_accuracy": validation if epoch == 1 else validation - 0.1,
                "test_accuracy": test if epoch == 1 else test + 0.1,
                "spikes_per_image": 100.0 * epoch,
                "seconds": 3.0,
            }
        )


def diverged(trial: Trial) -> None:
    Run.create(trial.folder, trial.experiment).record_divergence("epoch 1, step 3: NaN")


def cell(planned: Comparison, folder: Path, place: int = 0) -> Cell:
    return compare.outcomes(planned, folder)[place]


def result_cell(rule: str, accuracies: Sequence[float], steps: int = 5, folder: str = "x") -> Cell:
    """A cell whose seeds have reached these test accuracies."""
    results = []
    for seed, accuracy in enumerate(accuracies):
        epochs = [{"epoch": 1, "test_accuracy": accuracy, "validation_accuracy": 0.5, "seconds": 1}]
        experiment = recipe(seed=seed)
        results.append(compare.Result(Path(folder), experiment, {"cpu": folder}, epochs))
    return Cell(rule, steps, RATES, dict.fromkeys(RATES, 0.5), {}, 0.002, tuple(results), (), 3)


def test_a_rule_that_lost_a_seed_is_not_better_by_the_others(tmp_path: Path) -> None:
    """What diverged is no missing value: the other seeds are those that went well."""
    first = result_cell("TSSLBP", [0.90, 0.91, 0.92])
    other = result_cell("Surrogate", [0.95, 0.962, 0.97])
    (gap,) = compare.gaps([first, other])
    assert (gap.verdict, gap.lost) == ("higher", 0)
    for pair in (
        [first, replace(other, lost_seeds=(3,))],
        [replace(first, lost_seeds=(3,)), other],
    ):
        (gap,) = compare.gaps(pair)
        assert (gap.verdict, gap.lost) == ("undecided", 1)


def test_default_learning_rates_are_around_the_recipes() -> None:
    planned = Comparison(recipe(learning_rate=0.0004), RULES)
    assert planned.learning_rates == (0.0001, 0.0002, 0.0004, 0.0008, 0.0016)
    assert planned.time_steps == (5,)


def test_runs_differ_in_four_keys_alone(tmp_path: Path) -> None:
    """Also where the recipe is of the published protocol and has patience."""
    planned = Comparison(
        recipe(loss="softmax", protocol="published", patience=1), RULES, (1, 5), RATES
    )
    runs = [t for pair in planned.pairs for r in RATES for t in planned.runs(tmp_path, *pair, r)]
    tables = [run.experiment.to_table() for run in runs]
    assert len({run.folder for run in runs}) == len({run.name for run in runs}) == 2 * 2 * 3 * 3
    assert {key for table in tables for key in table if table[key] != tables[0][key]} == {
        *compare.APART
    }
    assert all(run.experiment.protocol == "validated" for run in runs)
    assert all(run.experiment.patience is None for run in runs)


class Enough(Exception):
    """So many training steps have been looked at."""


def test_rules_see_equal_weights_images_and_optimiser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What training steps are given, by rule, T and learning rate; none is carried out."""
    given: list[torch.Tensor] = []

    def step(net: Any, optimizer: Any, loss: Any, images: Any, labels: Any, **_: Any) -> StepResult:
        (group,) = optimizer.param_groups
        settings = [*group["betas"], group["weight_decay"], group["eps"]]
        given.extend([images, labels, torch.tensor(settings), *map(torch.clone, net.parameters())])
        if len(given) > 20:
            raise Enough
        return StepResult(1.0, 0, 1.0, len(labels))

    monkeypatch.setattr(training.step, "train_step", step)
    images = torch.randint(0, 256, (200, 1, 8, 8), dtype=torch.uint8)
    data = DataSet("digits", images, torch.arange(200) % 10, images[:9], torch.arange(9), 10)
    small = recipe(network="4C3-8", padding=0, validation_images=20, batch_size=20, loss="softmax")
    planned, found = comparison(experiment=small), []
    for rule, steps in planned.pairs:
        variant = planned.variant(rule, steps, RATES[0] * steps)
        with pytest.raises(Enough):
            training.fit(Run.create(tmp_path / compare.slug(rule) / f"{steps}", variant), data)
        found.append(given.copy())
        given.clear()
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))
    assert len(found) == 4 and not torch.equal(found[0][1], found[0][-5])  # batch after batch


@pytest.mark.parametrize(
    ("accuracies", "chosen"),
    [
        ({0.001: 0.7, 0.002: 0.8, 0.004: 0.6}, 0.002),
        ({0.001: 0.9, 0.002: 0.8, 0.004: 0.6}, 0.001),
        ({0.001: 0.9, 0.002: 0.9, 0.004: 0.9}, 0.002),
        ({0.0005: 0.9, 0.001: 0.8, 0.004: 0.9}, 0.004),  # a factor of 4 away, and of 2
        ({0.001: 0.9, 0.002: 0.8, 0.004: 0.9}, 0.001),  # a factor of 2 both
        ({0.004: 0.1}, 0.004),
    ],
)
def test_choice_of_the_learning_rate(accuracies: dict[float, float], chosen: float) -> None:
    assert compare.choose(accuracies, rate=0.002) == chosen


def test_outcome_follows_the_records(tmp_path: Path) -> None:
    """Validation images choose rate and epoch; test images, which say otherwise, do not."""
    planned = comparison(time_steps=(5,))
    low, middle, high = (planned.runs(tmp_path, "TSSLBP", 5, rate) for rate in RATES)
    assert (cell(planned, tmp_path).missing, cell(planned, tmp_path).rate) == (5, None)
    made(low[0], 0.6, test=0.99)
    made(middle[0], 0.8, test=0.70)
    assert cell(planned, tmp_path).state == "2 of 3 learning rates tried"
    made(high[0], 0.7, test=0.98)
    tuned = cell(planned, tmp_path)
    assert (tuned.rate, tuned.edge, tuned.missing) == (0.002, False, 2)
    assert tuned.validation == {0.001: 0.6, 0.002: 0.8, 0.004: 0.7}
    assert [one.name for one in compare.finals(planned, tmp_path)] == [
        f"TSSLBP/T5/lr-0.002/validated-seed{seed}" for seed in range(3)
    ]
    assert tuned.state == "1 of 3 seeds finished"
    made(middle[1], 0.1, test=0.72)
    diverged(middle[2])
    whole = cell(planned, tmp_path)
    assert (whole.rate, whole.missing, whole.lost_seeds) == (0.002, 0, (2,))
    assert whole.state == "diverged with seed 2"
    assert whole.accuracies.tolist() == [0.70, 0.72]
    assert whole.spikes.tolist() == [100, 100] and whole.seconds.tolist() == [6, 6]
    assert cell(planned, tmp_path, 1).missing == 5  # the other rule has not begun


def test_a_learning_rate_at_which_the_training_diverged_is_lost(tmp_path: Path) -> None:
    planned = comparison(time_steps=(5,))
    for rate, run in zip(RATES, planned.tuning(tmp_path)[:3], strict=True):
        diverged(run) if rate > 0.001 else made(run, 0.6)
    found = cell(planned, tmp_path)
    assert (found.rate, found.edge, found.missing) == (0.001, True, 2)
    assert found.lost == dict.fromkeys((0.002, 0.004), "epoch 1, step 3: NaN")
    for run in planned.tuning(tmp_path)[3:]:
        diverged(run)
    lost = cell(planned, tmp_path, 1)
    assert (lost.rate, lost.missing, lost.state) == (None, 0, "diverged at every learning rate")
    lines = compare.cautions(planned, [found, lost])
    assert f"{found.name}: the chosen learning rate, 0.001, is at the edge of those" in lines[0]
    assert f"{lost.name}: diverged at learning rate 0.001 (epoch 1, step 3: NaN)" in lines
    assert f"{lost.name}: diverged at every learning rate" in lines


@pytest.mark.parametrize(("epochs", "finished"), [(1, False), (3, None)])
def test_every_rule_has_the_same_budget(epochs: int, finished: bool | None, tmp_path: Path) -> None:
    planned = comparison(time_steps=(5,))
    made(planned.tuning(tmp_path)[0], 0.5, epochs=epochs)
    if finished is None:
        with pytest.raises(RunError, match="trained for 3 epochs, the comparison is of 2"):
            cell(planned, tmp_path)
    else:
        assert cell(planned, tmp_path).validation == {}


def test_a_run_of_other_settings_is_refused(tmp_path: Path) -> None:
    planned = comparison(time_steps=(5,))
    first = planned.tuning(tmp_path)[0]
    made(replace(first, experiment=replace(first.experiment, batch_size=7)), 0.5)
    with pytest.raises(RunError, match="batch_size is 7 there, 50 here"):
        compare.outcomes(planned, tmp_path)


def test_differences_to_the_first_rule_at_each_number_of_time_steps() -> None:
    base, better = [0.90, 0.91, 0.92], [0.951, 0.960, 0.969]
    cells = [
        result_cell("A", base),
        result_cell("B", better),
        result_cell("C", [0.90, 0.93, 0.91]),
        result_cell("A", base[:1], 10),
        result_cell("B", better, 10),
    ]
    gaps = compare.gaps(cells)
    assert [(gap.rule, gap.time_steps, gap.seeds) for gap in gaps] == [
        ("B", 5, 3),
        ("C", 5, 3),
        ("B", 10, 1),
    ]
    assert [gap.verdict for gap in gaps] == ["higher", "undecided", "undecided"]
    plain = stats.paired(100 * np.array(better), 100 * np.array(base))
    assert gaps[0].difference == plain
    assert gaps[0].p == pytest.approx(2 * plain.p)  # Holm's correction for two tests
    assert gaps[2].difference is None


def test_a_difference_that_the_correction_does_not_carry_is_undecided() -> None:
    base = [0.90, 0.91, 0.92]
    weak = [x + d for x, d in zip(base, (0.002, 0.003, 0.004), strict=True)]
    pair = [result_cell("A", base), result_cell("B", weak)]
    (alone,) = compare.gaps(pair)
    assert (alone.verdict, round(alone.p or 0, 3)) == ("higher", 0.035)
    many = [*pair, *(result_cell(name, weak) for name in "CDEF")]
    assert {gap.verdict for gap in compare.gaps(many)} == {"undecided"}


def test_equal_differences_decide_nothing() -> None:
    cells = [result_cell("A", [0.90, 0.91]), result_cell("B", [0.91, 0.92])]
    assert [gap.verdict for gap in compare.gaps(cells)] == ["undecided"]


def test_cautions() -> None:
    kernel = Comparison(recipe(), RULES, (5, 10), RATES)
    (line,) = compare.cautions(kernel)
    assert "loss = kernel" in line and "--set loss=softmax" in line
    assert compare.cautions(comparison()) == []
    assert compare.cautions(Comparison(recipe(), RULES, (5,), RATES)) == []
    unlike = [result_cell("A", [0.9] * 3), result_cell("B", [0.9] * 3, folder="other machine")]
    assert compare.cautions(comparison(), unlike[:1]) == []
    (line,) = compare.cautions(comparison(), unlike)
    assert "do not compare their times" in line


def test_a_comparison_may_grow_and_nothing_else(tmp_path: Path) -> None:
    planned = comparison()
    compare.prepare(planned, tmp_path)
    assert compare.read(tmp_path) == planned
    larger = replace(
        planned, rules=(*RULES, "NA"), time_steps=(1, 2, 5), learning_rates=(*RATES, 0.008), seeds=5
    )
    compare.prepare(larger, tmp_path)
    assert compare.read(tmp_path) == larger
    for change, message in [
        ({"rules": RULES}, r"more rules \(NA\)"),
        ({"rules": (*RULES, "NA(normalise=true)")}, r"rule NA\(normalise=true\) is written NA:"),
        ({"time_steps": (1, 5)}, r"more time steps \(2\)"),
        ({"learning_rates": RATES}, r"more learning rates \(0.008\)"),
        ({"experiment": recipe(loss="softmax", tau_s=4.0)}, "tau_s is 3.0 there, 4.0 here"),
        ({"experiment": replace(larger.experiment, epochs=3)}, "epochs is 2 there, 3 here"),
    ]:
        with pytest.raises(RunError, match=message):
            compare.prepare(replace(larger, **change), tmp_path)
    assert compare.read(tmp_path) == larger


def test_a_rule_may_be_written_in_several_ways() -> None:
    texts = ("TSSLBP( )", """Surrogate(derivative = 'arctangent',width=""" """2)""", " NA ()")
    planned = replace(comparison(), rules=texts)
    assert planned.rules == ("TSSLBP", "Surrogate(derivative=arctangent, width=2)", "NA")


@pytest.mark.parametrize("text", ["{", "[]", '{"rules": ["A"]}', '{"rules": 3}'])
def test_a_damaged_plan_is_named(text: str, tmp_path: Path) -> None:
    compare.prepare(comparison(), tmp_path)
    (tmp_path / compare.FILE).write_text(text)
    with pytest.raises(RunError, match=r"cannot read the comparison .*compare\.json"):
        compare.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rules": ()}, "at least one of the rules"),
        ({"rules": ("TSSLBP", "TSLBP")}, "did you mean 'TSSLBP'"),
        ({"rules": ("TSSLBP", "TSSLBP(warm_up=neuron)")}, "are the same"),
        ({"rules": ("TSSLBP NA",)}, "unknown learning rule 'TSSLBP NA'"),
        ({"time_steps": (1, 1)}, "time steps: 1 and 1 are the same"),
        ({"time_steps": (0,)}, "time_steps must be"),
        ({"learning_rates": (0.1, -0.1)}, "learning_rate must be"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"experiment": recipe(), "time_steps": (1,)}, "desired_train must have a spike within"),
    ],
)
def test_bad_comparisons(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        replace(comparison(), **changes)


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        ("TSSLBP.published", "TSSLBP.published"),
        ("TSSLBP(warm_up=always, timing_max=4)", "TSSLBP-warm_up=always-timing_max=4"),
        ("TSSLBP(timing_min=-4)", "TSSLBP-timing_min=-4"),
        ("Surrogate(derivative='fast-sigmoid')", "Surrogate-derivative=fast-sigmoid"),
    ],
)
def test_folders_of_rules(rule: str, name: str) -> None:
    assert compare.slug(rule) == name


@pytest.fixture
def program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Program:
    """Run the program beside a small recipe, its jobs in this process; with a rate that diverges.

    Returns exit code, output and error.
    """
    monkeypatch.chdir(tmp_path)
    images = np.random.RandomState(0).randint(0, 256, (70, 8, 8)).astype(np.uint8)
    np.savez("mine.npz", images=images, labels=np.arange(70) % 2)
    Path("mine.toml").write_text(RECIPE)
    loss_of = training.build_loss

    def build_loss(experiment: Experiment) -> Loss:
        if (experiment.learning_rate, experiment.rule) == (LOST, TSSLBP(warm_up="always")):
            return lambda psp, labels: psp.sum() * math.nan
        return loss_of(experiment)

    def run_jobs(jobs: Sequence[Job], engine: Engine, watch: Watch) -> dict[str, str]:
        failures = {}
        for job in jobs:
            if cli.main(job.arguments):
                failures[job.name] = "it failed"
            watch.ended(job, failures.get(job.name))
        return failures

    for module in (training.step, cost):
        monkeypatch.setattr(module, "build_loss", build_loss)
    monkeypatch.setattr(trainings, "run_jobs", run_jobs)
    monkeypatch.setattr(runs, "_draw_picture", lambda *_: None)  # it takes most of a run's time

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(arguments)
        return code, *capsys.readouterr()

    return run


def test_compare(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan, both stages, table, report; a lost rate; nothing is made twice, seeds are added."""
    pytest.importorskip("jinja2")
    command = ["compare", "mine.toml", "--rules", ", ".join(RULES), "--time-steps", "1,2"]
    command += ["--learning-rates", f"0.01,{LOST}", "--out", "out"]
    code, output, error = program(*command, "--seeds", "2")
    assert code == 0, error
    plan = "2 rules x 2 T x (2 learning rates with the first seed + 1 more seeds at the chosen one)"
    assert f"{plan} = 12 runs, 12 of them to make\n" in output
    assert re.search(r"TSSLBP\(warm_up=always\), T = 2 +3 +[\d.]+ s", output)
    assert output.index("about ") < output.index("TSSLBP/T1/lr-0.01/validated-seed0")
    written = {path: path.stat().st_mtime_ns for path in Path("out").rglob("metrics.jsonl")}
    assert len(written) == 12
    lost = {path.parent for path in Path("out").rglob("diverged.json")}
    assert {path for path in written if not path.read_text()} == {
        folder / "metrics.jsonl" for folder in lost
    }
    assert len(lost) == 2
    found = compare.outcomes(planned := compare.read(Path("out")), Path("out"))
    for one in found:
        assert len(one.results) == 2 and not one.missing
        assert set(one.lost) == ({LOST} if "always" in one.rule else set())
        mean, sd = 100 * one.accuracies.mean(), 100 * one.accuracies.std(ddof=1)
        assert f"{mean:.2f} ± {sd:.2f} %" in output
    assert planned.seeds == 2
    assert error.count("diverged at learning rate 0.02 (epoch 1, step 1: training div") == 2
    assert "is at the edge of those tried" in error
    assert re.search(r"TSSLBP\(warm_up=always\), T = 1, against TSSLBP: .* points .*: \w+", output)
    assert "Learning rules side by side" in Path("out/report.html").read_text()

    code, output, error = program(*command, "--seeds", "3")
    assert code == 0, error
    assert " = 16 runs, 4 of them to make\n" in output
    for path, modified in written.items():
        assert path.stat().st_mtime_ns == modified
    assert len(list(Path("out").rglob("metrics.jsonl"))) == 16

    code, _, error = program(*command, "--set", "tau_s=4")
    assert code == 2 and "out holds a comparison of other settings (tau_s is 3.0" in error


def test_a_run_that_fails_otherwise_is_made_again(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("jinja2")
    command = ["compare", "mine.toml", "--rules", "TSSLBP, NA", "--learning-rates", "0.01"]
    command += ["--seeds", "1", "--out", "out", "--set", "time_steps=2"]
    blocked = Path("out/NA/T2/lr-0.01/validated-seed0/thesis.tex")
    blocked.parent.mkdir(parents=True)
    blocked.write_text("")
    code, output, error = program(*command)
    assert code == 2
    assert "1 of 2 runs failed (NA/T2/lr-0.01/validated-seed0: it failed)" in error
    assert "NA, T = 2: 0 of 1 learning rates tried" in error
    blocked.unlink()
    code, output, error = program(*command)
    assert (code, error) == (0, "")
    assert "NA, T = 2, against TSSLBP: undecided, a test needs two seeds of both" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rules", "TSSLBP, X"), "unknown learning rule 'X'"),
        (("--rules", "TSSLBP", "--time-steps", "1,a"), "--time-steps expects numbers such as 1,2"),
        (("--rules", "TSSLBP", "--learning-rates", ""), "--learning-rates expects numbers"),
        (("--rules", "TSSLBP", "--set", "validation_images=80"), "validation_images must be"),
        (("--rules", "TSSLBP", "--set", "rule.warm_up=never"), "--set rule has no effect"),
        ((), "--rules"),
    ],
)
def test_bad_input(program: Program, options: tuple[str, ...], message: str) -> None:
    code, _, error = program("compare", "mine.toml", *options)
    assert code == 2
    assert message in error and error.count("\n") == 1
    assert not Path("runs").exists()
