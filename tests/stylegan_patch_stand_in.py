"""A miniature of what surrounds the loss file in a clone: stand-ins for `torch_utils`, tiny networks.

Both loss files run in it. :func:`explicit_objective` is the independent truth: the objectives written out
from the papers, without softplus, with per-sample Jacobians instead of gradients of sums.
"""

import contextlib
import importlib.util
import sys
import types
from pathlib import Path

import torch
from torch import nn

PATCH = Path(__file__).resolve().parent.parent / "stylegan_patch"
FILES = {"stylegan2": PATCH / "loss.py", "stylegan3": PATCH / "stylegan3_loss.py"}
PHASES = ("Gmain", "Greg", "Gboth", "Dmain", "Dreg", "Dboth")
SIZE, LAYERS, W_DIM, N = 6, 3, 4, 4


def stand_ins():
    """name → module for `torch_utils` and what the loss files import from it, and the log of calls."""
    log = {"stats": [], "synced": [], "no_weight_gradients": []}

    @contextlib.contextmanager
    def ddp_sync(module, sync):
        log["synced"].append((type(module).__name__, sync))
        yield

    @contextlib.contextmanager
    def no_weight_gradients(disable=True):
        log["no_weight_gradients"].append(disable)
        yield

    def filter2d(img, taps):
        channels, radius = img.shape[1], len(taps) // 2
        for shape, pad in (((1, 1, 1, -1), (radius, radius, 0, 0)), ((1, 1, -1, 1), (0, 0, radius, radius))):
            kernel = taps.to(img.dtype).reshape(shape).expand(channels, -1, -1, -1)
            img = nn.functional.conv2d(nn.functional.pad(img, pad), kernel, groups=channels)
        return img

    torch_utils, ops = types.ModuleType("torch_utils"), types.ModuleType("torch_utils.ops")
    torch_utils.misc = types.SimpleNamespace(ddp_sync=ddp_sync)
    torch_utils.training_stats = types.SimpleNamespace(
        report=lambda name, value: log["stats"].append((name, value.detach().clone()))
    )
    ops.conv2d_gradfix = types.SimpleNamespace(no_weight_gradients=no_weight_gradients)
    ops.upfirdn2d = types.SimpleNamespace(filter2d=filter2d)
    return {"torch_utils": torch_utils, "torch_utils.ops": ops}, log


def load_loss(monkeypatch, flavour):
    """The loss file of a flavour as a fresh module, and the log of what it calls."""
    modules, log = stand_ins()
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location(f"{flavour}_loss", FILES[flavour])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, log


class Mapping(nn.Module):
    """z → w. Counts its calls by the two clones' ways of saying that running averages may move."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, W_DIM)
        self.calls = []

    def forward(self, z, c, **moving):
        self.calls.append(moving)
        return torch.tanh(self.layer(z))[:, None].repeat(1, LAYERS, 1)


class Synthesis(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(W_DIM, 3 * SIZE * SIZE) for _ in range(LAYERS))
        self.calls = []

    def forward(self, ws, **moving):
        self.calls.append(moving)
        return sum(torch.sin(f(w)) for f, w in zip(self.layers, ws.unbind(1), strict=True)).reshape(
            -1, 3, SIZE, SIZE
        )


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.mapping, self.synthesis = Mapping(), Synthesis()


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 3), nn.Linear(4 * (SIZE - 2) ** 2, 1)
        self.calls = []

    def forward(self, img, c, **moving):
        self.calls.append(moving)
        return self.out(torch.tanh(self.conv(img)).flatten(1)) * 3


class Augment(nn.Module):
    """A fixed differentiable change of the images, so that its place in the graph can be told."""

    def forward(self, img):
        return torch.tanh(img.flip(3) * 1.5)


class Bench:
    """A loss of one flavour on miniature float64 networks, seeded."""

    def __init__(self, module, flavour, augment=False, **options):
        torch.manual_seed(0)
        self.is_3 = flavour == "stylegan3"
        self.G, self.D = Generator().double(), Discriminator().double()
        self.z, self.real = torch.randn(N, 5).double(), torch.rand(N, 3, SIZE, SIZE).double() * 2 - 1
        self.c = torch.zeros(N, 0).double()
        self.augment = Augment() if augment else None
        self.options = {"style_mixing_prob": 0, "r1_gamma": 10, "pl_weight": 2, **options}
        device = torch.device("cpu")
        nets = {"G": self.G} if self.is_3 else {"G_mapping": self.G.mapping, "G_synthesis": self.G.synthesis}
        self.loss = module.StyleGAN2Loss(
            device=device, D=self.D, augment_pipe=self.augment, **nets, **self.options
        )
        self.loss.pl_mean = self.loss.pl_mean.double() + 0.7

    def step(self, phase, gain=1.0, sync=True, cur_nimg=0, seed=1):
        """Run a phase as the training loop does; the gradients of the network it trains, by name."""
        self.G.requires_grad_(phase[0] == "G")
        self.D.requires_grad_(phase[0] == "D")
        torch.manual_seed(seed)
        last = {"cur_nimg": cur_nimg} if self.is_3 else {"sync": sync}
        self.loss.accumulate_gradients(
            phase=phase, real_img=self.real, real_c=self.c, gen_z=self.z, gen_c=self.c, gain=gain, **last
        )
        net = self.G if phase[0] == "G" else self.D
        return {name: p.grad for name, p in net.named_parameters()}


def explicit_objective(bench, phase, ls, k, gain=1.0, seed=1):
    """The scalar whose gradient a phase must leave behind (style mixing and blur off)."""

    def score(img):
        return bench.D(img if bench.augment is None else bench.augment(img), bench.c)[:, 0]

    def wrongness(t):  # the textbook forms, which overflow; miniature logits are small
        return torch.log(1 + torch.exp(-t)) if ls == "ce" else k * (1 + torch.exp(-t)) ** (1 / k)

    G, options = bench.G, bench.options
    main, reg = phase[1:] in ("main", "both"), phase[1:] in ("reg", "both")
    total = 0.0
    if phase[0] == "G" and main:
        total = total + wrongness(score(G.synthesis(G.mapping(bench.z, bench.c)))).mean()
    if phase[0] == "G" and reg and options["pl_weight"]:
        torch.manual_seed(seed)
        half = N // options.get("pl_batch_shrink", 2)
        ws = G.mapping(bench.z[:half], bench.c)
        y = torch.randn(half, 3, SIZE, SIZE, dtype=torch.float64) / SIZE
        lengths = []
        for i in range(half):
            back = torch.einsum("p,plw->lw", y[i].flatten(), jacobian_at(G.synthesis, ws[i]))
            lengths.append((back.square().sum() / LAYERS).sqrt())
        lengths = torch.stack(lengths)
        running = 0.7 + options.get("pl_decay", 0.01) * (lengths.mean() - 0.7)
        total = total + options["pl_weight"] * (lengths - running).square().mean()
    if phase[0] == "D" and main:
        fake = G.synthesis(G.mapping(bench.z, bench.c)).detach()
        total = total + wrongness(-score(fake)).mean() + wrongness(score(bench.real)).mean()
    if phase[0] == "D" and reg and options["r1_gamma"]:
        real = bench.real.clone().requires_grad_()
        squared = [
            torch.autograd.grad(score(real)[i], real, create_graph=True)[0][i].square().sum()
            for i in range(N)
        ]
        total = total + options["r1_gamma"] / 2 * torch.stack(squared).mean()
    return gain * total


def jacobian_at(synthesis, w):
    """∂ pixels / ∂ w, (pixels, layers, w_dim), differentiable in w and in the weights."""
    image = synthesis(w[None])[0].flatten()
    rows = [torch.autograd.grad(pixel, w, create_graph=True, retain_graph=True)[0] for pixel in image]
    return torch.stack(rows)
