"""Tables for other programs: as CSV, JSON and LaTeX."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence

Cell = str | int | float | bool | None
Row = Sequence[Cell]

NONE = "-"  # an empty cell, like None
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "µ": r"$\mu$",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}
_NUMBER = re.compile(r"(?<![\w.])-(?=\d)")  # its minus sign


def table_text(kind: str, head: Sequence[str], rows: Sequence[Row], caption: str = "") -> str:
    """A table as text of another format, with a line break at its end.

    Text after a line break in a cell is secondary (an interval) and is put in parentheses. A row of
    one cell is a heading for the rows below it, which CSV and JSON repeat in a first column,
    ``part``.

    Args:
        kind: one of `KINDS`. CSV begins with the names of the columns, and leaves a cell without
            a value empty; JSON is a list of objects by the names, with null for such a cell;
            LaTeX is a ``tabular`` with the rules of the package booktabs, columns of numbers to
            the right, the caption as a comment before it.
        head: names of the columns.
        rows: cells.
        caption: what the table shows.
    """
    return KINDS[kind](head, rows, caption)


def _csv(head: Sequence[str], rows: Sequence[Row], _: str) -> str:
    names, lines = _plain(head, rows)
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([names, *lines])
    return file.getvalue()


def _json(head: Sequence[str], rows: Sequence[Row], _: str) -> str:
    names, lines = _plain(head, rows)
    table = [dict(zip(names, line, strict=True)) for line in lines]
    return json.dumps(table, indent=1, ensure_ascii=False) + "\n"


def _plain(head: Sequence[str], rows: Sequence[Row]) -> tuple[list[str], list[list[Cell]]]:
    """Names and cells, with the headings among the rows in a separate column."""
    has_parts = any(len(row) == 1 for row in rows)
    names = [*(["part"] if has_parts else []), *(name or "name" for name in head)]
    lines: list[list[Cell]] = []
    part: Cell = None
    for row in rows:
        if len(row) == 1:
            part = row[0]
        else:
            lines.append([*([part] if has_parts else []), *map(_value, row)])
    return names, lines


def _value(cell: Cell) -> Cell:
    if not isinstance(cell, str):
        return cell
    return None if cell == NONE else _in_one_line(cell)


def _in_one_line(text: str) -> str:
    first, _, second = text.partition("\n")
    return f"{first} ({' '.join(second.split())})" if second else first


def _latex(head: Sequence[str], rows: Sequence[Row], caption: str) -> str:
    whole = [row for row in rows if len(row) == len(head)]
    columns = "".join(
        "r" if whole and all(map(_is_numeric, cells)) else "l" for cells in zip(*whole, strict=True)
    )
    lines = [f"% {' '.join(caption.split())}"] if caption else []
    lines += [rf"\begin{{tabular}}{{{columns or 'l' * len(head)}}}", r"\toprule"]
    lines += [f"{' & '.join(map(_escaped, head))} \\\\", r"\midrule"]
    for row in rows:
        if len(row) == 1:
            lines.append(rf"\multicolumn{{{len(head)}}}{{l}}{{\textbf{{{_shown(row[0])}}}}} \\")
        else:
            lines.append(f"{' & '.join(map(_shown, row))} \\\\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _shown(cell: Cell) -> str:
    if cell is None or cell == NONE:
        return "--"
    first, _, second = str(cell).partition("\n")
    if second and re.match(r"[-+]?\d", second):
        return f"{_escaped(first)} {{\\scriptsize ({_escaped(' '.join(second.split()))})}}"
    return _escaped(_in_one_line(str(cell)))


def _escaped(text: str) -> str:
    letters = "".join(_LATEX.get(letter, letter) for letter in text)
    return _NUMBER.sub("$-$", letters)


def _is_numeric(cell: Cell) -> bool:
    """Whether a cell holds a number, or nothing."""
    return not isinstance(cell, str) or cell == NONE or re.match(r"[-+]?\d", cell) is not None


KINDS: dict[str, Callable[[Sequence[str], Sequence[Row], str], str]] = {
    "csv": _csv,
    "json": _json,
    "latex": _latex,
}
