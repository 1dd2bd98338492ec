"""Compare the gradients of our drop-in loss with those of a clone's own loss, in the clone's own networks.

    python tests/stylegan_patch_gradients.py CLONE

CLONE is a clone of stylegan2-ada-pytorch where apply.py has been at work, so its own loss calls
`rooted.softplus`, which is torch's softplus for "ce". Needs no GPU: on a CPU the clone's custom ops run their
reference code. Prints one line of JSON a case, with the names of the tensors that differ in any bit.
"""

import argparse
import copy
import importlib.util
import json
import os
import sys
from pathlib import Path

import torch

OURS = Path(__file__).resolve().parent.parent / "stylegan_patch" / "loss.py"
PHASES = ("Gmain", "Greg", "Gboth", "Dmain", "Dreg", "Dboth")
SIZE, BATCH = 16, 4
NET = {"c_dim": 0, "img_resolution": SIZE, "img_channels": 3}
CHANNELS = {"channel_base": 512, "channel_max": 32}
AUGMENT = (
    "xflip rotate90 xint scale rotate aniso xfrac brightness contrast lumaflip hue saturation noise cutout"
)


def networks(augment):
    """A 16×16 generator and discriminator and the whole augmentation pipe, as the clone builds them."""
    from training.augment import AugmentPipe
    from training.networks import Discriminator, Generator

    mapping = {"num_layers": 2}
    G = Generator(z_dim=16, w_dim=16, mapping_kwargs=mapping, synthesis_kwargs=CHANNELS, **NET)
    D = Discriminator(**NET, **CHANNELS)
    pipe = AugmentPipe(**dict.fromkeys(AUGMENT.split(), 1)) if augment else None
    if pipe is not None:
        pipe.p.copy_(torch.as_tensor(0.6))
    return G.train().requires_grad_(False), D.train().requires_grad_(False), pipe


def gradients(loss_class, phase, augment, style_mixing_prob, steps=2):
    """Every parameter's gradient, running averages and the loss's own state after `steps` calls of a phase.

    Weights are scaled up so that logits differ by several units: at initialisation they are all near 0,
    where k · exp(softplus/k) is almost straight.
    """
    torch.manual_seed(3)
    G, D, pipe = networks(augment)
    D.b4.out.weight.mul_(20)
    G, D = copy.deepcopy(G), copy.deepcopy(D)
    loss = loss_class(
        device=torch.device("cpu"),
        G_mapping=G.mapping,
        G_synthesis=G.synthesis,
        D=D,
        augment_pipe=pipe,
        style_mixing_prob=style_mixing_prob,
    )
    net = G if phase[0] == "G" else D
    net.requires_grad_(True)
    torch.manual_seed(4)
    real = torch.rand(BATCH, 3, SIZE, SIZE) * 2 - 1
    z, c = torch.randn(BATCH, 16), torch.zeros(BATCH, 0)
    for step in range(steps):
        loss.accumulate_gradients(
            phase=phase, real_img=real, real_c=c, gen_z=z, gen_c=c, gain=4, sync=step == steps - 1
        )
    found = {f"grad {name}": p.grad for name, p in net.named_parameters() if p.requires_grad}
    found.update({f"buffer {name}": b for m in (G, D) for name, b in m.named_buffers()})
    found["pl_mean"] = loss.pl_mean
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clone")
    parser.add_argument("--style-mixing", type=float, default=0.0)
    args = parser.parse_args()
    os.environ.pop("RLO_K", None)
    os.environ.pop("RLO_LS", None)
    sys.path.insert(0, args.clone)  # its packages are called training and torch_utils
    from training import loss as theirs
    from training import rooted

    spec = importlib.util.spec_from_file_location("ours", OURS)
    ours = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ours)
    for ls, k in (("ce", 2.0), ("rlo", 2.0), ("rlo", 5.0)):
        for settings in (ours, rooted):
            settings.ls, settings.kparam = ls, k
        for augment in (False, True):
            for phase in PHASES:
                found = gradients(ours.StyleGAN2Loss, phase, augment, args.style_mixing)
                reference = gradients(theirs.StyleGAN2Loss, phase, augment, args.style_mixing)
                different = [name for name in reference if not torch.equal(found[name], reference[name])]
                count = sum(name.startswith("grad") for name in reference)
                case = {"ls": ls, "k": k, "augment": augment, "phase": phase}
                print(json.dumps({**case, "gradients": count, "different": different}))


if __name__ == "__main__":
    main()
