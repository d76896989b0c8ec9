"""The report's files: one HTML file, and Markdown and figures next to it.

The HTML file loads nothing from elsewhere. Accuracies are in percent on the test images. Unfinished
runs are shown, but excluded from all statistics.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from ..errors import InvalidInput, require
from ..figures.svg import save
from ..reading import read_whole
from ..storage import write_file, writing
from .blocks import Figure, Page, Table
from .evidence import gather
from .formats import table_text
from .render import svg, to_html, to_markdown
from .sections import TITLE, compose


def write(
    paths: Sequence[Path],
    out: Path,
    against: Path | None = None,
    *,
    formats: Collection[str] = (),
    tables: Collection[str] = (),
) -> list[str]:
    """Report on all runs at or below `paths`.

    Args:
        paths: run folders, or folders that contain them.
        out: the HTML file; ``.md`` and the folder ``_figures`` of the same name are next to it.
        against: folder of reference runs; every other run is compared only with these. Without it
            every pair of settings is compared, and Holm's correction covers all of them.
        formats: of the figures' files in addition to SVG, ``"pdf"`` and ``"png"``.
        tables: formats of the tables' files, in the folder ``_tables``: some of
            `tsslbp.report.formats.KINDS`.

    Returns:
        A line for each folder that could not be read.

    Raises:
        InvalidInput: `out` is not an ``.html`` file, the Markdown file would replace one that is
            not a report, no finished run is at or below `against`, or a package is missing.
        RunError: no run could be read, or the files cannot be written.
    """
    if out.suffix != ".html":
        raise InvalidInput(f"the report is an HTML file, such as report.html; got {out}")
    beside = out.with_suffix(".md")
    if os.path.exists(beside) and not read_whole(beside).startswith(f"# {TITLE}".encode()):
        raise InvalidInput(f"{beside} is not a report and would be replaced: give another name")
    check_packages()
    evidence = gather(paths, against)
    options = ["-o", str(out), *(["--against", str(against)] if against else [])]
    command = shlex.join(["tsslbp", "report", *map(str, paths), *options])
    folder = out.with_name(f"{out.stem}_figures")
    page = compose(evidence, command)
    with writing(f"the report {out}"):
        folder.mkdir(parents=True, exist_ok=True)
    for figure in page.figures:  # first, as the pages refer to them
        write_file(folder / f"{figure.name}.svg", svg(figure))
        for suffix in formats:
            _write_figure(figure, folder / f"{figure.name}.{suffix}")
    if tables:
        _write_tables(page, out.with_name(f"{out.stem}_tables"), tables)
    write_file(beside, to_markdown(page, folder.name))
    write_file(out, to_html(page))
    return list(evidence.problems)


def _write_figure(figure: Figure, path: Path) -> None:
    """A figure in a format other than SVG; for a run's own figure, the file next to it."""
    if figure.drawing is not None:
        save(figure.drawing, path)
        return
    beside = figure.file.with_suffix(path.suffix) if figure.file else path
    is_own = figure.file and beside.resolve().parent == figure.file.resolve().parent
    if is_own and os.path.isfile(beside):  # and no link to elsewhere
        write_file(path, read_whole(beside))


def _write_tables(page: Page, folder: Path, kinds: Collection[str]) -> None:
    """Each table of a page in files, which are named after their sections."""
    with writing(f"tables into {folder}"):
        folder.mkdir(exist_ok=True)
    for section in page.sections:
        found = [block for block in section.blocks if isinstance(block, Table)]
        for number, table in enumerate(found, 1):
            name = section.name if len(found) == 1 else f"{section.name}-{number}"
            for kind in kinds:
                text = table_text(kind, table.head, table.rows, table.caption)
                suffix = {"latex": "tex"}.get(kind, kind)
                write_file(folder / f"{name}.{suffix}", text)


def check_packages() -> None:
    """Raise `InvalidInput` where a package that reports need is missing."""
    require("reports need", "study", "jinja2", "matplotlib", "scipy")
