"""Runs many commands of the program at a time: in processes on this machine, or on a cluster.

Each job has its own process with its share of the processor cores, since programs that each use all
cores slow one another down by far more than their number. A job that was killed can be started
again and then continues. Clusters are used through submitit (extra ``cluster``), which many labs
use for SLURM.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeVar

from ..checked import check_whole
from ..errors import InvalidInput, RunError, nearest
from ..storage import writing

if TYPE_CHECKING:
    import submitit

T = TypeVar("T")

CLUSTERS = ("slurm", "local")
CLUSTER_MINUTES = 24 * 60  # default time limit of a job on a cluster; submitit's own is 5
MOST_WORKERS = 10_000
POLL_SECONDS = 0.2
GRACE_SECONDS = 30.0  # for a job that was asked to end
REASON = "TSSLBP_REASON"  # environment variable: number of the pipe for a job's error message
LOG_TAIL = 4000  # bytes at the end of a log in which the last line is searched


@dataclass(frozen=True)
class Job:
    """One command of the program."""

    name: str  # shown to the user
    arguments: tuple[str, ...]  # of the program, such as ``("train", "digits")``
    log: Path  # file to which its output is appended


class Task(Protocol):
    """A job that was started, with the methods of `subprocess.Popen`."""

    def poll(self) -> int | None:
        """Return the exit status, minus the signal's number if killed by it; None if running."""

    def terminate(self) -> None:
        """Ask it to end."""

    def kill(self) -> None:
        """End it."""


class Engine(Protocol):
    """Starts jobs, `workers` of them at once."""

    workers: int

    @property
    def threads(self) -> int:
        """Number of threads of each job."""

    def start(self, job: Job) -> Task:
        """Start a job, and return the task, which the caller polls and may end."""


class Watch(Protocol):
    """Receives the progress of jobs."""

    def running(self, jobs: Sequence[Job]) -> None:
        """Called several times a second with the running jobs."""

    def ended(self, job: Job, failure: str | None) -> None:
        """Called when a job has ended, with one line about the reason if it failed."""


def run(
    jobs: Iterable[Job | None],
    engine: Engine,
    watch: Watch,
    is_done: Callable[[Job], bool] = lambda job: False,
) -> dict[str, str]:
    """Run jobs until they end; a job that fails does not affect the others.

    If this process is interrupted or terminated, so are the jobs.

    Args:
        jobs: yields the next job when one can be started, or None if there is none yet.
        engine: starts the jobs.
        watch: receives their progress.
        is_done: whether a job's result exists; the job has then not failed, even if something went
            wrong afterwards, such as printing to a full disk.

    Returns:
        By name of each failed job, one line about the reason.
    """
    tasks: dict[Job, Task] = {}
    logged: dict[Job, int] = {}  # bytes of the log that are of earlier attempts
    failures: dict[str, str] = {}

    def look() -> None:
        for job, task in list(tasks.items()):
            if (status := task.poll()) is not None:
                del tasks[job]
                failure = _failure(job, task, status, logged[job])
                failure = None if failure and is_done(job) else failure
                watch.ended(job, failure)
                if failure:
                    failures[job.name] = failure
        watch.running(list(tasks))
        time.sleep(POLL_SECONDS)

    with terminated_as_interrupted():
        try:
            for job in jobs:
                if job:
                    logged[job] = job.log.stat().st_size if os.path.exists(job.log) else 0
                    tasks[job] = engine.start(job)
                else:
                    look()
                while len(tasks) >= engine.workers:
                    look()
            while tasks:
                look()
        except BaseException:
            _stop(list(tasks.values()))
            raise
    return failures


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP as an interrupt, so that this process and its jobs end in order.

    Signals that are ignored stay ignored: `nohup` ignores SIGHUP.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGTERM, *([signal.SIGHUP] if sys.platform != "win32" else [])]
    before = {number: signal.getsignal(number) for number in numbers}
    taken = [number for number in numbers if before[number] != signal.SIG_IGN]
    for number in taken:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


@dataclass
class Local:
    """Processes on this machine.

    Attributes:
        workers: number of simultaneous processes.
        threads: threads of each process; by default the cores are divided evenly, but not more than
            OMP_NUM_THREADS in the environment.
        devices: names of GPUs as in CUDA_VISIBLE_DEVICES, which the processes use in turn; empty:
            the environment is not changed.
    """

    workers: int
    threads: int = 0
    devices: Sequence[str] = ()
    _places: list[_Process | None] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_whole("workers", self.workers, most=MOST_WORKERS)
        wanted = os.environ.get("OMP_NUM_THREADS", "")
        most = int(wanted) if wanted.isdecimal() and int(wanted) else cores()
        self.threads = self.threads or max(1, min(most, cores() // self.workers))
        self._places = [None] * self.workers

    def start(self, job: Job) -> Task:
        """Start a job as a process, which sees one of `devices`, if there are any."""
        place = next(
            i for i, task in enumerate(self._places) if not task or task.poll() is not None
        )
        environment = {"OMP_NUM_THREADS": str(self.threads)}
        if self.devices:
            environment["CUDA_VISIBLE_DEVICES"] = self.devices[place % len(self.devices)]
        # It is in a separate session, so signals of the terminal reach it only through us.
        task = _launch(_Process, job, environment, start_new_session=True)
        self._places[place] = task
        return task


class _Process(subprocess.Popen[bytes]):
    """A process with a pipe to this one, through which it reports an error.

    Its log cannot serve for this, since it may be on a full disk.
    """

    reason: str | None = None  # once it has ended

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], **options: Any) -> None:
        self._pipe: int | None = None
        if sys.platform == "win32":
            super().__init__(command, env=env, **options)
            return
        self._pipe, end = os.pipe()
        try:
            env = {**env, REASON: str(end)}
            super().__init__(command, env=env, pass_fds=(end,), **options)
        except BaseException:
            self._close()
            raise
        finally:
            os.close(end)

    def poll(self) -> int | None:
        status = super().poll()
        if status is not None and self._pipe is not None:
            os.set_blocking(self._pipe, False)  # a surviving child process may keep it open
            with suppress(BlockingIOError):
                self.reason = os.read(self._pipe, LOG_TAIL).decode(errors="replace").strip() or None
            self._close()
        return status

    def kill(self) -> None:
        super().kill()
        self.wait()
        self.poll()

    def _close(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None


def tell_parent(reason: str) -> None:
    """Report an error to the process that has started this one as a job, if there is one."""
    number = os.environ.pop(REASON, "")  # a job's own child processes have no such pipe
    with suppress(OSError, ValueError):
        if stat.S_ISFIFO(os.fstat(int(number)).st_mode):
            os.write(int(number), f"{reason}\n".encode(errors="replace")[:LOG_TAIL])


@dataclass
class Cluster:
    """Jobs in the queue of a cluster, through submitit.

    Attributes:
        workers: number of jobs that are queued or running at once.
        folder: folder for submitit's files; it must have the same path on the nodes.
        kind: ``"slurm"``, or ``"local"`` for submitit's own processes on this machine.
        settings: arguments of ``submitit.AutoExecutor.update_parameters``, such as
            ``{"cpus_per_task": 8, "slurm_partition": "gpu", "timeout_min": 600}``.

    Raises:
        InvalidInput: submitit is not installed or does not know a setting, or the kind is unknown.
    """

    workers: int
    folder: Path
    kind: str = "slurm"
    settings: Mapping[str, Any] = field(default_factory=dict)
    _executor: submitit.AutoExecutor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in CLUSTERS:
            raise InvalidInput(
                f"unknown cluster {self.kind!r}{nearest(self.kind, CLUSTERS)}; known: "
                f"{', '.join(CLUSTERS)}"
            )
        check_whole("workers", self.workers, most=MOST_WORKERS)
        if type(self.settings.get("cpus_per_task", 1)) is int and self.threads < 1:
            raise InvalidInput(f"cpus_per_task must be at least 1, got {self.threads}")
        try:
            import submitit
        except ImportError:
            raise InvalidInput(
                "a cluster needs submitit, which is not installed: pip install 'tsslbp[cluster]'"
            ) from None
        defaults = {"name": "tsslbp", "timeout_min": CLUSTER_MINUTES, "cpus_per_task": 1}
        try:
            self._executor = submitit.AutoExecutor(folder=self.folder, cluster=self.kind)
            self._executor.update_parameters(**(defaults | dict(self.settings)))
        except (AssertionError, RuntimeError, TypeError, ValueError, NameError) as error:
            reason = " ".join(str(error).split())
            raise InvalidInput(f"cluster {self.kind!r} cannot be used: {reason}") from error

    @property
    def threads(self) -> int:
        """Number of threads of each job."""
        return int(self.settings.get("cpus_per_task", 1))

    def start(self, job: Job) -> Task:
        """Submit a job to the cluster.

        Raises:
            RunError: the cluster rejects it.
        """
        from submitit.core.utils import FailedJobError

        try:
            return _Queued(job, self._executor.submit(Command(job, self.threads)))
        except (FailedJobError, OSError) as error:
            reason = " ".join(str(error).split())
            raise RunError(f"the cluster rejects {job.name}: {reason}") from error


@dataclass
class Command:
    """A job as submitit calls it; if SLURM preempts it, it is queued again."""

    job: Job
    threads: int

    def __call__(self) -> int:
        """Run the job's process and return its exit status."""
        environment = {"OMP_NUM_THREADS": str(self.threads)}
        # SLURM sends this signal to submitit, and to the job, shortly before the time limit.
        ignore = partial(signal.signal, signal.SIGUSR2, signal.SIG_IGN)
        done = _launch(subprocess.run, self.job, environment, preexec_fn=ignore)
        return int(done.returncode)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Return what to queue instead (called by submitit)."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class _Queued:
    def __init__(self, job: Job, queued: submitit.Job[int]) -> None:
        self._job, self._queued = job, queued

    def poll(self) -> int | None:
        if not self._queued.done():
            return None
        if not self._queued.exception():
            return self._queued.result()
        with _log(self._job) as log:
            log.write(f"error: the cluster ended the job: {self._queued.state}\n".encode())
        return 1

    def terminate(self) -> None:
        self._queued.cancel(check=False)

    kill = terminate


def _command(job: Job) -> list[str]:
    return [sys.executable, "-m", "tsslbp", *job.arguments]


def _launch(start: Callable[..., T], job: Job, environment: Mapping[str, str], **options: Any) -> T:
    """Start a job's process by a function of `subprocess`, with additional variables."""
    with _log(job) as log:
        return start(
            _command(job),
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            **options,
        )


@contextmanager
def _log(job: Job) -> Iterator[IO[bytes]]:
    with writing(job.log):
        job.log.parent.mkdir(parents=True, exist_ok=True)
        file = job.log.open("ab")
    with file:
        yield file


def _failure(job: Job, task: Task, status: int, logged: int) -> str | None:
    """Return one line about the reason why a job failed; None if it did not.

    The reason is what the job has reported to this process, or the last error in its log, or the
    last line of the log. Another process may write to the same log: one that continues after its
    parent was killed.
    """
    if status == 0:
        return None
    if reason := getattr(task, "reason", None):
        return " ".join(reason.split())
    if status < 0:
        name = signal.Signals(-status).name
        hint = ", which the system does if memory runs out" if status == -signal.SIGKILL else ""
        return f"ended by {name}{hint}"
    with suppress(OSError):
        with job.log.open("rb") as file:
            file.seek(max(logged, file.seek(0, os.SEEK_END) - LOG_TAIL))
            lines = file.read().decode(errors="replace").strip().splitlines()
        if lines:
            errors = [line for line in lines if line.startswith("error: ")]
            return (errors or lines)[-1].removeprefix("error: ")
    return f"ended with status {status}"


def _stop(tasks: Sequence[Task]) -> None:
    """Ask all jobs to end, and kill those that do not end in time."""
    for task in tasks:
        task.terminate()  # works even where interrupts are ignored, as under `nohup`
    limit = time.monotonic() + GRACE_SECONDS
    try:
        while time.monotonic() < limit and any(task.poll() is None for task in tasks):
            time.sleep(POLL_SECONDS)
    finally:  # immediately, if the user interrupts again
        for task in tasks:
            if task.poll() is None:
                task.kill()
