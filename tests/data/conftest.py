"""Fixture that keeps the tests of data away from the user's own folders."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_cache(cache: Path) -> None:
    pass
