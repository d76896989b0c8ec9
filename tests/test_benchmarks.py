"""The benchmark runs, and its checks pass, also where no peer is installed."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def test_quick_run(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / "run.py"), "--quick"]
    result = subprocess.run(
        [*command, "--json", str(record)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    numbers = json.loads(record.read_text())
    assert "tsslbp" in json.dumps(numbers["step"])
    assert numbers["quick"] is True
    assert numbers["neuron"] and numbers["growth"]
    new, kept = (row["s"] for row in numbers["first step"])
    assert kept < new
