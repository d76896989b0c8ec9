"""Accuracies compared with the published ones, and verdicts on the two claims of the paper."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tsslbp import stats, wording
from tsslbp.experiment import recipe_names
from tsslbp.figures.study import Line
from tsslbp.report import published, tables, verdicts
from tsslbp.report.blocks import Table
from tsslbp.report.published import Change, Claim, Row, Settings
from tsslbp.report.rule_study import StudyRecord
from tsslbp.report.verdicts import Judgement
from tsslbp.rules import TSSLBP
from tsslbp.run.comparison import Comparison
from tsslbp.run.results import MEASURES, Group, Result
from tsslbp.studies import compare
from tsslbp.studies.compare import RuleResult

from .records import Records, facts

NEAR = 0.001  # 0.1 points of accuracy
HEADER = "| data set | network | time steps |"  # of the README's table


@dataclass(frozen=True)
class Missing:
    """Missing runs: what they are, why they are missing, and commands that make them."""

    what: str
    why: str
    commands: Sequence[str]


@dataclass(frozen=True)
class Part:
    """A part of one of the paper's two claims, or (0) a question that the study left open."""

    claim: int
    judgement: Judgement


def parts(records: Records) -> list[Part]:
    """Return verdicts on all parts of the claims, by the report's code."""
    ours = [one for one in records.evidence.finished if isinstance(one.experiment.rule, TSSLBP)]
    claims = published.claims()
    judged = [
        Part(
            _number(next(one for one in claims if judgement.claim.startswith(one.text))), judgement
        )
        for judgement in verdicts.judge(claims, ours)
    ]
    return judged + [Part(1, one) for study in records.evidence.studies for one in _rivals(study)]


def verdict(found: Sequence[Part]) -> verdicts.Verdict:
    """Return a claim's verdict from those of its parts.

    It is not supported if any part is not, supported if all parts are, and undecided otherwise.
    """
    all_of_it = {one.judgement.verdict for one in found}
    if "not supported" in all_of_it:
        return "not supported"
    return "supported" if all_of_it == {"supported"} else "undecided"


def counted(found: Sequence[Part]) -> str:
    """Return the number of parts with each verdict, in words."""
    seen = [one.judgement for one in found if one.judgement.seen]
    lacking = wording.count(len(found) - len(seen), "part")
    if not seen:
        return f"{lacking} without matching runs"
    count = {one: sum(x.verdict == one for x in seen) for one in tables.VERDICTS}
    text = (
        f"of {wording.count(len(seen), 'tested part')}, {count['supported']} supported, "
        f"{count['not supported']} not supported, {count['undecided']} undecided"
    )
    return f"{text}; {lacking} without matching runs" if len(found) > len(seen) else text


def parts_table(found: Sequence[Part]) -> Table:
    """Return a table of the parts with matching runs, decided ones first."""
    judgements = [one.judgement for one in found if one.judgement.seen]
    order = sorted(judgements, key=lambda x: tables.VERDICTS.index(x.verdict))
    rows = [(x.claim, x.verdict, x.reason, wording.p_value(x.p)) for x in order]
    return Table("", ("part", "verdict", "reason", "p"), tuple(rows), text_columns=3)


def unseen(found: Sequence[Part]) -> list[str]:
    """Return the parts without matching runs."""
    return [one.judgement.claim for one in found if not one.judgement.seen]


def rivals_table(records: Records) -> Table:
    """Return a table of TSSL-BP and other learning rules under equal conditions."""
    rows: list[tuple[str, ...]] = []
    for study in records.evidence.studies:
        rows.append((conditions(study),))
        compared = {(one.first.rule, one.first.time_steps): one for one in _pairs(study)}
        for one in study.results:
            if one.results:
                rows.append(_rival_row(one, compared.get((one.rule, one.time_steps))))
    head = ("rule", "verdict", "T", "seeds", "test accuracy", "difference", "p")
    return Table("", head, tuple(rows), text_columns=2)


def conditions(study: StudyRecord) -> str:
    """Return a study's conditions in words.

    An example is ``"fashion-mnist, 400-400, kernel loss, 10,000 images, 10 epochs"``.
    """
    one = study.study.experiment
    images = f"{one.train_images:,}" if one.train_images else "all"
    return f"{one.data}, {one.network}, {one.loss} loss, {images} images, {one.epochs} epochs"


def table(records: Records, name: str) -> Table:
    """Return a published table with our runs, and a note for each recipe without any."""
    found = tables.published_table(records.evidence.others, name)
    rows: list[tuple[str, ...]] = []
    at = {f"{row.title}: {row.network}, T = {row.time_steps}": row for row in published.find(name)}
    present: Row | None = None
    for cells in (*found.rows, ("",)):
        if len(cells) == 1:
            rows += _absent(records, present) if present else []
            present = at.get(cells[0])
        if cells != ("",):
            rows.append(cells)
    return replace(found, caption="", rows=tuple(rows))


def remarks(name: str) -> list[str]:
    """Return caveats of the published numbers, and what others reached with the same networks."""
    return [
        f"{row.title}, {row.network}: {text.rstrip('.')}."
        for row in published.find(name)
        for text in (*row.caveats, *(f"with the same network, {other}" for other in row.others))
    ]


def first_epochs(records: Records) -> list[str]:
    """Return test accuracies after the first epochs, of the authors' code and of our runs."""
    found = []
    for recipe, theirs in facts()["first_epochs"].items():
        group = records.of_recipe(recipe, "published")
        if not group:
            continue
        count = len(theirs)
        curves = [[one["test_accuracy"] for one in run.epochs[:count]] for run in group.results]
        ours = [
            f"{100 * min(one):.2f} to {100 * max(one):.2f}" for one in zip(*curves, strict=True)
        ]
        said = wording.joined([f"{one:.2f}" for one in theirs])
        runs = wording.count(len(curves), "run")
        found.append(f"`{recipe}`: {said}; our {runs}: {wording.joined(ours)}")
    return found


def lines(records: Records) -> list[Line]:
    """Return best test epochs minus the published mean, as lines of a figure."""
    found = []
    for row in published.rows():
        groups = [one for recipe in row.recipes if (one := records.of_recipe(recipe, "published"))]
        if not groups:
            continue
        zero = row.published.mean
        for name, target in (("published", row.published), ("study", row.study)):
            if target:
                ends = stats.t_interval(target.mean, target.sd, target.runs) if target.sd else None
                title, mean = f"{row.title}, {name}", target.mean - zero
                found.append(Line(title, mean, _shifted(ends, zero), filled=False))
        for group in groups:
            values = 100 * group.accuracies("best-test")
            reached = stats.summary(values)
            ends, mean = reached.interval, reached.mean - zero
            found.append(Line(group.label, mean, _shifted(ends, zero), list(values - zero)))
    return found


def missing(records: Records) -> list[Missing]:
    """Return the missing runs of the tables, with their commands."""
    found = []
    for row in published.rows():
        for recipe in row.recipes:
            protocols = ["published", *["validated"] * (recipe in facts()["validated"])]
            for protocol in protocols:
                if one := _missing(records, row, recipe, protocol):
                    found.append(one)
    return found


def small(records: Records) -> list[StudyRecord]:
    """Return the comparisons of learning rules on CIFAR-10."""
    studies = records.evidence.studies
    return [one for one in studies if one.study.experiment.data.startswith("cifar10")]


def small_table(records: Records) -> Table | None:
    """Return a table of runs on all images of CIFAR-10 that belong to no comparison."""
    others = [one for one in records.evidence.others if one.experiment.data.startswith("cifar10")]
    groups = [one for one in others if one.experiment.train_images is None]
    found = tables.other_tables(groups, "last")
    return found[0] if found else None


def small_missing(records: Records) -> Missing | None:
    """Return the comparison of learning rules on CIFAR-10 for a CPU, if it is missing."""
    recipe = facts()["small"]
    if small(records):
        return None
    if recipe not in recipe_names():
        return Missing("CIFAR-10 on a CPU", f"there is no recipe `{recipe}` yet", ())
    rules = "TSSLBP, TSSLBP(warm_up=always), Surrogate, Surrogate(derivative=arctangent), SLAYER"
    command = f'tsslbp compare {recipe} --rules "{rules}" --seeds 3 --out runs/findings/{recipe}'
    return Missing("CIFAR-10 on a CPU", "it has not been run yet", (command,))


def steps_missing(records: Records) -> list[Missing]:
    """Return the comparison of learning rules in few steps on MNIST's network, if it is missing."""
    wanted = facts()["few_steps"]
    for study in records.evidence.studies:
        there = {one.time_steps for one in study.results if one.results}
        if study.study.experiment.data == "mnist" and there >= set(wanted["time_steps"]):
            return []
    steps = [str(one) for one in wanted["time_steps"]]
    what = f"Learning rules in {wording.joined(steps)} time steps with MNIST's network"
    return [Missing(what, "it has not been run yet", (wanted["command"],))]


def selection(records: Records) -> list[str]:
    """Return the bias of choosing the epoch on test images.

    There is a line for each recipe with held-out images.
    """
    found = []
    for groups in records.full.values():
        for one in groups:
            chosen, best = (one.accuracies(name) for name in ("best-validation", "best-test"))
            if len(chosen) == len(best):
                bias = tables.reached(stats.selection_bias(100 * best, 100 * chosen))
                text = bias.replace("\n", " points, 95 % interval ")
                found.append(f"`{one.label}`: {text} ({wording.count(len(best), 'run')})")
    return found


def epochs_needed(results: Sequence[Result]) -> list[int]:
    """Return the first epoch of each run with a test accuracy within `NEAR` of the run's best."""
    needed = []
    for one in results:
        accuracy = np.array([epoch["test_accuracy"] for epoch in one.epochs])
        near = np.flatnonzero(accuracy >= accuracy.max() - NEAR - 1e-9)
        needed.append(int(one.epochs[near[0]]["epoch"]))
    return needed


def summary_lines(records: Records) -> list[str]:
    """Return a sentence on the accuracies of each recipe with runs."""
    found = []
    for row in published.rows():
        for number, recipe in enumerate(row.recipes):
            if not (group := records.of_recipe(recipe, "published")):
                continue
            target = row.published if number == 0 else row.study
            ours = (
                f"{row.title} ({row.network}, `{recipe}`): {_words(group, 'best-test')} % at the "
                f"best test epoch ({_runs(group)})"
            )
            if target:
                beside = wording.mean_and_deviation(target.mean, target.sd)
                ours += f", {beside} % {'published' if number == 0 else 'in the study'}"
            found.append(f"{ours}; {_words(group, 'last')} % at the last epoch")
    return found


def readme(records: Records, text: str) -> str:
    """Return the README with the rows of its results table made from the records."""
    start = text.index(HEADER)
    end = text.index("\n\n", start)
    head, rule, *_ = text[start:end].split("\n")
    rows = [line for row in published.rows() for line in _readme_rows(records, row)]
    return text[:start] + "\n".join([head, rule, *rows]) + text[end:]


def cnn1_days(records: Records) -> float:
    """Return how many days CNN1 would train on the CPU of the benchmark's record."""
    record = json.loads((records.root / "bench" / "cpu.json").read_text(encoding="utf-8"))
    return float(record["cifar10"][0]["median s"]) * 1000 * 150 / 86_400


def _number(claim: Claim) -> int:
    if isinstance(claim, Settings):
        return 0
    return 2 if isinstance(claim, Change) and claim.key == "time_steps" else 1


def _pairs(study: StudyRecord) -> list[Comparison[RuleResult]]:
    return compare.against_first(study.results)


def _rivals(study: StudyRecord) -> Iterator[Judgement]:
    """Yield whether TSSL-BP is better than each other kind of rule, at the recipe's time steps."""
    said: dict[str, verdicts.Verdict] = {
        "higher": "not supported",
        "lower": "supported",
        "undecided": "undecided",
    }
    for pair in _pairs(study):
        rule, steps = pair.first.rule, pair.first.time_steps
        if rule.startswith("TSSLBP") or steps != study.study.experiment.time_steps:
            continue
        reason = "there are too few seeds"
        if difference := pair.difference:
            low, high = difference.interval
            words = wording.difference(-difference.mean, (-high, -low))
            reason = f"{words}; {wording.count(pair.seeds, 'seed')}, {MEASURES['best-validation']}"
        text = f"TSSL-BP is better than {rule}: {conditions(study)}, T = {steps}"
        yield Judgement(text, said[pair.verdict], reason, pair.p)


def _rival_row(one: RuleResult, pair: Comparison[RuleResult] | None) -> tuple[str, ...]:
    accuracy = tables.reached(stats.summary(100 * one.accuracies))
    steps, seeds = str(one.time_steps), str(len(one.results))
    if pair is None:
        return (one.rule, "", steps, seeds, accuracy, "", "")
    _, difference, p = tables.difference_cells(pair)
    return (one.rule, pair.verdict, steps, seeds, accuracy, difference, p)


def _absent(records: Records, row: Row) -> list[tuple[str, ...]]:
    """Return a line for each recipe of a row that has no runs."""
    needs = facts()["needs"].get(row.table)
    why = f"not run: needs {needs}" if needs else "not run yet"
    blank = (tables.NONE,) * (len(tables.HEAD) - 1)
    return [
        (f"ours: {recipe}\n{why}", "0", *blank)
        for recipe in row.recipes
        if recipe not in records.full
    ]


def _missing(records: Records, row: Row, recipe: str, protocol: str) -> Missing | None:
    group = records.of_recipe(recipe, protocol)
    there = group.seeds if group else ()
    seeds = [str(seed) for seed in range(facts()["seeds"]) if seed not in there]
    if not seeds:
        return None
    needs = facts()["needs"].get(row.table)
    held_out = protocol == "validated"
    folder = f"{recipe}-validated" if held_out else recipe
    device = " --device cuda" if needs else ""
    options = f"{' --protocol validated' if held_out else ''}{device}"
    train = f"tsslbp train {recipe}{options} --seed $seed --out runs/{folder}-seed$seed --resume"
    what = f"{row.title}, `{recipe}`{' with held-out images' if held_out else ''}"
    why = f"{len(there)} of {facts()['seeds']} seeds have been run"
    if needs:
        why += f"; the runs need {needs}"
    return Missing(what, why, (f"for seed in {' '.join(seeds)}; do {train}; done",))


def _shifted(interval: stats.Interval | None, zero: float) -> tuple[float, float] | None:
    return (interval.low - zero, interval.high - zero) if interval else None


def _words(group: Group, measure: str) -> str:
    summary = stats.summary(100 * group.accuracies(measure))
    return wording.mean_and_deviation(summary.mean, summary.sd)


def _runs(group: Group) -> str:
    count = len(group.results)
    return "one run" if count == 1 else wording.count(count, "run")


def _readme_rows(records: Records, row: Row) -> Iterator[str]:
    """Yield a row for each recipe with one run, or with three or more."""
    for number, recipe in enumerate(row.recipes):
        group = records.of_recipe(recipe, "published")
        if group is None or len(group.results) == 2:
            continue
        # The first recipe has the settings of the published number, the second the study's.
        reached = [
            f"{wording.mean_and_deviation(one.mean, one.sd)} ({one.runs})" if one and own else "-"
            for one, own in ((row.published, number == 0), (row.study, number == 1))
        ]
        settings = "the published settings" if number == 0 else "the study's settings"
        copy = "" if group.experiment.data == row.data else f", on {group.experiment.data}"
        ours = (
            f"last epoch {_words(group, 'last')}, best test epoch {_words(group, 'best-test')} "
            f"({_runs(group)}, `{recipe}`: {settings}{copy})"
        )
        data_set = re.sub(r",.*", "", row.title)
        cells = (data_set, row.network, str(row.time_steps), *reached, ours)
        yield f"| {' | '.join(cells)} |"
