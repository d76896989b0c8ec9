"""Tests of a binning's record: tables, options that exclude each other, and a frame's shape."""

from __future__ import annotations

from typing import Any

import pytest

from tsslbp.errors import InvalidInput
from tsslbp.experiment import Binning


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"by": "times"}, "did you mean 'time'"),
        ({"values": "binry"}, "binary"),
        ({"windw": 3}, r"binning: unknown key 'windw' \(did you mean 'window'"),
        ({"window": 0}, "above 0"),
        ({"window": True}, "above 0"),
        ({"window": float("nan")}, "above 0"),
        ({"by": "count", "window": 3}, "not by count"),
        ({"original_edges": True}, "needs a window"),
        ({"normalise": True}, "binary"),
        ({"normalise": 1, "values": "count"}, "true or false"),
        ({"polarities": 3}, "1 or 2"),
        ({"down_sample": 0}, "at least 1"),
        ({"down_sample": 2.0}, "whole number"),
    ],
)
def test_bad_options(table: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Binning.from_table(table)


def test_only_what_differs_from_the_defaults_is_in_the_table() -> None:
    assert Binning().to_table() == {"by": "time", "values": "binary"}
    table = {"by": "time", "values": "count", "window": 3.0, "polarities": 1}
    assert Binning.from_table(table).to_table() == table


def test_the_shape_of_a_frame() -> None:
    assert Binning().shape(7, 9) == (2, 7, 9)
    assert Binning(polarities=1, down_sample=4).shape(7, 9) == (1, 2, 3)
