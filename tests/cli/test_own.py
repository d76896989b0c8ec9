"""Tests of custom networks in all commands: the copied file, and whose code is executed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import tsslbp
from tsslbp import training
from tsslbp.errors import InvalidInput
from tsslbp.run import Run, results

from .conftest import RECIPE, Program, accuracies, records
from .test_trainings import _interrupt, poison

NETS = """\
from torch import nn

from tsslbp.layers import LIF, BatchNorm, Conv, Linear, NeuronDropout, Residual

{trace}
def make(input_shape, classes, settings, width=4):
    channels, height, breadth = input_shape
    constants = settings.tau_m, settings.tau_s, settings.threshold, settings.rule

    def block(inputs, **more):
        return Conv(inputs, width, 3, padding=1), BatchNorm(width), LIF(*constants, **more)

    return nn.Sequential(
        *block(channels, time_steps=settings.time_steps),
        Residual(nn.Sequential(*block(width, learnable=["tau_m"]))),
        *(nn.Flatten(-3), NeuronDropout(0.1), Linear(width * height * breadth, classes)),
    )
"""
OWN = RECIPE.replace('"4C3-P2-8"', '"nets.py:make"') + 'loss = "softmax"\nweight_scale = 2\n'


@pytest.fixture(autouse=True)
def own(folder: Path) -> Path:
    """Write a recipe that names a file next to it; executing that file creates a file `ran`."""
    (folder / "mine.toml").write_text(OWN)
    ran = str(folder / "ran")
    trace = f"with open({ran!r}, 'a') as file:\n    file.write(__file__ + chr(10))\n\n"
    (folder / "nets.py").write_text(NETS.format(trace=trace))
    return folder


def ran() -> list[str]:
    """Return the files that were executed since the last call."""
    path = Path("ran")
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def test_train_evaluate_draw(program: Program) -> None:
    code, output, error = program("train", "mine.toml", "--out", "run")
    assert (code, error) == (0, "")
    assert "network     nets.py:make, T = 3\n" in output
    assert set(ran()) == {str(Path("nets.py").resolve())}
    config = Path("run/config.toml").read_text()
    assert 'network = "nets.py:make"' in config
    assert re.search(r'^network_checksum = "[0-9a-f]{64}"$', config, re.M)
    assert Path("run/nets.py").read_bytes() == Path("nets.py").read_bytes()
    assert Path("run/picture.png").read_bytes().startswith(b"\x89PNG")
    last = Run.open(Path("run")).epochs()[-1]
    assert list(last["firing_rate"]) == ["2", "3.body.2"]
    rates = sum(last["firing_rate"].values())
    assert last["spikes_per_image"] == pytest.approx(3 * 4 * 64 * rates)
    Path("nets.py").unlink()
    code, evaluated, error = program("evaluate", "run", "--trust-code")
    assert (code, error) == (0, "")
    assert accuracies(evaluated) == accuracies(output)
    assert set(ran()) == {str(Path("run/nets.py").resolve())}
    assert Path("run/cost.json").exists() and "energy" in output
    assert "3.body.0" in program("cost", "run", "--trust-code")[1]
    assert program("draw", "run", "--trust-code", "--image", "2")[0] == 0
    names = {path.name for path in Path("run/figures").iterdir()}
    assert {"layers.svg", "confusion.svg", "image-2.svg", "histograms.svg"} <= names
    histograms = re.sub(r"<[^>]*>", "", Path("run/figures/histograms.svg").read_text())
    assert "3.body.0.weight" in histograms and "raw_tau_m" not in histograms
    traced = re.sub(r"<[^>]*>", "", Path("run/figures/image-2.svg").read_text())
    assert "3.body.2" in traced and "true and predicted" not in traced  # the output has no spikes


def test_code_of_a_folder_is_not_run_unasked(program: Program, refused: Callable[..., str]) -> None:
    """Code from the folder of a run or a study is executed only with permission."""
    assert program("train", "mine.toml", "--epochs", "1", "--out", "run")[0] == 0
    Path("nets.py").unlink()
    ran()
    commands = (
        ("evaluate", "run"),
        ("draw", "run"),
        ("cost", "run"),
        ("export", "run", "--to", "onnx", "-o", "net.onnx"),
        ("microscope", "run", "--rules", "TSSLBP, NA", "--directions", "16"),
        ("microscope", "run/config.toml", "--rules", "TSSLBP, NA"),
        ("info", "run/config.toml"),
        ("train", "run/config.toml", "--out", "run", "--resume"),
        ("train", "run/config.toml", "--out", "other"),
        ("trials", "run/config.toml", "--out", "study"),
        ("compare", "run/config.toml", "--rules", "TSSLBP, NA", "--out", "study"),
    )
    for command in commands:
        error = refused(*command)
        assert "run/nets.py is code" in error and "--trust-code" in error, command
    with pytest.raises(InvalidInput, match="trust_code=True"):
        tsslbp.load("run")
    with pytest.raises(InvalidInput, match="trust_code=True"):
        training.fit(Run.open(Path("run")), training.load_data(Run.open(Path("run")).experiment))
    shutil.copytree("run", "records", ignore=shutil.ignore_patterns("*.py", "checkpoints"))
    for folder in ("run", "records"):
        assert program("report", folder, "-o", "report.html")[0] == 0
        assert program("recipes", f"{folder}/config.toml")[0] == 0
    assert not ran() and not Path("other").exists() and not Path("study").exists()
    tsslbp.load("run", trust_code=True)
    assert ran()


def test_a_changed_copy_is_refused(program: Program, refused: Callable[..., str]) -> None:
    program("train", "mine.toml", "--epochs", "1", "--out", "run")
    ran()
    with Path("run/nets.py").open("a") as file:
        file.write("\nprint('changed')\n")
    for command in (("evaluate", "run"), ("draw", "run"), ("info", "run/config.toml")):
        assert "has changed since it was copied next to" in refused(*command, "--trust-code")
    resume = ("train", "mine.toml", "--epochs", "2", "--out", "run", "--resume")
    assert "has changed since it was copied next to" in refused(*resume)
    assert not ran()
    config = Path("run/config.toml")
    config.write_text(config.read_text().replace('"nets.py:make"', '"../nets.py:make"'))
    assert "is outside of the recipe's folder" in refused("evaluate", "run", "--trust-code")


def test_resume_runs_the_kept_file(
    program: Program, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resume accepts a recipe only with the same file, and goes on in an epoch bit for bit."""
    program("train", "mine.toml", "--out", "whole")
    with monkeypatch.context() as patch:
        patch.setattr(training.loop, "CHECKPOINT_SECONDS", 0.0)
        poison(patch, 6, _interrupt)
        assert program("train", "mine.toml", "--out", "run")[0] == 130
    ran()
    source = Path("nets.py").read_text()
    Path("nets.py").write_text(source + "# another remark\n")
    error = refused("train", "mine.toml", "--out", "run", "--resume")
    assert re.search(
        r"network is 'nets.py:make \(\w{12}\)' there, 'nets.py:make \(\w{12}\)'", error
    )
    assert not ran()
    Path("nets.py").write_text(source)
    assert program("train", "mine.toml", "--out", "run", "--resume")[0] == 0
    assert set(ran()) == {str(Path("run/nets.py").resolve())}
    assert records("run") == records("whole")
    Path("nets.py").unlink()  # the run folder suffices if its code is trusted
    longer = ("train", "run/config.toml", "--out", "run", "--resume", "--epochs", "3")
    assert program(*longer, "--trust-code")[0] == 0
    assert len(records("run")) == 3


@pytest.mark.usefixtures("jobs_here")
def test_trials(program: Program, refused: Callable[..., str]) -> None:
    """The study has a copy of the file, so later changes to the user's file do not matter."""
    command = ("trials", "mine.toml", "--epochs", "1", "--out", "out")
    code, output, error = program(*command, "--seeds", "1")
    assert (code, error) == (0, "")
    assert "mine, epochs = 1" in output
    assert Path("out/nets.py").read_bytes() == Path("nets.py").read_bytes()
    ran()
    assert program(*command, "--seeds", "2")[0] == 0
    own, kept = str(Path("nets.py").resolve()), str(Path("out/nets.py").resolve())
    assert set(ran()) == {own, kept}  # the check, and the new run
    found, _ = results.read_all([Path("out")])
    (group,) = results.group(found)
    assert group.seeds == (0, 1)
    Path("nets.py").write_text(Path("nets.py").read_text() + "\n")
    assert "out holds trials with other settings (network is" in refused(*command, "--seeds", "3")
    Path("nets.py").unlink()
    shutil.move("out", "moved")
    again = ("trials", "moved/recipe.toml", "--epochs", "1", "--seeds", "3", "--out", "moved")
    assert "--trust-code" in refused(*again)
    code, output, error = program(*again, "--trust-code")
    assert (code, error) == (0, "") and "3 runs, 2 of them finished" in output
    (group,) = results.group(results.read_all([Path("moved")])[0])
    assert group.seeds == (0, 1, 2)


@pytest.mark.slow
def test_trials_in_processes(program: Program) -> None:
    command = ("trials", "mine.toml", "--epochs", "1", "--seeds", "2", "--out", "out")
    code, _, error = program(*command)
    assert (code, error) == (0, "")
    assert len(list(Path("out").glob("*/nets.py"))) == 2


@pytest.mark.usefixtures("jobs_here")
def test_sweep(program: Program) -> None:
    """A sweep over the function's own settings goes on; the command of its best trial trains."""
    pytest.importorskip("optuna")
    Path("space.toml").write_text(
        "[parameters]\nlearning_rate = [0.01]\nnetwork_settings.width = [2, 3]\n"
    )
    command = ("sweep", "mine.toml", "--epochs", "1", "--space", "space.toml", "--out", "out")
    assert program(*command, "--trials", "2")[0] == 0
    code, output, error = program(*command, "--trials", "3")
    assert (code, error) == (0, "")
    widths = [
        Run.open(folder).experiment.network_settings["width"]
        for folder in sorted(Path("out").glob("trial-*"))
        if folder.is_dir()
    ]
    assert len(widths) == 3 and set(widths) <= {2, 3}
    assert all((folder / "nets.py").exists() for folder in Path("out").glob("trial-000?"))
    best = output.splitlines()[-1]
    assert re.search(r"--set network_settings.width=[23] ", best)
    assert program(*best.split()[1:], "--epochs", "1", "--out", "best")[0] == 0
    Path("nets.py").write_text(Path("nets.py").read_text() + "\n")
    code, _, error = program(*command, "--trials", "4")
    assert code == 2 and "holds a sweep 'out' with other settings (recipe: network is" in error


@pytest.mark.slow
@pytest.mark.usefixtures("jobs_here")
def test_compare(program: Program, refused: Callable[..., str]) -> None:
    pytest.importorskip("jinja2")
    command = ("compare", "mine.toml", "--rules", "TSSLBP, Surrogate", "--time-steps", "1,2")
    command += ("--epochs", "1", "--learning-rates", "0.01", "--seeds", "1", "--out", "out")
    code, output, error = program(*command)
    assert code == 0, error
    assert "2 rules x 2 T" in output
    page = Path("out/report.md").read_text()
    assert "The network is nets.py:make and the loss" in page
    runs = [Run.open(path.parent) for path in Path("out").rglob("metrics.jsonl")]
    assert {type(run.experiment.rule).__name__ for run in runs} == {"TSSLBP", "Surrogate"}
    assert {run.experiment.time_steps for run in runs} == {1, 2}
    assert " = 4 runs, 0 of them to make" in program(*command)[1]
    fixed = Path("nets.py").read_text().replace("settings.rule", "__import__('tsslbp').NA()")
    Path("fixed.py").write_text(fixed)
    error = refused(*command[:-1], "other", "--set", "network=fixed.py:make")
    assert "the neurons of fixed.py:make use the rule NA, not" in error
    constant = Path("nets.py").read_text().replace("settings.time_steps", "1")
    Path("fixed.py").write_text(constant)
    error = refused(*command[:-1], "other", "--set", "network=fixed.py:make")
    assert "got [1, 2, 2]; does its first LIF have time_steps=3?" in error
    assert not Path("other").exists()


@pytest.mark.slow
def test_microscope(program: Program) -> None:
    pytest.importorskip("scipy")
    command = ("microscope", "mine.toml", "--rules", "TSSLBP, Surrogate", "--widths", "0.1")
    code, output, error = program(*command, "--rounds", "4", "--directions", "16")
    assert code == 0, error
    assert "3.body.0.weight  144 weights\n" in output
    record = json.loads(Path("microscope.json").read_text())
    names = [layer["name"] for layer in record["layers"]]
    assert names == ["0.weight", "3.body.0.weight", "6.weight"]
    assert record["experiment"]["network"].startswith("nets.py:make (")
    assert program("train", "mine.toml", "--epochs", "1", "--out", "run")[0] == 0
    of_run = ("microscope", "run", *command[2:], "--rounds", "4", "--directions", "16")
    assert program(*of_run, "--trust-code")[0] == 0
    assert json.loads(Path("microscope.json").read_text())["weights"].startswith("checkpoint")


def test_info_and_recipes(program: Program) -> None:
    code, output, error = program("info", "mine.toml")
    assert (code, error) == (0, "")
    assert "nets.py:make, T = 3" in output
    assert re.search(r"3\.body\.2 +256 neurons, tau_m 5, tau_s 3, threshold 1, TSSLBP", output)
    assert "512 neurons, " in output and 'network = "nets.py:make"' in output
    code, output, _ = program("info", "sew_resnet", "--input-shape", "1x8x8", "--time-steps", "2")
    assert code == 0 and "sew_resnet, T = 2" in output
    assert "nets.py:make, T = 3" in program("recipes", "mine.toml")[1]


@pytest.mark.parametrize("name", ["vgg", pytest.param("sew_resnet", marks=pytest.mark.slow)])
def test_networks_that_ship(name: str, program: Program) -> None:
    """Built-in architectures take `[network_settings]`; the run folder contains no code."""
    channels = "[[4], [4]]" if name == "vgg" else "[4, 6]"
    command = ("train", "mine.toml", "--set", f"network={name}", "--set", "weight_scale=1")
    command += ("--set", f"network_settings.channels={channels}", "--epochs", "1", "--out", "run")
    code, output, error = program(*command)
    assert (code, error) == (0, "") and f"network     {name}, T = 3" in output
    assert f'network = "{name}"' in Path("run/config.toml").read_text()
    code, evaluated, error = program("evaluate", "run")
    assert (code, error) == (0, "") and accuracies(evaluated) == accuracies(output)
    assert program(*command, "--resume")[0] == 0
    assert program("draw", "run")[0] == 0


def test_convert_takes_networks_of_layers(refused: Callable[..., str]) -> None:
    error = refused("convert", "mine.toml", "--epochs", "1")
    assert "conversion requires a network described by its layers" in error
    assert "'nets.py:make'" in error and not ran()


def test_runs_of_a_module_at_hand(program: Program, refused: Callable[..., str]) -> None:
    """A module's runs have ordinary records; commands that need the network say it is missing."""
    from tests.training import nets
    from tests.training.toy import EXPERIMENT, toy

    module = nets.make((1, 6, 6), 2, EXPERIMENT)
    tsslbp.fit(module, toy(), EXPERIMENT, epochs=1, out="run")
    for command in (("evaluate", "run"), ("draw", "run"), ("train", "run/config.toml")):
        error = refused(*command)
        assert "(module:Sequential) is a module that a script gave to tsslbp.fit" in error
        assert "tsslbp.load(folder, module=...)" in error
    assert program("report", "run", "-o", "report.html")[0] == 0


def test_bad_input(refused: Callable[..., str]) -> None:
    """Each mistake gives one line of error before a folder is created."""
    own = Path("nets.py").read_text()
    for source, words in (
        ("def make(:", "nets.py, line 1 is not valid Python"),
        ("def other(): ...", "nets.py has no function 'make'"),
        (own.replace("return nn", "return 3; nn"), "must return a torch.nn.Module, got int"),
        (own.replace("classes)),", "9)),"), "got [3, 2, 9]; does its last connection have 2 outp"),
        (
            own.replace("channels, height", "height"),
            "nets.py, line 10: ValueError: too many values",
        ),
        (None, "cannot read the network's file"),
    ):
        Path("nets.py").write_text(source or "")
        if source is None:
            Path("nets.py").unlink()
        for command in (("train",), ("trials", "--seeds", "1"), ("info",)):
            error = refused(command[0], "mine.toml", *command[1:])
            assert words in error, error
    Path("nets.py").write_text(own)
    error = refused("train", "mine.toml", "--set", "network_settings.widht=3")
    assert "nets.py:make does not use 'widht' (did you mean 'width'?)" in error
    Path("mine.toml").write_text(OWN.replace("nets.py:make", "../nets.py:make"))
    assert "is outside of the recipe's folder" in refused("train", "mine.toml")
    assert not Path("runs").exists()
