"""Fixtures that the tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Fill uninitialised tensors with NaN, so that a cell nobody writes shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of data sets as `tsslbp.data.load` takes it, with ``mnist/`` and its like."""
    return _folder("TSSLBP_DATA", SHARED / "data", "data sets")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of tensors recorded from the original code, ``neuron_0.npz`` and its like."""
    return _folder("TSSLBP_GOLDEN", SHARED / "golden", "golden tensors")


def _folder(variable: str, default: Path, content: str) -> Path:
    folder = Path(os.environ.get(variable) or default)
    if not folder.is_dir():
        pytest.skip(f"no {content}: {folder} is no folder (set {variable})")
    return folder
