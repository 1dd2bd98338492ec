"""Compare the gradients of our loss file with those of a clone's own, in the clone's own networks.

    python tests/stylegan_patch_gradients.py CLONE OURS

CLONE is a clone of stylegan2-ada-pytorch or stylegan3, OURS the loss file made for it. Where apply.py has
been at work (an untouched stylegan3 does not even import), the clone's own loss is loss_original.py. Needs
no GPU: on a CPU the clone's custom ops run their reference code. Prints one line of JSON a case, and last
the largest relative error. A program, because both clones call their packages `training` and `torch_utils`.
"""

import argparse
import copy
import importlib.util
import json
import math
import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

PHASES = ("Gmain", "Greg", "Gboth", "Dmain", "Dreg", "Dboth")
SIZE, BATCH = 16, 4
NET = {"c_dim": 0, "img_resolution": SIZE, "img_channels": 3, "channel_base": 512, "channel_max": 32}


def rooted_softplus(k, softplus=F.softplus):
    """What the published code has in place of softplus: k · exp(softplus(x)/k)."""
    return lambda x: k * torch.exp(softplus(x) / k)


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def networks(is_3, aug):
    """A 16×16 generator and discriminator and the whole augmentation pipe, as the clone builds them."""
    import dnnlib
    from training.augment import AugmentPipe

    make = dnnlib.util.construct_class_by_name
    mapping = {"num_layers": 2}
    small = {**NET, "z_dim": 16, "w_dim": 16, "mapping_kwargs": mapping}
    if is_3:
        G = make(class_name="training.networks_stylegan3.Generator", num_layers=4, **small)
        D = make(class_name="training.networks_stylegan2.Discriminator", **NET)
    else:
        synthesis = {"channel_base": NET["channel_base"], "channel_max": NET["channel_max"]}
        small = {key: value for key, value in small.items() if not key.startswith("channel_")}
        G = make(class_name="training.networks.Generator", synthesis_kwargs=synthesis, **small)
        D = make(class_name="training.networks.Discriminator", **NET)
    kinds = "xflip rotate90 xint scale rotate aniso xfrac brightness contrast lumaflip hue saturation"
    kinds = f"{kinds} noise cutout".split()
    pipe = AugmentPipe(**dict.fromkeys(kinds, 1)) if aug else None
    if pipe is not None:
        pipe.p.copy_(torch.as_tensor(0.6))
    return G.train().requires_grad_(False), D.train().requires_grad_(False), pipe


def gradients(loss_class, phase, is_3, aug, steps=2, **options):
    """Every parameter's gradient, running averages and the loss's own state after `steps` calls of a phase.

    Weights are scaled up so that logits differ by several units: at initialisation they are all near 0,
    where k · exp(softplus/k) is almost straight.
    """
    torch.manual_seed(3)
    G, D, pipe = networks(is_3, aug)
    D.b4.out.weight.mul_(20)
    G, D = copy.deepcopy(G), copy.deepcopy(D)
    device = torch.device("cpu")
    if is_3:
        options.update(pl_weight=2, blur_init_sigma=2, blur_fade_kimg=1)
        loss = loss_class(device=device, G=G, D=D, augment_pipe=pipe, **options)
    else:
        loss = loss_class(
            device=device, G_mapping=G.mapping, G_synthesis=G.synthesis, D=D, augment_pipe=pipe, **options
        )
    net = G if phase[0] == "G" else D
    net.requires_grad_(True)
    # Uninitialised memory must not decide what is compared: the RNG draws the same for both losses.
    torch.manual_seed(4)
    real = torch.rand(BATCH, 3, SIZE, SIZE) * 2 - 1
    z, c = torch.randn(BATCH, 16), torch.zeros(BATCH, 0)
    for step in range(steps):
        last = {"gain": 4, "cur_nimg": 500} if is_3 else {"gain": 4, "sync": step == steps - 1}
        loss.accumulate_gradients(phase=phase, real_img=real, real_c=c, gen_z=z, gen_c=c, **last)
    found = {f"grad {name}": p.grad for name, p in net.named_parameters()}
    found.update({f"buffer {name}": b for m in (G, D) for name, b in m.named_buffers()})
    found["pl_mean"] = loss.pl_mean
    return found


def relative_error(ours, theirs):
    """‖a − b‖ / ‖b‖ a tensor; infinite where only one of them has a gradient, or one is not finite."""
    if ours is None or theirs is None:
        return 0.0 if ours is theirs else math.inf
    difference, size = (ours - theirs).double().norm().item(), theirs.double().norm().item()
    if not (math.isfinite(difference) and math.isfinite(size)):
        return math.inf
    return difference / size if size else (0.0 if difference == 0 else math.inf)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clone", type=Path)
    parser.add_argument("ours", type=Path)
    parser.add_argument("--style-mixing", type=float, default=0.0)
    args = parser.parse_args()
    os.environ.pop("RLO_K", None)
    os.environ.pop("RLO_LS", None)
    sys.path.insert(0, str(args.clone))
    original = args.clone / "training" / "loss_original.py"
    theirs = load(original if original.exists() else original.with_name("loss.py"), "theirs")
    ours = load(args.ours, "ours")
    is_3 = (args.clone / "training" / "networks_stylegan3.py").exists()
    plain, worst = F.softplus, 0.0
    for ls, k in (("ce", 2.0), ("rlo", 2.0), ("rlo", 5.0)):
        for aug in (False, True):
            for phase in PHASES:
                options = {"style_mixing_prob": args.style_mixing, "phase": phase, "is_3": is_3, "aug": aug}
                ours.ls, ours.kparam = ls, k
                found = gradients(ours.StyleGAN2Loss, **options)
                F.softplus = plain if ls == "ce" else rooted_softplus(k)
                reference = gradients(theirs.StyleGAN2Loss, **options)
                F.softplus = plain
                assert found.keys() == reference.keys()
                errors = {name: relative_error(found[name], reference[name]) for name in reference}
                name = max(errors, key=errors.get)
                worst = max(worst, errors[name])
                grads = sum(value is not None for key, value in reference.items() if key.startswith("grad"))
                print(json.dumps({"ls": ls, "k": k, "aug": aug, "phase": phase, "gradients": grads,
                                  "worst": errors[name], "in": name}))  # fmt: skip
    print(json.dumps({"largest relative error": worst}))


if __name__ == "__main__":
    main()
