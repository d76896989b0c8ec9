"""The page itself: the template filled with the results of the records."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsslbp import wording
from tsslbp.figures import study as study_figures
from tsslbp.report import published, tables
from tsslbp.report.blocks import Lines, Table
from tsslbp.report.render import block_to_markdown
from tsslbp.run.results import MEASURES, label
from tsslbp.training.drops import AFTER, BEFORE, MINIMUM, SIGMAS

from . import accuracy, compute, constants, drops, search
from .accuracy import Missing
from .drawing import COLUMN, Drawing, files
from .records import Pair, Records, facts

FIGURES = "study_figures"  # folder next to the page
TEMPLATE = Path(__file__).parent / "page.md"


@dataclass(frozen=True)
class Page:
    """The page, and the files of its figures by name."""

    markdown: str
    figures: dict[str, bytes]


def compose(records: Records) -> Page:
    """Make the page; the same records give the same bytes."""
    import jinja2

    drawings = _drawings(records)
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True
    )
    environment.filters |= {"table": _markdown, "code": _code, "figure": _figure}
    environment.filters |= {"joined": wording.joined, "duration": wording.duration}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    text = template.render(**_values(records, drawings))
    return Page(re.sub(r"\n{3,}", "\n\n", text), files(drawings))


def _values(records: Records, drawings: dict[str, Drawing]) -> dict[str, Any]:
    """Return the values in the template, by name."""
    return {
        "facts": facts(),
        "figures": drawings,
        "measures": MEASURES,
        **_claims(records),
        **_accuracies(records),
        **_search(records),
        **_drops(records),
        **_constants(records),
        **_compute(records),
        "missing": _missing(records),
    }


def _claims(records: Records) -> dict[str, Any]:
    found = accuracy.parts(records)
    by_claim = {number: [one for one in found if one.claim == number] for number in (0, 1, 2)}
    return {
        "verdicts": {number: accuracy.verdict(by_claim[number]) for number in (1, 2)},
        "counts": {number: accuracy.counted(by_claim[number]) for number in (1, 2)},
        "parts": {number: accuracy.parts_table(some) for number, some in by_claim.items()},
        "unseen": {number: accuracy.unseen(some) for number, some in by_claim.items()},
        "against": [
            one.judgement.claim for one in by_claim[1] if one.judgement.verdict == "not supported"
        ],
        "rivals": accuracy.rivals_table(records),
    }


def _accuracies(records: Records) -> dict[str, Any]:
    full = [one for one in compute.full_runs(records) if one.experiment.protocol == "published"]
    needed = accuracy.epochs_needed(full)
    return {
        "reached": accuracy.summary_lines(records),
        "tables": {name: accuracy.table(records, name) for name in published.tables()},
        "meaning": tables.MEANING,
        "first_epochs": accuracy.first_epochs(records),
        "remarks": {name: accuracy.remarks(name) for name in published.tables()},
        "small": accuracy.small(records),
        "small_table": accuracy.small_table(records),
        "small_missing": accuracy.small_missing(records),
        "conditions": accuracy.conditions,
        "selection": accuracy.selection(records),
        "samples": _samples(records),
        "cnn1_days": accuracy.cnn1_days(records),
        "full_runs": len(full),
        "needed": sorted(needed),
        "missing_of": _missing_of(records),
    }


def _search(records: Records) -> dict[str, Any]:
    trials = records.search
    return {
        "trials": trials,
        "images": search.images(trials) if trials else facts()["search"]["train_images"],
        "answers": search.answers(trials) if trials else [],
        "trials_table": search.trials_table(trials),
        "values_table": search.values_table(trials),
    }


def _drops(records: Records) -> dict[str, Any]:
    runs, found = drops.every_run(records), drops.in_all(records)
    watched = [one for one in runs if drops.watched(one)]
    unmoved = [
        (one, drop) for _, one, drop in found if drop.firing_rate and not drops.measured(drop)
    ]
    silent = [(one, drop) for one, drop in unmoved if drops.silence(one, drop) is not None]
    full = {run.folder for run in (*compute.full_runs(records), *records.search)}
    return {
        "drops": found,
        "drops_table": drops.table(found),
        "rates_table": drops.by_rate(watched),
        "watched": len(watched),
        "unwatched": [one.folder.name for one in runs if not drops.watched(one)],
        "dropping": len({one.folder for _, one, _ in found}),
        "full_watched": sum(one.folder in full for one in watched),
        "full_dropping": len({one.folder for _, one, _ in found if one.folder in full}),
        "unmoved": len(unmoved),
        "silent": len(silent),
        "by_step": [
            whole for one, drop in silent if (whole := drops.wholly_silent(one, drop)) is not None
        ],
        "back": sorted(drop.recovery - drop.step for _, _, drop in found if drop.recovery),
        "pairs": [_pair(one) for one in records.pairs],
        "thresholds": drops,
        "detector": {"before": BEFORE, "after": AFTER, "minimum": MINIMUM, "sigmas": SIGMAS},
    }


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "pair": pair,
        "label": label(pair.control.experiment),
        "changed": drops.changed(pair),
        "table": drops.pair_table(pair),
        "conclusion": drops.conclusion(pair),
        "loss": drops.silent_loss(pair.control),
        "silent": drops.silent_steps(pair.control, pair.step),
        "figure": f"drop-{pair.name}",
    }


def _constants(records: Records) -> dict[str, Any]:
    found = constants.effects(records)
    return {
        "effects": found,
        "constants_table": constants.table(found),
        "decided": [one for one in found if one.verdict in constants.DECIDED],
        "identical": [one for one in found if one.verdict == "identical"],
        "constants_missing": [
            one for one in constants.missing(records) if one.what == constants.WHAT
        ],
    }


def _compute(records: Records) -> dict[str, Any]:
    totals = compute.totals(records)
    return {
        "gpu_table": compute.gpu_table(records),
        "gpu_runs": compute.on_gpu(records),
        "cnn1_gpu": compute.cnn1_on_gpu(records),
        "group_table": compute.group_table(records),
        "origins": compute.origins(records),
        "gpu_hours": compute.hours(compute.gpu_hours()),
        "totals": [(name, count, compute.hours(seconds / 3600)) for name, count, seconds in totals],
        "runs": sum(count for _, count, _ in totals),
        "cpu_hours": compute.hours(sum(seconds for *_, seconds in totals) / 3600),
    }


def _samples(records: Records) -> list[str]:
    """Return the runs on samples of N-MNIST, in words."""
    found = [one for one in records.evidence.results if one.experiment.data == "nmnist-sample"]
    return [
        f"`{one.folder.name}`: {wording.percent(one.accuracy['last'])} at the last epoch"
        for one in found
    ]


def _missing(records: Records) -> list[Missing]:
    """Return all missing runs, in the order of the page."""
    found = accuracy.missing(records)
    wanted = facts()["search"]["trials"]
    if (there := len(records.search)) < wanted:
        why = f"{there} of {wanted} trials have been run"
        found.append(Missing("The search of Section 4.3", why, (search.command(),)))
    if not records.pairs:
        found.append(drops.missing())
    found += [one for one in (accuracy.small_missing(records),) if one]
    return [*found, *constants.missing(records), *accuracy.steps_missing(records)]


def _missing_of(records: Records) -> dict[str, list[Missing]]:
    """Return the missing runs of each published table."""
    found = accuracy.missing(records)
    return {
        name: [
            one
            for one in found
            if any(
                f"`{recipe}`" in one.what for row in published.find(name) for recipe in row.recipes
            )
        ]
        for name in published.tables()
    }


def _drawings(records: Records) -> dict[str, Drawing]:
    """Return the figures for which there are records."""
    found: dict[str, Drawing] = {}
    if lines := accuracy.lines(records):
        found["accuracies"] = lambda: study_figures.intervals(
            lines, "minus published mean (points)", zero=True, width=COLUMN
        )
    found |= search.figures(records.search)
    for pair in records.pairs:
        if windows := drops.windows(pair):
            found[f"drop-{pair.name}"] = _pair_drawing(windows)
    if effects := constants.lines(constants.effects(records)):
        found["constants"] = lambda: study_figures.intervals(
            effects, "change of test accuracy (points)", zero=True, width=COLUMN
        )
    return found


def _pair_drawing(windows: dict[str, Any]) -> Drawing:
    from tsslbp.figures.run import training_panels

    return lambda: training_panels(windows, width=COLUMN)


def _markdown(table: Table) -> str:
    """Return a table of blocks in Markdown, without its caption."""
    text = block_to_markdown(table, FIGURES)
    return text[text.index("|") :].rstrip() if table.rows else ""


def _code(commands: Sequence[str]) -> str:
    return block_to_markdown(Lines("code", tuple(commands)), FIGURES).rstrip()


def _figure(title: str, name: str) -> str:
    """Return a figure of the page in Markdown, with a link to its PDF."""
    place = f"{FIGURES}/{name}"
    return f"![{title}]({place}.svg)\n\n{title} [PDF]({place}.pdf)"
