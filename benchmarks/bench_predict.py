#!/usr/bin/env python
"""How long predict.py takes for an image, and how much memory, beside the evaluation loop of train.py.

python benchmarks/bench_predict.py                     10,000 images of 96 px
python benchmarks/bench_predict.py --images 2000 --net resnet18

Both programs run as a user starts them, on the same files, which are above 64 px so that both read them from disk. A
tenth of the images is timed too: what is left after subtracting it is the time of the others, without start-up.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import Column, parser, prepare, report
from PIL import Image

from common import number

PROG, ROOT, SIZE = "bench_predict.py", Path(__file__).resolve().parent.parent, 96


def parse_args(argv=None):
    p = parser(PROG, __doc__)
    p.add_argument("--images", type=number(int, 100, 10**6), default=10_000, metavar="N", help="how many")
    p.add_argument("--net", default="resnet20", metavar="NAME", help="the net")
    p.add_argument("--bs", type=number(int, 1, 10**6), default=128, metavar="N", help="images at a time")
    p.add_argument(
        "--rounds", type=number(int, 1, 100), default=3, metavar="N", help="turns; the best counts"
    )
    return p.parse_args(argv)


def compare(args, device, folder):
    """A row for each program."""
    rng = np.random.default_rng(0)
    for name, count in (("all", args.images), ("tenth", args.images // 10)):
        for i in range(count):
            file = folder / name / "test" / f"class{i % 10}" / f"{i:06}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (SIZE // 8, SIZE // 8, 3), np.uint8))
            coarse.resize((SIZE, SIZE)).save(file)
    places = f"--data-dir {folder} --device {device.type}"
    run(
        f"train.py --dataset folder:{folder}/tenth/test --size {SIZE} --net {args.net} --val-split 0.5 --epochs 1 "
        f"--max-steps 1 --out {folder} --run-name run {places}"
    )
    how = f"--bs {args.bs} --workers 2"
    programs = {
        "train.py --eval-only": f"train.py --eval-only --checkpoint {folder}/run/best.pt --dataset "
        f"folder:{folder}/NAME --out {folder} {how} {places}",
        "predict.py": f"predict.py {folder}/run {folder}/NAME/test --csv {folder}/out.csv {how} "
        f"--device {device.type}",
    }
    best = {}
    for _ in range(args.rounds):  # in turns, so that a busy machine is busy for both
        for name in programs:
            for part in ("tenth", "all"):
                figures = run(programs[name].replace("NAME", part))
                best[name, part] = tuple(map(min, best.get((name, part), figures), figures))
    rows = []
    for name in programs:
        (few, small), (seconds, memory) = best[name, "tenth"], best[name, "all"]
        per_image = 1e6 * (seconds - few) / (args.images - args.images // 10)
        rows.append({"name": name, "seconds": seconds, "per_image": per_image, "memory": memory})
        rows[-1] |= {"more": memory - small, "ratio": per_image / rows[0]["per_image"]}
    return rows


def run(command):
    """Seconds that a program of ours takes, and its memory at peak in MiB."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command.split()], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def main(argv=None):
    args = parse_args(argv)
    device = prepare(args, PROG)
    os.environ["OMP_NUM_THREADS"] = str(args.threads or 1)
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(args, device, Path(folder))
    columns = [
        Column("name", "program"), Column("seconds", "s", "{:.1f}"), Column("per_image", "µs an image", "{:.0f}"),
        Column("ratio", "of evaluation", "{:.2f}"), Column("memory", "MiB at peak", "{:.0f}"),
        Column("more", "MiB more than for a tenth", "{:.0f}"),
    ]  # fmt: skip
    title = f"{args.images:,} images of {SIZE} px, {args.net}, batches of {args.bs}"
    report(PROG, title, rows, columns, device, args.json)


if __name__ == "__main__":
    main()
