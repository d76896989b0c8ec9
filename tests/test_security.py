"""Tests that `docs/SECURITY.md` names existing tests, and tests of promises without other tests."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

import tsslbp
from tsslbp import reading
from tsslbp.errors import InvalidInput
from tsslbp.experiment import load_recipe

PACKAGE = Path(tsslbp.__file__).parent
PAGE = Path(__file__).parents[1] / "docs" / "SECURITY.md"
EXECUTES = {"exec", "eval", "compile", "__import__", "spec_from_file_location", "module_from_spec"}
UNPICKLES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml"}


def test_every_promise_names_tests_that_exist() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 8
    for row in rows:
        tests = row.split("|")[-2]
        named = re.split(r"\[test_\w+\.py\]\((\S+?)\)", tests)[1:]
        assert named, row
        for path, names in zip(named[::2], named[1::2], strict=True):
            functions = re.findall("`(test_[^`]*)`", names)
            source = (PAGE.parent / path).read_text()
            assert functions and all(f"def {name}(" in source for name in functions), row


def test_what_executes_or_unpickles() -> None:
    executes, unpickles = set(), set()
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called != "torch.load", name
                allowed = {ast.unparse(one) for one in node.keywords if one.arg == "allow_pickle"}
                assert allowed <= {"allow_pickle=False"}, name
                if called.removeprefix("importlib.util.") in EXECUTES:
                    executes.add(name)
            if isinstance(node, ast.Import | ast.ImportFrom):
                imported = [*(one.name for one in node.names), getattr(node, "module", "") or ""]
                if UNPICKLES.intersection(one.partition(".")[0] for one in imported):
                    unpickles.add(name)
    assert executes == {"training/own.py"}
    assert unpickles == {"kernels/compiled.py"}


def test_a_text_that_is_too_long(tmp_path: Path) -> None:
    """A text file of 10 GB, here a sparse one that takes no space on the disk, is refused."""
    path = tmp_path / "a.toml"
    with path.open("wb") as file:
        file.truncate(10**10)
    with pytest.raises(InvalidInput, match=r"a\.toml: .*10,000,000,000 bytes, more than"):
        load_recipe(path)


def test_arrays_that_claim_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_LARGE", 1 << 20)
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=np.zeros(10**7, dtype=np.uint8))
    with pytest.raises(ValueError, match=r"it claims to contain 10,000,\d+ bytes, but has only"):
        reading.read_arrays(path)
    np.savez(path, images=np.zeros(10**7, dtype=np.uint8))
    assert len(reading.read_arrays(path)["images"]) == 10**7
