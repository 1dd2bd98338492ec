"""What a GPU takes: kernels of a step, the pause between epochs, and images a second beside a published loop."""

import statistics

import pytest
import torch
from conftest import ROOT
from gpu_setting import needs_gpu, training

from benchmarks.measure import seconds

pytestmark = needs_gpu
# Kernels of an eager step: an H200's 980 and 436, and a quarter on top for other versions of the libraries.
KERNELS = {"vit": 1225, "resnet18": 545}


@pytest.mark.parametrize("net", KERNELS)
def test_an_eager_step_keeps_to_its_kernels(net, capsys):
    from torch.profiler import ProfilerActivity, profile

    t, steps = training(f"--net {net} --bs 64", images=64 * 10), 5
    t.epoch()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        t.epoch(1, steps=steps)
        torch.cuda.synchronize()
    kernels = [
        e for e in seen.events()
        if e.device_type == torch.autograd.DeviceType.CUDA and not e.is_user_annotation
        and not e.name.startswith(("Memcpy", "Memset"))
    ]  # fmt: skip
    launches = [e.time_range.elapsed_us() for e in seen.events() if "LaunchKernel" in e.name]
    with capsys.disabled():
        launch = statistics.median(launches) if launches else float("nan")
        print(f"\n{net}: {len(kernels) / steps:.0f} kernels a step, {launch:.1f} µs a launch")
    assert 100 < len(kernels) / steps <= KERNELS[net]


def check_gap(images):
    """Seconds from the last step of an epoch to the first batch of the next: below half a second."""
    t = training("--net vgg11 --bs 512", images=images)

    def first_batch(epoch):
        next(iter(t.data.train.from_(epoch)))

    first_batch(0)
    spent = statistics.median(seconds(first_batch, t.world.device, epoch) for epoch in range(1, 4))
    assert spent < 0.5, f"{spent:.2f} s between two epochs"
    return spent


def test_the_next_epoch_of_50000_images_begins_at_once(capsys):
    spent = check_gap(50_000)
    with capsys.disabled():
        print(f"\n{1000 * spent:.1f} ms between two epochs")


@pytest.mark.parametrize("how", ["off off", "off on", "on on"])
def test_images_a_second_beside_a_published_loop(how, capsys, monkeypatch):
    """Printed, for whoever reads it: how fast depends on the GPU."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import bench_train

    compiled, graphed = how.split()
    with capsys.disabled():
        print()
        words = (
            f"--device cuda --nets resnet18 vit --compile {compiled} --graph {graphed} --workers 8 --rounds 2"
        )
        bench_train.main(words.split())
