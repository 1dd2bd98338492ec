#!/usr/bin/env python
"""How much of the wrong training labels has a run learned? By its last epoch, on training images without augmentation.

python docs/memorised.py runs/human/*/         right images, wrong labels: share predicted as labelled, and as they are
"""

import argparse
import csv
import json
import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # a script of the repository, run from anywhere


def memorised(run, data_dir=None):
    """Percentages over the training images of a run with wrong labels, by its last.pt.

    Parameters
    ----------
    run : Path
        A run directory.
    data_dir : str, optional
        Where the data are now (default: where they were).

    Returns
    -------
    dict of str to float
        ``wrong``: share of wrong labels; ``right_learned``: of the right ones, predicted; ``wrong_learned``: of the
        wrong ones, predicted as labelled; ``wrong_corrected``: of the wrong ones, predicted as they are.
    """
    import torch

    from data import build_data
    from models import load_run, read_info

    flags = json.loads((run / "config.json").read_text())
    names = (
        "label_noise",
        "label_noise_kind",
        "train_labels",
        "label_column",
        "imbalance",
        "val_split",
        "seed",
    )
    size = read_info(run / "last.pt").image_size
    data = build_data(
        flags["dataset"], data_dir or flags["data_dir"], size, 500, "cpu",
        augment=False, **{name: flags[name] for name in names},
    )  # fmt: skip
    net, _, _ = load_run(run / "last.pt")
    counts = dict.fromkeys(("right", "right_learned", "wrong", "wrong_learned", "wrong_corrected"), 0)
    with torch.inference_mode():
        seen = 0
        for images, labels in data.train_in_order():
            clean, said = data.clean_train_labels[seen : seen + len(labels)], net(images).argmax(1)
            seen += len(labels)
            wrong = labels != clean
            found = (
                ~wrong,
                (said == labels) & ~wrong,
                wrong,
                (said == labels) & wrong,
                (said == clean) & wrong,
            )
            counts = {name: n + int(f.sum()) for (name, n), f in zip(counts.items(), found, strict=True)}
    return {
        "wrong": 100 * counts["wrong"] / (counts["right"] + counts["wrong"]),
        "right_learned": 100 * counts["right_learned"] / counts["right"],
        "wrong_learned": 100 * counts["wrong_learned"] / max(1, counts["wrong"]),
        "wrong_corrected": 100 * counts["wrong_corrected"] / max(1, counts["wrong"]),
    }


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN_DIR", help="runs with wrong training labels"
    )
    parser.add_argument(
        "--data-dir", metavar="DIR", help="where data sets are kept (default: as the run had it)"
    )
    args = parser.parse_args(argv)
    for run in args.runs:
        if not (run / "last.pt").is_file():
            parser.error(f"{run} has no last.pt: RUN_DIR must be the directory of a training")
    rows = [{"run": run.name, **memorised(run, args.data_dir)} for run in args.runs]
    table = csv.DictWriter(sys.stdout, rows[0], lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({k: f"{v:.2f}" if isinstance(v, float) else v for k, v in row.items()})


if __name__ == "__main__":
    main()
