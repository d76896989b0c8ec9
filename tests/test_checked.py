"""Tests of checked dataclasses: conversion of types, error messages, and tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tsslbp
from tsslbp import data, layers, losses, neuron
from tsslbp.analysis.microscope import Noise
from tsslbp.checked import Checked, Count, Number, OneOf, Parsed, Positive, Text, check_keys
from tsslbp.errors import InvalidInput
from tsslbp.experiment import Experiment
from tsslbp.network import plan
from tsslbp.studies.compare import RuleStudy

KNOWN = ["north", "south"]
Pole = Annotated[str, OneOf(lambda: KNOWN)]


@dataclass(frozen=True)
class Inner(Checked, called="inner: "):
    width: Positive = 1.0

    @classmethod
    def parse(cls, value: str | Mapping[str, Any]) -> Inner:
        return cls(float(value)) if isinstance(value, str) else cls.from_table(value)


@dataclass(frozen=True)
class Everything(Checked):
    name: Text
    count: Count
    pole: Pole = "north"
    colour: Literal["red", "green"] = "red"
    size: float = 0.0
    exact: Number = 0
    flag: bool = False
    whole: int = 0
    pair: tuple[Positive, float] = (1.0, 1.0)
    several: tuple[Count, ...] | Count | None = None
    table: Mapping[str, Positive] = field(default_factory=dict)
    inner: Inner | None = None
    parsed: Annotated[Inner, Parsed("a width or a table", Inner.parse)] = Inner()
    anything: Any = None
    poles: tuple[Pole, ...] = ()


NEEDED: dict[str, Any] = {"name": "x", "count": 3}


def make(**values: Any) -> Everything:
    return Everything.from_table(NEEDED | values)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("size", 3, 3.0),
        ("exact", 3, 3),
        ("exact", 3.0, 3.0),
        ("pair", [1, 2], (1.0, 2.0)),
        ("several", 3, 3),
        ("several", [1, 2, 3], (1, 2, 3)),
        ("several", None, None),
        ("table", {"a": 1}, {"a": 1.0}),
        ("inner", {"width": 2}, Inner(2.0)),
        ("inner", Inner(2.0), Inner(2.0)),
        ("parsed", "2.5", Inner(2.5)),
        ("parsed", {"width": 3}, Inner(3.0)),
        ("anything", [1, "a"], [1, "a"]),
        ("poles", ["south"], ("south",)),
    ],
)
def test_values_are_brought_to_their_types(key: str, value: Any, expected: Any) -> None:
    found = getattr(make(**{key: value}), key)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("name", " ", "Everything: name must be text that is not empty, got ' '"),
        ("name", 3, "Everything: name must be text that is not empty, got 3"),
        ("name", "a\0b", "Everything: name must be text without NUL characters, got 'a\\x00b'"),
        ("count", 0, "count must be a whole number of at least 1, got 0"),
        ("count", True, "count must be a whole number of at least 1, got True"),
        ("whole", 1.0, "whole must be a whole number, got 1.0"),
        ("whole", True, "whole must be a whole number, got True"),
        ("flag", 1, "flag must be true or false, got 1"),
        ("size", float("nan"), "size must be a finite number, got nan"),
        ("size", False, "size must be a finite number, got False"),
        ("exact", float("inf"), "exact must be a finite number, got inf"),
        ("colour", "gren", "one of red, green, got 'gren' (did you mean 'green'?)"),
        ("colour", 3, "colour must be one of red, green, got 3"),
        ("pole", "sooth", "one of north, south, got 'sooth' (did you mean 'south'?)"),
        ("pair", [1, 2, 3], "pair must be a list (of 2), each item a number above 0"),
        ("several", [], "a whole number of at least 1, or a list (not empty) of such numbers"),
        ("table", {"a": 0}, "table must be a table, got {'a': 0}"),
        ("inner", {"width": 0}, "inner: width must be a number above 0, got 0"),
        ("inner", {"wdth": 0}, "inner: unknown key 'wdth' (did you mean 'width'?)"),
        ("inner", 3, "inner must be a table, got 3"),
        ("parsed", 3, "parsed must be a width or a table, got 3"),
        ("poles", ["suth"], "each item one of north, south, got ['suth'] (did you mean 'south'?)"),
    ],
)
def test_a_wrong_value_is_one_clear_line(key: str, value: Any, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        make(**{key: value})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_keys() -> None:
    with pytest.raises(
        InvalidInput, match=r"^Everything: unknown key 'cont' \(did you mean 'count'"
    ):
        make(cont=1)
    with pytest.raises(
        InvalidInput, match=r"^Everything: missing key 'count', a whole number of at"
    ):
        Everything.from_table({"name": "x"})
    check_keys(["a"], ["a", "b"])
    with pytest.raises(InvalidInput, match=r"^here: unknown key 'c'$"):
        check_keys(["a", "c"], ["a", "b"], "here: ")


def test_a_table_of_what_is_set() -> None:
    whole = make(pair=[1, 2], inner={"width": 2}, poles=["south"])
    table = whole.to_table()
    assert table["pair"] == [1.0, 2.0]
    assert table["inner"] == {"width": 2.0}
    assert "several" not in table and "anything" not in table
    table.pop("table")  # its value is the empty default, so it may be missing
    assert Everything.from_table(table) == whole


def test_names_are_looked_up_when_a_value_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.KNOWN", ["east"], raising=True)
    assert make(pole="east").pole == "east"


COUNTS: dict[str, Callable[[Any], object]] = {  # calls that accept a whole number such as 2
    "classes of a network": lambda n: tsslbp.Network("4", (1, 2, 2), n).classes,
    "time steps": lambda n: tsslbp.Network("4", (1, 2, 2), time_steps=n).time_steps,
    "input shape": lambda n: tsslbp.Network("4", (1, n, n)).input_shape[1],
    "padding": lambda n: tsslbp.Network("3C3", (1, 4, 4), padding=n).plan[0].padding,
    "steps of a constant": lambda n: len(neuron.layer(torch.ones(1, 3), PLAIN, n)),
    "conv": lambda n: len(layers.Conv(n, n, n, stride=n, padding=n, dilation=n).weight),
    "linear": lambda n: len(layers.Linear(3, n).weight),
    "lif": lambda n: layers.LIF(time_steps=n, pool=n).time_steps,
    "pooling": lambda n: layers.SumPool(n).size,
    "batch norm": lambda n: len(layers.BatchNorm(n).weight),
    "neunorm": lambda n: layers.NeuNorm((n, n, n)).weight.shape[0],
    "blocks": lambda n: len(tsslbp.models.sew_resnet(channels=(4,), blocks=n)),
    "experiment": lambda n: Experiment("digits", "4", epochs=n, padding=[n]).epochs,
    "setting of a network": lambda n: Experiment(
        "digits", "n.py:f", network_settings={"a": n}
    ).network_settings["a"],
    "target filters": lambda n: losses.van_rossum(torch.zeros(3, 1, 2), [0], target_filters=n),
    "data set": lambda n: data_set(n).classes,
    "batches": lambda n: len(next(data.batches(4, n, torch.Generator()))),
    "directions": lambda n: Noise(rounds=n * 2, directions=n * 8).rounds // 2,
    "seeds": lambda n: RuleStudy(Experiment("digits", "4"), ("SLAYER",), (n,), seeds=n).seeds,
}
ALONE = [key for key in COUNTS if key not in ("setting of a network", "directions")]
PLAIN = neuron.NeuronLayer(impl="reference")
NUMBERS: dict[str, Callable[[Any], object]] = {  # calls that accept a number such as 0.5
    "neuron": lambda x: tsslbp.Neuron(1 + x, 1 + x, x).threshold,
    "spikes": lambda x: tsslbp.spikes(
        torch.ones(2, 1), tau_m=1 + x, tau_s=1 + x, threshold=x, impl="reference"
    ),
    "network": lambda x: tsslbp.Network("3C3-P2", weight_scale=x, pool_scale=x, dropout=x),
    "batch norm": lambda x: layers.BatchNorm(2, x, x, eps=x, momentum=x).alpha,
    "neunorm": lambda x: layers.NeuNorm((1, 2, 2), x).k,
    "dropout": lambda x: layers.NeuronDropout(x).p,
    "sum pooling": lambda x: layers.SumPool(2, x).scale,
    "rule": lambda x: tsslbp.Surrogate(width=x).width,
    "experiment": lambda x: Experiment("digits", "4", learning_rate=x, mean=[x]).learning_rate,
    "count": lambda x: losses.count(torch.zeros(3, 1, 2), [0], desired=2 * x, undesired=x),
    "tet": lambda x: losses.tet(torch.zeros(3, 1, 2), [0], weight=x, label_smoothing=x),
    "widths": lambda x: Noise([x]).widths[0],
    "rates": lambda x: RuleStudy(
        Experiment("digits", "4"), ("SLAYER",), learning_rates=np.array([x])
    ).learning_rates[0],
}


def data_set(classes: Any) -> data.DataSet:
    images, labels = np.zeros((2, 1, 3, 3), np.uint8), [0, 1]
    return data.DataSet("mine", images, labels, images, np.array(labels, np.uint8), classes)


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64, np.uint64, np.array, torch.tensor])
@pytest.mark.parametrize("what", COUNTS)
def test_a_count_may_have_any_integer_type(what: str, kind: Callable[[int], Any]) -> None:
    expected, found = COUNTS[what](2), COUNTS[what](kind(2))
    if isinstance(expected, int):
        assert (found, type(found)) == (expected, int)  # a type that JSON can store


@pytest.mark.parametrize("wrong", [True, np.True_, torch.tensor(True), 2.5, "2", np.nan])
@pytest.mark.parametrize(
    "what", [key for key in COUNTS if key not in ("setting of a network", "directions")]
)
def test_what_is_no_count_is_refused(what: str, wrong: Any) -> None:
    with pytest.raises(InvalidInput):
        COUNTS[what](wrong)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, Fraction])
@pytest.mark.parametrize("what", NUMBERS)
def test_a_number_may_have_any_real_type(what: str, kind: Callable[[float], Any]) -> None:
    expected, found = NUMBERS[what](0.5), NUMBERS[what](kind(0.5))
    if isinstance(expected, float):
        assert (found, type(found)) == (expected, float)


@pytest.mark.parametrize("wrong", [True, np.True_, "0.5", 1j, 10**400, math.inf, math.nan])
@pytest.mark.parametrize("what", ["batch norm", "neunorm", "dropout", "sum pooling", "rule"])
def test_what_is_no_number_is_refused(what: str, wrong: Any) -> None:
    with pytest.raises(InvalidInput):
        NUMBERS[what](wrong)


@pytest.mark.parametrize("wrong", [True, "0.5", None, 1j])
def test_a_constant_of_a_neuron_is_a_number(wrong: Any) -> None:
    for key in ("tau_m", "tau_s", "threshold"):
        with pytest.raises(InvalidInput, match=f"{key} must be a number"):
            tsslbp.Neuron(**{key: wrong})


@given(st.integers(2**63, 10**400) | st.integers(-(10**400), -(2**63)))
def test_a_number_beyond_64_bits_is_one_clear_line(number: int) -> None:
    with pytest.raises(
        InvalidInput, match=r"^Everything: count must be below 2\^63, got "
    ) as error:
        make(count=number)
    assert "\n" not in str(error.value)


HUGE = 10**5000  # Python refuses to convert it to text


@pytest.mark.parametrize(
    "make_it",
    [
        *(partial(kind, HUGE) for what, kind in COUNTS.items() if what != "batches"),
        *(partial(kind, HUGE) for kind in NUMBERS.values()),
        *(partial(tsslbp.Neuron, **{key: HUGE}) for key in ("tau_m", "tau_s", "threshold")),
        lambda: tsslbp.spikes(torch.zeros(2, 1), tau_m=HUGE),
        lambda: make(count=[HUGE]),
        lambda: make(name=HUGE),
        lambda: plan("9" * 5000 + "C3", (1, 8, 8), 2),
        lambda: plan("4C3-P" + "9" * 5000, (1, 8, 8), 2),
    ],
)
def test_a_number_of_thousands_of_digits_is_one_clear_line(make_it: Callable[[], Any]) -> None:
    with pytest.raises(InvalidInput) as error:
        make_it()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 2500


@pytest.mark.parametrize("labels", [[2, 0], (2, 0), np.array([2, 0]), np.array([2, 0], np.int8)])
def test_labels_may_be_a_list_or_an_array(labels: Any) -> None:
    psc = torch.rand(3, 2, 4)
    for loss in (losses.van_rossum, losses.softmax, losses.tet):
        assert torch.equal(loss(psc, labels), loss(psc, torch.tensor([2, 0])))
    assert data_set(3).train_labels.dtype == data_set(3).test_labels.dtype == torch.int64


def test_what_is_wrong_with_the_arrays_of_a_data_set_is_one_line() -> None:
    images = np.zeros((2, 1, 3, 3), np.uint8)
    for labels, message in (
        (
            [0, 1, 1],
            r"mine: train_labels must be \[N\] with one label for each of the 2 images, got",
        ),
        ([[0], [1]], r"got shape \[2, 1\]"),
        ([0.5, 1.0], "labels must be class numbers"),
        (["cat", "dog"], "labels must be class numbers"),
    ):
        with pytest.raises(InvalidInput, match=message):
            data.DataSet("mine", images, labels, images, [0, 1], 2)
