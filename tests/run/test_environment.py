"""Tests of the record of where a run was made, with and without git and a distribution."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from tsslbp.run import environment
from tsslbp.run.environment import describe_environment


def test_command_of_a_package_run_as_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/tsslbp/__main__.py", "info", "10"])
    assert describe_environment()["command"] == "tsslbp info 10"


def test_the_card_is_named_where_there_is_one() -> None:
    assert (describe_environment()["gpu"] is None) != torch.cuda.is_available()


def test_no_commit_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = describe_environment()
    assert found["commit"] is None
    assert found["dirty"] is None


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return result.stdout.strip()


def test_commit_is_that_of_the_checkout_which_tracks_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "src" / "tsslbp"
    package.mkdir(parents=True)
    (package / "environment.py").write_text("one")
    try:
        git(tmp_path, "init", "-q")
    except OSError:
        pytest.skip("git is not installed")
    assert environment._source_state(package) == (None, None)
    (tmp_path / "other").touch()
    git(tmp_path, "add", "other")
    git(tmp_path, "commit", "-q", "-m", "somebody else's commit")
    assert environment._source_state(package) == (None, None)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "ours")
    commit = git(tmp_path, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert environment._source_state(package) == (commit, False)
    (package / "environment.py").write_text("two")
    assert environment._source_state(package) == (commit, True)


def test_version_without_an_installed_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    import tsslbp

    def not_found(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", not_found)
    found = describe_environment()
    assert found["tsslbp"] == tsslbp.__version__
    assert found["numba"] is None
