"""Tests of comparisons of learning rules: equal conditions and the choice of the learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tsslbp import stats, training
from tsslbp.data import DataSet
from tsslbp.errors import InvalidInput, RunError
from tsslbp.experiment import Experiment, load_recipe
from tsslbp.run import Run
from tsslbp.studies import compare, trials
from tsslbp.studies.compare import RuleResult, RuleStudy
from tsslbp.studies.trials import Trial
from tsslbp.training.history import StepResult

RULES = ("TSSLBP", "TSSLBP(warm_up=always)")
RATES = (0.001, 0.002, 0.004)


def recipe(**changes: Any) -> Experiment:
    return replace(load_recipe("digits"), epochs=2, **changes)


def study(seeds: int = 3, **changes: Any) -> RuleStudy:
    settings: dict[str, Any] = {"time_steps": (1, 5), "learning_rates": RATES}
    settings |= {"experiment": recipe(loss="softmax"), "rules": RULES, "seeds": seeds}
    return RuleStudy(**(settings | changes))


def made(trial: Trial, validation: float, test: float = 0.5, epochs: int = 2) -> None:
    """Write the records of a run that reaches `validation` and `test` in its first epoch."""
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


def outcome(planned: RuleStudy, folder: Path, place: int = 0) -> RuleResult:
    return compare.read_results(planned, folder)[place]


def rule_result(
    rule: str, accuracies: Sequence[float], steps: int = 5, folder: str = "x"
) -> RuleResult:
    """Return the result of a rule whose seeds reached these test accuracies."""
    results = []
    for seed, accuracy in enumerate(accuracies):
        epochs = [{"epoch": 1, "test_accuracy": accuracy, "validation_accuracy": 0.5, "seconds": 1}]
        experiment = recipe(seed=seed)
        results.append(compare.Result(Path(folder), experiment, {"cpu": folder}, epochs))
    return RuleResult(
        rule, steps, RATES, dict.fromkeys(RATES, 0.5), {}, 0.002, tuple(results), (), 3
    )


def test_a_rule_that_lost_a_seed_is_not_better_by_the_others() -> None:
    """A seed that diverged makes the verdict undecided, whatever the remaining seeds show."""
    first = rule_result("TSSLBP", [0.90, 0.91, 0.92])
    other = rule_result("Surrogate", [0.95, 0.962, 0.97])
    (pair,) = compare.against_first([first, other])
    assert (pair.verdict, pair.diverged) == ("higher", 0)
    for sides in (
        [first, replace(other, diverged_seeds=(3,))],
        [replace(first, diverged_seeds=(3,)), other],
    ):
        (pair,) = compare.against_first(sides)
        assert (pair.verdict, pair.diverged) == ("undecided", 1)


def test_default_learning_rates_are_around_the_recipes() -> None:
    planned = RuleStudy(recipe(learning_rate=0.0004), RULES)
    assert planned.learning_rates == (0.0001, 0.0002, 0.0004, 0.0008, 0.0016)
    assert planned.time_steps == (5,)


def test_runs_differ_in_four_keys_alone(tmp_path: Path) -> None:
    """Even if the recipe has the published protocol and patience, only four keys differ."""
    planned = RuleStudy(
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
    """The test has recorded as many training steps as it needs."""


def test_rules_see_equal_weights_images_and_optimiser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every rule and T starts from the same weights, batches and optimiser settings.

    A replacement for `train_step` records what it is given and trains nothing.
    """
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
    planned, found = study(experiment=small), []
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
    """Validation images choose learning rate and epoch, even where test images favour others."""
    planned = study(time_steps=(5,))
    low, middle, high = (planned.runs(tmp_path, "TSSLBP", 5, rate) for rate in RATES)
    assert (outcome(planned, tmp_path).missing, outcome(planned, tmp_path).rate) == (5, None)
    made(low[0], 0.6, test=0.89)
    made(middle[0], 0.8, test=0.70)
    assert outcome(planned, tmp_path).state == "2 of 3 learning rates tried"
    made(high[0], 0.7, test=0.88)
    tuned = outcome(planned, tmp_path)
    assert (tuned.rate, tuned.at_edge, tuned.missing) == (0.002, False, 2)
    assert tuned.validation == {0.001: 0.6, 0.002: 0.8, 0.004: 0.7}
    assert [one.name for one in compare.finals(planned, tmp_path)] == [
        f"TSSLBP/T5/lr-0.002/validated-seed{seed}" for seed in range(3)
    ]
    assert tuned.state == "1 of 3 seeds finished"
    made(middle[1], 0.1, test=0.72)
    diverged(middle[2])
    whole = outcome(planned, tmp_path)
    assert (whole.rate, whole.missing, whole.diverged_seeds) == (0.002, 0, (2,))
    assert whole.state == "diverged with seed 2"
    assert whole.accuracies.tolist() == [0.70, 0.72]
    assert whole.spikes.tolist() == [100, 100] and whole.seconds.tolist() == [6, 6]
    assert outcome(planned, tmp_path, 1).missing == 5  # the other rule has not begun


def test_a_learning_rate_at_which_the_training_diverged_is_lost(tmp_path: Path) -> None:
    planned = study(time_steps=(5,))
    for rate, run in zip(RATES, planned.tuning(tmp_path)[:3], strict=True):
        diverged(run) if rate > 0.001 else made(run, 0.6)
    found = outcome(planned, tmp_path)
    assert (found.rate, found.at_edge, found.missing) == (0.001, True, 2)
    assert found.diverged == dict.fromkeys((0.002, 0.004), "epoch 1, step 3: NaN")
    for run in planned.tuning(tmp_path)[3:]:
        diverged(run)
    lost = outcome(planned, tmp_path, 1)
    assert (lost.rate, lost.missing, lost.state) == (None, 0, "diverged at every learning rate")
    lines = compare.cautions(planned, [found, lost])
    assert f"{found.name}: the chosen learning rate, 0.001, is the lowest or highest" in lines[0]
    assert f"{lost.name}: diverged at learning rate 0.001 (epoch 1, step 3: NaN)" in lines
    assert f"{lost.name}: diverged at every learning rate" in lines


@pytest.mark.parametrize(("epochs", "finished"), [(1, False), (3, None)])
def test_every_rule_has_the_same_budget(epochs: int, finished: bool | None, tmp_path: Path) -> None:
    planned = study(time_steps=(5,))
    made(planned.tuning(tmp_path)[0], 0.5, epochs=epochs)
    if finished is None:
        with pytest.raises(RunError, match="trained for 3 epochs, but the comparison has 2"):
            outcome(planned, tmp_path)
    else:
        assert outcome(planned, tmp_path).validation == {}


def test_a_run_of_other_settings_is_refused(tmp_path: Path) -> None:
    planned = study(time_steps=(5,))
    first = planned.tuning(tmp_path)[0]
    made(replace(first, experiment=replace(first.experiment, batch_size=7)), 0.5)
    with pytest.raises(RunError, match="batch_size is 7 there, 50 here"):
        compare.read_results(planned, tmp_path)


def test_differences_to_the_first_rule_at_each_number_of_time_steps() -> None:
    base, better = [0.90, 0.91, 0.92], [0.951, 0.960, 0.969]
    results = [
        rule_result("A", base),
        rule_result("B", better),
        rule_result("C", [0.90, 0.93, 0.91]),
        rule_result("A", base[:1], 10),
        rule_result("B", better, 10),
    ]
    pairs = compare.against_first(results)
    assert [(pair.first.rule, pair.first.time_steps, pair.seeds) for pair in pairs] == [
        ("B", 5, 3),
        ("C", 5, 3),
        ("B", 10, 1),
    ]
    assert [pair.verdict for pair in pairs] == ["higher", "undecided", "undecided"]
    plain = stats.paired(100 * np.array(better), 100 * np.array(base))
    assert pairs[0].difference == plain
    assert pairs[0].p == pytest.approx(2 * plain.p)  # Holm's correction for two tests
    assert pairs[2].difference is None


def test_a_difference_that_the_correction_does_not_carry_is_undecided() -> None:
    base = [0.90, 0.91, 0.92]
    weak = [x + d for x, d in zip(base, (0.002, 0.003, 0.004), strict=True)]
    pair = [rule_result("A", base), rule_result("B", weak)]
    (alone,) = compare.against_first(pair)
    assert (alone.verdict, round(alone.p or 0, 3)) == ("higher", 0.035)
    many = [*pair, *(rule_result(name, weak) for name in "CDEF")]
    assert {pair.verdict for pair in compare.against_first(many)} == {"undecided"}


def test_equal_differences_decide_nothing() -> None:
    results = [rule_result("A", [0.90, 0.91]), rule_result("B", [0.91, 0.92])]
    assert [pair.verdict for pair in compare.against_first(results)] == ["undecided"]


def test_cautions() -> None:
    kernel = RuleStudy(recipe(), RULES, (5, 10), RATES)
    (line,) = compare.cautions(kernel)
    assert "loss = kernel" in line and "--set loss=softmax" in line
    assert compare.cautions(study()) == []
    assert compare.cautions(RuleStudy(recipe(), RULES, (5,), RATES)) == []
    unlike = [rule_result("A", [0.9] * 3), rule_result("B", [0.9] * 3, folder="other machine")]
    assert compare.cautions(study(), unlike[:1]) == []
    (line,) = compare.cautions(study(), unlike)
    assert "do not compare their times" in line


def test_a_comparison_may_grow_and_nothing_else(tmp_path: Path) -> None:
    planned = study()
    compare.prepare(planned, tmp_path)
    assert compare.read(tmp_path) == planned
    larger = replace(
        planned, rules=(*RULES, "NA"), time_steps=(1, 2, 5), learning_rates=(*RATES, 0.008), seeds=5
    )
    compare.prepare(larger, tmp_path)
    assert compare.read(tmp_path) == larger
    for change, message in [
        ({"rules": RULES}, r"more rules \(NA\)"),
        (
            {"rules": (*RULES, "NA(normalise=true)")},
            r"that has the rule NA\(normalise=true\) as NA:",
        ),
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
    planned = replace(study(), rules=texts)
    assert planned.rules == ("TSSLBP", "Surrogate(derivative=arctangent, width=2)", "NA")


@pytest.mark.parametrize("text", ["{", "[]", '{"rules": ["A"]}', '{"rules": 3}'])
def test_a_damaged_plan_is_named(text: str, tmp_path: Path) -> None:
    compare.prepare(study(), tmp_path)
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
        ({"seeds": 0}, "seeds must be a whole number of at least 1"),
        ({"experiment": recipe(), "time_steps": (1,)}, "desired_train must have a spike within"),
    ],
)
def test_bad_comparisons(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        replace(study(), **changes)


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


@pytest.mark.parametrize("seeds", [10_001, 2**62])
def test_the_runs_of_a_plan_fit_into_memory(seeds: int) -> None:
    """A number of seeds above 10,000, which a damaged plan may ask for, is refused."""
    with pytest.raises(InvalidInput, match="seeds must be at most 10,000, got "):
        study(seeds)
    with pytest.raises(InvalidInput, match="seeds must be at most 10,000, got "):
        trials.planned(recipe(), seeds, ["validated"], Path("out"))
