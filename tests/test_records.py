"""Tests that the committed records are complete and that the documents agree with them."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean, median, stdev

import pytest

from tsslbp import stats
from tsslbp.experiment import Experiment, load_recipe, recipe_names, recorded
from tsslbp.kernels import events
from tsslbp.run.results import Result
from tsslbp.studies import compare

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
RUNS = sorted(
    path.parent.relative_to(RESULTS).as_posix() for path in RESULTS.rglob("metrics.jsonl")
)

FINDINGS = ROOT / "docs" / "findings.md"
CPUS = ("cpu", "cpu-avx2", "epyc", "epyc-avx2", "epyc-1-thread", "epyc-avx2-1-thread")
EPYC = CPUS[2:]
README_CPUS = ("cpu", "cpu-avx2", "epyc", "epyc-avx2")
GROWTH = {"epyc": "AVX-512", "epyc-avx2": "AVX2"}
ORIGINALS = {"cifar10-reencoded": "cifar10"}  # copies of a data set, on which a recipe may have run
LIBRARIES = ("snnTorch", "Norse", "SpikingJelly")
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

    def as_shipped(one: Experiment) -> Experiment:
        data = ORIGINALS.get(one.data, one.data)
        words = {"name": recipe.name, "description": recipe.description}
        return replace(one, seed=0, data=data, **words)

    of_recipe = [one for one in results if as_shipped(one.experiment) == recipe]
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
    for row in speed_rows(README_CPUS, ("tsslbp", *LIBRARIES)):
        assert row in text


def test_every_measurement_is_listed() -> None:
    listed = (RESULTS / "README.md").read_text()
    for path in [*RESULTS.glob("bench/*.json"), *RESULTS.glob("rules/*.json")]:
        assert f"`{path.relative_to(RESULTS).as_posix()}`" in listed


def bench(name: str) -> dict:
    return json.loads((RESULTS / "bench" / f"{name}.json").read_text())  # type: ignore[no-any-return]


def speed_rows(names: Iterable[str], cases: Collection[str] = ()) -> list[str]:
    """Return rows of a table of steps relative to the ReLU network's, with a column per record."""
    columns = [bench(name)["step"] for name in names]
    rows = []
    for cells in zip(*columns, strict=True):
        if cells[0]["case"] in cases or not cases:
            ratios = " | ".join(f"{one['times ReLU']:.2f}" for one in cells)
            rows.append(f"| {cells[0]['case']} | {ratios} |")
    return rows


def target_rows(names: Iterable[str]) -> list[str]:
    """Return rows of a table of our targets and what each record reaches."""
    columns = [_reached(bench(name)) for name in names]
    return [
        f"| {what} | {target} | {' | '.join(one[what] for one in columns)} |"
        for what, target in TARGETS.items()
    ]


TARGETS = {
    "step, times that of the ReLU network": "at most 1.75",
    "step of a trained network, times that of the ReLU network": "at most 1.75",
    "step of the fastest other library, times ours": "at least 2.75",
    "step of the fastest other library, times ours of a trained network": "at least 2.75",
    "step of CNN1, times that of its dense products": "at most 0.75",
    "neurons forward, % of the speed of a copy (T = 1, 2, 5, 30, 100)": "at least 50",
    "neurons backward, % of the speed of a copy (T = 1, 2, 5, 30, 100)": "at least 20",
    "evaluation of a trained network, times that of the ReLU network": "-",
    "first step, with compiling, s": "at most 4",
}


def _reached(record: dict) -> dict[str, str]:
    step = {row["case"]: row for row in record["step"]}
    trained = {row["what"]: row["times ReLU"] for row in record["trained"]}
    times = {row["what"]: row["ms"] for row in record["trained"]}
    fastest = min(step[name]["median ms"] for name in LIBRARIES)
    values = [
        step["tsslbp"]["times ReLU"],
        trained["training step"],
        fastest / step["tsslbp"]["median ms"],
        fastest / times["training step"],
        record["cifar10"][0]["times dense"],
    ]
    speeds = [
        ", ".join(f"{100 * row[f'{way} GB/s'] / row['copy GB/s']:.0f}" for row in record["neuron"])
        for way in ("forward", "backward")
    ]
    words = [*(f"{value:.2f}" for value in values), *speeds, f"{trained['evaluation']:.2f}"]
    words.append(f"{record['first step'][0]['s']:.1f}")
    return dict(zip(TARGETS, words, strict=True))


def part_rows(names: Iterable[str]) -> list[str]:
    """Return rows of a table of the milliseconds of each part of a step."""
    columns = [bench(name)["parts"] for name in names]
    rows = []
    for cells in zip(*columns, strict=True):
        times = " | ".join(f"{one['ms']:.1f}" for one in cells)
        rows.append(f"| {cells[0]['part']} | {times} |")
    return rows


def growth_rows(names: Mapping[str, str]) -> list[str]:
    """Return rows of a table of the time of a step by number of time steps, a row per record."""
    found = {name: bench(name)["growth"][0] for name in names}
    return [
        f"| {names[name]} | {' | '.join(f'{one:.1f}' for one in row['ms'])} |"
        for name, row in found.items()
    ]


def test_the_page_on_performance_says_what_the_records_say() -> None:
    page = (ROOT / "docs" / "performance.md").read_text()
    for rows in (speed_rows(CPUS), target_rows(CPUS), part_rows(EPYC), growth_rows(GROWTH)):
        assert "\n".join(rows) in page
    absolute = [f"{bench(name)['step'][0]['median ms']:.1f}" for name in CPUS]
    assert f"| ReLU network, ms | {' | '.join(absolute)} |" in page


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


@pytest.mark.parametrize("name", CPUS)
def test_the_choice_of_event_driven_convolutions_is_good_for_every_shape(name: str) -> None:
    """At every fraction of nonzero inputs, it costs at most a tenth of the faster product."""
    limit = events.CROSSOVERS["AVX2" if "avx2" in name else "AVX512"][4]
    rows = json.loads((RESULTS / "bench" / f"{name}.json").read_text())["events"]
    convolutions = [row for row in rows if "convolution" in row["layer"]]
    assert len({row["layer"] for row in convolutions}) == 3
    for row in convolutions:
        chosen = row["times dense"] if row["not zero"] <= limit else 1.0
        assert chosen <= 1.1 * min(row["times dense"], 1.0), row


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
