"""Tests of the documentation's site: it is built and opened in a browser, its tutorials are run."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest
from tests.report.test_browser import CHROMIUM, DESKTOP, PATIENCE, PHONE, Browser

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = sorted(path.stem for path in (ROOT / "docs" / "tutorials").glob("*.py"))


@pytest.fixture(scope="module")
def tool() -> Iterator[ModuleType]:
    """Yield docs/site.py as a module."""
    spec = importlib.util.spec_from_file_location("tsslbp_site", ROOT / "docs" / "site.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_cells_and_what_they_give(tool: ModuleType, tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text(
        "# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\nx = 2\nprint('two')\n\n# %%\nx + 1\n"
        "\n# %%\n# !tsslbp --version\n"
    )
    found = tool.run(script)
    assert [cell.kind for cell in found] == ["markdown", "code", "code", "code"]
    assert [cell.printed for cell in found[:3]] == ["", "two", "3"]
    assert found[3].printed.startswith("tsslbp ")
    page = tool.as_markdown(found, "page", tmp_path)
    assert page.startswith(
        "# Title\n\nText.\n\n```python\nx = 2\nprint('two')\n```\n\n```text\ntwo"
    )
    assert "```sh\ntsslbp --version\n```" in page
    notebook = json.loads(tool.as_notebook(found))
    assert notebook["cells"][1]["outputs"][0]["text"] == ["two"]
    assert notebook["cells"][3]["source"] == ["!tsslbp --version"]


def test_a_tutorial_that_fails_ends_the_build(tool: ModuleType, tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text("# %%\n1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        tool.run(script)
    script.write_text("# %%\n# !tsslbp train nonsense\n")
    with pytest.raises(RuntimeError, match=r"page\.py: tsslbp train nonsense ended with:\nerror"):
        tool.run(script)


def test_broken_links_and_fetched_files_are_found(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<p id="here"></p><a href="#here"></a><a href="a.html#gone"></a><a href="b.html"></a>'
        '<a href="https://example.invalid"></a><script src="https://example.invalid/x.js"></script>'
        '<link rel="canonical" href="https://example.invalid"><img src="//example.invalid/i.png">'
    )
    (tmp_path / "a.css").write_text("a { background: url(https://example.invalid/f.png) }")
    assert tool.problems(tmp_path) == [
        "a.html fetches https://example.invalid/x.js",
        "a.html fetches //example.invalid/i.png",
        "a.html links to a.html#gone, where there is no such place",
        "a.html links to b.html, which does not exist",
        "a.css fetches https://example.invalid/f.png",
    ]


def test_public_names_without_a_docstring_are_refused(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that a page would leave out is named: also methods, properties and names of modules."""
    import tsslbp.analysis.energy
    import tsslbp.losses
    import tsslbp.network
    from tsslbp.run import results

    assert all("::: " in tool.api_page(name) for name in tool.API)
    assert "::: tsslbp.losses.van_rossum" in tool.api_page("tsslbp.losses")
    bare = property(lambda self: 0)
    monkeypatch.setattr(tsslbp.losses.van_rossum, "__doc__", None)
    monkeypatch.setattr(tsslbp.network.Network, "spiking_layers", bare)
    monkeypatch.setattr(results.Group, "accuracies", lambda self: None)
    monkeypatch.setattr(tsslbp.analysis.energy.Energy, "__doc__", "Energy(connections: float)")
    for page, missing in (
        ("tsslbp.losses", "van_rossum"),
        ("tsslbp.network", "Network.spiking_layers"),
        ("tsslbp.run", "results.Group.accuracies"),
        ("tsslbp.analysis", "energy.Energy"),
    ):
        text = f"public and without a docstring: {page}.{missing}"
        with pytest.raises(RuntimeError, match=f"^{re.escape(text)}$"):
            tool.api_page(page)


def test_names_that_others_document_need_no_docstring(tool: ModuleType) -> None:
    class Base:
        """A base."""

        def to(self) -> None:
            """Move it."""

        def bare(self) -> None: ...

    class Layer(Base):
        """A layer."""

        def to(self) -> None: ...

        def bare(self) -> None: ...

        def forward(self) -> None: ...

        def __len__(self) -> int:
            return 1

        class Part:
            @staticmethod
            def run() -> None: ...

    missing = ["Layer.bare", "Layer.Part", "Layer.Part.run"]
    assert list(tool.undocumented("Layer", Layer)) == missing


def test_formulas_and_links_are_prepared(tool: ModuleType) -> None:
    pytest.importorskip("latex2mathml")
    outside: set[Path] = set()
    text = "$a_1$ and `$b$` [recipe](../src/tsslbp/experiment/recipes/mnist.toml) [x](../results)"
    page = tool.prepare(text, ROOT / "docs" / "guide.md", outside)
    assert "<msub>" in page and "`$b$`" in page
    assert page.endswith("[recipe](source/src/tsslbp/experiment/recipes/mnist.toml) x")
    assert outside == {ROOT / "src/tsslbp/experiment/recipes/mnist.toml"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_site(tool: ModuleType, tmp_path: Path) -> None:
    """The site, built once as by ``make docs`` with all tutorials run, passes all checks."""
    if importlib.util.find_spec("zensical") is None:
        pytest.skip("zensical is not installed: make .venv/docs")
    command = [sys.executable, ROOT / "docs" / "site.py", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "site"
    assert tool.problems(site) == []
    assert {path.stem for path in (site / "api").glob("*.html")} == set(tool.API)
    assert len(TUTORIALS) == 8
    for name in TUTORIALS:
        check_tutorial(site / "tutorials", name)
    if CHROMIUM:
        with served(site) as address:
            look_at_pages(site, address, tmp_path / "profile")


def check_tutorial(folder: Path, name: str) -> None:
    """Check that the page shows the outputs of the tutorial, and that the notebook has the same."""
    page = (folder / f"{name}.html").read_text()
    assert f'href="{name}.ipynb"' in page
    notebook = json.loads((folder / f"{name}.ipynb").read_text())
    outputs = [one for cell in notebook["cells"] for one in cell.get("outputs", [])]
    assert len(outputs) >= 2, name  # own-rule, the shortest tutorial, has two
    for output in outputs:
        if output["output_type"] == "stream":
            words = "".join(output["text"]).split()
            assert words and words[0].strip("[]'\"<>&") in page, name


@contextlib.contextmanager
def served(site: Path) -> Iterator[str]:
    """Serve the site by a local web server, and yield its address."""
    handler = functools.partial(_Silent, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def look_at_pages(site: Path, address: str, profile: Path) -> None:
    """Check all pages, at two widths, for console errors, outside requests and too wide content."""
    browser = Browser(profile)
    shots = Path(folder) if (folder := os.environ.get("TSSLBP_SCREENSHOTS")) else None
    try:
        pages = sorted(path.relative_to(site) for path in site.rglob("*.html"))
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=target, flatten=True)
        browser.session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            browser.call(f"{domain}.enable")
        for width in (DESKTOP, PHONE):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
            browser.call("Emulation.setDeviceMetricsOverride", **size)
            for page in pages:
                _look(browser, f"{address}{page}")
                asked = [one["request"]["url"] for one in browser.told("Network.requestWillBeSent")]
                assert [url for url in asked if not url.startswith((address, "data:"))] == []
                entries = [one["entry"] for one in browser.told("Log.entryAdded")]
                assert [one for one in entries if one["level"] == "error"] == [], page
                assert browser.told("Runtime.exceptionThrown") == [], page
                assert browser.evaluate("document.documentElement.scrollWidth") <= width, page
                if shots:
                    _shoot(browser, shots / f"{page.stem}-{width}.png")
    finally:
        browser.close()


def _look(browser: Browser, url: str) -> None:
    browser.events.clear()
    browser.call("Page.navigate", url=url)
    end = time.monotonic() + PATIENCE
    while not browser.told("Page.loadEventFired"):
        assert time.monotonic() < end, f"{url} does not load"
        browser.evaluate("1")
        time.sleep(0.02)


def _shoot(browser: Browser, file: Path) -> None:
    import base64

    file.write_bytes(base64.b64decode(browser.call("Page.captureScreenshot")["data"]))
