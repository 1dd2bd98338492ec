"""One file, one line: a loss, a net, a data set and an optimiser that nobody knows, from training to comparison."""

import subprocess
import sys

import pytest
from conftest import ROOT, environment

# What CONTRIBUTING.md asks for, in one module: the files of a newcomer, and then the lines.
PLUGIN = """
import sys
sys.path[:0] = [{root!r}, {root!r} + "/benchmarks"]
import numpy as np, torch
from torch import nn
import losses
from losses.base import ClassLoss, class_loss

class SquareLoss(ClassLoss):  # the square of cross entropy
    def forward(self, logits, target):
        return class_loss(lambda ell: ell.clamp(max=1e6) ** 2, logits, target, **self.options())

class Signs(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-3, weight_decay=0.0):
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay))
    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                p.sub_(mean.lerp_(p.grad, 0.1).sign(), alpha=group["lr"])

def load(name, root, options):
    from data.source import Source, Split
    g = np.random.default_rng(0)
    def split(n):
        labels = np.arange(n) % 3
        images = g.integers(0, 80, (n, 3, 8, 8)) + 100 * (np.arange(3)[None, :] == labels[:, None])[..., None, None]
        return Split(labels.astype(np.int64), images=images.astype(np.uint8))
    return Source(split(60), split(30), ["r", "g", "b"], common_size=8)

me = sys.modules[__name__]
sys.modules["data.sources.stripes"] = sys.modules["plugin"] = me
losses.LOSSES["square"] = SquareLoss
from data.registry import DATASETS, Dataset
DATASETS["stripes"] = Dataset("stripes", 8)
from engine.optim import OPTIMIZERS
OPTIMIZERS["signs"] = ("plugin:Signs", {{}})
def register_net():
    from models.registry import CNN, register
    @register("probe", facts=CNN)
    def build_probe(spec):
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * spec.image_size**2, spec.num_classes))
import models
register_net()
"""
FLAGS = "--dataset stripes --net probe --loss square --opt signs --bs 20"


PROGRAMS = """
import importlib, shlex, subprocess
for line in sys.stdin:  # all in one process, which has imported torch once
    program, *words = shlex.split(line)
    print(f"$ {line}", flush=True)
    try:
        importlib.import_module(program).main(words)
    except SystemExit as leaving:
        if leaving.code:
            raise
"""


@pytest.mark.slow
def test_a_loss_a_net_a_data_set_and_an_optimiser_of_ones_own_go_all_the_way(tmp_path):
    (tmp_path / "programs.py").write_text(PLUGIN.format(root=str(ROOT)) + PROGRAMS)

    def run(*lines):
        done = subprocess.run(
            [sys.executable, "programs.py"], input="\n".join(lines), cwd=tmp_path, env=environment(),
            capture_output=True, text=True, timeout=400,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    grid = ["ce-seed0", "ce-seed1", "square-seed0", "square-seed1"]
    trainings = [
        f"train {FLAGS} --epochs 1 --out grid --run-name {name} --loss {name[:-6]} --seed {name[-1]}"
        for name in grid
    ]
    out = run(
        f"train {FLAGS} --epochs 4 --max-steps 5 --run-name mine",
        "train --resume runs/mine --max-steps 12",
        *trainings,
        "compare grid --out compared",
        f"sweep --loss ce square --seed 0 1 --out swept --dry-run -- {FLAGS.replace('--loss square', '')}",
        "bench_train --nets probe --loss square --bs 8 --size 8 --steps 2 --rounds 1",
    )
    assert "loss    square" in out and "step 5 of 12" in out and "best test accuracy" in out
    assert "square loss" in out and "| probe" in out
    commands = [line for line in out.splitlines() if line.startswith("python train.py")]
    assert len(commands) == 4 and all("--opt signs" in line for line in commands)
    table = (tmp_path / "compared" / "table.md").read_text()
    assert "| square" in table and "2 seeds are too few" in table
