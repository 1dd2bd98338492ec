"""The numbers of a GPU: those of float64, of the CPU and of eager steps, however a step is computed."""

import contextlib

import pytest
import torch
from gpu_setting import CACHES, LOSSES, STEPS, images, needs_gpu, training  # noqa: F401

from benchmarks.measure import register_random_images
from data import build_data
from engine.graph import WARM_UP
from losses import build_loss, loss_names
from models import list_models, net_facts

pytestmark = needs_gpu
TOLERANCE = {torch.float32: 2e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}
RECORDABLE = [f"--net {net} --opt sgd" for net in list_models() if net_facts(net).recordable]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", loss_names())
def test_losses_and_gradients_are_those_of_float64(name, compiled, device="cuda"):
    """From half-precision logits too, up to 200 apart: to a share of each sample's largest."""
    loss, truth = (build_loss(name, reduction="none").to(place) for place in (device, "cpu"))
    loss = torch.compile(loss, dynamic=False) if compiled else loss
    target = torch.arange(64) % 10
    noise = torch.randn(64, 10, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    for dtype, allowed in TOLERANCE.items():
        for spread in (1.0, 30.0, 100.0):
            logits = (spread * noise).to(dtype).to(device).requires_grad_()
            wanted = logits.detach().cpu().double().requires_grad_()
            with torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32):
                value = loss(logits, target.to(device))
            expected = truth.double()(wanted, target)
            for x in (value, expected):
                x.sum().backward()
            for got, want, floor in ((value, expected, 0.1 * spread), (logits.grad, wanted.grad, 0.01)):
                got, want = (x.detach().cpu().double().view(64, -1) for x in (got, want))
                assert got.isfinite().all(), (dtype, spread)
                # rlo is linear where its derivative would leave the type: there float64 is another function.
                if not (name == "rlo" and dtype == torch.float16 and spread > 1):
                    off = (got - want).abs().amax(1) / (want.abs().amax(1) + floor)
                    assert off.max() <= allowed, (dtype, spread, off.max())


@pytest.mark.parametrize(
    "options", [{}, {"cache": "ram"}, {"randaug": True}, {"channels_last": True}, {"augment": False}], ids=str
)
def test_batches_are_those_of_the_cpu(options, device="cuda"):
    register_random_images(300, 32)
    cpu, gpu = (list(build_data("random", ".", 32, 128, place, **options).train) for place in ("cpu", device))
    off = torch.cat([(a - b.cpu()).abs().flatten() for (a, _), (b, _) in zip(cpu, gpu, strict=True)])
    # A level more or less before Solarize or Posterize is many after it.
    allowed, some = (1.01 / 255 / 0.25, 1e-3) if options.get("randaug") else (1e-5, 0.0)
    assert (off > allowed).double().mean() <= some
    assert all(torch.equal(a, b.cpu()) for (_, a), (_, b) in zip(cpu, gpu, strict=True))


@contextlib.contextmanager
def exact_float32():
    """No TF32, and convolutions that add up in one order: what is left differs in the last bits."""
    cudnn, precision = torch.backends.cudnn, torch.get_float32_matmul_precision()
    before = cudnn.allow_tf32, cudnn.deterministic
    cudnn.allow_tf32, cudnn.deterministic = False, True
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.deterministic = before
        torch.set_float32_matmul_precision(precision)


def numbers_of(words):
    """Losses, answers and norms of two epochs, and of the tests after them."""
    t, numbers = training(words), []
    t.trainer.rate = lambda step: 2.0 ** -(8 + step // 6)  # a graph has its rate in float32
    for module in t.trainer.net.modules():  # Inductor draws other random numbers
        for name in {"p", "drop_prob"} & vars(module).keys():
            setattr(module, name, 0.0)
    batch = next(iter(t.data.test))
    with exact_float32():
        for epoch in range(2):
            t.epoch(epoch)
            numbers.append(t.trainer.meter.state()["rows"])
            for averaged in (False, True)[: 1 + (t.trainer.averaged is not None)]:
                numbers.append(t.test(averaged, [batch] * (WARM_UP + 2))[1])
    assert all(x.isfinite().all() for x in numbers), words
    return numbers


@pytest.mark.parametrize("words", RECORDABLE + LOSSES + CACHES[1:] + STEPS)
def test_replayed_steps_are_the_eager_ones_to_the_last_bit(words, images):  # noqa: F811
    eager, replayed = (numbers_of(f"{words} --graph {graph}") for graph in ("off", "on"))
    for a, b in zip(eager, replayed, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("net", ["resnet18", "vgg11", "swin_tiny"])
def test_compiled_steps_are_the_eager_ones_and_replayed_to_the_last_bit(net):
    """Compiled code rounds elsewhere; SGD, since Adam's first steps would make much of that."""
    words = f"--net {net} --noamp --opt sgd --lr 0.02"
    eager, compiled, replayed = (
        numbers_of(f"{words} {how}") for how in ("", "--compile on", "--compile on --graph on")
    )
    for a, b, c in zip(eager, compiled, replayed, strict=True):
        torch.testing.assert_close(a, b, rtol=0.01, atol=0.01 * float(a.abs().max()))
        torch.testing.assert_close(b, c, rtol=0, atol=0)
