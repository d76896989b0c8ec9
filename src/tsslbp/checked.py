"""Checked dataclasses: frozen, with values that are checked against the types of the fields."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields
from functools import cache
from numbers import Real
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Self,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from .errors import InvalidInput, nearest, shown

_NUL = "\0"  # no path contains it
_BEYOND = 2**63  # the smallest number that 64 bits cannot represent


def as_whole(value: object) -> int | None:
    """Return a whole number of any integer type as an int, or None for other values and booleans.

    Numbers of NumPy and PyTorch are accepted, and their arrays without dimensions.
    """
    if type(value) is int:
        return value
    if type(value) is bool or _is_bool_of_numpy(value) or getattr(value, "ndim", None):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def as_number(value: object) -> float | None:
    """Return a number of any integer or real type as a finite float, or None for other values.

    Booleans are not numbers, and neither is a tensor, whose gradient would be lost.
    """
    if type(value) is float:
        number = value
    elif type(value) is bool or not isinstance(value, Real):
        return None
    else:
        try:
            number = float(value)
        except OverflowError:
            return None
    return number if abs(number) <= sys.float_info.max else None  # not NaN


def check_whole(name: str, value: object, least: int = 1, most: int | None = None) -> int:
    """Return a whole number of any integer type as an int.

    Raises:
        InvalidInput: it is not a whole number, is below `least` or above `most`, or does not fit
            into 64 bits.
    """
    whole = as_whole(value)
    if whole is None or not least <= whole < _BEYOND:
        raise InvalidInput(
            f"{name} {_too_large(value) or f'must be a whole number of at least {least}'}, "
            f"got {shown(value)}"
        )
    if most is not None and whole > most:
        raise InvalidInput(f"{name} must be at most {most:,}, got {whole:,}")
    return whole


def _is_bool_of_numpy(value: object) -> bool:
    """Whether a value is a boolean of NumPy or PyTorch."""
    dtype = str(getattr(value, "dtype", "")).removeprefix("torch.")
    return dtype == "bool" and not getattr(value, "ndim", None)


class Allowed(NamedTuple):
    """The values of a type that a field accepts: in words, and as a test."""

    text: str
    holds: Callable[[Any], bool]


FINITE = Allowed("a finite number", lambda x: True)
POSITIVE = Allowed("a positive number", lambda x: x > 0)
PROBABILITY = Allowed("at least 0 and below 1", lambda x: 0 <= x < 1)
SHARE = Allowed("from 0 to 1", lambda x: 0 <= x <= 1)


def check_number(name: str, value: object, allowed: Allowed = FINITE) -> float:
    """Return a number of any integer or real type as a float.

    Raises:
        InvalidInput: it is not a number, not finite, or not allowed.
    """
    number = as_number(value)
    if number is None or not allowed.holds(number):
        raise InvalidInput(f"{name} must be {allowed.text}, got {shown(value)}")
    return number


class OneOf(NamedTuple):
    """A field's text must be one of some names, which are determined when it is checked."""

    names: Callable[[], Iterable[str]]


class Parsed(NamedTuple):
    """How a field is made from text or a table: the accepted input, in words, and the function."""

    text: str
    parse: Callable[[Any], Any]


Text = Annotated[
    str, Allowed("text that is not empty", lambda text: text.strip() != "" and _NUL not in text)
]
Natural = Annotated[int, Allowed("a whole number of at least 0", lambda n: n >= 0)]
Count = Annotated[int, Allowed("a whole number of at least 1", lambda n: n >= 1)]
Number = Annotated[int | float, Allowed("a finite number", lambda x: True)]
NonNegative = Annotated[float, Allowed("a number of at least 0", lambda x: x >= 0)]
Positive = Annotated[float, Allowed("a number above 0", lambda x: x > 0)]


@dataclass(frozen=True)
class Checked:
    """Base class of frozen dataclasses that check and convert their values when constructed.

    A whole number is accepted as a number, a list or array as a tuple, a number as a list with one
    item, and a table as another such class; NumPy's numbers are accepted. The type of a field may
    be a plain type, a union, a ``Literal``, a tuple, a mapping, another such class, or one of these
    ``Annotated`` with `Allowed`, `OneOf` or `Parsed`. The default of a field is not checked.

    The class argument `called` is the beginning of messages, by default the name of the class:
    ``class Binning(Checked, called="binning: ")``.

    Raises:
        InvalidInput: a value does not have the type of its field; the message says what is
            expected, and for a word suggests the nearest known one.
    """

    called: ClassVar[str] = ""

    def __init_subclass__(cls, called: str | None = None) -> None:
        cls.called = f"{cls.__name__}: " if called is None else called

    def __post_init__(self) -> None:
        hints = type_hints(type(self))
        for field in fields(self):
            value, hint = getattr(self, field.name), hints[field.name]
            if type(value) is type(field.default) and value == field.default:
                continue
            try:
                object.__setattr__(self, field.name, _fit(_listed(value, hint), hint))
            except _Misfit:
                what = _wanted(value, hint)
                message = f"{self.called}{field.name} {what}, got {shown(value)}"
                word = value if isinstance(value, str) else shown(value)
                raise InvalidInput(message + nearest(word, _names(hint))) from None

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Self:
        """Make an object from a table of its fields, as in TOML.

        Raises:
            InvalidInput: a key is unknown (the message suggests the nearest one) or missing, or
                its value is not allowed.
        """
        hints = type_hints(cls)
        check_keys(table, hints, cls.called)
        for field in fields(cls):
            is_required = field.default is MISSING and field.default_factory is MISSING
            if is_required and field.name not in table:
                raise InvalidInput(
                    f"{cls.called}missing key {field.name!r}, {expected(hints[field.name])}"
                )
        return cls(**table)

    def to_table(self) -> dict[str, Any]:
        """Return every key that is set, as a TOML table that `from_table` reads."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: _plain(value) for name, value in values.items() if value is not None}


def check_keys(table: Iterable[str], known: Iterable[str], prefix: str = "") -> None:
    """Raise `InvalidInput` for an unknown key, and suggest the nearest known one."""
    names = list(known)
    for key in table:
        if key not in names:
            raise InvalidInput(f"{prefix}unknown key {key!r}{nearest(key, names)}")


def _type_hints(cls: Any) -> dict[str, Any]:
    """Return the types of a checked dataclass's fields, in order."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls)}


type_hints: Callable[[Any], dict[str, Any]] = cache(_type_hints)


def expected(hint: Any) -> str:
    """Describe in words the values that a field of a type accepts."""
    origin, args = get_origin(hint), get_args(hint)
    if names := _names(hint) if origin in (Literal, Annotated) else ():
        return f"one of {', '.join(names)}"
    if origin is Annotated:
        return str(args[1].text)
    if origin in (Union, UnionType):
        return " or ".join(expected(option) for option in args if option is not NoneType)
    if origin is tuple:
        item, number = expected(args[0]), (*get_args(args[0]), args[0])[0]
        if args[-1] is Ellipsis and number in (int, float):
            return f"{item}, or a list (not empty) of such numbers"
        length = "not empty" if args[-1] is Ellipsis else f"of {len(args)}"
        return f"a list ({length}), each item {item}"
    if origin is Mapping or (isinstance(hint, type) and issubclass(hint, Checked)):
        return "a table"
    words = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}
    return words.get(hint, f"of type {getattr(hint, '__name__', hint)}")


def _names(hint: Any) -> tuple[str, ...]:
    """Return the names of which a field's value must be one; empty for other fields."""
    args = get_args(hint)
    if get_origin(hint) is Literal:
        return args
    if get_origin(hint) is Annotated and isinstance(args[1], OneOf):
        return tuple(args[1].names())
    return tuple(name for arg in args for name in _names(arg))


def _too_large(value: object) -> str:
    """Return the problem of a number that does not fit into 64 bits; "" for other values."""
    whole = as_whole(value)
    return "" if whole is None or abs(whole) < _BEYOND else "must be below 2^63"


def _wanted(value: object, hint: Any) -> str:
    """Describe what a field's value must be, given that it is `value`."""
    if too_large := _too_large(value):
        return too_large
    if isinstance(value, str) and _NUL in value:
        return "must be text without NUL characters"
    words = expected(hint)
    is_odd = isinstance(value, float) and not math.isfinite(value) and "finite" not in words
    return f"must be {'finite: ' if is_odd else ''}{words}"


class _Misfit(Exception):
    """A value does not have the requested type."""


def _listed(value: Any, hint: Any) -> Any:
    """Return a number as a list with one item, if a field accepts only lists of any length."""
    is_list = get_origin(hint) is tuple and get_args(hint)[-1] is Ellipsis
    return (value,) if is_list and type(value) in (int, float) else value


def _fit(value: Any, hint: Any) -> Any:
    """Return `value` as the type `hint`, or raise _Misfit."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _fit_annotated(value, *args)
    if origin in (Union, UnionType):
        for option in args:
            with suppress(_Misfit):
                return _fit(value, option)
    elif origin is tuple:
        parts = value.tolist() if hasattr(value, "tolist") else value
        if isinstance(parts, (list, tuple)) and parts:
            items = [args[0]] * len(parts) if args[-1] is Ellipsis else args
            if len(items) == len(parts):
                return tuple(map(_fit, parts, items))
    elif origin is Mapping and isinstance(value, Mapping):
        return {key: _fit(item, args[1]) for key, item in value.items()}
    elif hint is float and (number := as_number(value)) is not None:
        return number
    elif hint is int and (whole := as_whole(value)) is not None:
        if abs(whole) < _BEYOND:
            return whole
    elif hint is bool and _is_bool_of_numpy(value):
        return bool(value)
    elif origin is Literal:
        if isinstance(value, str) and value in args:
            return value
    elif hint is Any or (hint not in (int, float) and _is_of(value, hint)):
        return value
    elif isinstance(hint, type) and issubclass(hint, Checked) and isinstance(value, Mapping):
        return hint.from_table(value)
    raise _Misfit


def _fit_annotated(value: Any, hint: Any, extra: Allowed | OneOf | Parsed) -> Any:
    if isinstance(extra, Allowed):
        fitted = _fit(value, hint)
        if extra.holds(fitted):
            return fitted
    elif isinstance(extra, OneOf):
        if isinstance(value, str) and value in extra.names():
            return value
    elif _is_of(value, hint):
        return value
    elif isinstance(value, (str, Mapping)):
        return extra.parse(value)
    raise _Misfit


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value has a class; unlike in Python, booleans are not whole numbers."""
    return (
        isinstance(hint, type)
        and isinstance(value, hint)
        and ((type(value) is bool) == (hint is bool))
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Checked):
        return value.to_table()
    return list(value) if isinstance(value, tuple) else value
