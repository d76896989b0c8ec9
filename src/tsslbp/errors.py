"""The errors that tsslbp raises on purpose. Their text is one line a user can act on."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable

# What people type who know other programs, and what it is called here: keys, values or options.
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


class Error(Exception):
    """Base of all errors below; the program prints it without a traceback."""


class InvalidInput(Error, ValueError):
    """An argument, tensor, configuration or network description that the caller can correct."""


class DataError(Error):
    """A data file that is missing, truncated, or not what its name says."""


class RunError(Error):
    """A run folder or checkpoint that cannot be read, written or used."""


class Diverged(Error):
    """A training step produced NaN or infinity."""


def require(what: str, extra: str, *packages: str) -> None:
    """Raise `InvalidInput` where a package is missing that one of our optional extras brings.

    Args:
        what: needs them, such as ``"reports need"``.
        extra: the extra's name.
        packages: as they are imported.
    """
    for name in packages:
        try:
            importlib.import_module(name)
        except ImportError:
            raise InvalidInput(f"{what} {name}: pip install 'tsslbp[{extra}]'") from None


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the known word closest to `word`, or ``""``.

    What `SYNONYMS` says goes first. Capitals and small letters count as equal only where nothing is
    close otherwise.
    """
    words = list(known)
    if same := [one for one in SYNONYMS.get(word.casefold().replace("-", "_"), ()) if one in words]:
        return f" (did you mean {' or '.join(map(repr, same))}?)"
    folded = {one.casefold(): one for one in words}
    for text, candidates in ((word, {one: one for one in words}), (word.casefold(), folded)):
        if matches := difflib.get_close_matches(text, candidates, n=1, cutoff=0.5):
            return f" (did you mean {candidates[matches[0]]!r}?)"
    return ""
