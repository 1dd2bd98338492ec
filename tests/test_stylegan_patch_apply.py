"""apply.py on miniature clones: folders with nothing but the lines that it looks for, written for this test."""

import contextlib
import importlib
import os
import subprocess
import sys
from types import SimpleNamespace

import conftest
import numpy as np
import pytest
import scipy.linalg
import torch
from stylegan_patch_stand_in import PATCH

MINIATURE = {
    "training/__init__.py": "",
    "training/loss.py": "import numpy as np\nimport torch\n\n\nclass StyleGAN2Loss:\n    pl_batch_shrink = 2\n\n"
    "    def of_G(self, scores):\n        return torch.nn.functional.softplus(-scores)  # fakes\n\n"
    "    def of_D(self, real, fake):\n"
    "        return torch.nn.functional.softplus(-real) + torch.nn.functional.softplus(fake)\n\n"
    "    def measured(self, gen_z):\n        batch_size = gen_z.shape[0] // self.pl_batch_shrink\n"
    "        return gen_z[:batch_size]\n",
    "torch_utils/misc.py": "class InfiniteSampler(torch.utils.data.Sampler):\n"
    "    def __init__(self, dataset):\n        super().__init__(dataset)\n        self.dataset = dataset\n",
    "torch_utils/custom_ops.py": "import importlib\ndef get(module_name, again):\n    if again:\n"
    "        torch.utils.cpp_extension.load(name=module_name)\n    else:\n"
    "        torch.utils.cpp_extension.load(name=module_name)\n"
    "    module = importlib.import_module(module_name)\n    return module\n",
    "torch_utils/ops/conv2d_gradfix.py": "from pkg_resources import parse_version\n"
    "supported = ['1.7.', '1.8.', '1.9']\n",  # this stays
    "torch_utils/ops/grid_sample_gradfix.py": "def use():\n"
    "    return any(torch.__version__.startswith(x) for x in ['1.7.', '1.8.', '1.9'])\n"
    "class Back(torch.autograd.Function):\n    @staticmethod\n"
    "    def forward(ctx, grad_output, input, grid):\n"
    "        op = torch._C._jit_get_operation('aten::grid_sampler_2d_backward')\n"
    "        return op(grad_output, input, grid, 0, 0, False)\n",
    "dnnlib/util.py": "from distutils.util import strtobool\n"
    "def get_module(module_name):\n    module = importlib.import_module(module_name)\n    return module\n",
    "metrics/frechet_inception_distance.py": "def root(a):\n"
    "    s, _ = scipy.linalg.sqrtm(np.dot(a, a), disp=False) # a comment\n    return s\n",
    "metrics/perceptual_path_length.py": "def ends(d):\n    lo = np.percentile(d, 1, interpolation='lower')\n"
    "    hi = np.percentile(d, 99, interpolation='higher')\n    return lo, hi\n",
    "train.py": "args.G = dict(betas=[0,0.99])\nargs.D = dict(betas=[0,0.99])\n",
    "README.md": "from pkg_resources import parse_version\n",  # no program of the clone
}


def build(root):
    """A miniature clone; its folder."""
    for name, text in MINIATURE.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "training/loss.py").chmod(0o755)
    return root


@pytest.fixture
def clone(tmp_path):
    return build(tmp_path / "a clone")


def contents(root):
    """path → (bytes, permissions) of every file and folder, git's own left out."""
    paths = [p for p in sorted(root.rglob("*")) if ".git" not in p.parts]
    return {str(p.relative_to(root)): (p.is_file() and p.read_bytes(), p.stat().st_mode) for p in paths}


def apply(*words):
    """What a run that succeeds prints."""
    code, out, err = conftest.call("stylegan_patch/apply.py", words)
    assert (code, err) == (0, "")
    return out


def refused(*words):
    """The one line of a run that ends with exit code 2 and changes nothing."""
    root = words[0]
    before = contents(root) if os.path.isdir(root) else None
    code, out, err = conftest.call("stylegan_patch/apply.py", words)
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith("apply.py: error: ")
    assert before is None or contents(root) == before
    return err


def commit(root):
    for words in ("init -q", "add -A", "-c user.name=a -c user.email=a@b.c commit -q -m clone"):
        subprocess.run(["git", "-C", root, *words.split()], check=True, capture_output=True)


def namespace(path, **names):
    """What a file of a clone defines."""
    names.setdefault("torch", torch)
    exec(compile(path.read_bytes(), str(path), "exec"), names)
    return names


@contextlib.contextmanager
def training_of(clone):
    """`training.loss` and `training.rooted` of a clone, imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(clone))
        for name in ("training", "training.loss", "training.rooted"):
            patch.delitem(sys.modules, name, raising=False)
        for name in ("RLO_K", "RLO_LS"):
            patch.delenv(name, raising=False)
        loss = importlib.import_module("training.loss")
        yield loss, importlib.import_module("training.rooted")
    for name in ("training", "training.loss", "training.rooted"):
        sys.modules.pop(name, None)


def test_the_clones_own_loss_calls_the_rooted_softplus_beside_it(clone):
    assert "Files changed: 10." in apply(clone)
    assert (clone / "training/rooted.py").read_bytes() == (PATCH / "rooted.py").read_bytes()
    assert "nn.functional.softplus" not in (clone / "training/loss.py").read_text()
    assert (clone / "training/loss.py").stat().st_mode & 0o777 == 0o755
    assert (clone / "README.md").read_text() == MINIATURE["README.md"]
    with training_of(clone) as (loss, rooted):
        scores = torch.linspace(-90, 90, 181, requires_grad=True)
        of_G = loss.StyleGAN2Loss().of_G(scores)
        of_D = loss.StyleGAN2Loss().of_D(-scores, scores)
        exact = scores.detach().double()
        torch.testing.assert_close(of_G.double(), 2 * (1 + (-exact).exp()).sqrt(), rtol=1e-5, atol=0)
        assert torch.equal(of_D, 2 * rooted.softplus(scores))
        (grad,) = torch.autograd.grad(of_G.sum(), scores)
        slope = -(-exact).exp() / (1 + (-exact).exp()).sqrt()
        torch.testing.assert_close(grad.double(), slope, rtol=1e-5, atol=1e-12)
        rooted.ls = "ce"
        assert torch.equal(loss.StyleGAN2Loss().of_G(scores), torch.nn.functional.softplus(-scores))


def test_the_path_length_of_a_clone_is_measured_on_one_image_at_least(clone):
    apply(clone)
    with training_of(clone) as (loss, _):
        assert [len(loss.StyleGAN2Loss().measured(torch.zeros(n, 2))) for n in (1, 2, 3, 4)] == [1, 1, 1, 2]


def test_fixed_files_do_what_they_are_for(clone):
    apply(clone)
    sampler = namespace(clone / "torch_utils/misc.py")["InfiniteSampler"]([1, 2])
    assert sampler.dataset == [1, 2]
    strtobool = namespace(clone / "dnnlib/util.py")["strtobool"]
    assert [strtobool(s) for s in ("y", "yes", "1", "on", "n", "no", "0", "off")] == [1] * 4 + [0] * 4
    with pytest.raises(ValueError):
        strtobool("perhaps")
    ends = namespace(clone / "metrics/perceptual_path_length.py", np=np)["ends"]
    assert ends(np.arange(101.0)) == (1, 99)
    root = namespace(clone / "metrics/frechet_inception_distance.py", np=np, scipy=scipy)["root"]
    np.testing.assert_allclose(root(np.diag([4.0, 9.0])), np.diag([4.0, 9.0]))
    args = SimpleNamespace()
    namespace(clone / "train.py", args=args)
    for options in (args.G, args.D):
        torch.optim.Adam([torch.zeros(1, requires_grad=True)], **options)
    loader = SimpleNamespace(load=lambda name: [name])  # what load returns is what get() must hand on
    fake_torch = SimpleNamespace(utils=SimpleNamespace(cpp_extension=loader))
    get = namespace(clone / "torch_utils/custom_ops.py", torch=fake_torch)["get"]
    assert get("no_module_of_this_name", again=True) == ["no_module_of_this_name"]
    conv2d = namespace(clone / "torch_utils/ops/conv2d_gradfix.py")
    parse = conv2d["parse_version"]
    assert parse(torch.__version__) >= parse("1.12.0a") and not parse("1.10.2") >= parse("1.11.0a")
    assert conv2d["supported"] == ["1.7.", "1.8.", "1.9"]


def test_fixed_grid_sample_gives_the_gradients_of_torch(clone):
    apply(clone)
    names = namespace(clone / "torch_utils/ops/grid_sample_gradfix.py")
    assert names["use"]()
    torch.manual_seed(0)
    image, grid = torch.randn(2, 3, 5, 5, requires_grad=True), torch.rand(2, 4, 4, 2) * 2 - 1
    out = torch.nn.functional.grid_sample(image, grid, align_corners=False)
    weight = torch.randn_like(out)
    (expected,) = torch.autograd.grad((out * weight).sum(), image)
    torch.testing.assert_close(names["Back"].apply(weight, image, grid)[0], expected)


def test_twice_is_once_and_a_dry_run_changes_nothing(clone):
    before = contents(clone)
    promised = apply(clone, "--dry-run")
    assert contents(clone) == before
    assert apply(clone).startswith(promised) and promised.count("\nfix ") == 9
    changed = contents(clone)
    out = apply(clone)
    assert contents(clone) == changed
    assert "Nothing to change" in out and "note" not in out and "Undo" not in out


def test_the_undo_that_it_names_is_gits_and_brings_every_byte_back(clone):
    commit(clone)
    before = contents(clone)
    out = apply(clone)
    assert "note" not in out and contents(clone) != before
    command = out.strip().splitlines()[-1].removeprefix("Undo: ")
    subprocess.run(command, shell=True, check=True, capture_output=True)
    assert contents(clone) == before


def test_without_git_that_is_said_first(clone):
    out = apply(clone, "--dry-run")
    assert out.startswith(f"note  git does not know {clone}, so nothing undoes this: keep a copy")
    assert "Undo" not in apply(clone)


def test_uncommitted_changes_are_said_first(clone):
    commit(clone)
    with open(clone / "train.py", "a") as file:
        file.write("mine = 1\n")
    out = apply(clone, "--dry-run")
    assert out.startswith("note  uncommitted changes in train.py: commit them, ")
    apply(clone)
    assert (clone / "train.py").read_text().endswith("mine = 1\n")


def test_settings_edited_in_the_clone_survive_a_second_run(clone):
    apply(clone)
    rooted = clone / "training/rooted.py"
    edited = rooted.read_bytes().replace(b"kparam = 2 ", b"kparam = 5 ")
    rooted.write_bytes(edited)
    assert "keep  training/rooted.py: it differs from ours" in apply(clone)
    assert rooted.read_bytes() == edited


def test_our_loss_copied_by_hand_stays_and_the_clone_is_fixed(clone):
    (clone / "training/loss.py").write_bytes((PATCH / "loss.py").read_bytes())
    assert "keep  training/loss.py: it is our own loss, copied by hand" in apply(clone)
    assert (clone / "training/loss.py").read_bytes() == (PATCH / "loss.py").read_bytes()
    assert not (clone / "training/rooted.py").exists()
    assert "super().__init__()" in (clone / "torch_utils/misc.py").read_text()


@pytest.mark.parametrize("call", ["F.softplus", "nn.functional.softplus"])
def test_other_ways_to_write_the_call_are_found(clone, call):
    loss = clone / "training/loss.py"
    torch_as = "import torch.nn.functional as F" if call[0] == "F" else "from torch import nn"
    text = loss.read_text().replace("torch.nn.functional.softplus", call).replace("import torch", torch_as)
    loss.write_text('"""Losses.\n\nfrom many papers"""\nfrom __future__ import annotations\n' + text)
    apply(clone)
    with training_of(clone) as (module, _):
        value = module.StyleGAN2Loss().of_G(torch.zeros(1))
        torch.testing.assert_close(value, torch.tensor([2 * 2**0.5]))


def test_line_ends_and_other_bytes_stay_and_a_byte_order_mark_does_no_harm(clone):
    for name in ("training/loss.py", "torch_utils/misc.py"):
        path = clone / name
        data = path.read_bytes() + b"# \xff \xc3\xa9\n"
        path.write_bytes(b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n"))
    apply(clone)
    for name in ("training/loss.py", "torch_utils/misc.py"):
        data = (clone / name).read_bytes()
        assert data.endswith(b"# \xff \xc3\xa9\r\n") and data.count(b"\r\n") == data.count(b"\n")
        assert b"super().__init__()\r\n" in data or b"from training import rooted\r\n" in data


def test_a_fix_that_fits_in_part_is_not_made(clone):
    path = clone / "torch_utils/custom_ops.py"
    text = path.read_text().replace("torch.utils.cpp_extension.load", "load")
    path.write_text(text)
    assert "custom_ops" not in apply(clone) and path.read_text() == text


def test_what_is_no_logistic_loss_or_no_clone_is_refused_untouched(clone, tmp_path):
    loss = clone / "training/loss.py"
    hinge = loss.read_text().replace("torch.nn.functional.softplus", "torch.relu")
    loss.write_text(hinge)
    said = refused(clone)
    assert "training/loss.py does not call torch.nn.functional.softplus" in said and "left as it is" in said
    loss.unlink()
    assert "has no training/loss.py; give the folder of your clone" in refused(clone)
    assert "nowhere is not a folder; give the folder of your clone" in refused(tmp_path / "nowhere")
    assert "'' is not a folder" in refused("")


def test_links_out_of_the_clone_are_refused(clone, tmp_path):
    loss = clone / "training/loss.py"
    loss.rename(tmp_path / "elsewhere.py")
    loss.symlink_to(tmp_path / "elsewhere.py")
    assert "training/loss.py is a symbolic link; give the folder where the file itself is" in refused(clone)


def test_the_program_runs_alone_and_explains_itself(tmp_path):
    command = [sys.executable, "-I", str(PATCH / "apply.py")]
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert shown.returncode == 0 and "CLONE" in shown.stdout and "--dry-run" in shown.stdout
    wrong = subprocess.run(
        [*command, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (2, "", 1)
