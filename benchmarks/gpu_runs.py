"""Checks of gpu_acceptance.py that start train.py: stopped and continued, out of memory, two processes."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from gpu_setting import alone, check, need

ROOT = Path(__file__).resolve().parent.parent


class Runs:
    """Runs of train.py in a directory of their own; none outlives the `with`."""

    def __init__(self, *flags):
        self.flags, self.processes = flags, []

    def __enter__(self):
        self.directory = tempfile.TemporaryDirectory()
        return self

    def __exit__(self, *error):
        for process in self.processes:
            process.kill()
            process.communicate()
        self.directory.cleanup()

    def __getitem__(self, name):
        return Path(self.directory.name) / "runs" / name

    def start(self, *flags, **environment):
        """Start one with the flags of all and these; give its process."""
        command = [sys.executable, str(ROOT / "train.py"), *map(str, (*self.flags, *flags))]
        process = subprocess.Popen(
            command, cwd=self.directory.name, env=os.environ | environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def resume(self, name):
        """Continue one with its own flags."""
        flags, self.flags = self.flags, ()
        process = self.start("--resume", f"runs/{name}")
        self.flags = flags
        return process

    def end(self, process, code=0):
        """Wait for its end; what it said."""
        said = process.communicate(timeout=600)[0]
        if process.returncode != code:
            raise RuntimeError(f"exit code {process.returncode}, not {code}: {said[-500:]}")
        return said

    def stop(self, *stopped):
        """Send each (name, process, signal) its signal right after its first checkpoint, and wait for all."""
        waiting = list(stopped)
        while waiting:
            for name, process, how in list(waiting):
                if process.poll() is not None or (self[name] / "last.pt").exists():
                    process.send_signal(how)
                    waiting.remove((name, process, how))
            time.sleep(0.002)
        for _, process, how in stopped:
            self.end(process, 143 if how == signal.SIGTERM else -9)


def same_state(one, other):
    """Whether the last.pt of two runs hold the same numbers: net, optimiser, scaler."""
    a, b = (torch.load(run / "last.pt", map_location="cpu", weights_only=True) for run in (one, other))

    def equal(x, y):
        if isinstance(x, torch.Tensor):
            return torch.equal(x, y)
        if isinstance(x, dict):
            return x.keys() == y.keys() and all(equal(x[k], y[k]) for k in x)
        return x == y

    return all(equal(a[name], b[name]) for name in ("model", "optimizer", "scaler"))


@check
def resume(s):
    """Stopped by SIGTERM or kill -9 and continued, a --deterministic run ends bit for bit as an unbroken one."""
    many = ["--epochs", 3, "--bs", 240] if s.small else ["--epochs", 20, "--bs", 64]
    # vit_tiny has dropout, whose numbers a graph draws anew each time
    kinds = ["--net resnet20", *["--net vit_tiny --graph on"] * s.on_gpu]
    for kind in kinds:
        with s.case(kind):
            resumed(s, [*kind.split(), *many])


def resumed(s, kind):
    flags = ["--dataset", "digits", *kind, "--device", s.device.type, "--deterministic", "--threads", 1]
    shown = " ".join(map(str, kind))
    with Runs(*flags, "--save-every", 4) as runs:
        unbroken = [runs.start("--run-name", name) for name in ("unbroken", "again")]
        hows = {how.name: how for how in (signal.SIGTERM, signal.SIGKILL)}
        runs.stop(*[(name, runs.start("--run-name", name), how) for name, how in hows.items()])
        for process in unbroken:
            runs.end(process)
        s.expect(same_state(runs["unbroken"], runs["again"]), f"{shown}: two unbroken runs differ")
        for name, process in [(name, runs.resume(name)) for name in hows]:
            said = runs.end(process)
            first, last = re.search(r"^run .*, step (\d+) of (\d+)$", said, re.MULTILINE).groups()
            s.expect(int(first) < int(last), f"{shown}, {name}: it came after the last step")
            same = same_state(runs["unbroken"], runs[name])
            at = f"step {first} of {last}"
            s.rows.append({"run": shown, "stopped by": name, "continued after": at, "same": same})
            s.expect(same, f"{shown}, {name}: the run ends with other numbers")


@check
def scaler(s):
    """The float16 scaler goes through a resume: the run ends as an unbroken one, bit for bit."""
    need(s.on_gpu, "float16 with a scaler is for CUDA")
    flags = ["--dataset", "digits", "--net", "resnet20", "--amp", "fp16", "--deterministic", "--epochs", 20]
    with Runs(*flags, "--save-every", 2) as runs:
        unbroken, process = (runs.start("--run-name", name) for name in ("unbroken", "stopped"))
        runs.stop(("stopped", process, signal.SIGTERM))
        runs.end(unbroken)
        runs.end(runs.resume("stopped"))
        same = same_state(runs["unbroken"], runs["stopped"])
        s.rows.append({"same": same})
        s.expect(same, "the run ends with other numbers")


@alone
def memory(s):
    """A batch that does not fit ends in one line and exit code 2."""
    need(s.on_gpu, "a host that runs out of memory may end anything")
    flags = ["--dataset", "digits", "--net", "vit_large", "--size", 512, "--patch", 4, "--bs", 1024]
    with Runs(*flags, "--device", "cuda", "--max-steps", 1) as runs:
        said = runs.end(runs.start(), code=2)
    last = said.strip().splitlines()[-1]
    s.rows.append({"said": last[:100]})
    s.expect("out of memory" in last and "Traceback" not in said, f"it says: {said[-200:]}")


@check
def processes(s):
    """Two processes learn as one does, with batch norm over both where there are two GPUs."""
    need(not s.on_gpu or torch.cuda.device_count() > 1, "there is one GPU")
    flags = [*"--dataset digits --net resnet20 --noamp --noaug --threads 1 --device".split(), s.device.type]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with Runs(*flags, "--epochs", 1 if s.small else 3, "--bs", 240) as runs:
        who = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        sync = ["--sync-bn"] if s.on_gpu else []
        started = [
            runs.start("--run-name", "two", *sync, **who, RANK=rank, LOCAL_RANK=rank) for rank in ("0", "1")
        ]
        for process in [runs.start("--run-name", "one"), *started]:
            runs.end(process)
        ends = [
            torch.load(runs[name] / "last.pt", weights_only=True)["progress"]["rows"][-1]
            for name in ("one", "two")
        ]
    for name in ("train_loss", "train_acc"):
        one, both = (row[name] for row in ends)
        s.rows.append({"": name, "one process": one, "two": both})
        s.expect(abs(one - both) <= 0.1 * abs(one), f"{name}: {one:.4f} in one process, {both:.4f} in two")
