#!/usr/bin/env python
"""Name what is in images, with a net that train.py trained.

python predict.py runs/NAME photo.jpg more/photos                 a table; folders are searched
python predict.py runs/NAME photos --top 1 --csv out.csv          a row an image
"""

import csv
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # PYTHONSAFEPATH=1 leaves it out

from common import Parser, UserError, may_replace, number, one_line_errors, pick_device

HEADER = b"image,class1,"  # how the tables of this program begin


def parse_args(argv=None):
    parser = Parser("predict.py", __doc__)
    add = parser.add_argument
    # fmt: off
    add("run", metavar="RUN", help="a run directory, or its best.pt or model.safetensors")
    add("images", nargs="+", metavar="IMAGE", help="image files, or folders that are searched for some")
    add("--top", type=number(int, 1), metavar="N", help="classes an image (default: 3, or all of fewer)")
    add("--csv", default="", metavar="FILE", help="write CSV there (default: a table on a terminal, else CSV)")
    add("--raw", action="store_true", help="plain softmax, not corrected for the loss (docs/losses.md)")
    add("--bs", type=number(int, 1, 10**6), default=128, metavar="N", help="images at a time")
    add("--workers", type=number(int, 0, 1024), default=2, metavar="N", help="processes that decode")
    add("--device", choices=("auto", "cuda", "cpu", "mps"), default="auto", help="what to compute on")
    # fmt: on
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    with one_line_errors("predict.py", "try a smaller --bs"):
        unreadable = predict(args)
        for message in unreadable:
            say(message)
        if unreadable:
            raise UserError(f"{len(unreadable)} of the images could not be read: they are named above")


def say(message):
    print(f"predict.py: {message}", file=sys.stderr)


def predict(args):
    """Write a row for each image, as they come; returns what is wrong with those that cannot be read."""
    import torch

    from data.workers import decoded
    from models import ModelError, load_run, net_facts, read_info
    from models.run import weights_file

    device = pick_device(args.device)
    weights = weights_file(args.run)
    net, transform, class_names = load_run(weights)
    info = read_info(weights)
    scale = 1.0 if args.raw else info.logit_scale
    if scale is None:
        scale = 1.0
        say(f"plain softmax: no correction is known for the loss {info.loss}")
    layout = torch.channels_last if net_facts(info.net).channels_last else torch.contiguous_format
    net.to(device, memory_format=layout)
    paths = image_files(args.images)
    args.top = args.top or min(3, len(class_names))
    if args.top > len(class_names):
        raise ModelError(f"--top {args.top}: the net knows {len(class_names)} classes")

    unreadable = []
    with Writer(args.csv, args.top) as write, torch.inference_mode():
        for indices, pixels, problems in decoded(paths, transform.square, args.bs, args.workers):
            unreadable += problems.values()
            if not indices:
                continue
            images = transform.normalise(pixels).to(device, memory_format=layout)
            best = (scale * net(images).float()).softmax(1).topk(args.top)
            for i, p, classes in zip(indices, best.values.tolist(), best.indices.tolist(), strict=True):
                write(paths[i], [(class_names[c], x) for c, x in zip(classes, p, strict=True)])
    return unreadable


def image_files(names):
    """The files, and those of the folders, that were named on the command line."""
    from data.images import find_images, suffixes

    paths, left_out = [], Counter()
    for name in map(Path, names):
        if not name.exists():
            raise UserError(f"{name} is not there")
        found = find_images(name, left_out) if name.is_dir() else [str(name)]
        if not found:
            others = f", only {suffixes(left_out)}" if left_out else ""
            raise UserError(f"folder {name} has no images in it{others}")
        paths += found
    if left_out:  # HEIC, say, which Pillow does not read
        say(f"left out for their suffix: {suffixes(left_out)}")
    return paths


class Writer:
    """A table on a terminal, CSV elsewhere or into a file: ``write(path, [(class, probability), …])``."""

    def __init__(self, file, top):
        self.file = sys.stdout
        self.table = not file and sys.stdout.isatty()
        self.top = top
        if file:
            try:
                if not may_replace(file, HEADER):  # --csv photos/* took the first photo for its file
                    raise UserError(f"{file} exists, and is no table of predict.py; give another --csv")
                # names of files need not be text
                self.file = open(file, "w", newline="", encoding="utf-8", errors="surrogateescape")
            except OSError as error:
                raise UserError(f"cannot write {file}: {error.strerror}; give another --csv") from None

    def __enter__(self):
        if self.table:
            return self.line
        rows = csv.writer(self.file, lineterminator="\n")
        rows.writerow(
            ["image", *(f"{what}{n}" for n in range(1, self.top + 1) for what in ("class", "probability"))]
        )
        return lambda path, guesses: rows.writerow([path, *(x for c, p in guesses for x in (c, f"{p:.6f}"))])

    def line(self, path, guesses):
        print(f"{path}  " + "   ".join(f"{name} {100 * p:.1f} %" for name, p in guesses))

    def __exit__(self, *_):
        if self.file is not sys.stdout:
            self.file.close()


if __name__ == "__main__":
    main()
