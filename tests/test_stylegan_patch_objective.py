"""The adversarial objective of the GAN losses, and the settings that choose it."""

import importlib
import math
import os
import subprocess
import sys

import pytest
import torch
from stylegan_patch_stand_in import FILES, Bench, load_loss


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    monkeypatch.delenv("RLO_K", raising=False)
    monkeypatch.delenv("RLO_LS", raising=False)


@pytest.fixture(params=tuple(FILES))
def flavour(request):
    return request.param


@pytest.mark.parametrize("k", [1.0, 2.0, 3.7, 50.0])
def test_rlo_value_and_gradient_equal_the_closed_form_in_float64(monkeypatch, flavour, k):
    module, _ = load_loss(monkeypatch, flavour)
    module.kparam = k
    t = torch.linspace(-40, 40, 161, requires_grad=True)
    value = module.adversarial(t)
    (grad,) = torch.autograd.grad(value.sum(), t)
    exact = t.detach().double()
    base = 1 + torch.exp(-exact)
    torch.testing.assert_close(value.double(), k * base ** (1 / k), rtol=1e-5, atol=0)
    torch.testing.assert_close(grad.double(), -torch.exp(-exact) * base ** (1 / k - 1), rtol=2e-5, atol=1e-12)


def test_rlo_tends_to_k_plus_cross_entropy_and_keeps_the_published_constant(monkeypatch, flavour):
    module, _ = load_loss(monkeypatch, flavour)
    t = torch.linspace(-5, 5, 11, dtype=torch.float64)
    ce = torch.log1p(torch.exp(-t))
    module.kparam = 1e6
    torch.testing.assert_close(module.adversarial(t) - 1e6, ce, rtol=0, atol=2e-4)
    module.kparam = 2.0
    torch.testing.assert_close(module.adversarial(torch.tensor([40.0])), torch.tensor([2.0]))
    module.ls = "ce"
    torch.testing.assert_close(module.adversarial(t), ce)


def extremes(dtype):
    largest = torch.finfo(dtype).max
    steps = [
        x for x in (0.0, 1.0, 15.0, 88.0, 89.0, 119.9, 120.1, 1e3, 1e4, 6e4, 1e8, 1.1e8, 1e20) if x <= largest
    ]
    return torch.tensor([*steps, largest, *(-x for x in steps), -largest], dtype=dtype)


@pytest.mark.parametrize("k", [1.0, 2.0, 5.0, 1e6, 1e30])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_every_finite_logit_gives_a_finite_value_and_gradient(monkeypatch, flavour, dtype, k):
    module, _ = load_loss(monkeypatch, flavour)
    module.kparam = k
    t = extremes(dtype).requires_grad_()
    value = module.adversarial(t)
    assert value.dtype == (dtype if dtype in (torch.float32, torch.float64) else torch.float32)
    assert torch.isfinite(value).all()
    (grad,) = torch.autograd.grad(value.sum(), t)
    assert torch.isfinite(grad).all() and (grad <= 0).all()
    # The worst sample is still pushed, however far gone it is.
    assert grad[t.argmin()] < -0.9


def test_mean_over_a_batch_of_the_worst_logits_times_the_gain_is_finite(monkeypatch, flavour):
    module, _ = load_loss(monkeypatch, flavour)
    t = torch.full((4096, 1), -torch.finfo(torch.float32).max, requires_grad=True)
    loss = module.adversarial(t).mean().mul(16)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(t.grad).all() and (t.grad < 0).all()


@pytest.mark.parametrize("k", [1.0, 2.0, 5.0])
def test_continuation_is_c1_convex_and_increasing_in_the_mistake(monkeypatch, flavour, k):
    module, _ = load_loss(monkeypatch, flavour)
    module.kparam = k
    s = torch.linspace(0, 120 * k, 4801, dtype=torch.float64, requires_grad=True)
    value = module.rooted(s, k)
    (slope,) = torch.autograd.grad(value.sum(), s)
    assert (value.diff() > 0).all() and (slope.diff() >= -1e-14 * slope[1:]).all()
    join = 60 * k
    near = torch.tensor([join - 1e-6, join, join + 1e-6], dtype=torch.float64, requires_grad=True)
    value = module.rooted(near, k)
    (slope,) = torch.autograd.grad(value.sum(), near)
    torch.testing.assert_close(value, k * torch.exp(near / k).detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(slope, torch.full_like(slope, math.exp(60)), rtol=2e-6, atol=0)


def test_second_derivative_is_right_too(monkeypatch, flavour):
    module, _ = load_loss(monkeypatch, flavour)
    t = torch.linspace(-6, 6, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(module.adversarial, t)


# ---- the settings ----


def import_in_a_fresh_process(flavour, **environment):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import stylegan_patch_stand_in as s;"
        "sys.modules.update(s.stand_ins()[0]); import importlib.util as u;"
        "spec = u.spec_from_file_location('loss', sys.argv[2]); m = u.module_from_spec(spec);"
        "spec.loader.exec_module(m); print(m.ls, m.kparam)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, os.path.dirname(__file__), str(FILES[flavour])],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_defaults_are_rlo_with_k_2_and_the_environment_overrides_them(monkeypatch, flavour):
    module, _ = load_loss(monkeypatch, flavour)
    assert (module.ls, module.kparam) == ("rlo", 2)
    monkeypatch.setenv("RLO_K", "5.5")
    monkeypatch.setenv("RLO_LS", "ce")
    module, _ = load_loss(monkeypatch, flavour)
    assert (module.ls, module.kparam) == ("ce", 5.5)


@pytest.mark.parametrize("k", ["0.5", "0", "-2", "nan", "inf", "two", "", "1e31"])
def test_a_wrong_k_is_an_error_at_import_that_says_what_is_allowed(monkeypatch, flavour, k):
    monkeypatch.setenv("RLO_K", k)
    with pytest.raises(ValueError, match=rf"RLO_K must be a real number from 1 to 1e30, got '{k}'"):
        load_loss(monkeypatch, flavour)


@pytest.mark.parametrize("ls", ["root", "RLO", "", "focal"])
def test_a_wrong_ls_is_an_error_at_import_that_says_what_is_allowed(monkeypatch, flavour, ls):
    monkeypatch.setenv("RLO_LS", ls)
    with pytest.raises(ValueError, match=rf"RLO_LS must be 'rlo' .* or 'ce' .*, got '{ls}'"):
        load_loss(monkeypatch, flavour)


def test_the_last_line_a_user_sees_of_a_wrong_setting_names_it():
    done = import_in_a_fresh_process("stylegan2", RLO_K="0")
    assert done.returncode != 0
    assert (
        done.stderr.strip().splitlines()[-1].endswith("RLO_K must be a real number from 1 to 1e30, got '0'")
    )


def test_a_setting_changed_after_import_is_checked_when_the_loss_is_made(monkeypatch, flavour):
    module, _ = load_loss(monkeypatch, flavour)
    module.kparam = 0.5
    with pytest.raises(ValueError, match="kparam must be a real number"):
        Bench(module, flavour)


def test_the_log_says_which_objective_runs(monkeypatch, flavour, capsys):
    module, _ = load_loss(monkeypatch, flavour)
    Bench(module, flavour)
    assert capsys.readouterr().out == "Adversarial loss: rlo, k = 2\n"
    module.ls = "ce"
    Bench(module, flavour)
    assert capsys.readouterr().out == "Adversarial loss: ce\n"


def test_share_writes_the_shared_lines_of_loss_py_into_the_other_file_and_has_been_run(monkeypatch):
    monkeypatch.syspath_prepend(str(FILES["stylegan2"].parent))
    share = importlib.import_module("share")
    source, target = (path.read_text(encoding="utf-8") for path in FILES.values())
    assert share.shared_written(source, target) == target, "run python stylegan_patch/share.py"
    assert len(share.split(source)[1]) > 4000 and "def adversarial(" in share.split(source)[1]
    changed = share.shared_written(source.replace("kparam = 2 ", "kparam = 3 "), target)
    assert changed == target.replace("kparam = 2 ", "kparam = 3 ") != target


def test_loss_files_import_nothing_of_this_project():
    for path in FILES.values():
        imports = [
            s for s in path.read_text(encoding="utf-8").splitlines() if s.startswith(("import", "from"))
        ]
        assert {line.split()[1].split(".")[0] for line in imports} == {"math", "os", "torch", "torch_utils"}
