"""apply.py in forks: what a fork's loop passes and our loss does not take is refused by name."""

import pytest
from stylegan_patch_clones import PATCH, assert_refused, build, contents, load_apply

LOOP, TRAIN, LOSS = "training/training_loop.py", "train.py", "training/loss.py"
MISC = "torch_utils/misc.py"
ADA, SG3 = "stylegan2-ada-pytorch", "stylegan3"
# The fork's kind; {file: (text of the published clone, text of the fork)}; what the refusal must name.
REFUSED = {
    "a network more for the constructor, from the loop's list": (
        ADA,
        {LOOP: ("[('G_mapping'", "[('G', G), ('G_mapping'")},
        ["the loss is constructed with G, which stylegan_patch/loss.py does not take"],
    ),
    "a network more for the constructor, as a keyword": (
        SG3,
        {LOOP: ("D=D, augment_pipe", "D=D, G_ema=G_ema, augment_pipe")},
        ["constructed with G_ema, which stylegan_patch/stylegan3_loss.py"],
    ),
    "options in every way that train.py can set them": (
        ADA,
        {
            TRAIN: (
                "args.loss_kwargs.pl_weight = 0",
                "args.loss_kwargs.top_k = True\n"
                "args.loss_kwargs['aux'] = 1\n"
                "args.loss_kwargs.update(extra=2, **dict(more=3))\n"
                "args.loss_kwargs.setdefault('late', 4)\n"
                "args.loss_kwargs |= {'joined': 5}\n"
                "for key, value in [('looped', 6)]:\n    args.loss_kwargs[key] = value\n",
            )
        },
        ["constructed with aux, extra, joined, late, looped, more and top_k, which"],
    ),
    "options that the call of the loop hands over": (
        SG3,
        {TRAIN: ("args.loss_kwargs.pl_weight = 0", "training_loop(loss_kwargs=dict(lam=1))")},
        ["constructed with lam, which"],
    ),
    "a network less for the constructor": (
        ADA,
        {LOOP: ("('G_synthesis', G.synthesis), ", "")},
        ["the loss is constructed without G_synthesis, which stylegan_patch/loss.py needs"],
    ),
    "networks from where nothing can be read, and a loss that takes more": (
        ADA,
        {
            LOOP: ("ddp_modules = dict()", "ddp_modules = wrap(G, D)"),
            LOSS: ("D, augment_pipe", "D, E=None, augment_pipe"),
        },
        ["`**wrap(G, D)`, perhaps E, which stylegan_patch/loss.py does not take"],
    ),
    "networks from where nothing can be read, and a loss that takes anything": (
        SG3,
        {TRAIN: ("dnnlib.EasyDict(class_name", "read_yaml(class_name"), LOSS: ("pl_weight=0", "**options")},
        ["its sources do not show what that holds"],
    ),
    "an argument more for every step": (
        ADA,
        {LOOP: ("sync=sync, gain=gain", "sync=sync, gain=gain, epoch=epoch")},
        ["accumulate_gradients is called with epoch, which stylegan_patch/loss.py does not take"],
    ),
    "an argument more for every step, by position": (
        ADA,
        {
            LOOP: (
                "phase=phase.name, real_img=x, real_c=c, gen_z=z, gen_c=d, sync=sync, gain=gain",
                "phase.name, x, c, z, d, sync, gain, mask",
            )
        },
        ["called with 8 arguments by position, stylegan_patch/loss.py takes 7"],
    ),
    "StyleGAN2's nets in StyleGAN3's loop": (
        ADA,
        {LOOP: ("sync=sync, gain=gain", "gain=gain, cur_nimg=cur_nimg")},
        ["called with cur_nimg", "called without sync"],
    ),
    "another method": (
        SG3,
        {LOOP: ("loss.accumulate_gradients(", "loss.backward_phase(")},
        ["its loop never calls accumulate_gradients", "uses backward_phase of the loss"],
    ),
    "a second method": (
        SG3,
        {LOOP: ("    for phase in phases", "    loss.set_kimg(0)\n    for phase in phases")},
        ["its loop uses set_kimg of the loss, which"],
    ),
    "a loss that is a module": (
        SG3,
        {LOOP: ("**loss_kwargs)\n", "**loss_kwargs).to(device)\n")},
        ["uses to of the loss, which"],
    ),
    "no construction that can be found": (
        SG3,
        {
            LOOP: (
                "construct_class_by_name(device=device, G=G, D=D, augment_pipe=augment_pipe, **loss_kwargs)",
                "build_loss(G, D)",
            )
        },
        ["its loop has no `loss = construct_class_by_name(…, **loss_kwargs)`"],
    ),
    "another class of training/loss.py": (
        SG3,
        {TRAIN: ("'training.loss.StyleGAN2Loss'", "'training.loss.ProjectedGANLoss'")},
        ["its train.py asks training/loss.py for ProjectedGANLoss, which"],
    ),
    "a choice of classes": (
        SG3,
        {
            TRAIN: ("'training.loss.StyleGAN2Loss'", "'training.loss.' + opts.loss"),
            LOSS: ("class Loss:", "class W:"),
        },
        ["it may train with W of training/loss.py, which stylegan_patch/stylegan3_loss.py does not have"],
    ),
    "a loss in another file": (
        ADA,
        {TRAIN: ("'training.loss.StyleGAN2Loss'", "'training.my_loss.Hinge'")},
        ["it trains with training.my_loss.Hinge, not with a class of training/loss.py"],
    ),
    "a phase more": (
        ADA,
        {LOOP: ("('D', D, b, 16)]", "('D', D, b, 16), ('E', E, c, 1)]")},
        ["phases called Emain and Ereg, which stylegan_patch/loss.py does not know"],
    ),
    "a helper that is gone": (
        ADA,
        {MISC: ("def ddp_sync", "def ddp_synchronise")},
        ["stylegan_patch/loss.py needs what its torch_utils lacks (torch_utils/misc.py: ddp_sync)"],
    ),
    "a loop that is no Python 3": (
        ADA,
        {LOOP: ("def training_loop", "print 'hello'\ndef training_loop")},
        ["training_loop.py cannot be read as Python"],
    ),
}
FITTING = {
    "calls by position": (
        ADA,
        {
            LOOP: (
                "phase=phase.name, real_img=x, real_c=c, gen_z=z, gen_c=d, sync=sync, gain=gain",
                "phase.name, x, c, z, d, sync=sync, gain=gain",
            )
        },
    ),
    "networks from a comprehension": (
        ADA,
        {
            LOOP: (
                "ddp_modules = dict()",
                "ddp_modules = {n: ddp(m) for n, m in [('D', D), ('G_mapping', M), ('G_synthesis', S)]}",
            )
        },
    ),
    "networks from where nothing can be read, and the published loss": (
        ADA,
        {LOOP: ("ddp_modules = dict()", "ddp_modules = wrap(G, D)")},
    ),
    "a constructor without the name look-up": (
        SG3,
        {LOOP: ("dnnlib.util.construct_class_by_name(", "StyleGAN2Loss(")},
    ),
    "questions before they ask": (
        SG3,
        {
            LOOP: (
                "    for phase in",
                "    if hasattr(loss, 'ema'):\n        loss.ema.step()\n    for phase in",
            )
        },
    ),
    "what our loss has": (SG3, {LOOP: ("    for phase in", "    loss.pl_mean.zero_()\n    for phase in")}),
    "an option of the loss that nothing sets": (ADA, {LOSS: ("pl_weight=2", "pl_weight=2, top_k=False")}),
    "a loss that is broken": (SG3, {LOSS: ("class Loss:", "class Loss(:")}),
    "the published one": (SG3, {}),
    "a sampler that is fixed already": (SG3, {MISC: ("__init__(dataset)", "__init__()")}),
    "helpers by another way": (
        ADA,
        {
            MISC: (
                "def ddp_sync",
                "try:\n    from fast import ddp_sync\nexcept ImportError:\n    def ddp_sync",
            )
        },
    ),
    "Windows line ends": (ADA, None),
}


@pytest.mark.filterwarnings("error")
def test_odd_strings_in_a_fork_print_no_warning(apply, tmp_path, capsys):
    root = build(tmp_path / "fork", ADA)
    (root / TRAIN).write_text((root / TRAIN).read_text() + 'pattern = "\\d"\n')
    assert apply.main([str(root), "--dry-run"]) == 0
    assert capsys.readouterr().err == ""


@pytest.fixture
def apply(monkeypatch):
    return load_apply(monkeypatch)


def fork(root, kind, edits):
    """A miniature clone with one text a file replaced; None: Windows line ends everywhere."""
    build(root, kind)
    for path in root.rglob("*.py") if edits is None else ():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    for name, (published, forked) in (edits or {}).items():
        text = (root / name).read_text()
        assert published in text
        (root / name).write_text(text.replace(published, forked))
    return root


@pytest.mark.parametrize("case", REFUSED)
def test_a_fork_that_our_loss_does_not_fit_is_refused_by_name_and_left_as_it_is(
    apply, tmp_path, capsys, case
):
    kind, edits, reasons = REFUSED[case]
    root = fork(tmp_path / "fork", kind, edits)
    for reason in reasons:
        assert_refused(apply, capsys, root, says=reason)
    assert_refused(apply, capsys, root, "--dry-run", says=reasons[0])


@pytest.mark.parametrize("case", FITTING)
def test_a_fork_that_our_loss_fits_is_served_whatever_it_looks_like(apply, tmp_path, capsys, case):
    kind, edits = FITTING[case]
    root = fork(tmp_path / "fork", kind, edits)
    before = contents(root)
    assert apply.main([str(root)]) == 0
    out = capsys.readouterr().out
    assert f": {kind}, " in out
    ours = {ADA: "loss.py", SG3: "stylegan3_loss.py"}[kind]
    assert (root / LOSS).read_bytes() == (PATCH / ours).read_bytes()
    if "that nothing sets" in case:
        assert "training/loss.py had top_k as well; nothing sets it" in out
    assert apply.main([str(root), "--revert"]) == 0
    assert contents(root) == before


def test_a_fork_that_an_earlier_version_changed_can_still_be_reverted(apply, tmp_path, capsys):
    root = build(tmp_path / "fork", ADA)
    before = contents(root)
    assert apply.main([str(root)]) == 0
    capsys.readouterr()
    loop = (root / LOOP).read_text()
    (root / LOOP).write_text(loop.replace("[('G_mapping'", "[('G', G), ('G_mapping'"))
    assert_refused(apply, capsys, root, says="constructed with G, which")
    assert_refused(apply, capsys, root, says="; --revert undoes an earlier run")
    assert apply.main([str(root), "--revert"]) == 0
    (root / LOOP).write_text(loop)
    assert contents(root) == before


def test_a_loss_of_ours_that_the_user_made_fit_is_judged_by_what_it_takes(apply, tmp_path, capsys):
    _, edits, reasons = REFUSED["a network more for the constructor, from the loop's list"]
    root = fork(tmp_path / "fork", ADA, edits)
    ours = (PATCH / "loss.py").read_text(encoding="utf-8")
    (root / LOSS).write_text(ours, encoding="utf-8")
    assert_refused(
        apply, capsys, root, says="the loss is constructed with G, which training/loss.py does not take"
    )
    (root / LOSS).write_text(ours.replace("G_mapping,\n", "G, G_mapping,\n", 1), encoding="utf-8")
    assert apply.main([str(root)]) == 0
    out = capsys.readouterr().out
    assert "copied by hand" in out and "fix   torch_utils/misc.py" in out and reasons
    (root / LOSS).write_text("class Other: pass  # Part of rooted-loss.\n")
    assert_refused(apply, capsys, root, says="training/loss.py has no StyleGAN2Loss with __init__")


def test_files_that_build_on_the_loss_are_checked_or_named(apply, tmp_path, capsys):
    root = build(tmp_path / "fork", ADA)
    uneven = root / "training/loss_uneven.py"
    uneven.write_text("from training.loss import StyleGAN2Loss\nclass Uneven(StyleGAN2Loss): pass\n")
    assert apply.main([str(root), "--dry-run"]) == 0
    assert "note  training/loss_uneven.py builds on StyleGAN2Loss" in capsys.readouterr().out
    uneven.write_text("from .loss import helper\n")
    assert_refused(apply, capsys, root, says="its training/loss_uneven.py asks training/loss.py for helper")
    uneven.write_text("import training.loss\nprint(training.loss.Loss)\n")
    assert apply.main([str(root)]) == 0


def test_the_loop_that_train_py_imports_is_the_one_that_counts(apply, tmp_path, capsys):
    root = build(tmp_path / "fork", ADA)
    published = (root / LOOP).read_text()
    (root / LOOP).write_text(published.replace("loss.accumulate_gradients", "loss.unused_method"))
    (root / "training/loop_two.py").write_text(published)
    assert_refused(apply, capsys, root, says="never calls accumulate_gradients")
    train = (root / TRAIN).read_text()
    (root / TRAIN).write_text("from training import loop_two\n" + train)
    assert apply.main([str(root)]) == 0
    capsys.readouterr()
    (root / "training/loop_two.py").write_text(published.replace("gain=gain", "gain=gain, mask=mask"))
    assert_refused(apply, capsys, root, says="accumulate_gradients is called with mask, which")


FIXED = {  # code in some file of a fork; what it becomes, None: left alone and reported, the same: nothing to do
    "from pkg_resources import parse_version  # versions\r\n": "from torch.torch_version import TorchVersion "
    "as parse_version  # versions\r\n",
    "import pkg_resources\n": None,
    "from pkg_resources import packaging\n": None,
    "# no pkg_resources here\n": "# no pkg_resources here\n",
    "try:\n    from distutils.version import LooseVersion\nexcept ImportError: pass\n": None,
    "class S(Sampler[int]):\n    def __init__(self, data):\n        super(S, self).__init__(data)\n": "class S("
    "Sampler[int]):\n    def __init__(self, data):\n        super(S, self).__init__()\n",
    "class S(torch.utils.data.Sampler):\n    def __init__(self, data_source=None):\n\n"
    "        super().__init__(data_source=data_source)\n": "class S(torch.utils.data.Sampler):\n"
    "    def __init__(self, data_source=None):\n\n        super().__init__()\n",
    "class S(torch.utils.data.Sampler):\n    def __init__(self, d):\n        super().__init__()\n\n"
    "class M(torch.nn.Module):\n    def __init__(self, d):\n        super().__init__(d)\n": "class S("
    "torch.utils.data.Sampler):\n    def __init__(self, d):\n        super().__init__()\n\n"
    "class M(torch.nn.Module):\n    def __init__(self, d):\n        super().__init__(d)\n",
    'hi = numpy.nanpercentile(\n    f(d),\n    99,\n    interpolation="higher",\n)\n': "hi = numpy.nanpercentile(\n"
    '    f(d),\n    99,\n    method="higher",\n)\n',
    "class S(data.Sampler):\n    def __init__(self, d):\n        super().__init__(list(d))\n": "class S("
    "data.Sampler):\n    def __init__(self, d):\n        super().__init__()\n",
    "torch.quantile(x, 0.5, interpolation='lower')\n": "torch.quantile(x, 0.5, interpolation='lower')\n",
    "resize(x, interpolation='bilinear')\n": "resize(x, interpolation='bilinear')\n",
    "s, _ = linalg.sqrtm(\n    a.dot(b), disp=False,\n)\n": "s = linalg.sqrtm(\n    a.dot(b))\n",
    "s, error = linalg.sqrtm(a, disp=False)\n": None,
    "opt = Adam(p, betas = (0, 0.9))  # ö\n": "opt = Adam(p, betas = (0.0, 0.9))  # ö\n",
    "opt = Adam(p, betas=[0.5, 0.9])\n": "opt = Adam(p, betas=[0.5, 0.9])\n",
}


def test_a_fix_finds_its_trouble_in_any_file_of_any_fork(apply, tmp_path, capsys):
    root = build(tmp_path / "fork", ADA)
    (root / "own").mkdir()
    for i, code in enumerate(FIXED):
        (root / f"own/part {i}.py").write_bytes(code.encode())
    for folder, mark in (
        (".hidden", "x"),
        ("venv", "pyvenv.cfg"),
        ("other", ".git"),
        ("patch", "stylegan3_loss.py"),
    ):
        (root / folder).mkdir()
        (root / folder / mark).touch()
        (root / folder / "code.py").write_text(next(iter(FIXED)))
    (root / "latin.py").write_bytes(b"# \xe9\nfrom distutils.util import strtobool\n")
    before = contents(root)
    assert apply.main([str(root)]) == 0
    out = capsys.readouterr().out
    for i, (code, fixed) in enumerate(FIXED.items()):
        name = f"own/part {i}.py"
        assert (root / name).read_bytes().decode() == (code if fixed is None else fixed)
        assert (f"keep  {name}: written another way" in out) == (fixed is None)
        assert (f"fix   {name}: " in out) == (fixed not in (None, code))
    assert "See to the lines above that say “look yourself”, then train as before" in out
    assert (root / "latin.py").read_bytes().startswith(b"# \xe9\nstrtobool = lambda")
    assert all(f"{folder}/code.py" not in out for folder in ("hidden", "venv", "other", "patch"))
    assert apply.main([str(root)]) == 0 and "nothing changed" in capsys.readouterr().out
    assert apply.main([str(root), "--revert"]) == 0
    assert contents(root) == before
