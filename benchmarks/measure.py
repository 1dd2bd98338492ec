"""What the benchmarks share: contenders that take turns, a table, JSON, random images, and train.py's own steps."""

import json
import os
import platform
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import flags
import train
from common import Parser, fail, number
from data.registry import DATASETS, Dataset
from data.source import Source, Split
from engine.checkpoint import Progress
from engine.world import World


def parser(prog, documentation):
    """A parser with the flags that all benchmarks have."""
    p = Parser(prog, documentation)
    p.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="what to measure on")
    p.add_argument("--threads", type=number(int, 0), default=0, metavar="N", help="CPU threads (0: torch's)")
    p.add_argument("--json", default="", metavar="FILE", help="write the figures there; - prints them only")
    return p


def prepare(args, prog):
    """Set the threads; return the device."""
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device == "cuda" and not torch.cuda.is_available():
        fail("--device cuda is not available on this machine", prog)
    name = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def wait(device):
    """Wait until the device has done its work."""
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

    A machine that is busy for a while is then busy for all of them, and none always follows the same other.

    Parameters
    ----------
    contenders : dict of str to callable
    rounds, warm_up : int
        Turns that count, and turns before them.
    device : torch.device
    calls : int
        Each figure is the mean of this many calls.
    least : float
        Seconds that a turn lasts at least; a turn may have many figures.

    Returns
    -------
    dict of str to list of float
    """

    def figure(function):
        def repeat():
            for _ in range(calls):
                function()

        return seconds(repeat, device) / calls

    times = {name: [] for name in contenders}
    order, shuffle = list(contenders), random.Random(0).shuffle
    for turn in range(warm_up + rounds):
        shuffle(order)
        for name in order:
            spent = [figure(contenders[name])]
            while turn >= warm_up and sum(spent) * calls < least:
                spent.append(figure(contenders[name]))
            times[name] += spent if turn >= warm_up else []
    return times


def machine(device):
    """What the figures hold for: device, threads, versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} CPU cores"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{name}, {torch.get_num_threads()} thread(s), {versions}"


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
        rng, classes, size = np.random.default_rng(0), min(10, self.count), self.native_size

        def split(n):
            images = rng.integers(0, 256, (n, 3, size, size), np.uint8)
            return Split(np.arange(n) % classes, images=images)

        return Source(split(self.count), split(64), [str(c) for c in range(classes)], common_size=size)


def register_random_images(count, size):
    """Make ``random`` a data set, of 10 classes, that ``build_data`` and ``train.py`` know."""
    DATASETS["random"] = RandomImages("", size, mean=(0.5,) * 3, std=(0.25,) * 3, count=count)


NO_SIGNAL = SimpleNamespace(requested=False)


class Training:
    """What train.py builds from `words`, its flags, and its epochs and tests, without a run on disk."""

    def __init__(self, words):
        self.args, typed = flags.parse([str(word) for word in words])
        train.settle_flags(self.args, typed)
        self.world = World(self.args.device)
        self.data = train.build_data(self.args, self.world, None, {})
        loss = train.build_loss(self.args, self.data, None).to(self.world.device)
        net = train.build_net(self.args, self.data, "", self.world.device)
        self.trainer = train.build_trainer(self.args, net, loss, self.data, self.world)

    def epoch(self, number=0, steps=0, batches=None):
        """Train for an epoch, or for its first `steps`; mean loss, accuracy and images."""
        batches = batches or self.data.train
        at = Progress(epoch=number, step=number * len(batches))
        self.args.max_steps = at.step + steps if steps else 0
        self.trainer.meter.reset()
        run = SimpleNamespace(due=lambda step: False)
        return train.train_epoch(self.trainer, batches, at, run, NO_SIGNAL, self.args, None)

    def test(self, averaged=False, batches=None):
        """The scores of a test, its logits and its labels."""
        return train.evaluate(self.trainer, batches or self.data.test, NO_SIGNAL, averaged=averaged)
