"""Tests of the program as a whole: its commands, errors, warnings and signals."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tsslbp import analysis, cli, data, studies
from tsslbp.cli import printing
from tsslbp.cli.microscope import NoiseOptions
from tsslbp.data import DataSet
from tsslbp.run import CHECKPOINTS, count_epochs

from .conftest import Program

pytestmark = pytest.mark.usefixtures("folder")


def test_version_and_help(program: Program) -> None:
    assert program("--version")[1].startswith("tsslbp ")
    code, output, _ = program()
    assert code == 0
    for word in ("train", "evaluate", "draw", "recipes", "info", "--traceback"):
        assert word in output
    code, output, _ = program("train", "--help")
    assert code == 0
    for option in ("--set", "--seed", "--epochs", "--protocol", "--data-dir", "--out", "--resume"):
        assert option in output


@pytest.mark.slow
def test_termination_is_an_interruption() -> None:
    """After SIGTERM, which schedulers send, a run can be continued as after Ctrl-C."""
    command = [sys.executable, "-m", "tsslbp", "train", "mine.toml", "--epochs", "10000"]
    with subprocess.Popen([*command, "--out", "run"], stdout=-1, stderr=-1, text=True) as process:
        while not count_epochs(Path("run")):
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        _, error = process.communicate()
    assert process.returncode == 130
    assert "stopped: tsslbp resume run continues the run in run" in error


def test_an_interruption_anywhere_is_told(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(printing, "print_recipes", interrupt)
    assert program("recipes") == (130, "", "stopped: the command was interrupted before its end\n")


def test_as_a_module() -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2])}
    command = [sys.executable, "-m", "tsslbp", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "Usage: tsslbp" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("train mn", "mnist mnist-best mnist-fast mnist-published"),
        ("recipes dig", "digits"),
        ("info nmnist-", "nmnist-100 nmnist-30"),
        ("microscope mov", "moving-digits"),
        ("tr", "train trials"),
        ("train mnist --protocol ", "published validated"),
        ("train mnist --device c", "cpu cuda"),
        ("sweep digits --space ", "digits published"),
        ("sweep digits --space digits --sampler ", "gp random tpe"),
        ("draw mine --checkpoint best", "best-test best-validation"),
        ("reproduce fashion", "fashion-mnist fashion-mnist-cnn fashion-mnist-mlp"),
        ("data show nm", "nmnist nmnist-sample"),
        ("evaluate runs/", "runs/one runs/study/two"),
        ("evaluate ", "digits fashion-mnist-mlp mnist runs/one"),
        ("predict di", "digits"),
    ],
)
def test_completion(
    typed: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Recipes, data sets, run folders and fixed choices are completed by bash's protocol."""
    for run in ("runs/one", "runs/study/two"):
        Path(run).mkdir(parents=True)
        Path(run, "config.toml").touch()
    words = f"tsslbp {typed}"
    monkeypatch.setenv("_TSSLBP_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    with pytest.raises(SystemExit) as end:
        cli.main([])
    assert end.value.code == 0
    assert sorted(capsys.readouterr().out.split()) == expected.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_install_completion(
    shell: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Completion is installed for the shell from which the program is started."""
    monkeypatch.setattr("shellingham.detect_shell", lambda *_: (shell, f"/bin/{shell}"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SystemExit) as end:
        cli.main(["--install-completion"])
    assert not end.value.code and f"{shell} completion installed" in capsys.readouterr().out
    written = [path for path in tmp_path.rglob("*") if path.is_file() and "tsslbp" in path.name]
    assert any("_TSSLBP_COMPLETE" in path.read_text() for path in written)


def test_what_help_says_is_so(program: Program) -> None:
    """Choices and defaults in the help are correct, although their modules are not loaded."""
    assert "|".join(CHECKPOINTS) in program("draw", "--help")[1]
    default = fields(NoiseOptions)
    assert [field.default for field in default[:2]] == [
        ", ".join(map(str, analysis.microscope.WIDTHS)),
        analysis.microscope.ROUNDS,
    ]
    output = " ".join(program("sweep", "--help")[1].split())
    assert f"Search space: {' or '.join(studies.space.space_names())}, or a" in output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "mnits"], "unknown recipe 'mnits' (did you mean 'mnist'?)"),
        (["train", "nowhere.toml"], "cannot read the recipe nowhere.toml"),
        (["train", "mine.toml", "--set", "treshold=2"], "'treshold' (did you mean 'threshold'?)"),
        (["train", "mine.toml", "--set", "tau_m=0.5"], "tau_m must be a number of at least 1"),
        (["train", "mine.toml", "--set", "time_steps=0"], "time_steps must be a whole number"),
        (["train", "mine.toml", "--set", "tau_m"], "expected a setting key=value, got 'tau_m'"),
        (["train", "mine.toml", "--set", "rule.warm=never"], "'warm'"),
        (["train", "mine.toml", "--set", "network=4C3-X2"], "'X2'"),
        (["train", "mine.toml", "--set", "network=4C9"], "4C9"),
        (["train", "mine.toml", "--set", "data=cifar"], "'cifar' (did you mean 'cifar10'?)"),
        (["train", "mine.toml", "--set", "data=other.npz"], "other.npz"),
        (["train", "mine.toml", "--set", "mean=[0.1, 0.2, 0.3]"], "1 channel: give one number"),
        (["train", "mine.toml", "--set", "validation_images=63"], "between 1 and 62"),
        (["train", "mine.toml", "--epochs", "0"], "epochs must be a whole number of at least 1"),
        (["train", "mine.toml", "--protocol", "publish"], "(did you mean 'published'?)"),
        (["train", "mine.toml", "--out", "mine.npz"], "mine.npz"),
        (["train", "mine.toml", "--seed", "one"], "--seed"),
        (["train"], "RECIPE"),
        (["trian"], "trian"),
        (["train", "mine.toml", "--epoch", "1"], "--epoch"),
        (["evaluate", "nowhere"], "nowhere is not a run folder"),
        (["info", "15C5-Q2"], "'Q2'"),
        (["info", "digit"], "(did you mean 'digits'?)"),
        (
            ["info", "unknown"],
            "; the name of a recipe is also accepted, `tsslbp recipes` lists them",
        ),
        (["info", "300", "--input-shape", "28"], "(C, H, W)"),
        (["info", "300", "--input-shape", "1x28xa"], "expects numbers such as 1x28x28"),
        (["info", "300", "--time-steps", "0"], "time_steps"),
    ],
)
def test_bad_input(arguments: list[str], expected: str, refused: Callable[..., str]) -> None:
    assert expected in refused(*arguments)
    assert not Path("runs").exists()  # so that the corrected command finds its folder free


def test_traceback_on_request(program: Program) -> None:
    with pytest.raises(Exception, match="unknown recipe 'mnits'"):
        program("train", "mnits", "--traceback")


def test_warnings_are_one_line(
    program: Program, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    import warnings

    def load(*arguments: Any) -> DataSet:
        warnings.warn("no cache [here]", RuntimeWarning, stacklevel=1)
        return original(*arguments)

    original = data.load
    warnings.simplefilter("always")
    monkeypatch.setattr(data, "load", load)
    code, _, error = program("train", "mine.toml", "--epochs", "1")
    assert code == 0
    assert error == "warning: no cache [here]\n"
    assert not recwarn
