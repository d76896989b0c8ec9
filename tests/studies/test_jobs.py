"""Tests of jobs as local processes and on a local cluster: ends, failures and interruptions."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tsslbp.errors import InvalidInput
from tsslbp.studies import jobs
from tsslbp.studies.jobs import Cluster, Job, Local


class Record:
    """Watch that records how each job ended and how many ran at once."""

    def __init__(self) -> None:
        self.ends: dict[str, str | None] = {}
        self.most = 0

    def running(self, current: Sequence[Job]) -> None:
        self.most = max(self.most, len(current))

    def ended(self, job: Job, failure: str | None) -> None:
        self.ends[job.name] = failure


USUAL = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}


@pytest.fixture(autouse=True)
def _usual_signals() -> Iterator[None]:
    """Set the usual signal handlers, since the tests may run where some signals are ignored.

    `nohup`, for instance, ignores SIGHUP.
    """
    before = {number: signal.signal(number, handler) for number, handler in USUAL.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], Job]:
    """Return a function that makes a job which runs Python code."""
    monkeypatch.setattr(jobs, "_command", lambda job: [sys.executable, "-c", *job.arguments])
    return lambda name, code: Job(name, (code,), tmp_path / "logs" / f"{name}.log")


Python = Callable[[str, str], Job]


def slurm_answers() -> bool:
    program = shutil.which("sinfo")
    return program is not None and subprocess.run([program], capture_output=True).returncode == 0


def test_one_failure_leaves_the_others_alone(python: Python) -> None:
    wanted = [
        python("good", "import time; time.sleep(1); print('fine')"),
        python("late", "import time; time.sleep(1)"),
        python("bad", "import sys; print('error: no such thing'); sys.exit(2)"),
        python("killed", "import os; os.kill(os.getpid(), 9)"),
        python("silent", "import sys; sys.exit(3)"),
    ]
    watch = Record()
    failures = jobs.run(wanted, Local(2, threads=1), watch)
    assert failures.keys() == {"bad", "killed", "silent"}
    assert failures["bad"] == "no such thing"
    assert "SIGKILL" in failures["killed"] and "memory" in failures["killed"]
    assert failures["silent"] == "ended with status 3"
    assert watch.ends == {"good": None, "late": None} | failures
    assert watch.most == 2
    assert wanted[0].log.read_text() == "fine\n"


def test_each_process_has_its_share_of_the_machine(python: Python) -> None:
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    code = f"import os, time; print(*map(os.environ.get, {names})); time.sleep(0.5)"
    wanted = [python(name, code) for name in "abc"]
    jobs.run(wanted, Local(3, threads=4, devices=["2", "5"]), Record())
    seen = sorted(job.log.read_text().strip() for job in wanted)
    assert seen == ["4 2", "4 2", "4 5"]


def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [Local(workers).threads for workers in (1, 3, 100)] == [8, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # what the user says is not exceeded
    assert [Local(workers).threads for workers in (1, 3)] == [3, 2]


def test_why_a_job_failed_is_its_own_error(python: Python) -> None:
    """Neither an earlier attempt's error nor other output in the log is taken for the reason."""
    job = python("a", "import sys; print('error: in use'); print(' 21/40 0.05'); sys.exit(2)")
    assert jobs.run([job], Local(1), Record()) == {"a": "in use"}
    crashing = replace(job, arguments=("import sys; print('ValueError: x'); sys.exit(1)",))
    assert jobs.run([crashing], Local(1), Record()) == {"a": "ValueError: x"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_reaches_the_jobs(python: Python, number: int, tmp_path: Path) -> None:
    flag = tmp_path / "began"
    job = python(
        "long",
        "import pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        f"pathlib.Path({str(flag)!r}).touch()\n"
        "try: time.sleep(60)\n"
        "except KeyboardInterrupt: print('stopped')",
    )

    def interrupt() -> None:
        while not flag.exists():
            time.sleep(0.05)
        time.sleep(0.3)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        jobs.run([job], Local(1), Record())
    thread.join()
    assert job.log.read_text() == "stopped\n"
    for one, handler in USUAL.items():
        assert signal.getsignal(one) is handler


def test_a_job_that_does_not_stop_is_killed(
    python: Python, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "GRACE_SECONDS", 0.5)
    job = python(
        "deaf",
        "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(os.getpid(), flush=True)\ntime.sleep(60)",
    )

    class Impatient(Record):
        def running(self, current: Sequence[Job]) -> None:
            if job.log.exists() and job.log.read_text().strip():
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jobs.run([job], Local(1), Impatient())
    with pytest.raises(ProcessLookupError):
        os.kill(int(job.log.read_text()), 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", jobs.CLUSTERS)
def test_jobs_of_a_cluster(kind: str, tmp_path: Path) -> None:
    """Both executors run each job, report its failure and write its log.

    Submitit's local executor starts processes of its own, as a cluster does.
    """
    pytest.importorskip("submitit")
    if kind == "slurm" and not slurm_answers():
        pytest.skip("no SLURM here (sinfo does not answer)")
    wanted = [
        Job("version", ("--version",), tmp_path / "a.log"),
        Job("bad", ("no-such-command",), tmp_path / "b.log"),
    ]
    cluster = Cluster(2, tmp_path / "cluster", kind, {"cpus_per_task": 2, "timeout_min": 5})
    assert cluster.threads == 2
    watch = Record()
    failures = jobs.run(wanted, cluster, watch)
    assert failures.keys() == {"bad"}
    assert "no-such-command" in failures["bad"]
    assert watch.ends["version"] is None
    assert (tmp_path / "a.log").read_text().startswith("tsslbp ")


@pytest.mark.slow
def test_a_job_that_its_cluster_ends_says_so(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    job = Job("long", ("train", "digits", "--out", str(tmp_path / "run")), tmp_path / "a.log")
    task = Cluster(1, tmp_path / "cluster", "local").start(job)
    assert task.poll() is None
    task.terminate()
    while (status := task.poll()) is None:
        time.sleep(0.1)
    assert status == 1
    assert "error: the cluster ended the job: " in job.log.read_text()


def test_a_job_taken_off_its_machine_is_queued_again(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    command = jobs.Command(Job("a", ("--version",), tmp_path / "a.log"), 1)
    again = command.checkpoint()
    assert again.function is command


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("slrum", {}, r"unknown cluster 'slrum' \(did you mean 'slurm'\?\)"),
        ("slurm", {}, "cluster 'slurm' cannot be used"),
        ("local", {"no_such": 1}, "cluster 'local' cannot be used: .*no_such"),
        ("local", {"cpus_per_task": "many"}, "cluster 'local' cannot be used: .*many"),
        ("local", {"cpus_per_task": 0}, "cpus_per_task must be at least 1, got 0"),
    ],
)
def test_clusters_that_cannot_be_used(
    kind: str, settings: dict[str, object], message: str, tmp_path: Path
) -> None:
    pytest.importorskip("submitit")
    if kind == "slurm" and shutil.which("srun"):
        pytest.skip("SLURM is installed here")
    with pytest.raises(InvalidInput, match=message):
        Cluster(1, tmp_path, kind, settings)


def test_no_worker() -> None:
    with pytest.raises(InvalidInput, match="workers must be a whole number of at least 1, got 0"):
        Local(0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
def test_the_reason_of_a_failure_arrives_where_the_log_is_full() -> None:
    wanted = [
        Job("refused", ("recipes", "digitz"), Path("/dev/full")),
        Job("usage", ("recipes", "--bogus"), Path("/dev/full")),
    ]
    failures = jobs.run(wanted, Local(2, threads=1), Record())
    assert failures["refused"].startswith("unknown recipe 'digitz' (did you mean 'digits'?)")
    assert failures["usage"].startswith("No such option: --bogus")


def test_a_job_that_has_made_what_it_makes_has_not_failed(python: Python) -> None:
    wanted = [python(name, "import sys; sys.exit(1)") for name in ("made", "not")]
    watch = Record()
    failures = jobs.run(wanted, Local(2), watch, lambda job: job.name == "made")
    assert failures.keys() == {"not"} and watch.ends["made"] is None


def test_pipes_are_closed_with_their_processes(python: Python) -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    jobs.run([python(str(n), "pass") for n in range(3)], Local(3), Record())
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_process_that_is_no_job_tells_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs.tell_parent("lost")
    for odd in ("99999", "x", "", "-1"):
        monkeypatch.setenv(jobs.REASON, odd)
        jobs.tell_parent("lost")
    read, write = os.pipe()
    monkeypatch.setenv(jobs.REASON, str(write))
    jobs.tell_parent("why \udc80")
    assert os.read(read, 100) == b"why ?\n" and jobs.REASON not in os.environ
    os.close(read)
    os.close(write)
