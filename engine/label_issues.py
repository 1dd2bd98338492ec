"""label_issues.csv and label_issues.png: which training labels a net believes least."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from common import draw, printable, write_atomically

WORST = 40  # images on the contact sheet


def write_label_issues(
    directory: Path,
    quality: Tensor,
    labels: Tensor,
    predicted: Tensor,
    class_names: Sequence[str],
    key: str,
    keys: Sequence[object],
    pictures: Mapping[int, np.ndarray],
) -> None:
    """Write both files into `directory`, the least believed label first.

    Parameters
    ----------
    directory : Path
    quality : Tensor, shape (N,)
        The probability of the given label, in [0, 1]; see ``losses.label_quality``.
    labels, predicted : Tensor of int64, shape (N,)
        The label that each image was trained with, and the net's answer.
    class_names : sequence of str
    key : {"file", "index"}
        What names an image, the column's name; ``--train-labels`` reads it back.
    keys : sequence, length N
    pictures : mapping
        Position to an image of uint8, shape (H, W, 3): the ``WORST``.
    """
    order = quality.argsort(stable=True).tolist()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([key, "label", "predicted", "quality"])
    for i in order:
        writer.writerow([keys[i], class_names[labels[i]], class_names[predicted[i]], f"{quality[i]:.6g}"])
    data = text.getvalue().encode(errors="surrogateescape")
    write_atomically(directory / "label_issues.csv", lambda file: file.write(data))

    def names(i: int) -> tuple[str, str]:
        return printable(class_names[labels[i]])[:14], printable(class_names[predicted[i]])[:14]

    draw(
        directory / "label_issues.png",
        lambda: _contact_sheet([(pictures[i], *names(i)) for i in order[:WORST]]),
    )


def _contact_sheet(images: Sequence[tuple[np.ndarray, str, str]]):
    """The pictures, and under each its label and the net's guess."""
    from matplotlib.figure import Figure

    columns = 8
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.45 * columns, 1.75 * rows + 0.4), layout="constrained")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.set_axis_off()
    for axes, (picture, label, guess) in zip(figure.axes, images, strict=False):
        axes.imshow(picture)
        axes.set_title(f"label: {label}\nnet: {guess}", fontsize=8, y=-0.06, va="top", parse_math=False)
    figure.suptitle("The labels that the net believes least, and its own answer", fontsize=10)
    return figure
