"""How many CPU threads to compute with: as many as there are cores that nobody else is using.

More threads than free cores make a training 5 to 40 times slower, since OpenMP's threads wait for each other
at every operation. No torch at import time: the waiting policy must be set before torch is loaded.
"""

import os
import time
from pathlib import Path

from common import cores, local_world_size


class FreeCores:
    """Watches the machine from here until :meth:`count`, e.g. while torch is imported."""

    def __init__(self) -> None:
        # Threads that wait for others give their core away instead of spinning on it.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        self._before = self._busy()

    @staticmethod
    def _busy() -> tuple[float, float, float]:
        """Seconds: now, of all processes on our cores so far, and of this process."""
        busy = 0.0
        try:
            mine = os.sched_getaffinity(0)
            for line in Path("/proc/stat").read_text().splitlines():
                name, *jiffies = line.split()
                if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in mine:
                    user, nice, system = map(int, jiffies[:3])
                    busy += (user + nice + system) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, AttributeError):
            busy = float("nan")
        return time.monotonic(), busy, time.process_time()

    def count(self) -> int:
        """Free cores, at least 1, shared out to the processes that torchrun started on this machine."""
        now, busy, ours = (after - before for after, before in zip(self._busy(), self._before, strict=True))
        others = (busy - ours) / now if now > 0.05 and busy == busy else 0.0
        free = cores() - round(max(0.0, others))
        return max(1, free // local_world_size())


def set_threads(wanted: int, watch: FreeCores) -> tuple[int, str]:
    """Set torch's threads: `wanted`, else OMP_NUM_THREADS, else the free cores. Returns number and reason."""
    import torch

    if wanted:
        number, why = wanted, ""
    elif os.environ.get("OMP_NUM_THREADS", "").isdigit():
        number, why = int(os.environ["OMP_NUM_THREADS"]), " (OMP_NUM_THREADS)"
    else:
        number, why = watch.count(), ""
        why = f" ({number} of {cores()} cores are free)" if number < cores() else ""
    torch.set_num_threads(max(1, number))
    return max(1, number), why
