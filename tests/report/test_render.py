"""Every block stands in the page, and what it says is text in HTML as in Markdown."""

import base64
import re
from html import escape
from pathlib import Path

import pytest

from tsslbp.report import render
from tsslbp.report.blocks import Block, Figure, Lines, Page, Section, Table

EVIL = "</script><b>*bold*</b>|`code`"


def page(*blocks: Block) -> Page:
    verdict = ("undecided", "1 claim", EVIL)
    return Page(EVIL, "lead", [("runs", "3")], [verdict], "by us", [Section("all", "All", blocks)])


BLOCKS = [
    Lines("paragraph", (EVIL,)),
    Lines("list", (EVIL, "another")),
    Lines("code", (EVIL,)),
    Table(EVIL, ("name", EVIL), ((EVIL,), (EVIL, "1.00\n-0.50 to +2.00"))),
    Figure("a-figure", EVIL, EVIL, svg='<svg id="drawn"></svg>'),
]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.kind)
def test_html_escapes_what_a_block_says(block: Block) -> None:
    html = render.to_html(page(block))
    assert "<b>" not in html and escape(EVIL) in html
    assert ('<svg id="drawn">' in html) == isinstance(block, Figure)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.kind)
def test_markdown_escapes_what_a_block_says(block: Block) -> None:
    markdown = render.to_markdown(page(block), "my figures")
    body = markdown.partition("## All")[2]
    if block.kind == "code":
        assert f"```\n{EVIL}\n```" in body
    else:
        assert "\\<b\\>" in body and not re.search(r"(?<!\\)<(?!br>)", body)
    if isinstance(block, Table):
        assert "| 1.00<br>-0.50 to +2.00 |" in body and "\\|" in body
    if isinstance(block, Figure):
        assert "](my%20figures/a-figure.svg)" in body


def test_a_graph_cannot_end_its_script() -> None:
    figure = Figure("a", "title", "caption", interactive={"name": "</script>&"})
    html = render.to_html(page(figure))
    (table,) = re.findall(r'<script type="application/json">(.*?)</script>', html) or [""]
    assert table in ("", '{"name":"\\u003c/script>\\u0026"}')  # without plotly there is none


def test_a_file_is_shown_as_an_image(tmp_path: Path) -> None:
    (tmp_path / "own.svg").write_text("<svg><script>alert(1)</script></svg>")
    figure = Figure("own", "title", "caption", file=tmp_path / "own.svg")
    html = render.to_html(page(figure))
    assert "alert(1)" not in html
    encoded = base64.b64encode((tmp_path / "own.svg").read_bytes()).decode()
    assert f"data:image/svg+xml;base64,{encoded}" in html
    assert render.svg(figure) == (tmp_path / "own.svg").read_bytes()


def test_a_verdict_is_a_badge_and_a_minus_is_a_minus() -> None:
    table = Table("caption", ("", "it is", "difference"), (("a", "undecided", "-0.50"),), 2)
    html = render.to_html(page(table))
    assert html.count('<span class="badge undecided">undecided</span>') == 2  # and at a glance
    assert "\N{MINUS SIGN}0.50" in html


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.kind)
def test_a_block_alone_is_as_in_the_page(block: Block) -> None:
    assert render.block_to_markdown(block, "figures") in render.to_markdown(page(block), "figures")
