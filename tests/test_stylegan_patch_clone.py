"""The GAN patch in real clones: STYLEGAN2_ADA_DIR, STYLEGAN3_DIR name them; without, these are skipped.

Every test works on a copy. The clones import requests, psutil, click and imageio.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLAVOURS = {"STYLEGAN2_ADA_DIR": "loss.py", "STYLEGAN3_DIR": "stylegan3_loss.py"}


@pytest.fixture(params=FLAVOURS)
def clone(request, tmp_path):
    """A copy of the clone, at a path with a space, and the name of our loss for it."""
    source = os.environ.get(request.param)
    if not source:
        pytest.skip(f"{request.param} names no clone")
    copy = tmp_path / "a clone"
    shutil.copytree(source, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return copy, FLAVOURS[request.param]


def python(*command, **environment):
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def apply(copy, *flags):
    return python(ROOT / "stylegan_patch/apply.py", copy, *flags)


def contents(folder):
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and ".git" not in p.parts)
    return {p: (p.read_bytes(), p.stat().st_mode) for p in files}


def git_status(copy):
    return subprocess.run(
        ["git", "-C", str(copy), "status", "--short"], capture_output=True, text=True, check=True
    ).stdout


def test_apply_twice_and_revert_leave_the_clone_as_it_was(clone):
    copy, _ = clone
    before = contents(copy)
    first = apply(copy)
    assert "keep" not in first and "note" not in first
    installed = contents(copy)
    assert "nothing changed" in apply(copy) and contents(copy) == installed
    apply(copy, "--revert")
    assert contents(copy) == before
    if (copy / ".git").exists():
        assert git_status(copy) == ""


def test_every_program_of_the_fixed_clone_starts(clone):
    copy, _ = clone
    apply(copy)
    scripts = ("train", "dataset_tool", "calc_metrics", "generate", "projector", "style_mixing", "gen_images")
    for script in scripts:
        if (copy / f"{script}.py").exists():
            assert "Usage" in python(copy / f"{script}.py", "--help")


@pytest.mark.slow
@pytest.mark.parametrize("style_mixing", [0, 0.9])
def test_every_gradient_of_every_phase_equals_the_clones_own(clone, style_mixing):
    """ce: the untouched loss. rlo, k = 2 and 5: the same with its softplus calls replaced."""
    copy, ours = clone
    apply(copy)
    out = python(
        ROOT / "tests/stylegan_patch_gradients.py",
        copy,
        ROOT / "stylegan_patch" / ours,
        "--style-mixing",
        style_mixing,
    )
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert len(lines) == 3 * 2 * 6 + 1  # objectives × augmentation × phases, and the sum
    assert all(line["gradients"] > 0 for line in lines[:-1])
    assert lines[-1]["largest relative error"] <= 1e-5


def test_grid_sample_of_the_fixed_clone_has_the_second_derivative_r1_needs(clone):
    """∂/∂x of |∇_x Σ c · sample(x)²|², which is linear in x: compared with a finite difference."""
    copy, _ = clone
    apply(copy)
    code = """
import sys; sys.path.insert(0, sys.argv[1])
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
    python("-c", code, copy)
