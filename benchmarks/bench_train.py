#!/usr/bin/env python
"""Training steps of train.py's loop against a plain loop as published, on the same net and loss.

python benchmarks/bench_train.py                             on a GPU if there is one
python benchmarks/bench_train.py --nets resnet18 vit --compile on
python benchmarks/bench_train.py --device cpu --nets resnet18 --threads 2

The baseline is written here in the style of the usual CIFAR repositories: PIL images, torchvision's
transforms in DataLoader workers, eager float16 autocast with GradScaler on CUDA (float32 on a CPU),
contiguous tensors, torch.optim.Adam as it comes, and the loss and the accuracy read by the host after every
step. Its nets are ours, so this compares loops; published ViTs write out their attention and are slower.
"""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from bench_data import PilImages, published_loader, published_transform
from measure import Column, parser, prepare, register_random_images, report, seconds
from torch.utils.flop_counter import FlopCounterMode

import train
from common import UserError
from data import DATASETS
from data.source import Request
from engine.cli import fail, number
from engine.distributed import World
from engine.saver import Progress
from losses import build_loss
from models import build_model

PROG = "bench_train.py"
NETS = ["vit", "vit_small", "resnet18", "vgg19", "swin", "cait"]


def parse_args(argv=None):
    p = parser(PROG, __doc__)
    p.add_argument("--nets", nargs="+", default=NETS, metavar="NET", help="names of train.py --list-nets")
    p.add_argument("--loss", choices=("root", "rlo", "ce", "focal"), default="root", help="of both loops")
    p.add_argument("--bs", type=number(int, 2), metavar="N", help="images a step (default: 512, on a CPU 32)")
    p.add_argument("--size", type=number(int, 8), default=32, metavar="PX", help="of the images")
    p.add_argument("--steps", type=number(int, 2), metavar="N", help="in a turn (default: 50, on a CPU 4)")
    p.add_argument("--rounds", type=number(int, 1), default=3, metavar="N", help="turns of each loop")
    p.add_argument("--compile", choices=("on", "off"), default="off", help="torch.compile, in our loop only")
    p.add_argument("--workers", type=number(int, 1), default=2, metavar="N", help="of the baseline's loader")
    return p.parse_args(argv)


class Resident:
    """The same batch again and again: a loader that costs nothing."""

    def __init__(self, batch, steps):
        self.batch, self.steps, self.num_samples = batch, steps, steps * len(batch[1])

    def __len__(self):
        return self.steps

    def __iter__(self):
        return iter([self.batch] * self.steps)

    def set_epoch(self, epoch, start_batch=0):
        """No epoch differs."""


def our_job(args, net):
    """What train.py makes of its flags, ready for ``train_one_epoch``, and its training batches."""
    flags = ["--dataset", "random", "--net", net, "--bs", args.bs, "--size", args.size, "--loss", args.loss]
    flags += ["--device", args.device, "--compile", args.compile]
    parsed, _ = train.parse_args([str(flag) for flag in flags])
    with contextlib.redirect_stdout(io.StringIO()):
        job = train.build(parsed, World(args.device))
    job.saver = SimpleNamespace(due=lambda step: False)
    job.progress = Progress()
    return job, job.data.train


def our_epoch(job, batches):
    """train.py's epoch over `batches`."""
    job.data = SimpleNamespace(train=batches)
    job.progress.batch, job.progress.seconds = 0, 0.0
    train.train_one_epoch(job, SimpleNamespace(requested=False))


class Baseline:
    """The loop as published, around a net of its own."""

    def __init__(self, args, net, lr, device):
        images = DATASETS["random"].load(Request("random", Path())).train
        self.loader = published_loader(PilImages(images, published_transform(args.size)), args)
        self.net, self.loss, self.device = (
            build_model(net, 10, args.size).to(device),
            build_loss(args.loss),
            device,
        )
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=lr)
        self.scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")

    def turn(self):
        """Seconds for an epoch, from the second step on: workers that start take the cores from the first."""
        batches = iter(self.loader)
        self.epoch([next(batches)])
        return seconds(self.epoch, self.device, batches) * len(self.loader) / (len(self.loader) - 1)

    def epoch(self, batches):
        torch.set_float32_matmul_precision("highest")  # torch's default, which train.py lowers
        torch.backends.cudnn.benchmark = True
        self.net.train()
        total_loss, correct, seen = 0.0, 0, 0
        for images, labels in batches:
            images, labels = images.to(self.device), labels.to(self.device)
            self.optimizer.zero_grad()
            with torch.autocast(self.device.type, torch.float16, enabled=self.scaler.is_enabled()):
                logits = self.net(images)
                loss = self.loss(logits, labels)
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            total_loss += loss.item()
            correct += logits.max(1)[1].eq(labels).sum().item()
            seen += len(labels)
        torch.backends.cudnn.benchmark = False
        torch.set_float32_matmul_precision("high")
        return total_loss, correct / seen


def count_flops(job, batch):
    """Floating-point operations of matrix products, convolutions and attention in one step."""
    with FlopCounterMode(display=False) as counter:
        loss, _ = job.forward(job.net, *batch)
        loss.backward()
    job.optimizer.zero_grad()
    return counter.get_total_flops()


def matmul_rate(device, dtype):
    """A function that multiplies two large matrices, and its floating-point operations."""
    side = 8192 if device.type == "cuda" else 2048
    a = torch.randn(side, side, device=device, dtype=dtype)
    return lambda: a @ a, 2 * side**3


def measure(args, net):
    """The row of one net; its loops take turns."""
    job, batches = our_job(args, net)
    device = job.world.device
    batch = next(iter(batches))
    our_epoch(job, Resident(batch, 2))  # compiles and warms up
    memory = job.world.peak_memory()
    flops = count_flops(job, batch)
    multiply, multiply_flops = matmul_rate(
        device, job.precision.half if job.precision.mixed else torch.float32
    )
    baseline = Baseline(args, net, job.args.lr, device)
    baseline.epoch([batch] * 2)

    times = {"ours": [], "compute": [], "baseline": [], "matmul": []}
    for _ in range(args.rounds):
        times["ours"].append(seconds(our_epoch, device, job, batches))
        times["baseline"].append(baseline.turn())
        times["compute"].append(seconds(our_epoch, device, job, Resident(batch, args.steps)))
        times["matmul"] += [seconds(multiply, device) for _ in range(5)]
    spent = {name: min(values) for name, values in times.items()}
    images, peak = args.bs * args.steps, multiply_flops / min(times["matmul"])
    return {
        "net": net, "ours": images / spent["ours"], "baseline": images / spent["baseline"],
        "ratio": spent["baseline"] / spent["ours"], "tflops": flops * args.steps / spent["ours"] / 1e12,
        "peak_tflops": peak / 1e12, "share_of_peak": flops * args.steps / spent["ours"] / peak,
        "memory_gib": memory, "input_bound": 1 - spent["compute"] / spent["ours"], "seconds": times,
    }  # fmt: skip


def measure_in_own_process(net):
    """The same in a process of its own, whose memory is then that of this net."""
    command = [sys.executable, *sys.argv, "--nets", net, "--json", "-"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)  # it has said why
    return json.loads(done.stdout)["rows"][0]


def main(argv=None):
    args = parse_args(argv)
    device = prepare(args, PROG)
    on_gpu = device.type == "cuda"
    args.device, args.bs, args.steps = (
        device.type,
        args.bs or (512 if on_gpu else 32),
        args.steps or (50 if on_gpu else 4),
    )
    if len(args.nets) > 1:
        rows = [measure_in_own_process(net) for net in args.nets]
    else:
        register_random_images(args.bs * args.steps, args.size)
        try:
            rows = [measure(args, args.nets[0])]
        except UserError as error:
            fail(error, PROG)
    columns = [
        Column("net", "net"), Column("ours", "ours, img/s", "{:,.1f}"),
        Column("baseline", "baseline, img/s", "{:,.1f}"), Column("ratio", "ratio", "{:.2f}"),
        Column("tflops", "TFLOP/s", "{:.3g}"), Column("share_of_peak", "of matmul's", "{:.0%}"),
        Column("input_bound", "waiting for input", "{:.1%}"), Column("memory_gib", "memory, GiB", "{:.2f}"),
    ]  # fmt: skip
    title = (
        f"training steps of {args.bs} images of {args.size} px, {args.loss} loss, compile {args.compile}: "
        f"fastest of {args.rounds} turns of {args.steps} steps"
    )
    report(PROG, title, rows, columns, device, args.json)


if __name__ == "__main__":
    main()
