"""Tests of the drivers of a sweep: their reports to the study, and trials that end early."""

from __future__ import annotations

import itertools
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import optuna
import pytest

from tsslbp import cli
from tsslbp.cli import progress
from tsslbp.errors import Diverged, InvalidInput, RunError
from tsslbp.experiment import Experiment, load_recipe, with_settings
from tsslbp.run import Run
from tsslbp.studies import driver, jobs
from tsslbp.studies.driver import Driver
from tsslbp.studies.jobs import Job, Local
from tsslbp.studies.space import Choice, Range, Space
from tsslbp.studies.sweep import Outcome, Search, Sweep
from tsslbp.studies.trials import Trial

Planned = Callable[..., Sweep]
Accuracy = Callable[[Experiment, int], float]


class Record:
    """Watch of a sweep that keeps the outcomes and calls `looked` while trials are under way."""

    def __init__(self, looked: Callable[[Sequence[Trial]], None] = lambda trials: None) -> None:
        self.running = looked
        self.outcomes: list[Outcome] = []

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


class Ends(Exception):
    """The pretended command ends early, with this exit status and this last line of its log."""

    def __init__(self, status: int, line: str = "") -> None:
        self.status, self.line = status, line


@dataclass
class Pretend:
    """Engine whose jobs are pretended: each poll of one records an epoch of a given accuracy."""

    accuracy: Accuracy
    workers: int = 1
    threads: int = 1
    started: list[Job] = field(default_factory=list)

    def start(self, job: Job) -> Pretended:
        self.started.append(job)
        return Pretended(job, self.accuracy)


class Pretended:
    def __init__(self, job: Job, accuracy: Accuracy) -> None:
        words = list(job.arguments)
        options = dict(itertools.pairwise(words))
        settings = [value for key, value in itertools.pairwise(words) if key == "--set"]
        table = with_settings(load_recipe(words[1]), settings).to_table()
        table |= {"seed": int(options["--seed"]), "protocol": options["--protocol"]}
        table |= {"epochs": int(options["--epochs"])}
        self.experiment, self.accuracy, self.job = Experiment.from_table(table), accuracy, job
        folder = Path(options["--out"])
        made = (folder / "config.toml").exists()
        self.run = Run.open(folder) if made else Run.create(folder, self.experiment)
        assert self.run.experiment == self.experiment
        if made:
            self.run.record_resume()
        self.status: int | None = None

    def poll(self) -> int | None:
        epoch = len(self.run.epochs()) + 1
        if self.status is None and epoch > self.experiment.epochs:
            self.status = 0
        if self.status is None:
            try:
                value = self.accuracy(self.experiment, epoch)
                record = {"validation_accuracy": value, "test_accuracy": 1 - value, "seconds": 1.0}
                self.run.append_epoch({"epoch": epoch, "train_accuracy": value} | record)
            except Diverged as error:
                self.run.record_divergence(str(error))
                self.status = 2
            except Ends as end:
                self.status = end.status
                with self.job.log.open("a") as log:
                    print(end.line, file=log)
        return self.status

    def terminate(self) -> None:
        self.status = 130

    kill = terminate


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make drivers poll without a pause, since pretended commands take no time."""
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.0)


@pytest.fixture
def _waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make drivers pause between polls, since real processes need the processor meanwhile."""
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.1)


def drive(
    search: Search,
    engine: jobs.Engine,
    watch: driver.Watch | None = None,
    check: Callable[[Experiment], None] = lambda _: None,
) -> None:
    Driver(search, engine, watch or Record(), check).work()


def work(one: Sweep, engine: jobs.Engine, watch: driver.Watch | None = None) -> list[Outcome]:
    """Run the trials of a sweep and return all its outcomes, ordered by number."""
    search = Search(one)
    drive(search, engine, watch)
    return sorted(search.outcomes(), key=lambda outcome: outcome.number)


def by_rate(experiment: Experiment, epoch: int) -> float:
    return math.exp(-(math.log10(experiment.learning_rate / 0.02) ** 2)) * 0.9 + 0.01 * epoch


def without_folders(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [replace(outcome, folder="") for outcome in outcomes]


def test_trials_are_runs_with_their_settings_and_best_epoch(planned: Planned) -> None:
    outcomes = work(planned(), Pretend(by_rate))
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


def test_the_published_objective_is_the_best_test_epoch(planned: Planned) -> None:
    (outcome,) = work(planned(trials=1, objective="test"), Pretend(by_rate))
    run = Run.open(Path(outcome.folder))
    assert run.experiment.protocol == "published"
    assert outcome.accuracy == max(record["test_accuracy"] for record in run.epochs())


def test_the_study_knows_every_epoch(planned: Planned) -> None:
    search = Search(planned(trials=1))
    drive(search, Pretend(by_rate))
    (trial,) = search.study.get_trials()
    records = Run.open(Path("out/trial-0000")).epochs()
    expected = {record["epoch"]: record["validation_accuracy"] for record in records}
    assert trial.intermediate_values == expected


@pytest.mark.slow
def test_a_sweep_repeats_exactly_also_after_interruptions(planned: Planned) -> None:
    whole = work(planned("a/same", 6), Pretend(by_rate))

    def interrupt(trials: Sequence[Trial]) -> None:
        if any(Run.open(trial.folder).epochs() for trial in trials):
            raise KeyboardInterrupt

    for trials in (2, 4, 6):
        search = Search(planned("b/same", trials))
        with pytest.raises(KeyboardInterrupt):
            drive(search, Pretend(by_rate), Record(interrupt))
        drive(search, Pretend(by_rate))
    parts = sorted(search.outcomes(), key=lambda outcome: outcome.number)
    assert without_folders(parts) == without_folders(whole)
    assert len({str(one.values) for one in whole}) > 4
    assert search.study.get_trials()[0].user_attrs["tsslbp.killed"] == 0


def test_finished_trials_are_not_repeated(planned: Planned) -> None:
    engine, watch = Pretend(by_rate), Record()
    first = work(planned(trials=2), engine)
    assert work(planned(trials=2), engine, watch) == first
    assert (watch.outcomes, len(engine.started)) == ([], 2)
    assert work(planned(trials=3), engine, watch)[:2] == first
    assert [outcome.number for outcome in watch.outcomes] == [2]


def test_settings_tried_again_are_a_new_measurement(planned: Planned) -> None:
    one = planned(trials=3, space=Space({"time_steps": Choice((3,))}))
    assert [outcome.seed for outcome in work(one, Pretend(by_rate))] == [0, 1, 2]
    two = planned("two", 6, space=Space({"time_steps": Choice((2, 3))}))
    outcomes = work(two, Pretend(by_rate))
    runs = [(outcome.values["time_steps"], outcome.seed) for outcome in outcomes]
    assert len(set(runs)) == 6
    assert all(Run.open(Path(one.folder)).experiment.seed == one.seed for one in outcomes)


def test_a_diverged_trial_counts_and_says_why(planned: Planned) -> None:
    def diverge(experiment: Experiment, epoch: int) -> float:
        if experiment.learning_rate > 0.01:
            raise Diverged("the loss is nan")
        return 0.5

    engine = Pretend(diverge)
    outcomes = work(planned(trials=12), engine)
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    assert 0 < len(failed) < 12
    assert {outcome.reason for outcome in failed} == {"the loss is nan"}
    assert {outcome.accuracy for outcome in failed} == {None}
    assert len(engine.started) == 12
    # The sampler ignores failed trials, yet it does not suggest their values again.
    pairs = itertools.pairwise(outcomes)
    assert all(next_.values != one.values for one, next_ in pairs if one.state == "failed")


def test_values_that_do_not_go_together_fail_their_trial(planned: Planned) -> None:
    space = Space({"time_steps": Choice((1, 4)), "desired_train": Choice(([1], [0, 1]))})
    recipe = replace(planned().experiment, desired_train=(1,))
    watch, engine = Record(), Pretend(by_rate)
    outcomes = work(planned("out", 10, experiment=recipe, space=space), engine, watch)
    assert len(outcomes) == len(watch.outcomes) == 10
    for outcome in outcomes:
        together = outcome.values == {"time_steps": 1, "desired_train": "[0, 1]"}
        assert outcome.state == ("failed" if together else "finished")
    reasons = {outcome.reason for outcome in outcomes} - {""}
    assert all("desired_train must have a spike" in reason for reason in reasons)
    assert reasons
    assert len(engine.started) < 10


def test_values_that_do_not_fit_the_data_fail_their_trial(planned: Planned) -> None:
    def check(experiment: Experiment) -> None:
        if experiment.time_steps == 5:
            raise InvalidInput("5 steps are too many")

    search = Search(planned(trials=8))
    drive(search, Pretend(by_rate), check=check)
    states = {(one.values["time_steps"] == 5, one.state, one.reason) for one in search.outcomes()}
    assert states == {(True, "failed", "5 steps are too many"), (False, "finished", "")}


def pruning(planned: Planned, out: str) -> Sweep:
    """Return a sweep with enough trials for the pruner to compare later ones with earlier ones."""
    space = Space({"learning_rate": Range(0.001, 0.1, log=True)})
    long = replace(planned().experiment, epochs=6)
    options = {"sampler": "random", "pruner": "median", "experiment": long}
    return planned(out, 8, space=space, **options)


@pytest.mark.parametrize("workers", [1, 3])
def test_bad_trials_are_pruned_on_request(planned: Planned, workers: int) -> None:
    outcomes = work(pruning(planned, "out"), Pretend(by_rate, workers))
    pruned = [outcome for outcome in outcomes if outcome.state == "pruned"]
    assert pruned
    for outcome in pruned:
        epochs = Run.open(Path(outcome.folder)).epochs()
        assert 1 <= len(epochs) < 6
        assert outcome.accuracy == epochs[-1]["validation_accuracy"]
    best = max(outcomes, key=lambda one: by_rate(Run.open(Path(one.folder)).experiment, 1))
    assert best.state == "finished"


@pytest.mark.slow
def test_pruning_does_not_depend_on_when_a_driver_looks(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that trains to its end before the driver looks is pruned at the same epoch."""
    slow = work(pruning(planned, "slow/same"), Pretend(by_rate))
    poll = Pretended.poll

    def run_to_the_end(self: Pretended) -> int | None:
        while (status := poll(self)) is None:
            pass
        return status

    monkeypatch.setattr(Pretended, "poll", run_to_the_end)
    quick = work(pruning(planned, "quick/same"), Pretend(by_rate))
    assert any(outcome.state == "pruned" for outcome in quick)
    assert without_folders(quick) == without_folders(slow)


def test_a_trial_that_kills_its_processes_is_given_up(planned: Planned) -> None:
    def kill(experiment: Experiment, epoch: int) -> float:
        raise Ends(-signal.SIGKILL)

    engine = Pretend(kill)
    (outcome,) = work(planned(trials=1), engine)
    assert len(engine.started) == driver.KILLS
    assert outcome.state == "failed"
    assert outcome.reason.startswith("5 processes that trained it ended early, the last one: ")
    assert "SIGKILL" in outcome.reason and "memory" in outcome.reason


def test_a_trial_that_kills_its_drivers_is_given_up(planned: Planned) -> None:
    class Killed(BaseException):
        pass

    def kill(trials: Sequence[Trial]) -> None:
        raise Killed

    search = Search(planned(trials=1))
    for _ in range(driver.KILLS):
        with pytest.raises(Killed):
            drive(search, Pretend(by_rate), Record(kill))
        Path("out/trial-0000/metrics.jsonl").unlink(missing_ok=True)
    engine = Pretend(by_rate)
    drive(search, engine)
    (outcome,) = search.outcomes()
    assert (outcome.state, engine.started) == ("failed", [])


def test_a_trial_that_gets_on_is_not_given_up(planned: Planned) -> None:
    made = set()

    def kill(experiment: Experiment, epoch: int) -> float:
        if epoch % 2 == 0 and epoch not in made:
            made.add(epoch)
            raise Ends(-signal.SIGKILL)
        return 0.5

    one, times = planned(trials=1), driver.KILLS + 2
    engine = Pretend(kill)
    long = replace(one, experiment=replace(one.experiment, epochs=2 * times + 1))
    (outcome,) = work(long, engine)
    assert (outcome.state, outcome.reason) == ("finished", "")
    assert len(engine.started) == times + 1


def test_interruptions_do_not_give_up_a_trial(planned: Planned) -> None:
    def interrupt(trials: Sequence[Trial]) -> None:
        raise KeyboardInterrupt

    search = Search(planned(trials=1))
    for _ in range(driver.KILLS + 2):
        with pytest.raises(KeyboardInterrupt):
            drive(search, Pretend(by_rate), Record(interrupt))
        Path("out/trial-0000/metrics.jsonl").unlink(missing_ok=True)
    drive(search, Pretend(by_rate))
    assert [outcome.state for outcome in search.outcomes()] == ["finished"]


def test_a_command_that_refuses_ends_the_sweep(planned: Planned) -> None:
    """A full disk stops the sweep but uses up no trials; the same sweep continues later."""
    messages = iter(["error: the disk is full"] * 2)

    def refuse(experiment: Experiment, epoch: int) -> float:
        if epoch == 2 and (message := next(messages, None)):
            raise Ends(2, message)
        return 0.5

    search, engine = Search(planned(trials=2)), Pretend(refuse)
    with pytest.raises(
        RunError, match=r"^trial-0000: the disk is full; see the log out/trial-0000.log"
    ):
        drive(search, engine)
    assert [outcome.state for outcome in search.outcomes()] == ["running"]
    drive(search, engine)
    assert [outcome.state for outcome in search.outcomes()] == ["finished"] * 2
    assert Run.open(Path("out/trial-0000")).epochs()[0]["epoch"] == 1


def test_a_command_that_refuses_once_is_started_again(planned: Planned) -> None:
    """A killed driver may leave its command behind, so a run that is in use is tried again."""
    messages = iter(["error: out/trial-0000 is in use by another process"])

    def refuse(experiment: Experiment, epoch: int) -> float:
        if message := next(messages, None):
            raise Ends(2, message)
        return 0.5

    (outcome,) = work(planned(trials=1), Pretend(refuse))
    assert outcome.state == "finished"


def test_a_driver_waits_for_a_run_that_another_process_trains(planned: Planned) -> None:
    search = Search(planned(trials=2))
    trial = search.claim()
    assert trial is not None
    run = Run.create(search.trial(trial).folder, search.trial(trial).experiment)
    search.release(0)  # its driver is killed
    holds = run.hold()
    other = threading.Thread(target=holds.__enter__)  # in a thread, as if another process held it
    other.start()
    other.join()
    looks = []

    def looked(trials: Sequence[Trial]) -> None:
        looks.append([trial.name for trial in trials])
        if len(looks) == 50:
            holds.__exit__(None, None, None)

    engine = Pretend(by_rate)
    assert {one.state for one in work(planned(trials=2), engine, Record(looked))} == {"finished"}
    assert [job.name for job in engine.started] == ["trial-0001", "trial-0000"]
    assert looks[49] == []


def test_all_slots_are_used(planned: Planned) -> None:
    most = []
    watch = Record(lambda trials: most.append(len(trials)))
    work(planned(trials=5), Pretend(by_rate, workers=3), watch)
    assert max(most) == 3
    assert sorted(outcome.number for outcome in watch.outcomes) == list(range(5))


def test_two_folders_share_a_journal(planned: Planned) -> None:
    """Machines that share only the journal together run as many trials as requested."""
    options = {"storage": str(Path("shared.log").resolve()), "trials": 5}
    here = Search(planned("here/same", **options))
    there = Search(planned("there/same", **options))

    def other(trials: Sequence[Trial]) -> None:
        if len(there.study.get_trials(deepcopy=False)) == 2:
            drive(there, Pretend(by_rate))

    drive(here, Pretend(by_rate), Record(other))
    outcomes = here.outcomes()
    assert sorted(outcome.number for outcome in outcomes) == list(range(5))
    assert {outcome.state for outcome in outcomes} == {"finished"}
    folders = {Path(outcome.folder).parts[0] for outcome in outcomes}
    assert folders == {"here", "there"}
    for outcome in outcomes:
        assert len(Run.open(Path(outcome.folder)).epochs()) == 2


def lines(run: Path) -> list[bytes]:
    path = run / "metrics.jsonl"
    return path.read_bytes().splitlines() if path.exists() else []


def test_the_options_of_the_command(planned: Planned) -> None:
    engine = Pretend(by_rate)
    one = replace(planned(trials=1), experiment=replace(planned().experiment, seed=7))
    Driver(Search(one), engine, Record(), lambda _: None, ("--device", "cuda")).work()
    (job,) = engine.started
    assert job.arguments[:2] == ("train", "out/recipe.toml")
    for pair in (("--seed", "7"), ("--protocol", "validated"), ("--device", "cuda")):
        assert pair in itertools.pairwise(job.arguments)
    assert "--resume" in job.arguments
    assert job.log == Path("out/trial-0000.log")


@pytest.mark.slow
@pytest.mark.usefixtures("_waiting")
def test_a_process_is_stopped_by_the_pruner(planned: Planned) -> None:
    class Strict(optuna.pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            return trial.last_step == 3

    search = Search(planned(trials=1, experiment=replace(planned().experiment, epochs=3000)))
    search.study.pruner = Strict()
    drive(search, Local(1, threads=1))
    (outcome,) = search.outcomes()
    run = Run.open(Path(outcome.folder))
    assert 3 <= len(run.epochs()) < 3000
    assert outcome.state == "pruned"
    (trial,) = search.study.get_trials()
    assert list(trial.intermediate_values) == [1, 2, 3]
    with run.hold():  # no process trains it any more
        pass


def test_data_that_do_not_fit_a_value(planned: Planned, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sweep", "mine.toml", "--space", "space.toml", "--out", "out"]
    cases = {
        "crop_padding = [0, 9]": "crop_padding must be below the images' size",
        'precision = ["float32", "tf32"]': "precision 'tf32' needs a GPU",
    }
    for text, message in cases.items():
        Path("space.toml").write_text(f"trials = 1\n[parameters]\n{text}\n")
        assert cli.main(command) == 2
        assert message in capsys.readouterr().err
        assert not Path("out").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("_waiting")
def test_the_program(planned: Planned, capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs").mkdir()
    command = ["sweep", "mine.toml", "--space", "space.toml", "--set", "tau_m=4", "--seed", "3"]
    command += ["--workers", "2", "--storage", "runs/study.log", "--trials", "2"]
    assert cli.main([*command, "--set", "protocol=published"]) == 0
    output, error = capsys.readouterr()
    assert error == ""
    assert "12 training images are held out" in output
    assert "\n2 at a time, " in output
    for number in range(2):
        (first, second) = [line for line in output.splitlines() if f"trial-{number:04d} " in line]
        assert first == second and " finished " in first
    folder = next(line for line in output.splitlines() if line.startswith("best trial: "))
    best = Run.open(Path(folder.removeprefix("best trial: ").partition(";")[0]))
    assert best.folder.parent == Path("runs/mine-sweep")
    assert best.experiment.seed == 3
    assert "study.log" not in json.dumps(best.environment)  # it might hold a password
    words = shlex.split(output.splitlines()[-1])
    assert words[:2] == ["tsslbp", "train"]
    assert cli.main([*words[1:], "--out", "again"]) == 0
    again = Run.open(Path("again"))
    alike = [replace(one.experiment, changed=None) for one in (again, best)]  # it only names runs
    assert alike[0] == alike[1]
    accuracies = [[one["test_accuracy"] for one in run.epochs()] for run in (again, best)]
    assert accuracies[0] == accuracies[1]


@pytest.mark.slow
@pytest.mark.usefixtures("_waiting")
def test_the_program_goes_on_where_it_was_interrupted(
    planned: Planned, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", "mine.toml", "--space", "space.toml", "--trials", "1", "--out", "out"]
    command += ["--objective", "test", "--set", "epochs=30"]

    class Interrupting(progress.SweepDisplay):
        def running(self, trials: Sequence[Trial]) -> None:
            if len(lines(Path("out/trial-0000"))) > 1:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(progress, "SweepDisplay", Interrupting)
        assert cli.main(command) == 130
    error = capsys.readouterr().err.splitlines()
    assert error[0].startswith("caution: the settings are chosen on test images")
    assert error[1:] == ["stopped: the same command continues the sweep"]
    before = lines(Path("out/trial-0000"))
    assert 2 <= len(before) < 30
    assert cli.main(command) == 0
    output = capsys.readouterr().out
    assert output.startswith("trials left: 1 of 1\n") and "--protocol published" in output
    run = Run.open(Path("out/trial-0000"))
    assert [record["epoch"] for record in run.epochs()] == list(range(1, 31))
    assert len(run.environment["resumed"]) == 1
    assert lines(run.folder)[: len(before) - 1] == before[:-1]  # lines contain times


@pytest.mark.slow
@pytest.mark.usefixtures("_waiting")
def test_the_program_sweeps_on_a_cluster(planned: Planned) -> None:
    """On submitit's local executor, each trial is a job of its own."""
    pytest.importorskip("submitit")
    command = ["sweep", "mine.toml", "--space", "space.toml", "--set", "epochs=1", "--workers", "2"]
    cluster = ["--cluster", "local", "--cluster-set", "cpus_per_task=1"]
    assert cli.main([*command, *cluster, "--out", "out", "--trials", "2"]) == 0
    assert len(list(Path("out/.cluster").glob("*_submitted.pkl"))) == 2
    assert len([path for path in Path("out").glob("trial-????") if Run.open(path).epochs()]) == 2


def test_the_program_names_a_space_without_trials(
    planned: Planned, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("space.toml").write_text("[parameters]\nepochs = [1, 2]\n")
    assert cli.main(["sweep", "mine.toml", "--space", "space.toml"]) == 2
    assert capsys.readouterr().err == (
        "error: space.toml does not set the number of trials: give --trials\n"
    )
    assert not Path("runs").exists()


EPOCHS, TRIALS, DRIVERS = 40, 8, 8


class Processes:
    """Drivers as processes; a data folder of its own, which nobody reads, identifies each one."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.drivers = {"driver-0": self._start(0)}
        self.first(lambda pid, run: True)  # driver-0's time estimate has compiled the kernels
        self.drivers |= {f"driver-{number}": self._start(number) for number in range(1, DRIVERS)}

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tsslbp", "sweep", "mine.toml", "--space", "space.toml"]
        command += ["--trials", str(TRIALS), "--out", "out", "--set", f"epochs={EPOCHS}"]
        command += ["--sampler", "random", "--data-dir", f"driver-{number}"]
        with Path(f"driver-{number}.txt").open("wb") as log:
            return subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def trainings(self) -> dict[str, tuple[int, Path]]:
        """Return, by driver, the process ID and the run of the training that it has started."""
        listing = ["ps", "-A", "-ww", "-o", "pid=,args="]
        rows = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
        found = {}
        for pid, *words in (row.split() for row in rows.splitlines()):
            options = dict(itertools.pairwise(words))
            if "train" in words and options.get("--data-dir") in self.drivers:
                found[options["--data-dir"]] = int(pid), Path(options["--out"])
        return found

    def first(self, suits: Callable[[int, Path], bool]) -> tuple[str, int, Path]:
        """Return the first driver whose training `suits`, its training's process ID and run.

        Wait until there is one.
        """
        limit = time.monotonic() + 240
        while True:
            for name, (pid, run) in self.trainings().items():
                if self.drivers[name].poll() is None and suits(pid, run):
                    return name, pid, run
            logs = [path.read_text()[-500:] for path in Path().glob("driver-*.txt")]
            assert time.monotonic() < limit, logs
            time.sleep(0.1)

    def kill(self, name: str) -> None:
        process = self.drivers.pop(name)
        process.kill()
        process.wait()


@pytest.fixture
def processes(planned: Planned, without_pictures: dict[str, str]) -> Iterator[Processes]:
    processes = Processes(without_pictures)
    names = dict.fromkeys(processes.drivers)
    yield processes
    for name in list(processes.drivers):
        processes.kill(name)
    processes.drivers = names  # type: ignore[assignment]
    for pid, _ in processes.trainings().values():
        os.kill(pid, signal.SIGKILL)


def is_under_way(run: Path) -> bool:
    return 2 <= len(lines(run)) < EPOCHS - 12


def can_be_stopped(pid: int, run: Path) -> bool:
    """Stop a training in the middle of its epochs, and return whether this succeeded."""
    if is_under_way(run):
        os.kill(pid, signal.SIGSTOP)
        if len(lines(run)) < EPOCHS - 1:
            return True
        os.kill(pid, signal.SIGCONT)
    return False


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_eight_drivers_three_of_them_killed(processes: Processes, planned: Planned) -> None:
    """Every trial finishes exactly once although drivers and one of their trainings are killed."""
    name, _, _ = processes.first(lambda pid, run: not run.exists())
    processes.kill(name)  # its training has not locked the run yet
    name, _, _ = processes.first(lambda pid, run: is_under_way(run))
    processes.kill(name)
    name, pid, resumed = processes.first(can_be_stopped)
    processes.kill(name)
    before = lines(resumed)
    os.kill(pid, signal.SIGKILL)
    for name, process in processes.drivers.items():
        assert process.wait(timeout=1800) == 0, Path(f"{name}.txt").read_text()
    long = replace(planned().experiment, epochs=EPOCHS)
    search = Search(planned(trials=TRIALS, experiment=long, sampler="random"))
    outcomes = search.outcomes()
    assert sorted(outcome.number for outcome in outcomes) == list(range(TRIALS))
    assert {outcome.state for outcome in outcomes} == {"finished"}
    assert len(search.study.get_trials()) == TRIALS
    assert len({(str(outcome.values), outcome.seed) for outcome in outcomes}) == TRIALS
    for outcome in outcomes:
        run = Run.open(Path(outcome.folder))
        epochs = [json.loads(line)["epoch"] for line in lines(run.folder)]
        assert epochs == list(range(1, EPOCHS + 1))
        accuracies = [record["validation_accuracy"] for record in run.epochs()]
        trial = search.study.get_trials()[outcome.number]
        assert outcome.accuracy == trial.value == max(accuracies)
        assert list(trial.intermediate_values.values()) == accuracies
        with run.hold():
            pass
    # The lines contain times, so equal lines show that the run did not start again.
    assert lines(resumed)[: len(before) - 1] == before[:-1]
    assert "resumed" in Run.open(resumed).environment
