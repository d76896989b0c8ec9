"""Tests of the published tables: complete, consistent, and checked when they are read."""

import math

import pytest

from tsslbp.errors import InvalidInput
from tsslbp.experiment import load_recipe, recipe_names
from tsslbp.report import published

ROW = """
[[rows]]
name = "mnist"
table = "mnist"
title = "MNIST"
data = "mnist"
network = "300"
time_steps = 5
published = { mean = 99.5, sd = 0.02, best = 99.53, runs = 5 }
"""
CLAIM = """
[[claims]]
kind = "reaches"
text = "as published"
row = "mnist"
recipe = "mnist"
against = "published"
margin = 0.05
"""


def test_tables() -> None:
    assert published.tables() == ("mnist", "fashion-mnist", "nmnist", "cifar10")
    numbers = {row.name: (row.published.mean, row.published.best) for row in published.rows()}
    assert numbers["mnist"] == (99.50, 99.53)
    assert numbers["cifar10-cnn2"] == (91.41, 91.41)


def test_recipes_of_published_results_belong_to_one_row_of_their_network() -> None:
    belongs = {name: row for row in published.rows() for name in row.recipes}
    digits, event_cameras = ["digits", "moving-digits"], ["cifar10-dvs", "dvs-gesture"]
    alone = ["cifar10-small", "mnist-best", "mnist-fast", *digits, *event_cameras]
    assert sorted([*belongs, *alone]) == recipe_names()
    for name, row in belongs.items():
        recipe = load_recipe(name)
        assert (recipe.data, recipe.network) == (row.data, row.network)
        assert recipe.time_steps == row.time_steps


def test_what_a_recipes_settings_reached() -> None:
    """The authors' settings have the authors' accuracy, and the study's settings the study's."""
    by_authors, by_study = published.of_recipe("mnist-published"), published.of_recipe("mnist")
    assert by_authors is not None and (by_authors.mean, by_authors.best) == (99.50, 99.53)
    assert by_study is not None and (by_study.mean, by_study.best) == (99.40, 99.47)
    assert published.of_recipe("fashion-mnist-mlp") is published.of_recipe("digits") is None


@pytest.mark.parametrize("row", published.rows(), ids=lambda row: row.name)
def test_best_fits_mean_and_deviation_or_is_doubted(row: published.Row) -> None:
    """None of n values can exceed their mean by more than sd (n - 1) / sqrt(n)."""
    for accuracy in (row.published, row.study):
        if accuracy is None or accuracy.sd is None:
            continue
        mean, sd, runs = accuracy.mean, accuracy.sd, accuracy.runs
        highest = mean + 0.005 + (sd + 0.005) * (runs - 1) / math.sqrt(runs)
        doubted = any("cannot contain" in text for text in row.caveats)
        assert (accuracy.best > highest + 0.005) == doubted


def test_every_kind_of_claim_is_made() -> None:
    kinds = {type(claim) for claim in published.claims()}
    assert kinds == {published.Reaches, published.Exceeds, published.Settings, published.Change}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "mnist"', 'nme = "mnist"', "Row: unknown key 'nme' .did you mean 'name'"),
        ("mean = 99.5", "mean = 0.995", "in percent"),
        ("best = 99.53", "best = 99.4", "in percent"),
        ("sd = 0.02, ", "", "standard deviation needs several runs"),
        ('row = "mnist"', 'row = "mnst"', "unknown row 'mnst' .did you mean 'mnist'"),
        ('against = "published"', 'against = "study"', "the study has no result for 'mnist'"),
        ('recipe = "mnist"', 'recipe = "mnits"', "got 'mnits' .did you mean 'mnist'"),
        ('kind = "reaches"', 'kind = "reach"', "unknown kind of claim 'reach' .did you mean"),
        ("margin = 0.05", "margin = 0.0", "above 0"),
        ('text = "as published"\n', "", "Reaches: missing key 'text'"),
    ],
)
def test_what_does_not_fit_is_refused(old: str, new: str, message: str) -> None:
    text = ROW + CLAIM
    assert len(published.read(text)[0]) == 1
    assert old in text
    with pytest.raises(InvalidInput, match=message):
        published.read(text.replace(old, new))


def test_names_of_rows_differ() -> None:
    with pytest.raises(InvalidInput, match="must differ"):
        published.read(ROW + ROW + CLAIM)
