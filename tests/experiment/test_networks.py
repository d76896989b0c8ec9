"""Tests of how a recipe names its network: files, their copies and checksums, and settings."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from tsslbp import models
from tsslbp.errors import InvalidInput, RunError
from tsslbp.experiment import (
    Experiment,
    check_trust,
    is_described,
    load_recipe,
    network_file,
    network_name,
    save,
    settings_table,
    with_settings,
)
from tsslbp.experiment.networks import SHIPPED

from .experiments import assert_one_line

RECIPE = (
    'data = "mnist"\nnetwork = "nets.py:make"\n[network_settings]\nwidth = 8\nkinds = [[1], []]\n'
)
SOURCE = "def make(): ...\n"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "here"
    place.mkdir()
    (place / "nets.py").write_text(SOURCE)
    (place / "mine.toml").write_text(RECIPE)
    return place / "mine.toml"


def test_which_networks_are_described_by_layers() -> None:
    assert network_file("a/nets.py:make") == (Path("a/nets.py"), "make")
    assert network_name("a/nets.py:make") == "nets.py:make"
    for network in ("15C5-P2-300", "300", "nets:make"):
        assert network_file(network) is None and is_described(network)
    for network in ("nets.py:make", "vgg", "sew_resnet", "module:Mine"):
        assert not is_described(network)


def test_the_networks_that_ship_are_named() -> None:
    functions = {name for name, one in vars(models).items() if callable(one)}
    assert set(SHIPPED) <= functions
    own = {name for name in functions if getattr(models, name).__module__ == models.__name__}
    assert {name for name in own if name[0] != "_"} == set(SHIPPED)


@pytest.mark.parametrize("network", ["nets.py", "a/nets.py:", "nets.py:3x", "nets.py:a b"])
def test_a_file_without_a_function(network: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Experiment("mnist", network)
    assert_one_line(caught.value, ["names no function", "'nets.py:make'"])


def test_the_file_lies_beside_the_recipe(recipe: Path) -> None:
    experiment = load_recipe(recipe)
    assert experiment.network == f"{recipe.parent / 'nets.py'}:make"
    assert experiment.network_settings == {"width": 8, "kinds": ((1,), ())}
    assert experiment.network_checksum is None
    assert load_recipe("here/mine.toml") == experiment


@pytest.mark.parametrize("file", ["../nets.py", "a/../../nets.py", "/nets.py"])
def test_a_file_outside(recipe: Path, file: str) -> None:
    recipe.write_text(RECIPE.replace("nets.py", file))
    with pytest.raises(InvalidInput) as caught:
        load_recipe(recipe)
    assert_one_line(
        caught.value, [f"'{file}:make' is outside of the recipe's folder", "into that folder"]
    )


def test_a_recipe_is_saved_with_its_file(recipe: Path, tmp_path: Path) -> None:
    """The saved file is a copy, identified by its checksum, and may be in any folder."""
    experiment = load_recipe(recipe)
    (tmp_path / "run").mkdir()
    save(experiment, tmp_path / "run" / "config.toml")
    assert (tmp_path / "run" / "nets.py").read_text() == SOURCE
    assert 'network = "nets.py:make"' in (tmp_path / "run" / "config.toml").read_text()
    (tmp_path / "run").rename(tmp_path / "moved")
    copy = load_recipe(tmp_path / "moved" / "config.toml")
    assert copy.network == f"{tmp_path / 'moved' / 'nets.py'}:make"
    assert copy.network_checksum == hashlib.sha256(SOURCE.encode()).hexdigest()
    assert replace(copy, network=experiment.network, network_checksum=None) == experiment
    assert settings_table(copy) == settings_table(experiment)
    save(copy, tmp_path / "moved" / "config.toml")  # again, in its own folder
    (recipe.parent / "nets.py").write_text(SOURCE + "# changed\n")
    assert settings_table(copy) != settings_table(experiment)
    (tmp_path / "moved" / "nets.py").unlink()
    assert settings_table(copy)["network"].startswith("nets.py:make (")  # the record suffices


def test_a_file_that_changed_is_not_saved(recipe: Path, tmp_path: Path) -> None:
    save(load_recipe(recipe), tmp_path / "config.toml")
    copy = load_recipe(tmp_path / "config.toml")
    (tmp_path / "nets.py").write_text("import os\n")
    with pytest.raises(InvalidInput) as caught:
        save(copy, recipe.parent / "other.toml")
    assert_one_line(caught.value, ["nets.py has changed", "SHA-256", "restore the original"])
    with pytest.raises(RunError, match=r"contains another file nets.py"):
        save(load_recipe(recipe), tmp_path / "config.toml")
    assert (tmp_path / "nets.py").read_text() == "import os\n"


def test_trust(recipe: Path, tmp_path: Path) -> None:
    """A user's recipe may execute its file, but a copy beside a configuration only if trusted."""
    own = load_recipe(recipe)
    check_trust(own, False)
    save(own, tmp_path / "config.toml")
    copy = load_recipe(tmp_path / "config.toml")
    check_trust(copy, True)
    with pytest.raises(InvalidInput) as caught:
        check_trust(copy, False)
    assert_one_line(caught.value, [str(tmp_path / "nets.py"), "--trust-code", "trust_code=True"])
    check_trust(Experiment("mnist", "300"), False)
    with pytest.raises(InvalidInput) as caught:
        check_trust(Experiment("mnist", "module:Mine"), True)
    assert_one_line(caught.value, ["module:Mine", "tsslbp.load(folder, module=...)"])


def test_settings_of_the_command_line(recipe: Path, tmp_path: Path) -> None:
    own = load_recipe(recipe)
    assert with_settings(own, []) == own
    changed = with_settings(own, ["network_settings.width=16", "network_settings.name=a"])
    assert changed.network_settings == {"width": 16, "kinds": ((1,), ()), "name": "a"}
    vgg = with_settings(load_recipe("digits"), ["network=vgg", "network_settings.hidden=[32]"])
    assert vgg.network_settings == {"hidden": (32,)}
    save(own, tmp_path / "config.toml")
    copy = load_recipe(tmp_path / "config.toml")
    assert with_settings(copy, ["epochs=3"]).network_checksum == copy.network_checksum
    other = with_settings(copy, ["network=here/nets.py:make"])  # from the current folder
    assert (other.network, other.network_checksum) == (own.network, None)
    assert with_settings(own, ["network=../a.py:make"]).network == f"{tmp_path.parent}/a.py:make"


@pytest.mark.parametrize(
    ("network", "settings", "words"),
    [
        (
            "300",
            {"width": 8},
            ["network_settings applies only to a function", "got network = '300'"],
        ),
        ("vgg", {"width": {"a": 1}}, ["network_settings.width must be a number", "{'a': 1}"]),
        ("vgg", {"width": float("nan")}, ["network_settings.width must be a number", "nan"]),
        ("vgg", {"width": [1, None]}, ["network_settings.width must be", "got None"]),
        ("vgg", 3, ["network_settings must be a table", "got 3"]),
        ("vgg", "wide", ["network_settings must be a table", "'wide'"]),
    ],
)
def test_settings_that_are_refused(network: str, settings: object, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        Experiment.from_table({"data": "mnist", "network": network, "network_settings": settings})
    assert_one_line(caught.value, words)


def test_a_checksum_is_one() -> None:
    with pytest.raises(InvalidInput, match="network_checksum must be 64 hexadecimal digits"):
        Experiment("mnist", "nets.py:make", network_checksum="ab")
