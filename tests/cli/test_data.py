"""Tests of the commands about data sets, from the command line to what is downloaded and drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tsslbp import data
from tsslbp.data import catalogue
from tsslbp.data.events.recording import Events, EventSet
from tsslbp.data.files import VARIABLE
from tsslbp.data.images import cifar10, idx

from .conftest import Program


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty current folder."""
    for variable in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(variable, raising=False)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


@pytest.fixture
def program(program: Program) -> Program:
    """Return a function that runs a command about data sets."""
    return lambda *arguments: program("data", *map(str, arguments))


@pytest.fixture
def served(tiny: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a local server that offers the small data set in place of MNIST."""
    entry = replace(tiny.entry(server.url), name="mnist", folders=("mnist",))
    monkeypatch.setitem(catalogue.entries(), "mnist", entry)
    server.files.update(tiny.files)
    return server


def test_without_a_verb_there_is_help(program: Program) -> None:
    code, output, _ = program()
    assert code == 0
    assert all(command in output for command in ("list", "fetch", "check", "show"))


def test_list_says_which_copies_are_there(program: Program, tmp_path: Path) -> None:
    (tmp_path / "N-MNIST-sample").mkdir()
    code, output, _ = program("list", "--data-dir", tmp_path)
    assert code == 0
    rows = {line.split()[0]: line.split() for line in output.splitlines()[1:-2]}
    assert list(rows) == list(catalogue.entries())
    assert rows["nmnist-sample"][-1] == str(tmp_path / "N-MNIST-sample")
    assert rows["mnist"][-1] == rows["cifar10"][-1] == "-"
    assert "60,000 + 10,000" in " ".join(rows["mnist"])


@pytest.mark.parametrize("given", ["option", "variable", None])
def test_fetch_downloads_once(
    given: str | None,
    served: Any,
    tiny: Any,
    program: Program,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = tmp_path / "given" if given else cache
    if given == "variable":
        monkeypatch.setenv(VARIABLE, str(place))
    options = ["--data-dir", place] if given == "option" else []
    code, output, _ = program("fetch", "mnist", *options)
    assert code == 0
    for file, content in tiny.files.items():
        assert (place / "mnist" / file).read_bytes() == content
        assert f"{place / 'mnist' / file}: ok" in output
    assert sorted(served.requests) == sorted(tiny.files)
    code, output, _ = program("fetch", "mnist", *options)
    assert code == 0 and f"nothing to download: {place / 'mnist'} is complete" in output
    assert len(served.requests) == len(tiny.files)


def test_fetch_gets_only_what_is_missing_or_damaged(
    served: Any, tiny: Any, program: Program, tmp_path: Path
) -> None:
    place = replace(tiny, files=tiny.files | {idx.TEST_LABELS: b"damaged"}).write(tmp_path / "data")
    (place / "tiny").rename(place / "mnist")
    (place / "mnist" / idx.TRAIN_LABELS).unlink()
    assert program("fetch", "mnist", "--data-dir", place)[0] == 0
    assert sorted(served.requests) == sorted([idx.TEST_LABELS, idx.TRAIN_LABELS])
    assert program("check", "mnist", "--data-dir", place)[0] == 0


def test_fetch_refuses_another_file_than_the_official(
    served: Any, refused: Callable[..., str], tmp_path: Path
) -> None:
    served.files[idx.TRAIN_LABELS] = b"an error page"
    error = refused("fetch", "mnist", "--data-dir", tmp_path)
    assert idx.TRAIN_LABELS in error and "another checksum" in error
    assert not (tmp_path / "mnist" / idx.TRAIN_LABELS).exists()


def test_fetch_says_how_to_get_what_it_cannot_download(program: Program, tmp_path: Path) -> None:
    code, output, error = program("fetch", "dvs-gesture", "--data-dir", tmp_path)
    entry = catalogue.find("dvs-gesture")
    assert code == 0 and not error and VARIABLE in output
    for fact in (entry.homepage, entry.layout, entry.citation, "CC BY 4.0", "3.0 GB"):
        assert fact in output
    (tmp_path / entry.folders[0]).mkdir()
    code, output, _ = program("fetch", "dvs-gesture", "--data-dir", tmp_path)
    assert code == 0 and f"a copy is in {tmp_path / entry.folders[0]}" in output


def test_the_digits_need_no_download(program: Program) -> None:
    assert "nothing to download" in program("fetch", "digits")[1]
    assert program("check", "digits")[:2] == (0, "digits: comes with tsslbp\n")


def test_check_names_every_wrong_file(
    served: Any, tiny: Any, program: Program, tmp_path: Path
) -> None:
    program("fetch", "mnist", "--data-dir", tmp_path)
    (tmp_path / "mnist" / idx.TEST_IMAGES).unlink()
    (tmp_path / "mnist" / idx.TEST_LABELS).write_bytes(b"damaged")
    code, output, error = program("check", "mnist", "--data-dir", tmp_path)
    assert code == 2
    lines = {Path(line.split()[0].rstrip(":")).name: line for line in output.splitlines()}
    assert lines[idx.TEST_IMAGES].endswith("is missing")
    assert "MD5" in lines[idx.TEST_LABELS]
    assert lines[idx.TRAIN_IMAGES].endswith(": ok")
    assert "(problems: 2); tsslbp data fetch mnist downloads it again" in error


def test_check_of_a_folder(
    served: Any, program: Program, refused: Callable[..., str], tmp_path: Path
) -> None:
    program("fetch", "mnist", "--data-dir", tmp_path)
    code, output, _ = program("check", tmp_path / "mnist")
    assert code == 0 and output.count(": ok") == 4
    (tmp_path / "mnits").mkdir()
    assert "did you mean 'mnist'" in refused("check", tmp_path / "mnits")
    assert "did you mean 'mnist'" in refused("check", "mnits")


def test_fetch_refuses_a_download_that_would_not_be_read(
    refused: Callable[..., str], server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unpacked files of CIFAR-10, complete or not, take precedence over the archive."""
    entry = replace(catalogue.find("cifar10"), url=server.url)
    monkeypatch.setitem(catalogue.entries(), "cifar10", entry)
    folder = tmp_path / "cifar10" / cifar10.FOLDER
    folder.mkdir(parents=True)
    assert f"{folder} is incomplete" in refused("fetch", "cifar10", "--data-dir", tmp_path)
    assert server.requests == []


def test_check_of_the_reencoded_copy_says_what_is_missing(program: Program, tmp_path: Path) -> None:
    code, output, error = program("check", "cifar10-reencoded", "--data-dir", tmp_path)
    assert code == 2 and output.count("is missing") == len(cifar10.FILES)
    assert "cifar10-reencoded is damaged or incomplete (problems: 6)" in error


def test_show_names_the_class_of_an_image_in_a_folder(folder: Path, program: Program) -> None:
    for name in ("ape", "c$t$"):
        (folder / "pets" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("L", (6, 5), 40 * number).save(folder / "pets" / name / f"{number}.png")
    code, output, _ = program("show", "pets/", 0)
    assert code == 0 and "pets, training sample 0, class ape\n" in output
    assert "tested on 1 of the 8 images in pets" in output
    assert "class c$t$\n" in program("show", "pets/", 6)[1]
    assert Path("pets-0.png").read_bytes().startswith(b"\x89PNG")


def write_npz(path: Path) -> None:
    images = np.random.RandomState(0).randint(0, 256, (20, 6, 6)).astype(np.uint8)
    np.savez(path, images=images, labels=np.arange(20) % 4)


def test_show_draws_an_image(program: Program, folder: Path) -> None:
    pytest.importorskip("matplotlib")
    write_npz(folder / "mine.npz")
    label = int(data.load("mine.npz").train_labels[3])
    code, output, _ = program("show", "mine.npz", 3)
    assert code == 0
    assert f"mine.npz, training sample 3, class {label}\n" in output
    assert "picture saved in mine-3.png" in output
    assert (folder / "mine-3.png").read_bytes().startswith(b"\x89PNG")
    code, output, _ = program("show", "mine.npz", 1, "--test", "--out", "a/b.svg")
    assert code == 0 and "test sample 1" in output
    assert "<svg" in (folder / "a" / "b.svg").read_text()
    program("show", "mine.npz", 1, "--test")
    assert {path.name for path in folder.iterdir()} == {
        "mine.npz",
        "mine-3.png",
        "a",
        "mine-test-1.png",
    }


def test_show_refuses_what_is_not_there(refused: Callable[..., str], folder: Path) -> None:
    pytest.importorskip("matplotlib")
    write_npz(folder / "mine.npz")
    assert "INDEX must be from 0 to 17, got 18" in refused("show", "mine.npz", 18)
    assert "--out must end in .png, .svg, .gif, got a.pdf" in refused(
        "show", "mine.npz", 0, "--out", "a.pdf"
    )
    assert "has no animation" in refused("show", "mine.npz", 0, "--out", "a.gif")
    assert "(did you mean 'mnist'?)" in refused("show", "mnits", 0)
    (folder / "file").write_text("")
    assert "cannot write" in refused("show", "mine.npz", 0, "--out", "file/a.png")


def test_show_without_matplotlib(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert "pip install 'tsslbp[figures]'" in refused("show", "digits", 0)


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Provide three training recordings, two in one file, and two test ones, the first empty."""

    def read(item: tuple[int, ...]) -> list[tuple[int, Events]]:
        return [(label, events(label)) for label in item]

    def events(count: int) -> Events:
        place = np.arange(count, dtype=np.int16)
        return Events(place, place, 1500 * np.arange(count), (place > 0).astype(np.uint8))

    train, test = [(4, 5), (6,)], [(0,), (7,)]
    source = EventSet("nmnist-sample", 12, 10, 10, train, test, read, "", "only a sample")
    monkeypatch.setitem(data.EVENT_READERS, "nmnist", lambda entry, data_dir: source)


@pytest.mark.parametrize(("options", "count"), [((1,), 5), ((2,), 6), ((1, "--test"), 7)])
def test_show_draws_a_recording_and_its_animation(
    options: tuple[object, ...], count: int, recordings: None, program: Program, folder: Path
) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    code, output, error = program("show", "nmnist-sample", *options, "--out", "seen.png")
    assert (code, error) == (0, "")
    assert f"class {count}\n" in output and "only a sample" in output
    length = 1.5 * (count - 1)
    assert f"\n{count} events, {count - 1} brighter and 1 darker, in {length} ms\n" in output
    assert output.endswith("picture saved in seen.png and seen.gif\n")
    assert (folder / "seen.png").read_bytes().startswith(b"\x89PNG")
    with Image.open(folder / "seen.gif") as animation:
        assert animation.format == "GIF" and animation.is_animated


def test_show_of_an_empty_recording_and_of_none(
    recordings: None, program: Program, refused: Callable[..., str], folder: Path
) -> None:
    pytest.importorskip("matplotlib")
    assert "no events" in program("show", "nmnist-sample", 0, "--test")[1]
    assert "nmnist-sample has no training sample 3" in refused("show", "nmnist-sample", 3)


def test_check_counts_recordings(recordings: None, program: Program) -> None:
    code, output, _ = program("check", "nmnist-sample")
    assert code == 2
    assert "3 training recordings of 15 events were found, but the data set has 1,000" in output


def test_show_writes_the_animation_alone(recordings: None, program: Program, folder: Path) -> None:
    pytest.importorskip("matplotlib")
    code, output, error = program("show", "nmnist-sample", 2, "--out", "seen.gif")
    assert (code, error) == (0, "")
    assert output.endswith("picture saved in seen.gif\n")
    assert [path.name for path in folder.iterdir()] == ["seen.gif"]


def test_show_draws_frames_that_are_given(program: Program, folder: Path) -> None:
    pytest.importorskip("matplotlib")
    frames = np.zeros((20, 3, 2, 5, 4), bool)
    frames[:, 1, 0, 2, 3] = frames[:, 2, :, 4, 0] = True
    np.savez(folder / "mine.npz", images=frames, labels=np.arange(20) % 4)
    code, output, error = program("show", "mine.npz", 6)
    assert (code, error) == (0, "")
    assert "active pixels by frame: 0, 1, 2\n" in output
    assert output.endswith("picture saved in mine-6.png and mine-6.gif\n")
