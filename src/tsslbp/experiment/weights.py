"""Which trained weights a name, a run's folder or a file means; networks that ship trained.

A network that ships is the folder of a run (``trained/NAME/``) without what only training needs:
configuration, environment, the record of the epoch that was chosen, the weights, and
``trained.json``, which says where they come from and under what licence they are.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..errors import InvalidInput, nearest
from .networks import checksum_of

SHIPPED = Path(__file__).parent / "trained"
CONFIG = "config.toml"  # a folder with this file is a run's
FACTS = "trained.json"  # and one with this file too is that of a network that ships
PREFERRED = ("best-validation", "last")  # checkpoints, the first that a run has


def trained_names() -> list[str]:
    """Names of the networks that ship trained, sorted."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}"))


def trained_folder(name_or_folder: str | Path) -> Path:
    """The run's folder that is meant: of a network that ships, by its name, or the path as it is.

    A folder of such a name that holds a run is meant before the network.
    """
    name, folder = str(name_or_folder), Path(name_or_folder)
    is_name = name in trained_names() and not (folder / CONFIG).is_file()
    return SHIPPED / name if is_name else folder


def trained_record(name: str) -> dict[str, Any]:
    """What is known of a network that ships, by its name.

    ``"recipe"``, ``"seed"`` and ``"seed_chosen"`` (why this one), ``"checkpoint"`` (and how its
    epoch was chosen), ``"epoch"``, ``"command"``, ``"commit"``, ``"stored"`` (the type of its
    numbers), ``"test_accuracy"`` (0 to 1, of what is stored), ``"trained_accuracy"`` (of the
    weights as they were trained), ``"licence"``, and ``"data"`` and ``"data_licence"`` of the
    images that trained it.

    Raises:
        InvalidInput: there is no such network.
    """
    if name not in (names := trained_names()):
        raise InvalidInput(f"no network {name!r} ships trained{nearest(name, names)}")
    text = (SHIPPED / name / FACTS).read_text(encoding="utf-8")
    record: dict[str, Any] = json.loads(text)
    return record


def is_shipped(folder: Path) -> bool:
    """Whether a run's folder is that of a network that ships, in which nothing is written."""
    return (folder / FACTS).is_file()


def weights_file(weights: str) -> Path:
    """The file of tensors that a recipe's `weights` means.

    Raises:
        InvalidInput: there is none.
    """
    path = trained_folder(weights)
    if not path.is_dir():
        if path.is_file():
            return path
        known = nearest(path.name, trained_names())
        raise InvalidInput(
            f"weights = {weights!r} is neither a run's folder nor a file nor a network that "
            f"ships{known}; these are {', '.join(trained_names())}"
        )
    files = [path / "checkpoints" / f"{name}.safetensors" for name in PREFERRED]
    if found := next((file for file in files if file.is_file()), None):
        return found
    raise InvalidInput(
        f"weights = {weights!r} holds no checkpoint {' or '.join(PREFERRED)}: name a run that has "
        "trained an epoch, or a file of tensors"
    )


def weights_source(weights: str, checksum: str | None = None) -> tuple[Path, bytes]:
    """The file that `weights` means, and what it holds.

    Raises:
        InvalidInput: it cannot be read, or is another file than that of `checksum`.
    """
    file = weights_file(weights)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InvalidInput(f"cannot read the weights {file}: {error.strerror}") from None
    if checksum is not None and (found := checksum_of(content)) != checksum:
        raise InvalidInput(
            f"{file} has changed since the run was made that starts from it: its SHA-256 is "
            f"{found[:12]}..., expected {checksum[:12]}...; put the original back, or name other "
            "weights"
        )
    return file, content


def placed_weights(weights: str | None, folder: Path) -> str | None:
    """`weights` with an absolute path, if it is a path; a relative one starts from `folder`."""
    if weights is None:
        return None
    is_name = weights in trained_names() and not (folder / weights / CONFIG).is_file()
    return weights if is_name else os.path.abspath(folder / weights)
