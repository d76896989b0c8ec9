"""Build the documentation's site into build/site: ``make docs``.

The sources are this folder and the docstrings. They are prepared in build/docs: tutorials are run,
formulas become MathML, links to files outside this folder lead to copies of them, and the pages of
the API are made from the public names. Zensical then makes the site by mkdocs.yml, and every page
is checked. A tutorial that fails, a public name without a docstring, a broken link and anything
that a page would fetch from outside end the build.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import html.parser
import importlib
import inspect
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
API = (  # pages of the reference, in their order
    *("tsslbp", "tsslbp.layers", "tsslbp.losses", "tsslbp.rules", "tsslbp.neuron"),
    *("tsslbp.network", "tsslbp.models", "tsslbp.data", "tsslbp.experiment", "tsslbp.training"),
    *("tsslbp.run", "tsslbp.studies", "tsslbp.stats", "tsslbp.analysis", "tsslbp.export"),
    *("tsslbp.report", "tsslbp.figures", "tsslbp.errors"),
)
CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.S | re.M)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", re.S)


@dataclass
class Cell:
    """A cell of a tutorial, and what running it has given."""

    kind: str  # "markdown" or "code"
    source: str
    printed: str = ""
    figures: list[str] = field(default_factory=list)  # as SVG

    @property
    def commands(self) -> list[str]:
        """Commands of the program, ``# !tsslbp ...``, of a cell that holds nothing else."""
        return re.findall(r"^# !(.+)$", self.source, re.M) if self.kind == "code" else []


def cells(text: str) -> list[Cell]:
    """Read a script in the percent format, which Jupytext and editors open as a notebook."""
    found = []
    for kind, source in re.findall(r"^# %%( \[markdown\])?\n(.*?)(?=^# %%|\Z)", text, re.S | re.M):
        if kind:
            source = re.sub(r"^# ?", "", source, flags=re.M)
        found.append(Cell("markdown" if kind else "code", source.strip()))
    return found


def run(script: Path) -> list[Cell]:
    """Run a tutorial in an empty folder, and return its cells with what they print and draw."""
    found = cells(script.read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "__main__"}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for cell in found:
            if cell.kind == "code":
                with contextlib.redirect_stdout(io.StringIO()) as printed:
                    _run_cell(cell, names, script)
                cell.printed = printed.getvalue().strip("\n") + cell.printed
    return found


def _run_cell(cell: Cell, names: dict[str, Any], script: Path) -> None:
    for command in cell.commands:
        words = [sys.executable, "-m", *shlex.split(command)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{script.name}: {command} ended with:\n{done.stderr}")
        print(done.stdout.rstrip())
    tree = ast.parse(cell.source)
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, ast.Expr):
        exec(compile(tree, script.name, "exec"), names)
        return
    tree.body.pop()
    exec(compile(tree, script.name, "exec"), names)
    value = eval(compile(ast.Expression(last.value), script.name, "eval"), names)
    if hasattr(value, "savefig"):
        from tsslbp.figures import svg

        cell.figures.append(svg.svg_text(value, prefix=script.stem))
    elif value is not None:
        cell.printed = repr(value)


def as_markdown(found: list[Cell], name: str, folder: Path) -> str:
    """The page of a tutorial; its figures are written into `folder`."""
    parts, figures = [], 0
    for cell in found:
        if cell.kind == "markdown":
            parts.append(cell.source)
            continue
        if cell.commands:
            parts.append("```sh\n" + "\n".join(cell.commands) + "\n```")
        else:
            parts.append(f"```python\n{cell.source}\n```")
        if cell.printed:
            parts.append(f"```text\n{cell.printed}\n```")
        for figure in cell.figures:
            figures += 1
            file = f"{name}-{figures}.svg"
            (folder / file).write_text(figure, encoding="utf-8")
            parts.append(f"![What the code above draws]({file})")
    parts.append(f"[Download this tutorial as a notebook]({name}.ipynb)")
    return "\n\n".join(parts) + "\n"


def as_notebook(found: list[Cell]) -> str:
    """The same as a Jupyter notebook, with its outputs."""
    return json.dumps(
        {
            "cells": [_notebook_cell(number, cell) for number, cell in enumerate(found)],
            "metadata": {
                "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                "language_info": {"name": "python"},
            },
            "nbformat": 4,
            "nbformat_minor": 5,
        },
        indent=1,
    )


def _notebook_cell(number: int, cell: Cell) -> dict[str, Any]:
    commands = "\n".join(f"!{command}" for command in cell.commands)
    source = (commands or cell.source).splitlines(keepends=True)
    shared = {"id": f"cell-{number}", "cell_type": cell.kind, "metadata": {}, "source": source}
    if cell.kind == "markdown":
        return shared
    outputs: list[dict[str, Any]] = []
    if cell.printed:
        text = cell.printed.splitlines(keepends=True)
        outputs.append({"output_type": "stream", "name": "stdout", "text": text})
    for figure in cell.figures:
        data = {"image/svg+xml": figure.splitlines(keepends=True)}
        outputs.append({"output_type": "display_data", "data": data, "metadata": {}})
    return shared | {"execution_count": None, "outputs": outputs}


def place(path: Path) -> Path | None:
    """Where the prepared pages have a file of the repository; None of a folder and the like."""
    if path.is_relative_to(DOCS):
        inside = path.relative_to(DOCS)
        is_tutorial = inside.parent.name == "tutorials" and inside.suffix == ".py"
        return inside.with_suffix(".md") if is_tutorial else inside
    return Path("source") / path.relative_to(ROOT) if path.is_file() else None


def prepare(text: str, source: Path, outside: set[Path]) -> str:
    """A page of Markdown for the site: links to files outside docs/, and formulas.

    Args:
        text: the page.
        source: the file that it comes from.
        outside: files outside docs/ that it links to are added here.
    """
    here = place(source) or Path()

    def link(match: re.Match[str]) -> str:
        picture, label, target = match.groups()
        file, hash_, part = target.partition("#")
        if not file or urlsplit(file).scheme:
            return match[0]
        path = (source.parent / file).resolve()
        there = place(path)
        if not path.is_relative_to(DOCS):
            if there is None or here.parts[0] == "source":  # one step away from docs/, no further
                return label
            outside.add(path)
        relative = os.path.relpath(there or "", here.parent)
        return f"{picture}[{label}]({relative}{hash_}{part})"

    parts = CODE.split(text)
    for number in range(0, len(parts), 2):  # between pieces of code
        parts[number] = FORMULA.sub(_formula, parts[number])
    return LINK.sub(link, "".join(parts))


def _formula(match: re.Match[str]) -> str:
    from latex2mathml import converter

    block, inline = match.groups()
    latex, display, tag = (block, "block", "div") if block else (inline, "inline", "span")
    drawn = converter.convert(latex.strip(), display=display).replace("|", "&#124;")
    return f'<{tag} class="formula">{drawn}</{tag}>'


def public_names(module_name: str) -> Iterator[tuple[str, str, Any]]:
    """What a module offers: its name there, its path for mkdocstrings, and the object."""
    module = importlib.import_module(module_name)
    stub = Path(str(module.__file__)).with_suffix(".pyi")
    if stub.exists():
        for node in ast.parse(stub.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                start = ".".join(filter(None, (module_name, node.module)))
                for one in node.names:
                    yield one.name, f"{start}.{one.name}", getattr(module, one.name)
        return
    for name, value in vars(module).items():
        own = getattr(value, "__module__", None) == module_name
        if not name.startswith("_") and own and callable(value):
            yield name, f"{module_name}.{name}", value


def undocumented(shown: str, value: Any) -> Iterator[str]:
    """Names without a docstring of their own: `shown`, and what its place on a page would hold.

    That is the functions and classes that a module itself defines, and the methods and properties
    of a class. Exempt are methods that a base class documents, and `forward` and magic methods,
    which PyTorch and Python document.
    """
    is_class, is_module = inspect.isclass(value), inspect.ismodule(value)
    kinds = (property, functools.cached_property, staticmethod, classmethod)
    if is_class or is_module or inspect.isroutine(value) or isinstance(value, kinds):
        text = (value.__doc__ or "").strip()
        if not text or (is_class and text.startswith(f"{value.__name__}(")):  # of a dataclass
            yield shown
    for name, member in vars(value).items() if is_class or is_module else ():
        if name.startswith("_") or name == "forward":
            continue
        if is_module and getattr(member, "__module__", None) != value.__name__:
            continue  # imported from elsewhere
        bases = value.__mro__[1:] if is_class else ()
        if not any(name in vars(base) and vars(base)[name].__doc__ for base in bases):
            yield from undocumented(f"{shown}.{name}", member)


def api_page(module_name: str) -> str:
    """The reference of one module.

    Raises:
        RuntimeError: public names of the module have no docstring, see `undocumented`.
    """
    module = importlib.import_module(module_name)
    parts, modules = [f"# {module_name}", inspect.cleandoc(module.__doc__ or "")], []
    missing = [] if module.__doc__ else [module_name]
    for name, path, value in public_names(module_name):
        shown = f"{module_name}.{name}"
        if shown in API or name.startswith("_"):
            continue
        missing += undocumented(shown, value)
        text = f"::: {path}\n{_options(shown)}"
        if inspect.ismodule(value):
            modules.append(text)
        else:
            parts.append(text)
    if missing:
        raise RuntimeError(f"public and without a docstring: {', '.join(missing)}")
    return "\n\n".join(parts + modules) + "\n"


def _options(heading: str) -> str:
    given = {"heading": heading, "toc_label": heading.rpartition(".")[2]}
    return f"    options: {json.dumps(given)}"


def stage(folder: Path) -> None:
    """Write everything that Zensical needs into `folder`: pages, figures, notebooks.

    Raises:
        RuntimeError: a tutorial's command fails, or a public name has no docstring.
    """
    outside: set[Path] = set()
    for source in sorted(DOCS.rglob("*")):
        there = folder / (place(source) or "")
        if not source.is_file() or source == Path(__file__) or "__pycache__" in source.parts:
            continue
        there.parent.mkdir(parents=True, exist_ok=True)
        if source.parent.name == "tutorials" and source.suffix == ".py":
            found = run(source)
            there.with_suffix(".ipynb").write_text(as_notebook(found), encoding="utf-8")
            page = as_markdown(found, source.stem, there.parent)
            there.write_text(prepare(page, source, outside), encoding="utf-8")
        elif source.suffix == ".md":
            page = source.read_text(encoding="utf-8")
            there.write_text(prepare(page, source, outside), encoding="utf-8")
        else:
            shutil.copy(source, there)
    (folder / "api").mkdir()
    for name in API:
        (folder / "api" / f"{name}.md").write_text(api_page(name), encoding="utf-8")
    for source in sorted(outside):
        there = folder / (place(source) or "")
        there.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".md":
            page = source.read_text(encoding="utf-8")
            there.write_text(prepare(page, source, set()), encoding="utf-8")
        else:
            shutil.copy(source, there)


class Page(html.parser.HTMLParser):
    """What a page of the site refers to, and the names of its places."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []  # by the browser, without being asked
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.fetched.append(given.get("href", ""))
        elif "src" in given:
            self.fetched.append(given["src"])


def problems(site: Path) -> list[str]:
    """Say, one line each, which links of a built site lead nowhere, and what it would fetch."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    found = []
    for path, page in sorted(pages.items()):
        name = path.relative_to(site)
        for target in page.fetched:
            if urlsplit(target).scheme not in ("", "data") or target.startswith("//"):
                found.append(f"{name} fetches {target}")
        for target in page.links + page.fetched:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = there / "index.html" if there.is_dir() else there
            known = pages.get(there)
            if not there.exists():
                found.append(f"{name} links to {target}, which does not exist")
            elif known and parts.fragment and unquote(parts.fragment) not in known.ids:
                found.append(f"{name} links to {target}, where there is no such place")
    for path in sorted(site.rglob("*.css")):
        for target in re.findall(r"url\(['\"]?(https?:[^)]*)", path.read_text(encoding="utf-8")):
            found.append(f"{path.relative_to(site)} fetches {target}")
    return found


def build(folder: Path) -> Path:
    """Make the site below `folder`, from nothing, and return where its pages are.

    Raises:
        RuntimeError: the build fails, or a page does not hold together.
    """
    shutil.rmtree(folder / "docs", ignore_errors=True)
    shutil.rmtree(folder / "site", ignore_errors=True)
    stage(folder / "docs")
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    config = folder / "mkdocs.yml"
    config.write_text(settings.replace("docs_dir: docs", "docs_dir: docs\nsite_dir: site"))
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "-f", str(config)]
    if subprocess.run(command, check=False, env=os.environ | {"NO_COLOR": "1"}).returncode:
        raise RuntimeError("zensical has found something wrong, see above")
    if found := problems(folder / "site"):
        raise RuntimeError("\n".join(["the site does not hold together:", *found]))
    return folder / "site"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build the documentation's site.")
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="folder to build in")
    try:
        place_of_site = build(parser.parse_args().out.resolve())
    except RuntimeError as error:
        sys.exit(f"error: {error}")
    print(f"the site is in {place_of_site}")
