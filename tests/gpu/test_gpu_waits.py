"""No step and no test batch waits for the GPU, whatever the net, loss, cache and kind of step."""

import warnings

import pytest
import torch
from gpu_setting import CACHES, LOSSES, NETS, STEPS, images, needs_gpu, training  # noqa: F401

from engine.graph import WARM_UP

pytestmark = needs_gpu
HOW = [
    f"--net resnet18 {flags}"
    for flags in (
        "--accumulate 2", "--amp fp16 --clip-grad 1", "--graph on", "--graph on --ema 0.99 --amp fp16 --k-end 8",
        "--compile on", "--compile on --graph on",
    )
]  # fmt: skip


def waits(run, *args, **options):
    """Where `run` made the host wait, as torch sees it."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            run(*args, **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [f"{w.filename}:{w.lineno} {w.message}" for w in seen if "synchronizing CUDA" in str(w.message)]


def check_waits(words):
    """An epoch and a test wait at their ends only: as often for many batches as for few."""
    t = training(words, images=16 * 24)
    t.epoch()  # makes the optimiser's state, compiles, records a graph
    few, many = (waits(t.epoch, 1, steps=steps) for steps in (2, 0))
    assert few and len(few) == len(many), f"{words}: a step waits: {sorted(set(many))}"
    batch = next(iter(t.data.test))
    for averaged in (False, True)[: 1 + (t.trainer.averaged is not None)]:
        t.test(averaged, [batch] * (WARM_UP + 2))
        few, many = (waits(t.test, averaged, [batch] * n) for n in (1, 5))
        assert few and len(few) == len(many), f"{words}: a test batch waits: {sorted(set(many))}"


@pytest.mark.parametrize("words", [f"--net {net}" for net in NETS] + LOSSES + CACHES + STEPS + HOW)
def test_the_host_never_waits_within_an_epoch_or_a_test(words, images):  # noqa: F811
    check_waits(words)
