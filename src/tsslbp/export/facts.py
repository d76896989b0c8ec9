"""The facts about a network that an exported file contains besides its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .._version import __version__
from ..errors import InvalidInput
from ..network import CustomNetwork, Network


def check_network(net: object) -> None:
    """Raise `InvalidInput` if an object is not a network whose input and T are known."""
    if not isinstance(net, Network | CustomNetwork):
        raise InvalidInput(
            f"expected a tsslbp.Network or CustomNetwork, got {type(net).__name__}; give a module "
            "of your own to tsslbp.network.CustomNetwork first"
        )


def facts(
    net: Network | CustomNetwork, own: Mapping[str, Any], more: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return version, network, T and classes, what the format adds, and the caller's facts.

    Raises:
        InvalidInput: the caller's facts would replace one of the others, or cannot be written.
    """
    more = more or {}
    known = {
        "tsslbp": __version__,
        "network": net.description,
        "time_steps": net.time_steps,
        "classes": net.classes,
        **own,
    }
    if repeated := sorted(known.keys() & more.keys()):
        raise InvalidInput(
            f"metadata must not contain {', '.join(repeated)}, which the export writes itself"
        )
    for key, value in more.items():
        if not isinstance(key, str):
            raise InvalidInput(f"names in metadata must be text, got {key!r}")
        try:
            as_text(value)
        except (TypeError, ValueError) as error:
            raise InvalidInput(
                f"metadata must be text, numbers, and lists or tables of these, but {key} is not: "
                f"{error}"
            ) from error
    return known | dict(more)


def as_text(value: Any) -> str:
    """Return a value of `facts` for a format that only has text; other values become JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
