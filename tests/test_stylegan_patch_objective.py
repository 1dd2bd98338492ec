"""The rooted softplus of both loss files, and the settings that choose it."""

import math
import os
import subprocess
import sys

import pytest
import torch
from stylegan_patch_stand_in import PATCH, load

FILES = ("loss.py", "rooted.py")


@pytest.fixture(params=FILES)
def softplus(request, monkeypatch):
    """A function that makes the file's softplus for a k and an `ls`."""
    return lambda k=2, ls="rlo": load(monkeypatch, PATCH / request.param, RLO_K=str(k), RLO_LS=ls)[0].softplus


@pytest.mark.parametrize("k", [1.0, 2.0, 3.7, 50.0])
def test_value_and_gradient_equal_the_closed_form_in_float64(softplus, k):
    x = torch.linspace(-90, 90, 361, requires_grad=True)
    value = softplus(k)(x)
    (grad,) = torch.autograd.grad(value.sum(), x)
    exact = x.detach().double()
    near = exact / k < 60  # beyond, the tangent takes over
    base = 1 + exact.exp()
    expected, slope = k * base ** (1 / k), exact.exp() * base ** (1 / k - 1)
    torch.testing.assert_close(value.double()[near], expected[near], rtol=2e-5, atol=0)
    torch.testing.assert_close(grad.double()[near], slope[near], rtol=2e-5, atol=1e-12)


def test_it_tends_to_k_plus_cross_entropy_and_keeps_the_published_constant(softplus):
    x = torch.linspace(-5, 5, 11, dtype=torch.float64)
    torch.testing.assert_close(softplus(1e6)(x) - 1e6, torch.log1p(x.exp()), rtol=0, atol=2e-4)
    torch.testing.assert_close(softplus(2)(torch.tensor([-40.0])), torch.tensor([2.0]))


def test_ce_is_torchs_softplus_bit_for_bit_in_every_precision(softplus):
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        x = torch.linspace(-90, 90, 361, dtype=dtype)
        found, expected = softplus(ls="ce")(x), torch.nn.functional.softplus(x)
        assert found.dtype == dtype and torch.equal(found, expected)


@pytest.mark.parametrize("k", [1.0, 2.0, 1e6, 1e30])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_every_finite_score_gives_a_finite_value_and_gradient(softplus, dtype, k):
    largest = torch.finfo(dtype).max
    steps = [x for x in (0, 1, 15, 88, 89, 119.9, 120.1, 1e3, 6e4, 1e8, 1.1e8, 1e20) if x <= largest]
    x = torch.tensor([-largest, *(-x for x in steps), *steps, largest], dtype=dtype, requires_grad=True)
    value = softplus(k)(x)
    assert value.dtype == (dtype if dtype in (torch.float32, torch.float64) else torch.float32)
    assert torch.isfinite(value).all()
    (grad,) = torch.autograd.grad(value.sum(), x)
    assert torch.isfinite(grad).all() and (grad >= 0).all()
    assert grad[-1] > 0.9  # the worst sample is still pushed, however far gone it is


def test_mean_over_a_batch_of_the_worst_scores_times_the_gain_is_finite(softplus):
    x = torch.full((4096, 1), torch.finfo(torch.float32).max, requires_grad=True)
    loss = softplus(1)(x).mean().mul(16)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(x.grad).all() and (x.grad > 0).all()


@pytest.mark.parametrize(
    ("dtype", "tangent"), [(torch.float64, 60), (torch.float32, 60), (torch.float16, 10)]
)
@pytest.mark.parametrize("k", [1.0, 2.0])
def test_at_the_join_the_slope_is_the_exponentials_and_stays_there(softplus, k, dtype, tangent):
    """Softplus(x) is x itself there, so the slope in x is e^(x/k), and e^tangent beyond."""
    step = 2.0**-4
    join = tangent * k
    x = torch.tensor([join - step, join, join + step, 2 * join], dtype=dtype, requires_grad=True)
    value = softplus(k)(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    exact = torch.tensor([math.exp(tangent - step / k)] + [math.exp(tangent)] * 3, dtype=torch.float64)
    tolerance = 2e-3 if dtype == torch.float16 else 1e-5
    torch.testing.assert_close(slope.double(), exact, rtol=tolerance, atol=0)
    line = k * math.exp(tangent) * (1 + (x.detach().double()[1:] / k - tangent))
    torch.testing.assert_close(value.double()[1:], line, rtol=1e-4, atol=0)


def test_it_is_convex_and_increasing_everywhere(softplus):
    x = torch.linspace(-200, 400, 4801, dtype=torch.float64, requires_grad=True)
    value = softplus(2)(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert (value.diff() >= 0).all() and (slope.diff() >= -1e-14 * slope[1:]).all()


def test_second_derivative_is_right_too(softplus):
    x = torch.linspace(-6, 6, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(softplus(2), x)


def test_both_files_hold_the_same_lines_since_each_works_alone():
    shared = [(PATCH / name).read_text(encoding="utf-8").split("# ----")[1] for name in FILES]
    assert shared[0] == shared[1] and "def softplus(x):" in shared[0]


def test_loss_files_import_nothing_of_this_project():
    for name in FILES:
        lines = (PATCH / name).read_text(encoding="utf-8").splitlines()
        imported = {s.split()[1].split(".")[0] for s in lines if s.startswith(("import ", "from "))}
        assert imported <= {"math", "os", "torch", "torch_utils"}


# ---- the settings ----


@pytest.mark.parametrize("name", FILES)
def test_the_log_says_which_objective_runs_and_the_environment_overrides_the_file(monkeypatch, name, capsys):
    module, _ = load(monkeypatch, PATCH / name)
    assert (module.ls, module.kparam) == ("rlo", 2)
    assert capsys.readouterr().out == "Adversarial loss: rlo, k = 2\n"
    module, _ = load(monkeypatch, PATCH / name, RLO_K="5.5", RLO_LS="ce")
    assert (module.ls, module.kparam) == ("ce", 5.5)
    assert capsys.readouterr().out == "Adversarial loss: ce\n"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("k", ["0.5", "0", "-2", "nan", "inf", "two", "", "1e31"])
def test_a_wrong_k_ends_the_program_in_a_line_that_says_what_is_allowed(monkeypatch, name, k):
    with pytest.raises(SystemExit, match=rf"^kparam \(RLO_K\) must be a number from 1 to 1e30, not '{k}'$"):
        load(monkeypatch, PATCH / name, RLO_K=k)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("ls", ["root", "RLO", ""])
def test_a_wrong_ls_ends_the_program_in_a_line_that_says_what_is_allowed(monkeypatch, name, ls):
    with pytest.raises(SystemExit, match=rf"^ls \(RLO_LS\) must be 'rlo' .* or 'ce' .*, not '{ls}'$"):
        load(monkeypatch, PATCH / name, RLO_LS=ls)


def test_an_edited_file_is_checked_too(monkeypatch, tmp_path):
    text = (PATCH / "rooted.py").read_text(encoding="utf-8").replace("kparam = 2 ", "kparam = 0.5 ")
    (tmp_path / "rooted.py").write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match=r"from 1 to 1e30, not 0\.5"):
        load(monkeypatch, tmp_path / "rooted.py")


def test_a_user_of_a_wrong_setting_sees_one_line():
    done = subprocess.run(
        [sys.executable, str(PATCH / "rooted.py")],
        env={**os.environ, "RLO_K": "0"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0 and done.stdout == ""
    assert done.stderr == "kparam (RLO_K) must be a number from 1 to 1e30, not '0'\n"
