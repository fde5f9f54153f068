"""Several processes at one training: sums over shards of examples, and bytes counted.

    every process:  s_r = statistics of its shard,    after `sum`:  s = sum_r s_r on all of them

Processes are started by torchrun, which sets RANK, WORLD_SIZE and the address where they meet; Slurm and Kubernetes
know it. Without it there is one process, nothing is exchanged, and not a bit changes.

Reference: Chu et al., "Map-Reduce for machine learning on multicore", NIPS 2006, on EM as sums over shards.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


class Group:
    """The processes of this training.

    Attributes:
        rank, size: which of how many processes this one is.
        exchanged: bytes that this process has put into collective operations so far.
    """

    def __init__(self) -> None:
        joined = dist.is_available() and dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if joined else (0, 1)
        self.exchanged = 0

    def share(self, count: int) -> slice:
        """The shard of this process of `count` examples: contiguous, sizes differ by at most one."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sum(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over the processes, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)
                self.exchanged += tensor.numel() * tensor.element_size()

    def place(self, target: Tensor, rows: Tensor, values: Tensor) -> None:
        """target[rows] = values of every process, on all of them, in place; values are whole numbers of 0 and more."""
        if self.size == 1:
            target[rows] = values
            return
        # One more than each value: zero says that no process had the row.
        news = torch.zeros(target.shape, dtype=torch.int32, device=target.device)
        news[rows] = values.to(torch.int32) + 1
        self.sum(news)
        target.copy_(torch.where(news > 0, news - 1, target))


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """The group that torchrun started this process in, for as long as the context lasts; one process without it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Group()
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield Group()
    finally:
        dist.destroy_process_group()
