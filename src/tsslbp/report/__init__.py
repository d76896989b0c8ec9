"""A report on runs, from the records in their folders alone: one HTML file, and Markdown beside it.

The HTML file fetches nothing. Accuracies are in percent on the test images; unfinished runs are
shown, but left out of all statistics.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .._version import __version__
from ..errors import InvalidInput, RunError
from ..run.results import Group, Result, group, read_all
from ..training import drops as instability
from ..wording import duration
from . import interactive, published, rules, tables
from .blocks import Block, Code, Figure, Lines, Page, Section, Text
from .rules import Found
from .verdicts import Judgement, compare, judge

SHOWN_CLAIMS = 8  # of a verdict, in the summary
TITLE = "TSSL-BP: "  # how a report begins
SHOWN_LINES = 40  # of a list of problems or commands


def write(paths: Sequence[Path], out: Path, against: Path | None = None) -> list[str]:
    """Report on all runs at or below `paths`.

    Args:
        paths: folders of runs, or folders of such folders.
        out: the HTML file; ``.md`` and the folder ``_figures`` of the same name lie beside it.
        against: folder of the runs that the others are compared with, and nothing else; without it
            every pair of settings is compared, and Holm's correction goes over all of them.

    Returns:
        A line for each folder that could not be read.

    Raises:
        InvalidInput: `out` is no ``.html`` file, the Markdown file beside it would replace one
            that is no report, no finished run is at or below `against`, or a package is missing.
        RunError: no run could be read, or the files cannot be written.
    """
    if out.suffix != ".html":
        raise InvalidInput(f"the report is an HTML file, such as report.html; got {out}")
    beside = out.with_suffix(".md")
    if beside.exists() and not beside.read_bytes().startswith(f"# {TITLE}".encode()):
        raise InvalidInput(f"{beside}, which is no report, would be replaced: give another name")
    check_packages()
    found, problems = read_all(paths)
    results, repeats = _once(found)
    problems += repeats
    if not results:
        reason = f": {problems[0]}" if problems else ""
        raise RunError(f"no run to report on{reason}")
    comparisons, unreadable = rules.find(paths)
    problems += unreadable
    page = compose(results, problems, paths, out, comparisons, against)
    folder = out.with_name(f"{out.stem}_figures")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(to_html(page), encoding="utf-8")
        out.with_suffix(".md").write_text(to_markdown(page, folder.name), encoding="utf-8")
        folder.mkdir(exist_ok=True)
        for figure in page.figures:
            (folder / f"{figure.name}.svg").write_bytes(_svg(figure))
    except OSError as error:
        raise RunError(f"cannot write the report {out}: {error.strerror or error}") from error
    return problems


def compose(
    results: Sequence[Result],
    problems: Sequence[str],
    paths: Sequence[Path],
    out: Path,
    comparisons: Sequence[Found] = (),
    against: Path | None = None,
) -> Page:
    """Put together what a report says.

    Args:
        results: of runs, each folder and each pair of settings and seed once.
        problems: a line for each folder that could not be read.
        paths, out: as `write` takes them.
        comparisons: of learning rules, whose runs are told in a section of their own. Runs that
            only chose a learning rate enter no other statistics than compute.
        against: as `write` takes it.
    """
    chosen, choosing, others = _apart(results, comparisons)
    finished = group(one for one in (*others, *chosen) if one.finished)
    judgements = judge(published.claims(), finished)
    return Page(
        title=f"{TITLE}{_count(len(results), 'run')}",
        lead=_lead(results, finished, len(choosing)),
        tallies=_tallies(results, finished),
        verdicts=_glance(judgements),
        made_by=f"Made by tsslbp {__version__} from the records in the runs' folders.",
        sections=[
            section
            for section in _sections(
                results, others, comparisons, judgements, problems, paths, out, against
            )
            if section.blocks
        ],
    )


def to_html(page: Page) -> str:
    """The page as one file, which fetches nothing."""
    graphs = any(figure.interactive for figure in page.figures)
    return _render(
        "page.html",
        page=page,
        plotly=interactive.library() if graphs else None,
        css=_text("page.css"),
        script=_text("page.js"),
        verdicts=(*tables.ORDER, "higher", "lower", "undecided"),
        images={
            figure.name: base64.b64encode(_svg(figure)).decode()
            for figure in page.figures
            if figure.file
        },
    )


def to_markdown(page: Page, folder: str) -> str:
    """The page in Markdown, with its figures in a folder of that name."""
    return _render("page.md", page=page, folder=quote(folder))


def _sections(
    results: Sequence[Result],
    others: Sequence[Result],
    comparisons: Sequence[Found],
    judgements: Sequence[Judgement],
    problems: Sequence[str],
    paths: Sequence[Path],
    out: Path,
    against: Path | None,
) -> Iterator[Section]:
    everything, finished = group(results), group(one for one in others if one.finished)
    for number, comparison in enumerate(comparisons, 1):
        yield rules.section(number, comparison, results)
    yield Section("claims", "Claims and verdicts", _claims(judgements))
    yield Section("published", "Published tables", _published(finished))
    yield Section("groups", "Other runs", tables.other_tables(finished, _measure(finished)))
    yield Section("comparisons", "Comparisons over the same seeds", _comparisons(finished, against))
    for number, data in enumerate(dict.fromkeys(one.experiment.data for one in others), 1):
        mine = [one for one in finished if one.experiment.data == data]
        open_ends = [one for one in others if one.experiment.data == data and not one.finished]
        yield Section(f"figures-{number}", f"Figures: {data}", _figures(number, mine, open_ends))
    yield Section("drops", "Unstable runs", _drops(results))
    yield Section("compute", "Compute", [tables.compute_table(everything)])
    labels = {str(one.folder): some.label for some in everything for one in some.results}
    yield Section("runs", "Runs", [tables.run_table(results, labels, _names(results))])
    yield Section("caveats", "Caveats of the data", _caveats(results))
    yield Section("problems", "Folders left out", _lines(problems))
    yield Section("environment", "Environment", [tables.environment_table(results)])
    yield Section("repeat", "How to repeat", _repeat(results, paths, out, against))


def _claims(judgements: Sequence[Judgement]) -> list[Block]:
    found = (tables.claims_table(judgements), tables.open_claims_table(judgements))
    return [table for table in found if table]


def _published(groups: Sequence[Group]) -> list[Block]:
    found = tables.published_tables(groups, published.tables())
    lines = tuple(
        f"{row.title}, {row.network}: {text}"
        for row in published.rows()
        if any(table.caption.startswith(row.title.partition(",")[0] + ":") for table in found)
        for text in (*row.caveats, *(f"at the same network, {other}" for other in row.others))
    )
    if not found:
        return [Text("None of the runs has the settings of a published row.")]
    return [*found, Lines(lines)] if lines else [*found]


def _comparisons(groups: Sequence[Group], against: Path | None) -> list[Block]:
    comparisons, left_out = compare(groups, _below(against, groups) if against else ())
    if not comparisons:
        return []
    blocks: list[Block] = [tables.comparison_table(comparisons)]
    if left_out:
        blocks.append(Text(f"{left_out:,} further pairs, which differ in more, are left out."))
    return blocks


def _below(folder: Path, groups: Sequence[Group]) -> list[Group]:
    """The groups of which a run is at or below a folder."""
    place = folder.resolve()
    found = [
        one
        for one in groups
        if any(result.folder.resolve().is_relative_to(place) for result in one.results)
    ]
    if not found:
        raise InvalidInput(
            f"no finished run of the report is at or below {folder} (those of a comparison of "
            "learning rules are compared in its own section)"
        )
    return found


def _figures(number: int, groups: Sequence[Group], unfinished: Sequence[Result]) -> Sequence[Block]:
    from .drawings import draw

    return draw(f"data-{number}", groups, unfinished, _measure(groups))


def _drops(results: Sequence[Result]) -> list[Block]:
    lines = [
        f"{name}, epoch {record['epoch']}: {_described(drop)}"
        for result, name in zip(results, _names(results), strict=True)
        for record in result.epochs
        for drop in record.get("drops", ())
    ]
    return _lines(lines)


def _described(drop: Mapping[str, Any]) -> str:
    try:
        return instability.describe(instability.Drop.from_table(dict(drop)))
    except (AttributeError, KeyError, TypeError, ValueError):  # of another version
        return f"a drop of the training accuracy at step {drop['step']}"


def _caveats(results: Sequence[Result]) -> list[Block]:
    lines = tables.notes(results)
    return [lines] if lines else []


def _repeat(
    results: Sequence[Result], paths: Sequence[Path], out: Path, against: Path | None
) -> list[Block]:
    commands = dict.fromkeys(
        str(command) for one in results if (command := one.environment.get("command"))
    )
    options = ["-o", str(out), *(["--against", str(against)] if against else [])]
    report = shlex.join(["tsslbp", "report", *map(str, paths), *options])
    return [
        Text(
            "Each run's config.toml holds all its settings and repeats it: tsslbp train "
            "FOLDER/config.toml. The commands that made the runs:"
        ),
        *_lines(list(commands), Code),
        Text("This report:"),
        Code((report,)),
    ]


def _lead(results: Sequence[Result], groups: Sequence[Group], choosing: int) -> str:
    count = sum(len(one.results) for one in groups)
    data = _joined(list(dict.fromkeys(one.experiment.data for one in results)))
    machines = _joined(list(dict.fromkeys(str(one.environment.get("cpu")) for one in results)))
    total = duration(sum(one.seconds for one in results))
    text = (
        f"{_count(count, 'finished run')} of {_count(len(groups), 'setting')} on {data}, "
        f"trained in {total} on {machines}."
    )
    if left_out := len(results) - count - choosing:
        text += f" {_count(left_out, 'unfinished run')} left out of all statistics."
    if choosing:
        text += f" {_count(choosing, 'further run')} only chose a learning rate."
    return text


def _apart(
    results: Sequence[Result], comparisons: Sequence[Found]
) -> tuple[list[Result], list[Result], list[Result]]:
    """Runs at chosen learning rates, runs that only chose one, and runs of no comparison."""
    chosen, choosing, others = [], [], []
    for result in results:
        if any(one.counts(result) for one in comparisons):
            chosen.append(result)
        elif any(one.holds(result) for one in comparisons):
            choosing.append(result)
        else:
            others.append(result)
    return chosen, choosing, others


def _tallies(results: Sequence[Result], groups: Sequence[Group]) -> list[tuple[str, str]]:
    return [
        ("runs", f"{len(results):,}"),
        ("settings", f"{len(groups):,}"),
        ("seeds", f"{len({one.experiment.seed for one in results}):,}"),
        ("epochs", f"{sum(len(one.epochs) for one in results):,}"),
        ("training time", duration(sum(one.seconds for one in results))),
    ]


def _glance(judgements: Sequence[Judgement]) -> list[tuple[str, str, str]]:
    """How many claims have which verdict, and the claims behind it that a run speaks to."""
    lines = []
    for verdict in tables.ORDER:
        all_of_it = [one for one in judgements if one.verdict == verdict]
        seen = [one.claim for one in all_of_it if one.seen]
        unseen = len(all_of_it) - len(seen)
        claims = "; ".join([*seen[:SHOWN_CLAIMS], *(["..."] if len(seen) > SHOWN_CLAIMS else [])])
        more = " more" if seen else ""
        without = f"{unseen}{more} for lack of runs" if unseen else ""
        lines.append((verdict, _count(len(all_of_it), "claim"), f"{claims}; {without}".strip("; ")))
    return lines


def _measure(groups: Sequence[Group]) -> str:
    """How runs are put in order: as their protocol chooses the epoch, else by the last one."""
    protocols = {one.experiment.protocol for one in groups}
    if len(protocols) == 1:
        return "best-validation" if protocols == {"validated"} else "best-test"
    return "last"


def _once(results: Sequence[Result]) -> tuple[list[Result], list[str]]:
    """Results, each folder and each pair of settings and seed once; a finished run goes first."""
    folders = {result.folder.resolve(): result for result in results}
    kept: dict[str, Result] = {}
    repeats = []
    for result in sorted(folders.values(), key=lambda one: not one.finished):
        key = json.dumps(result.experiment.to_table() | {"description": ""}, sort_keys=True)
        if key in kept:
            repeats.append(f"{result.folder} has the settings and seed of {kept[key].folder}")
        else:
            kept[key] = result
    return list(kept.values()), repeats


def _names(results: Sequence[Result]) -> list[str]:
    """Folders of the runs from their common folder on."""
    folders = [result.folder.absolute() for result in results]
    base = os.path.commonpath([folder.parent for folder in folders])
    return [folder.relative_to(base).as_posix() for folder in folders]


def _lines(lines: Sequence[str], kind: type[Lines] | type[Code] = Lines) -> list[Block]:
    if not lines:
        return []
    blocks: list[Block] = [kind(tuple(lines[:SHOWN_LINES]))]
    if len(lines) > SHOWN_LINES:
        blocks.append(Text(f"And {len(lines) - SHOWN_LINES:,} more."))
    return blocks


def _svg(figure: Figure) -> bytes:
    return figure.file.read_bytes() if figure.file else figure.svg.encode()


def _render(name: str, **values: Any) -> str:
    import jinja2

    environment = jinja2.Environment(
        autoescape=name.endswith(".html"),
        loader=jinja2.FunctionLoader(_text),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {"json": _script_json, "line": _markdown_line, "cell": _markdown_cell}
    return environment.get_template(name).render(**values)


def _script_json(table: Mapping[str, Any]) -> Any:
    """JSON that stands in a script element: nothing in it can end the element."""
    from markupsafe import Markup

    text = json.dumps(table, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("&", "\\u0026"))


def _markdown_line(text: str) -> str:
    """Text that Markdown takes as it is."""
    for letter in "\\`*_[]<>":
        text = text.replace(letter, f"\\{letter}")
    return " ".join(text.split())


def _markdown_cell(text: str) -> str:
    lines = [_markdown_line(line).replace("|", "\\|") for line in text.split("\n")]
    return "<br>".join(lines)


def _text(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def check_packages() -> None:
    """Raise `InvalidInput` where a package that reports need is missing."""
    for name in ("jinja2", "matplotlib", "scipy"):
        try:
            __import__(name)
        except ImportError:
            raise InvalidInput(f"reports need {name}: pip install 'tsslbp[study]'") from None


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' if number != 1 else ''}"


def _joined(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
