"""engine/graph.py: what a CUDA graph does, played by CPU tensors: recorded once, then replayed on the same memory."""

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common import UserError
from engine import trainer as trainer_module
from engine.graph import WARM_UP, StepGraph, choose_graph, why_not_graph
from engine.mixing import Mixing
from engine.optim import build_optimizer
from engine.precision import Precision
from engine.trainer import Trainer, linear_in_inverse
from engine.world import World
from losses import RootLoss
from models import list_models, net_facts

CPU = torch.device("cpu")


class Recording(TorchDispatchMode):
    """As `torch.cuda.CUDAGraph`: what runs in it changes no number; `replay` does it on the tensors it saw."""

    def __init__(self):
        super().__init__()
        self.calls, self.before, self.made = [], {}, set()

    def __enter__(self):
        self.random = torch.get_rng_state()
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in func.name(), "the host reads a tensor while a step is recorded"
        kwargs = kwargs or {}
        for x in tree_leaves((args, kwargs)):
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in self.made:
                self.before.setdefault(x.untyped_storage().data_ptr(), (x.detach(), x.detach().clone()))
        out = func(*args, **kwargs)
        outputs = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.made |= {x.untyped_storage().data_ptr() for x in outputs} - set(self.before)
        self.calls.append((func, args, kwargs, outputs))
        return out

    def __exit__(self, *error):
        super().__exit__(*error)
        with torch.no_grad():
            for x, old in self.before.values():
                x.copy_(old)
        torch.set_rng_state(self.random)

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, outputs in self.calls:
            again = [x for x in tree_leaves(func(*args, **kwargs)) if isinstance(x, torch.Tensor)]
            for old, new in zip(outputs, again, strict=True):
                if old.data_ptr() != new.data_ptr():  # the same memory: a view, or changed in place
                    old.detach().copy_(new)


@pytest.fixture
def graphs(monkeypatch):
    """CUDA's graphs and streams, as far as they are used; gives the list of the graphs that were recorded."""
    recorded = []
    stream = type("Stream", (), {"wait_stream": lambda self, other: None})

    def record(graph, pool, **_):
        assert pool in (None, "pool")
        recorded.append(graph)
        return graph

    for name, value in {
        "CUDAGraph": Recording, "graph": record, "Stream": stream, "current_stream": stream,
        "stream": lambda s: contextlib.nullcontext(), "graph_pool_handle": lambda: "pool",
        "mem_get_info": lambda: (60, 100), "memory_reserved": lambda: 40, "memory_allocated": lambda: 20,
        "max_memory_allocated": lambda: 60,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, s: None)
    return recorded


class Root(RootLoss):
    """Without the look at k and m that a host takes where they are its own: here they play a GPU's."""

    def forward(self, logits, target):
        return (-self.m * F.elu(F.cross_entropy(logits, target, reduction="none") / -self.k)).mean()


def train(graphed, opt="adam", k_end=0.0, mix=None, **options):
    """Ten steps of two epochs with a partial batch each, and a test after each; everything they leave behind."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(4)
    )
    net(torch.zeros(2, 3, 6, 6))
    loss = Root()
    if k_end:
        loss.anneal(3.0)
    trainer = Trainer(
        net, loss, build_optimizer(opt, net, 1.0, 0.01, CPU), World("cpu"), Precision(CPU),
        lambda step: 2.0 ** -(step + 1),  # rates that float32 holds exactly
        k_of=linear_in_inverse(3.0, k_end, 10) if k_end else None, mix=mix, graphed=graphed, **options,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)

    def batch(size):
        return torch.rand(size, 3, 6, 6, generator=generator), torch.arange(size) % 4

    held_out, answers = [batch(size)[0] for size in (6, 6, 6, 6, 6, 2)], []
    for step in range(10):
        size = 5 if step in (4, 9) else 8
        trainer.train_mode(step)
        trainer.step(*batch(size), step, size)
        if step in (4, 9):
            trainer.test_mode()
            for averaged in (False, True)[: 1 + (trainer.averaged is not None)]:
                answers += [trainer.answer(images, averaged) for images in held_out]
    state = {
        "net": net.state_dict(), "optimizer": trainer.optimizer.state_dict()["state"],
        "meter": trainer.meter.state(), "answers": answers, "random": torch.get_rng_state(),
        "ema": trainer.averaged.state_dict() if trainer.averaged else {},
    }  # fmt: skip
    return copy.deepcopy(state)


def same(a, b):
    a, b = tree_leaves(a), tree_leaves(b)
    return len(a) == len(b) and all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"opt": "sgd", "clip_grad": 0.1},
        {"opt": "adamw", "ema": 0.5, "k_end": 8.0, "mix": Mixing(0.2, 1.0, 4, seed=0)},
    ],
    ids=str,
)
def test_replayed_steps_are_the_steps_bit_for_bit(graphs, options):
    plain, graphed = train(False, **options), train(True, **options)
    # a graph of whole batches: training, test, test of the average
    assert len(graphs) == 2 + ("ema" in options)
    assert same(plain, graphed)


def test_rates_k_and_answers_that_a_graph_would_miss_are_seen(graphs, monkeypatch):
    """The test above sees what it is for."""

    def another_tensor(optimizer, lr):
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(lr)

    def another_buffer(loss, k):
        loss.__dict__.pop("k", None)
        loss.__dict__.pop("m", None)
        loss._buffers |= {"k": torch.tensor(k), "m": torch.tensor(k)}

    plain = train(False, k_end=8.0)
    for owner, name, mutation in (
        (trainer_module, "set_learning_rate", another_tensor),
        (RootLoss, "anneal", another_buffer),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, mutation)
            assert not same(plain, train(True, k_end=8.0)), name
    with monkeypatch.context() as patch:  # what a replay returned is not kept
        inference = torch.inference_mode()
        patch.setattr(
            Trainer, "answer", inference(lambda self, images, which: self._answers[which](images)[0])
        )
        overwritten = train(True, k_end=8.0)
    assert same(plain["net"], overwritten["net"]) and not same(plain["answers"], overwritten["answers"])


def test_the_first_steps_run_aside_and_a_shape_seen_later_is_never_recorded(graphs, monkeypatch):
    ran, streams = [], []
    monkeypatch.setattr(torch.cuda, "stream", lambda s: (streams.append(s), contextlib.nullcontext())[1])
    step = StepGraph(lambda x: (ran.append(len(x)), x * 2)[1:])
    for i in range(WARM_UP + 3):
        assert step(torch.full((4,), float(i)))[0].tolist() == [2.0 * i] * 4
        assert step(torch.ones(3))[0].tolist() == [2.0] * 3
    assert ran.count(4) == WARM_UP + 1 and ran.count(3) == WARM_UP + 3 and len(graphs) == 1
    # one stream, whose memory is used again; and none for what is left over in later epochs
    assert len(streams) == 2 * WARM_UP and len(set(streams)) == 1


def test_without_room_for_a_graph_beside_a_smaller_batch_steps_stay_eager(graphs, monkeypatch, capsys):
    plain = train(False)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 39)  # 99 of the 20 + 2 · 40 that it takes
    assert same(plain, train(True)) and not graphs
    said = capsys.readouterr()
    assert (said.out + said.err).count(
        "note    without a graph a step: the GPU's memory has no room for one"
    ) == 2


def test_a_step_that_cannot_be_recorded_is_refused_in_one_line(graphs, monkeypatch):
    @contextlib.contextmanager
    def record(*_, **__):
        yield
        raise RuntimeError(f"{why}\nCompile with `TORCH_USE_CUDA_DSA`")

    monkeypatch.setattr(torch.cuda, "graph", record)
    why = "CUDA error: operation not permitted when stream is capturing"
    with pytest.raises(UserError, match=rf"CUDA graph \({why}.*\): use --graph off") as refused:
        train(True)
    assert "\n" not in str(refused.value)
    why = "CUDA error: out of memory"  # has a line of its own
    with pytest.raises(RuntimeError, match=why):
        train(True)


def test_auto_is_for_nets_that_are_known_to_allow_it():
    for wanted, why_not, recordable, graphed in (
        ("auto", "", True, True), ("auto", "", False, False), ("auto", "x", True, False), ("on", "", False, True),
        ("off", "", True, False),
    ):  # fmt: skip
        assert choose_graph(wanted, why_not, recordable) == graphed, (wanted, why_not, recordable)
    with pytest.raises(UserError, match="--graph on: it is for one process; leave it out"):
        choose_graph("on", "it is for one process", True)
    recordable = {net for net in [*list_models(), "timm:resnet18"] if net_facts(net).recordable}
    assert recordable >= {"vit", "vit_small", "resnet18", "vgg19", "swin", "cait"}
    assert not recordable & {"vit_timm", "timm:resnet18"}


def test_where_a_step_is_no_graph_it_is_said_why():
    there = Precision(CPU)
    assert "CUDA" in why_not_graph(there, 1, 1, 0.0)
    there.device = torch.device("cuda")
    assert why_not_graph(there, 1, 1, 1.0) == ""
    assert "one process" in why_not_graph(there, 2, 1, 0.0)
    assert "--accumulate" in why_not_graph(there, 1, 2, 0.0)
    there.scaler = torch.amp.GradScaler("cpu", enabled=True)
    assert why_not_graph(there, 1, 1, 0.0) == "" and "--clip-grad" in why_not_graph(there, 1, 1, 1.0)
