"""Tests of docs/study.md: it agrees with the records, claims no more, and its commands work."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

import tsslbp.data
from study import accuracy, compute, constants, drawing, drops, page, records, repeat, search
from study.accuracy import Part
from study.records import Records, facts
from tsslbp import cli
from tsslbp.errors import InvalidInput, RunError
from tsslbp.experiment import Experiment, load_recipe
from tsslbp.report.verdicts import Judgement
from tsslbp.run import Run
from tsslbp.run.results import Result
from tsslbp.training.drops import Change, Drop

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def real() -> Records:
    return records.read(ROOT / "results")


@pytest.fixture(scope="module")
def composed(real: Records) -> page.Page:
    return page.compose(real)


def drop(step: int, epoch: int, **changes: object) -> Drop:
    """Return a drop that two steps with a silent output cause, in a run with the revised target."""
    same = Change(20.0, 20.0)
    one = Drop(
        step,
        epoch,
        accuracy=Change(0.9, 0.74),
        loss=Change(0.05, 0.0936),
        gradient_norm=same,
        preceding_norm=same,
        firing_rate={"output": Change(0.04, 0.04)},
        warm_up={"output": Change(0.9, 0.91)},
        recovery=step + 2,
    )
    return replace(one, **changes)


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, make_run: Callable, recipe: Callable
) -> Records:
    """Made-up records of all that a CPU can run: tables, search, constants and a pair."""
    root = tmp_path_factory.mktemp("results")
    (root / "bench").mkdir()
    (root / "bench" / "cpu.json").write_text('{"cifar10": [{"median s": 5.0}]}')
    for seed in range(5):
        for name, best in (("mnist", 0.994), ("mnist-published", 0.995)):
            make_run(root / f"{name}-seed{seed}", recipe(name, seed), best + seed / 1e5)
        held_out = recipe("mnist", seed, protocol="validated")
        make_run(root / f"mnist-validated-seed{seed}", held_out, 0.993 + seed / 1e5)
    small = recipe("cifar10-cnn1", data="cifar10-reencoded", network="16C3-P2-64", epochs=5)
    make_run(root / "cifar10-small-seed0", replace(small, dropout=0.0), 0.7)
    _make_search(root / "search", make_run, recipe)
    _make_constants(root / "findings" / "constants-mnist", make_run, recipe)
    _make_pair(root / "drops" / "one", make_run, recipe)
    return records.read(root)


@pytest.fixture(scope="module")
def made(whole: Records) -> page.Page:
    return page.compose(whole)


def _make_search(folder: Path, make_run: Callable, recipe: Callable) -> None:
    trials = [(steps, rate) for steps in (5, 10, 20) for rate in (0.0001, 0.001, 0.005, 0.01)]
    for number, (steps, rate) in enumerate(trials):
        one = recipe("mnist", time_steps=steps, learning_rate=rate, epochs=50, train_images=10_000)
        found = [asdict(drop(300, 12))] if number == 3 else []
        best = 0.97 + steps / 1000 - abs(np.log10(rate) + 3) / 100
        make_run(folder / f"trial-{number:04}", one, best, drops=found)


def _make_constants(folder: Path, make_run: Callable, recipe: Callable) -> None:
    budget = {"protocol": "validated", "epochs": 10, "train_images": 10_000}
    rule = load_recipe("mnist").rule
    for seed in range(5):
        noise = seed / 1000
        for name, changes, best in (
            ("revised", {}, 0.95),
            ("width", {"rule": replace(rule, surrogate_width=0.4)}, 0.9 + seed / 1e4),
            ("steps", {"time_steps": 10}, 0.95 + seed / 1e5),
            ("two", {"time_steps": 10, "pool_scale": 1.0}, 0.5),
        ):
            one = recipe("mnist", seed, **budget, **changes)
            make_run(folder / name / f"validated-seed{seed}", one, best + noise)


def _make_pair(
    folder: Path, make_run: Callable, recipe: Callable, placebo_drops: bool = True
) -> None:
    base = recipe("mnist", epochs=3, train_images=10_000)
    found = {"drops": [asdict(drop(60, 3))]}
    branches = {
        records.CONTROL: (base, found),
        "change-1": (replace(base, betas=(0.9, 0.95)), found),
        "change-2": (replace(base, learning_rate=0.0001), {}),
        "placebo-1": (replace(base, weight_decay=0.0101), found if placebo_drops else {}),
    }
    for name, (one, extra) in branches.items():
        make_run(folder / name, one, 0.9, **extra)
        silent = 2 if extra else 0
        loss = np.full(78, 0.05)
        loss[60 : 60 + silent] = drops.silent_loss(Result.read(folder / name))
        arrays = {"loss": loss, "correct": np.full(78, 45), "images": np.full(78, 50)}
        Run.open(folder / name).save_steps(arrays)
    (folder / records.PAIR).write_text(
        'step = 60\nfrom_epoch = 2\nsuspect = "the optimiser"\ncommand = ""\n'
    )


def test_the_page_is_what_the_records_say(composed: page.Page) -> None:
    """The page and its figures are up to date: `make study` was run after the records changed."""
    assert composed.markdown == (DOCS / "study.md").read_text()
    there = {one.name: one.read_bytes() for one in (DOCS / page.FIGURES).iterdir()}
    assert composed.figures.keys() == there.keys()
    # PDFs are not compared, since their numbers have more digits than processors agree on.
    drawn = [name for name in there if name.endswith(".svg")]
    assert [name for name in drawn if there[name] != composed.figures[name]] == []


def test_the_readme_says_what_the_records_say(real: Records) -> None:
    text = (ROOT / "README.md").read_text()
    assert accuracy.readme(real, text) == text


def test_a_row_of_the_readme_has_three_seeds_or_says_one_run(
    tmp_path: Path, make_run: Callable, recipe: Callable
) -> None:
    text = f"# Title\n\n{accuracy.HEADER} more |\n|---|\n| old |\n\nEnd"
    said = []
    for seed in range(3):
        make_run(tmp_path / f"mnist-{seed}", recipe("mnist", seed), 0.99 + seed / 1000)
        said.append(accuracy.readme(records.read(tmp_path), text).split("\n")[4:-2])
    one, two, three = said
    assert "99.00 (one run, `mnist`: the study's settings) |" in one[0] and len(one) == 1
    assert two == []
    assert "best test epoch 99.10 ± 0.10 (3 runs, `mnist`" in three[0]
    assert "old" not in str(said)


def test_a_row_of_the_readme_has_the_numbers_of_its_own_settings(real: Records) -> None:
    """A published number stands beside the runs with its settings, and beside no others."""
    rows = (ROOT / "README.md").read_text().split(accuracy.HEADER)[1].split("\n\n")[0].splitlines()
    mnist, fashion = "15C5-P2-40C5-P2-300 | 5", "400-400 | 5"
    for recipe, cells in (
        ("mnist-published", f"{mnist} | 99.50 ± 0.02 (5) | - |"),
        ("mnist", f"{mnist} | - | 99.40 ± 0.04 (5) |"),
        ("fashion-mnist-mlp-published", f"{fashion} | 89.75 ± 0.03 (5) | - |"),
        ("fashion-mnist-mlp", f"{fashion} | - | - |"),
    ):
        (row,) = [one for one in rows if f"`{recipe}`" in one]
        assert cells in row


@pytest.mark.parametrize("kind", ["composed", "made"])
def test_no_text_becomes_a_row_of_a_table(kind: str, request: pytest.FixtureRequest) -> None:
    """A line that directly follows a table belongs to it in Markdown, so an empty one must."""
    lines = request.getfixturevalue(kind).markdown.splitlines()
    after = [two for one, two in itertools.pairwise(lines) if one.startswith("|")]
    assert after
    assert [one for one in after if one and not one.startswith("|")] == []


def test_links_within_the_page_have_a_heading(composed: page.Page) -> None:
    headings = re.findall(r"^#+ (.*)$", composed.markdown, re.M)
    anchors = {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}
    links = re.findall(r"\]\(#(.*?)\)", composed.markdown)
    assert set(links) <= anchors


def commands(markdown: str) -> list[str]:
    """Return the page's commands, with each loop unrolled once."""
    fences = re.findall(r"^```\n(.*?)^```$", markdown, re.S | re.M)
    lines = [line for text in fences for line in text.splitlines()]
    loop = re.compile(r"for seed in (\d).*?; do (.*); done")
    return [loop.sub(lambda found: found[2].replace("$seed", found[1]), line) for line in lines]


def test_every_command_of_the_page_is_one_of_the_program(
    composed: page.Page, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
) -> None:
    """Each command gets as far as loading its data, or fails because there is no GPU."""

    def stop(name: str, *_: object) -> None:
        raise InvalidInput("as far as the data")

    monkeypatch.setattr(tsslbp.data, "load", stop)
    monkeypatch.chdir(tmp_path)
    found = commands(composed.markdown)
    assert found
    for command in found:
        if command.startswith("PYTHONPATH"):
            assert repeat.parser().parse_args(shlex.split(command)[4:])
            continue
        program, *arguments = shlex.split(command)
        assert program == "tsslbp"
        assert cli.main(arguments) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "as far as the data" in said or "no device 'cuda'" in said, (command, said)


def test_what_was_run_is_not_missing(made: page.Page) -> None:
    markdown = made.markdown
    missing = markdown.split("## What is missing")[1]
    for name in ("MNIST, `mnist`", "MNIST, `mnist-published`", "The search", "A sudden drop"):
        assert f"**{name}" not in missing
    assert "surrogate_width=0.4" not in missing and "surrogate_width=0.1" in missing
    assert "time_steps=20" in missing and "time_steps=10" not in missing
    assert "cifar10-cnn1 --device cuda" in missing
    assert "`mnist`: 0.10 ± 0.00" not in markdown  # this gain is of held-out runs only
    assert "`mnist, protocol = 'validated'`: 0.00 ± 0.00 points" in markdown


def test_a_small_cifar10_stands_apart_from_the_published_networks(made: page.Page) -> None:
    section = made.markdown.split("### Table 2: CIFAR-10")[1].split("### Fashion-MNIST")[0]
    table, small = section.split("**CIFAR-10 on a CPU**")
    assert "not run: needs a GPU" in table and "16C3-P2-64" not in table
    assert "network = '16C3-P2-64'" in small and "| 1 | 69.90 |" in small


def test_what_was_not_run_is_not_claimed(
    tmp_path: Path, make_run: Callable, recipe: Callable
) -> None:
    """A single run yields no claim, search, drop or effect, but the page lists every command."""
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "cpu.json").write_text('{"cifar10": [{"median s": 5.0}]}')
    make_run(tmp_path / "fashion-mnist-mlp-seed0", recipe("fashion-mnist-mlp"), 0.9)
    made = page.compose(records.read(tmp_path))
    assert set(made.figures) == {"accuracies.svg", "accuracies.pdf"}
    assert "without matching runs" in made.markdown and "not run yet." in made.markdown
    assert "**supported**" not in made.markdown and "**not supported**" not in made.markdown
    assert "No drop was found." in made.markdown
    assert "0 of the 0 changes that were run" in made.markdown
    values = sum(len(one["values"]) for one in facts()["constants"])
    assert made.markdown.count("--out runs/findings/constants-mnist/") == values + 1 + 2


def test_the_search_is_drawn_and_answers(whole: Records, made: page.Page) -> None:
    for name in ("search-parallel", "search-rates", "search-training"):
        assert f"{page.FIGURES}/{name}.svg" in made.markdown
        assert made.figures[f"{name}.pdf"].startswith(b"%PDF")
    best, window, epochs, rates = search.answers(whole.search)
    assert "T 20, rate 0.001, 50 ep., 99.00 % at the best test epoch, 10,000 training" in best
    assert "The best of 8 trials with more than 5 steps differs by +1.50 points" in window
    assert "from the best of 4 with 5." in window
    assert "after 3 epochs or fewer" in epochs or "epochs or fewer, all after" in epochs
    assert "of the best trial: 0.001. One run" in rates
    values = search.values_table(whole.search).rows
    assert ("20", "4", "99.00", "98.33") in values
    assert "12 of 12 trials" in made.markdown


def test_a_part_of_the_search_is_no_search(whole: Records) -> None:
    made = page.compose(replace(whole, search=whole.search[:5]))
    missing = made.markdown.split("## What is missing")[1]
    assert "**The search of Section 4.3**: 5 of 12 trials have been run." in missing
    assert "5 of 12 trials have ended. Whether a longer window helps" in made.markdown
    assert "Does a longer window help?" not in made.markdown


def test_trials_with_the_same_settings_are_told_apart(whole: Records) -> None:
    one = whole.search[0]
    again = replace(one, experiment=replace(one.experiment, seed=1))
    names = [search.name(trial, [*whole.search, again]) for trial in (one, again, whole.search[1])]
    assert names[0].endswith(", seed 0") and names[1].endswith(", seed 1")
    assert "seed" not in names[2]


def test_a_search_on_other_images_is_refused(whole: Records) -> None:
    one = whole.search[0]
    other = replace(one, experiment=replace(one.experiment, train_images=None))
    with pytest.raises(RunError, match=r"have train_images = .+, expected 10000: make them"):
        search.images([one, other])


def test_real_trials_are_drawn() -> None:
    """The sweep on digits, whose trials have the form of the search's, can be drawn."""
    folder = ROOT / "results" / "digits-study" / "sweep"
    trials = [Result.read(one) for one in sorted(folder.glob("trial-*"))]
    made = drawing.files(search.figures([one for one in trials if one.finished]))
    assert len(made) == 6
    assert made["search-training.svg"].count(b"<svg") == 1


def test_figures_have_the_same_bytes_each_time(whole: Records, made: page.Page) -> None:
    again = drawing.files(search.figures(whole.search))
    assert again == {name: made.figures[name] for name in again}
    assert b'width="252pt"' in again["search-rates.svg"]  # 3.5 inches


def test_claims_are_decided_by_their_parts(whole: Records) -> None:
    def part(verdict: str, seen: bool = True) -> Part:
        return Part(1, Judgement("a", verdict, "because", seen=seen))  # type: ignore[arg-type]

    yes, no, open_ = part("supported"), part("not supported"), part("undecided", seen=False)
    assert accuracy.verdict([yes, yes]) == "supported"
    assert accuracy.verdict([yes, open_]) == "undecided"
    assert accuracy.verdict([yes, no, open_]) == "not supported"
    assert accuracy.counted([open_]) == "1 part without matching runs"
    assert accuracy.counted([yes, no, open_]).endswith("0 undecided; 1 part without matching runs")
    found = accuracy.parts(whole)
    by_text = {one.judgement.claim: one for one in found}
    assert by_text["MNIST: 99.50 % with the published settings"].claim == 1
    assert by_text["MNIST: 99.50 % with the published settings"].judgement.verdict == "supported"
    explained = (
        "MNIST: the published settings explain why the study's accuracy is below the paper's"
    )
    assert by_text[explained].claim == 0
    steps = [one for one in found if one.claim == 2 and one.judgement.seen]
    assert [one.judgement.verdict for one in steps] == ["supported"]


def test_constants_are_those_that_change_alone(whole: Records) -> None:
    (effect,) = constants.effects(whole)
    assert effect.constant["key"] == "rule.surrogate_width" and effect.value == 0.4
    assert effect.comparison.verdict == "lower"
    (line,) = constants.lines([effect])
    assert line.filled and line.mean == pytest.approx(-4.98)
    assert line.name == "surrogate_width 0.4, MNIST"
    assert ("0.1", "", "not run", "0", "", "", "") in constants.table([effect]).rows


def test_constants_whose_runs_are_incomplete_or_diverged_or_without_effect(
    tmp_path: Path, make_run: Callable, recipe: Callable
) -> None:
    """A value is missing until five of its runs have ended; one that diverged has ended."""
    budget = {"protocol": "validated", "epochs": 10, "train_images": 10_000}
    for name, changes, seeds, diverged in (
        ("revised", {}, 5, ()),
        ("one-seed", {"gradient_clip": 1000.0}, 1, ()),
        ("no-effect", {"weight_limit": 1000.0}, 5, ()),
        ("diverging", {"gradient_clip": 0.1}, 5, (3,)),
        ("diverged", {"weight_limit": 0.5}, 5, range(5)),
    ):
        for seed in range(seeds):
            folder = tmp_path / constants.FOLDER / name / f"validated-seed{seed}"
            one = recipe("mnist", seed, **budget, **changes)
            make_run(folder, one, 0.9 + seed / 1000, epochs=4 if seed in diverged else None)
            if seed in diverged:
                Run.open(folder).record_divergence("the loss became nan")
    found = records.read(tmp_path)
    table = constants.table(constants.effects(found))
    assert {
        ("1000", "undecided", "1"),
        ("1000", "identical", "5"),
        ("0.1", "diverged (1 of 5 runs)", "4"),
        ("0.5", "diverged (5 of 5 runs)", "0"),
    } <= {(row[0], row[2], row[3]) for row in table.rows if len(row) > 1}
    *_, missing = constants.missing(found)
    commands = "\n".join(missing.commands)
    assert "gradient_clip=1000" in commands and "weight_limit" not in commands
    assert "gradient_clip=0.1" not in commands and "revised" not in commands


def test_a_family_needs_one_reference(tmp_path: Path, make_run: Callable, recipe: Callable) -> None:
    folder = tmp_path / constants.FOLDER
    make_run(folder / "revised" / "seed0", recipe("mnist", epochs=10), 0.9, epochs=4)
    make_run(folder / "steps" / "seed0", recipe("mnist", time_steps=10, epochs=10), 0.9)
    assert records.read(tmp_path).families == []
    for epochs in (11, 12):
        make_run(folder / "revised" / f"seed-{epochs}", recipe("mnist", epochs=epochs), 0.9)
    with pytest.raises(RunError, match="revised have different settings: mnist, epochs = 11; mni"):
        records.read(tmp_path)


def test_runs_on_a_gpu_are_not_counted_as_compute_of_cpus(
    tmp_path: Path, make_run: Callable, recipe: Callable
) -> None:
    make_run(tmp_path / "mnist-seed0", recipe("mnist"), 0.99)
    extra = {"device_peak_memory": 10**9, "evaluation_seconds": 1.0}
    make_run(tmp_path / "mnist-seed1", recipe("mnist", 1, epochs=1), 0.99, **extra)
    found = records.read(tmp_path)
    assert sum(count for _, count, _ in compute.totals(found)) == 1
    assert compute.is_on_gpu(Result.read(tmp_path / "mnist-seed1"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"firing_rate": {"conv1": Change(0.2, 0.01)}}, ["conv1 becomes silent"]),
        ({"firing_rate": {"conv1": Change(0.3, 0.6)}}, ["conv1 saturates"]),
        ({"firing_rate": {"conv1": Change(0.6, 0.7)}}, []),
        ({"warm_up": {"conv2": Change(0.9, 0.8)}}, ["warm-up changes in conv2"]),
        ({"preceding_norm": Change(10.0, 50.0)}, ["a gradient 5 times as large just before"]),
    ],
)
def test_what_changed_at_a_drop(changes: dict, said: list[str]) -> None:
    assert drops.measured(drop(100, 2, **changes)) == said


def test_a_silent_output_is_told_from_other_drops(
    tmp_path: Path, make_run: Callable, recipe: Callable
) -> None:
    """A silent output's loss is half the squared target; only such a drop has a silent length."""
    make_run(tmp_path / "run", recipe("mnist"), 0.9)
    one = Result.read(tmp_path / "run")
    target = np.array([0.0, 3.0, 7.0, 11.0, 131.0 / 9]) / 27.0
    assert drops.silent_loss(one) == pytest.approx(0.5 * float((target**2).sum()), rel=1e-5)
    assert drops.silence(one, drop(100, 2)) == pytest.approx(2.0, rel=0.01)
    assert drops.silence(one, drop(100, 2, loss=Change(0.05, 0.055))) is None
    assert drops.silence(one, drop(100, 2, loss=Change(0.05, 0.04))) is None
    assert drops.silence(one, drop(100, 2, accuracy=Change(0.1, 0.06))) is None
    mute = Change(drops.silent_loss(one), 0.2)
    assert drops.silence(one, drop(100, 2, loss=mute)) is None


def test_single_steps_tell_whether_the_whole_output_was_silent(
    tmp_path: Path, make_run: Callable, recipe: Callable
) -> None:
    make_run(tmp_path / "run", recipe("mnist", epochs=4), 0.9)
    one = Result.read(tmp_path / "run")
    found = drop(60, 3)
    assert drops.wholly_silent(one, found) is None
    assert drops.suspects(one, found) == ["consistent with a silent output for 20 % of the images"]
    for during, expected in ((drops.silent_loss(one), True), (0.1, False)):
        loss = np.full(104, 0.05)
        loss[62] = during
        loss[90] = drops.silent_loss(one)  # another time
        Run.open(one.folder).save_steps({"loss": loss, "correct": loss, "images": loss})
        assert drops.wholly_silent(one, found) is expected


def test_a_pair_says_whether_the_drop_goes_away(
    whole: Records, tmp_path: Path, make_run: Callable, recipe: Callable
) -> None:
    (pair,) = whole.pairs
    said = drops.conclusion(pair)
    assert "With `learning_rate = 0.0001` the drop disappears, and no other occurs." in said
    assert "With `betas = [0.9, 0.95]` the drop still occurs." in said
    assert "With `weight_decay = 0.0101`, which cannot be its cause, it still occurs" in said
    control, *_ = drops.pair_table(pair).rows
    assert control[0] == "as recorded" and control[3] == "2"
    assert set(drops.windows(pair)) == {row[0] for row in drops.pair_table(pair).rows}
    folder = tmp_path / "drops" / "other"
    _make_pair(folder, make_run, recipe, placebo_drops=False)
    other = records.read_pair(folder)
    assert "any small perturbation prevents it" in drops.conclusion(other)
    without = replace(other, control=other.others[-1])
    assert "the pair is not conclusive" in drops.conclusion(without)


def test_a_drop_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Callable
) -> None:
    """Branches share their start, differ in one setting, and leave a record that can be read."""
    monkeypatch.setattr(
        repeat, "_run", lambda command: cli.main(command[3:]) and pytest.fail(str(command))
    )
    arguments = [
        *("two-steps", "--recipe", "digits", "--seed", "1", "--from-epoch", "1", "--epochs", "2"),
        *("--change", "betas=[0.9,0.95]", "--placebo", "weight_decay=0.0101"),
        *("--suspect", "the optimiser", "--out", str(tmp_path / "runs")),
    ]
    with pytest.raises(RunError, match="has no sudden drop after epoch 1"):
        repeat.main(arguments, tmp_path)
    monkeypatch.setattr(drops, "of", lambda one: [drop(30, 2)])
    repeat.main(arguments, tmp_path)
    pair = records.read_pair(tmp_path / records.DROPS / "two-steps")
    assert (pair.step, pair.from_epoch, pair.suspect) == (30, 1, "the optimiser")
    assert repeat.parser().parse_args(shlex.split(pair.command)[4:]).change == ["betas=[0.9,0.95]"]
    change, placebo = pair.others
    assert change.experiment == replace(pair.control.experiment, betas=(0.9, 0.95))
    assert placebo.experiment.weight_decay == 0.0101
    firsts = [one.epochs[0]["loss"] for one in (pair.control, *pair.others)]
    seconds = [one.epochs[1]["loss"] for one in (pair.control, *pair.others)]
    assert len(set(firsts)) == 1 and len(set(seconds)) == 3
    kept = {one.name for one in (pair.control.folder).iterdir()}
    assert kept == set(repeat.KEPT)


def test_epochs_needed(tmp_path: Path, make_run: Callable, recipe: Callable) -> None:
    one: Experiment = recipe("digits", epochs=20)
    make_run(tmp_path / "run", one, 0.9)
    # 0.9 (1 - e^-n) is within 0.001 of 0.9 from n = 7 on.
    assert accuracy.epochs_needed([Result.read(tmp_path / "run")]) == [7]
