"""Tests of learning rules as data: names, tables and valid ranges."""

from dataclasses import FrozenInstanceError, dataclass, fields
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsslbp.errors import InvalidInput
from tsslbp.rules import (
    RULES,
    TSSLBP,
    IntraNeuron,
    Rule,
    Surrogate,
    WarmUp,
    from_config,
    split_rules,
)

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def tsslbp_rules(draw: st.DrawFn) -> TSSLBP:
    low, high = sorted(draw(st.tuples(NUMBERS, NUMBERS)))
    return TSSLBP(
        warm_up=draw(st.sampled_from(get_args(WarmUp))),
        warm_up_psc=draw(NUMBERS),
        rate_threshold=draw(NUMBERS),
        timing_min=low,
        timing_max=high,
        surrogate_width=draw(st.floats(min_value=1e-6, max_value=1e6)),
        surrogate_clamp=draw(st.floats(min_value=1e-6, max_value=16.0)),
        intra_neuron=draw(st.sampled_from(get_args(IntraNeuron))),
    )


@given(tsslbp_rules())
def test_a_rule_survives_its_table(rule: TSSLBP) -> None:
    assert from_config(rule.to_table()) == rule


def test_the_table_is_complete() -> None:
    table = TSSLBP().to_table()
    assert table.pop("name") == "TSSLBP"
    assert table == {field.name: field.default for field in fields(TSSLBP)}


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        ("TSSLBP", TSSLBP()),
        ("TSSLBP.published", TSSLBP.published()),
        ({"name": "TSSLBP"}, TSSLBP()),
        ({"name": "TSSLBP", "warm_up": "always"}, TSSLBP(warm_up="always")),
        (
            {"name": "TSSLBP.published", "rate_threshold": 0.05},
            TSSLBP.published(rate_threshold=0.05),
        ),
        (TSSLBP(timing_max=4.0), TSSLBP(timing_max=4.0)),
        ("STBP", Surrogate("rectangle")),
        ("SuperSpike(width=0.2)", Surrogate("fast-sigmoid", width=0.2)),
    ],
)
def test_from_config(config: Any, rule: Rule) -> None:
    assert from_config(config) == rule


def test_from_config_leaves_the_table_as_it_was() -> None:
    table = {"name": "TSSLBP", "warm_up": "never"}
    from_config(table)
    assert table == {"name": "TSSLBP", "warm_up": "never"}


def test_the_revised_rule_is_the_default() -> None:
    rule = TSSLBP()
    assert (rule.warm_up, rule.warm_up_psc, rule.intra_neuron) == ("neuron", 0.25, "recursive")
    assert (rule.timing_min, rule.timing_max) == (0.0, 8.0)
    assert (rule.surrogate_width, rule.surrogate_clamp) == (0.2, 8.0)


def test_the_published_rule() -> None:
    rule = TSSLBP.published()
    assert (rule.warm_up, rule.rate_threshold, rule.intra_neuron) == ("layer", 0.1, "next-spike")
    assert (rule.timing_min, rule.timing_max) == (-10.0, 10.0)
    assert (rule.surrogate_width, rule.surrogate_clamp) == (0.2, 8.0)


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_named_rule_is_a_frozen_rule(name: str) -> None:
    rule = from_config(name)
    assert isinstance(rule, Rule)
    assert hash(rule) == hash(from_config(name))
    with pytest.raises(FrozenInstanceError):
        rule.warm_up = "never"  # type: ignore[attr-defined]


def test_rules_of_different_types_differ() -> None:
    @dataclass(frozen=True)
    class Other(TSSLBP):
        pass

    assert Other() != TSSLBP()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("TSLBP", ["'TSLBP'", "did you mean 'TSSLBP'?"]),
        ({"name": "TSSLBP.publised"}, ["'TSSLBP.publised'", "did you mean 'TSSLBP.published'?"]),
        ({"warm_up": "never"}, ["needs a name", "TSSLBP, TSSLBP.published"]),
        ("slayer", ["'slayer'", "did you mean 'SLAYER'?"]),
        ("SLAYER(width=1, height=2, width=3)", ["width is given twice", "SLAYER(width=1,"]),
        (
            {"name": "TSSLBP", "warmup": "never"},
            ["TSSLBP: unknown key 'warmup'", "did you mean 'warm_up'?"],
        ),
        ({"name": "TSSLBP", "warm_up": "neurn"}, ["warm_up", "'neurn'", "did you mean 'neuron'?"]),
        ({"name": "TSSLBP", "intra_neuron": 3}, ["intra_neuron", "recursive", "got 3"]),
        ({"name": "TSSLBP", "timing_max": "8"}, ["timing_max", "finite number", "'8'"]),
        ({"name": "TSSLBP", "timing_max": True}, ["timing_max", "finite number", "True"]),
        ({"name": "TSSLBP", "timing_max": float("inf")}, ["timing_max", "finite number", "inf"]),
        ({"name": "TSSLBP", "timing_min": 9.0}, ["timing_min", "timing_max", "9.0 and 8.0"]),
        (
            {"name": "TSSLBP", "surrogate_width": 0.0},
            ["TSSLBP: surrogate_width", "above 0", "got 0.0"],
        ),
        (
            {"name": "TSSLBP", "surrogate_clamp": 17.0},
            ["surrogate_clamp", "at most 16", "got 17.0"],
        ),
    ],
)
def test_a_wrong_rule_is_one_clear_line(config: Any, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        from_config(config)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_another_derivative_brings_its_own_height_and_width() -> None:
    """Another derivative in a table has its own default height and width; given ones are kept."""
    table = Surrogate("rectangle", width=0.7).to_table()
    assert from_config(table) == Surrogate("rectangle", width=0.7)
    changed = from_config(table | {"derivative": "sigmoid"})
    assert changed == Surrogate("sigmoid", height=1.25, width=0.7)
    plain = from_config(Surrogate().to_table() | {"derivative": "fast-sigmoid"})
    assert plain == Surrogate("fast-sigmoid", height=1.0, width=0.1)


def test_split_rules_at_commas_outside_brackets() -> None:
    text = " TSSLBP, TSSLBP(warm_up=always, timing_max=4) ,, B(c=(1, 2)),"
    expected = ["TSSLBP", "TSSLBP(warm_up=always, timing_max=4)", "B(c=(1, 2))"]
    assert split_rules(text) == expected
    assert split_rules(" ") == []


def test_a_field_of_an_earlier_version_has_its_present_name() -> None:
    """Field names of earlier versions, with PSP for the postsynaptic current, are translated."""
    assert from_config({"name": "TSSLBP", "warm_up_psp": 0.5}) == TSSLBP(warm_up_psc=0.5)
    assert from_config("TSSLBP(warm_up_psp=0.5)").to_table()["warm_up_psc"] == 0.5
