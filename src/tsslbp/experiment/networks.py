"""How a recipe names its network: by layers, by a file of one's own, or one that ships.

A file is code. Beside a configuration that this program has written, in a run's or a study's
folder, lies a copy of it, whose checksum stands in the configuration.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, final

from ..checked import as_number, as_whole
from ..errors import InvalidInput
from ..reading import read_whole

SHIPPED = ("sew_resnet", "vgg")  # functions of `tsslbp.models`
AT_HAND = "module:"  # and the name of a class: a module that a script gave to `tsslbp.fit`


@final
class NetworkFile(NamedTuple):
    """A function in a file of Python, which makes a network: ``"nets.py:make"``."""

    path: Path
    function: str

    @property
    def name(self) -> str:
        """The network as a recipe beside the file has it."""
        return f"{self.path.name}:{self.function}"

    def source(self, checksum: str | None = None) -> bytes:
        """What the file holds.

        Raises:
            InvalidInput: it cannot be read, or is another file than that of `checksum`.
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
                f"{self.path} has changed since it was put beside its configuration: its SHA-256 "
                f"is {found[:12]}..., expected {checksum[:12]}...; put the original back"
            )
        return source


def checksum_of(source: bytes) -> str:
    """SHA-256 of a network's file, as a configuration has it."""
    return hashlib.sha256(source).hexdigest()


def network_file(network: str) -> NetworkFile | None:
    """The file and the function that a network's text names; None for other networks.

    Raises:
        InvalidInput: it names a file and no function.
    """
    path, _, function = network.rpartition(":")
    if network.endswith(".py") or (path.endswith(".py") and not function.isidentifier()):
        file = path if path.endswith(".py") else network
        raise InvalidInput(
            f"network = {network!r} names no function of the file: expected such as "
            f"'{Path(file).name}:make'"
        )
    return NetworkFile(Path(path), function) if path.endswith(".py") else None


def is_described(network: str) -> bool:
    """Whether a network's text describes its layers, as `tsslbp.network.plan` reads it."""
    return not (
        network in SHIPPED or network.startswith(AT_HAND) or network_file(network) is not None
    )


def network_name(network: str) -> str:
    """A network's text for people: of a file its name, without the folder."""
    file = network_file(network)
    return file.name if file else network


def settings_of_network(table: Any) -> Mapping[str, Any]:
    """Return the table ``[network_settings]`` with its lists as tuples.

    Raises:
        InvalidInput: it is no flat table; names the key.
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
        f"{key} must be a number, text, true or false, or a list of those, got {value!r}"
    )
