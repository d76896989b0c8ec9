"""The page of a report, section by section."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from .. import stats
from .._version import __version__
from ..run.results import MEASURES, Group, Result
from ..training import drops
from ..wording import count, duration, joined
from . import figures, published, rule_study, tables
from .blocks import Block, Lines, Page, Section
from .evidence import Evidence
from .verdicts import Judgement

SHOWN_CLAIMS = 8  # of a verdict, in the summary
SHOWN_RESULTS = 6  # in the summary
TITLE = "TSSL-BP: "  # how a report begins
SHOWN_LINES = 40  # of a list of problems or commands


def compose(evidence: Evidence, command: str) -> Page:
    """Compose a report.

    Args:
        evidence: its runs, groups and comparisons.
        command: that makes the same report again.
    """
    return Page(
        title=f"{TITLE}{count(len(evidence.results), 'run')}",
        lead=_lead(evidence),
        tallies=_tallies(evidence),
        results=_best(evidence.others),
        verdicts=_summary(evidence.judgements),
        made_by=f"Made by tsslbp {__version__} from the records in the run folders.",
        sections=[one for one in _sections(evidence, command) if one.blocks],
    )


def _sections(evidence: Evidence, command: str) -> Iterator[Section]:
    results, others = evidence.results, evidence.others
    for number, study in enumerate(evidence.studies, 1):
        yield rule_study.section(number, study, results)
    yield Section("groups", "Results", tables.other_tables(others, _measure(others)))
    yield Section("published", "Comparison with published results", _published(others))
    yield Section("comparisons", "Comparisons over the same seeds", _comparisons(evidence))
    yield Section("costs", "What the networks cost", tables.cost_tables(evidence.finished))
    yield from _figures(evidence)
    if any(one.seen for one in evidence.judgements):
        found = tables.claims_tables(evidence.judgements)
        yield Section("claims", "The paper's claims and verdicts", found)
    yield Section("drops", "Unstable runs", _drops(evidence))
    yield Section("compute", "Compute", [tables.compute_table(evidence.groups)])
    yield Section("runs", "Runs", [tables.run_table(evidence.groups, evidence.names)])
    notes = tables.notes(results)
    yield Section("caveats", "Caveats of the data", [Lines("list", tuple(notes))] if notes else [])
    yield Section("problems", "Skipped folders", _lines(evidence.problems))
    yield Section("environment", "Environment", [tables.environment_table(results)])
    yield Section("repeat", "How to repeat", _repeat(results, command))


def _published(groups: Sequence[Group]) -> list[Block]:
    found = tables.published_tables(groups, published.tables())
    lines = tuple(
        f"{row.title}, {row.network}: {text}"
        for row in published.rows()
        if any(table.caption.startswith(row.title.partition(",")[0] + ":") for table in found)
        for text in (*row.caveats, *(f"with the same network, {other}" for other in row.others))
    )
    if not found:
        return []
    return [*found, *([Lines("list", lines)] if lines else [])]


def _comparisons(evidence: Evidence) -> list[Block]:
    if not evidence.comparisons:
        return []
    left_out = f"{evidence.left_out:,} more pairs differ in more settings and are not shown."
    table = tables.comparison_table(evidence.comparisons)
    return [table, Lines("paragraph", (left_out,))] if evidence.left_out else [table]


def _figures(evidence: Evidence) -> Iterator[Section]:
    """A section of figures for each data set of the runs that belong to no study of rules."""
    in_groups = {run.folder for group in evidence.others for run in group.results}
    shown = {*in_groups, *(run.folder for run in evidence.unfinished)}
    sets = dict.fromkeys(run.experiment.data for run in evidence.results if run.folder in shown)
    for number, data in enumerate(sets, 1):
        groups = [one for one in evidence.others if one.experiment.data == data]
        unfinished = [one for one in evidence.unfinished if one.experiment.data == data]
        drawn = figures.draw(f"data-{number}", groups, unfinished, _measure(groups))
        yield Section(f"figures-{number}", f"Figures: {data}", drawn)


def _drops(evidence: Evidence) -> list[Block]:
    lines = [
        f"{evidence.names[run.folder]}, epoch {record['epoch']}: {_described(drop)}"
        for run in evidence.results
        for record in run.epochs
        for drop in record.get("drops", ())
    ]
    return _lines(lines)


def _described(drop: Mapping[str, Any]) -> str:
    try:
        return drops.describe(drops.Drop.from_table(dict(drop)))
    except (AttributeError, KeyError, TypeError, ValueError):  # of another version
        return f"a drop of the training accuracy at step {drop['step']}"


def _repeat(results: Sequence[Result], command: str) -> list[Block]:
    commands = dict.fromkeys(one.environment.get("command") for one in results)
    text = (
        "The config.toml of each run contains all its settings; tsslbp train FOLDER/config.toml "
        "repeats the run. These commands made the runs:"
    )
    return [
        Lines("paragraph", (text,)),
        *_lines([str(one) for one in commands if one], "code"),
        Lines("paragraph", ("This command made this report:",)),
        Lines("code", (command,)),
    ]


def _lead(evidence: Evidence) -> str:
    results, finished = evidence.results, sum(len(one.results) for one in evidence.finished)
    data = joined(list(dict.fromkeys(one.experiment.data for one in results)))
    machines = joined(list(dict.fromkeys(str(one.environment.get("cpu")) for one in results)))
    total = duration(sum(one.seconds for one in results))
    text = (
        f"{count(finished, 'finished run')} of {count(len(evidence.finished), 'setting')} on "
        f"{data}, trained in {total} on {machines}."
    )
    if unfinished := len(results) - finished - evidence.tuning:
        text += f" Excluded from all statistics: {count(unfinished, 'unfinished run')}."
    if evidence.tuning:
        text += f" {count(evidence.tuning, 'further run')} served only to choose a learning rate."
    return text


def _tallies(evidence: Evidence) -> list[tuple[str, str]]:
    results = evidence.results
    return [
        ("runs", f"{len(results):,}"),
        ("settings", f"{len(evidence.finished):,}"),
        ("seeds", f"{len({one.experiment.seed for one in results}):,}"),
        ("epochs", f"{sum(len(one.epochs) for one in results):,}"),
        ("training time", duration(sum(one.seconds for one in results))),
    ]


def _summary(judgements: Sequence[Judgement]) -> list[tuple[str, str, str]]:
    """For the claims with matching runs: the number with each verdict, and their texts."""
    lines = []
    for verdict in tables.VERDICTS:
        if seen := [one.claim for one in judgements if one.verdict == verdict and one.seen]:
            more = ["..."] if len(seen) > SHOWN_CLAIMS else []
            claims = "; ".join([*seen[:SHOWN_CLAIMS], *more])
            lines.append(
                (verdict, count(len(seen), "claim of the paper", "claims of the paper"), claims)
            )
    return lines


def _best(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """The best results at a glance: settings and accuracies."""
    measure = _measure(groups)
    ordered = sorted(groups, key=lambda one: (one.experiment.data, -one.accuracies(measure).mean()))
    shown = []
    for group in ordered[:SHOWN_RESULTS]:
        reached = tables.reached(stats.summary(100 * group.accuracies(measure)))
        first, _, interval = reached.partition("\n")
        ends = f", 95 % interval {interval}" if interval else ""
        runs = count(len(group.results), "run")
        shown.append((group.label, f"{first} % ({runs}{ends}; {MEASURES[measure]})"))
    return shown


def _measure(groups: Sequence[Group]) -> str:
    """The measure for sorting runs: that of their common protocol, else the last epoch."""
    protocols = {one.experiment.protocol for one in groups}
    if len(protocols) == 1:
        return "best-validation" if protocols == {"validated"} else "best-test"
    return "last"


def _lines(lines: Sequence[str], kind: Literal["list", "code"] = "list") -> list[Block]:
    if not lines:
        return []
    blocks: list[Block] = [Lines(kind, tuple(lines[:SHOWN_LINES]))]
    if len(lines) > SHOWN_LINES:
        blocks.append(Lines("paragraph", (f"And {len(lines) - SHOWN_LINES:,} more.",)))
    return blocks
