"""Binned recordings: frames that store only their nonzero pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor


@final
@dataclass(frozen=True, eq=False)
class Frames:
    """The frames of N recordings; for data purposes it behaves as a tensor ``[N, T, C, H, W]``.

    Indexing by a slice, or by a tensor of N' numbers, gives `Frames` of these recordings, which
    share the stored pixels. These may therefore be in a memory-mapped file, of which only the part
    that a batch needs is read. The frames of one recording are stored one after the other.

    Attributes:
        pixels: ``[K]`` int32 or uint16: number of each pixel within its frame.
        values: ``[K]`` float32, or None if all are 1.
        starts: ``[R * T + 1]`` int64: where the pixels of each frame of all R recordings begin.
        recordings: ``[N]`` int64: the numbers of these recordings among the R.
        size: T, C, H, W.
    """

    pixels: Tensor
    values: Tensor | None
    starts: Tensor
    recordings: Tensor
    size: tuple[int, int, int, int]

    @classmethod
    def from_dense(cls, frames: Tensor) -> Frames:
        """Convert frames ``[N, T, C, H, W]`` of any dtype; the values are kept."""
        count, steps, *pixel_shape = frames.shape
        flat = frames.reshape(count * steps, -1)
        frame, pixels = flat.nonzero(as_tuple=True)
        counts = torch.bincount(frame, minlength=count * steps)
        values = flat[frame, pixels].to(torch.float32)
        channels, height, width = pixel_shape
        return cls(
            pixels.to(torch.int32),
            None if (values == 1).all() else values,
            torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
            torch.arange(count),
            (steps, channels, height, width),
        )

    @property
    def shape(self) -> torch.Size:
        """N, T, C, H, W: the shape of the same frames as a dense tensor."""
        return torch.Size((len(self), *self.size))

    @property
    def device(self) -> torch.device:
        """The device of the pixels and of the other tensors."""
        return self.recordings.device

    def __len__(self) -> int:
        return len(self.recordings)

    def __getitem__(self, chosen: Tensor | slice) -> Frames:
        return replace(self, recordings=self.recordings[chosen])

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the recordings one after the other, ``[T, C, H, W]`` float32."""
        for index in range(len(self)):
            yield self[index : index + 1].trains()[:, 0]

    def to(self, device: str | torch.device) -> Frames:
        """Return the same frames with all recordings' pixels on a device."""
        values = None if self.values is None else self.values.to(device)
        starts, recordings = self.starts.to(device), self.recordings.to(device)
        return Frames(self.pixels.to(device), values, starts, recordings, self.size)

    def trains(self) -> Tensor:
        """Return the frames as a network's input: spike trains ``[T, N, C, H, W]`` float32."""
        steps, *pixel_shape = self.size
        count, pixel_count = len(self), torch.Size(pixel_shape).numel()
        step = torch.arange(steps, device=self.device)[:, None]
        frame = (self.recordings * steps + step).flatten()  # [T * N], the order of the result
        start = self.starts[frame]
        counts = self.starts[frame + 1] - start
        which = torch.repeat_interleave(counts)  # the place in `frame` of every pixel
        begin = counts.cumsum(0) - counts
        index = torch.arange(len(which), device=self.device) + (start - begin)[which]
        target = which * pixel_count + self.pixels[index].to(torch.int64)
        dense = torch.zeros(steps * count * pixel_count, device=self.device)
        if self.values is None:
            dense[target] = 1.0
        else:
            dense[target] = self.values[index]
        return dense.view(steps, count, *pixel_shape)
