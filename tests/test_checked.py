"""Checked dataclasses: types, messages, tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from tsslbp.checked import Checked, Count, Number, OneOf, Parsed, Positive, Text, check_keys
from tsslbp.errors import InvalidInput

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
        ("several", [], "a list (not empty), each item a whole number of at least 1 or a whole"),
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
    table.pop("table")  # and the default's empty list is not given
    assert Everything.from_table(table) == whole


def test_names_are_looked_up_when_a_value_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.KNOWN", ["east"], raising=True)
    assert make(pole="east").pole == "east"
