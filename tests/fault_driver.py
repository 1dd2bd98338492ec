"""train.py, struck by a signal at a chosen point, in a process of its own or in a fork of this one.

python tests/fault_driver.py step:3:15:self:0 --dataset digits …     SIGTERM to itself in the third step

The driver patches the point (POINTS below) in the process that trains; no code of the project knows of it.
"""

import atexit
import io
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

# Runs are bit-equal with the same number of threads only. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.utils.tensorboard
from matplotlib.backends import backend_agg  # noqa: F401
from sklearn import datasets  # noqa: F401

import common
import train
from data import build
from engine.run import Run
from engine.run_directory import RunDirectory
from engine.trainer import Trainer


def small_test_batches():
    """Test in batches as small as the training's, so that a signal can come between two of them."""
    build._TEST_PIXELS = dict.fromkeys(build._TEST_PIXELS, 1)


def _to(name):
    return lambda *words: Path(words[-1]).name == name


def _is_curves(path, *_):
    return Path(path).name == "curves.png"


# Name → the function that is patched, when in a call of it the signal comes, and in which calls.
POINTS = {
    "start-up": (Run, "restore", "before", None),
    "step": (torch.Tensor, "backward", "before", None),
    "evaluation": (Trainer, "answer", "before", None),
    "writing": (torch, "save", "within", None),  # half of the temporary file is there
    "before rename": (os, "replace", "before", _to("last.pt")),
    "after best.pt": (os, "replace", "after", _to("best.pt")),
    "metrics.csv": (RunDirectory, "_append", "before", None),
    "curves": (common, "draw", "before", _is_curves),  # after an epoch's save
}


def strike_at(point, count, number, target="self", rank=0):
    """The text that tells a driver to send signal `number` at the count-th time that `rank` is at `point`."""
    return f"{point}:{count}:{int(number)}:{target}:{rank}"


def arm(strike):
    """Patch the point of `strike`, as :func:`strike_at` writes it, in this process."""
    point, count, number, target, rank = strike.split(":")
    if os.environ.get("RANK", "0") != rank:
        return
    owner, name, when, concerns = POINTS[point]
    original = getattr(owner, name)
    left = int(count)

    def fire():
        if target == "worker":
            victim = multiprocessing.active_children()[0].pid
        else:
            victim = {"self": os.getpid(), "parent": os.getppid(), "group": 0}[target]
        os.kill(victim, int(number))  # 0: the whole process group

    def patched(*args, **options):
        nonlocal left
        left -= concerns is None or concerns(*args)
        if left != 0:
            return original(*args, **options)
        left = -1
        if when == "within":
            whole = io.BytesIO()
            original(args[0], whole)
            halves = whole.getbuffer()[: whole.tell() // 2], whole.getbuffer()[whole.tell() // 2 :]
            args[1].write(halves[0])
            args[1].flush()
            fire()
            args[1].write(halves[1])
            return None
        if when == "before":
            fire()
        result = original(*args, **options)
        if when == "after":
            fire()
        return result

    setattr(owner, name, patched)


class Forked:
    """A run in a fork of this process, which spares it the imports; as much of Popen as is needed."""

    def __init__(self, strike, flags, log, environment, group):
        self.returncode = None
        self.pid = os.fork()
        if self.pid == 0:
            self._train(strike, flags, log, environment, group)
        os.setpgid(self.pid, group or self.pid)

    @staticmethod
    def _train(strike, flags, log, environment, group):
        code = 1
        try:
            os.setpgid(0, group)
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            os.environ.update(environment)
            small_test_batches()
            if strike:
                arm(strike)
            train.main(flags)
            code = 0
        except SystemExit as leaving:
            code = leaving.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            atexit._run_exitfuncs()  # as a process of its own would
            sys.stdout.flush()
            os._exit(code)

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode


def start(flags, strike="", log=None, processes=1, real=False, threads="1", before=()):
    """Start a run; its processes, in a process group of their own, with OMP_NUM_THREADS=`threads`.

    Real ones are as a user starts them, by python or torchrun (one process here, which has the others), behind
    the words `before`. The others are forks of this process, for two or more with torchrun's variables.
    """
    if real:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command = [*before, sys.executable, *(launcher if processes > 1 else []), __file__, strike, *flags]
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        return [subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)]
    environment = {"OMP_NUM_THREADS": threads}
    if processes > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
        size = str(processes)
        environment |= {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "TORCHELASTIC_RUN_ID": "forked"}
    started = []
    for rank in range(processes):
        who = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        started.append(Forked(strike, flags, log, environment | who, started[0].pid if started else 0))
    return started


def wait(processes, seconds):
    """Their exit codes; None for a process that still runs after so many seconds."""
    deadline = time.monotonic() + seconds
    while None in [p.poll() for p in processes] and time.monotonic() < deadline:
        time.sleep(0.02)
    return [p.poll() for p in processes]


def end(processes):
    """Kill what is left of a run: ranks that hang, data workers whose parent was killed."""
    try:
        os.killpg(processes[0].pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    wait(processes, 30)


if __name__ == "__main__":
    small_test_batches()
    if sys.argv[1]:
        arm(sys.argv[1])
    train.main(sys.argv[2:])
