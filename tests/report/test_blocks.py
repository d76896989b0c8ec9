"""A page knows its figures."""

from tsslbp.report.blocks import Code, Figure, Lines, Page, Section, Table, Text


def test_figures_of_a_page_are_in_the_order_of_its_sections() -> None:
    first, second, third = (Figure(name, "title", "caption") for name in "abc")
    table = Table("caption", ("head",), (("cell",),))
    sections = [
        Section("one", "One", [Text("text"), first, table, second]),
        Section("two", "Two", [Lines(("line",)), Code(("command",))]),
        Section("three", "Three", [third]),
    ]
    page = Page("title", "lead", [], [], "made by", sections)
    assert page.figures == [first, second, third]
    assert Page("title", "lead", [], [], "made by").figures == []


def test_templates_tell_blocks_apart() -> None:
    kinds = [kind.kind for kind in (Text, Lines, Code, Table, Figure)]
    assert len(set(kinds)) == 5
