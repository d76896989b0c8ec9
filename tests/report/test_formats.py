"""Tests of tables as CSV, JSON and LaTeX, and of a report's tables and figures as files."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

from tsslbp import report
from tsslbp.report.formats import table_text

HEAD = ("rule", "seeds", "accuracy", "difference")
ROWS = (
    ("T = 5",),
    ("TSSLBP(a_b=1)", 3, "99.40 ± 0.04\n99.30 to 99.50", "-"),
    ("50 % & more\n#2", 2, "-0.50", None),
)


def test_csv() -> None:
    rows = list(csv.reader(io.StringIO(table_text("csv", HEAD, ROWS, "unseen"))))
    assert rows == [
        ["part", *HEAD],
        ["T = 5", "TSSLBP(a_b=1)", "3", "99.40 ± 0.04 (99.30 to 99.50)", ""],
        ["T = 5", "50 % & more (#2)", "2", "-0.50", ""],
    ]


def test_json() -> None:
    first, second = json.loads(table_text("json", HEAD, ROWS))
    assert first["seeds"] == 3 and first["difference"] is None and first["part"] == "T = 5"
    assert second == {
        "part": "T = 5",
        "rule": "50 % & more (#2)",
        "seeds": 2,
        "accuracy": "-0.50",
        "difference": None,
    }
    assert json.loads(table_text("json", ("a",), [])) == []


def test_latex() -> None:
    assert table_text("latex", HEAD, ROWS, "Test accuracy,\nin %").splitlines() == [
        "% Test accuracy, in %",
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r"rule & seeds & accuracy & difference \\",
        r"\midrule",
        r"\multicolumn{4}{l}{\textbf{T = 5}} \\",
        r"TSSLBP(a\_b=1) & 3 & 99.40 $\pm$ 0.04 {\scriptsize (99.30 to 99.50)} & -- \\",
        r"50 \% \& more (\#2) & 2 & $-$0.50 & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_files_of_a_report(tmp_path: Path, make_run: Callable, recipe: Callable) -> None:
    for seed in range(3):
        make_run(tmp_path / "runs" / f"{seed}", recipe("digits", seed), 0.9 + seed / 100)
    own = tmp_path / "runs" / "2" / "figures"
    own.mkdir()
    (own / "confusion.svg").write_text("<svg></svg>")
    (own / "confusion.pdf").write_bytes(b"%PDF of the run")
    out = tmp_path / "report.html"
    kinds = ("csv", "json", "latex")
    report.write([tmp_path / "runs"], out, formats=("pdf", "png"), tables=kinds)
    figures = {path.name: path for path in (tmp_path / "report_figures").iterdir()}
    drawn = {name.removesuffix(".svg") for name in figures if name.endswith(".svg")}
    for name in drawn - {"data-1-run-1-confusion"}:
        assert figures[f"{name}.pdf"].read_bytes().startswith(b"%PDF-")
        assert figures[f"{name}.png"].read_bytes().startswith(b"\x89PNG")
    assert figures["data-1-run-1-confusion.pdf"].read_bytes() == b"%PDF of the run"
    assert "data-1-run-1-confusion.png" not in figures
    tables = tmp_path / "report_tables"
    names = {path.name for path in tables.iterdir()}
    assert {f"groups.{suffix}" for suffix in ("csv", "json", "tex")} <= names
    (row,) = csv.DictReader(io.StringIO((tables / "groups.csv").read_text()))
    assert row["settings"] == "digits" and row["runs"] == "3"
    assert len(json.loads((tables / "runs.json").read_text())) == 3
