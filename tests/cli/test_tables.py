"""Tests of the commands runs and diff, which list and compare runs, and of a run's state."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tsslbp import run as run_folder
from tsslbp.cli import printing
from tsslbp.experiment import Experiment, load_recipe
from tsslbp.run import Run, results

from .conftest import ANSI, Program

pytestmark = pytest.mark.usefixtures("folder")


def make(folder: str, accuracies: list[float], epochs: int = 2, **changes: object) -> Run:
    """Return a run of the recipe digits, of `epochs` epochs in all, with these test accuracies."""
    experiment = replace(load_recipe("digits"), epochs=epochs, **changes)
    run = Run.create(Path("runs") / folder, experiment)
    for epoch, accuracy in enumerate(accuracies, 1):
        values = {"train_accuracy": 0.5, "test_accuracy": accuracy, "seconds": 30.0, "loss": 0.25}
        run.append_epoch({"epoch": epoch, "validation_accuracy": 1 - accuracy, **values})
    return run


@pytest.fixture
def four(folder: Path) -> None:
    """Create runs in each of the states but running."""
    make("a", [0.9, 0.8])
    make("b", [0.7, 0.95], seed=1, learning_rate=0.25)
    make("deep/c", [0.6], epochs=3)
    make("d", []).record_divergence("NaN")


@pytest.mark.usefixtures("four")
def test_runs_are_listed(program: Program) -> None:
    code, output, error = program("runs")
    assert (code, error) == (0, "")
    head, *lines, _, last = output.splitlines()
    assert head.split() == [
        *("run", "settings", "state", "seed", "epochs"),
        *("last", "validation", "best", "test", "time"),
    ]
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines}
    assert rows["runs/a"].endswith("finished 0 2/2 80.00 % 80.00 % 90.00 % 1 min 0 s")
    assert "learning_rate = 0.25, " in rows["runs/b"] or "learning_rate = 0.25 " in rows["runs/b"]
    assert rows["runs/b"].endswith("finished 1 2/2 95.00 % 70.00 % 95.00 % 1 min 0 s")
    assert rows["runs/deep/c"].endswith("interrupted 0 1/3 60.00 % 60.00 % 60.00 % 30.0 s")
    assert rows["runs/d"].endswith("diverged 0 0/2 - - - 0.0 s")
    assert all(row.startswith("digits, ") for row in rows.values())
    assert last == "4 runs: 2 finished, 1 diverged, 1 interrupted"


@pytest.mark.usefixtures("four")
def test_a_run_that_is_trained_is_running(program: Program) -> None:
    run = Run.open(Path("runs/deep/c"))
    with run.hold():
        assert "running" in program("runs", "runs/deep")[1]
    assert "interrupted" in program("runs", "runs/deep")[1]


def names(output: str) -> list[str]:
    return [
        line.split()[0].removeprefix("runs/") for line in output.splitlines()[1:] if "runs/" in line
    ]


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--where", "state=finished"], ["a", "b"]),
        (["--where", "state!=finished"], ["d", "deep/c"]),
        (["--where", "last>0.85"], ["b"]),
        (["--where", "last >= 0.8"], ["a", "b"]),
        (["--where", "learning_rate=0.25"], ["b"]),
        (["--where", "rule.warm_up=neuron", "--where", "seed=1"], ["b"]),
        (["--where", "desired_train=[0, 1]"], []),
        (["--where", "last>=80%"], ["a", "b"]),
        (["--where", "seed == 1"], ["b"]),
        (["--where", "rule=TSSLBP", "--where", "seed=1"], ["b"]),
        (["--where", "rule=SLAYER"], []),
        (["--sort", "-best test"], ["b", "a", "deep/c", "d"]),
        (["--sort", "-time", "--where", "time<50"], ["deep/c", "d"]),
        (["--sort", "last"], ["deep/c", "a", "b", "d"]),
        (["--sort", "-best_test"], ["b", "a", "deep/c", "d"]),
        (["--sort", "state"], ["d", "a", "b", "deep/c"]),
        (["--sort", "-seed", "--where", "state=finished"], ["b", "a"]),
    ],
)
def test_sort_and_filter(arguments: list[str], expected: list[str], program: Program) -> None:
    code, output, _ = program("runs", *arguments)
    assert code == 0
    assert names(output) == expected
    assert expected or "none of 4 runs meets the conditions" in output


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--where", "lst>3"], "unknown column or setting 'lst' (did you mean 'last'?)"),
        (["--where", "finished"], "expects a condition such as state=finished or last>0.98, got"),
        (
            ["--sort", "best-test"],
            "unknown column or setting 'best-test' (did you mean 'best_test'?",
        ),
        (["--where", "epochs=>3"], "expects a condition such as state=finished or last>0.98, got"),
        (
            ["--where", "state=done"],
            "state is one of running, finished, diverged, interrupted, got",
        ),
        (["--where", "seed=one"], "seed is a number, got 'one'"),
        (["--where", "last>98"], "last is between 0 and 1, got 98: write 0.98 or 98%"),
        (["nowhere"], "there is no folder nowhere"),
        (["--csv", "--json"], "give only one of --csv and --json"),
    ],
)
def test_mistakes(arguments: list[str], words: str, refused: Callable[..., str]) -> None:
    assert words in refused("runs", *arguments)


@pytest.mark.usefixtures("four")
def test_runs_for_other_programs(program: Program) -> None:
    Path("runs/broken").mkdir()
    Path("runs/broken/config.toml").write_text("network = 3")
    code, output, error = program("runs", "--csv")
    assert code == 0
    assert error.startswith("skipped: cannot open the run runs/broken")
    rows = list(csv.DictReader(io.StringIO(output)))
    assert [row["run"] for row in rows] == ["runs/a", "runs/b", "runs/d", "runs/deep/c"]
    assert rows[1]["last"] == "0.95" and rows[1]["best_validation"] == "0.7"
    assert rows[1]["learning_rate"] == "0.25" and rows[2]["last"] == ""
    table = json.loads(program("runs", "--json")[1])
    assert [str(row["learning_rate"]) for row in table] == [row["learning_rate"] for row in rows]
    assert table[2]["last"] is None and table[3]["epochs"] == 1
    lines = program("runs", "--latex", "--where", "last>0.9")[1].splitlines()
    assert lines[:2] == [r"\begin{tabular}{lllrrrrrr}", r"\toprule"]
    assert lines[4].startswith("runs/b & digits, ") and lines[4].endswith(
        r"95.00 \% & 1 min 0 s \\"
    )
    assert r"learning\_rate = 0.25" in lines[4]


def test_a_recipe_of_ones_own_gives_its_name(program: Program) -> None:
    """The label has the recipe's file or `name`, the changes, and what else tells runs apart."""

    def labels() -> list[str]:
        return [row["settings"] for row in json.loads(program("runs", "--json")[1])]

    assert program("train", "mine.toml", "--epochs", "1", "--out", "runs/1")[0] == 0
    text = Path("mine.toml").read_text()
    Path("mine.toml").write_text(f'name = "left and right"\n{text}')
    change = ["--set", "learning_rate=0.02", "--seed", "4", "--epochs", "1"]
    assert program("train", "mine.toml", *change, "--out", "runs/2")[0] == 0
    assert labels() == ["mine, epochs = 1", "left and right, epochs = 1, learning_rate = 0.02"]
    Path("mine.toml").write_text(text.replace("0.01", "0.03"))
    assert program("train", "mine.toml", "--epochs", "1", "--out", "runs/3")[0] == 0
    first, _, third = labels()
    assert (first, third) == (
        "mine, epochs = 1, learning_rate = 0.01",
        "mine, epochs = 1, learning_rate = 0.03",
    )
    config = load_recipe(Path("runs/2/config.toml"))
    assert (config.name, config.changed) == ("left and right", ("epochs", "learning_rate"))


def test_the_name_is_no_setting(program: Program) -> None:
    """A run can be resumed under another name, and comparisons ignore names."""
    assert program("train", "mine.toml", "--epochs", "1", "--out", "run")[0] == 0
    named = ["--set", "name=other", "--epochs", "1"]
    assert program("train", "mine.toml", *named, "--out", "run", "--resume")[0] == 0
    old = Experiment("mnist", "300")
    assert results.settings_of(replace(old, name="a", changed=("seed",))) == results.settings_of(
        old
    )


@pytest.mark.parametrize("name", ["", " ", "two\nlines", "x" * 61, "\x1b[31m"])
def test_a_name_is_one_short_line(name: str) -> None:
    with pytest.raises(ValueError, match="name must be one line of text, of at most 60 characters"):
        Experiment("mnist", "300", name=name)


@pytest.mark.usefixtures("four")
def test_diff(program: Program, refused: Callable[..., str]) -> None:
    code, output, error = program("diff", "runs/a", "runs/b")
    assert (code, error) == (0, "")
    settings, environment, records = re_blocks(output)
    assert settings[0].split() == ["settings", "runs/a", "runs/b"]
    rate = load_recipe("digits").learning_rate
    assert [line.split() for line in settings[1:]] == [
        ["learning_rate", f"{rate:g}", "0.25"],
        ["seed", "0", "1"],
    ]
    assert environment == ["the same environment"]
    cells = {line.split("  ")[0]: line.split()[-2:] for line in records}
    assert cells["best_test"] == ["0.9", "0.95"] and cells["seconds"] == ["60", "60"]
    rows = json.loads(program("diff", "runs/a", "runs/b", "--json")[1])
    assert {"part": "settings", "key": "seed", "runs/a": 0, "runs/b": 1} in rows
    assert "runs holds 4 runs: name one" in refused("diff", "runs", "runs/a")
    assert "runs/x is not a folder" in refused("diff", "runs/a", "runs/x")


def re_blocks(output: str) -> list[list[str]]:
    return [block.splitlines() for block in output.strip().split("\n\n")]


def test_a_table_of_a_thousand_runs() -> None:
    """The table takes less than 5 s of processor time, the start of the program included.

    An idle processor needs less than 2 s, a busy one twice that.
    """
    make("0", [0.5 + epoch / 1000 for epoch in range(100)], epochs=100)
    text = Path("runs/0/config.toml").read_text()
    for number in range(1, 1000):
        shutil.copytree("runs/0", f"runs/{number}")
        rate = f"learning_rate = {0.001 * (1 + number // 5):g}"
        changed = text.replace("learning_rate = 0.001", rate).replace(
            "seed = 0", f"seed = {number % 5}"
        )
        Path(f"runs/{number}/config.toml").write_text(changed)
    before = os.times()
    command = [sys.executable, "-m", "tsslbp", "runs", "--sort", "-best_test"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = os.times()
    assert done.stdout.splitlines()[-1] == "1,000 runs"
    taken = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    assert taken < 5


def test_a_data_frame(four: None) -> None:
    pandas = pytest.importorskip("pandas")
    frame = results.table("runs")
    assert isinstance(frame, pandas.DataFrame)
    assert tuple(frame.columns[: len(results.COLUMNS)]) == results.COLUMNS
    assert frame[frame.state == "finished"].best_test.tolist() == [0.9, 0.95]
    assert "learning_rate" in frame and "batch_size" not in frame
    Path("runs/broken").mkdir()
    Path("runs/broken/config.toml").write_text("network = 3")
    with pytest.warns(UserWarning, match="cannot open the run runs/broken"):
        assert len(results.table(Path("runs"))) == 4


def test_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(
        ValueError, match="a DataFrame needs pandas, which is not installed: pip install pandas"
    ):
        results.table("runs")


def test_records_are_read_without_torch() -> None:
    make("a", [0.5, 0.6])
    code = (
        "import sys; from tsslbp.cli import main; main(['runs']); sys.exit('torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode
        == 0
    )
    assert run_folder.count_epochs(Path("runs/a")) == 2


def test_a_table_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text is wrapped, and numbers stay whole."""
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=90, highlight=False)
    monkeypatch.setattr(printing, "console", terminal)
    rows = [("run", "settings", "last"), ("runs/a", "x" * 100, "98.50 %"), ("b", "y z", "1.00 %")]
    printing.print_table(rows, text=(0, 1))
    lines = ANSI.sub("", screen.getvalue()).splitlines()
    assert max(map(len, lines)) <= 90 and len(lines) == 4
    assert "".join(lines).count("x") == 100 and lines[1].rstrip().endswith("98.50 %")
