"""torch.compile as CUDA runs use it: one graph a shape, in every epoch and under DDP; without a compiler, one line."""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, environment

import train
from engine import precision
from engine.distributed import World
from engine.saver import Progress

pytestmark = pytest.mark.slow

sys.path.insert(0, str(ROOT / "benchmarks"))


def graphs_of_epochs(flags, epochs=3, images=37, world=None):
    """For each epoch, by number, the compiled graph that served each step; and how often a graph broke."""
    from measure import register_random_images

    served, made = [], []

    def backend(module, inputs):
        made.append(module)
        number = len(made)

        def run(*args):
            served.append(number)
            return module(*args)

        return run

    really_compile, torch.compile = (
        torch.compile,
        lambda f, **k: really_compile(f, **k | {"backend": backend}),
    )
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    try:
        register_random_images(images, 32)
        args, typed = train.parse_args(
            ["--dataset", "random", "--device", "cpu", "--compile", "on", *flags.split()]
        )
        args.lr = args.lr or 1e-3
        with contextlib.redirect_stdout(io.StringIO()):
            job = train.build(args, typed, world or World("cpu"), type("Stop", (), {"requested": False}))
        job.saver, job.progress = type("Saver", (), {"due": staticmethod(lambda step: False)}), Progress()
        made.clear()  # those of the check that compiling works
        epochs_served = []
        for _ in range(epochs):
            served.clear()
            job.progress.step = job.progress.batch = 0
            job.trainer.meter.reset()
            train.train_one_epoch(job)
            epochs_served.append(list(served))
        return epochs_served, sum(torch._dynamo.utils.counters["graph_break"].values())
    finally:
        torch.compile = really_compile
        torch._dynamo.reset()


@pytest.mark.parametrize(
    "flags", ["--net vit_tiny --dimhead 64 --patch 8", "--net resnet20 --randaug --mixup 0.2"]
)
def test_whole_batches_have_one_graph_and_the_partial_one_another_in_every_epoch(flags):
    epochs, breaks = graphs_of_epochs(f"{flags} --bs 16")
    assert epochs == [[1, 1, 2]] * 3 and breaks == 0


RANK = """
import json, os, sys
sys.path[:0] = [{tests!r}, {root!r}]
from engine.distributed import World
from test_cuda_compile import graphs_of_epochs
world = World("cpu")
got = graphs_of_epochs("--net resnet20 --bs 16", 2, 37, world)
with open(f"graphs{{world.rank}}.json", "w") as file:
    json.dump(got, file)
world.close()
"""


def test_two_processes_have_one_graph_a_shape_each(tmp_path):
    code = RANK.format(tests=str(ROOT / "tests"), root=str(ROOT))
    ranks = []
    for rank in (0, 1):
        who = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
        who |= {"MASTER_PORT": "29713"}
        ranks.append(subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment(who)))
    assert [p.wait(timeout=240) for p in ranks] == [0, 0]
    for rank in (0, 1):
        epochs, breaks = json.loads((Path(tmp_path) / f"graphs{rank}.json").read_text())
        assert epochs == [[1, 1, 2]] * 2 and breaks == 0


def test_a_broken_compiler_is_a_reason_in_one_line(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("\n\nFailed to find C compiler.\nset CC\n" + "trace\n" * 80)

    assert precision.why_not_compile(torch.device("cpu")) == ""
    monkeypatch.setattr(torch, "compile", broken)
    assert precision.why_not_compile(torch.device("cpu")) == "Failed to find C compiler."
