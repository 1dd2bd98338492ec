"""torch.compile as CUDA runs use it: one graph a shape, in every epoch and under DDP; without a compiler, one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, environment
from torch._inductor.utils import fresh_inductor_cache as fresh_cache

from benchmarks.measure import Training, register_random_images
from common import one_line_errors
from engine.precision import Precision, choose_compile
from engine.trainer import Trainer
from engine.world import World
from losses import build_loss

pytestmark = pytest.mark.slow


@pytest.fixture
def served(monkeypatch):
    """torch.compile without a compiler: the number of the graph that serves each call, in order."""
    yield from served_by_graphs(monkeypatch.setattr)


def served_by_graphs(setattr):
    calls, graphs, really_compile = [], [], torch.compile

    def backend(module, inputs):
        graphs.append(module)
        number = len(graphs)
        return lambda *args: (calls.append(number), module(*args))[1]

    setattr(torch, "compile", lambda f, **k: really_compile(f, **k | {"backend": backend}))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield calls
    torch._dynamo.reset()


def graphs_of_epochs(calls, words, epochs=2):
    """For each epoch the graphs that served its steps, and how often a graph broke."""
    register_random_images(37, 32)
    training = Training(["--dataset", "random", "--device", "cpu", "--compile", "on", *words.split()])
    seen = []
    for epoch in range(epochs):
        calls.clear()
        training.epoch(epoch)
        seen.append(list(calls))
    return seen, sum(torch._dynamo.utils.counters["graph_break"].values()), training


@pytest.mark.parametrize(
    "words", ["--net vit_tiny --dimhead 64 --patch 8 --k-end 8", "--net resnet20 --randaug --mixup 0.2"]
)
def test_whole_batches_have_one_graph_and_the_partial_one_another_in_every_epoch(served, words):
    epochs, breaks, _ = graphs_of_epochs(served, f"{words} --bs 16")
    assert epochs == [[1, 1, 2]] * 2 and breaks == 0


def test_more_shapes_than_dynamos_limit_are_compiled_all_the_same(served):
    net = torch.nn.Linear(3, 2)
    trainer = Trainer(
        net, build_loss("root"), torch.optim.SGD(net.parameters()), World("cpu"), Precision(torch.device("cpu")),
        lambda step: 0.1, ema=0.5, compiled=True,
    )  # fmt: skip
    for size in range(2, 14):
        for averaged in (False, True):
            trainer.answer(torch.rand(size, 3), averaged)
    assert len(served) == 24


RANK = """
import json, sys
sys.path[:0] = [{tests!r}, {root!r}]
from test_cuda_compile import graphs_of_epochs, served_by_graphs
calls = next(patched := served_by_graphs(setattr))
epochs, breaks, training = graphs_of_epochs(calls, "--net resnet20 --bs 16")
sends = getattr(training.trainer._forward, "will_sync_module_buffers", lambda: False)()
with open(f"graphs{{training.world.rank}}.json", "w") as file:
    json.dump([epochs, breaks, sends], file)
training.world.__exit__()
"""


def test_two_processes_have_one_graph_a_shape_each(tmp_path):
    (tmp_path / "rank.py").write_text(RANK.format(tests=str(ROOT / "tests"), root=str(ROOT)))
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "rank.py",
    ]
    done = subprocess.run(
        torchrun, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        epochs, breaks, sends_buffers = json.loads((Path(tmp_path) / f"graphs{rank}.json").read_text())
        assert epochs == [[1, 1, 2]] * 2 and breaks == 0
        assert not sends_buffers, "share_buffers does, once an epoch"


def test_auto_compiles_where_it_pays_and_triton_is_there(monkeypatch):
    for there in (True, False):
        monkeypatch.setattr("torch.utils._triton.has_triton", lambda there=there: there)
        choices = [
            choose_compile(*how) for how in (("auto", True), ("auto", False), ("on", False), ("off", True))
        ]
        assert choices == [there, False, True, False]


def test_without_a_compiler_compiling_ends_in_one_line(monkeypatch, capsys):
    def no_compiler(*_, **__):
        raise RuntimeError("No working C++ compiler found\nset CXX\n" + "trace\n" * 80)

    monkeypatch.setattr(torch._inductor.cpp_builder, "run_compile_cmd", no_compiler)
    net, labels = torch.nn.Linear(3, 2), torch.zeros(4, dtype=torch.long)
    trainer = Trainer(
        net, build_loss("root"), torch.optim.SGD(net.parameters()), World("cpu"), Precision(torch.device("cpu")),
        lambda step: 0.1, compiled=True,
    )  # fmt: skip
    with pytest.raises(SystemExit) as end, fresh_cache(), one_line_errors("train.py"):
        trainer.step(torch.rand(4, 3), labels, 0, 4)
    said = capsys.readouterr().err.splitlines()[-1]  # torch may warn before
    assert end.value.code == 2 and "Traceback" not in said
    assert "torch.compile does not work here (" in said and "No working C++ compiler" in said
    torch._dynamo.reset()
