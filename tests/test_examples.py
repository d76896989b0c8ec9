"""Tests that the scripts in examples/ run and reach the expected results, some in fewer steps."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tsslbp.neuron import reference

FOLDER = Path(__file__).resolve().parents[1] / "examples"
SCRIPTS = ("compare", "own_data", "own_network", "own_rule", "sweep")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_they_are_five_and_short() -> None:
    files = {path.stem: path for path in FOLDER.glob("*.py")}
    assert set(files) == set(SCRIPTS)
    assert all(len(path.read_text().splitlines()) <= 60 for path in files.values())


def test_own_network(capsys: pytest.CaptureFixture) -> None:
    assert script("own_network").main(epochs=2) > 0.8
    assert "tau_m went from 2.0 to" in capsys.readouterr().out


def test_own_data() -> None:
    assert script("own_data").main(epochs=3) > 0.8


def test_own_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "BACKWARD", dict(reference.BACKWARD))
    assert script("own_rule").main(steps=30) > 0.5


def test_compare() -> None:
    found = script("compare").main(seeds=2, epochs=1)
    assert found.interval.low <= found.mean <= found.interval.high
    assert 0 <= found.p <= 1


@pytest.mark.usefixtures("jobs_here")
def test_sweep(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    outcomes = script("sweep").main(tmp_path, trials=3, epochs=1)
    assert [one.state for one in outcomes] == ["finished"] * 3
    accuracies = [one.accuracy or 0.0 for one in outcomes]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] > 0.3
    assert capsys.readouterr().out.count("trial ") == 3
