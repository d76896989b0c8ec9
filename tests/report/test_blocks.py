"""Test that a page lists its figures in the order of its sections."""

from tsslbp.report.blocks import Figure, Lines, Page, Section, Table


def test_figures_of_a_page_are_in_the_order_of_its_sections() -> None:
    first, second, third = (Figure(name, "title", "caption") for name in "abc")
    table = Table("caption", ("head",), (("cell",),))
    sections = [
        Section("one", "One", [Lines("paragraph", ("text",)), first, table, second]),
        Section("two", "Two", [Lines("list", ("line",)), Lines("code", ("command",))]),
        Section("three", "Three", [third]),
    ]
    page = Page("title", "lead", [], [], "made by", sections)
    assert page.figures == [first, second, third]
    assert Page("title", "lead", [], [], "made by").figures == []
