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

import json
import subprocess
import sys
from pathlib import Path

import torch
from bench_data import PilImages, published_loader, published_transform
from measure import Column, parser, prepare, register_random_images, report, seconds
from torch.utils.flop_counter import FlopCounterMode

from common import UserError, fail, number
from data import DATASETS, DataOptions, build_data
from engine.distributed import World
from engine.meter import PEEK_EVERY
from engine.optim import build_optimizer
from engine.precision import Precision, choose_kernels
from engine.trainer import Trainer
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
    p.add_argument(
        "--graph", choices=("on", "off"), default="off", help="a step as one CUDA graph, in our loop only"
    )
    p.add_argument("--workers", type=number(int, 1), default=2, metavar="N", help="of the baseline's loader")
    return p.parse_args(argv)


def our_trainer(args, net, device):
    """A trainer as train.py makes one with its default flags."""
    facts = net_facts(net)
    model = build_model(net, 10, args.size)
    model.to(device, memory_format=torch.channels_last if facts.channels_last else torch.contiguous_format)
    choose_kernels(device, deterministic=False)
    optimizer = build_optimizer("adam", model.parameters(), facts.lr, 0.0, device)
    return Trainer(
        model, build_loss(args.loss), optimizer, World(args.device), Precision(device),
        channels_last=facts.channels_last, compiled=args.compile == "on", graphed=args.graph == "on",
    )  # fmt: skip


def our_epoch(trainer, batches):
    """An epoch over `batches`, as train.py's without its progress bar, saves and signals."""
    trainer.train_mode()
    for step, (images, labels) in enumerate(batches, 1):
        trainer.step(images, labels, labels, step, 1e-4, len(labels))
        if step % PEEK_EVERY == 0:
            trainer.meter.peek()
    trainer.meter.check()
    trainer.meter.reset()


class Baseline:
    """The loop as published, around a net of its own."""

    def __init__(self, args, net, lr, device):
        images = DATASETS["random"].load("random", Path(), DataOptions()).train
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


def count_flops(trainer, batch):
    """Floating-point operations of matrix products, convolutions and attention in one step."""
    images, labels = batch
    with FlopCounterMode(display=False) as counter:
        trainer.step(images, labels, labels, 1, 0.0, len(labels))
    trainer.meter.reset()
    return counter.get_total_flops()


def matmul_rate(device, dtype):
    """A function that multiplies two large matrices, and its floating-point operations."""
    side = 8192 if device.type == "cuda" else 2048
    a = torch.randn(side, side, device=device, dtype=dtype)
    return lambda: a @ a, 2 * side**3


def measure(args, net):
    """The row of one net; its loops take turns."""
    device = torch.device(args.device)
    layout = {"channels_last": net_facts(net).channels_last}
    batches = build_data("random", "", args.size, args.bs, device, **layout).train
    trainer = our_trainer(args, net, device)
    batch = next(iter(batches))
    our_epoch(trainer, [batch] * 2)  # compiles and warms up
    memory = trainer.world.peak_memory()
    flops = count_flops(trainer, batch)
    precision = trainer.precision
    multiply, multiply_flops = matmul_rate(device, precision.half if precision.mixed else torch.float32)
    baseline = Baseline(args, net, net_facts(net).lr, device)
    baseline.epoch([batch] * 2)

    times = {"ours": [], "compute": [], "baseline": [], "matmul": []}
    for _ in range(args.rounds):
        times["ours"].append(seconds(our_epoch, device, trainer, batches))
        times["baseline"].append(baseline.turn())
        times["compute"].append(seconds(our_epoch, device, trainer, [batch] * args.steps))
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
