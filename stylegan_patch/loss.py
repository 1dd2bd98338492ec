"""StyleGAN2 objectives with the rooted logistic loss, for NVIDIA's stylegan2-ada-pytorch.

    cp stylegan_patch/loss.py CLONE/training/loss.py

is the whole installation; `stylegan_patch/apply.py CLONE` also fixes what stops the clone on PyTorch 2.x.
Then train as always; `RLO_LS=ce` or `RLO_K=5` before the command choose another objective for that run.

With D(x) the logit of the discriminator ("real" is positive), G(z) = g(w), w = f(z), and L(t) the
adversarial loss of a margin t (softplus(−t), or the rooted one):

    generator       E L(D(G(z)))                              non-saturating, Goodfellow et al. 2014
      every 4th       + pl_weight · E (|J_w^T y| − a)²        path length: Karras et al. 2020, "Analyzing and
                                                              Improving the Image Quality of StyleGAN", §3.2
    discriminator   E L(−D(G(z))) + E L(D(x))
      every 16th      + γ/2 · E |∇_x D(x)|²                   R1: Mescheder et al. 2018
    both see images through the augmentation pipe             ADA: Karras et al. 2020, "Training Generative
                                                              Adversarial Networks with Limited Data"

Part of rooted-loss. Written from these papers and from the interface that the clone's training loop calls.
"""

import math
import os

import torch
from torch_utils import misc, training_stats
from torch_utils.ops import conv2d_gradfix

# ---- shared: change it in loss.py, then `python stylegan_patch/share.py` writes it into stylegan3_loss.py ----

kparam = 2  # k of the rooted objective, a real number ≥ 1; the environment variable RLO_K overrides it
ls = "rlo"  # "rlo" = rooted logistic, "ce" = StyleGAN's own logistic loss; RLO_LS overrides it

EXACT_UP_TO = {torch.float16: 10.0}  # where exp(softplus/k) turns into its tangent, by dtype of the logits …
EXACT_UP_TO_ELSE = 60.0  # … and for bf16, fp32 and fp64. rooted() says why
FARTHEST = 1e8  # softplus beyond which the value stays constant, while the gradient does not


def checked_settings(k, name, k_from="kparam", name_from="ls"):
    """`k` as a float and `name`; else ValueError that names the culprit and what is allowed."""
    try:
        number = float(k)
    except (TypeError, ValueError):
        number = math.nan
    if not 1 <= number <= 1e30:
        raise ValueError(f"{k_from} must be a real number from 1 to 1e30, got {k!r}")
    if name not in ("rlo", "ce"):
        raise ValueError(f"{name_from} must be 'rlo' (rooted logistic) or 'ce' (cross entropy), got {name!r}")
    return number, name


kparam, ls = checked_settings(
    os.environ.get("RLO_K", kparam),
    os.environ.get("RLO_LS", ls),
    "RLO_K" if "RLO_K" in os.environ else "kparam",
    "RLO_LS" if "RLO_LS" in os.environ else "ls",
)


def rooted(s, k, exact_up_to=EXACT_UP_TO_ELSE):
    """The rooted logistic objective k (1 + e^(−t))^(1/k) = k · exp(s/k), of s = softplus(−t).

    It tends to k + s as k → ∞. The constant k is that of the published code; it is kept so that curves
    compare, and no gradient depends on it. The derivative in s is exp(s/k): 1 for a sample judged with
    certainty, growing with the mistake.

    Every finite logit gives a finite value and a finite gradient:

    - From s/k = `exact_up_to` on, the exponential continues as its tangent: C¹, still convex and increasing.
      exp overflows float32 at 88.7; 60 leaves a factor of 3·10¹² for what multiplies the slope e^60 ≈ 10²⁶
      on its way to the weights and for the sum over a batch. The gradient of fp16 logits is itself fp16 and
      ends at 65504: there the limit is 10 (e^10 ≈ 22026).
    - A tangent of slope e^60 overflows too at the largest logits (3·10³⁸), and no convex continuation can
      avoid it. So the *value* is constant from s = 10⁸ on (10³⁴: a mean over thousands of samples, times
      the gain, is finite); the *gradient* keeps its slope, so that such a sample is still learnt from.

    s is any tensor ≥ 0 in float32 or float64; k a float from 1 to 1e30.
    """
    s = torch.where(s > FARTHEST, FARTHEST + (s - s.detach()), s)
    x = s / k
    near = x <= exact_up_to  # a mask, not clamps: whether those pass the gradient at the limit is not fixed
    curve, line = torch.where(near, x, exact_up_to).exp(), torch.where(near, 0, x - exact_up_to)
    return k * (curve + math.exp(exact_up_to) * line)


def adversarial(margin):
    """The loss of judging with margin t: `ls` = "ce": softplus(−t); "rlo": k · exp(softplus(−t)/k).

    `margin`, a tensor of any shape, is +logit where the loss wants the discriminator to say "real", −logit
    where "fake". The result has the same shape; half precision is computed in, and returned as, float32.
    Sources: Goodfellow et al. 2014 (the logistic loss); Wang et al., arXiv 2310.03890 (the rooted one).
    """
    exact_up_to = EXACT_UP_TO.get(margin.dtype, EXACT_UP_TO_ELSE)
    if margin.dtype in (torch.float16, torch.bfloat16):
        margin = margin.float()
    s = torch.nn.functional.softplus(-margin)
    return rooted(s, kparam, exact_up_to) if ls == "rlo" else s


def announce():
    """Print which objective runs, once: the clone's log.txt is then the record of it."""
    many = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not many or torch.distributed.get_rank() == 0:
        print(f"Adversarial loss: rlo, k = {kparam:g}" if ls == "rlo" else "Adversarial loss: ce")


def report_logits(kind, logits):
    """What the clone logs of logits on "real" or "fake" images. ADA steers by the signs on real ones."""
    training_stats.report(f"Loss/scores/{kind}", logits)
    training_stats.report(f"Loss/signs/{kind}", logits.sign())


PHASES = ("Gmain", "Greg", "Gboth", "Dmain", "Dreg", "Dboth")

# ---- end of what is shared ----


class Loss:
    """What the training loop calls."""

    def accumulate_gradients(self, phase, real_img, real_c, gen_z, gen_c, sync, gain):
        raise NotImplementedError


class StyleGAN2Loss(Loss):
    """Adds the gradients of one phase to the networks' parameters.

    Parameters
    ----------
    G_mapping : Module
        (z, c) → w, shape (N, layers, w_dim), one copy of w a layer; takes `skip_w_avg_update`.
    G_synthesis, D : Module
        w → images, shape (N, C, H, W), in [−1, 1]; (images, c) → logits, shape (N, 1).
    augment_pipe : Module or None
        Images → images, applied to all that D sees.
    style_mixing_prob : float
        Share of batches whose images take w from a second z from a random layer on (Karras et al. 2019).
    r1_gamma, pl_weight : float
        γ of R1, weight of the path length penalty; 0 turns either off.
    pl_batch_shrink : int
        The path length is measured on the first N // pl_batch_shrink samples, to save memory.
    pl_decay : float
        Rate of the running mean a of path lengths.

    Raises
    ------
    ValueError
        If kparam or ls was changed to something that is not allowed.
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
        checked_settings(kparam, ls)
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
        announce()

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
        """Logits (N, 1) of the augmented images."""
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
        if phase not in PHASES:
            raise ValueError(f"unknown phase {phase!r}; known phases: {', '.join(PHASES)}")
        net, main, reg = phase[0], phase[1:] in ("main", "both"), phase[1:] in ("reg", "both")
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
        """L(D(G(z))): the generator wants its images to pass for real."""
        img, _ = self.run_G(gen_z, gen_c, sync)
        logits = self.run_D(img, gen_c, sync=False)
        loss = adversarial(logits)
        report_logits("fake", logits)
        training_stats.report("Loss/G/loss", loss)
        loss.mean().mul(gain).backward()

    def regularise_G(self, gen_z, gen_c, sync, gain):
        """pl_weight (|J_w^T y| − a)²: a step in w should change the image by a fixed amount.

        y is an image of Gaussian noise of variance 1/(H·W), J_w^T y = ∇_w (g(w) · y), |·| the root of the
        mean over layers of the squared norm, and a the running mean of |J_w^T y|, this batch included (so
        the gradient goes through it too).
        """
        n = gen_z.shape[0] // self.pl_batch_shrink
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
        (loss + unmoved(img[:, 0, 0, 0])).mean().mul(gain).backward()

    def train_D_on_fakes(self, gen_z, gen_c, gain):
        """L(−D(G(z))), returned without its graph. GPUs share gradients in the pass over real images."""
        img, _ = self.run_G(gen_z, gen_c, sync=False)
        logits = self.run_D(img, gen_c, sync=False)
        loss = adversarial(-logits)
        report_logits("fake", logits)
        loss.mean().mul(gain).backward()
        return loss.detach()

    def train_D_on_reals(self, real_img, real_c, loss_fake, r1, sync, gain):
        """L(D(x)) unless `loss_fake` is None, plus γ/2 |∇_x D(x)|² if `r1`: one forward pass for both."""
        img = real_img.detach().requires_grad_(r1)
        logits = self.run_D(img, real_c, sync)
        report_logits("real", logits)
        loss = unmoved(logits).mean()
        if loss_fake is not None:
            loss_real = adversarial(logits)
            training_stats.report("Loss/D/loss", loss_fake + loss_real)
            loss = loss + loss_real.mean()
        if r1:
            with conv2d_gradfix.no_weight_gradients():
                (slope,) = torch.autograd.grad(logits.sum(), img, create_graph=True)
            penalty = slope.square().sum(dim=[1, 2, 3])
            loss_r1 = penalty * (self.r1_gamma / 2)
            training_stats.report("Loss/r1_penalty", penalty)
            training_stats.report("Loss/D/reg", loss_r1)
            loss = loss + loss_r1.mean()
        loss.mul(gain).backward()


def unmoved(output):
    """Zero, but part of `output`'s graph: a regulariser alone does not reach every parameter (biases), and
    DistributedDataParallel waits for a gradient of each; the optimiser, too, then treats all alike."""
    return output * 0
