"""One file, one line: a loss, a net, a data set and an optimiser that nobody knows, from training to comparison."""

import subprocess

from conftest import ROOT, environment

# What CONTRIBUTING.md asks for, in one module: the files of a newcomer, and then the lines.
PLUGIN = """
import sys
sys.path.insert(0, {root!r})
import numpy as np, torch
from torch import nn
import losses
from losses.base import ClassLoss, class_loss

class SquareLoss(ClassLoss):  # the square of cross entropy
    def forward(self, logits, target):
        return class_loss(lambda ell: ell.clamp(max=1e6) ** 2, 1.0, logits, target, **self.options())

class Signs(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-3, weight_decay=0.0):
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay))
    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                p.sub_(mean.lerp_(p.grad, 0.1).sign(), alpha=group["lr"])

def load(request):
    from data.source import Source, Split
    g = np.random.default_rng(0)
    def split(n):
        labels = np.arange(n) % 3
        images = g.integers(0, 80, (n, 3, 8, 8)) + 100 * (np.arange(3)[None, :] == labels[:, None])[..., None, None]
        return Split(labels.astype(np.int64), images=images.astype(np.uint8))
    return Source(split(60), split(30), ["r", "g", "b"], common_size=8)

me = sys.modules[__name__]
sys.modules["data.sources.stripes"] = sys.modules["plugin"] = me
losses._CLASSES["square"] = "plugin:SquareLoss"
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
FLAGS = "--dataset stripes --net probe --loss square --opt signs --bs 20".split()


def test_a_loss_a_net_a_data_set_and_an_optimiser_of_ones_own_go_all_the_way(tmp_path):
    (tmp_path / "plugin_main.py").write_text(
        PLUGIN.format(root=str(ROOT))
        + """
import importlib, runpy
program = importlib.import_module(sys.argv[1])
program.main(sys.argv[2:])
"""
    )

    def run(program, *words, code=0):
        import sys

        done = subprocess.run(
            [sys.executable, "plugin_main.py", program, *map(str, words)],
            cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == code, done.stderr[-2000:]
        return done.stdout + done.stderr

    out = run("train", *FLAGS, "--epochs", 4, "--max-steps", 5, "--run-name", "mine")
    assert "loss    square" in out and "best test accuracy" in out
    run("train", "--resume", "runs/mine", "--max-steps", 12)
    lines = run("sweep", "--loss", "ce", "square", "--seed", 0, "1", "--out", "grid", "--dry-run", "--", *FLAGS[:4],
                "--opt", "signs", "--bs", 20, "--epochs", 1).splitlines()  # fmt: skip
    commands = [line.split()[2:] for line in lines if line.startswith("python train.py")]
    assert len(commands) == 4
    for words in commands:
        run("train", *words)
    table = run("compare", "grid", "--out", "compared")
    assert "square" in table and "no interval: 2 seeds" in table
