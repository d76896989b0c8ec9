"""Tests that the code, commands and links in the documents work."""

import ast
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.report.conftest import make

import tsslbp.data.npz
from tsslbp import cli, experiment, rules
from tsslbp.data import Binning, DataSet, Frames
from tsslbp.neuron import cpu, cpu_rules, reference
from tsslbp.report import published
from tsslbp.studies import space

ROOT = Path(__file__).resolve().parents[1]
README, RULES = ROOT / "README.md", ROOT / "docs" / "rules.md"
GUIDE = sorted((ROOT / "docs" / "guide").glob("*.md"))
INDEX = ROOT / "docs" / "index.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").rglob("*.md")), ROOT / "src/tsslbp/neuron/README.md"]


def blocks(document: Path, language: str) -> list[str]:
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(), re.S | re.M)
    return [text for name, text in fences if name == language]


def commands(document: Path) -> list[str]:
    lines = "".join(blocks(document, "")).splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.startswith("tsslbp ")]


def file_of(block: str) -> str | None:
    """Return the file name in a block's first line, if there is one."""
    named = re.match(r"# (\S+\.(?:py|toml))\n", block)
    return named and named[1]


def small(
    name: str, _: object = None, time_steps: int = 0, binning: Binning | None = None
) -> DataSet:
    """Return a few random images or recordings instead of a whole data set."""
    if name.endswith(".npz"):
        return tsslbp.data.npz.load(Path(name))
    if tsslbp.data.holds_events(name):
        known = tsslbp.data.known_shape(name, binning)
        assert known is not None
        frames = Frames.from_dense(torch.rand(30, time_steps, *known[0]) < 0.05)
        labels = torch.arange(30) % known[1]
        return DataSet(name, frames[:20], labels[:20], frames[20:], labels[20:], known[1])
    side = 8 if name == "digits" else 28
    random = np.random.RandomState(0)
    images = torch.from_numpy(random.randint(0, 256, (30, 1, side, side)).astype(np.uint8))
    labels = torch.arange(30) % 10
    return DataSet(name, images[:20], labels[:20], images[20:], labels[20:], 10)


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(one, marks=[pytest.mark.slow] * (one.stem == "export"), id=one.name)
        for one in [README, INDEX, *GUIDE]
    ],
)
def test_python(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks(document, "python"))
    exec(compile(code, document.name, "exec"), {})


@pytest.mark.parametrize("document", [README, *sorted((ROOT / "docs").rglob("*.md"))], ids=str)
def test_examples_use_no_module_that_something_else_imported(document: Path) -> None:
    """Examples use a module as an attribute of its package only if the package exports it."""
    tree = ast.parse("\n".join(blocks(document, "python")))
    names: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and "tsslbp" in ast.unparse(node):
            exec(ast.unparse(node), names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, *rest = ast.unparse(node).split(".")
            module = names.get(first)
            while rest and isinstance(module, ModuleType) and hasattr(module, "__all__"):
                inner = sys.modules.get(f"{module.__name__}.{rest[0]}")
                assert inner is None or rest[0] in dir(module), ast.unparse(node)
                module = inner
                del rest[0]


def test_runs_as_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guide's example with pandas works, here for two learning rates with two seeds each."""
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    recipe = replace(experiment.load_recipe("digits"), epochs=2)
    for rate in (0.001, 0.01):
        for seed in (0, 1):
            wanted = replace(recipe, learning_rate=rate, seed=seed)
            make(Path("runs", f"{rate}-{seed}"), wanted, 0.9 + seed / 100)
    (example,) = (
        block for page in GUIDE for block in blocks(page, "") if "results.table(" in block
    )
    *first, last = example.strip().splitlines()
    names: dict[str, Any] = {"tsslbp": tsslbp}
    exec("\n".join(first), names)
    found = eval(last, names)
    assert list(found.index) == [0.001, 0.01] and list(found.columns) == ["mean", "std"]
    best = names["runs"].query("learning_rate == 0.01")["best_validation"]
    assert len(best) == 2 and found["mean"][0.01] == pytest.approx(best.mean())


def test_a_rule_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example in rules.md has fewer than 40 lines, and its rule works like built-in ones."""
    monkeypatch.setattr(rules, "RULES", dict(rules.RULES))
    monkeypatch.setattr(reference, "BACKWARD", dict(reference.BACKWARD))
    monkeypatch.setattr(cpu_rules, "CONSTANTS", constants := dict(cpu_rules.CONSTANTS))
    monkeypatch.setattr(cpu, "BACKWARD", constants)
    (example,) = blocks(RULES, "python")
    assert len(example.strip().splitlines()) < 40
    names: dict[str, Any] = {}
    exec(compile(example, RULES.name, "exec"), names)
    assert rules.from_config("StraightThrough(high=1.5)") == names["StraightThrough"](high=1.5)
    names["net"](torch.ones(2, 1, 28, 28)).sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in names["net"].parameters())
    current = torch.tensor([[-0.5], [0.5], [1.2], [1.7]], requires_grad=True)
    one = rules.from_config("StraightThrough(high=1.5)")
    for impl in ("reference", "cpu"):
        current.grad = None
        tsslbp.spikes(current, tau_m=1.0, rule=one, impl=impl).backward(torch.full((4, 1), 3.0))
        assert current.grad is not None
        assert current.grad.flatten().tolist() == [0.0, 3.0, 3.0, 0.0]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(one, marks=[pytest.mark.slow] * ("--cluster" in one or "onnx" in one))
        for document in (README, *GUIDE, RULES)
        for one in commands(document)
    ],
)
def test_command(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    """Every command in the documents runs, here for one epoch and on a few images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tsslbp.data, "load", small)
    files = tsslbp.data.files
    monkeypatch.setattr(files, "download", lambda source, file, folder, progress: folder / file)
    load_recipe = experiment.load_recipe

    def one_epoch(name: str) -> experiment.Experiment:
        return replace(load_recipe(name), epochs=1, validation_images=5)

    load_space = space.load_space

    def without_epochs(name: str) -> space.Space:
        one = load_space(name)
        kept = {key: values for key, values in one.parameters.items() if key != "epochs"}
        return replace(one, parameters=kept)

    monkeypatch.setattr(experiment, "load_recipe", one_epoch)
    monkeypatch.setattr(space, "load_space", without_epochs)
    for page in GUIDE:
        for text in blocks(page, "toml"):
            name = "my-space.toml" if "[parameters]" in text else "my-recipe.toml"
            Path(file_of(text) or name).write_text(text)
        for text in blocks(page, "python"):
            if name := file_of(text):
                Path(name).write_text(text)
            elif "np.savez" in text:
                exec(text, {})

    for name in re.findall(r"\S+\.png", command) if "predict" in command else ():
        Image.fromarray(np.eye(28, dtype=np.uint8) * 255).save(name)

    def run(text: str) -> None:
        assert cli.main(shlex.split(text)[1:]) == 0, capsys.readouterr().err

    words = ("resume", "evaluate", "draw", "cost", "export", "report", "tsslbp runs", "diff")
    if any(word in command for word in (*words, "--resume", "predict runs/", "--weights runs/")):
        for folder in ("runs/first", "runs/second", "runs/mnist"):
            if folder in command or folder == "runs/first":
                run(f"tsslbp train mnist --out {folder}")
    if "runs/own " in command and "train" not in command:
        run("tsslbp train own.toml --out runs/own")
    if "sweep" in command:
        command = re.sub(r" --trials \d+", "", command) + " --trials 2"
    if "reproduce" in command:  # only the digits, with one seed
        row = replace(published.find("mnist")[0], recipes=("digits",))
        monkeypatch.setattr(published, "find", lambda _: (row,))
        command += " --seeds 1"
    if "--cluster" not in command:
        request.getfixturevalue("jobs_here")
    if "compare" in command:
        command += " --time-steps 2 --learning-rates 0.002 --seeds 1"
    if "microscope" in command:
        command += " --rounds 4 --widths 0.1"
    command = re.sub(r"--seeds \d+", "--seeds 1", command)
    run(re.sub(r"--epochs \d+", "--epochs 1", command))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


def test_design_names_every_module() -> None:
    text = (ROOT / "docs" / "design.md").read_text()
    for path in (ROOT / "src").rglob("*.py"):
        assert path.name in text, path
