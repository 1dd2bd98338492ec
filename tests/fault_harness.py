#!/usr/bin/env python
"""Kill trainings anywhere, resume them, and compare each with one that was left alone, bit for bit.

python tests/fault_harness.py --stops 60                 the full count: about ten minutes on one core
python tests/fault_harness.py --stops 8 --seed 1         a few, others
python tests/fault_harness.py --saving-cost              the share of the time that goes into saving

A stop is a signal, at a point of the program (POINTS in fault_driver.py) or at a random time from outside, or a
data worker that is killed, or a /dev/shm that is full. A run is stopped up to three times, resumed each time by its
path or by --resume auto, with other --workers, --compile or --threads, and finished. The runs that others are
compared with, and every fourth stop (by torchrun every second), are processes started as a user starts them; the
others are forks, which spares them the imports, as are all where a scenario has fewer than three stops.
Exit code 1: a run was not as promised.
"""

import argparse
import csv
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from signal import SIGABRT, SIGINT, SIGKILL, SIGTERM

from fault_driver import POINTS, end, start, strike_at, wait  # sets the number of threads: before torch

# isort: split
import numpy as np
import torch
from PIL import Image

import train
from engine.run import Run

EPOCHS = 2
VIT = f"--dataset digits --net vit_tiny --dimhead 64 --bs 256 --epochs {EPOCHS}"
SCENARIOS = {
    "batch norm": f"--dataset digits --net resnet20 --bs 512 --epochs {EPOCHS}",
    "dropout": VIT,
    "label noise": f"{VIT} --label-noise 0.2 --randaug --clip-grad 1 --opt adamw --warmup 1",
    "accumulate": f"{VIT} --accumulate 4",
    "files": "--dataset folder:IMAGES --net vit_tiny --dimhead 64 --size 72 --patch 24 --bs 48 --epochs 2 --workers 2",
    "2 processes": VIT,
    "mixing": f"{VIT} --mixup 0.4 --cutmix 1 --ema 0.9 --val-split 0.2 --accumulate 2",
    "other labels": f"{VIT} --k 1000 --k-end 1.5 --train-labels LABELS --label-column wrong --imbalance 0.5",
    # Nothing is learned, so that the third epoch is left out.
    "patience": f"{VIT} --epochs {EPOCHS + 1} --patience 1 --lr 1e-30",
    "2 processes, batch norm": f"--dataset digits --net resnet20 --bs 256 --ema 0.5 --epochs {EPOCHS}",
}
PARTS = {"accumulate": 4, "mixing": 2}  # backward passes a step
SAVE_EVERY = 2  # steps, so that SIGKILL has saves to go back to
STOPS_A_RUN = 3
DIGITS = 1437  # training images
ONLY_RANK_0 = {"writing", "before rename", "after best.pt", "metrics.csv", "curves"}
MOMENTS = ("first step", *POINTS, "any time")
MOMENTS_OF_FILES = ("killed worker", "full /dev/shm")
FULL = "mount -t tmpfs -o size=4k tmpfs /dev/shm && head -c 4096 /dev/zero > /dev/shm/full && "
IN_FULL_SHM = ("unshare", "-m", "sh", "-c", FULL + 'exec "$@"', "sh")
# What a resumed run may change, without another result.
OTHERWISE = (
    [],
    ["--workers", "0"],
    ["--workers", "1", "--compile", "off"],
    ["--threads", "1"],
    ["--graph", "off"],
)
SIGNALS = {SIGTERM: 143, SIGINT: 130, SIGKILL: -9}
USER_ERROR = 2
TIMING = ("epoch_seconds", "images_per_second")
HANGS = 240  # seconds after which a process is taken to hang


# --- what two runs have to share ------------------------------------------------------------------------


def metrics_of(run):
    """The rows of metrics.csv but for the columns that tell times."""
    with open(run / "metrics.csv") as file:
        return [{k: v for k, v in row.items() if k not in TIMING} for row in csv.DictReader(file)]


def same(ours, theirs):
    """Whether two values of a checkpoint are equal, bit for bit."""
    if isinstance(theirs, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(same(ours[k], v) for k, v in theirs.items())
    if isinstance(theirs, (list, tuple)):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == theirs or (ours != ours and theirs != theirs)  # NaN: not tested in this epoch


def differences(run, reference):
    """What differs between two finished runs: parts of the checkpoints, rows of metrics.csv, files."""
    found = []
    for file in ("last.pt", "best.pt", "best_ema.pt")[: 3 if (reference / "best_ema.pt").exists() else 2]:
        ours, theirs = (torch.load(r / file, weights_only=True) for r in (run, reference))
        for state in (ours, theirs):
            if "progress" in state:
                state["progress"]["seconds"] = 0.0
                for row in state["progress"]["rows"]:
                    row.update(dict.fromkeys(TIMING, 0.0))
        found += [f"{file}: {name}" for name in theirs if not same(ours.get(name), theirs[name])]
    if metrics_of(run) != metrics_of(reference):
        found.append("metrics.csv")
    if not (run / "curves.png").exists():
        found.append("no curves.png")
    return found + [f"left over: {file.name}" for file in run.glob(".*.tmp")]


# --- one run --------------------------------------------------------------------------------------------


class Training:
    """A run of a scenario: started, struck, resumed, finished."""

    def __init__(self, scenario, flags, out, rng):
        self.scenario, self.out, self.rng = scenario, out, rng
        where = f"--device cpu --save-every {SAVE_EVERY} --data-dir {out} --out {out}"
        self.flags = [*flags, *where.split()]
        self.processes = 2 if scenario.startswith("2 processes") else 1
        self.log = out.with_suffix(".log")
        self.starts = 0
        self.problems = []

    @property
    def path(self):
        """The run directory, once there is a checkpoint in it."""
        found = [last.parent for last in self.out.glob("*/last.pt")]
        if len(found) > 1:
            self.problems.append(f"one run became {len(found)}")
        return found[0] if found else None

    @property
    def progress(self):
        """Steps and epochs that a resumed run does not have to do again."""
        saved = self.path and torch.load(self.path / "last.pt", weights_only=True)["progress"]
        return (saved["step"], saved["epoch"]) if saved else (0, 0)

    def go(self, strike="", real=False, clock=None, before=()):
        """Start or resume; the exit codes. `clock`: seconds after which a signal comes from outside."""
        flags = self.flags
        if self.starts:
            by_path = self.path is not None and self.rng.random() < 0.5
            flags = ["--resume", str(self.path)] if by_path else [*flags, "--resume", "auto"]
            flags = [*flags, *self.rng.choice(OTHERWISE if not before else [[]])]
        # a resumed run computes with its own number again; one that was killed too early starts anew
        threads = self.rng.choice("12") if self.path else "1"
        self.starts += 1
        with open(self.log, "a") as log:
            print(f"\n$ {strike or clock or ''} train.py {' '.join(flags)}", file=log, flush=True)
            processes = start(flags, strike, log, self.processes, real, threads, before)
            try:
                if clock and None in wait(processes, clock[0]):
                    kill = self.rng.choice((os.kill, os.killpg)) if self.processes == 1 else os.killpg
                    kill(processes[0].pid, clock[1])  # data workers, which may outlive it for seconds, or not
                codes = wait(processes, HANGS)
            except BaseException:
                end(processes)
                raise
        if None in codes:
            self.problems.append(f"{strike or clock or 'a whole run'}: a process did not end")
            end(processes)
        return codes

    def stop(self, moment, number, total, seconds, real):
        """Stop the run by a signal; whether it came, and stopped the run."""
        rng, strike, clock, code = self.rng, "", None, SIGNALS[number]
        before, epochs = self.progress
        torchrun = real and self.processes > 1
        if moment in MOMENTS_OF_FILES:
            return self._lose_workers(moment, total - before)
        if moment == "any time":
            clock = (rng.uniform(0.1, seconds + 6 * real), number)
        else:
            parts = PARTS.get(self.scenario, 1)
            count = 1
            if moment == "step":
                count = rng.randint(1, max(1, (total - before) * parts))
            elif moment == "evaluation":
                count = rng.randint(1, EPOCHS - epochs + 1)  # batches; the report's test has some too
            elif moment in ("writing", "before rename", "metrics.csv"):
                count = rng.randint(1, 2)
            elif moment == "curves" and number == SIGKILL:
                count = max(1, EPOCHS - epochs)  # the last of all
            rank = rng.randrange(self.processes) if moment not in ONLY_RANK_0 else 0
            targets = ("parent" if torchrun and number != SIGKILL else "self", "group")
            target = rng.choice(targets[: self.processes])
            point = "step" if moment == "first step" else moment
            strike = strike_at(point, count, number, target, rank)
        codes = self.go(strike, real, clock)
        self._check_rows()
        if set(codes) <= {0}:
            return False  # it was done before
        allowed = {code, 1, -number} if torchrun else {code}
        if clock or moment == "start-up":
            allowed |= {-number, 0}
        if moment == "start-up" and self.processes > 1:  # the others wait for one that has gone
            allowed |= {1}
        if self.processes > 1:  # the others lost one, or stop with it: 143, whichever signal it had
            allowed |= {1, -SIGABRT} if number == SIGKILL else {143}
        if not set(codes) <= allowed:
            self.problems.append(f"{strike or clock}: exit codes {codes}")
        if strike and point == "step":
            struck_in = before + -(-count // parts)
            self._check_step(before, struck_in, struck_in if target != "parent" else total, number)
        return True

    def _check_rows(self):
        """No row of metrics.csv is torn or doubled at any time."""
        for file in self.out.glob("*/metrics.csv"):
            header, *rows = (line.split(",") for line in file.read_text().splitlines())
            epochs = [row[0] for row in rows]
            if len(set(epochs)) < len(epochs) or any(len(row) != len(header) for row in rows):
                self.problems.append(f"{file.name} has a torn or doubled row: {rows}")

    def _lose_workers(self, moment, steps):
        """Workers that are killed, or cannot start, end the run in one line that names a way out."""
        if moment == "killed worker":
            codes = self.go(strike_at("step", self.rng.randint(1, max(1, steps - 2)), SIGKILL, "worker"))
        else:
            codes = self.go(real=True, before=IN_FULL_SHM)
        said = self.log.read_text().splitlines()[-1]
        if codes == [0]:
            return False  # it was done before
        if codes != [USER_ERROR] or not said.startswith("train.py: error: ") or "--workers 0" not in said:
            self.problems.append(f"{moment}: exit codes {codes}, {said}")
        return True

    def _check_step(self, before, struck_in, most, number):
        """A signal that can be caught finishes its step and saves; SIGKILL loses what --save-every allows."""
        saved = self.progress[0]
        least = struck_in if number != SIGKILL else max(before, struck_in - SAVE_EVERY)
        if not least <= saved <= most:
            self.problems.append(f"struck in step {struck_in}, went back to step {saved}")


# --- all of them ----------------------------------------------------------------------------------------


def make_images(root, classes="abcd", train=51, val=13):
    """A folder of small images that can be told apart; the sets are no multiple of anything."""
    rng = np.random.default_rng(0)
    for split, number in (("train", train), ("val", val)):
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(number - (label == 0)):
                pixels = rng.integers(0, 120, (16, 16, 3))
                pixels[4 * label : 4 * label + 4] += 100
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return root


def make_labels(file):
    """Labels for the training images of digits, of which some are wrong: a column of --train-labels."""
    labels = np.random.default_rng(0).integers(0, 10, DIGITS)
    file.write_text("index,wrong\n" + "".join(f"{i},{label}\n" for i, label in enumerate(labels)))


def plan(stops):
    """Scenario → its stops as (moment, signal): all moments in turn, each with other signals elsewhere."""
    planned = {name: [] for name in SCENARIOS}
    for i in range(stops):
        round_, s = divmod(i, len(SCENARIOS))
        moment = MOMENTS[(round_ + 2 * s) % len(MOMENTS)]
        planned[list(SCENARIOS)[s]].append((moment, list(SIGNALS)[(round_ + s + round_ // 9) % 3]))
    special = MOMENTS_OF_FILES
    if subprocess.run([*IN_FULL_SHM, "true"], capture_output=True).returncode:
        print("no full /dev/shm: this user may not mount one")
        special = special[:1]
    files = planned["files"]
    files[: len(special)] = [(moment, SIGKILL) for moment in special[: len(files)]]
    return planned


def strike_scenario(name, pending, seed, folder):
    """Carry out the stops of a scenario. Returns their counts by kind, the resumes, and the problems."""
    rng = random.Random(f"{seed} {name}")
    flags = SCENARIOS[name].replace("IMAGES", str(folder / "images"))
    flags = flags.replace("LABELS", str(folder / "labels.csv")).split()
    folder = folder / name.replace(" ", "-")
    folder.mkdir()
    few = len(pending) < STOPS_A_RUN
    reference = Training(name, flags, folder / "reference", rng)
    if set(reference.go(real=not few)) != {0}:
        return Counter(), 0, [f"{name}: the run left alone failed\n{reference.log.read_text()}"]
    total, seconds = reference.progress[0], seconds_of(reference.path)
    done, resumes, problems = Counter(), 0, []
    pending = list(pending)
    for number in range(1, 2 * len(pending) + 1):
        if not pending:
            break
        began = time.monotonic()
        run = Training(name, flags, folder / str(number), rng)
        for stop in pending[:STOPS_A_RUN]:
            real = sum(done.values()) % (2 if run.processes > 1 else 4) == 1 and not few
            if run.stop(*stop, total, seconds, real):
                pending.remove(stop)
                done[stop] += 1
        finished = set(run.go()) == {0}
        resumes += run.starts - 1
        run.problems += differences(run.path, reference.path) if finished else ["the last resume failed"]
        took = f"started {run.starts} times, {time.monotonic() - began:.0f} s"
        verdict = f"{name}, run {number}: {took}: {'; '.join(run.problems) or 'equal'}"
        print(verdict, flush=True)
        if run.problems:
            problems.append(f"{verdict}\n{run.log.read_text()}")
        shutil.rmtree(run.out)
    if pending:
        problems.append(f"{name}: never stopped at {pending}")
    return done, resumes, problems


def seconds_of(run):
    with open(run / "metrics.csv") as file:
        return 1 + sum(float(row["epoch_seconds"]) for row in csv.DictReader(file))


def table(done):
    """Stops by scenario and moment, the signals as letters."""
    columns = (*MOMENTS, *MOMENTS_OF_FILES)
    lines = [["", *columns]]
    for name, counts in done.items():
        cells = ["".join(s.name[3] * counts[moment, s] for s in SIGNALS) for moment in columns]
        lines.append([name, *(cell or "-" for cell in cells)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*rows, "T: SIGTERM  I: SIGINT  K: SIGKILL"])


def harness(stops, seed, jobs, folder):
    """All scenarios, `jobs` at a time; the exit code."""
    began = time.monotonic()
    planned = plan(stops)
    make_images(folder / "images")
    make_labels(folder / "labels.csv")
    work = [(name, stops_, seed, folder) for name, stops_ in planned.items() if stops_]
    if jobs == 1:
        results = [strike_scenario(*one) for one in work]
    else:
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork")) as pool:
            results = list(pool.map(strike_scenario, *zip(*work, strict=True)))
    done = {one[0]: result[0] for one, result in zip(work, results, strict=True)}
    problems = [text for result in results for text in result[2]]
    summary = {
        "stops": sum(sum(counts.values()) for counts in done.values()),
        "resumes": sum(result[1] for result in results),
        "mismatches": len(problems),
        "seconds": round(time.monotonic() - began),
        "signals": {
            s.name: sum(n for c in done.values() for (_, x), n in c.items() if x == s) for s in SIGNALS
        },
    }
    print(*problems, table(done), json.dumps(summary), sep="\n")
    return 1 if problems else 0


def saving_cost(folder):
    """Print the share of a training of resnet18 on digits that goes into saving; the exit code."""
    seconds = Counter()

    def timed(owner, name):
        function = getattr(owner, name)

        def measured(*args):
            began = time.perf_counter()
            result = function(*args)
            seconds[name] += time.perf_counter() - began
            return result

        setattr(owner, name, measured)

    timed(Run, "save")
    timed(train, "train_epochs")
    train.main([*"--dataset digits --net resnet18 --epochs 10 --bs 128 --out".split(), str(folder)])
    share = 100 * seconds["save"] / seconds["train_epochs"]
    summary = {"saving_seconds": seconds["save"], "seconds": seconds["train_epochs"], "saving_percent": share}
    print(json.dumps({name: round(value, 2) for name, value in summary.items()}))
    return 1 if share > 5 else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Kill trainings anywhere, resume and compare them.")
    parser.add_argument("--stops", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="scenarios at a time")
    parser.add_argument("--saving-cost", action="store_true", help="measure what saving costs, instead")
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        if options.saving_cost:
            code = saving_cost(scratch)
        else:
            code = harness(options.stops, options.seed, options.jobs, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    sys.exit(code)
