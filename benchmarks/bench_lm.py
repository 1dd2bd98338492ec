#!/usr/bin/env python
"""A language model's head and its loss, forward and backward: memory and time over the plain route's.

python benchmarks/bench_lm.py                            minutes on one core, many without bfloat16 instructions
python benchmarks/bench_lm.py --cases 8192x128000xbfloat16 --device cuda

A case is TOKENSxWORDSxDTYPE. Memory is what a step holds at its peak above what stood before it (hidden
states and weight): on a CPU the process's resident set, on CUDA the allocator's count. Gradients are in it.
"""

import ctypes
import re
import statistics
import sys

import torch
import torch.nn.functional as F
from measure import Column, parser, prepare, report, take_turns

from common import number
from losses import linear_rlo_loss, linear_root_loss, root_from_ce, root_loss

PROG = "bench_lm.py"
MIB = 2**20
CASES = {
    "cpu": ["1024x16000xfloat32", "2048x32000xfloat32", "1024x128000xfloat32", "1024x16000xbfloat16"],
    "cuda": [f"8192x{words}x{dtype}" for words in (32000, 128000) for dtype in ("float32", "bfloat16")],
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def case(text):
    """Tokens, words and dtype of a case."""
    found = re.fullmatch(rf"([1-9]\d*)x([1-9]\d*)x({'|'.join(DTYPES)})", text)
    if not found:
        raise ValueError(f"{text!r} is no TOKENSxWORDSxDTYPE such as 2048x32000xfloat32")
    return int(found[1]), int(found[2]), found[3]


def parse_args(argv=None):
    p = parser(PROG, __doc__)
    p.add_argument("--cases", nargs="+", metavar="TOKENSxWORDSxDTYPE", help="default: four, by device")
    p.add_argument("--dim", type=number(int, 1), default=512, metavar="D", help="of the hidden states")
    p.add_argument("--rounds", type=number(int, 1), default=2, metavar="N", help="figures for each contender")
    args = p.parse_args(argv)
    try:
        args.cases = args.cases and [case(text) for text in args.cases]
    except ValueError as error:
        p.error(f"--cases: {error}")
    return args


def contenders():
    """Functions of hidden, weight and target; those that this machine can import."""
    found = {
        "plain": lambda h, w, t: root_loss(F.linear(h, w), t),
        "ce": lambda h, w, t: F.cross_entropy(F.linear(h, w), t),
        "root": linear_root_loss,
        "rlo": linear_rlo_loss,
    }
    if hasattr(F, "linear_cross_entropy"):
        options = torch.nn.LinearCrossEntropyOptions()
        found["torch"] = lambda h, w, t: F.linear_cross_entropy(h, w, t, options=options)
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        liger = LigerFusedLinearCrossEntropyLoss()
        found["liger"] = lambda h, w, t: liger(w, h, t)
    except ImportError:
        pass
    try:
        from cut_cross_entropy import linear_cross_entropy

        found["cce"] = linear_cross_entropy
    except ImportError:
        pass
    try:
        from trl.kernels import ChunkedLogProbFunction

        def of_trl(h, w, t):
            outputs = ChunkedLogProbFunction.apply(h, w, None, t, 1.0, 32768, None, 1.0, ("log_probs",))
            return root_from_ce(-outputs[0]).mean()

        found["trl"] = of_trl
    except ImportError:
        pass
    return found


def peak_memory(step, device):
    """Bytes that `step` holds at its peak above what is held before it; None where that cannot be known."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    if sys.platform != "linux":
        step()
        return None
    # What the allocator kept of earlier steps would otherwise be reused unseen.
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")  # the peak starts again at the present size
    before = resident("VmRSS")
    step()
    return resident("VmHWM") - before


def resident(key):
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith(key))


def measure(args, device, tokens, words, dtype):
    """A row of the table."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (
        (torch.randn(n, args.dim, generator=generator) * scale).to(device, DTYPES[dtype]).requires_grad_()
        for n, scale in ((tokens, 1.0), (words, args.dim**-0.5))
    )
    target = torch.randint(words, (tokens,), generator=generator).to(device)
    row = {"case": f"{tokens} × {words}, {dtype}", "tokens": tokens, "words": words, "dtype": dtype}
    memory = {}

    def step(name, loss):
        def forward_and_backward():
            loss(hidden, weight, target).backward()

        def turn():
            hidden.grad = weight.grad = None
            memory.setdefault(name, []).append(peak_memory(forward_and_backward, device))

        return turn

    functions = contenders()
    for name, loss in list(functions.items()):
        try:  # kernels are compiled and libraries loaded before the clock starts; and some run on CUDA only
            loss(hidden[: max(1, tokens // 16)], weight, target[: max(1, tokens // 16)]).backward()
        except (RuntimeError, ValueError, AssertionError, TypeError) as error:
            if name in ("liger", "cce", "torch", "trl"):
                print(f"{PROG}: {name} left out: {str(error).splitlines()[0]}", file=sys.stderr)
                del functions[name]
            else:
                raise
    times = take_turns({n: step(n, f) for n, f in functions.items()}, args.rounds, device, warm_up=0)
    for name, spent in times.items():
        held = memory[name]
        row[name] = {"seconds": statistics.median(spent), "mib": None if None in held else max(held) / MIB}
    for name in times:
        figures, plain = row[name], row["plain"]
        figures["time"] = figures["seconds"] / plain["seconds"]
        figures["memory"] = figures["mib"] / plain["mib"] if figures["mib"] and plain["mib"] else None
    return row


class Ratios(Column):
    """Memory and time over the plain route's."""

    def show(self, row):
        figures = row.get(self.key)
        if figures is None:
            return "–"
        memory = "–" if figures["memory"] is None else f"{figures['memory']:.2f}"
        return f"{memory}, {figures['time']:.2f}"


class Absolute(Column):
    def show(self, row):
        figures = row[self.key]
        memory = "–" if figures["mib"] is None else f"{figures['mib']:.0f} MiB"
        return f"{memory}, {figures['seconds']:.2f} s"


def main(argv=None):
    args = parse_args(argv)
    device = prepare(args, PROG)
    cases = args.cases or [case(text) for text in CASES[device.type]]
    rows = [measure(args, device, *c) for c in cases]
    others = {"ce": "plain ce", "root": "linear_root", "rlo": "linear_rlo", "torch": "torch's chunked ce",
              "liger": "Liger", "cce": "cut-cross-entropy", "trl": "root of TRL's"}  # fmt: skip
    columns = [
        Column("case", "tokens × words"),
        Absolute("plain", "plain root"),
        *(Ratios(name, heading) for name, heading in others.items() if any(name in row for row in rows)),
    ]
    title = f"head and loss, forward + backward, {args.dim} features; memory and time over the plain route's"
    report(PROG, title, rows, columns, device, args.json)


if __name__ == "__main__":
    main()
