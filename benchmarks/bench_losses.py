#!/usr/bin/env python
"""Forward and backward of the losses, as multiples of ``F.cross_entropy``.

python benchmarks/bench_losses.py                         eager and compiled, 10 to 1000 classes
python benchmarks/bench_losses.py --mode eager --threads 1
"""

import statistics

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


def losses(k, m):
    """The contenders, each a function of logits and labels."""

    def textbook(logits, labels):
        """The root loss as it is written down: by way of the probability, which underflows."""
        p = logits.softmax(1).gather(1, labels[:, None])
        return (m * (1 - p ** (1 / k))).mean()

    def bind(loss):
        return lambda logits, labels: loss(logits, labels, k, m)

    def cross_entropy(logits, labels):
        return F.cross_entropy(logits, labels)

    return {
        "ce": cross_entropy, "root": bind(root_loss), "rlo": bind(rlo_loss),
        "focal": lambda logits, labels: focal_loss(logits, labels), "pow": textbook,
    }  # fmt: skip


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

    functions = losses(args.k, args.m)
    if mode == "compiled":
        functions = {name: torch.compile(f, fullgraph=True, dynamic=False) for name, f in functions.items()}
    contenders = {name: step(f) for name, f in functions.items()}
    times = take_turns(contenders, args.rounds, device, calls=4, warm_up=max(1, args.rounds // 10))
    row = {"classes": classes, "mode": mode}
    for name, spent in times.items():
        row[name] = {"median_us": 1e6 * statistics.median(spent), "fastest_us": 1e6 * min(spent)}
    for name in times:
        ratio, best = (row[name][key] / row["ce"][key] for key in ("median_us", "fastest_us"))
        row[name] |= {"ratio": ratio, "ratio_of_fastest": best}
    return row


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
