"""Tests of errors: their messages of one line, and the suggestion of the nearest known word."""

import pytest

from tsslbp import errors
from tsslbp.errors import nearest


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("epoch", ["epochs", "seed"], " (did you mean 'epochs'?)"),
        ("slayer", ["TSSLBP", "SLAYER"], " (did you mean 'SLAYER'?)"),
        ("Tau", ["tau", "TAU"], " (did you mean 'tau'?)"),
        ("nothing alike", ["epochs", "seed"], ""),
        ("", ["epochs"], ""),
        ("epochs", [], ""),
    ],
)
def test_the_nearest_word(word: str, known: list[str], hint: str) -> None:
    assert nearest(word, iter(known)) == hint


@pytest.mark.parametrize("kind", [errors.InvalidInput, errors.DataError, errors.RunError])
def test_the_program_catches_every_error(kind: type[errors.Error]) -> None:
    assert issubclass(kind, errors.Error)


@pytest.mark.parametrize("kind", [errors.InvalidInput, errors.DataError, errors.RunError])
def test_an_error_is_one_line_whatever_it_names(kind: type[errors.Error]) -> None:
    assert str(kind("no array 'a\nb\r\x1b[2J'")) == r"no array 'a\nb\x0d\x1b[2J'"


def test_invalid_input_is_a_value_error() -> None:
    """Callers who do not know the library's own errors can catch `ValueError`."""
    with pytest.raises(ValueError, match=r"^x$"):
        raise errors.InvalidInput("x")
