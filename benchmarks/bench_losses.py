#!/usr/bin/env python
"""Forward and backward of the losses, as multiples of ``F.cross_entropy``.

python benchmarks/bench_losses.py                         eager and compiled, 10 to 1000 classes
python benchmarks/bench_losses.py --mode eager --threads 1
"""

import statistics
from functools import partial

import torch
import torch.nn.functional as F
from measure import Column, parser, prepare, report, take_turns

from common import number
from losses import focal_loss, rlo_loss, root_loss

PROG = "bench_losses.py"


def parse_args(argv=None):
    p = parser(PROG, __doc__)
    p.add_argument("--classes", type=number(int, 2), nargs="+", default=[10, 100, 200, 1000], metavar="C")
    p.add_argument("--bs", type=number(int, 1), default=512, metavar="N", help="samples")
    p.add_argument("--mode", choices=("eager", "compiled"), nargs="+", default=["eager", "compiled"])
    p.add_argument("--k", type=number(float, 1), default=3.0, help="the root")
    p.add_argument("--m", type=number(float, 0, above=True), default=3.0, help="the scale")
    p.add_argument("--rounds", type=number(int, 1), default=500, metavar="N", help="figures for each loss")
    return p.parse_args(argv)


def textbook(logits, labels, k, m):
    """The root loss as it is written down: through the probability, which underflows."""
    p = logits.softmax(1).gather(1, labels[:, None])
    return (m * (1 - p ** (1 / k))).mean()


def measure(args, device, mode, classes):
    """A row of the table."""
    torch.compiler.reset()
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(args.bs, classes, generator=generator).to(device).requires_grad_()
    labels = torch.randint(classes, (args.bs,), generator=generator).to(device)

    def step(loss):
        def forward_and_backward():
            loss(logits, labels).backward()
            logits.grad = None

        return forward_and_backward

    losses = {"ce": F.cross_entropy, "focal": focal_loss}
    rooted = {"root": root_loss, "rlo": rlo_loss, "pow": textbook}
    losses |= {name: partial(loss, k=args.k, m=args.m) for name, loss in rooted.items()}
    if mode == "compiled":
        losses = {name: torch.compile(f, fullgraph=True, dynamic=False) for name, f in losses.items()}
    contenders = {name: step(loss) for name, loss in losses.items()}
    times = take_turns(contenders, args.rounds, device, calls=4, warm_up=max(1, args.rounds // 10))
    medians, fastest = ({n: 1e6 * of(spent) for n, spent in times.items()} for of in (statistics.median, min))
    return {"classes": classes, "mode": mode} | {
        name: {
            "median_us": medians[name], "fastest_us": fastest[name],
            "ratio": medians[name] / medians["ce"], "ratio_of_fastest": fastest[name] / fastest["ce"],
        }
        for name in times
    }  # fmt: skip


def main(argv=None):
    args = parse_args(argv)
    device = prepare(args, PROG)
    rows = [measure(args, device, mode, classes) for mode in args.mode for classes in args.classes]
    ratio = "{0[ratio]:.2f} ({0[ratio_of_fastest]:.2f})"
    columns = [
        Column("mode", "mode"), Column("classes", "classes"),
        Column("ce", "F.cross_entropy, µs", "{0[median_us]:.0f} ({0[fastest_us]:.0f})"),
        Column("root", "root", ratio), Column("rlo", "rlo", ratio), Column("focal", "focal", ratio),
        Column("pow", "softmax → pow", ratio),
    ]  # fmt: skip
    title = f"forward + backward on ({args.bs}, classes), over F.cross_entropy: medians (and fastest)"
    report(PROG, title, rows, columns, device, args.json)


if __name__ == "__main__":
    main()
