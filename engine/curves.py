"""curves.png: loss and accuracy over the epochs, training and test."""

import math
from pathlib import Path

from common import OKABE_ITO, picture, write_atomically

# Told apart by everyone, and in grey print by their dashes.
TRAIN = {"color": OKABE_ITO[1], "linestyle": "--", "label": "training"}
TEST = {"color": OKABE_ITO[2], "linestyle": "-", "label": "test"}
VAL = TEST | {"label": "validation"}
EMA = {"color": OKABE_ITO[3], "linestyle": "-.", "label": "moving average"}
SPLITS = {"train": TRAIN, "test": TEST, "val": VAL, "ema": EMA}


def draw_curves(rows: list[dict], path: Path, title: str) -> None:
    """Plot the rows of metrics.csv to the PNG file `path`, atomically."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    epochs = [row["epoch"] for row in rows]
    marker = "o" if len(rows) < 30 else None
    for axes, quantity, unit in zip(
        figure.subplots(1, 2), ("loss", "acc"), ("loss", "accuracy (%)"), strict=True
    ):
        for split, style in SPLITS.items():
            if f"{split}_{quantity}" in rows[-1]:
                values = [row.get(f"{split}_{quantity}", math.nan) for row in rows]
                axes.plot(epochs, values, marker=marker, ms=3, **style)
        axes.set(xlabel="epoch", ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.suptitle(title, fontsize=11, parse_math=False)
    write_atomically(path, lambda file: file.write(picture(figure)))
