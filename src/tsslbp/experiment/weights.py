"""Finds trained weights by a network's name, a run folder or a file; pretrained networks.

A pretrained network is a run folder (``trained/NAME/``) without the parts that only training needs.
It contains the configuration, the environment, the record of the chosen epoch, the weights, and
``trained.json``, which gives their origin and licence.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..errors import InvalidInput, nearest
from ..reading import MOST_ARRAYS, read_whole
from .networks import checksum_of

SHIPPED = Path(__file__).parent / "trained"
CONFIG = "config.toml"  # in every run folder
FACTS = "trained.json"  # also in the folder of a pretrained network
PREFERRED = ("best-validation", "last")  # checkpoints, in order of preference


def trained_names() -> list[str]:
    """Names of the pretrained networks, sorted."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}"))


def trained_folder(name_or_folder: str | Path) -> Path:
    """Return the folder of a pretrained network, given its name, or else the path unchanged.

    A folder of such a name that contains a run takes precedence over the network.
    """
    name, folder = str(name_or_folder), Path(name_or_folder)
    is_run = os.path.isfile(folder / CONFIG)  # asked first, because it takes the least time
    return SHIPPED / name if not is_run and name in trained_names() else folder


def trained_record(name: str) -> dict[str, Any]:
    """Return the facts about a pretrained network, by its name.

    ``"recipe"``, ``"seed"`` and ``"seed_chosen"`` (the reason for this seed), ``"checkpoint"`` (and
    how its epoch was chosen), ``"epoch"``, ``"command"``, ``"commit"``, ``"stored"`` (the type of
    its numbers), ``"test_accuracy"`` (0 to 1, of the stored weights), ``"trained_accuracy"`` (of
    the weights before storing), ``"licence"``, and ``"data"`` and ``"data_licence"`` of the
    training images.

    Raises:
        InvalidInput: there is no such network.
    """
    if name not in (names := trained_names()):
        raise InvalidInput(f"there is no trained network {name!r}{nearest(name, names)}")
    text = (SHIPPED / name / FACTS).read_text(encoding="utf-8")
    record: dict[str, Any] = json.loads(text)
    return record


def is_shipped(folder: Path) -> bool:
    """Whether a run folder is that of a pretrained network; nothing is written into it."""
    return os.path.isfile(folder / FACTS)


def weights_file(weights: str) -> Path:
    """Return the file of tensors that a recipe's `weights` refers to.

    Raises:
        InvalidInput: there is none.
    """
    path = trained_folder(weights)
    if not os.path.isdir(path):
        if os.path.isfile(path):
            return path
        known = nearest(path.name, trained_names())
        raise InvalidInput(
            f"weights = {weights!r} is neither a run folder nor a file nor a pretrained network"
            f"{known}; the networks are {', '.join(trained_names())}"
        )
    files = [path / "checkpoints" / f"{name}.safetensors" for name in PREFERRED]
    if found := next((file for file in files if os.path.isfile(file)), None):
        return found
    raise InvalidInput(
        f"weights = {weights!r} has no checkpoint {' or '.join(PREFERRED)}: name a run that has "
        "finished an epoch, or a file of tensors"
    )


def weights_source(weights: str, checksum: str | None = None) -> tuple[Path, bytes]:
    """Return the file that `weights` refers to, and its content.

    Raises:
        InvalidInput: it cannot be read, or differs from `checksum`.
    """
    file = weights_file(weights)
    try:
        content = read_whole(file, MOST_ARRAYS)
    except OSError as error:
        raise InvalidInput(f"cannot read the weights {file}: {error.strerror}") from None
    if checksum is not None and (found := checksum_of(content)) != checksum:
        raise InvalidInput(
            f"{file} has changed since the creation of the run that starts from it: its SHA-256 is "
            f"{found[:12]}..., expected {checksum[:12]}...; restore the original, or choose other "
            "weights"
        )
    return file, content


def placed_weights(weights: str | None, folder: Path) -> str | None:
    """Return `weights` with an absolute path, if it is a path; a relative one is in `folder`."""
    if weights is None:
        return None
    is_name = weights in trained_names() and not os.path.isfile(folder / weights / CONFIG)
    return weights if is_name else os.path.abspath(folder / weights)
