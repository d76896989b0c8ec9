"""Tests that interactive figures have the contents of the static ones, in plotly's format."""

import base64
import gzip
import math

import numpy as np
import pytest

from tsslbp.report import interactive

graph_objects = pytest.importorskip("plotly.graph_objects")

TRIALS = [
    {"learning_rate": 0.001, "time_steps": 5, "rule": "always", "patience": None},
    {"learning_rate": 0.0001, "time_steps": 10, "rule": "<b>never</b>", "patience": 3},
    {"learning_rate": 0.01, "time_steps": 10, "rule": "always", "patience": 3},
]
ACCURACIES = [0.9, 0.95, 0.8]
CURVES = {
    "one": (np.arange(1, 5001), np.linspace(0, 1, 5000)),
    "two": (np.array([10]), np.array([0.5])),
}
GRAPHS = {
    "parallel": interactive.parallel_coordinates(TRIALS, ACCURACIES),
    "curves": interactive.training_curves(CURVES),
    "drops": interactive.training_curves(CURVES, {"one": [2500, 4000], "two": []}),
    "rates": interactive.learning_rate_against_epochs([0.1, 0.1, 0.2], [50, 50, 100], ACCURACIES),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_plotly_knows_every_key(name: str) -> None:
    figure = graph_objects.Figure(GRAPHS[name])
    assert len(figure.data) == len(GRAPHS[name]["data"])


def test_axes_of_parallel_coordinates() -> None:
    (trace,) = GRAPHS["parallel"]["data"]
    axes = {axis["label"]: axis for axis in trace["dimensions"]}
    assert axes["test accuracy (%)"]["values"] == [80, 90, 95]  # the best is drawn last
    assert axes["learning_rate"]["values"] == pytest.approx([-2, -3, -4])
    assert axes["learning_rate"]["ticktext"] == ["0.0001", "0.001", "0.01"]
    assert axes["time_steps"]["values"] == [10, 5, 10]
    assert axes["rule"]["ticktext"] == ["&lt;b>never&lt;/b>", "always"]
    assert axes["patience"]["ticktext"] == ["3", "None"]


def test_the_learning_rates_axis_is_logarithmic_however_near_they_lie() -> None:
    trials = [{"learning_rate": 0.001}, {"learning_rate": 0.002}]
    (trace,) = interactive.parallel_coordinates(trials, [0.5] * 2)["data"]
    assert trace["dimensions"][0]["values"] == pytest.approx([-3, math.log10(0.002)])


def test_an_axis_of_many_numbers_has_round_ticks() -> None:
    trials = [{"rate": rate} for rate in np.geomspace(1e-4, 1e-2, 40).tolist()]
    (trace,) = interactive.parallel_coordinates(trials, [0.5] * 40)["data"]
    texts = ["0.0001", "0.0002", "0.0005", "0.001", "0.002", "0.005", "0.01"]
    assert trace["dimensions"][0]["ticktext"] == texts
    assert len(trace["dimensions"][0]["values"]) == 40


@pytest.mark.parametrize(
    ("rates", "texts"),
    [
        ([0.0003, 0.03, 0.002], ["0.0003", "0.002", "0.03"]),
        ([0.001872, 0.002, 0.00186, 0.03], ["0.002", "0.005", "0.01", "0.02"]),
        ([1.5e-7, 1.0], ["1e-06", "1e-05", "0.0001", "0.001", "0.01", "0.1", "1"]),
        ([0.0131], ["0.0131"]),
    ],
)
def test_ticks_of_learning_rates_are_round(rates: list[float], texts: list[str]) -> None:
    graph = interactive.learning_rate_against_epochs(rates, [5] * len(rates), [0.5] * len(rates))
    assert graph["layout"]["yaxis"]["ticktext"] == texts


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    many = {str(number): CURVES["one"] for number in range(500)}
    traces = interactive.training_curves(many)["data"]
    assert sum(len(trace["x"]) for trace in traces) <= interactive.POINTS_IN_ALL
    assert traces[0]["x"][0] == 1 and traces[0]["x"][-1] == 5000
    assert traces[0]["y"][-1] == 100
    assert GRAPHS["curves"]["data"][1]["mode"] == "lines+markers"  # one point has no line


def test_sudden_drops_are_marked_on_their_curve() -> None:
    *curves, marks = GRAPHS["drops"]["data"]
    assert curves == GRAPHS["curves"]["data"]
    assert (marks["name"], marks["text"]) == ("sudden drop", ["one", "one"])
    assert marks["x"] == [2500, 4000]
    assert marks["y"] == pytest.approx([50, 80], abs=0.1)


def test_trials_at_one_place_are_rings_around_the_best() -> None:
    (trace,) = GRAPHS["rates"]["data"]
    assert trace["customdata"] == [80, 90, 95]
    assert trace["x"] == [100, 50, 50] and trace["y"] == [0.2, 0.1, 0.1]
    sizes = trace["marker"]["size"]
    assert sizes[1] > sizes[2] == sizes[0]


def test_the_library_is_plotly() -> None:
    text = interactive.library()
    assert text is not None
    content = gzip.decompress(base64.b64decode(text))
    assert b"plotly.js v" in content[:200]
    assert math.isclose(len(content), 4.8e6, rel_tol=0.5)
