"""Trackers log the metrics of a training to other programs, see `tsslbp train --track NAME`.

===============  ==================================================================================
``tensorboard``  ``tensorboard/`` in the run's folder, for TensorBoard
``wandb``        Weights & Biases: to its server, or with ``WANDB_MODE=offline`` into
                 ``WANDB_DIR``, by default the run's folder
``mlflow``       MLflow: to ``MLFLOW_TRACKING_URI``, by default into ``mlflow.db``, an SQLite file
                 next to the run folder, in the experiment ``MLFLOW_EXPERIMENT_NAME`` or tsslbp
===============  ==================================================================================

tsslbp never reads what they write: a run's own records are those of `tsslbp.run`. Steps count from
the run's first, 1, through all its epochs and resumes; an epoch's numbers are logged at its last
step. After a kill, some steps are trained again; each tracker below says how it avoids duplicates.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import os
import re
import secrets
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from ..errors import InvalidInput, RunError, nearest
from ..reading import read_whole
from ..run import Run
from ..storage import hold, write_file, writing
from ..toml_files import flat
from .build import loss_per_image
from .history import StepResult
from .loop import Observer

STEPS_EVERY = 25  # steps between two points of a curve
MLFLOW_CHARACTERS = 500  # most characters of a setting's value
WANDB_SECONDS = 30  # to wait for the server of Weights & Biases, unless WANDB_INIT_TIMEOUT is set

_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
NAMES = tuple(_MODULES)

Log = Callable[[dict[str, float], int], None]  # takes numbers by tag, and the step of the run


def check(names: Iterable[str]) -> None:
    """Raise `InvalidInput` if a tracker is unknown, or its package or account is missing."""
    for name in names:
        if name not in _MODULES:
            raise InvalidInput(
                f"unknown tracker {name!r}{nearest(name, NAMES)}; known: {', '.join(NAMES)}"
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(_MODULES[name])
            if name == "mlflow" and not os.environ.get("MLFLOW_TRACKING_URI"):
                importlib.import_module("sqlalchemy")
        except ImportError as error:
            raise InvalidInput(
                f"--track {name} needs a package that is not installed: pip install "
                f"'tsslbp[{name}]'"
            ) from error
        if name == "wandb":
            _log_in()


@contextlib.contextmanager
def trackers(
    names: Sequence[str], run: Run, steps_per_epoch: int, observer: Observer | None = None
) -> Iterator[Observer | None]:
    """Yield an observer that calls the trackers and then `observer`; without names, `observer`.

    Nothing is written before the first step.

    Args:
        names: trackers that `check` has accepted.
        run: the run that is trained.
        steps_per_epoch: number of training steps in an epoch.
        observer: another observer.
    """
    if not names:
        yield observer
        return
    with contextlib.ExitStack() as stack:
        yield _TrackingObserver(dict.fromkeys(names), run, steps_per_epoch, observer, stack)


@dataclass
class _TrackingObserver:
    """Calls the trackers, which start with the first step, and then `observer`."""

    names: Iterable[str]
    run: Run
    steps_per_epoch: int
    observer: Observer | None
    stack: contextlib.ExitStack
    logs: list[Log] = field(default_factory=list)

    def on_step(self, epoch: int, step: int, steps: int, result: StepResult) -> None:
        number, numbers = (epoch - 1) * self.steps_per_epoch + step, {}
        if number % STEPS_EVERY == 0:
            numbers = {
                "step/loss": loss_per_image(self.run.experiment, result.loss, result.images),
                "step/accuracy": result.correct / result.images,
                "step/gradient_norm": result.gradient_norm,
            }
        self._log(numbers, number, since=number)
        if self.observer:
            self.observer.on_step(epoch, step, steps, result)

    def on_epoch(self, record: dict[str, Any]) -> None:
        number = record["epoch"] * self.steps_per_epoch
        self._log(scalars(record), number, since=number + 1)
        if self.observer:
            self.observer.on_epoch(record)

    def _log(self, numbers: dict[str, float], step: int, since: int) -> None:
        """Log numbers; what was logged before about the steps from `since` on becomes void."""
        with writing(f"what --track needs in {self.run.folder}"):
            if not self.logs:
                started = (_TRACKERS[name](self.run, since) for name in self.names)
                self.logs = [self.stack.enter_context(tracker) for tracker in started]
            for log in self.logs if numbers else ():
                log(numbers, step)


@contextlib.contextmanager
def _tensorboard(run: Run, since: int) -> Iterator[Log]:
    """Log to TensorBoard; a resume makes it drop the points of steps that are trained again."""
    from torch.utils.tensorboard import SummaryWriter

    def log(numbers: dict[str, float], step: int) -> None:
        for tag, value in numbers.items():
            writer.add_scalar(tag, value, step)
        writer.flush()

    folder = run.folder / "tensorboard"
    with _thread_that_fails_silently(), contextlib.ExitStack() as stack:
        writer = SummaryWriter(str(folder), purge_step=since)
        stack.callback(_close, writer, folder)
        table = tomli_w.dumps(run.experiment.to_table())
        writer.add_text("config", textwrap.indent(table, "    "), since)  # Markdown for code
        yield log


def _close(writer: Any, folder: Path) -> None:
    with writing(folder):
        writer.close()


@contextlib.contextmanager
def _thread_that_fails_silently() -> Iterator[None]:
    """TensorBoard's thread prints a traceback if the disk is full; the next call raises it, too."""
    hook = threading.excepthook
    threading.excepthook = lambda args: None if isinstance(args.exc_value, OSError) else hook(args)
    try:
        yield
    finally:
        threading.excepthook = hook


@contextlib.contextmanager
def _wandb(run: Run, since: int) -> Iterator[Log]:
    """Log to Weights & Biases; a resume continues the same run, whose id the run folder keeps.

    For a step that is trained again, Weights & Biases keeps its first numbers.
    """
    import wandb

    settings = wandb.Settings(silent=True, console="off")
    if "WANDB_INIT_TIMEOUT" not in os.environ:
        settings.init_timeout = WANDB_SECONDS
    try:
        there = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "tsslbp"),
            name=os.environ.get("WANDB_NAME", run.folder.resolve().name),
            dir=os.environ.get("WANDB_DIR", str(run.folder)),
            id=_wandb_id(run.folder / "wandb-id"),
            resume="allow",
            config=run.experiment.to_table(),
            settings=settings,
        )
    except wandb.Error as error:
        raise RunError(_wandb_failure(error)) from error
    try:
        yield there.log
    except BaseException:
        there.finish(exit_code=1)
        raise
    there.finish(exit_code=0)


@contextlib.contextmanager
def _mlflow(run: Run, since: int) -> Iterator[Log]:
    """Log to MLflow; a resume continues the same run, whose id the run folder keeps.

    For a step that is trained again, MLflow keeps its first numbers.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException

    beside = run.folder.resolve().parent
    place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{beside / 'mlflow.db'}"
    last: dict[str, int] = {}  # last step that MLflow has, by name
    id_ = ""  # until the run is known

    def log(numbers: dict[str, float], step: int) -> None:
        named = {re.sub(r"[^\w./: -]", "_", tag): value for tag, value in numbers.items()}
        with _quiet_mlflow():
            for name in named.keys() - last.keys():
                known = client.get_metric_history(id_, name)
                last[name] = max((one.step for one in known), default=-1)
            now = round(1000 * time.time())
            new = [Metric(name, x, now, step) for name, x in named.items() if step > last[name]]
            client.log_batch(id_, new)
        last.update({name: max(last[name], step) for name in named})

    try:
        # One process creates the tables.
        with _quiet_mlflow(), hold(beside / ".mlflow.lock", wait=True):
            client = MlflowClient(place)
            id_ = _mlflow_run(client, run)
        yield log
    except MlflowException as error:
        raise RunError(f"MLflow at {place}: {' '.join(str(error).split())}") from error
    except BaseException:
        if id_:
            with _quiet_mlflow():
                client.set_terminated(id_, "FAILED")
        raise
    with _quiet_mlflow():
        client.set_terminated(id_, "FINISHED")


def _mlflow_run(client: Any, run: Run) -> str:
    """Return the id of the MLflow run, which is created with its settings if there is none."""
    path = run.folder / "mlflow-id"
    if known := _kept_id(path):
        client.update_run(known, status="RUNNING")
        return known
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "tsslbp")
    there = client.get_experiment_by_name(name)
    experiment = there.experiment_id if there else client.create_experiment(name)
    made: str = client.create_run(experiment, run_name=run.folder.resolve().name).info.run_id
    for key, value in flat(run.experiment.to_table()).items():
        client.log_param(made, key, str(value)[:MLFLOW_CHARACTERS])
    write_file(path, made)
    return made


@contextlib.contextmanager
def _quiet_mlflow() -> Iterator[None]:
    """Hide MLflow's own messages from the user; what fails is also raised."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _log_in() -> None:
    """Let Weights & Biases verify its account, unless it is set to offline."""
    import wandb

    try:
        online = wandb.setup(wandb.Settings(silent=True)).settings.mode == "online"
        logged_in = wandb.login(verify=True, prompt=False)
    except (wandb.Error, ValueError) as error:
        raise InvalidInput(_wandb_failure(error)) from error
    if online and not logged_in:
        raise InvalidInput(_wandb_failure("there is no API key; store one with `wandb login`"))


def _wandb_failure(error: object) -> str:
    reason = " ".join(str(error).split())
    return f"Weights & Biases: {reason}; set WANDB_MODE=offline to record without its server"


def _wandb_id(path: Path) -> str:
    """Return the id in the file `path`, which is created if there is none."""
    if known := _kept_id(path):
        return known
    write_file(path, made := secrets.token_hex(8))
    return made


def _kept_id(path: Path) -> str:
    """Return the id in a file of a run folder; "" if there is none.

    Raises:
        RunError: the file cannot be read, or contains something else.
    """
    if not os.path.lexists(path):
        return ""
    try:
        known = read_whole(path).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        known = "?"
    if not re.fullmatch(r"[\w-]{0,128}", known):
        raise RunError(f"{path} contains no id: remove it to start another run there")
    return known


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers of an epoch's record, with tags such as ``"epoch/loss"``.

    Numbers of layers are ``"firing_rate/conv1"``, those of lists ``"test_accuracy_by_step/1"``.
    """
    found: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            found |= {f"{key}/{part}": item for part, item in value.items()}
        elif isinstance(value, Sequence) and not isinstance(value, str):
            found |= {f"{key}/{number}": item for number, item in enumerate(value, 1)}
        elif key != "epoch":
            found[f"epoch/{key}"] = value
    numbers = {tag: value for tag, value in found.items() if isinstance(value, int | float)}
    return {tag: float(value) for tag, value in numbers.items() if math.isfinite(value)}


_TRACKERS = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}
