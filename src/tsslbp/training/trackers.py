"""Trackers: they tell other programs how a training goes, as `tsslbp train --track NAME` asks.

===============  ==================================================================================
``tensorboard``  ``tensorboard/`` in the run's folder, for TensorBoard
``wandb``        Weights & Biases: to its server, or with ``WANDB_MODE=offline`` into
                 ``WANDB_DIR``, by default the run's folder
===============  ==================================================================================

No code of ours reads what they write: a run's own records are those of `tsslbp.run`. Steps count
from the run's first, 1, through all its epochs and resumes; an epoch's numbers stand at its last
step. After a kill some steps are trained again; how each tracker counts them once is told in its
class.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import tomli_w

from ..errors import InvalidInput, RunError, nearest
from ..run import Run
from .build import loss_per_image
from .history import StepResult
from .loop import Observer

STEPS_EVERY = 25  # steps between two points of a curve
FLUSH_SECONDS = 10  # a kill costs TensorBoard's curves the points of so many seconds at most
WANDB_SECONDS = 30  # to wait for Weights & Biases' server, unless WANDB_INIT_TIMEOUT says it

_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}
NAMES = tuple(_MODULES)


class Tracker(Protocol):
    """Writes what it is told, and closes with the stack that it was made with.

    It is made with the first step that it is told of in this process; what was told of that step
    and later ones before does not count.
    """

    def on_step(self, step: int, numbers: Mapping[str, float]) -> None: ...

    def on_epoch(self, step: int, record: Mapping[str, Any]) -> None: ...


def check(names: Iterable[str]) -> None:
    """Raise `InvalidInput` where a tracker is unknown, or its package or account is missing."""
    for name in names:
        if name not in _MODULES:
            raise InvalidInput(
                f"unknown tracker {name!r}{nearest(name, NAMES)}; known: {', '.join(NAMES)}"
            )
        try:
            importlib.import_module(_MODULES[name])
        except ImportError as error:
            raise InvalidInput(
                f"--track {name} needs a package that is missing: pip install 'tsslbp[{name}]'"
            ) from error
        if name == "wandb":
            _log_in()


@contextlib.contextmanager
def trackers(
    names: Sequence[str], run: Run, steps_per_epoch: int, observer: Observer | None = None
) -> Iterator[Observer | None]:
    """Return an observer that tells the trackers, then `observer`; without names `observer` alone.

    Nothing is written before the first step.

    Args:
        names: of trackers that `check` has accepted.
        run: what is trained.
        steps_per_epoch: number of training steps in an epoch.
        observer: one more.
    """
    if not names:
        yield observer
        return
    with contextlib.ExitStack() as stack:
        yield _TrackingObserver(dict.fromkeys(names), run, steps_per_epoch, observer, stack)


class _TrackingObserver:
    def __init__(
        self,
        names: Iterable[str],
        run: Run,
        steps_per_epoch: int,
        observer: Observer | None,
        stack: contextlib.ExitStack,
    ) -> None:
        self.names, self.run, self.steps_per_epoch = names, run, steps_per_epoch
        self.observer, self.stack = observer, stack
        self.trackers: list[Tracker] = []

    def on_step(self, epoch: int, step: int, steps: int, result: StepResult) -> None:
        numbers = {
            "loss": loss_per_image(self.run.experiment, result.loss, result.images),
            "accuracy": result.correct / result.images,
            "gradient_norm": result.gradient_norm,
        }
        number = (epoch - 1) * self.steps_per_epoch + step
        try:
            for tracker in self._started(number):
                tracker.on_step(number, numbers)
        except OSError as error:
            raise self._failure(error) from error
        if self.observer:
            self.observer.on_step(epoch, step, steps, result)

    def on_epoch(self, record: dict[str, Any]) -> None:
        number = record["epoch"] * self.steps_per_epoch
        try:
            for tracker in self._started(number + 1):
                tracker.on_epoch(number, record)
        except OSError as error:
            raise self._failure(error) from error
        if self.observer:
            self.observer.on_epoch(record)

    def _started(self, step: int) -> list[Tracker]:
        """The trackers, made when they are first told of something, which begins with `step`."""
        if not self.trackers:
            self.trackers = [_TRACKERS[name](self.run, step, self.stack) for name in self.names]
        return self.trackers

    def _failure(self, error: OSError) -> RunError:
        return RunError(
            f"cannot write what --track asks for, of {self.run.folder}: {error.strerror or error}"
        )


class _TensorBoard:
    """A resume tells TensorBoard to drop the points of steps that are trained again."""

    def __init__(self, run: Run, first_step: int, stack: contextlib.ExitStack) -> None:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(
            str(run.folder / "tensorboard"), purge_step=first_step, flush_secs=FLUSH_SECONDS
        )
        self.writer = stack.enter_context(writer)
        table = tomli_w.dumps(run.experiment.to_table())
        indented = "".join(f"    {line}\n" for line in table.splitlines())  # Markdown for code
        self.writer.add_text("config", indented, first_step)

    def on_step(self, step: int, numbers: Mapping[str, float]) -> None:
        if step % STEPS_EVERY == 0:
            for name, value in numbers.items():
                self.writer.add_scalar(f"step/{name}", value, step)

    def on_epoch(self, step: int, record: Mapping[str, Any]) -> None:
        for name, value in scalars(record).items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()


class _WandB:
    """A resume continues the same run there, whose id is kept in the run's folder.

    Of a step that is trained again Weights & Biases keeps the numbers that it had first.
    """

    def __init__(self, run: Run, first_step: int, stack: contextlib.ExitStack) -> None:
        import wandb

        settings = wandb.Settings(silent=True, console="off")
        if "WANDB_INIT_TIMEOUT" not in os.environ:
            settings.init_timeout = WANDB_SECONDS
        try:
            self.wandb = wandb.init(
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
        stack.push(self._finish)

    def on_step(self, step: int, numbers: Mapping[str, float]) -> None:
        if step % STEPS_EVERY == 0:
            self.wandb.log({f"step/{name}": value for name, value in numbers.items()}, step=step)

    def on_epoch(self, step: int, record: Mapping[str, Any]) -> None:
        self.wandb.log(scalars(record), step=step)

    def _finish(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self.wandb.finish(exit_code=0 if kind is None else 1)


def _log_in() -> None:
    """Let Weights & Biases verify its account, unless it is told to stay offline."""
    import wandb

    try:
        online = wandb.setup(wandb.Settings(silent=True)).settings.mode == "online"
        logged_in = wandb.login(verify=True, prompt=False)
    except (wandb.Error, ValueError) as error:
        raise InvalidInput(_wandb_failure(error)) from error
    if online and not logged_in:
        raise InvalidInput(_wandb_failure("there is no API key; `wandb login` stores one"))


def _wandb_failure(error: object) -> str:
    reason = " ".join(str(error).split())
    return f"Weights & Biases: {reason}; WANDB_MODE=offline records without its server"


def _wandb_id(path: Path) -> str:
    """The id in the file `path`, made where there is none."""
    if not path.exists() or not path.read_text().strip():
        path.write_text(secrets.token_hex(8))
    return path.read_text().strip()


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of an epoch's record, by such tags as ``"epoch/loss"``.

    Those of layers are ``"firing_rate/conv1"``, those of a list ``"test_accuracy_by_step/1"``.
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


_TRACKERS: dict[str, type[_TensorBoard] | type[_WandB]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
}
