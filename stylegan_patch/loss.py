"""StyleGAN2's objectives with the rooted logistic loss, for NVIDIA's stylegan2-ada-pytorch. Part of rooted-loss.

    cp stylegan_patch/loss.py CLONE/training/loss.py

is the whole installation; `python stylegan_patch/apply.py CLONE` then fixes what stops the clone on today's
PyTorch. `RLO_LS=ce` or `RLO_K=5` before the training command choose another objective for that run.

D(x) is the logit of the discriminator ("real" is positive), G(z) = g(w) with w = f(z), and L(x) is softplus(x)
or the rooted loss in its place:

    generator       E L(−D(G(z)))                             non-saturating, Goodfellow et al. 2014
      every 4th       + pl_weight · E (|J_w^T y| − a)²        path length: Karras et al. 2020, "Analyzing and
                                                              Improving the Image Quality of StyleGAN", §3.2
    discriminator   E L(D(G(z))) + E L(−D(x))
      every 16th      + γ/2 · E |∇_x D(x)|²                   R1: Mescheder et al. 2018
    both see images through the augmentation pipe             ADA: Karras et al. 2020, "Training Generative
                                                              Adversarial Networks with Limited Data"

Written from these papers and from the interface that the clone's training loop calls.
"""

import math
import os

import torch
from torch_utils import misc, training_stats
from torch_utils.ops import conv2d_gradfix

# ---- the same lines stand in loss.py and rooted.py, since each must work alone ----

kparam = 2  # k of the rooted loss, a number from 1 to 1e30; the environment variable RLO_K overrides it
ls = "rlo"  # "rlo" = rooted logistic, "ce" = the logistic loss of StyleGAN; RLO_LS overrides it

setting, ls = os.environ.get("RLO_K", kparam), os.environ.get("RLO_LS", ls)
try:
    kparam = float(setting)
except ValueError:
    kparam = math.nan
if not 1 <= kparam <= 1e30:
    raise SystemExit(f"kparam (RLO_K) must be a number from 1 to 1e30, not {setting!r}")
if ls not in ("rlo", "ce"):
    raise SystemExit(f"ls (RLO_LS) must be 'rlo' (rooted logistic) or 'ce' (cross entropy), not {ls!r}")
several = torch.distributed.is_available() and torch.distributed.is_initialized()
if not several or torch.distributed.get_rank() == 0:  # once in the clone's log.txt
    print("Adversarial loss:", f"rlo, k = {kparam:g}" if ls == "rlo" else "ce")


def softplus(x):
    """k (1 + e^x)^(1/k) = k · exp(softplus(x)/k) for ls = "rlo", torch's softplus(x) itself for "ce".

    `x` is −t for a sample that is judged with margin t, a tensor of any shape. The derivative in softplus(x)
    is exp(softplus(x)/k): 1 where the judgement is certain and right, growing with the mistake. As k → ∞ it
    tends to k + softplus(x); no gradient depends on that constant.

    Every finite score of half, single or double precision gives a finite value and a finite gradient:

    - From softplus/k = 60 on, the exponential continues as its tangent, so it stays convex and C¹. It would
      overflow float32 at 88.7; e^60 ≈ 10²⁶ leaves room for the sum over a batch. The gradient of float16
      scores is itself float16 and ends at 65504, so there the tangent begins at 10.
    - From softplus = 10⁸ on, the value stays as it is, and the gradient still pushes the sample back.

    Half precision is computed, and returned, in float32. Source: Wang et al., arXiv 2310.03890.
    """
    if ls == "ce":
        return torch.nn.functional.softplus(x)
    s = torch.nn.functional.softplus(x.to(torch.promote_types(x.dtype, torch.float32)))
    s = s.detach().clamp(max=1e8) + (s - s.detach())  # the second term is 0, and carries the gradient
    tangent = 10.0 if x.dtype == torch.float16 else 60.0
    y = s / kparam
    near = torch.where(y > tangent, tangent, y)  # passes the gradient at the join itself, where relu does not
    beyond = torch.relu(y - tangent)
    return kparam * (near.exp() + math.exp(tangent) * beyond)


# ---- the end of the same lines ----


def report_scores(kind, scores):
    """What the clone logs of scores of "real" or "fake" images. ADA steers by the signs of the real ones."""
    training_stats.report(f"Loss/scores/{kind}", scores)
    training_stats.report(f"Loss/signs/{kind}", scores.sign())


class StyleGAN2Loss:
    """Adds the gradients of one phase to the networks' parameters.

    Parameters
    ----------
    G_mapping : Module
        (z, c) → w, shape (N, layers, w_dim), one copy of w a layer; takes `skip_w_avg_update`.
    G_synthesis, D : Module
        w → images, shape (N, C, H, W), in [−1, 1]; (images, c) → scores (logits), shape (N, 1).
    augment_pipe : Module or None
        Images → images, applied to all that D sees.
    style_mixing_prob : float
        Share of batches whose images take w from a second z from a random layer on (Karras et al. 2019).
    r1_gamma, pl_weight : float
        γ of R1 and the weight of the path length penalty; 0 turns either off.
    pl_batch_shrink : int
        The path length is measured on the first N // pl_batch_shrink samples, at least one, to save memory.
    pl_decay : float
        Rate of the running mean a of path lengths.
    """

    def __init__(
        self,
        device,
        G_mapping,
        G_synthesis,
        D,
        augment_pipe=None,
        style_mixing_prob=0.9,
        r1_gamma=10,
        pl_batch_shrink=2,
        pl_decay=0.01,
        pl_weight=2,
    ):
        self.device = device
        self.G_mapping = G_mapping
        self.G_synthesis = G_synthesis
        self.D = D
        self.augment_pipe = augment_pipe
        self.style_mixing_prob = style_mixing_prob
        self.r1_gamma = r1_gamma
        self.pl_batch_shrink = pl_batch_shrink
        self.pl_decay = pl_decay
        self.pl_weight = pl_weight
        self.pl_mean = torch.zeros([], device=device)

    def run_G(self, z, c, sync):
        """Images (N, C, H, W) and the w (N, layers, w_dim) they were made from."""
        with misc.ddp_sync(self.G_mapping, sync):
            w = self.G_mapping(z, c)
            if self.style_mixing_prob > 0:
                w = self.mix_styles(w, z, c)
        with misc.ddp_sync(self.G_synthesis, sync):
            return self.G_synthesis(w), w

    def mix_styles(self, w, z, c):
        """`w` with, at probability `style_mixing_prob`, the layers from a random one on from another z."""
        layers = w.shape[1]
        crossover = torch.randint(1, layers, [], device=w.device)
        mixed = torch.rand([], device=w.device) < self.style_mixing_prob
        other = self.G_mapping(torch.randn_like(z), c, skip_w_avg_update=True)
        # A mask rather than a slice: the GPU's choice never has to travel to the host.
        from_other = mixed & (torch.arange(layers, device=w.device) >= crossover)
        return torch.where(from_other[None, :, None], other, w)

    def run_D(self, img, c, sync):
        """Scores (N, 1) of the augmented images."""
        if self.augment_pipe is not None:
            img = self.augment_pipe(img)
        with misc.ddp_sync(self.D, sync):
            return self.D(img, c)

    def accumulate_gradients(self, phase, real_img, real_c, gen_z, gen_c, sync, gain):
        """Backpropagate one phase: of G or of D, the adversarial loss, the regulariser or both.

        Images are (N, C, H, W) in [−1, 1], real_c and gen_c (N, c_dim), gen_z (N, z_dim). `gain` multiplies
        the loss: a regulariser that runs only every i-th step has gain i. `sync` says whether the last
        backward pass of the phase shares gradients among GPUs. Raises ValueError for any other phase.
        """
        net, part = phase[:1], phase[1:]
        if net not in ("G", "D") or part not in ("main", "reg", "both"):
            raise ValueError(f"phase {phase!r} is not G or D with main, reg or both after it")
        main, reg = part != "reg", part != "main"
        if net == "G":
            reg = reg and self.pl_weight != 0
            if main:
                self.train_G(gen_z, gen_c, sync and not reg, gain)
            if reg:
                self.regularise_G(gen_z, gen_c, sync, gain)
        else:
            reg = reg and self.r1_gamma != 0
            loss_fake = self.train_D_on_fakes(gen_z, gen_c, gain) if main else None
            if main or reg:
                self.train_D_on_reals(real_img, real_c, loss_fake, reg, sync, gain)

    def train_G(self, gen_z, gen_c, sync, gain):
        """L(−D(G(z))): the generator wants its images to pass for real."""
        img, _ = self.run_G(gen_z, gen_c, sync)
        scores = self.run_D(img, gen_c, sync=False)
        loss = softplus(-scores)
        report_scores("fake", scores)
        training_stats.report("Loss/G/loss", loss)
        loss.mean().mul(gain).backward()

    def regularise_G(self, gen_z, gen_c, sync, gain):
        """pl_weight (|J_w^T y| − a)²: a step in w should change the image by a fixed amount.

        y is an image of Gaussian noise of variance 1/(H·W), J_w^T y = ∇_w (g(w) · y), |·| the root of the
        mean over layers of the squared norm, and a the running mean of |J_w^T y|, this batch included (so
        the gradient goes through it too).
        """
        n = max(1, gen_z.shape[0] // self.pl_batch_shrink)
        img, w = self.run_G(gen_z[:n], gen_c[:n], sync)
        y = torch.randn_like(img) / math.sqrt(img.shape[2] * img.shape[3])
        with conv2d_gradfix.no_weight_gradients():
            (jt_y,) = torch.autograd.grad((img * y).sum(), w, create_graph=True)
        lengths = jt_y.square().sum(dim=2).mean(dim=1).sqrt()
        mean = self.pl_mean.lerp(lengths.mean(), self.pl_decay)
        self.pl_mean.copy_(mean.detach())
        penalty = (lengths - mean).square()
        loss = penalty * self.pl_weight
        training_stats.report("Loss/pl_penalty", penalty)
        training_stats.report("Loss/G/reg", loss)
        (loss + zero_of(img[:, 0, 0, 0])).mean().mul(gain).backward()

    def train_D_on_fakes(self, gen_z, gen_c, gain):
        """L(D(G(z))), returned without its graph. GPUs share gradients in the pass over real images."""
        img, _ = self.run_G(gen_z, gen_c, sync=False)
        scores = self.run_D(img, gen_c, sync=False)
        loss = softplus(scores)
        report_scores("fake", scores)
        loss.mean().mul(gain).backward()
        return loss.detach()

    def train_D_on_reals(self, real_img, real_c, loss_fake, r1, sync, gain):
        """L(−D(x)) unless `loss_fake` is None, plus γ/2 |∇_x D(x)|² if `r1`: one forward pass for both."""
        img = real_img.detach().requires_grad_(r1)
        scores = self.run_D(img, real_c, sync)
        report_scores("real", scores)
        loss = zero_of(scores).mean()
        if loss_fake is not None:
            loss_real = softplus(-scores)
            training_stats.report("Loss/D/loss", loss_fake + loss_real)
            loss = loss + loss_real.mean()
        if r1:
            with conv2d_gradfix.no_weight_gradients():
                (slope,) = torch.autograd.grad(scores.sum(), img, create_graph=True)
            penalty = slope.square().sum(dim=[1, 2, 3])
            loss_r1 = penalty * (self.r1_gamma / 2)
            training_stats.report("Loss/r1_penalty", penalty)
            training_stats.report("Loss/D/reg", loss_r1)
            loss = loss + loss_r1.mean()
        loss.mul(gain).backward()


def zero_of(output):
    """Zero with the graph of `output`: a regulariser alone does not reach every parameter (biases), and
    DistributedDataParallel waits for a gradient of each; the optimiser, too, then treats all alike."""
    return output * 0
