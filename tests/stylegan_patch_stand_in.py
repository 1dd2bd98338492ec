"""A miniature of what surrounds a loss in a clone: stand-ins for `torch_utils`, tiny networks, small clones.

:func:`explicit_objective` is the independent truth of the phases: the objectives written out from the papers,
without softplus, with per-sample Jacobians instead of gradients of sums.
"""

import contextlib
import importlib.util
import sys
import types
from pathlib import Path

import torch
from torch import nn

PATCH = Path(__file__).resolve().parent.parent / "stylegan_patch"
PHASES = ("Gmain", "Greg", "Gboth", "Dmain", "Dreg", "Dboth")
SIZE, LAYERS, W_DIM, N = 6, 3, 4, 4


def load(monkeypatch, path, **environment):
    """A loss file as a fresh module under RLO_K and RLO_LS as given, and the log of what it calls."""
    log = {"stats": [], "synced": [], "no_weight_gradients": 0}

    @contextlib.contextmanager
    def ddp_sync(module, sync):
        log["synced"].append((type(module).__name__, sync))
        yield

    @contextlib.contextmanager
    def no_weight_gradients():
        log["no_weight_gradients"] += 1
        yield

    def report(name, value):
        log["stats"].append((name, value.detach().clone()))

    torch_utils, ops = types.ModuleType("torch_utils"), types.ModuleType("torch_utils.ops")
    torch_utils.misc = types.SimpleNamespace(ddp_sync=ddp_sync)
    torch_utils.training_stats = types.SimpleNamespace(report=report)
    ops.conv2d_gradfix = types.SimpleNamespace(no_weight_gradients=no_weight_gradients)
    monkeypatch.setitem(sys.modules, "torch_utils", torch_utils)
    monkeypatch.setitem(sys.modules, "torch_utils.ops", ops)
    for name in ("RLO_K", "RLO_LS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    spec = importlib.util.spec_from_file_location(f"stand_in_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, log


class Mapping(nn.Module):
    """z → w; notes its options."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, W_DIM)
        self.calls = []

    def forward(self, z, c, **options):
        self.calls.append(options)
        return torch.tanh(self.layer(z))[:, None].repeat(1, LAYERS, 1)


class Synthesis(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(W_DIM, 3 * SIZE * SIZE) for _ in range(LAYERS))

    def forward(self, ws):
        image = sum(torch.sin(f(w)) for f, w in zip(self.layers, ws.unbind(1), strict=True))
        return image.reshape(-1, 3, SIZE, SIZE)


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.mapping, self.synthesis = Mapping(), Synthesis()


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 3), nn.Linear(4 * (SIZE - 2) ** 2, 1)

    def forward(self, img, c):
        return self.out(torch.tanh(self.conv(img)).flatten(1)) * 3


class Augment(nn.Module):
    """A fixed differentiable change of the images, so that its place in the graph can be told."""

    def forward(self, img):
        return torch.tanh(img.flip(3) * 1.5)


class Bench:
    """A loss on miniature float64 networks, seeded."""

    def __init__(self, module, augment=False, **options):
        torch.manual_seed(0)
        self.G, self.D = Generator().double(), Discriminator().double()
        self.z, self.real = torch.randn(N, 5).double(), torch.rand(N, 3, SIZE, SIZE).double() * 2 - 1
        self.c = torch.zeros(N, 0).double()
        self.augment = Augment() if augment else None
        self.options = {"style_mixing_prob": 0, "r1_gamma": 10, "pl_weight": 2, **options}
        self.loss = module.StyleGAN2Loss(
            device=torch.device("cpu"),
            G_mapping=self.G.mapping,
            G_synthesis=self.G.synthesis,
            D=self.D,
            augment_pipe=self.augment,
            **self.options,
        )
        self.loss.pl_mean = self.loss.pl_mean.double() + 0.7

    def step(self, phase, gain=1.0, sync=True, seed=1, n=N):
        """Run a phase on the first `n` samples as the training loop does; the trained network's gradients."""
        self.G.requires_grad_(phase[0] == "G")
        self.D.requires_grad_(phase[0] == "D")
        torch.manual_seed(seed)
        self.loss.accumulate_gradients(
            phase=phase,
            real_img=self.real[:n],
            real_c=self.c[:n],
            gen_z=self.z[:n],
            gen_c=self.c[:n],
            sync=sync,
            gain=gain,
        )
        net = self.G if phase[0] == "G" else self.D
        return {name: p.grad for name, p in net.named_parameters()}


def explicit_objective(bench, phase, ls, k, gain=1.0, seed=1):
    """The scalar whose gradient a phase must leave behind (style mixing off)."""

    def score(img):
        return bench.D(img if bench.augment is None else bench.augment(img), bench.c)[:, 0]

    def wrongness(t):  # the textbook forms, which overflow; miniature logits are small
        return torch.log(1 + torch.exp(-t)) if ls == "ce" else k * (1 + torch.exp(-t)) ** (1 / k)

    G, options = bench.G, bench.options
    main, reg = phase[1:] in ("main", "both"), phase[1:] in ("reg", "both")
    total = 0.0
    if phase[0] == "G" and main:
        total = total + wrongness(score(G.synthesis(G.mapping(bench.z, bench.c)))).mean()
    if phase[0] == "G" and reg:
        torch.manual_seed(seed)
        half = N // 2
        ws = G.mapping(bench.z[:half], bench.c)
        y = torch.randn(half, 3, SIZE, SIZE, dtype=torch.float64) / SIZE
        lengths = []
        for i in range(half):
            back = torch.einsum("p,plw->lw", y[i].flatten(), jacobian_at(G.synthesis, ws[i]))
            lengths.append((back.square().sum() / LAYERS).sqrt())
        lengths = torch.stack(lengths)
        running = 0.7 + 0.01 * (lengths.mean() - 0.7)
        total = total + options["pl_weight"] * (lengths - running).square().mean()
    if phase[0] == "D" and main:
        fake = G.synthesis(G.mapping(bench.z, bench.c)).detach()
        total = total + wrongness(-score(fake)).mean() + wrongness(score(bench.real)).mean()
    if phase[0] == "D" and reg:
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
