"""How much memory there is, and where a data set therefore goes."""

from __future__ import annotations

import os
from pathlib import Path

import torch

DEVICE_SHARE = 0.4  # of the free device memory: the rest is for the net and its activations
HOST_SHARE = 0.5  # of the available host memory
_UNKNOWN = 4 << 30  # assumed where the system does not say


def local_world_size() -> int:
    """Processes of one torchrun on this machine, which share its cores and memory."""
    try:
        return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    except ValueError:
        return 1


def available_host_memory() -> int:
    """Bytes of host memory that one process of this machine may count on.

    Linux's MemAvailable (it counts the page cache as free), the container's limit where it is lower,
    half the physical memory on systems that tell no more; shared by the local ranks of torchrun.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError, IndexError):
        try:
            found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        except (AttributeError, OSError, ValueError):
            found = _UNKNOWN
    try:
        found = min(found, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no cgroup, or "max"
        pass
    return found // local_world_size()


def available_device_memory(device: torch.device) -> int:
    """Bytes free on the device; devices other than CUDA share the host's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_host_memory()


def choose_cache(cache: str, device: torch.device, device_bytes: int, host_bytes: int, in_files: bool) -> str:
    """Where the decoded images are kept.

    Parameters
    ----------
    cache : {'auto', 'device', 'ram', 'none'}
        What the user asked for.
    device : torch.device
    device_bytes : int
        Size on the device (padded for the crops).
    host_bytes : int
        Size in host memory.
    in_files : bool
        Whether the images are files still to be decoded; sets that come as one array are in host memory
        anyway and cannot stream, so 'none' means 'ram' for them.

    Returns
    -------
    {'device', 'ram', 'none'}
    """
    if cache == "none":
        return "none" if in_files else "ram"
    if cache != "auto":
        return cache
    # files are decoded into host memory first, wherever they go then
    fits_host = not in_files or host_bytes <= HOST_SHARE * available_host_memory()
    share = DEVICE_SHARE if device.type == "cuda" else HOST_SHARE
    if device.type == "cuda":
        needed = device_bytes
    else:  # one memory: the decoded array and the padded copy of it lie there together for a moment
        needed = device_bytes + (host_bytes if in_files else 0)
    if fits_host and needed <= share * available_device_memory(device):
        return "device"
    return "ram" if fits_host else "none"
