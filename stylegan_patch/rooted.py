"""The rooted logistic loss in the place of softplus, beside the loss of any GAN. Part of rooted-loss.

`python stylegan_patch/apply.py CLONE` puts this file into the clone's training/ folder and lets its loss call
`rooted.softplus`. `RLO_LS=ce` or `RLO_K=5` before the training command choose another objective for that run.
"""

import math
import os

import torch

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
