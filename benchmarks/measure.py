"""What the benchmarks share: contenders that take turns, a table, JSON, and images to feed."""

import json
import os
import platform
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import Parser, fail, number
from data.registry import DATASETS, Dataset
from data.source import Source, Split


def parser(prog, documentation):
    """A parser with the flags that all benchmarks have."""
    p = Parser(prog, documentation)
    p.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="what to measure on")
    p.add_argument(
        "--threads",
        type=number(int, 0),
        default=0,
        metavar="N",
        help="of torch on the CPU (default: its own)",
    )
    p.add_argument("--json", default="", metavar="FILE", help="write the figures there; - prints them only")
    return p


def prepare(args, prog):
    """Set the threads; give the device."""
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device == "cuda" and not torch.cuda.is_available():
        fail("--device cuda is not available on this machine", prog)
    name = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def wait(device):
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(function, device, *args):
    """How long `function` takes, the device's work included."""
    wait(device)
    start = time.perf_counter()
    function(*args)
    wait(device)
    return time.perf_counter() - start


def take_turns(contenders, rounds, device, calls=1, warm_up=1, least=0.0):
    """Seconds for one call of each contender, who take turns in a new order every round.

    A machine that is busy for a while is then so for all of them, and none always follows the same other.

    Parameters
    ----------
    contenders : dict of str to callable
    rounds, warm_up : int
        Turns that count, and turns before them.
    device : torch.device
    calls : int
        That a figure is the mean of.
    least : float
        Seconds that a turn lasts at least; a turn may have many figures.

    Returns
    -------
    dict of str to list of float
    """
    times = {name: [] for name in contenders}
    order, shuffle = list(contenders), random.Random(0).shuffle
    for turn in range(warm_up + rounds):
        shuffle(order)
        for name in order:
            spent = [seconds(repeat, device, contenders[name], calls) / calls]
            while turn >= warm_up and sum(spent) * calls < least:
                spent.append(seconds(repeat, device, contenders[name], calls) / calls)
            times[name] += spent if turn >= warm_up else []
    return times


def repeat(function, calls):
    """Call `function` so often."""
    for _ in range(calls):
        function()


def machine(device):
    """What the figures hold for: device, threads, versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} CPU cores"
    return (
        f"{name}, {torch.get_num_threads()} thread(s), Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )


@dataclass(frozen=True)
class Column:
    """A column of the table: the row's key, the heading, and how a value is written."""

    key: str
    heading: str
    format: str = "{}"

    def show(self, row):
        value = row.get(self.key)
        return "" if value is None else self.format.format(value)


def report(prog, title, rows, columns, device, json_file):
    """Print `rows` (dicts) as a Markdown table; with a JSON file all of their figures, unrounded."""
    rows = list(rows)
    results = {"benchmark": prog, "command": sys.argv, "machine": machine(device), "rows": rows}
    text = json.dumps(results, indent=1)
    if json_file == "-":
        print(text)
        return
    if json_file:
        try:
            Path(json_file).write_text(text + "\n")
        except OSError as error:
            fail(f"--json {json_file}: {error.strerror}", prog)
    lines = [[c.heading for c in columns], *([c.show(row) for c in columns] for row in rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    print(f"{title}\n{machine(device)}\n")
    for first, *rest in (lines[0], rule, *lines[1:]):
        cells = [first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(rest, widths[1:], strict=True))]
        print(f"| {' | '.join(cells)} |")


@dataclass(frozen=True)
class RandomImages(Dataset):
    """Random uint8 images, `count` to train on."""

    count: int = 0

    def load(self, name, root, options):
        rng = np.random.default_rng(0)
        classes = min(10, self.count)
        train, test = (
            Split(
                np.arange(n) % classes, images=rng.integers(0, 256, (n, 3, *[self.native_size] * 2), np.uint8)
            )
            for n in (self.count, 64)
        )
        return Source(train, test, [str(c) for c in range(classes)], common_size=self.native_size)


def register_random_images(count, size):
    """Make ``random`` a data set, of 10 classes, that ``build_data`` and ``train.py`` know."""
    DATASETS["random"] = RandomImages("", size, mean=(0.5,) * 3, std=(0.25,) * 3, count=count)
