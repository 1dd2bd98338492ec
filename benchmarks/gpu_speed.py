"""Checks of gpu_acceptance.py that measure: images a second, kernels a step, the gap between epochs."""

import math
import os
import statistics
from types import SimpleNamespace

import bench_train
import torch
from gpu_setting import alone, job_of, need, steps_of
from measure import register_random_images, seconds, wait

from common import is_out_of_memory
from data import build_data
from engine.graph import WARM_UP
from models import net_facts

STEPS = {64: 90, 128: 60, 512: 30}  # of a turn, by batch size
SIX = ["vit", "vit_small", "resnet18", "vgg19", "swin", "cait"]
# Kernels that an eager step may launch: an H200's 980 and 436, and a quarter on top for other versions of libraries
KERNELS = {"vit": 1225, "resnet18": 545}
# The aims at batch 512 on an H100: times the published loop, and share of the matrix products' rate
TIMES_PUBLISHED, SHARE_OF_PEAK = {"resnet18": 5.0, "vit": 3.0}, {"vit": 0.4}


@alone
def speed(s):
    """Images a second, eager, graphed, compiled and both (these two at the largest batch; with --full at all), beside
    the published-style loop and the rate of matrix products in the same run; the aims are those for an H100."""
    steps_of_turn = {8: 2} if s.small else STEPS
    for net in ["resnet20"] if s.small else SIX:
        for bs, steps in steps_of_turn.items():
            row = {"net": net, "bs": bs}
            s.rows.append(row)
            with s.case(f"{net}, {bs} images"):
                rates_of(s, net, bs, steps, bs == max(steps_of_turn), row)
            if s.on_gpu and bs == 512 and torch.cuda.get_device_capability(s.device) >= (9, 0):
                for aims, what in ((TIMES_PUBLISHED, "times published"), (SHARE_OF_PEAK, "share of matmul")):
                    if net in aims:
                        got = row.get(what, math.nan)
                        s.expect(got >= aims[net], f"{net}: {what} {got:.2f}, the aim is {aims[net]:g}")


def rates_of(s, net, bs, steps, largest_batch, row):
    """Images a second of our loop in its modes, and of the published one, into `row`; what has no room says so."""
    register_random_images(bs * steps, 32)
    workers = min(8, os.cpu_count() or 1)
    args = bench_train.parse_args(
        ["--device", s.device.type, "--bs", str(bs), "--steps", str(steps), "--workers", str(workers)]
    )
    layout = net_facts(net).channels_last
    data = build_data("random", "", 32, bs, s.device, channels_last=layout).train
    batch, work = next(iter(data)), {}

    def ours(**options):
        trainer = bench_train.our_trainer(SimpleNamespace(**vars(args) | options), net, s.device)
        bench_train.our_epoch(trainer, [batch] * (WARM_UP + 3))
        if not options:
            precision = trainer.precision
            work["type"] = precision.half if precision.mixed else torch.float32
            work["of a step"] = bench_train.count_flops(trainer, batch)
        return min(seconds(bench_train.our_epoch, s.device, trainer, data) for _ in range(2))

    def published():
        loop = bench_train.Baseline(args, net, 1e-3, s.device)
        loop.epoch([batch] * 2)
        return loop.turn()

    modes = {"eager": ours}
    if s.on_gpu:
        compiles = largest_batch or s.full
        modes["graphed"] = lambda: ours(graph="on")
        if compiles:
            modes |= {
                "compiled": lambda: ours(compile="on"),
                "both": lambda: ours(compile="on", graph="on"),
            }
    if largest_batch:
        modes["published"] = published
    spent = {}
    for mode, run in modes.items():
        try:
            spent[mode] = run()
            row[mode] = bs * steps / spent[mode]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            row[mode] = "no room"
        s.free()
    fastest = min([spent[mode] for mode in spent if mode != "published"], default=math.nan)
    if work:
        multiply, of_one = bench_train.matmul_rate(s.device, work["type"])
        peak = of_one / min(seconds(multiply, s.device) for _ in range(5))
        row["share of matmul"] = work["of a step"] * steps / fastest / peak
        row["matmul TFLOP/s"] = peak / 1e12
    if "published" in spent:
        row["times published"] = spent["published"] / fastest


@alone
def profile(s):
    """Kernels of a step, against their budget; the GPU's idle share, and what a launch costs the host."""
    need(s.on_gpu, "it counts a GPU's kernels")
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    for net, budget in KERNELS.items():
        with s.case(net):
            job, count = job_of(s, f"--net {net} --bs 64", 64 * 20), 3
            steps = steps_of(job, 10 + count)
            for _ in zip(range(10), steps, strict=False):
                pass
            wait(s.device)
            with profiler(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
                for _ in zip(range(count), steps, strict=False):
                    pass
                wait(s.device)
            row = {"net": net, "budget": budget} | profile_of(seen.events(), count)
            s.rows.append(row)
            kernels = row["kernels a step"]
            s.expect(kernels, f"{net}: the profiler has seen no kernel; is it allowed to?")
            s.expect(kernels <= budget, f"{net}: {kernels:.0f} kernels a step of {budget}")


def profile_of(events, steps):
    """Kernels a step, share of the time without one, and the median of a launch, of a profiler's events."""
    on_gpu = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA]
    # what users name, an optimiser's step for one, has a place on the GPU's line too
    on_gpu = [e for e in on_gpu if not e.is_user_annotation and not e.name.startswith(("Memcpy", "Memset"))]
    busy, until = 0.0, -math.inf
    for e in sorted(on_gpu, key=lambda e: e.time_range.start):
        busy += max(0.0, e.time_range.end - max(until, e.time_range.start))
        until = max(until, e.time_range.end)
    span = until - min((e.time_range.start for e in on_gpu), default=0)
    launches = [e.time_range.elapsed_us() for e in events if "LaunchKernel" in e.name]
    return {
        "kernels a step": len(on_gpu) / steps, "idle share": 1 - busy / span if on_gpu else math.nan,
        "µs a launch": statistics.median(launches) if launches else math.nan,
    }  # fmt: skip


@alone
def gap(s):
    """Between the epochs of 50,000 images: from the last step to the first batch of the next."""
    job = job_of(s, "--net vgg11 --bs 512", 2000 if s.small else 50_000)

    def first_batch(epoch):
        next(job.data.train.from_(epoch))

    first_batch(0)
    spent = [seconds(first_batch, s.device, epoch) for epoch in range(1, 4)]
    s.rows.append({"images": job.data.train.num_samples, "seconds": statistics.median(spent)})
    s.expect(statistics.median(spent) < 0.5, f"{statistics.median(spent):.2f} s between two epochs")
