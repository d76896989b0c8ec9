"""What an exported file says of its network, besides weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .._version import __version__
from ..network import CustomNetwork, Network


def facts(
    net: Network | CustomNetwork, prediction: str, more: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Version, network, T, classes, and how its prediction is read; then what the caller knows."""
    return {
        "tsslbp": __version__,
        "network": net.description,
        "time_steps": net.time_steps,
        "classes": net.classes,
        "prediction": prediction,
        **(more or {}),
    }


def as_text(value: Any) -> str:
    """A value of `facts` for a format that holds text alone: what is no text as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
