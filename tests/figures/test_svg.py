"""Tests that the SVG of a figure can be embedded in a page with others."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from tsslbp.figures import run, study, svg

TRIALS = [
    {"epochs": 50, "learning_rate": 0.0001, "warm_up": "never"},
    {"epochs": 200, "learning_rate": 0.001, "warm_up": "always"},
    {"epochs": 100, "learning_rate": 0.01, "warm_up": "never"},
]


def test_svg_is_the_same_every_time() -> None:
    first, second = (svg.svg_text(run.confusion(np.array([[5, 1], [0, 5]])), "a") for _ in range(2))
    assert first == second


def test_svg_has_ids_of_its_own_and_reads_nothing() -> None:
    figure = study.parallel_coordinates(TRIALS, [0.9, 0.99, 0.95])
    text = svg.svg_text(figure, "search", 'a "search" & more')
    root = ElementTree.fromstring(text)
    ids = [one.get("id") for one in root.iter() if one.get("id")]
    assert root.get("id") == "search"
    assert root.get("aria-label") == 'a "search" & more'
    assert len(ids) == len(set(ids))
    assert all(one.startswith("search") for one in ids)
    for one in root.iter():
        for key, value in one.items():
            if key.endswith("href"):
                assert value.startswith("data:") or value.removeprefix("#") in ids
            if value.startswith("url("):
                assert value[len("url(#") : -1] in ids
    assert "<!DOCTYPE" not in text
    assert "metadata" not in text
    assert "#search *{" in text


def test_svg_keeps_its_text_in_the_readers_font() -> None:
    text = svg.svg_text(run.confusion(np.array([[5, 1], [0, 5]])))
    written = [one.text for one in ElementTree.fromstring(text).iter() if one.tag.endswith("text")]
    assert "true class" in written
    assert "sans-serif" in text
    assert "DejaVu" not in text


def test_save_svg(tmp_path: Path) -> None:
    figure = study.accuracy_against_spikes({'a id="b" <c>': (np.array([1.0]), np.array([1.0]))})
    svg.annotate(figure, "caveat " * 40)
    svg.save_svg(figure, tmp_path / "energy.svg", "energy")
    root = ElementTree.parse(tmp_path / "energy.svg").getroot()
    written = [one.text for one in root.iter() if one.tag.endswith("text")]
    assert root.get("id") == "figure-energy"
    assert 'a id="b" <c>' in written
    assert sum("caveat" in (text or "") for text in written) > 1  # in lines
