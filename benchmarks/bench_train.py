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

from itertools import repeat
from pathlib import Path

import torch
from bench_data import PilImages, published_loader, published_transform
from measure import Column, Training, parser, prepare, register_random_images, report, seconds
from torch.utils.flop_counter import FlopCounterMode

from common import number, one_line_errors
from data import DATASETS
from engine.graph import WARM_UP
from losses import build_loss, loss_names
from models import build_model, net_facts

PROG = "bench_train.py"
NETS = ["vit", "vit_small", "resnet18", "vgg19", "swin", "cait"]


def parse_args(argv=None):
    p = parser(PROG, __doc__)
    p.add_argument("--nets", nargs="+", default=NETS, metavar="NET", help="names of train.py --list-nets")
    p.add_argument("--loss", choices=loss_names(), default="root", help="of both loops")
    p.add_argument("--bs", type=number(int, 2), metavar="N", help="images a step (default: 512, on a CPU 32)")
    p.add_argument("--size", type=number(int, 8), default=32, metavar="PX", help="of the images")
    p.add_argument("--steps", type=number(int, 2), metavar="N", help="in a turn (default: 50, on a CPU 4)")
    p.add_argument("--rounds", type=number(int, 1), default=3, metavar="N", help="turns of each loop")
    p.add_argument("--compile", choices=("on", "off"), default="off", help="torch.compile, in our loop only")
    p.add_argument("--graph", choices=("on", "off"), default="off", help="replay our step as one CUDA graph")
    p.add_argument("--workers", type=number(int, 1), default=2, metavar="N", help="of the baseline's loader")
    return p.parse_args(argv)


class Repeated:
    """One batch, again and again: an epoch that never waits for its input."""

    def __init__(self, batch, steps):
        self.batch, self.steps, self.num_samples = batch, steps, steps * len(batch[1])

    def __len__(self):
        return self.steps

    def from_(self, epoch, batch=0):
        return repeat(self.batch, self.steps - batch)


class Baseline:
    """The loop as published, around a net of its own."""

    def __init__(self, args, net, device):
        images = DATASETS["random"].load("random", Path(), None).train
        self.loader = published_loader(PilImages(images, published_transform(args.size)), args)
        self.net, self.loss = build_model(net, 10, args.size).to(device), build_loss(args.loss)
        self.device = device
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=net_facts(net).lr)
        self.scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")

    def turn(self):
        """Seconds for an epoch, from the second step on: workers that start take the cores from the first."""
        batches = iter(self.loader)
        self.epoch([next(batches)])
        return seconds(self.epoch, self.device, batches) * len(self.loader) / (len(self.loader) - 1)

    def epoch(self, batches):
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")  # torch's default, which train.py lowers on a GPU
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
        torch.set_float32_matmul_precision(before)
        return total_loss, correct / seen


def measure(args, net, device):
    """The row of one net; its loops take turns."""
    flags = {"net": net, "loss": args.loss, "bs": args.bs, "size": args.size, "compile": args.compile}
    flags |= {"graph": args.graph, "dataset": "random", "device": device.type}
    ours = Training([f"--{name}={value}" for name, value in flags.items()])
    batch = next(iter(ours.data.train))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    # Compiles, and records a graph.
    ours.epoch(batches=Repeated(batch, WARM_UP + 2 if args.graph == "on" else 2))
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    baseline = Baseline(args, net, device)
    with FlopCounterMode(display=False) as counter:  # of an eager step; ours multiplies the same
        baseline.epoch([batch])
    precision, side = ours.trainer.precision, 8192 if device.type == "cuda" else 2048
    matrix = torch.randn(
        side, side, device=device, dtype=precision.half if precision.mixed else torch.float32
    )

    times = {"ours": [], "compute": [], "baseline": [], "matmul": []}
    for _ in range(args.rounds):
        times["ours"].append(seconds(ours.epoch, device))
        times["baseline"].append(baseline.turn())
        times["compute"].append(seconds(ours.epoch, device, 0, 0, Repeated(batch, args.steps)))
        times["matmul"] += [seconds(torch.matmul, device, matrix, matrix) for _ in range(5)]
    spent = {name: min(values) for name, values in times.items()}
    images, flops = args.bs * args.steps, counter.get_total_flops() * args.steps / spent["ours"]
    peak = 2 * side**3 / spent["matmul"]
    return {
        "net": net, "ours": images / spent["ours"], "baseline": images / spent["baseline"],
        "ratio": spent["baseline"] / spent["ours"], "tflops": flops / 1e12, "peak_tflops": peak / 1e12,
        "share_of_peak": flops / peak, "memory_gib": memory, "seconds": times,
        "input_bound": 1 - spent["compute"] / spent["ours"],
    }  # fmt: skip


def main(argv=None):
    args = parse_args(argv)
    device = prepare(args, PROG)
    on_gpu = device.type == "cuda"
    args.bs, args.steps = args.bs or (512 if on_gpu else 32), args.steps or (50 if on_gpu else 4)
    register_random_images(args.bs * args.steps, args.size)
    rows = []
    with one_line_errors(PROG, "try a smaller --bs"):
        for net in args.nets:
            rows.append(measure(args, net, device))
            torch._dynamo.reset()
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
