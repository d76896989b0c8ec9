"""Tests that a release's files can be built, installed into an empty environment, and run."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import tsslbp
from tsslbp import cli

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = "https://example.org/lab/tsslbp"  # of the repository


def run(*command: str | Path, cwd: Path | None = None, **variables: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        env=environment | variables,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution, and the wheel from it; return their folder."""
    if importlib.util.find_spec("build") is None:
        pytest.skip("build is not installed: make .venv/docs")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, TSSLBP_REPOSITORY=ADDRESS)
    return folder


def test_version(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"tsslbp {tsslbp.__version__}\n"
    assert re.match(r"\d+\.\d+", tsslbp.__version__)


def test_a_copy_that_is_not_installed_says_so(tmp_path: Path) -> None:
    shutil.copy(Path(tsslbp.__file__).with_name("_version.py"), tmp_path)
    program = (
        "from importlib import metadata\n"
        "def version(name): raise metadata.PackageNotFoundError\n"
        "metadata.version = version\n"
        "import _version; print(_version.__version__)"
    )
    assert run(sys.executable, "-c", program, cwd=tmp_path) == "0+unknown\n"


def test_the_demo_installs_only_what_it_uses() -> None:
    """None of the packages with which the other extras would delay `make demo`."""
    rule = (ROOT / "Makefile").read_text().split("$(VENV)/demo: ")[1].split("\n\n")[0]
    extras = re.findall(r"'\.\[(.*?)\]'", rule)
    assert extras == ["figures"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["figures"]]
    names = {re.match(r"[\w-]+", one)[0].lower() for one in wanted}  # type: ignore[index]
    heavy = {"triton", "optuna", "plotly", "wandb", "tensorboard", "mlflow-skinny", "scipy", "onnx"}
    assert "torch" in names and not names & heavy


def test_files_of_a_release() -> None:
    cited = (ROOT / "CITATION.cff").read_text()
    assert "cff-version: 1.2.0" in cited and "Temporal Spike Sequence Learning" in cited
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" in project["dynamic"]
    claimed = [one for one in project["classifiers"] if re.search(r":: 3\.\d+$", one)]
    assert claimed == [f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_distribution(dist: Path) -> None:
    files = sorted(dist.iterdir())
    assert [path.suffix for path in files] == [".whl", ".gz"]
    run(sys.executable, "-m", "twine", "check", "--strict", *files)
    run(Path(sys.executable).with_name("check-wheel-contents"), files[0], cwd=ROOT)
    with zipfile.ZipFile(files[0]) as wheel:
        names = wheel.namelist()
        (metadata,) = [name for name in names if name.endswith("METADATA")]
        text = wheel.read(metadata).decode()
    with tarfile.open(files[1]) as source:
        there = {name.partition("/")[2] for name in source.getnames()}
    needed = ("CONTRIBUTING.md", "Dockerfile", "Dockerfile.cuda", "results/README.md")
    assert {*needed, "docs/guide.md", "tests/test_records.py"} <= there
    wanted = ("py.typed", "__init__.pyi", "data/images/digits.npz", "experiment/recipes/mnist.toml")
    assert {f"tsslbp/{name}" for name in wanted} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "docs"))]
    assert f"Project-URL: Repository, {ADDRESS}\n" in text
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 5 and not [link for link in links if not link.startswith("https://")]
    own = re.findall(rf"\({ADDRESS}/(?:blob|raw)/HEAD/([^)#]+)", text)
    assert len(own) > 5 and not [path for path in own if not (ROOT / path).exists()]
    assert f"]({ADDRESS}/raw/HEAD/docs/mnist.png)" in text
    assert "pip install 'tsslbp[figures]'" in text and "pip install '.[" not in text
    assert "Requires-Python: >=3.11" in text and "License-Expression: MIT AND CC-BY-4.0" in text


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_wheel_in_a_clean_environment(dist: Path, tmp_path: Path) -> None:
    """A wheel without extras trains, and says which package its figures need."""
    (wheel,) = dist.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    programs = tmp_path / "env" / ("Scripts" if sys.platform == "win32" else "bin")
    constraints = ROOT / "constraints.txt"
    options = ("--quiet", "--disable-pip-version-check", "--no-compile")
    run(programs / "python", "-m", "pip", "install", *options, "--constraint", constraints, wheel)
    known = run(programs / "python", "-m", "pip", "list", "--format=freeze").lower()
    assert not [name for name in ("matplotlib", "optuna", "scipy", "nir") if f"\n{name}==" in known]
    version = wheel.name.split("-")[1]
    assert run(programs / "tsslbp", "--version") == f"tsslbp {version}\n"
    command = ("train", "digits", "--epochs", "6", "--out", "run")
    printed = run(programs / "tsslbp", *command, cwd=tmp_path)
    assert "pip install 'tsslbp[figures]'" in printed
    found = re.search(r"epoch chosen on validation images +\d+ +[\d.]+ % +([\d.]+) %", printed)
    assert found and float(found[1]) > 85
    assert not (tmp_path / "run" / "picture.png").exists()
