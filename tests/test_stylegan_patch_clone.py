"""The GAN patch in real clones: STYLEGAN2_ADA_DIR, STYLEGAN3_DIR name them; without, these are skipped.

Every test works on a copy, which git checks out. The clones import requests, psutil and click.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def clone_of(variable, folder):
    """A fresh clone of the clone that an environment variable names, with the patch in it."""
    source = os.environ.get(variable)
    if not source:
        pytest.skip(f"{variable} names no clone")
    copy = folder / "a clone"
    subprocess.run(["git", "clone", "-q", source, copy], check=True)
    out = python(ROOT / "stylegan_patch/apply.py", copy)
    assert "keep" not in out and "note" not in out
    return copy


def python(*command, folder=None):
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("variable", ["STYLEGAN2_ADA_DIR", "STYLEGAN3_DIR"])
def test_every_program_of_the_fixed_clone_starts_with_its_loss(variable, tmp_path):
    copy = clone_of(variable, tmp_path)
    assert python("-c", "import training.loss", folder=copy) == "Adversarial loss: rlo, k = 2\n"
    for script in ("train", "dataset_tool", "calc_metrics", "generate", "gen_images"):
        if (copy / f"{script}.py").exists():
            assert "Usage" in python(copy / f"{script}.py", "--help")


@pytest.mark.slow
@pytest.mark.parametrize("style_mixing", [0, 0.9])
def test_every_gradient_of_every_phase_equals_the_clones_own(style_mixing, tmp_path):
    copy = clone_of("STYLEGAN2_ADA_DIR", tmp_path)
    out = python(ROOT / "tests/stylegan_patch_gradients.py", copy, "--style-mixing", style_mixing)
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert len(lines) == 3 * 2 * 6  # objectives × augmentation × phases
    assert all(line["gradients"] > 0 and line["different"] == [] for line in lines)


@pytest.mark.parametrize("variable", ["STYLEGAN2_ADA_DIR", "STYLEGAN3_DIR"])
def test_grid_sample_of_the_fixed_clone_has_the_second_derivative_r1_needs(variable, tmp_path):
    """∂/∂x of |∇_x Σ c · sample(x)²|², which is linear in x: compared with a finite difference."""
    code = """
import torch
from torch_utils.ops import grid_sample_gradfix
grid_sample_gradfix.enabled = True
assert grid_sample_gradfix._should_use_custom_op()
torch.manual_seed(0)
x = torch.randn(1, 2, 5, 5, dtype=torch.float64, requires_grad=True)
grid = torch.rand(1, 4, 4, 2, dtype=torch.float64) * 2 - 1
def penalty(x):
    out = grid_sample_gradfix.grid_sample(x, grid).square().sum()
    return torch.autograd.grad(out, x, create_graph=True)[0].square().sum()
found, = torch.autograd.grad(penalty(x), x)
step = torch.randn_like(x) * 1e-5
difference = (penalty(x + step) - penalty(x - step)) / 2
torch.testing.assert_close((found * step).sum(), difference.detach(), rtol=1e-6, atol=0)
"""
    python("-c", code, folder=clone_of(variable, tmp_path))
