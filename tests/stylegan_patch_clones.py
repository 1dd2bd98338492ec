"""Miniature clones for apply.py: folders with nothing but the lines that it looks for."""

import importlib
import sys
from pathlib import Path

PATCH = Path(__file__).resolve().parent.parent / "stylegan_patch"
COMMON = {
    "torch_utils/misc.py": "def ddp_sync(module, sync): pass\n"
    "class InfiniteSampler(torch.utils.data.Sampler):\n"
    "    def __init__(self, dataset):\n        super().__init__(dataset)\n        self.dataset = dataset\n",
    "torch_utils/custom_ops.py": "import importlib\ndef get(module_name, again):\n    if again:\n"
    "        torch.utils.cpp_extension.load(name=module_name)\n    else:\n"
    "        torch.utils.cpp_extension.load(name=module_name)\n"
    "    module = importlib.import_module(module_name)\n    return module\n",
    "dnnlib/util.py": "from distutils.util import strtobool\n"
    "def get_module(module_name):\n    module = importlib.import_module(module_name)\n    return module\n",
    "metrics/frechet_inception_distance.py": "def root(a):\n"
    "    s, _ = scipy.linalg.sqrtm(np.dot(a, a), disp=False) # a comment\n    return s\n",
    "metrics/perceptual_path_length.py": "def ends(d):\n    lo = np.percentile(d, 1, interpolation='lower')\n"
    "    hi = np.percentile(d, 99, interpolation='higher')\n    return lo, hi\n",
    "train.py": "args.loss_kwargs = dnnlib.EasyDict(class_name='training.loss.StyleGAN2Loss', r1_gamma=10)\n"
    "args.loss_kwargs.pl_weight = 0\nargs.G = dict(betas=[0,0.99])\nargs.D = dict(betas=[0,0.99])\n",
    "torch_utils/training_stats.py": "def report(name, value): pass\n",
    "torch_utils/ops/conv2d_gradfix.py": "def no_weight_gradients(disable=True): pass\n",
    "torch_utils/ops/upfirdn2d.py": "def filter2d(x, f): pass\n",
    "README.md": "not to be touched\n",
}
PHASES = (
    "    for name, module, opt, interval in [('G', G, a, 4), ('D', D, b, 16)]:\n"
    "        phases += [dnnlib.EasyDict(name=name+'main', module=module, opt=opt, interval=1)]\n"
    "        phases += [dnnlib.EasyDict(name=name+'reg', module=module, opt=opt, interval=interval)]\n"
    "    for phase in phases:\n"
)
MINIATURES = {
    "stylegan2-ada-pytorch": {
        **COMMON,
        "training/loss.py": "class Loss:\n    pass\nclass StyleGAN2Loss(Loss):\n"
        "    def __init__(self, device, G_mapping, G_synthesis, D, augment_pipe=None, r1_gamma=10, pl_weight=2):\n"
        "        pass\n"
        "    def accumulate_gradients(self, phase, real_img, real_c, gen_z, gen_c, sync, gain):\n        pass\n",
        "training/training_loop.py": "def training_loop(loss_kwargs={}):\n    ddp_modules = dict()\n"
        "    for name, module in [('G_mapping', G.mapping), ('G_synthesis', G.synthesis), ('D', D), "
        "(None, G_ema), ('augment_pipe', augment_pipe)]:\n"
        "        if name is not None:\n            ddp_modules[name] = module\n"
        "    loss = dnnlib.util.construct_class_by_name(device=device, **ddp_modules, **loss_kwargs)\n"
        + PHASES
        + "        loss.accumulate_gradients(phase=phase.name, real_img=x, real_c=c, gen_z=z, gen_c=d, "
        "sync=sync, gain=gain)\n",
        "torch_utils/ops/grid_sample_gradfix.py": "def use():\n"
        "    return any(torch.__version__.startswith(x) for x in ['1.7.', '1.8.', '1.9'])\n"
        "class Back(torch.autograd.Function):\n    @staticmethod\n"
        "    def forward(ctx, grad_output, input, grid):\n"
        "        op = torch._C._jit_get_operation('aten::grid_sampler_2d_backward')\n"
        "        return op(grad_output, input, grid, 0, 0, False)\n",
    },
    "stylegan3": {
        **COMMON,
        "training/loss.py": "class Loss:\n    pass\nclass StyleGAN2Loss(Loss):\n"
        "    def __init__(self, device, G, D, augment_pipe=None, r1_gamma=10, pl_weight=0):\n        pass\n"
        "    def accumulate_gradients(self, phase, real_img, real_c, gen_z, gen_c, gain, cur_nimg):\n"
        "        pass\n",
        "training/training_loop.py": "def training_loop(loss_kwargs={}):\n"
        "    loss = dnnlib.util.construct_class_by_name(device=device, G=G, D=D, augment_pipe=augment_pipe, "
        "**loss_kwargs)\n"
        + PHASES
        + "        loss.accumulate_gradients(phase=phase.name, real_img=x, real_c=c, gen_z=z, gen_c=d, "
        "gain=phase.interval, cur_nimg=cur_nimg)\n",
        "torch_utils/ops/conv2d_gradfix.py": "from pkg_resources import parse_version\n"
        "def no_weight_gradients(disable=True): pass\n",
        "torch_utils/ops/grid_sample_gradfix.py": "from pkg_resources import parse_version\n",
    },
}
CHANGED = {"stylegan2-ada-pytorch": 8, "stylegan3": 9}


def load_apply(monkeypatch):
    """apply.py as a fresh module: a run is `apply.main([...])`."""
    monkeypatch.syspath_prepend(str(PATCH))
    for name in ("apply", "fixes", "interface", "arguments"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("apply")


def build(root, kind):
    for name, text in MINIATURES[kind].items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    (root / "training/loss.py").chmod(0o755)
    return root


def contents(root):
    """path → (bytes, permissions, time of change) of every file, links and folders included."""
    return {
        str(p.relative_to(root)): (p.read_bytes() if p.is_file() else None, p.stat().st_mode)
        for p in sorted(root.rglob("*"))
    }


def assert_refused(apply, capsys, root, *flags, says):
    before = contents(root) if root.exists() else None
    assert apply.main([str(root), *flags]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("apply.py: ") and err.count("\n") == 1
    assert says in err
    assert (contents(root) if root.exists() else None) == before
