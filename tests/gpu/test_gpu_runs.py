"""Runs of train.py on a GPU: stopped and continued, out of memory, two processes."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch
from conftest import ROOT
from gpu_setting import needs_gpu

pytestmark = needs_gpu


@contextmanager
def started(where, *words):
    """A run of train.py in `where`, or another program that `words` begin with; it ends with the block."""
    words = [str(word) for word in words]
    command = words if words[0] == sys.executable else [sys.executable, ROOT / "train.py", *words]
    process = subprocess.Popen(
        command, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def run(where, *words, code=0):
    """What a run says, which must end with `code`."""
    with started(where, *words) as process:
        said = process.communicate(timeout=600)[0]
        assert process.returncode == code, said[-2000:]
    return said


def stopped(where, name, how, *words):
    """Start a run, and send it the signal `how` right after its first checkpoint."""
    with started(where, *words, "--run-name", name) as process:
        while process.poll() is None and not (where / "runs" / name / "last.pt").exists():
            time.sleep(0.002)
        process.send_signal(how)
        said = process.communicate(timeout=600)[0]
        assert process.returncode == (143 if how == signal.SIGTERM else -9), said[-2000:]


def state(where, name):
    last = torch.load(where / "runs" / name / "last.pt", map_location="cpu", weights_only=True)
    return {part: last[part] for part in ("model", "optimizer", "scaler")}


@pytest.mark.parametrize(
    "words", ["--net resnet20", "--net vit_tiny --graph on", "--net resnet20 --amp fp16"],
    ids=["eager", "graphed, with dropout", "with float16's scaler"],
)  # fmt: skip
def test_a_deterministic_run_that_was_stopped_ends_bit_for_bit_as_one_that_was_not(words, tmp_path):
    flags = f"--dataset digits {words} --device cuda --deterministic --threads 1 --epochs 20 --bs 64 --save-every 4"
    for name in ("unbroken", "again"):
        run(tmp_path, *flags.split(), "--run-name", name)
    unbroken = state(tmp_path, "unbroken")
    torch.testing.assert_close(state(tmp_path, "again"), unbroken, rtol=0, atol=0)
    for how in (signal.SIGTERM, signal.SIGKILL):
        stopped(tmp_path, how.name, how, *flags.split())
        said = run(tmp_path, "--resume", f"runs/{how.name}")
        first, last = map(int, re.search(r"^run .*, step (\d+) of (\d+)$", said, re.MULTILINE).groups())
        assert 0 < first < last, "the signal came in between"
        torch.testing.assert_close(state(tmp_path, how.name), unbroken, rtol=0, atol=0)


def test_a_batch_that_does_not_fit_ends_in_one_line(tmp_path):
    words = "--dataset digits --net vit_large --size 512 --patch 4 --bs 1024 --device cuda --max-steps 1"
    said = run(tmp_path, *words.split(), code=2)
    assert "out of memory" in said.strip().splitlines()[-1] and "Traceback" not in said


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_processes_learn_as_one_does(tmp_path):
    flags = "--dataset digits --net resnet20 --noamp --noaug --threads 1 --device cuda --epochs 3 --bs 240"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    run(tmp_path, *flags.split(), "--run-name", "one")
    run(tmp_path, *torchrun, ROOT / "train.py", *flags.split(), "--run-name", "two", "--sync-bn")
    one, two = (
        torch.load(tmp_path / "runs" / name / "last.pt", weights_only=True)["progress"]["rows"][-1]
        for name in ("one", "two")
    )
    assert two["train_loss"] == pytest.approx(one["train_loss"], rel=0.1)
    assert two["train_acc"] == pytest.approx(one["train_acc"], rel=0.1)
