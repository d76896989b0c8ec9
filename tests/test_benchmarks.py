"""Tests of the benchmarks in their quick modes; the other libraries need not be installed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_quick_run(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / "run.py"), "--quick"]
    result = subprocess.run(
        [*command, "--json", str(record)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    numbers = json.loads(record.read_text())
    assert {"tsslbp", "tsslbp, built from modules"} <= {row["case"] for row in numbers["step"]}
    assert numbers["sew"][0]["case"] == "tsslbp"
    assert numbers["quick"] is True
    cases = ["tsslbp", "plain PyTorch", "onnxruntime"]
    assert [(row["batch"], row["case"]) for row in numbers["inference"]] == [
        (batch, case) for batch in (1, 50) for case in cases
    ]
    spent = {row["part"]: row["ms"] for row in numbers["parts"]}
    assert min(spent.values()) > 0 and spent["everything else"] < 0.5 * sum(spent.values())
    assert numbers["neuron"] and numbers["growth"] and numbers["cifar10"]
    assert {row["rule"] for row in numbers["rules"]} >= {"TSSLBP", "SLAYER", "EventProp", "NA"}
    assert [row["kernels"] for row in numbers["first step"]] == ["kept"]


@pytest.mark.slow
def test_spike_train_rules(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    program = str(BENCHMARKS.parent / "research" / "digits.py")
    result = subprocess.run(
        [sys.executable, program, "--quick", "--json", str(record)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "| HM2BP |" in result.stdout and "| STRSBP |" in result.stdout
    numbers = json.loads(record.read_text())
    assert [run["rule"] for run in numbers["runs"]] == ["HM2BP", "STRSBP"]
    assert len(numbers["search"]) == 6


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_gpu_benchmark_in_its_small_mode(tmp_path: Path) -> None:
    record = tmp_path / "gpu.json"
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / "gpu" / "bench.py"), "--quick"]
    result = subprocess.run(
        [*command, "--json", str(record)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    numbers = json.loads(record.read_text())
    assert {"checks", "card", "step", "neuron", "linear"} <= set(numbers)
    ours = {row["network"]: row for row in numbers["step"] if row["by"] == "tsslbp"}
    assert set(ours) == {"mnist", "cifar10-cnn1"} and ours["mnist"]["images/s"] > 0
    assert 0 < ours["cifar10-cnn1"]["augmentation / step"] < 1
    assert {row["T"] for row in numbers["neuron"]} == {5, 30, 100, 500}


@pytest.mark.slow
def test_gpu_training_in_pieces(tmp_path: Path) -> None:
    """A training that runs out of time exits with 75; the same command then finishes it."""
    command = [sys.executable, str(BENCHMARKS / "gpu" / "train.py"), "digits", "--device", "cpu"]
    command += ["--run", str(tmp_path / "run"), "--record", str(tmp_path / "record")]
    options = ["--", "--epochs", "2"]
    first = subprocess.run([*command, "--minutes", "0.001", *options], check=False)
    assert first.returncode == 75
    second = subprocess.run([*command, *options], check=False)
    assert second.returncode == 0
    assert len((tmp_path / "record" / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_event_files(tmp_path: Path) -> None:
    record = tmp_path / "events.json"
    program = str(BENCHMARKS / "event_files.py")
    result = subprocess.run(
        [sys.executable, program, "--files", "70", "--json", str(record)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    numbers = json.loads(record.read_text())
    assert [row["format"] for row in numbers["decoding"]] == ["N-MNIST", "AEDAT 2.0", "AEDAT 3.1"]
    assert [row["time steps"] for row in numbers["binning"]] == [30, 100]
    assert all(row["files a second"] > 0 for row in numbers["binning"])
