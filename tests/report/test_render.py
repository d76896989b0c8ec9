"""Tests that every block is in the page, and that its text is escaped in HTML and Markdown."""

import base64
import re
from html import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_a_file_is_shown_as_an_image() -> None:
    image = b"<svg><script>alert(1)</script></svg>"
    figure = Figure("own", "title", "caption", image=image)
    html = render.to_html(page(figure))
    assert "alert(1)" not in html
    assert f"data:image/svg+xml;base64,{base64.b64encode(image).decode()}" in html
    assert render.svg(figure) == image


@pytest.mark.parametrize("ticks", [1, 3, 4, 10])
def test_a_command_cannot_close_its_fence(ticks: int) -> None:
    command = f"tsslbp train\n{'`' * ticks}\n<img src=x>"
    lines = render.block_to_markdown(Lines("code", (command, "second")), "f").strip().splitlines()
    fence, first, second, end = lines
    assert fence == end == "`" * max(3, ticks + 1)
    assert first == f"tsslbp train {'`' * ticks} <img src=x>" and second == "second"


@settings(max_examples=20)
@given(st.text())
def test_no_control_character_comes_into_a_report(text: str) -> None:
    text = f"{text}\x1b[2J\x9b\udc80\u202e"
    blocks: list[Block] = [
        Lines("paragraph", (text,)),
        Lines("list", (text,)),
        Lines("code", (text,)),
        Table(text, (text,), ((text,), (text,)), 1),
        Figure("a", text, text, svg="<svg/>"),
    ]
    for written in (render.to_html(page(*blocks)), render.to_markdown(page(*blocks), "f")):
        assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", written)
        written.encode()


def test_a_verdict_is_a_badge_and_a_minus_is_a_minus() -> None:
    table = Table("caption", ("", "verdict", "difference"), (("a", "undecided", "-0.50"),), 2)
    html = render.to_html(page(table))
    assert html.count('<span class="badge undecided">undecided</span>') == 2  # one in the summary
    assert "\N{MINUS SIGN}0.50" in html


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.kind)
def test_a_block_alone_is_as_in_the_page(block: Block) -> None:
    assert render.block_to_markdown(block, "figures") in render.to_markdown(page(block), "figures")
