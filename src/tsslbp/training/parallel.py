"""Several processes that train one network, each on its part of every batch.

`torchrun` starts the processes and `join` connects them. Without `torchrun`, `Processes` is this
process alone, and everything below costs nothing. All processes hold the same weights and draw the
same random numbers for a whole batch, of which each then takes its part. Only the first process
reads and writes the run folder.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import Any, TypeVar, cast, final

import torch
from torch import Tensor, distributed
from torch.distributed.rendezvous import rendezvous
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from ..data import Images
from ..errors import InvalidInput
from ..network import Model

PATIENCE = timedelta(seconds=2)  # for the first process to report an error that all share

T = TypeVar("T")
Shard = TypeVar("Shard", bound=Images)


@final
class Processes:
    """The processes that train one network together, by default one.

    Statements about all processes require that all of them call a method, in the same order.

    Args:
        rank: number of this process, from 0.
        count: number of processes.
        local_rank: number of this process among those of its machine.
    """

    def __init__(self, rank: int = 0, count: int = 1, local_rank: int = 0) -> None:
        self.rank, self.count, self.local_rank = rank, count, local_rank
        self._replica: DistributedDataParallel | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process reads and writes the run folder, and prints."""
        return self.rank == 0

    def device(self, wanted: str) -> str:
        """Return the device of this process; each process of a machine gets its own GPU.

        Raises:
            InvalidInput: `wanted` is a single GPU, but there are several processes.
        """
        if self.count == 1 or wanted == "cpu":
            return wanted
        if wanted != "cuda":
            raise InvalidInput(
                f"each of several processes uses its own GPU: use device cuda, not {wanted!r}"
            )
        return f"cuda:{self.local_rank}"

    def shard(self, x: Shard) -> Shard:
        """Return this process's part of ``[N, ...]``, one entry per image; it may be empty."""
        return cast(Shard, x[self.rank :: self.count])

    def own_purpose(self, purpose: str) -> str:
        """Return a purpose (`tsslbp.experiment.seeding`) that no other process has.

        The first process keeps `purpose`.
        """
        return f"{purpose} of process {self.rank}" if self.rank else purpose

    def sum(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Return sums over all processes, of any shapes; float64 if there are several."""
        if self.count == 1:
            return values
        flat = torch.cat([value.detach().double().flatten() for value in values])
        distributed.all_reduce(flat)
        parts = flat.split([value.numel() for value in values])
        return tuple(part.view_as(value) for part, value in zip(parts, values, strict=True))

    def mean(self, total: Tensor, values: int) -> Tensor:
        """Return the mean over all processes, given the sum and number of values here."""
        number = torch.full((), values, device=total.device)
        total, number = self.sum(total.sum(), number)
        return total / number

    def broadcast(self, value: T | None) -> T:
        """Return the first process's value in all processes."""
        box = [value]
        if self.count > 1:
            distributed.broadcast_object_list(box)
        return cast(T, box[0])

    def first_known(self, value: T | None) -> T | None:
        """Return, in all processes, the value of the first process that has one."""
        values = [value] * self.count
        if self.count > 1:
            distributed.all_gather_object(values, value)
        return next((one for one in values if one is not None), None)

    @contextmanager
    def first_of_machine_first(self) -> Iterator[None]:
        """Let one process per machine go first, for example to download."""
        if self.local_rank:
            self.sum(torch.zeros(1))
        yield
        if not self.local_rank:
            self.sum(torch.zeros(1))

    def output(self, net: Model, images: Tensor, sums: bool = True) -> Tensor:
        """Return ``net(images)``; its backward pass sums the gradients over all processes.

        The losses are sums over the batch, so gradients are summed, not averaged. If `sums` is
        false, the summation is left to a later pass of the same step.
        """
        if self.count == 1:
            return cast(Tensor, net(images))
        if self._replica is None or self._replica.module is not net:
            self._replica = DistributedDataParallel(net)
            self._replica.register_comm_hook(None, lambda _, bucket: _summed(bucket.buffer()))
        with nullcontext() if sums else self._replica.no_sync():
            return cast(Tensor, self._replica(images, self.mean))

    def leave(self) -> None:
        """Leave the group; methods that need the other processes cannot be called afterwards."""
        self._replica = None
        distributed.destroy_process_group()


ONE_PROCESS = Processes()


def _summed(x: Tensor) -> Future[Tensor]:
    """Start summing a tensor over all processes."""
    work: Any = distributed.all_reduce(x, async_op=True)
    return cast("Future[Tensor]", work.get_future().then(lambda done: done.value()[0]))


@contextmanager
def join() -> Iterator[Processes]:
    """Connect the processes that `torchrun` has started; without `torchrun` there is one.

    If some of them fail, only one reports why: the first process if its error comes soon. The
    others exit silently with status 2, as do processes that only lost the connection.
    """
    count = int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if count == 1:
        yield ONE_PROCESS
        return
    # Must be imported before the group exists. Otherwise its default arguments keep the group
    # alive, and threads of the group that outlive Python sometimes abort the process.
    from torch.distributed.nn import functional  # noqa: F401

    store, rank, _ = next(rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=count)
    processes = Processes(rank, count, int(os.environ["LOCAL_RANK"]))
    try:
        with warnings.catch_warnings():
            # Harmless: weights with one input channel have an arbitrary stride there.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            yield processes
    except BaseException:
        if not _tells(store, rank):
            raise SystemExit(2) from None
        raise
    processes.leave()


def _tells(store: Any, rank: int) -> bool:
    """Return whether this process reports its error."""
    if rank:
        with suppress(distributed.DistStoreError):  # the first process has not failed
            store.wait(["tsslbp failed"], PATIENCE)
    return bool(store.add("tsslbp failed", 1) == 1)
