"""One process or many: the same calls, which do nothing where there is only one."""

import os
import sys
import time
from contextlib import nullcontext
from datetime import timedelta
from inspect import signature

import torch
import torch.distributed as dist
from torch import Tensor

from common import UserError

PEERS_TIMEOUT = 600  # seconds


class World:
    """The processes of this training, as ``torchrun`` set them up; a plain ``python`` is a world of one.

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
        self.rank, self.size, local_rank = _who_is_who()
        self.device = pick_device(device, local_rank)
        self._host_group = None
        if self.size > 1:
            on_gpu = self.device.type == "cuda"
            # torchrun has brought its processes together itself
            alone = "TORCHELASTIC_RUN_ID" not in os.environ
            rank, size = self.rank, self.size
            who = {"store": _meet(rank, size), "rank": rank, "world_size": size} if alone else {}
            timeout = timedelta(minutes=10)
            dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timeout, **who)
            # Host-side agreements go over gloo, so that they never wait for the GPU.
            self._host_group = dist.new_group(backend="gloo") if on_gpu else dist.group.WORLD

    @property
    def is_main(self) -> bool:
        return self.rank == 0

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

    def share_buffers(self, net: torch.nn.Module) -> None:
        """Give all processes rank 0's running statistics; training steps do not read them, tests do."""
        if self.size > 1:
            for buffer in net.buffers():
                dist.broadcast(buffer, 0)

    def wrap(self, net: torch.nn.Module) -> torch.nn.Module:
        """`net` for the forward pass of training: averages the gradients where there are several."""
        if self.size == 1:
            return net
        on_gpu = self.device.type == "cuda"
        ddp = torch.nn.parallel.DistributedDataParallel
        names = ("forward_sync_buffers", "broadcast_buffers")  # newer torch, older torch
        unshared = next(n for n in names if n in signature(ddp).parameters)
        wrapped = ddp(
            net,
            device_ids=[self.device.index] if on_gpu else None,
            gradient_as_bucket_view=True,
            **{unshared: False},  # see share_buffers
        )
        if not on_gpu and self.size > 2:
            wrapped.register_comm_hook(self.size, _mean_in_order_of_rank)
        return wrapped

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

    def close(self) -> None:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


def _who_is_who() -> tuple[int, int, int]:
    """RANK, WORLD_SIZE and LOCAL_RANK.

    Raises
    ------
    UserError
        If one of several processes lacks a variable that torchrun would have set, or has a senseless one.
    """
    given = {name: os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
    size = given["WORLD_SIZE"] or "1"
    if size != "1":
        needed = ("RANK", "MASTER_ADDR", "MASTER_PORT")
        missing = [name for name in needed if not os.environ.get(name)]
        if missing:
            raise UserError(
                f"WORLD_SIZE={size} without {', '.join(missing)}: start several processes with torchrun, or "
                "unset WORLD_SIZE"
            )
    try:
        rank, size, local_rank = int(given["RANK"] or 0), int(size), int(given["LOCAL_RANK"] or 0)
        if not 0 <= rank < size or local_rank < 0:
            raise ValueError
    except ValueError:
        shown = " ".join(f"{name}={value}" for name, value in given.items() if value)
        raise UserError(f"{shown} is not a process among others: start them with torchrun") from None
    return rank, size, local_rank


def _meet(rank: int, size: int) -> dist.Store:
    """Wait for the other processes, in a way that a signal ends; torch's own does not hear signals.

    Raises
    ------
    UserError
        If one is missing after ``PEERS_TIMEOUT`` seconds.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    deadline, told, store, missing = time.monotonic() + PEERS_TIMEOUT, time.monotonic() + 10, None, [0]
    while time.monotonic() < deadline:
        try:
            if store is None:
                patience = timedelta(seconds=2)
                store = dist.TCPStore(host, port, size, rank == 0, patience, wait_for_workers=False)
                store.set(f"here {rank}", "")
            missing = [r for r in range(size) if not store.check([f"here {r}"])]
        except (dist.DistError, RuntimeError):  # rank 0 is not there yet
            missing = [0]
        if not missing:
            store.set_timeout(timedelta(minutes=10))
            return dist.PrefixStore("training", store)
        if time.monotonic() > told:
            print(f"process {rank} waits for {', '.join(map(str, missing))} of {size}", flush=True)
            told = deadline
        time.sleep(0.1)
    raise UserError(
        f"process {', '.join(map(str, missing))} of {size} did not come within {PEERS_TIMEOUT} s: start all "
        "with the same MASTER_ADDR and MASTER_PORT, or use torchrun"
    )


def _mean_in_order_of_rank(size: int, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """The mean of a bucket's gradients, summed alike wherever in the bucket they lie.

    DDP cuts the gradients into other buckets in the first step of a process than in all later ones, and
    an all-reduce adds up three or more numbers in an order that depends on their place: a resumed run would
    differ.
    """
    parts = [torch.empty_like(bucket.buffer()) for _ in range(size)]
    gathering = dist.all_gather(parts, bucket.buffer(), async_op=True)
    return gathering.get_future().then(lambda _: torch.stack(parts).sum(0).div_(size))


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(n for n, there in available.items() if there)
    if not available[name]:
        there = ", ".join(n for n, yes in available.items() if yes)
        raise UserError(f"--device {name} is not available on this machine; available: {there}")
    if name != "cuda":
        return torch.device(name)
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {local_rank} of this machine has no GPU: torchrun --nproc_per_node must be at most "
            f"{torch.cuda.device_count()} here"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
