"""A data set in memory, its splits, and the batches of a training run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self, final

import numpy as np
import torch
from torch import Tensor

from ..checked import as_whole, check_whole
from ..errors import InvalidInput
from ..losses import as_labels
from ..neuron.settings import check_dense
from .frames import Frames

Images = Tensor | Frames

VALIDATION_SEED = 20201001
TEST_SEED = 20210301
SUBSET_SEED = 20201201


@final
@dataclass(frozen=True, eq=False)
class DataSet:
    """Training and test images, or binned recordings, with their labels.

    NumPy arrays are converted to tensors, and labels of any integer type, or in a list, to int64.

    Attributes:
        name: name of the data set in messages and records.
        train_images: ``[N, C, H, W]``, uint8 with pixel values 0..255, or float32; or the `Frames`
            of recordings, ``[N, T, C, H, W]``.
        train_labels: ``[N]`` int64, class numbers from 0.
        test_images: ``[M, ...]``, of the same type and size as `train_images`.
        test_labels: ``[M]`` int64.
        classes: number of classes; every label is below it.
        note: a caveat that every result made with the data must carry, or an empty text.
        class_names: names of the classes in figures, in order; empty: their numbers are used.

    Raises:
        InvalidInput: labels are not class numbers, or the number of labels differs from that of the
            images, or the number of names from that of the classes.
    """

    name: str
    train_images: Images
    train_labels: Tensor
    test_images: Images
    test_labels: Tensor
    classes: int
    note: str = ""
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", check_whole(f"{self.name}: classes", self.classes))
        for part in ("train", "test"):
            images, labels = getattr(self, f"{part}_images"), getattr(self, f"{part}_labels")
            if isinstance(images, np.ndarray):
                images = torch.from_numpy(images)
            if isinstance(images, Tensor):
                check_dense(f"{self.name}: {part}_images", images)
            labels = as_labels(labels)
            if labels.ndim != 1 or len(labels) != len(images):
                raise InvalidInput(
                    f"{self.name}: {part}_labels must be [N] with one label for each of the "
                    f"{len(images)} images, got shape {list(labels.shape)}"
                )
            object.__setattr__(self, f"{part}_images", images)
            object.__setattr__(self, f"{part}_labels", labels)
        if len(self.class_names) not in (0, self.classes):
            raise InvalidInput(
                f"{self.name} has {self.classes} classes but {len(self.class_names)} class_names: "
                "name every class, or none"
            )

    @classmethod
    def from_torch(
        cls, name: str, train: Any, test: Any = None, class_names: Sequence[str] | None = None
    ) -> Self:
        """Convert PyTorch data sets, which are read once, from the first item to the last.

        Random transformations in such a data set are applied only once. A recipe's augmentation, in
        contrast, is drawn anew in every epoch.

        Args:
            name: name of the data set in messages and records.
            train, test: each a ``torch.utils.data.Dataset`` whose items are an image and its label,
                a whole number from 0. An image is a tensor ``[C, H, W]`` or ``[H, W]``, or a Pillow
                image or array ``[H, W]`` or ``[H, W, C]``. Values are uint8, 0..255, or floating
                point, which is used unchanged. Without `test`, a tenth of the images is held out.
            class_names: names of all classes, in order; by default those in ``train.classes``,
                which torchvision provides, if there are any.


        Raises:
            InvalidInput: an item is invalid, or differs in size or type from the first.
        """
        images, labels = _items(f"{name}, training set", train)
        tested = None if test is None else _items(f"{name}, test set", test)
        if tested is not None and _kind(tested[0]) != _kind(images):
            raise InvalidInput(
                f"{name}: training images are {_kind(images)}, but test images "
                f"{_kind(tested[0])}: give both the same size and type"
            )
        given = getattr(train, "classes", ()) if class_names is None else class_names
        names = tuple(map(str, given))
        largest = max(int(one.max()) for _, one in ((images, labels), tested or (images, labels)))
        if names and largest >= len(names):
            raise InvalidInput(
                f"{name} has labels up to {largest}, but only {len(names)} class_names"
            )
        classes = len(names) or largest + 1
        if tested is not None:
            return cls(name, images, labels, *tested, classes, class_names=names)
        try:
            kept, held_out, note = hold_out(name, images, labels)
        except ValueError as error:
            raise InvalidInput(f"{name}: {error}") from error
        return cls(name, *kept, *held_out, classes, note, names)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image, or of a frame of a recording."""
        channels, height, width = self.train_images.shape[-3:]
        return channels, height, width


def batches(count: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Return the indices 0..count-1 in a new random order, `batch_size` at a time.

    Each item is ``[batch_size]`` int64; the last one contains the remaining indices.

    Raises:
        InvalidInput: `count` or `batch_size` is below 1.
    """
    count, batch_size = as_whole(count) or 0, as_whole(batch_size) or 0
    if count < 1 or batch_size < 1:
        raise InvalidInput(
            f"batches need at least one image and a batch size of at least 1, got {count} images "
            f"and batch size {batch_size}"
        )
    order = torch.randperm(check_whole("count", count), generator=generator)
    return iter(torch.split(order, min(batch_size, count)))


def normalise(
    images: Images, mean: float | Sequence[float], std: float | Sequence[float]
) -> Tensor:
    """Return ``(x / 255 - mean) / std`` for uint8 images, ``(x - mean) / std`` for real ones.

    Args:
        images: ``[N, C, H, W]``, uint8 or floating point; they are not changed. Or the frames of
            recordings, which become spike trains with unchanged values.
        mean, std: one number for all channels, or C numbers; for frames they must be 0 and 1.

    Returns:
        ``[N, C, H, W]``, for frames ``[T, N, C, H, W]``, float32, on the device of `images`.

    Raises:
        InvalidInput: the shape or dtype is wrong, the number of means or standard deviations is
            neither 1 nor C, or a standard deviation is not positive.
    """
    return normalised(images, *channel_statistics(images, mean, std))


def channel_statistics(
    images: Images, mean: float | Sequence[float], std: float | Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation as tensors, checked as for `normalise`.

    Returns:
        Each ``[1, 1, 1]`` or ``[C, 1, 1]`` float32, on the device of `images`.
    """
    if isinstance(images, Frames):
        shift, scale = (torch.tensor(value, device=images.device) for value in (mean, std))
        if shift.any() or (scale != 1).any():
            raise InvalidInput(
                f"frames of events are not normalised: mean must be 0 and std 1, got {mean} and "
                f"{std}"
            )
        return shift.reshape(-1, 1, 1), scale.reshape(-1, 1, 1)
    check_dense("images", images)
    if images.dim() != 4:
        raise InvalidInput(f"images must be [N, C, H, W], got shape {list(images.shape)}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise InvalidInput(f"images must be uint8 or floating point, got {images.dtype}")
    shift = _per_channel("mean", mean, images)
    scale = _per_channel("std", std, images)
    if not (scale > 0).all():
        raise InvalidInput(f"std must be positive, got {std}")
    return shift, scale


def normalised(images: Images, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalise by the tensors that `channel_statistics` returned."""
    if isinstance(images, Frames):
        return images.trains()
    result = images.to(torch.float32, copy=True)
    if images.dtype == torch.uint8:
        result.div_(255)
    return result.sub_(shift).div_(scale)


def _per_channel(name: str, value: float | Sequence[float], images: Tensor) -> Tensor:
    """Return `value` as ``[1, 1, 1]`` or ``[C, 1, 1]`` float32."""
    numbers = torch.tensor(value, dtype=torch.float32, device=images.device).reshape(-1, 1, 1)
    channels = images.shape[1]
    if len(numbers) not in (1, channels):
        raise InvalidInput(
            f"{name} must be one number, or {channels} numbers, one per channel of the images, "
            f"got {len(numbers)}"
        )
    return numbers


def split_validation(count: int, held_out: int) -> tuple[Tensor, Tensor]:
    """Split the indices 0..count-1 at random into training and validation; always the same split.

    The split does not depend on the seed of a run, so that all runs choose their best epoch on the
    same images.

    Returns:
        ``[count - held_out]`` and ``[held_out]`` int64, each in increasing order.

    Raises:
        InvalidInput: `held_out` leaves one of the two empty.
    """
    if not 0 < held_out < count:
        raise InvalidInput(
            f"cannot hold out {held_out} of {count} images: hold out at least 1 and keep at least 1"
        )
    return _without(count, _permutation(count, VALIDATION_SEED)[:held_out])


def subset(count: int, kept: int) -> Tensor:
    """Choose some of the indices 0..count-1 at random, always the same ones, to train on fewer.

    A smaller subset is contained in a larger one.

    Returns:
        ``[kept]`` int64, in increasing order.

    Raises:
        InvalidInput: `kept` is below 1 or above `count`.
    """
    if not 0 < kept <= count:
        raise InvalidInput(f"train_images must be between 1 and {count}, got {kept}")
    return _permutation(count, SUBSET_SEED)[:kept].sort().values


def split_test(labels: Tensor, held_out: int) -> tuple[Tensor, Tensor]:
    """Split images without an official test set; each class contributes its share within 1 image.

    The images are put in a random order, which is always the same, sorted by class, and selected
    at equal distances.

    Args:
        labels: ``[N]``.
        held_out: number of test images, from 1 to N - 1.

    Returns:
        Indices ``[N - held_out]`` for training and ``[held_out]`` for testing, in increasing order.
    """
    count = len(labels)
    order = _permutation(count, TEST_SEED)
    by_class = order[torch.argsort(labels[order], stable=True)]
    return _without(count, by_class[torch.arange(held_out) * count // held_out])


def digest(data: DataSet) -> str:
    """Return the SHA-256 of all images and labels of a data set, in order, whatever their file."""
    hashed = hashlib.sha256()
    parts: list[Tensor | None] = []
    for images, labels in (
        (data.train_images, data.train_labels),
        (data.test_images, data.test_labels),
    ):
        if isinstance(images, Frames):
            parts += [images.pixels, images.values, images.starts, images.recordings, labels]
        else:
            parts += [images, labels]
    for part in parts:
        if part is not None:
            array = part.contiguous().numpy()
            hashed.update(f"{array.dtype} {array.shape}".encode())
            hashed.update(array.data)
    return hashed.hexdigest()


def hold_out(
    name: str, images: Images, labels: Tensor
) -> tuple[tuple[Images, Tensor], tuple[Images, Tensor], str]:
    """Hold out a tenth of the images, at least one, for testing, by `split_test`.

    Returns:
        Images and labels for training, those for testing, and a note that says so.

    Raises:
        ValueError: there is only one image.
    """
    if len(labels) == 1:
        raise ValueError("there is only one image, so none can be held out for testing")
    kept, held_out = split_test(labels, max(1, len(labels) // 10))
    count = f"{len(held_out)} of the {len(labels)}"
    note = f"tested on {count} images in {name}, held out by tsslbp"
    return (images[kept], labels[kept]), (images[held_out], labels[held_out]), note


def _items(what: str, items: Any) -> tuple[Tensor, Tensor]:
    """Return images ``[N, C, H, W]`` and labels ``[N]`` of a PyTorch data set."""
    images, labels = list[Tensor](), list[int]()
    numbers = range(len(items)) if hasattr(items, "__len__") else None
    for item in items if numbers is None else (items[number] for number in numbers):
        where = f"{what}, item {len(images)}"
        try:
            image, label = item
            images.append(_image(image))
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"{where}: expected an image and its label ({error})") from error
        number = as_whole(label)
        if number is None or number < 0:
            raise InvalidInput(f"{where}: labels must be whole numbers from 0, got {label!r:.80}")
        labels.append(number)
        if _kind(images[-1]) != _kind(images[0]):
            raise InvalidInput(
                f"{where} is {_kind(images[-1])}, but the first is {_kind(images[0])}: all images "
                "must have the same size and type"
            )
    if not images:
        raise InvalidInput(f"{what} is empty")
    return torch.stack(images), torch.tensor(labels)


def _image(image: Any) -> Tensor:
    """Return an image as a tensor ``[C, H, W]``, uint8 or float32."""
    if isinstance(image, Tensor):
        check_dense("an image", tensor := image)
    else:
        pixels = np.array(with_colours(image))
        tensor = torch.from_numpy(np.moveaxis(pixels, 2, 0) if pixels.ndim == 3 else pixels)
    if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
        raise ValueError(f"images must be uint8 or floating point, got {tensor.dtype}")
    if tensor.dim() not in (2, 3):
        raise ValueError(f"an image must have 2 or 3 dimensions, got shape {list(tensor.shape)}")
    tensor = tensor[None] if tensor.dim() == 2 else tensor
    return tensor if tensor.dtype == torch.uint8 else tensor.float()


def with_colours(image: Any) -> Any:
    """Return an image of Pillow with colours instead of indices of a palette; others unchanged."""
    mode = getattr(image, "mode", None)
    if mode in ("P", "PA"):
        has_alpha = mode == "PA" or "transparency" in image.info
        return image.convert("RGBA" if has_alpha else "RGB")
    return image.convert("L") if mode == "1" else image


def _kind(images: Tensor) -> str:
    """Describe size and type of images in words."""
    channels, height, width = images.shape[-3:]
    return f"[{channels}, {height}, {width}] {str(images.dtype).removeprefix('torch.')}"


def _permutation(count: int, seed: int) -> Tensor:
    # RandomState, because its numbers are the same in every version of NumPy.
    return torch.from_numpy(np.random.RandomState(seed).permutation(count).astype(np.int64))


def _without(count: int, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices 0..count-1 that are not `chosen`, and those that are, both sorted."""
    kept = torch.ones(count, dtype=torch.bool)
    kept[chosen] = False
    return kept.nonzero().flatten(), (~kept).nonzero().flatten()
