"""The facts about a network that an exported file contains besides its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .._version import __version__
from ..network import CustomNetwork, Network


def facts(
    net: Network | CustomNetwork, prediction: str, more: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return version, network, T, classes, how to read the prediction, and the caller's facts."""
    return {
        "tsslbp": __version__,
        "network": net.description,
        "time_steps": net.time_steps,
        "classes": net.classes,
        "prediction": prediction,
        **(more or {}),
    }


def as_text(value: Any) -> str:
    """Return a value of `facts` for a format that only has text; other values become JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
