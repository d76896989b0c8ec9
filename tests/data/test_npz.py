"""Tests of a user's images in .npz files: what is accepted, and each mistake's message."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tsslbp import data, training
from tsslbp.errors import DataError, InvalidInput
from tsslbp.experiment import Experiment

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 6, 5), dtype=np.uint8)
LABELS = np.arange(40) % 4


def write(folder: Path, **arrays: Any) -> str:
    path = folder / "mine.npz"
    np.savez(path, **arrays)
    return str(path)


def expect_error(path: str, *parts: str) -> None:
    with pytest.raises(DataError) as error:
        data.load(path)
    message = str(error.value)
    assert path in message and "\n" not in message
    for part in parts:
        assert part in message


def test_held_out_tenth(tmp_path: Path) -> None:
    path = write(tmp_path, images=IMAGES, labels=LABELS)
    found = data.load(path)
    assert found.name == "mine.npz" and found.classes == 4
    assert found.train_images.shape == (36, 1, 6, 5) and found.test_images.shape == (4, 1, 6, 5)
    assert found.train_images.dtype == torch.uint8 and found.train_labels.dtype == torch.int64
    assert sorted(found.test_labels.tolist()) == [0, 1, 2, 3]
    assert "tested on 4 of the 40 images" in found.note
    again = data.load(path)
    assert torch.equal(again.test_images, found.test_images)


def test_held_out_images_are_the_rest(tmp_path: Path) -> None:
    numbered = np.arange(40, dtype=np.float32)[:, None, None] / 4 * np.ones((1, 2, 2), np.float32)
    found = data.load(write(tmp_path, images=numbered, labels=LABELS))
    train, test = 4 * found.train_images[:, 0, 0, 0], 4 * found.test_images[:, 0, 0, 0]
    assert sorted(torch.cat([train, test]).tolist()) == list(range(40))
    assert (found.train_labels == train % 4).all() and (found.test_labels == test % 4).all()


def test_own_test_images(tmp_path: Path) -> None:
    found = data.load(
        write(
            tmp_path,
            images=IMAGES,
            labels=LABELS,
            test_images=IMAGES[:7],
            test_labels=np.full(7, 3),
            class_names=np.array(["a", "b"], dtype=object),
        )
    )
    assert len(found.train_labels) == 40 and found.note == ""
    assert np.array_equal(found.train_images.squeeze(1).numpy(), IMAGES)
    assert np.array_equal(found.test_images.squeeze(1).numpy(), IMAGES[:7])
    assert found.classes == 4


@pytest.mark.parametrize(
    ("labels", "test_label", "expected"),
    [
        ([0, 1, 3], 0, "1 of the 4 classes .* have .* the first of them is 2"),
        ([1, 2, 3], 5, "3 of the 6 classes .* have .* the first of them is 0"),
    ],
)
def test_classes_without_training_images(
    tmp_path: Path, labels: list[int], test_label: int, expected: str
) -> None:
    path = write(
        tmp_path,
        images=IMAGES[:3],
        labels=np.array(labels),
        test_images=IMAGES[:1],
        test_labels=np.array([test_label]),
    )
    with pytest.warns(UserWarning, match=f"^mine.npz: {expected}"):
        found = data.load(path)
    assert found.classes == max(*labels, test_label) + 1


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", ">f8"])
def test_floating_point_becomes_float32(tmp_path: Path, dtype: str) -> None:
    values = (IMAGES / 256).astype(dtype)
    found = data.load(
        write(tmp_path, images=values, labels=LABELS, test_images=values, test_labels=LABELS)
    )
    assert found.train_images.dtype == torch.float32
    assert np.array_equal(found.train_images.squeeze(1).numpy(), values.astype(np.float32))


def test_floats_that_look_like_pixels(tmp_path: Path) -> None:
    values = IMAGES.astype(np.float32)
    with pytest.warns(UserWarning, match=r"^mine.npz: 'images' reach 255.*divided by 255$"):
        found = data.load(write(tmp_path, images=values, labels=LABELS))
    assert set(found.train_images.unique().tolist()) <= set(values.flatten().tolist())


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int64", "uint64", ">i4"])
def test_labels_of_any_integer_type(tmp_path: Path, dtype: str) -> None:
    labels = LABELS.astype(dtype)
    found = data.load(
        write(tmp_path, images=IMAGES, labels=labels, test_images=IMAGES, test_labels=labels)
    )
    assert found.train_labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("arrange", [np.asfortranarray, lambda a: a[::-1, :, ::-1]])
def test_colour_and_memory_order(tmp_path: Path, arrange: Callable[..., np.ndarray]) -> None:
    images = arrange(RNG.random((12, 3, 4, 4)))
    found = data.load(write(tmp_path, images=images, labels=LABELS[:12]))
    assert found.train_images.shape == (11, 3, 4, 4)
    assert found.train_images.is_contiguous()


def test_compressed(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, images=IMAGES, labels=LABELS)
    assert len(data.load(str(path)).train_labels) == 36


def with_value(value: float, index: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    images = IMAGES.astype(dtype)
    images[index] = value
    images[-1, -1, -1] = value
    return images


MISTAKES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no images": ({"labels": LABELS}, ("holds no array 'images'", "only labels")),
    "no labels": (
        {"images": IMAGES, "label": LABELS},
        ("holds no array 'labels' (did you mean 'label'?)", "only images, label"),
    ),
    "nothing": ({}, ("holds no array 'images', only nothing",)),
    "test labels missing": (
        {"images": IMAGES, "labels": LABELS, "test_images": IMAGES},
        ("holds no array 'test_labels'",),
    ),
    "test images missing": (
        {"images": IMAGES, "labels": LABELS, "test_labels": LABELS},
        ("holds no array 'test_images'",),
    ),
    "flat images": (
        {"images": IMAGES.reshape(40, 30), "labels": LABELS},
        ("'images' must be [N, H, W] or [N, C, H, W]", "shape [40, 30]"),
    ),
    "channels last": (
        {"images": np.zeros((40, 8, 9, 3), np.uint8), "labels": LABELS},
        ("[N, H, W, C]", "shape [40, 8, 9, 3]", "moveaxis"),
    ),
    "integer images": (
        {"images": IMAGES.astype(np.int64), "labels": LABELS},
        ("'images' must be uint8", "got int64"),
    ),
    "complex images": ({"images": IMAGES.astype(complex), "labels": LABELS}, ("got complex128",)),
    "empty images": (
        {"images": IMAGES[:0], "labels": LABELS[:0]},
        ("'images' is empty: shape [0, 6, 5]",),
    ),
    "lengths differ": (
        {"images": IMAGES, "labels": LABELS[:39]},
        ("'images' holds 40 images, but 'labels' has 39 labels",),
    ),
    "NaN": (
        {"images": with_value(np.nan, (3, 2, 1)), "labels": LABELS},
        ("'images' contains NaN or infinity", "2 of 1200", "first at index [3, 2, 1]"),
    ),
    "infinity": (
        {"images": with_value(-np.inf, (0, 0, 0)), "labels": LABELS},
        ("2 of 1200 values", "first at index [0, 0, 0]"),
    ),
    "beyond float32": (
        {"images": with_value(1e300, (0, 0, 4), "float64"), "labels": LABELS},
        ("NaN or infinity (in float32)", "first at index [0, 0, 4]"),
    ),
    "real labels": (
        {"images": IMAGES, "labels": LABELS + 0.5},
        ("'labels' must be integers", "got float64"),
    ),
    "one-hot labels": (
        {"images": IMAGES, "labels": np.eye(4, dtype=int)[LABELS]},
        ("'labels' must be [N]", "got shape [40, 4]"),
    ),
    "negative label": (
        {"images": IMAGES, "labels": np.where(LABELS == 2, -1, LABELS)},
        ("'labels' holds 10 values outside", "the first is -1 at index 2"),
    ),
    "huge label": (
        {"images": IMAGES, "labels": np.full(40, 2**63, np.uint64)},
        ("the first is 9223372036854775808 at index 0",),
    ),
    "text labels": (
        {"images": IMAGES, "labels": np.array(["cat"] * 40)},
        ("'labels' must be integers",),
    ),
    "objects": (
        {"images": IMAGES, "labels": LABELS.astype(object)},
        ("cannot read", "Python objects, which are not loaded"),
    ),
    "single image": ({"images": IMAGES[:1], "labels": LABELS[:1]}, ("only one image",)),
    "other size": (
        {
            "images": IMAGES,
            "labels": LABELS,
            "test_images": IMAGES[:, :5],
            "test_labels": LABELS,
        },
        ("differ in type or size", "torch.uint8 [1, 6, 5] and torch.uint8 [1, 5, 5]"),
    ),
    "other type": (
        {
            "images": IMAGES,
            "labels": LABELS,
            "test_images": IMAGES / 255,
            "test_labels": LABELS,
        },
        ("differ in type or size", "torch.uint8 [1, 6, 5] and torch.float32 [1, 6, 5]"),
    ),
    "mistake in the test images": (
        {
            "images": IMAGES,
            "labels": LABELS,
            "test_images": IMAGES * np.nan,
            "test_labels": LABELS,
        },
        ("'test_images' contains NaN or infinity (in float32) in 1200 of",),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(tmp_path: Path, mistake: str) -> None:
    arrays, parts = MISTAKES[mistake]
    expect_error(write(tmp_path, **arrays), *parts)


def test_missing_file(tmp_path: Path) -> None:
    expect_error(str(tmp_path / "nowhere.npz"), "there is no file")
    expect_error(str(tmp_path.joinpath("folder.npz")), "there is no file")


def as_member(content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("images.npy", content)
        archive.writestr("labels.npy", content)
    return packed.getvalue()


def npy(array: np.ndarray) -> bytes:
    packed = io.BytesIO()
    np.save(packed, array)
    return packed.getvalue()


class Trap:
    """Object that makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    trap = np.empty(40, dtype=object)
    trap[:] = [Trap(sprung)] * 40
    expect_error(
        write(tmp_path, images=IMAGES, labels=trap), "Python objects, which are not loaded"
    )
    bare = tmp_path / "bare.npz"
    bare.write_bytes(pickle.dumps(Trap(sprung)))
    expect_error(str(bare), "is not a .npz file")
    bare.write_bytes(pickle.dumps(Trap(sprung)) + as_member(npy(IMAGES)))
    expect_error(str(bare), "cannot read")
    assert not sprung.exists()
    pickle.loads(bare.read_bytes())  # this shows that the trap works
    assert sprung.exists()


UNREADABLE = {
    "empty": b"",
    "text": b"images, labels\n1, 2\n",
    "single array": npy(IMAGES),
    "no arrays inside": as_member(b"text"),
    "truncated array": as_member(npy(IMAGES)[:-1]),
    "truncated header": as_member(npy(IMAGES)[:20]),
    "damaged header": as_member(npy(IMAGES).replace(b"shape", b"(((((")),
    "mixed header": as_member(npy(IMAGES).replace(b" 'fortran_order'", b"b'fortran_order'")),
    "larger than memory": as_member(
        npy(IMAGES).replace(b"(40, 6, 5), }  ", b"(9999999999999,), }")
    ),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_unreadable(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mine.npz"
    path.write_bytes(UNREADABLE[kind])
    expect_error(str(path))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_anywhere(tmp_path: Path, save: Callable[..., None]) -> None:
    """A file cut short is refused; one with a changed byte is refused or reads the same."""
    path = tmp_path / "mine.npz"
    save(path, images=IMAGES[:4, :2, :2], labels=LABELS[:4].astype(np.uint8))
    good, whole = path.read_bytes(), data.load(str(path))
    for place in range(len(good)):
        path.write_bytes(good[:place])
        expect_error(str(path))
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :])
        try:
            found = data.load(str(path))
        except DataError:
            continue
        assert torch.equal(found.train_images, whole.train_images)
        assert torch.equal(found.test_labels, whole.test_labels)


def test_frames_are_taken_as_they_are(tmp_path: Path) -> None:
    frames = RNG.integers(0, 3, (40, 4, 2, 6, 5), dtype=np.uint8)
    for kind in (np.uint8, np.float64, np.bool_):
        found = data.load(write(tmp_path, images=frames.astype(kind), labels=LABELS))
        assert found.train_images.shape == (36, 4, 2, 6, 5) and found.input_shape == (2, 6, 5)
        together = [*found.train_images, *found.test_images]
        assert sum(float(one.sum()) for one in together) == frames.astype(kind).sum()
    other = frames[:, :3]
    path = write(tmp_path, images=frames, labels=LABELS, test_images=other, test_labels=LABELS)
    expect_error(path, "frames [4, 2, 6, 5] and frames [3, 2, 6, 5]")


def test_frames_must_be_as_many_as_steps(tmp_path: Path) -> None:
    frames = RNG.integers(0, 2, (40, 4, 2, 6, 5), dtype=np.uint8)
    wanted = Experiment(data="x", network="8", time_steps=5, validation_images=5)
    with pytest.raises(InvalidInput, match="recordings of 4 frames, but time_steps is 5"):
        training.check_data(wanted, data.load(write(tmp_path, images=frames, labels=LABELS)))
