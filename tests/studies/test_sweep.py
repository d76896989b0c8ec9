"""Sweeps: what is tried, by whom, and that nothing is lost or made twice."""

from __future__ import annotations

import itertools
import json
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from tsslbp import cli, data, training
from tsslbp.data import DataSet
from tsslbp.errors import Diverged, InvalidInput, RunError
from tsslbp.experiment import Experiment, load_recipe
from tsslbp.run import Run
from tsslbp.storage import hold
from tsslbp.studies import sweep
from tsslbp.studies.space import Choice, Range, Space, load_space
from tsslbp.studies.sweep import Outcome, Search, Sweep

RECIPE = """
data = "mine.npz"
network = "4C3-P2-8"
time_steps = 3
validation_images = 12
epochs = 2
batch_size = 16
learning_rate = 0.01
"""
SPACE = """
trials = 4
[parameters]
learning_rate = { low = 0.001, high = 0.1, log = true }
time_steps = [2, 3, 5]
rule.warm_up = ["neuron", "always"]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a recipe, its images and a space."""
    for variable in ("TSSLBP_DATA", "TSSLBP_STORAGE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    labels = np.arange(70) % 2
    images = np.random.RandomState(0).randint(0, 100, (70, 8, 8)).astype(np.uint8)
    images[labels == 0, :, :4] += 100
    images[labels == 1, :, 4:] += 100
    np.savez("mine.npz", images=images, labels=labels)
    Path("mine.toml").write_text(RECIPE)
    Path("space.toml").write_text(SPACE)
    return tmp_path


class Silent:
    """Watches, and remembers what ended; `on_epoch` may be replaced."""

    def __init__(self, on_epoch: Callable[[dict[str, Any]], None] = lambda record: None) -> None:
        self.on_epoch = on_epoch
        self.outcomes: list[Outcome] = []

    def on_step(self, *_: object) -> None:
        pass

    def observe(self, run: Run) -> nullcontext[Silent]:
        return nullcontext(self)

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


def planned(out: str = "out", trials: int = 4, **options: Any) -> Sweep:
    options = {"space": load_space("space.toml")} | options
    return Sweep(load_recipe("mine.toml"), trials=trials, folder=Path(out), **options)


def images() -> DataSet:
    return data.load(str(Path("mine.npz").resolve()))


def work(one: Sweep, watch: Silent | None = None) -> list[Outcome]:
    """Make the trials of a sweep; returns all in their order."""
    search = Search(one)
    search.work(images(), watch or Silent())
    return sorted(search.outcomes(), key=lambda outcome: outcome.number)


@pytest.fixture
def accuracy(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let trainings record accuracies of a function of (experiment, epoch), and learn nothing."""

    def use(function: Callable[[Experiment, int], float]) -> None:
        def fit(run: Run, data: DataSet, observer: Any, device: str) -> None:
            for epoch in range(len(run.epochs()) + 1, run.experiment.epochs + 1):
                value = function(run.experiment, epoch)
                record = {"epoch": epoch, "validation_accuracy": value, "test_accuracy": 1 - value}
                run.append_epoch(record)
                observer.on_epoch(record)

        monkeypatch.setattr(training, "fit", fit)

    return use


def by_rate(experiment: Experiment, epoch: int) -> float:
    return math.exp(-(math.log10(experiment.learning_rate / 0.02) ** 2)) * 0.9 + 0.01 * epoch


def test_trials_are_runs_with_their_settings_and_best_epoch() -> None:
    outcomes = work(planned())
    assert [outcome.number for outcome in outcomes] == [0, 1, 2, 3]
    for outcome in outcomes:
        run = Run.open(Path(outcome.folder))
        assert run.folder == Path(f"out/trial-{outcome.number:04d}")
        there = run.experiment
        assert outcome.values == {
            "learning_rate": there.learning_rate,
            "time_steps": there.time_steps,
            "rule.warm_up": there.rule.warm_up,  # type: ignore[attr-defined]
        }
        assert 0.001 <= there.learning_rate <= 0.1
        assert there.learning_rate == float(f"{there.learning_rate:.4g}")  # readable
        assert there.protocol == "validated"
        best = max(record["validation_accuracy"] for record in run.epochs())
        assert (outcome.state, outcome.accuracy) == ("finished", best)
    ranked = Search(planned()).outcomes()
    accuracies = [outcome.accuracy for outcome in ranked]
    assert accuracies == sorted(accuracies, reverse=True)  # type: ignore[type-var]


def test_the_published_objective_is_the_best_test_epoch() -> None:
    (outcome,) = work(planned(trials=1, objective="test"))
    run = Run.open(Path(outcome.folder))
    assert run.experiment.protocol == "published"
    assert outcome.accuracy == max(record["test_accuracy"] for record in run.epochs())


def test_a_sweep_repeats_exactly_also_after_interruptions(accuracy: Callable[..., None]) -> None:
    accuracy(by_rate)
    whole = work(planned("a/same", 8))

    def interrupt(record: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    for trials in (2, 5, 8):
        search = Search(planned("b/same", trials))
        with pytest.raises(KeyboardInterrupt):
            search.work(images(), Silent(interrupt))
        search.work(images(), Silent())
    parts = sorted(search.outcomes(), key=lambda outcome: outcome.number)
    assert [replace(one, folder="") for one in parts] == [replace(one, folder="") for one in whole]
    assert len({str(one.values) for one in whole}) > 6


def test_finished_trials_are_not_repeated() -> None:
    first = work(planned(trials=2))
    before = {path: path.read_bytes() for path in Path("out").glob("trial-*/*.jsonl")}
    watch = Silent()
    assert work(planned(trials=2), watch) == first
    assert watch.outcomes == []
    assert work(planned(trials=3), watch)[:2] == first
    assert [outcome.number for outcome in watch.outcomes] == [2]
    assert all(path.read_bytes() == content for path, content in before.items())


def test_settings_tried_again_are_a_new_measurement(accuracy: Callable[..., None]) -> None:
    accuracy(by_rate)
    one = Space({"time_steps": Choice((3,))})
    assert [outcome.seed for outcome in work(planned(trials=3, space=one))] == [0, 1, 2]
    two = Space({"time_steps": Choice((2, 3))})
    outcomes = work(planned("two", 8, space=two))
    runs = [(outcome.values["time_steps"], outcome.seed) for outcome in outcomes]
    assert len(set(runs)) == 8
    assert all(Run.open(Path(one.folder)).experiment.seed == one.seed for one in outcomes)


def test_the_search_is_bayesian_with_few_trials() -> None:
    """On the published space and an objective of its kind, 12 trials beat 12 random ones."""
    space, trials = load_space("published").fitted(load_recipe("mnist")), 12
    parameters = space.parameters.items()
    choices = [one.inside() for _, one in parameters]

    def truth(epochs: int, rate: float, steps: int, best: float) -> float:
        return -1.2 * (math.log10(rate) - best) ** 2 + 0.15 * math.log2(epochs * steps**0.7)

    def regret(sampler: str, seed: int) -> float:
        """How far the trial that looks best is below the best of the space, with noise."""
        random = np.random.RandomState(seed)
        optimum = random.uniform(-3.7, -2.3)
        recipe = replace(load_recipe("mnist"), seed=seed)
        planned = Sweep(recipe, space, trials, Path(), sampler=sampler)
        study = optuna.create_study(direction="maximize")
        found = []
        for number in range(trials):
            study.sampler = sweep._sampler(planned, number, False)
            trial = study.ask()
            for key, parameter in parameters:
                sweep._suggest(trial, key, parameter)
            values = [
                sweep._value(space.parameters[key], trial.params[key]) for key in trial.params
            ]
            real = truth(*values, optimum)
            seen = real + 0.08 * random.randn()
            study.tell(trial, seen)
            found.append((seen, real))
        return (
            max(truth(*values, optimum) for values in itertools.product(*choices)) - max(found)[1]
        )

    means = {
        name: np.mean([regret(name, seed) for seed in range(8)]) for name in ("gp", "tpe", "random")
    }
    assert means["gp"] < 0.5 * means["random"]
    assert means["tpe"] < means["random"]


@pytest.mark.parametrize(("trials", "startup"), [(4, 3), (12, 3), (20, 5), (500, 10)])
def test_start_up_leaves_most_trials_to_the_sampler(trials: int, startup: int) -> None:
    assert planned(trials=trials).startup_trials == startup


def test_a_diverged_trial_counts_and_says_why(accuracy: Callable[..., None]) -> None:
    def diverge(experiment: Experiment, epoch: int) -> float:
        if experiment.learning_rate > 0.01:
            raise Diverged("the loss is nan")
        return 0.5

    accuracy(diverge)
    outcomes = work(planned(trials=12))
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    assert 0 < len(failed) < 12
    assert {outcome.reason for outcome in failed} == {"the loss is nan"}
    assert {outcome.accuracy for outcome in failed} == {None}
    # The sampler, which knows nothing of failures, does not insist on them.
    pairs = itertools.pairwise(outcomes)
    assert all(next_.values != one.values for one, next_ in pairs if one.state == "failed")


def test_values_that_do_not_go_together_fail_their_trial(accuracy: Callable[..., None]) -> None:
    accuracy(by_rate)
    space = Space({"time_steps": Choice((1, 4)), "desired_train": Choice(([1], [0, 1]))})
    recipe = replace(load_recipe("mine.toml"), desired_train=(1,))
    outcomes = work(Sweep(recipe, space, 10, Path("out")))
    assert len(outcomes) == 10
    for outcome in outcomes:
        together = outcome.values == {"time_steps": 1, "desired_train": "[0, 1]"}
        assert outcome.state == ("failed" if together else "finished")
    reasons = {outcome.reason for outcome in outcomes} - {""}
    assert all("desired_train must have a spike" in reason for reason in reasons)
    assert reasons


def test_bad_trials_are_pruned_on_request(accuracy: Callable[..., None]) -> None:
    accuracy(lambda experiment, epoch: by_rate(experiment, epoch))
    long = replace(load_recipe("mine.toml"), epochs=10)
    options: dict[str, Any] = {"space": Space({"learning_rate": Range(0.001, 0.1, log=True)})}
    options |= {"trials": 12, "sampler": "random"}
    outcomes = work(Sweep(long, folder=Path("pruned"), pruner="median", **options))
    whole = work(Sweep(long, folder=Path("whole"), **options))
    assert {outcome.state for outcome in whole} == {"finished"}
    pruned = [outcome for outcome in outcomes if outcome.state == "pruned"]
    assert pruned
    for outcome in pruned:
        epochs = Run.open(Path(outcome.folder)).epochs()
        assert 1 <= len(epochs) < 10
        assert outcome.accuracy == epochs[-1]["validation_accuracy"]
    best = max(whole, key=lambda outcome: outcome.accuracy or 0)
    assert outcomes[best.number].state == "finished"


def test_a_trial_of_a_killed_process_is_continued_by_the_next() -> None:
    """Bit for bit, as if it had not been killed, and each epoch is reported once."""
    whole = work(planned("a/same", 2))

    class Killed(BaseException):
        pass

    def kill(record: dict[str, Any]) -> None:
        raise Killed

    search = Search(planned("b/same", 2))
    with pytest.raises(Killed):
        search.work(images(), Silent(kill))  # behind the checkpoint of the first epoch
    assert [one.state for one in search.outcomes()] == ["running"]
    others = work(planned("b/same", 2))
    assert [replace(one, folder="") for one in others] == [replace(one, folder="") for one in whole]
    run = Run.open(Path("b/same/trial-0000"))
    assert len(run.environment["resumed"]) == 1
    assert [record["epoch"] for record in run.epochs()] == [1, 2]
    (trial, _) = search.study.get_trials()
    expected = {record["epoch"]: record["validation_accuracy"] for record in run.epochs()}
    assert trial.intermediate_values == expected


def test_a_trial_killed_before_its_run_began_is_not_lost() -> None:
    search = Search(planned(trials=1))
    with search._claim() as trial:
        assert trial is not None
        values = dict(trial.params)
    (outcome,) = work(planned(trials=1))
    assert outcome.state == "finished"
    assert search.study.get_trials()[0].params == values


def test_a_trial_killed_before_it_had_values_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    search = Search(planned(trials=1))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "_suggest", killed)
        with pytest.raises(KeyboardInterrupt):
            search.work(images(), Silent())
    assert search.study.get_trials()[0].params == {}
    (outcome,) = work(planned(trials=1))
    assert outcome.state == "finished"


def test_a_trial_that_kills_its_processes_is_given_up(accuracy: Callable[..., None]) -> None:
    class Killed(BaseException):
        pass

    def kill(experiment: Experiment, epoch: int) -> float:
        raise Killed

    accuracy(kill)
    search = Search(planned(trials=1))
    for _ in range(sweep.KILLS):
        with pytest.raises(Killed):
            search.work(images(), Silent())
    search.work(images(), Silent())
    (outcome,) = search.outcomes()
    assert outcome.state == "failed"
    assert outcome.reason == "5 processes that trained it were killed: short of memory?"


@pytest.mark.parametrize("stop", ["interrupt", "epoch"])
def test_a_trial_that_gets_on_is_not_given_up(stop: str, accuracy: Callable[..., None]) -> None:
    class Killed(BaseException):
        pass

    def end(record: dict[str, Any]) -> None:
        if stop == "interrupt":
            raise KeyboardInterrupt
        if record["epoch"] % 2 == 0:  # the second epoch of its process
            raise Killed

    accuracy(by_rate)
    one, times = planned(trials=1), sweep.KILLS + 2
    search = Search(replace(one, experiment=replace(one.experiment, epochs=2 * times + 1)))
    for _ in range(times):
        with pytest.raises((Killed, KeyboardInterrupt)):
            search.work(images(), Silent(end))
    search.work(images(), Silent())
    assert [outcome.state for outcome in search.outcomes()] == ["finished"]


def test_a_trial_that_somebody_trains_is_left_alone() -> None:
    first, second = Search(planned(trials=2)), Search(planned(trials=2))
    with first._claim() as mine, second._claim() as other, Search(planned(trials=2))._claim() as no:
        assert mine is not None and other is not None
        assert (mine.number, other.number, no) == (0, 1, None)
    with second._claim() as orphan:  # the first one now, since nobody holds it
        assert orphan is not None and orphan.number == 0


def test_a_trial_of_another_folder_is_left_alone() -> None:
    """Locks do not reach machines that do not share the file system."""
    options = {"storage": f"sqlite:///{Path('shared.db').resolve()}", "trials": 2}
    here, there = (Search(planned(f"{name}/same", **options)) for name in ("here", "there"))
    with here._claim():
        pass
    there.work(images(), Silent())
    states = {outcome.number: (outcome.state, outcome.folder) for outcome in there.outcomes()}
    folders = [
        str(Path(name, "same", trial))
        for name, trial in (("here", "trial-0000"), ("there", "trial-0001"))
    ]
    assert states == {0: ("running", folders[0]), 1: ("finished", folders[1])}
    here.work(images(), Silent())
    assert {outcome.state for outcome in there.outcomes()} == {"finished"}


def test_two_machines_at_once_do_not_make_one_too_many() -> None:
    options = {"storage": f"sqlite:///{Path('shared.db').resolve()}", "trials": 1}
    here, there = (Search(planned(f"{name}/same", **options)) for name in ("here", "there"))
    add_trial = there.study.add_trial

    def later(trial: Any) -> None:
        here.study.add_trial(trial)  # the other machine makes one between the look and ours
        add_trial(trial)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(there.study, "add_trial", later)
        patch.setattr(there, "_counted", lambda counted=there._counted: foreign(counted()))

        def foreign(trials: list[Any]) -> list[Any]:
            for trial in trials[:1]:
                trial.user_attrs["tsslbp.folder-id"] = here.folder_id
            return trials

        with there._claim() as trial:
            assert trial is None
    assert len(here.outcomes()) == 1
    assert len(here.study.get_trials()) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"space": Space({"time_steps": Choice((2, 3))})}, "space: time_steps is [2, 3, 5] there"),
        ({"objective": "test"}, "objective is 'validation' there, 'test' here"),
        ({"sampler": "random"}, "sampler is 'gp' there, 'random' here"),
        ({"pruner": "median"}, "pruner is 'none' there, 'median' here"),
        ({"storage": "other.log"}, "is kept in study.db, not in other.log"),
    ],
)
def test_a_sweep_of_other_settings_is_refused(changes: dict[str, Any], words: str) -> None:
    Search(planned())
    with pytest.raises(InvalidInput) as caught:
        Search(planned(**changes))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_recipe_is_refused_but_not_for_what_is_searched() -> None:
    one = planned()
    Search(one)
    Search(replace(one, experiment=replace(one.experiment, learning_rate=1.0)))
    with pytest.raises(InvalidInput, match=r"recipe: tau_m is 5\.0 there, 4\.0 here"):
        Search(replace(one, experiment=replace(one.experiment, tau_m=4.0)))


def test_a_folder_may_be_moved() -> None:
    first = work(planned(trials=1))
    Path("out").rename("moved")
    assert work(planned("moved", 2))[0].values == first[0].values


def test_a_foreign_run_in_a_trials_place_is_not_taken_for_it() -> None:
    Run.create(Path("out/trial-0000"), load_recipe("mine.toml"))
    with pytest.raises(RunError, match="out/trial-0000 holds a run of other settings"):
        work(planned())


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("sqlite:////none/study.db", "unable to open database file"),
        ("none/study.log", "No such file or directory"),
        ("unknown://host/x", "Can't load plugin"),
        ("study.txt", "storage must be a database's URL"),
    ],
)
def test_a_storage_that_cannot_be_used(storage: str, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Search(planned(storage=storage))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    Search(planned())  # the folder is not spoilt


def test_passwords_are_not_shown() -> None:
    pytest.importorskip("sqlalchemy")
    with pytest.raises(InvalidInput) as caught:
        Search(planned(storage="nonesuch://me:secret@host/x"))
    assert "secret" not in str(caught.value)


def test_a_storage_that_goes_away() -> None:
    search = Search(planned())
    Path("out/study.db").write_bytes(b"not a database" * 100)
    with pytest.raises(RunError, match=r"cannot use the storage study\.db: "):
        search.work(images(), Silent())


def test_data_that_do_not_fit_a_value() -> None:
    with pytest.raises(InvalidInput, match="crop_padding must be below the images' size"):
        planned(space=Space({"crop_padding": Choice((0, 9))})).check(images())
    with pytest.raises(InvalidInput, match="precision 'tf32' needs a GPU"):
        planned(space=Space({"precision": Choice(("float32", "tf32"))})).check(images())


@pytest.mark.parametrize("name", ["objective", "sampler", "pruner"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"{name} must be one of .*, got 'tst'"):
        planned(**{name: "tst"})


def test_without_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InvalidInput, match=r"pip install 'tsslbp\[study\]'"):
        Search(planned())


def test_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sweep", "mine.toml", "--space", "space.toml", "--set", "tau_m=4"]
    command += ["--track", "tensorboard"]
    assert cli.main([*command, "--trials", "2", "--set", "protocol=published"]) == 0
    output, error = capsys.readouterr()
    assert error == ""
    assert "12 training images are held out" in output
    best = Search(
        replace(
            planned("runs/mine-sweep", 2),
            experiment=Run.open(Path("runs/mine-sweep/trial-0000")).experiment,
        )
    ).outcomes()[0]
    assert (Path(best.folder) / "tensorboard").is_dir()
    words = shlex.split(output.splitlines()[-1])
    assert words[:2] == ["tsslbp", "train"]
    assert cli.main([*words[1:], "--out", "again"]) == 0
    again, there = Run.open(Path("again")), Run.open(Path(best.folder))
    assert again.experiment == there.experiment
    accuracies = [[one["test_accuracy"] for one in run.epochs()] for run in (again, there)]
    assert accuracies[0] == accuracies[1]


def test_the_program_cautions_against_the_test_objective(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["sweep", "mine.toml", "--space", "space.toml", "--trials", "1"]
    assert cli.main([*command, "--objective", "test"]) == 0
    output, error = capsys.readouterr()
    assert error.startswith("caution: the settings are chosen on test images")
    assert error.count("\n") == 1
    assert "--protocol published" in output


def test_the_program_starts_workers(capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs").mkdir()
    command = ["sweep", "mine.toml", "--space", "space.toml", "--seed", "3", "--set", "epochs=1"]
    assert cli.main([*command, "--workers", "2", "--storage", "runs/study.log"]) == 0
    output, error = capsys.readouterr()
    assert error == ""
    assert output.startswith("2 trials at a time, ")
    assert len(list(Path("runs/mine-sweep").glob("worker-*.log"))) == 2
    for number in range(4):
        (first, second) = [line for line in output.splitlines() if f"trial-{number:04d} " in line]
        assert first == second and " finished " in first
    run = Run.open(Path("runs/mine-sweep/trial-0000"))
    assert run.experiment.seed == 3
    assert "study.log" not in json.dumps(run.environment)  # it might hold a password


def test_the_program_sweeps_on_a_cluster() -> None:
    """Submitit's local executor: each worker is a job, and together they make as many as asked."""
    pytest.importorskip("submitit")
    command = ["sweep", "mine.toml", "--space", "space.toml", "--set", "epochs=1", "--workers", "2"]
    cluster = ["--cluster", "local", "--cluster-set", "cpus_per_task=1"]
    assert cli.main([*command, *cluster, "--out", "out", "--trials", "2"]) == 0
    assert len(list(Path("out/.cluster").glob("*_submitted.pkl"))) == 2
    assert len([path for path in Path("out").glob("trial-*") if Run.open(path).epochs()]) == 2


def test_the_program_names_a_space_without_trials(capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.toml").write_text("[parameters]\nepochs = [1, 2]\n")
    assert cli.main(["sweep", "mine.toml", "--space", "space.toml"]) == 2
    assert capsys.readouterr().err == (
        "error: space.toml does not say how many trials to make: give --trials\n"
    )
    assert not Path("runs").exists()


EPOCHS, TRIALS = 30, 4


@pytest.fixture
def workers() -> Iterator[Callable[[str, Path], subprocess.Popen[str]]]:
    """Start processes of one sweep; each is known by its folder of data, which nobody reads."""
    started = []

    def start(storage: str, known_by: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tsslbp", "sweep", "mine.toml", "--space", "space.toml"]
        command += ["--trials", str(TRIALS), "--out", "out", "--data-dir", str(known_by)]
        command += ["--set", f"epochs={EPOCHS}", *(["--storage", storage] if storage else [])]
        process = subprocess.Popen(
            command,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def lines(run: Path) -> list[bytes]:
    path = run / "metrics.jsonl"
    return path.read_bytes().splitlines() if path.exists() else []


def trained_by(known_by: Path) -> Path | None:
    """The run that a process has under way, with some of its epochs."""
    for environment in Path("out").glob("trial-*/environment.json"):
        run = environment.parent
        if str(known_by) in environment.read_text() and 2 <= len(lines(run)) < EPOCHS - 15:
            return run
    return None


@pytest.mark.parametrize("storage", ["", "study.log"], ids=["sqlite", "journal"])
def test_three_processes_one_of_them_killed(
    storage: str, workers: Callable[[str, Path], subprocess.Popen[str]]
) -> None:
    names = [Path(name).resolve() for name in ("first", "second", "third")]
    victim, *others = [workers(storage, name) for name in names]
    limit = time.monotonic() + 120
    while (run := trained_by(names[0])) is None:
        assert victim.poll() is None and time.monotonic() < limit
        time.sleep(0.01)
    victim.kill()
    victim.wait()
    before = lines(run)
    assert 2 <= len(before) < EPOCHS
    for process in others:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    options = {"storage": storage or None, "trials": TRIALS}
    one = planned("out", **options)
    search = Search(replace(one, experiment=replace(one.experiment, epochs=EPOCHS)))
    outcomes = search.outcomes()
    assert sorted(outcome.number for outcome in outcomes) == list(range(TRIALS))
    assert {outcome.state for outcome in outcomes} == {"finished"}
    assert len(search.study.get_trials()) == TRIALS
    assert len({(str(outcome.values), outcome.seed) for outcome in outcomes}) == TRIALS
    for number in range(TRIALS):
        folder = Path(f"out/trial-{number:04d}")
        epochs = [json.loads(line)["epoch"] for line in lines(folder)]
        assert epochs == list(range(1, EPOCHS + 1))
        assert len(Run.open(folder).environment.get("resumed", [])) == (folder == run)
    # Not trained again from the start: these lines hold times, too.
    assert lines(run)[: len(before) - 1] == before[:-1]
    with hold(run / ".lock"):
        pass
