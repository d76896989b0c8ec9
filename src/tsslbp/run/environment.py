"""The environment of a run: versions, commit, machine and command; and its memory."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import _version


def describe_environment() -> dict[str, Any]:
    """Return all that a result may depend on apart from its configuration; None if unknown.

    ``commit`` and ``dirty`` (whether tracked source files were modified) describe the checkout from
    which this package is run; they are None if it is installed in another way. ``threads`` is the
    present number of PyTorch threads, ``processes`` the number of processes that train together.
    """
    import torch
    from torch import distributed

    commit, dirty = _source_state(Path(_version.__file__))
    return {
        "tsslbp": _version.__version__,
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": _installed("numpy"),
        "numba": _installed("numba"),
        "triton": _installed("triton"),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": distributed.get_world_size() if distributed.is_initialized() else 1,
        "command": _command_line(sys.argv),
    }


def peak_memory() -> int | None:
    """Return the largest resident memory of this process so far, in bytes; None if unknown."""
    with contextlib.suppress(OSError):  # Linux: getrusage would include the parent's peak
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _installed(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _source_state(source: Path) -> tuple[str | None, bool | None]:
    """Return the commit of the checkout that tracks `source`, and whether its folder is modified.

    `source` is a file in the package's folder.
    """
    package = source.parent
    # An untracked package is inside another project's checkout, whose commit is irrelevant.
    if _git(package, "ls-files", "--error-unmatch", "--", source.name) is None:
        return None, None
    commit = _git(package, "rev-parse", "--verify", "HEAD")
    changes = _git(package, "status", "--porcelain", "--untracked-files=no", "--", ".")
    return commit, None if commit is None or changes is None else bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints in `folder`, or None if it fails or is not installed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            check=True,
            encoding="utf-8",
            env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def _cpu_model() -> str | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or None


def _command_line(arguments: list[str]) -> str:
    """Return the command without the folder of the program, which is irrelevant to the run."""
    program = Path(arguments[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return shlex.join([name, *arguments[1:]])
