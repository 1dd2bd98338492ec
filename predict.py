#!/usr/bin/env python
"""Name what is in images, with a net that train.py trained.

python predict.py runs/NAME photo.jpg more/photos                 a table; folders are searched
python predict.py runs/NAME photos --top 1 --csv out.csv          a row an image
"""

import csv
import sys
from collections import Counter
from pathlib import Path

from common import UserError, may_replace, one_line_errors
from flags import predict_parser

HEADER = b"image,class1,"  # how our tables begin


def main(argv=None):
    args = predict_parser(__doc__).parse_args(argv)
    with one_line_errors("predict.py", "try a smaller --bs"):
        unreadable = predict(args)
        for message in unreadable:
            print(f"predict.py: {message}", file=sys.stderr)
        if unreadable:
            raise UserError(f"{len(unreadable)} of the images could not be read: they are named above")


def predict(args):
    """Write a row for each image, as they come; returns what is wrong with those that cannot be read."""
    import torch

    from data.images import find_images, suffixes
    from engine.distributed import World
    from models import ModelError, load_run, net_facts, read_info
    from models.run import weights_file

    weights = weights_file(args.run)
    net, transform, class_names = load_run(weights)
    info = read_info(weights)
    scale = 1.0 if args.raw else info.logit_scale or 1.0
    layout = torch.channels_last if net_facts(info.net).channels_last else torch.contiguous_format
    device = World(args.device).device
    net.to(device, memory_format=layout)
    paths, left_out = [], Counter()
    for name in map(Path, args.images):
        if not name.exists():
            raise UserError(f"{name} is not there")
        found = find_images(name, left_out) if name.is_dir() else [str(name)]
        if not found:
            others = f", only {suffixes(left_out)}" if left_out else ""
            raise UserError(f"folder {name} has no images in it{others}")
        paths += found
    if left_out:  # HEIC, say, which Pillow does not read
        print(f"predict.py: left out for their suffix: {suffixes(left_out)}", file=sys.stderr)
    args.top = args.top or min(3, len(class_names))
    if args.top > len(class_names):
        raise ModelError(f"--top {args.top}: the net knows {len(class_names)} classes")

    loader = torch.utils.data.DataLoader(
        _Images(paths, transform),
        args.bs,
        num_workers=args.workers if len(paths) > args.bs else 0,
        collate_fn=_one_tensor,
    )
    unreadable = []
    with writer(args) as write, torch.inference_mode():
        for read, pixels, problems in loader:
            unreadable += problems
            if not read:
                continue
            best = (scale * net(pixels.to(device, memory_format=layout)).float()).softmax(1).topk(args.top)
            for path, p, classes in zip(read, best.values.tolist(), best.indices.tolist(), strict=True):
                write(path, [(class_names[c], x) for c, x in zip(classes, p, strict=True)])
    return unreadable


def _one_tensor(batch):
    """The paths that could be read, their pixels, and what is wrong with the others: workers send one tensor."""
    import torch

    good = [(path, pixels) for path, pixels in batch if not isinstance(pixels, str)]
    pixels = torch.cat([pixels for _, pixels in good]) if good else None
    return [path for path, _ in good], pixels, [what for _, what in batch if isinstance(what, str)]


class _Images:
    """Pixels of each file, or what is wrong with it: a worker's exception would arrive with a traceback."""

    def __init__(self, paths, transform):
        self.paths, self.transform = paths, transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        from data import DataError

        try:
            return self.paths[i], self.transform(self.paths[i])
        except DataError as error:
            return self.paths[i], str(error)


class writer:
    """A table on a terminal, CSV elsewhere or into a file: ``write(path, [(class, probability), …])``."""

    def __init__(self, args):
        try:
            if args.csv and not may_replace(args.csv, HEADER):  # --csv photos/* took the first for its file
                raise UserError(f"{args.csv} exists, and is no table of predict.py; give another --csv")
            # names of files need not be text
            how = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}
            self.file = open(args.csv, "w", **how) if args.csv else sys.stdout
        except OSError as error:
            raise UserError(f"cannot write {args.csv}: {error.strerror}; give another --csv") from None
        self.table = self.file is sys.stdout and sys.stdout.isatty()
        self.top = args.top

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
