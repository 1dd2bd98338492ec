"""What the checks of gpu_acceptance.py share: what they are given, and train.py's job on random images.

A check is a function whose docstring says what holds, on the page too. It is given a `Setting`, adds dicts to its
`rows` and sentences to its `failures`, and may raise `Skipped`. What measures, or fills the memory, runs alone.
"""

import contextlib
import gc
import io
import math
import sys
import time
import traceback
from types import SimpleNamespace

import torch
from measure import register_random_images

import train
from common import one_line
from engine.distributed import World
from engine.meter import PEEK_EVERY
from engine.mixing import Mixing
from engine.saver import Progress
from engine.scores import Scores
from engine.trainer import linear_in_inverse
from models import net_facts

CHECKS, ALONE = {}, set()


class Skipped(Exception):
    """The check has nothing to look at here; why."""


class Setting(SimpleNamespace):
    """What the check `check` is given: `device`, `small` on a CPU, `full`; it adds to `rows` and `failures`.

    `done()` is called after each case, for what must be known of a check that does not end.
    """

    def expect(self, right, what):
        """Note `what` as a failure unless it is `right`."""
        if not right:
            self.failures.append(what)

    @contextlib.contextmanager
    def case(self, name):
        """An error within is a failure of the case `name`, and the next one runs; its memory is free again."""
        began = time.perf_counter()
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.failures.append(f"{name}: {type(error).__name__}: {one_line(error, 300)}")
        if "torch._dynamo" in sys.modules:
            torch._dynamo.reset()  # else the compiled code of many nets reaches its limit
        self.free()
        print(
            f"        {time.perf_counter() - began:6.1f} s  {self.check}: {name}", file=sys.stderr, flush=True
        )
        self.done()

    def free(self):
        """Give memory back; trainers are in cycles of references."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    @property
    def on_gpu(self):
        return self.device.type == "cuda"


def largest(values):
    """The largest number, or NaN if there is one: `max` may pass over it."""
    values = list(values)
    return math.nan if any(map(math.isnan, values)) else max(values)


def check(function):
    """Register a check: what its docstring says is on the page."""
    CHECKS[function.__name__] = function
    return function


def alone(function):
    """Register a check that nothing may run beside."""
    ALONE.add(function.__name__)
    return check(function)


def need(condition, why):
    if not condition:
        raise Skipped(why)


def job_of(s, flags, images=2048):
    """The job that train.py builds for these flags, on random images; eager, unless they say otherwise."""
    register_random_images(images, 32)
    plain = ["--dataset", "random", "--device", s.device.type, "--compile", "off", "--graph", "off"]
    args, typed = train.parse_args([*plain, *flags.split()])
    args.lr = args.lr or net_facts(args.net, args.pretrained).lr
    with contextlib.redirect_stdout(io.StringIO()):
        job = train.build(args, typed, World(args.device), SimpleNamespace(requested=False))
    job.saver, job.progress = SimpleNamespace(due=lambda step: False), Progress()
    job.trainer.train_mode()
    return job


def steps_of(job, count):
    """Run `count` steps as train.py does; yields the number of each, done."""
    args, done, epoch = job.args, 0, 0
    mix = Mixing(args.mixup, args.cutmix, job.data.num_classes, 0) if args.mixup or args.cutmix else None
    while done < count:
        for images, labels in job.data.train.from_(epoch):
            done += 1
            images, target = mix(images, labels, done) if mix else (images, labels)
            if args.k_end:
                job.trainer.loss.anneal(linear_in_inverse(args.k, args.k_end)(done / count))
            job.trainer.step(images, labels, target, done, args.lr, len(labels))
            if done % PEEK_EVERY == 0:
                job.trainer.meter.peek()
            yield done
            if done == count:
                return
        epoch += 1


def losses_of(job, count, tests=0):
    """The loss of each of the first `count` steps, and of the last of `tests` tests after them."""
    for _ in steps_of(job, count):
        pass
    of_steps = job.trainer.meter.state()["rows"][:, 0].tolist()
    for _ in range(tests):
        scores = test_of(job).read()
    return [*of_steps, scores["loss"]] if tests else of_steps


def test_of(job, averaged=False):
    """A test of the net, or of the average of its weights, as train.py runs it; not yet read."""
    scores = Scores(job.world, job.data.num_classes)
    job.trainer.test_on(job.data.test, scores, averaged)
    return scores
