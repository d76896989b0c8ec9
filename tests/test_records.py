"""Tests that the committed records are complete and that the documents agree with them."""

import json
import re
from dataclasses import replace
from pathlib import Path
from statistics import mean, median, stdev

import pytest

from tsslbp import stats
from tsslbp.experiment import load_recipe, recipe_names, recorded
from tsslbp.run.results import Result
from tsslbp.studies import compare

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
RUNS = sorted(
    path.parent.relative_to(RESULTS).as_posix() for path in RESULTS.rglob("metrics.jsonl")
)

FINDINGS = ROOT / "docs" / "findings.md"
CPUS = ("cpu", "cpu-avx2")
COMPARISONS = sorted(path.parent.name for path in RESULTS.glob("findings/*/compare.json"))
SETTINGS = sorted(path.name for path in RESULTS.glob("findings/settings-*"))


def epochs(name: str) -> list[dict]:
    lines = (RESULTS / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", RUNS)
def test_record(name: str) -> None:
    """A record has all epochs, was made by committed code, and is listed in results/README.md.

    A run that diverged has no more epochs.
    """
    experiment = load_recipe(RESULTS / name / "config.toml")
    records = epochs(name)
    assert [record["epoch"] for record in records] == list(range(1, len(records) + 1))
    ended_early = experiment.patience is not None or (RESULTS / name / "diverged.json").is_file()
    assert len(records) == experiment.epochs or ended_early
    environment = json.loads((RESULTS / name / "environment.json").read_text())
    assert environment["dirty"] is False
    listed = (RESULTS / "README.md").read_text()
    assert any(f"`{folder.as_posix()}/`" in listed for folder in [Path(name), *Path(name).parents])


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_promise_what_the_records_say(name: str) -> None:
    """The accuracy and the time that are stated for a recipe are those of its records."""
    recipe, promised = load_recipe(name), recorded().get(name)
    folders = {Path(run).parent for run in promised.runs} if promised else {Path()}
    results = [Result.read(RESULTS / run) for run in RUNS if Path(run).parent in folders]
    of_recipe = [
        one
        for one in results
        if replace(one.experiment, seed=0, description=recipe.description) == recipe
    ]
    found = [one.folder.relative_to(RESULTS).as_posix() for one in of_recipe]
    assert found == list(promised.runs if promised else ())
    if promised is None:
        return
    measure = "best-validation" if recipe.protocol == "validated" else "best-test"
    values = [100 * one.accuracy[measure] for one in of_recipe]
    accuracy = mean(values)
    assert f"{accuracy:.2f}" == f"{promised.accuracy:.2f}"
    said = re.findall(r"[\d.]+ \+- [\d.]+ %|[\d.]+ %", recipe.description.split("accuracy: ")[1])
    spread = f" +- {stdev(values):.2f}" if len(values) > 1 else ""
    assert f"{accuracy:.2f}{spread} %" in said
    assert promised.seconds == round(min(one.seconds for one in of_recipe), 1)


def test_readme_says_what_the_records_say() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(re.findall(r"\S*\w\S*", text)) <= 700
    table = [line for line in text.splitlines() if "last epoch" in line and line[0] == "|"]
    said = r"last epoch (.*?), best test epoch (.*?) \((\d+ runs|one run), `(.*?)`"
    for row in table:
        (cells,) = re.findall(said, row)
        recipe = cells[3]
        runs = [epochs(name) for name in RUNS if re.fullmatch(rf"{recipe}-seed\d+", name)]
        last = [100 * one[-1]["test_accuracy"] for one in runs]
        best = [100 * max(epoch["test_accuracy"] for epoch in one) for one in runs]
        if len(runs) == 1:
            assert cells[:3] == (f"{last[0]:.2f}", f"{best[0]:.2f}", "one run")
            continue
        assert len(runs) >= 3
        words = [f"{mean(values):.2f} ± {stdev(values):.2f}" for values in (last, best)]
        assert cells[:3] == (*words, f"{len(runs)} runs")
    assert len(table) >= 2
    five = 100 * epochs("mnist-5-epochs-seed0")[-1]["test_accuracy"]
    assert five >= 98.8
    assert f"{five:.1f} % after five epochs" in text
    fast = [Result.read(RESULTS / f"mnist-fast-seed{seed}") for seed in range(3)]
    chosen = [100 * one.accuracy["best-validation"] for one in fast]
    assert f"{mean(chosen):.2f} ± {stdev(chosen):.2f} % at the epoch chosen on valid" in text
    assert min(one.seconds for one in fast) < 600
    both = [json.loads((RESULTS / "bench" / f"{name}.json").read_text()) for name in CPUS]
    page = (ROOT / "docs" / "performance.md").read_text()
    libraries = {"tsslbp", "snnTorch", "Norse", "SpikingJelly"}
    for rows in zip(*(one["step"] for one in both), strict=True):
        numbers = " | ".join(f"{row['median ms']:.1f} | {row['times ReLU']:.2f}" for row in rows)
        assert f"| {rows[0]['case']} | {numbers} |" in page
        if rows[0]["case"] in libraries:
            ratios = " | ".join(f"{row['times ReLU']:.2f}" for row in rows)
            assert f"| {rows[0]['case']} | {ratios} |" in text
    for one in both:
        assert f"{one['cifar10'][0]['median s']:.1f} s with" in page
    assert f"compiles the kernels, {both[0]['first step'][0]['s']:.0f} s" in page


def test_what_is_said_of_the_gpu_is_what_its_records_say() -> None:
    readme = (ROOT / "README.md").read_text()
    page = (ROOT / "docs" / "performance.md").read_text()
    mnist, cnn1 = (
        Result.read(RESULTS / "gpu" / f"{name}-seed0") for name in ("mnist", "cifar10-cnn1")
    )
    epoch = median(one["seconds"] + one["evaluation_seconds"] for one in cnn1.epochs)
    assert f"100 epochs of MNIST take {mnist.seconds:.0f} s" in readme
    assert f"takes {epoch:.1f} s in bfloat16" in readme
    for run, time in ((mnist, f"{mnist.seconds:.0f} s, including"), (cnn1, f"{epoch:.1f} s")):
        memory = max(one["device_peak_memory"] for one in run.epochs) / 1e9
        assert f"| {time}" in page and f"| {memory:.2g} GB |" in page


@pytest.mark.parametrize("name", COMPARISONS)
def test_findings_say_what_the_comparisons_say(name: str) -> None:
    """No run is missing, and the page contains every accuracy and difference."""
    text, folder = FINDINGS.read_text(), RESULTS / "findings" / name
    results = compare.read_results(compare.read(folder), folder)
    assert not any(one.missing for one in results)
    for one in results:
        accuracies = [100 * accuracy for accuracy in one.accuracies]
        assert f"{mean(accuracies):.2f} ± {stdev(accuracies):.2f}" in text, one.name
    for pair in compare.against_first(results):
        assert pair.difference is not None
        low, high = pair.difference.interval
        words = f"{pair.difference.mean:+.2f} ({low:+.2f} to {high:+.2f})"
        assert f"{words}, {pair.verdict}" in text, pair


@pytest.mark.parametrize("name", SETTINGS)
def test_findings_say_what_the_settings_do(name: str) -> None:
    """The page states each setting's accuracy, and its difference to `revised`, paired by seed."""
    text, folder = FINDINGS.read_text(), RESULTS / "findings" / name

    def accuracies(setting: str) -> list[float]:
        runs = sorted((folder / setting).glob("validated-seed*"))
        return [100 * Result.read(run).accuracy["best-validation"] for run in runs]

    revised = accuracies("revised")
    assert f"{mean(revised):.2f} ± {stdev(revised):.2f}" in text
    for setting in {path.name for path in folder.iterdir() if path.is_dir()} - {"revised"}:
        if setting == "report_figures":
            continue
        ours = accuracies(setting)
        difference = stats.paired_accuracies(ours, revised)
        low, high = difference.interval
        row = f"{mean(ours):.2f} ± {stdev(ours):.2f} | {difference.mean:+.2f} "
        assert f"{row}({low:+.2f} to {high:+.2f})" in text, setting


def test_findings_say_what_the_microscope_saw() -> None:
    records = [
        json.loads((RESULTS / "rules" / f"microscope-{name}.json").read_text())
        for name in ("start", "trained")
    ]
    width = records[0]["widths"].index(0.1)
    for rule in records[0]["rules"]:
        cells = [
            f"{layer['truth'][rule][width]['value']:.2f}"
            for record in records
            for layer in record["layers"]
        ]
        assert f"| `{rule}` | {' | '.join(cells)} |" in FINDINGS.read_text()


def test_no_rule_takes_much_longer_than_tssl_bp() -> None:
    """No rule takes 1.3 times as long as TSSL-BP, except NA, whose cost is quadratic in T."""
    record = json.loads((RESULTS / "bench" / "rules.json").read_text())
    assert record["environment"]["dirty"] is False and record["quick"] is False
    times = {(row["rule"], row["T"]): row["times TSSLBP"] for row in record["rules"]}
    assert all(ratio < 1.3 for (rule, _), ratio in times.items() if rule != "NA")


def test_spike_train_rules_record() -> None:
    record = json.loads((RESULTS / "rules" / "spike_train_rules.json").read_text())
    assert record["environment"]["dirty"] is False and record["quick"] is False
    text = (RESULTS / "README.md").read_text()
    for rule, name in (("HM2BP", "HM2-BP"), ("STRSBP", "ST-RSBP")):
        own = [100 * run["test accuracy"] for run in record["runs"] if run["rule"] == rule]
        assert f"{name} {mean(own):.2f} ± {stdev(own):.2f} %" in text
    low, high = record["difference"]["interval"]
    difference = f"difference {record['difference']['mean']:.2f} points"
    assert f"{difference} (95 % interval {low:.2f} to {high:.2f})" in text
