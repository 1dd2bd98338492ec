#!/usr/bin/env python
"""How much of the wrong training labels has a run learned? By its last.pt, on training images without augmentation.

python paper/memorised.py runs/human/*/         percent of wrong labels, and what the net says of right and wrong ones
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd
import torch

import models
from common import one_line_errors
from data import build_data

OF_THE_LABELS = (
    "label_noise",
    "label_noise_kind",
    "train_labels",
    "label_column",
    "imbalance",
    "val_split",
    "seed",
)


def memorised(run):
    """Percentages over the training images of the run in directory `run`, as a dict.

    ``wrong``: share of wrong labels; ``right_learned``: of the right ones, predicted; ``wrong_learned``: of the wrong
    ones, predicted as labelled; ``wrong_corrected``: of the wrong ones, predicted as they truly are.
    """
    net, *_ = models.load_run(run / "last.pt")
    flags = json.loads((run / "config.json").read_text())
    size = models.read_info(run / "last.pt").image_size
    options = {name: flags[name] for name in OF_THE_LABELS}
    data = build_data(flags["dataset"], flags["data_dir"], size, 500, "cpu", augment=False, **options)
    with torch.inference_mode():
        batches = [(labels, net(images).argmax(1)) for images, labels in data.train_in_order()]
    labels, predicted = (torch.cat(parts) for parts in zip(*batches, strict=True))
    clean = data.clean_train_labels
    wrong = labels != clean
    shares = {
        "wrong": wrong,
        "right_learned": (predicted == labels)[~wrong],
        "wrong_learned": (predicted == labels)[wrong],
        "wrong_corrected": (predicted == clean)[wrong],
    }
    return {"run": run.name} | {name: 100 * float(hits.float().mean()) for name, hits in shares.items()}


def main(argv=None):
    with one_line_errors("memorised.py"):
        rows = [memorised(Path(run)) for run in (sys.argv[1:] if argv is None else argv)]
    print(pd.DataFrame(rows).to_csv(index=False, float_format="%.2f"), end="")


if __name__ == "__main__":
    main()
