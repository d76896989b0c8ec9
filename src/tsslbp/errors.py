"""The errors that tsslbp raises deliberately. Their text is one line that a user can act on.

Quoted text may come from untrusted files, so it is made `printable`.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Iterable

# Terms of other programs, and the corresponding keys, values or options of this one.
SYNONYMS = {
    "adam": ("adamw", "optimizer"),
    "arch": ("network",),
    "batch": ("batch_size",),
    "bs": ("batch_size",),
    "clip": ("gradient_clip",),
    "cross_entropy": ("softmax", "loss"),
    "crossentropy": ("softmax", "loss"),
    "dataset": ("data",),
    "ema": ("average_weights",),
    "gpu": ("cuda",),
    "lr": ("learning_rate",),
    "model": ("network",),
    "num_steps": ("time_steps",),
    "optim": ("optimizer",),
    "optimiser": ("optimizer",),
    "scheduler": ("schedule",),
    "steps": ("time_steps",),
    "t": ("time_steps",),
    "tau": ("tau_m", "tau_s"),
    "timesteps": ("time_steps",),
    "v_th": ("threshold",),
    "wd": ("weight_decay",),
}

_LONGEST = 2000  # characters of an error's text
# Control characters, characters that change the direction of writing, line ends of other systems,
# and surrogates for bytes that are not text.
_UNPRINTABLE = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Return a text that is safe to print: control characters are replaced by hexadecimal codes.

    Line breaks and tabs are kept.
    """
    return _UNPRINTABLE.sub(_written_out, text)


def shown(value: object) -> str:
    """Return ``repr(value)``; Python writes out no whole number of thousands of digits."""
    try:
        return repr(value)
    except ValueError:
        return "a number of thousands of digits"


def _written_out(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


class Error(Exception):
    """Base class of all errors below; the program prints it without a traceback."""

    def __str__(self) -> str:
        text = printable(super().__str__()).replace("\n", "\\n")  # as in a name from a file
        if len(text) <= _LONGEST:
            return text
        return f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 4 :]}"


class InvalidInput(Error, ValueError):
    """An invalid argument, tensor, configuration or network description; the caller can fix it."""


class DataError(Error):
    """A data file that is missing, truncated, or different from what its name says."""


class RunError(Error):
    """A run folder or checkpoint that cannot be read, written or used."""


class Diverged(Error):
    """A training step produced NaN or infinity."""


def require(what: str, extra: str, *packages: str) -> None:
    """Raise `InvalidInput` if a package of one of our optional extras is not installed.

    Args:
        what: what needs the package, such as ``"reports need"``.
        extra: name of the extra.
        packages: import names of the packages.
    """
    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise InvalidInput(
                f"{what} {name}, which is not installed: pip install 'tsslbp[{extra}]'"
            )


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the known word closest to `word`, or ``""``.

    `SYNONYMS` take precedence. Upper and lower case are considered equal only if no word is close
    otherwise.
    """
    words = list(known)
    if same := [one for one in SYNONYMS.get(word.casefold().replace("-", "_"), ()) if one in words]:
        return f" (did you mean {' or '.join(map(repr, same))}?)"
    folded = {one.casefold(): one for one in words}
    for text, candidates in ((word, {one: one for one in words}), (word.casefold(), folded)):
        if matches := difflib.get_close_matches(text, candidates, n=1, cutoff=0.5):
            return f" (did you mean {candidates[matches[0]]!r}?)"
    return ""
