"""One process or many: the same calls, which do nothing where there is only one."""

import os
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from datetime import timedelta
from inspect import signature

import torch
import torch.distributed as dist
from torch import Tensor

from common import UserError, pick_device


class World:
    """The processes of this training, as ``torchrun`` started them; a plain ``python`` is a world of one.

    Use it as a context: leaving it ends the processes' group.

    Parameters
    ----------
    device : {"auto", "cuda", "cpu", "mps"}
        ``auto`` is the first of cuda, mps, cpu that is there.

    Attributes
    ----------
    rank, size : int
    device : torch.device
        Under torchrun every process of a machine has its own GPU.

    Raises
    ------
    UserError
        If the device is not there, or a machine has fewer GPUs than processes.
    """

    def __init__(self, device: str = "auto") -> None:
        self.rank, self.size = int(os.environ.get("RANK") or 0), int(os.environ.get("WORLD_SIZE") or 1)
        if self.size > 1 and not dist.is_torchelastic_launched():
            raise UserError(
                f"WORLD_SIZE={self.size} without torchrun: start several processes with torchrun, or unset WORLD_SIZE"
            )
        self.device = pick_device(device, int(os.environ.get("LOCAL_RANK") or 0))
        self._host_group = None
        if self.size > 1:
            on_gpu = self.device.type == "cuda"
            dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(minutes=10))
            # Processes agree over gloo, so that they never wait for the GPU.
            self._host_group = dist.new_group(backend="gloo") if on_gpu else dist.group.WORLD

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *error) -> None:
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def say(self, text: str) -> None:
        """Print a line, on one process."""
        if self.is_main:
            print(text, flush=True)

    def any(self, *flags: bool) -> list[bool]:
        """For each flag whether any process raised it; waits for the other hosts, not for devices."""
        if self.size == 1:
            return list(flags)
        votes = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(votes, dist.ReduceOp.MAX, group=self._host_group)
        return votes.bool().tolist()

    def gather(self, value: object) -> list:
        """One picklable `value` from each process, in order of rank, on all of them."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value, group=self._host_group)
        return values

    def sum(self, x: Tensor) -> Tensor:
        """The sum of `x` over all processes."""
        if self.size > 1:
            x = x.clone()
            dist.all_reduce(x)
        return x

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes rank 0's values of these tensors."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)

    def wrap(self, net: torch.nn.Module) -> torch.nn.Module:
        """`net` for the forward pass of training: averages the gradients where there are several processes."""
        if self.size == 1:
            return net
        ddp = torch.nn.parallel.DistributedDataParallel
        names = ("forward_sync_buffers", "broadcast_buffers")  # newer torch, older torch
        unshared = next(name for name in names if name in signature(ddp).parameters)
        return ddp(
            net,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            **{unshared: False},  # Trainer.share_statistics does it once an epoch
        )

    def unsynchronised(self, module: torch.nn.Module):
        """Context of a backward pass whose gradients are only added up, for a later one to average."""
        return module.no_sync() if self.size > 1 else nullcontext()

    def peak_memory(self) -> float:
        """GiB at most in use so far: of the GPU by this process's tensors, elsewhere by this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        try:
            import resource
        except ImportError:  # Windows
            return float("nan")
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
