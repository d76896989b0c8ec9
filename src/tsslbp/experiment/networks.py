"""How a recipe names its network: by its layers, by your own file, or by a name in `models`.

A file is code. The folder of a run or a study has a copy of it next to the configuration, which
contains the checksum of the copy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, final

from ..checked import as_number, as_whole
from ..errors import InvalidInput, shown
from ..reading import read_whole

SHIPPED = ("sew_resnet", "vgg")  # functions of `tsslbp.models`
AT_HAND = "module:"  # prefix of the class of a module that a script gave to `tsslbp.fit`


@final
class NetworkFile(NamedTuple):
    """A function in a Python file that builds a network: ``"nets.py:make"``."""

    path: Path
    function: str

    @property
    def name(self) -> str:
        """The network as a recipe in the file's folder names it."""
        return f"{self.path.name}:{self.function}"

    def source(self, checksum: str | None = None) -> bytes:
        """Return the content of the file.

        Raises:
            InvalidInput: it cannot be read, or differs from `checksum`.
        """
        try:
            source = read_whole(self.path)
        except (OSError, ValueError) as error:
            raise InvalidInput(
                f"cannot read the network's file {self.path}: "
                f"{getattr(error, 'strerror', None) or error}"
            ) from None
        if checksum is not None and (found := checksum_of(source)) != checksum:
            raise InvalidInput(
                f"{self.path} has changed since it was copied next to its configuration: its "
                f"SHA-256 is {found[:12]}..., expected {checksum[:12]}...; restore the original"
            )
        return source


def checksum_of(source: bytes) -> str:
    """Return the SHA-256 of a network's file, as in a configuration."""
    return hashlib.sha256(source).hexdigest()


def network_file(network: str) -> NetworkFile | None:
    """Return the file and function that a network's text names; None for other networks.

    Raises:
        InvalidInput: it names a file but no function.
    """
    path, _, function = network.rpartition(":")
    if network.endswith(".py") or (path.endswith(".py") and not function.isidentifier()):
        file = path if path.endswith(".py") else network
        raise InvalidInput(
            f"network = {network!r} names no function in the file: expected for example "
            f"'{Path(file).name}:make'"
        )
    return NetworkFile(Path(path), function) if path.endswith(".py") else None


def is_described(network: str) -> bool:
    """Whether a network's text describes its layers, as `tsslbp.network.plan` parses it."""
    return not (
        network in SHIPPED or network.startswith(AT_HAND) or network_file(network) is not None
    )


def network_name(network: str) -> str:
    """Return a network's text for display; a file is shown without its folder."""
    file = network_file(network)
    return file.name if file else network


def settings_of_network(table: Any) -> Mapping[str, Any]:
    """Return the table ``[network_settings]`` with its lists as tuples.

    Raises:
        InvalidInput: it is not a flat table; the message names the key.
    """
    if not isinstance(table, Mapping):
        raise InvalidInput(f"network_settings must be a table, got {table!r}")
    return {key: _value(f"network_settings.{key}", value) for key, value in table.items()}


def _value(key: str, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_value(key, item) for item in value)
    if isinstance(value, (bool, str)):
        return value
    whole, number = as_whole(value), as_number(value)
    if whole is not None and abs(whole) < 2**63:
        return whole
    if whole is None and number is not None:
        return number
    raise InvalidInput(
        f"{key} must be a number, text, true or false, or a list of those, got {shown(value)}"
    )
