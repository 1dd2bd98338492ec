"""One file, one line: a loss, a net and a data set that nobody knows, from training to comparison."""

import subprocess
import sys

import pytest
from conftest import ROOT, environment

# What CONTRIBUTING.md asks for: first the files of a newcomer, then the lines that make them known.
PLUGIN = """
import sys
sys.path.insert(0, sys.argv[1])

# losses/square.py
from losses.base import ClassLoss, class_loss

class SquareLoss(ClassLoss):  # the square of cross entropy
    def forward(self, logits, target):
        return class_loss(lambda ell: ell.clamp(max=1e6) ** 2, logits, target, **self.options())

# models/probe.py
from torch import nn
from models.registry import CNN, register

@register("probe", facts=CNN)
def build_probe(spec):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * spec.image_size**2, spec.num_classes))

# data/sources/stripes.py
import numpy as np
from data.source import Source, Split

def load(name, root, options):
    g = np.random.default_rng(0)
    def split(n):
        labels = np.arange(n) % 3
        images = g.integers(0, 80, (n, 3, 8, 8)) + 100 * (np.arange(3) == labels[:, None])[..., None, None]
        return Split(labels.astype(np.int64), images=images.astype(np.uint8))
    return Source(split(60), split(30), ["r", "g", "b"], common_size=8)

# The lines: losses/__init__.py, flags.py, data/registry.py.
import flags, losses
from data.registry import DATASETS, Dataset
losses.LOSSES["square"] = SquareLoss
flags.LOSS_PARAMETERS["square"] = {}
DATASETS["stripes"] = Dataset("stripes", 8)
sys.modules["data.sources.stripes"] = sys.modules["__main__"]

import importlib, shlex
for line in sys.stdin:  # all programs in one process, which has imported torch once
    program, *words = shlex.split(line)
    importlib.import_module(program).main(words)
"""
FLAGS = "--dataset stripes --net probe --bs 20"


@pytest.mark.slow
def test_a_loss_a_net_and_a_data_set_of_ones_own_go_all_the_way(tmp_path):
    (tmp_path / "programs.py").write_text(PLUGIN)
    runs = [(loss, seed) for loss in ("ce", "square") for seed in (0, 1)]
    lines = [
        f"train {FLAGS} --loss square --epochs 4 --max-steps 5 --run-name mine",
        "train --resume runs/mine --max-steps 12",
        *(f"train {FLAGS} --epochs 1 --out grid --loss {loss} --seed {seed}" for loss, seed in runs),
        "compare grid --out compared",
        f"sweep --loss ce square --seed 0 1 --out swept --dry-run -- {FLAGS}",
    ]
    done = subprocess.run(
        [sys.executable, "programs.py", str(ROOT)], input="\n".join(lines), cwd=tmp_path, env=environment(),
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "loss    square" in done.stdout and "step 5 of 12" in done.stdout
    assert done.stdout.count("best test accuracy") == 6
    assert sum("train.py" in line and "--loss square" in line for line in done.stdout.splitlines()) == 2
    assert "| square" in (tmp_path / "compared" / "table.md").read_text()
