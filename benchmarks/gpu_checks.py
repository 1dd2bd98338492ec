"""Checks of gpu_acceptance.py within one process: no waits, losses, batches, nets, compiled and graphed steps."""

import contextlib
import itertools
import math
import tempfile
from pathlib import Path

import torch
from gpu_setting import check, job_of, largest, losses_of, need, steps_of, test_of
from measure import register_random_images
from PIL import Image

from data import build_data
from engine.graph import WARM_UP
from losses import build_loss, loss_names
from models import list_models, net_facts

# What must never wait: every family of nets, every loss, every cache. FOLDER: of image files.
EVERY_STEP = {
    "nets": [
        f"--net {net}"
        for net in (
            "vit", "vit_small", "resnet18", "vgg19", "swin", "cait", "resnet50", "resnet20", "timm:convnext_atto",
        )
    ],
}  # fmt: skip
EVERY_LOSS = {
    "losses": [f"--net vit_tiny --loss {loss}" for loss in loss_names()],
    "caches": [
        "--net vit_tiny --cache device", "--net vit_tiny --cache ram",
        "--net vit_tiny --cache none --dataset folder:FOLDER --size 32 --workers 2",
    ],
}  # fmt: skip
SGD = "--opt sgd --lr 0.02"
EVERY_OPTION = {
    "kinds of steps": [
        f"--net resnet18 {flags}"
        for flags in (
            "--randaug", "--clip-grad 1", "--accumulate 2", "--ema 0.99", "--opt sgd", "--mixup 0.2 --cutmix 1",
            "--label-smoothing 0.1", "--k-end 8", "--val-split 0.2", "--amp fp16", "--amp fp16 --clip-grad 1",
            "--noamp", "--graph on", "--graph on --ema 0.99 --amp fp16", "--compile on", "--compile on --graph on",
        )
    ],
}  # fmt: skip


def image_folder(where, count):
    """A folder of two classes of random images of 32 px, `count` to train on."""
    noise = torch.randint(256, (count, 32, 32, 3), dtype=torch.uint8).numpy()
    for split, some in (("train", noise), ("val", noise[:64])):
        for i, pixels in enumerate(some):
            folder = Path(where) / split / "ab"[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{i}.png")


@check
def waits(s):
    """Steps 3 to 20 of every net, and tests, never wait for the GPU (set_sync_debug_mode)."""
    none_waits(s, EVERY_STEP)


@check
def caches(s):
    """Nor do steps with every loss and every cache wait."""
    none_waits(s, EVERY_LOSS)


@check
def options(s):
    """Nor does any kind of step: clipped, accumulated, mixed, averaged, fp16, float32, graphed, compiled, …"""
    none_waits(s, EVERY_OPTION)


def none_waits(s, kinds):
    need(s.on_gpu, "a CPU never waits for itself")
    with tempfile.TemporaryDirectory() as folder:
        image_folder(folder, 32 * 21)
        for kind, cases in kinds.items():
            failed = len(s.failures)
            for flags in cases:
                with s.case(flags):
                    wait_nowhere(s, flags.replace("FOLDER", folder))
            waited = "; ".join(s.failures[failed:]) or "never"
            s.rows.append({"what": kind, "which": ", ".join(cases), "waited": waited})


def wait_nowhere(s, flags):
    """Steps and tests with these flags, in which torch raises where the host would wait."""
    job = job_of(s, f"{flags} --bs 32", 32 * 27)  # with --val-split 0.2 too 20 whole batches
    on_average = [False] + [True] * (job.trainer.averaged is not None)
    warm = WARM_UP + 1 if job.trainer.graphed else 2  # by then a graph is recorded
    for averaged in on_average * warm:
        test_of(job, averaged)
    job.trainer.train_mode()
    try:
        for step in steps_of(job, 20):
            if step == warm:
                torch.cuda.set_sync_debug_mode("error")
        scores = [test_of(job, averaged) for averaged in on_average]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    s.expect(
        all(math.isfinite(x.read()["loss"]) for x in scores), f"{flags}: the loss of a test is no number"
    )


@check
def losses(s):
    """Values and gradients from float16, bfloat16 and float32 logits up to 200 apart, eager and compiled: finite,
    and those of float64 on the CPU, to the share of a sample's largest that is shown."""
    tolerance = {torch.float32: 2e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}
    for name, compiled in itertools.product(loss_names(), (False,) if s.small else (False, True)):
        row = {"loss": name + ", compiled" * compiled}
        with s.case(row["loss"]):
            ours = build_loss(name, reduction="none").to(s.device)
            ours = torch.compile(ours, dynamic=False) if compiled else ours
            for dtype, allowed in tolerance.items():
                off = []
                for spread in (1.0, 30.0, 100.0):
                    case = f"{row['loss']}, {str(dtype)[6:]}, ± {spread:g}"
                    # rlo is linear where its derivative would leave the type: there float64 is another function
                    linear = name == "rlo" and dtype == torch.float16 and spread > 1
                    worst = difference(s, ours, name, dtype, spread, case)
                    s.expect(linear or worst <= allowed, f"{case}: {worst:.2g} off, {allowed:g} allowed")
                    off += [] if linear else [worst]
                row[str(dtype)[6:]] = largest(off)
        s.rows.append(row)


def difference(s, ours, name, dtype, spread, case):
    """The largest relative difference of a loss and its gradient from those in float64."""
    target = torch.arange(64) % 10
    noise = torch.randn(64, 10, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    here = (spread * noise).to(dtype).to(s.device).requires_grad_()
    there = here.detach().cpu().double().requires_grad_()
    with torch.autocast(s.device.type, dtype, enabled=dtype != torch.float32):
        value = ours(here, target.to(s.device))
    wanted = build_loss(name, reduction="none").double()(there, target)
    for loss in (value, wanted):
        loss.sum().backward()
    off = []
    for got, want, floor in (
        (value.detach(), wanted.detach(), 0.1 * spread),
        (here.grad, there.grad, 1e-2),
    ):
        got, want = got.cpu().double().view(64, -1), want.view(64, -1)
        s.expect(got.isfinite().all().item(), f"{case}: not finite")
        off += ((got - want).abs().amax(1) / (want.abs().amax(1) + floor)).tolist()
    return largest(off)


@check
def batches(s):
    """Batches are the CPU's: pixels to 1e-5, with RandAugment 99.9 % of them to a grey level; labels exactly."""
    register_random_images(300, 32)
    for options in ({}, {"cache": "ram"}, {"randaug": True}, {"channels_last": True}, {"augment": False}):
        plain, here = (
            list(build_data("random", ".", 32, 128, device, **options).train) for device in ("cpu", s.device)
        )
        off = torch.cat([(a - b.cpu()).abs().flatten() for (a, _), (b, _) in zip(plain, here, strict=True)])
        # a level more or less before Solarize or Posterize is many after it
        allowed, some = (1.01 / 255 / 0.25, 1e-3) if options.get("randaug") else (1e-5, 0.0)
        beyond = 1 - (off <= allowed).double().mean().item()
        shown = " ".join(f"{k}={v}" for k, v in options.items()) or "as they come"
        s.rows.append({"batches": shown, "largest difference": off.max().item(), "share beyond": beyond})
        s.expect(beyond <= some, f"{options}: {beyond:g} of the pixels are more than {allowed:g} off")
        equal = all(torch.equal(a, b.cpu()) for (_, a), (_, b) in zip(plain, here, strict=True))
        s.expect(equal, f"{options}: other labels")


@check
def nets(s):
    """Every net learns three steps, and its loss is a number."""
    # vit_timm's weights would be downloaded: the same net without
    names = [n if n != "vit_timm" else "timm:vit_base_patch16_384" for n in list_models()]
    for net in ["vgg11", "resnet20", "vit_tiny", "swin_tiny"] if s.small else names:
        with s.case(net):
            of_steps = losses_of(job_of(s, f"--net {net} --bs 4", 12), 3)
            s.rows.append({"net": net, "losses": " ".join(f"{x:.4f}" for x in of_steps)})
            s.expect(len(of_steps) == 3 and all(map(math.isfinite, of_steps)), f"{net}: {of_steps}")


@contextlib.contextmanager
def exact_float32():
    """No TF32, and convolutions that add up in one order: what is left differs in the last bits."""
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.deterministic, torch.get_float32_matmul_precision()
    cudnn.allow_tf32, cudnn.deterministic = False, True
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.deterministic = before[:2]
        torch.set_float32_matmul_precision(before[2])


@check
def compiled(s):
    """The losses of seven steps and of tests between them, compiled, are the eager ones, in float32 without dropout."""
    for net in ["vgg11"] if s.small else ["resnet18", "vgg11", "swin_tiny"]:
        for how in ["--compile on", *["--compile on --graph on"] * s.on_gpu]:
            same_losses(s, f"--net {net} --noamp {SGD}", how)


@check
def graphed(s):
    """Steps and tests recorded as CUDA graphs have the eager losses: every net of --graph auto, kind of step, loss
    and cache."""
    need(s.on_gpu, "only CUDA has graphs")
    nets = [f"--net {net} {SGD}" for net in list_models() if net_facts(net).recordable]
    others = EVERY_LOSS["losses"] + EVERY_LOSS["caches"][1:] + EVERY_OPTION["kinds of steps"]
    never = ("--graph", "--compile", "--accumulate", "--amp fp16 --clip-grad")  # or another check's
    with tempfile.TemporaryDirectory() as folder:
        image_folder(folder, 80)
        for flags in nets + [flags for flags in others if not any(part in flags for part in never)]:
            same_losses(s, flags.replace("FOLDER", folder), "--graph on")


def same_losses(s, flags, how):
    """A row: the largest difference of five steps, a test, two steps and a test with these flags and with `how` too."""
    with s.case(f"{flags} {how}"):
        got = []
        for more in ("", how):
            job = job_of(s, f"--bs 16 {flags} {more}", 100 if "--val-split" in flags else 80)
            for module in job.trainer.net.modules():  # Inductor draws other random numbers
                for name in {"p", "drop_prob"} & vars(module).keys():
                    setattr(module, name, 0.0)
            with exact_float32():
                tested = losses_of(job, 5, WARM_UP + 2)[-1]
                job.trainer.train_mode()
                got.append([tested, *losses_of(job, 2, 1)])  # of all seven steps
        off = largest(abs(a - b) / abs(b) for a, b in zip(*got, strict=True))
        # Adam's first steps have the size of the learning rate for the smallest gradient, whose sign is rounding error
        allowed = 0.01 if SGD in flags else 0.03
        s.rows.append({"flags": flags, "how": how, "largest relative difference": off})
        s.expect(off < allowed, f"{flags} {how}: {off:.2g} off")
