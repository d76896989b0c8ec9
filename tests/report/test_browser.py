"""Tests of the report in a real browser: its figures are drawn, and nothing is fetched."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tsslbp import report

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-unsafe-swiftshader",  # WebGL in software
    "--remote-debugging-pipe",
]
START = """
import os, sys  # the protocol's pipes have fixed numbers
for pipe, number in zip(sys.argv[1:3], (3, 4)):
    os.dup2(int(pipe), number)
os.execv(sys.argv[3], sys.argv[3:])
"""
ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0  # seconds for one answer of a browser on a busy machine
DESKTOP, PHONE = 1300, 390  # pixels

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine"),
]


class Browser:
    """Chromium, controlled by the DevTools protocol: JSON texts ended by a zero byte, over pipes.

    Attributes:
        events: events that it has sent.
    """

    def __init__(self, profile: Path) -> None:
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(theirs_in), str(theirs_out), *command],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.input, self.output = ours_in, ours_out
        self.session: str | None = None
        self.number = 0
        self.rest = b""
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        os.close(self.input)
        os.close(self.output)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.output, json.dumps(message).encode() + b"\0")
        while (answer := self.read()).get("id") != self.number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def read(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            assert select.select([self.input], [], [], PATIENCE)[0], "the browser does not answer"
            part = os.read(self.input, 1 << 20)
            assert part, "the browser has ended"
            self.rest += part
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path, width: int) -> None:
        """Show a file in a new tab, and wait until its script has ended."""
        self.session = None
        self.events.clear()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Page.navigate", url=path.as_uri())
        end = time.monotonic() + PATIENCE
        while self.evaluate("document.documentElement?.dataset.ready") is None:
            assert time.monotonic() < end, "the page's script does not end"
            time.sleep(0.1)

    def evaluate(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def told(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event.get("method") == method]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, make_run: Callable, recipe: Callable) -> Path:
    """Path of a report on a small search, in which one run has a figure of its own."""
    folder = tmp_path_factory.mktemp("report")
    for seed, rate in enumerate((0.001, 0.002, 0.005, 0.01)):
        experiment = recipe("digits", seed, learning_rate=rate, epochs=4 + seed)
        make_run(folder / "runs" / str(seed), experiment, 0.9 + seed / 50)
    figures = folder / "runs" / "3" / "figures"
    figures.mkdir()
    (figures / "confusion.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="60"><rect width="9"/>'
        '<image href="http://example.invalid/a.png"/></svg>'
    )
    report.write([folder / "runs"], folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def desk(browser: Browser, page: Path) -> Browser:
    """Browser with the page at desktop width, opened only once because drawing in WebGL is slow."""
    pytest.importorskip("plotly")
    browser.open(page, DESKTOP)
    return browser


def expect_quiet(browser: Browser, page: Path) -> None:
    """Assert that the page requested nothing but itself and that nothing went wrong."""
    asked = [one["request"]["url"] for one in browser.told("Network.requestWillBeSent")]
    assert page.as_uri() in asked
    assert [url for url in asked if not url.startswith(("data:", "blob:", page.as_uri()))] == []
    # The log names what the page's policy blocks; its entries on rendering concern slow WebGL.
    entries = [one["entry"] for one in browser.told("Log.entryAdded")]
    assert [one for one in entries if one["source"] != "rendering"] == []
    assert browser.told("Runtime.exceptionThrown") == []


SIZES = """[...document.querySelectorAll("%s")].map((one) => {
    const { width, height } = one.getBoundingClientRect();
    return [width, height];
})"""


def test_at_a_desk(desk: Browser, page: Path) -> None:
    graphs = desk.evaluate(
        'JSON.stringify([...document.querySelectorAll(".graph")].map((one) => one.data.map('
        "(trace) => [trace.type, (trace.x ?? trace.dimensions).length])))"
    )
    parallel, rates, training = json.loads(graphs)
    assert parallel == [["parcoords", 3]]
    assert rates == [["scatter", 4]]
    assert [kind for kind, _ in training] == ["scatter"] * 4
    for selector in (".graph .main-svg", ".graph canvas", ".drawing:not([hidden]) svg", "img"):
        sizes = desk.evaluate(SIZES % selector)
        assert sizes, selector
        assert all(width > 50 and height > 20 for width, height in sizes), selector
    assert desk.evaluate('document.querySelectorAll(".graph .scatterlayer .trace").length') == 5
    expect_quiet(desk, page)


def test_the_switch_shows_the_drawing_and_the_graph(desk: Browser) -> None:
    shown = (
        'JSON.stringify(["drawing", "graph"].map('
        '(name) => !document.querySelector("figure ." + name).hidden))'
    )
    press = 'document.querySelectorAll("figure .switch button")[%d].click()'
    assert json.loads(desk.evaluate(shown)) == [False, True]
    for button, expected in ((0, [True, False]), (1, [False, True])):
        desk.evaluate(press % button)
        assert json.loads(desk.evaluate(shown)) == expected


def test_at_a_phone(browser: Browser, page: Path) -> None:
    """Drawings replace graphs, and content wider than the page scrolls in its own box."""
    browser.open(page, PHONE)
    assert browser.evaluate("document.documentElement.scrollWidth") <= PHONE
    sizes = browser.evaluate(SIZES % ".drawing svg[role=img]")
    assert len(sizes) >= 6
    assert all(width > 300 and height > 100 for width, height in sizes)
    expect_quiet(browser, page)


def test_the_report_on_all_records(browser: Browser, tmp_path: Path) -> None:
    """It opens without an error at a desk and on a phone, where nothing is wider than the page."""
    page = tmp_path / "report.html"
    report.write([ROOT / "results"], page)
    for width in (DESKTOP, PHONE):
        browser.open(page, width)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        text = browser.evaluate("document.body.innerText")
        assert "ours: mnist" in text and "undefined" not in text
        expect_quiet(browser, page)
    sizes = browser.evaluate(SIZES % ".drawing svg[role=img]")
    assert sizes and all(height > 50 for _, height in sizes)


def test_without_scripts_the_drawings_are_there(browser: Browser, page: Path) -> None:
    browser.open(page, PHONE)
    browser.evaluate("window.before = true")
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.call("Page.reload")
    end = time.monotonic() + PATIENCE
    while browser.evaluate("window.before || document.readyState !== 'complete'"):
        assert time.monotonic() < end, "the page is not loaded again"
        time.sleep(0.1)
    sizes = browser.evaluate(SIZES % ".drawing svg[role=img]")
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert len(sizes) >= 6
    assert all(width > 300 and height > 100 for width, height in sizes)
