"""Tests of loading by name, batches, normalisation and splits."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from tsslbp import data
from tsslbp.data.dataset import split_test
from tsslbp.errors import InvalidInput


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("mnits", "did you mean 'mnist'?"), ("fashion", "'fashion-mnist'"), ("", "digits, mnist")],
)
def test_unknown_name(name: str, hint: str) -> None:
    with pytest.raises(InvalidInput) as error:
        data.load(name, binning=data.Binning())
    assert repr(name) in str(error.value) and hint in str(error.value)


@pytest.mark.parametrize(("count", "size"), [(1, 1), (10, 5), (11, 5), (3, 50), (60, 1)])
def test_batches_hold_every_index_once(count: int, size: int) -> None:
    parts = list(data.batches(count, size, generator()))
    assert sorted(torch.cat(parts).tolist()) == list(range(count))
    assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1)
    assert len(parts[-1]) == (count - 1) % size + 1


def test_batches_depend_on_the_generator_alone() -> None:
    order = [torch.cat(list(data.batches(100, 7, generator(seed)))) for seed in (0, 0, 1)]
    assert torch.equal(order[0], order[1]) and not torch.equal(order[0], order[2])
    advancing = generator()
    epochs = [torch.cat(list(data.batches(100, 7, advancing))) for _ in range(2)]
    assert torch.equal(epochs[0], order[0]) and not torch.equal(*epochs)


@pytest.mark.parametrize(("count", "size"), [(0, 5), (5, 0), (5, -1)])
def test_batches_refuse(count: int, size: int) -> None:
    with pytest.raises(InvalidInput, match=f"got {count} images and batch size {size}"):
        data.batches(count, size, generator())


def test_normalise_uint8() -> None:
    images = torch.randint(0, 256, (4, 3, 5, 6), dtype=torch.uint8, generator=generator())
    before = images.clone()
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    result = data.normalise(images, mean, std)
    expected = torch.empty(4, 3, 5, 6, dtype=torch.float64)
    for channel in range(3):
        expected[:, channel] = (images[:, channel].double() / 255 - mean[channel]) / std[channel]
    assert result.dtype == torch.float32 and torch.equal(images, before)
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_normalise_real(dtype: torch.dtype) -> None:
    images = torch.rand(4, 2, 5, 6, generator=generator()).to(dtype)
    before = images.clone()
    result = data.normalise(images, 0.25, [0.5])
    assert result.dtype == torch.float32 and torch.equal(images, before)
    torch.testing.assert_close(result, (images.float() - 0.25) / 0.5)


def test_normalise_keeps_values_by_default_numbers() -> None:
    images = torch.rand(2, 1, 3, 3, generator=generator())
    assert torch.equal(data.normalise(images, (0.0,), (1.0,)), images)


def test_normalise_strided() -> None:
    images = torch.randint(0, 256, (4, 6, 5, 3), dtype=torch.uint8).movedim(3, 1)
    expected = data.normalise(images.contiguous(), 0.1, 0.3)
    assert torch.equal(data.normalise(images, 0.1, 0.3), expected)


@pytest.mark.parametrize(
    ("shape", "mean", "std", "message"),
    [
        ((2, 3, 4), (0.0,), (1.0,), r"\[N, C, H, W\], got shape \[2, 3, 4\]"),
        ((2, 3, 4, 4), (0.0, 0.0), (1.0,), "mean must be one number, or 3"),
        ((2, 3, 4, 4), (0.0,), (1.0, 1.0), "std must be one number, or 3"),
        ((2, 3, 4, 4), (), (1.0,), "mean must be one number, or 3"),
        ((2, 3, 4, 4), (0.0,), (0.0,), "std must be positive"),
        ((2, 3, 4, 4), 0.0, (1.0, float("nan"), 1.0), "std must be positive"),
    ],
)
def test_normalise_refuses(shape: tuple[int, ...], mean: object, std: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        data.normalise(torch.zeros(shape), mean, std)


def test_normalise_refuses_other_types() -> None:
    with pytest.raises(InvalidInput, match=r"got torch\.int64"):
        data.normalise(torch.zeros(2, 1, 3, 3, dtype=torch.int64), 0.0, 1.0)


@pytest.mark.parametrize(("count", "held_out"), [(2, 1), (100, 99), (1437, 150)])
def test_split_validation(count: int, held_out: int) -> None:
    train, validation = data.split_validation(count, held_out)
    assert len(train) == count - held_out and len(validation) == held_out
    assert torch.equal(torch.cat([train, validation]).sort().values, torch.arange(count))
    assert torch.equal(train, train.sort().values)
    assert torch.equal(validation, validation.sort().values)


def test_split_validation_never_changes() -> None:
    _, validation = data.split_validation(60000, 5000)
    assert validation[:6].tolist() == [26, 49, 52, 60, 66, 70]
    assert int(validation.sum()) == 150906507


def test_a_subset_is_part_of_every_larger_one_and_never_changes() -> None:
    small, large = data.subset(55000, 100), data.subset(55000, 10000)
    assert len(small) == 100 and len(large) == 10000
    assert (small.diff() > 0).all() and torch.isin(small, large).all()
    assert small[:3].tolist() == [16, 69, 891]
    assert torch.equal(data.subset(7, 7), torch.arange(7))
    for kept in (0, 8):
        with pytest.raises(InvalidInput, match=f"train_images must be between 1 and 7, got {kept}"):
            data.subset(7, kept)


@pytest.mark.parametrize(("count", "held_out"), [(10, 0), (10, 10), (10, -1), (10, 11), (0, 0)])
def test_split_validation_refuses(count: int, held_out: int) -> None:
    with pytest.raises(InvalidInput, match=f"cannot hold out {held_out} of {count} images"):
        data.split_validation(count, held_out)


@pytest.mark.parametrize(("count", "held_out"), [(2, 1), (50, 49), (997, 100)])
def test_split_test_gives_every_class_its_share(count: int, held_out: int) -> None:
    labels = torch.randint(0, 7, (count,), generator=generator()).square()
    train, test = split_test(labels, held_out)
    assert len(test) == held_out
    assert torch.equal(torch.cat([train, test]).sort().values, torch.arange(count))
    share = labels[test].bincount(minlength=50) - labels.bincount(minlength=50) * held_out / count
    assert (share.abs() < 1).all()


class Items(torch.utils.data.Dataset):
    """A PyTorch data set of images of any kind."""

    def __init__(self, images: list, labels: list, classes: list | None = None) -> None:
        self.images, self.labels = images, labels
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple:
        return self.images[index], self.labels[index]  # the lists raise the IndexError


def colours(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 4, 5), dtype=torch.uint8, generator=generator())


def test_from_torch() -> None:
    train, test = colours(12), colours(5)
    items = Items(list(train), [n % 3 for n in range(12)], ["ape", "cat", "dog"])
    found = data.DataSet.from_torch("mine", items, Items(list(test), [torch.tensor(1)] * 5))
    assert torch.equal(torch.as_tensor(found.train_images), train)
    assert torch.equal(torch.as_tensor(found.test_images), test)
    assert found.train_labels.tolist() == [n % 3 for n in range(12)]
    assert found.test_labels.dtype == torch.int64 and found.test_labels.tolist() == [1] * 5
    assert (found.classes, found.class_names) == (3, ("ape", "cat", "dog"))
    assert (found.name, found.note) == ("mine", "")


@pytest.mark.parametrize("kind", ["tensor", "grey", "pillow", "palette", "array", "real"])
def test_kinds_of_images(kind: str) -> None:
    tensors = colours(20)
    if kind in ("grey", "real"):
        tensors = tensors[:, :1]
    if kind == "real":
        tensors = tensors.double() / 255
    images: list = list(tensors)
    if kind in ("pillow", "palette", "array"):
        images = [one.permute(1, 2, 0).numpy() for one in tensors]
    if kind in ("pillow", "palette"):
        images = [Image.fromarray(one) for one in images]
    if kind == "palette":  # of 20 colours, which is lossless for 20 pixels
        images = [one.quantize(20) for one in images]
    if kind == "grey":
        images = [one[0].numpy() for one in tensors]
    found = data.DataSet.from_torch("mine", Items(images, [0, 1] * 10))
    assert found.note == "tested on 2 of the 20 images in mine, held out by tsslbp"
    assert (found.classes, found.class_names) == (2, ())
    both = torch.cat([torch.as_tensor(found.train_images), torch.as_tensor(found.test_images)])
    assert both.dtype == (torch.float32 if kind == "real" else torch.uint8)
    expected = {tuple(one.flatten().tolist()) for one in tensors.to(both.dtype)}
    assert {tuple(one.flatten().tolist()) for one in both} == expected


def test_from_an_iterable() -> None:
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return zip(colours(10), [0, 1] * 5, strict=True)

    found = data.DataSet.from_torch("mine", Stream(), class_names=["a", "b"])
    assert len(found.train_labels) == 9 and found.class_names == ("a", "b")


@pytest.mark.parametrize(
    ("images", "labels", "options", "message"),
    [
        ([], [], {}, "mine, training set is empty"),
        ([torch.zeros(1, 2, 2)], [0], {}, "only one image"),
        (
            [torch.zeros(1, 2, 2)] * 2,
            [0, -1],
            {},
            "training set, item 1: labels must be whole numbers",
        ),
        (
            [torch.zeros(1, 2, 2)] * 2,
            [0, "cat"],
            {},
            "item 1: labels must be whole numbers .* 'cat'",
        ),
        (
            [torch.zeros(1, 2, 2), torch.zeros(1, 2, 3)],
            [0, 1],
            {},
            r"item 1 is \[1, 2, 3\] float32",
        ),
        ([torch.zeros(1, 1, 2, 2)] * 2, [0, 1], {}, r"2 or 3 dimensions, got shape \[1, 1, 2, 2\]"),
        ([torch.zeros(1, 2, 2).long()] * 2, [0, 1], {}, "uint8 or floating point, got torch.int64"),
        (
            [torch.zeros(1, 2, 2)] * 2,
            [0, 2],
            {"class_names": ["a", "b"]},
            "up to 2, but only 2 class_na",
        ),
    ],
)
def test_from_torch_refuses(images: list, labels: list, options: dict, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as error:
        data.DataSet.from_torch("mine", Items(images, labels), **options)
    assert "\n" not in str(error.value)


def test_from_torch_refuses_other_test_images() -> None:
    train, test = Items(list(colours(4)), [0, 1] * 2), Items(list(colours(4)[..., 1:]), [0, 1] * 2)
    with pytest.raises(
        InvalidInput, match=r"are \[3, 4, 5\] uint8, but test images \[3, 4, 4\] uint8"
    ):
        data.DataSet.from_torch("mine", train, test)


def test_as_many_names_as_classes() -> None:
    images, labels = colours(2), torch.tensor([0, 1])
    with pytest.raises(InvalidInput, match="toy has 2 classes but 1 class_names"):
        data.DataSet("toy", images, labels, images, labels, 2, class_names=("a",))
