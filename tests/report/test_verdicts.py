"""Tests that verdicts follow from the records and are given only if the records allow one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tsslbp.report import published, verdicts
from tsslbp.report.published import Change, Claim, Exceeds, Reaches, Settings
from tsslbp.report.verdicts import Judgement
from tsslbp.run import results
from tsslbp.run.comparison import Comparison
from tsslbp.run.results import Group

REACHES = Reaches("reaches", "mnist", "published", 0.05, "mnist-published")
ALWAYS = {"name": "TSSLBP", "warm_up": "always"}
SURROGATE = Change("timing helps", "rule.warm_up", ("neuron", "layer"), ("always",))


def judge(claim: Claim, groups: list[Group]) -> Judgement:
    (judgement,) = verdicts.judge([claim], groups)
    return judgement


def differing(comparison: Comparison[Group]) -> tuple[str, ...]:
    """Return the settings in which the two groups differ."""
    return tuple(results.changes(comparison.first.settings, comparison.second.settings))


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [
        ([99.48, 99.49, 99.50, 99.51, 99.52], "supported"),
        ([99.60, 99.61, 99.62, 99.60, 99.61], "supported"),
        ([99.30, 99.31, 99.32, 99.30, 99.31], "not supported"),
        ([99.2, 99.4, 99.6, 99.3, 99.7], "undecided"),
        ([99.60], "undecided"),
    ],
)
def test_reaching_a_published_accuracy(
    groups: Callable, accuracies: list[float], verdict: str
) -> None:
    judgement = judge(REACHES, groups(("mnist-published", {}, accuracies)))
    assert judgement.verdict == verdict
    assert judgement.seen
    assert (judgement.p is None) == (len(accuracies) == 1)
    assert f"{np.mean(accuracies) - 99.5:+.2f} points" in judgement.reason


def test_without_runs_nothing_is_told() -> None:
    for judgement in verdicts.judge(published.claims(), []):
        assert (judgement.verdict, judgement.p, judgement.seen) == ("undecided", None, False)
        assert judgement.reason.startswith(("there is no ", "there are no "))


def test_other_settings_and_protocols_are_no_evidence(groups: Callable) -> None:
    good = [99.60, 99.61, 99.62]
    found = groups(
        ("mnist-published", {"learning_rate": 0.1}, good),
        ("mnist-published", {"protocol": "validated"}, good),
    )
    assert not judge(REACHES, found).seen


def test_a_single_published_run_allows_no_test(groups: Callable) -> None:
    claim = Reaches("reaches", "cifar10-cnn2", "published", 0.3, "cifar10-cnn2-published")
    judgement = judge(claim, groups(("cifar10-cnn2-published", {}, [92.0, 92.1, 92.2])))
    assert judgement.verdict == "undecided"
    assert "single published run cannot be tested" in judgement.reason


def test_one_published_number_of_a_rival_allows_no_test(groups: Callable) -> None:
    claim = Exceeds("better", "mnist-published", 99.3)
    judgement = judge(claim, groups(("mnist-published", {}, [99.49, 99.50, 99.51])))
    assert judgement.verdict == "undecided" and judgement.p is None
    assert judgement.reason.startswith("+0.20 points (95 % interval of ours 99.48 to 99.52), but a")


def test_recipes_are_compared_over_the_same_seeds(groups: Callable) -> None:
    """Only a paired test finds the difference, since the seeds differ far more than the recipes."""
    claim = Settings("explains", "mnist-published", "mnist")
    found = groups(
        ("mnist-published", {}, [98.11, 98.60, 99.12, 99.61]),
        ("mnist", {}, [98.0, 98.5, 99.0, 99.5]),
    )
    judgement = judge(claim, found)
    assert judgement.verdict == "supported"
    assert "4 seeds" in judgement.reason


def test_the_surrogate_alone_is_judged_by_pairs_that_differ_in_nothing_else(
    groups: Callable,
) -> None:
    worse = [90.0, 91.1, 92.0, 93.1]
    found = groups(
        ("digits", {}, [95.0, 96.0, 97.0, 98.0]),
        ("digits", {"rule": ALWAYS}, worse),
        ("digits", {"rule": ALWAYS, "learning_rate": 0.1}, worse),
    )
    judgement = judge(SURROGATE, found)
    assert judgement.verdict == "supported"
    assert judgement.claim == "timing helps: digits, compared with rule.warm_up = 'always'"


def test_equal_differences_say_nothing(groups: Callable) -> None:
    """Two seeds on few images often differ by equal amounts, which does not mean no spread."""
    found = groups(("digits", {}, [95.0, 96.0]), ("digits", {"rule": ALWAYS}, [94.0, 95.0]))
    assert judge(SURROGATE, found).verdict == "undecided"
    (comparison,), _ = verdicts.compare_groups(found)
    assert (comparison.verdict, comparison.p) == ("undecided", 1.0)


def test_holm_takes_back_what_one_test_alone_would_show(groups: Callable) -> None:
    found = groups(
        ("digits", {}, [95.0, 96.0, 97.0, 98.0]),
        ("digits", {"rule": ALWAYS}, [93.5, 95.7, 96.0, 97.4]),
    )
    assert judge(SURROGATE, found).verdict == "supported"
    many = verdicts.judge([SURROGATE] * 5, found)
    assert {one.verdict for one in many} == {"undecided"}
    assert all("Holm" in one.reason for one in many)


def test_few_time_steps_need_only_not_be_worse_by_more_than_the_margin(groups: Callable) -> None:
    claim = Change("5 suffice", "time_steps", (5,), (10,), margin=0.1)
    more = {"time_steps": 10}
    same = groups(("mnist", {}, [99.4, 99.5, 99.6]), ("mnist", more, [99.41, 99.5, 99.61]))
    judgement = judge(claim, same)
    assert judgement.verdict == "supported"
    assert "margin 0.1" in judgement.reason
    assert judge(replace(claim, margin=None), same).verdict == "undecided"


def test_a_caveat_of_the_data_stands_in_the_reason(
    tmp_path: Path, make_run: Callable, recipe: Callable
) -> None:
    for seed in range(3):
        experiment = recipe("cifar10-cnn1-published", seed, data="cifar10-reencoded", epochs=150)
        make_run(tmp_path / str(seed), experiment, 0.89 + seed / 1000, note="111 images differ")
    found = results.group(results.read_all([tmp_path])[0])
    claim = Reaches("reaches", "cifar10-cnn1", "published", 0.3, "cifar10-cnn1-published")
    assert "111 images differ" in judge(claim, found).reason


def test_comparisons_begin_with_the_most_alike(groups: Callable) -> None:
    found = groups(
        ("digits", {}, [95.0, 96.2, 97.0]),
        ("digits", {"learning_rate": 0.1}, [90.0, 91.0, 92.1]),
        ("digits", {"learning_rate": 0.1, "rule": ALWAYS}, [95.1, 96.0, 97.0]),
        ("digits", {"batch_size": 7}, [95.0]),
        ("mnist", {}, [99.0, 99.1]),
    )
    comparisons, left_out = verdicts.compare_groups(found)
    assert left_out == 0
    assert [len(differing(one)) for one in comparisons] == [1, 1, 2]
    assert comparisons[0].verdict == "higher"
    assert comparisons[0].seeds == 3


def test_everything_is_compared_with_one_alone(groups: Callable) -> None:
    """With a baseline there are fewer tests, and each difference is one from the baseline."""
    found = groups(
        ("digits", {}, [95.0, 96.2, 97.0]),
        ("digits", {"learning_rate": 0.1}, [90.0, 91.0, 92.1]),
        ("digits", {"batch_size": 7}, [95.1, 96.0, 97.0]),
    )
    baseline = next(one for one in found if one.label == "digits")
    comparisons, _ = verdicts.compare_groups(found, [baseline])
    assert [one.second for one in comparisons] == [baseline] * 2
    assert {differing(one) for one in comparisons} == {("learning_rate",), ("batch_size",)}
    every, _ = verdicts.compare_groups(found)
    by_keys = {differing(one): one for one in every}
    for one in comparisons:
        assert one.p <= by_keys[differing(one)].p
