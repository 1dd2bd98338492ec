"""What runs on CUDA switch on: deterministic kernels or the fastest, and precision."""

import os

import pytest
import torch

from common import UserError, one_line_errors
from engine import precision
from engine.optim import build_optimizer
from engine.precision import Precision, choose_kernels
from engine.trainer import Trainer
from engine.world import World
from losses import build_loss

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.fixture
def switches(monkeypatch):
    """What `choose_kernels` has set, by a short name; all of it is put back."""
    from torch._inductor import config

    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    before = cudnn.benchmark, cudnn.deterministic, cuda.cudnn_sdp_enabled()
    inductor = getattr(config, "deterministic", None)
    cudnn.benchmark = False  # on a GPU, other tests of this process have switched it on
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield lambda: {
        "benchmark": cudnn.benchmark, "cudnn": cudnn.deterministic, "no sdp": not cuda.cudnn_sdp_enabled(),
        "torch": torch.are_deterministic_algorithms_enabled(), "cublas": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "inductor": getattr(config, "deterministic", "torch is too old"),
    }  # fmt: skip
    torch.use_deterministic_algorithms(False)
    cudnn.benchmark, cudnn.deterministic = before[:2]
    cuda.enable_cudnn_sdp(before[2])
    if inductor is not None:
        config.deterministic = inductor


def test_kernels_are_the_fastest_or_with_deterministic_always_the_same(switches, monkeypatch, capsys):
    untouched = switches()
    choose_kernels(CPU, False)
    assert switches() == untouched
    choose_kernels(CUDA, False)
    assert switches() == untouched | {"benchmark": True}
    choose_kernels(CUDA, True)
    inductor = True if isinstance(untouched["inductor"], bool) else untouched["inductor"]
    assert switches() == {
        "benchmark": False, "cudnn": True, "no sdp": True, "torch": True, "cublas": ":4096:8",
        "inductor": inductor,
    }  # fmt: skip
    with pytest.raises(SystemExit) as end, one_line_errors("train.py"):  # an operation that cannot
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.count("\n") == 1 and "--deterministic: put_" in said
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(UserError, match="unset it"):
        choose_kernels(CUDA, True)


@pytest.mark.parametrize("options", [{}, {"clip_grad": 1.0, "accumulate": 2, "ema": 0.9}], ids=str)
def test_a_step_never_searches_the_net_for_its_parameters(monkeypatch, options):
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = build_optimizer("adam", net, 0.1, 0.0, CPU)
    trainer = Trainer(
        net, build_loss("root"), optimizer, World("cpu"), Precision(CPU), lambda step: 0.1, **options
    )
    walks, named_members = [], torch.nn.Module._named_members
    monkeypatch.setattr(
        torch.nn.Module, "_named_members", lambda *a, **k: (walks.append(1), named_members(*a, **k))[1]
    )
    for step in (0, 1):
        trainer.step(torch.rand(8, 3), torch.arange(8) % 4, step, 8)
    assert not walks
    list(net.parameters())
    assert walks, "this is how it would be seen"


def test_a_cpu_computes_in_bfloat16_if_it_has_the_instructions(monkeypatch):
    for has_it in (True, False):
        monkeypatch.setattr(precision, "_cpu_has_bf16", lambda has_it=has_it: has_it)
        assert str(Precision(CPU)) == "float32"
        if has_it:
            assert str(Precision(CPU, "bf16")) == "bfloat16"
        else:
            with pytest.raises(UserError, match="this CPU does not compute in bfloat16"):
                Precision(CPU, "bf16")
    with pytest.raises(UserError, match="needs CUDA"):
        Precision(CPU, "fp16")
