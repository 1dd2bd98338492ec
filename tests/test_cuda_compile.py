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
from torch._inductor.runtime.cache_dir_utils import cache_dir

import train
from engine import precision
from engine.distributed import World
from engine.saver import Progress
from engine.trainer import Trainer
from losses import build_loss

pytestmark = pytest.mark.slow

sys.path.insert(0, str(ROOT / "benchmarks"))


def graphs_of_epochs(flags, epochs=3, images=37, world=None):
    """For each epoch, by number, the compiled graph that served each step; how often a graph broke; whether each step
    sends the buffers of batch norm to the other processes."""
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
        breaks = sum(torch._dynamo.utils.counters["graph_break"].values())
        sends = getattr(job.trainer._synchronised, "will_sync_module_buffers", lambda: False)
        return epochs_served, breaks, sends()
    finally:
        torch.compile = really_compile
        torch._dynamo.reset()


@pytest.mark.parametrize(
    "flags", ["--net vit_tiny --dimhead 64 --patch 8", "--net resnet20 --randaug --mixup 0.2"]
)
def test_whole_batches_have_one_graph_and_the_partial_one_another_in_every_epoch(flags):
    epochs, breaks, _ = graphs_of_epochs(f"{flags} --bs 16")
    assert epochs == [[1, 1, 2]] * 3 and breaks == 0


def test_more_shapes_than_dynamos_limit_are_compiled_all_the_same(monkeypatch):
    served, really_compile = [], torch.compile

    def backend(module, inputs):
        return lambda *args: (served.append(1), module(*args))[1]

    monkeypatch.setattr(torch, "compile", lambda f, **k: really_compile(f, **k | {"backend": backend}))
    net, cpu = torch.nn.Linear(3, 2), torch.device("cpu")
    optimizer = torch.optim.SGD(net.parameters())
    trainer = Trainer(
        net, build_loss("root"), optimizer, World("cpu"), precision.Precision(cpu), ema=0.5, compiled=True
    )
    with torch.inference_mode():
        for size in range(2, 14):
            for averaged in (False, True):
                trainer.test(torch.rand(size, 3), torch.zeros(size, dtype=torch.long), averaged)
    assert len(served) == 24
    torch._dynamo.reset()


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
        epochs, breaks, sends_buffers = json.loads((Path(tmp_path) / f"graphs{rank}.json").read_text())
        assert epochs == [[1, 1, 2]] * 2 and breaks == 0
        assert not sends_buffers, "share_buffers does, once an epoch"


def test_a_broken_compiler_is_a_reason_in_one_line(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("\n\nFailed to find C compiler.\nset CC\n" + "trace\n" * 80)

    monkeypatch.setattr(torch, "compile", broken)
    assert precision.why_not_compile(torch.device("cpu")) == "Failed to find C compiler."


def test_a_compiler_that_broke_is_noticed_although_a_cache_has_what_it_made(monkeypatch):
    class Cuda(str):  # a CPU that says it is not one
        type = "cuda"

    def broken(*_, **__):
        raise RuntimeError("C++ compile error")

    cpu, caches, really_compile = torch.device("cpu"), [], torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, **k: (caches.append(cache_dir()), really_compile(f, **k))[1]
    )
    assert precision._why_not(lambda x: x * 7, cpu) == precision.why_not_compile(cpu) == ""
    with monkeypatch.context() as patch:
        patch.setattr(torch._inductor.cpp_builder, "run_compile_cmd", broken)
        assert precision._why_not(lambda x: x * 7, cpu) == "", "the cache has this"
        assert "C++ compile error" in precision.why_not_compile(cpu)
    assert precision.why_not_compile(Cuda("cpu")) == ""
    users, of_cuda = caches[0], caches[-1]
    assert of_cuda != users == cache_dir() and not Path(of_cuda).exists()
