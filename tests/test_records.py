"""The committed records are whole, and what the README says is what they say."""

import json
from pathlib import Path
from statistics import mean, stdev

import pytest

from tsslbp.experiment import load_recipe

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
RUNS = sorted(
    path.parent.relative_to(RESULTS).as_posix() for path in RESULTS.rglob("metrics.jsonl")
)


def epochs(name: str) -> list[dict]:
    lines = (RESULTS / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", RUNS)
def test_record(name: str) -> None:
    """Every epoch is there, the code was committed, and results/README.md lists the record."""
    experiment = load_recipe(RESULTS / name / "config.toml")
    records = epochs(name)
    assert [record["epoch"] for record in records] == list(range(1, len(records) + 1))
    assert len(records) == experiment.epochs or experiment.patience is not None
    environment = json.loads((RESULTS / name / "environment.json").read_text())
    assert environment["dirty"] is False
    assert f"`{name.partition('/')[0]}/`" in (RESULTS / "README.md").read_text()


def test_readme_says_what_the_records_say() -> None:
    text = (ROOT / "README.md").read_text()
    records = epochs("mnist-seed0")
    last = f"last epoch {100 * records[-1]['test_accuracy']:.2f}"
    best = f"best test epoch {100 * max(one['test_accuracy'] for one in records):.2f}"
    assert last in text and best in text
    five = 100 * epochs("mnist-5-epochs-seed0")[-1]["test_accuracy"]
    assert five >= 98.8
    assert f"{five:.1f} % after five epochs" in text
    steps = json.loads((RESULTS / "bench" / "cpu.json").read_text())["step"]
    for row in steps:
        assert f"| {row['median ms']:.1f} |" in text, row["case"]


def test_spike_train_rules_record() -> None:
    record = json.loads((RESULTS / "rules" / "spike_train_rules.json").read_text())
    assert record["environment"]["dirty"] is False and record["quick"] is False
    text = (RESULTS / "README.md").read_text()
    for rule, name in (("HM2BP", "HM2-BP"), ("STRSBP", "ST-RSBP")):
        own = [100 * run["test accuracy"] for run in record["runs"] if run["rule"] == rule]
        assert f"{name} {mean(own):.2f} +- {stdev(own):.2f} %" in text
    low, high = record["difference"]["interval"]
    difference = f"difference {record['difference']['mean']:.2f} %"
    assert f"{difference} (95 % interval {low:.2f} to {high:.2f})" in text
