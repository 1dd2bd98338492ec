"""report.json, report.md, confusion.png and reliability.png: what a test says of a net, for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common import OKABE_ITO, UserError, picture, printable, write_atomically

from .scores import BINS

REPORT = ("report.json", "report.md", "confusion.png", "reliability.png")
MISTAKES = 20
READABLE = 40  # classes whose names fit the picture


def write_report(
    directory: Path,
    scores: dict[str, float],
    probabilities: np.ndarray,
    corrected: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    paths: Sequence[str] | None = None,
) -> dict:
    """Write the four files; returns what report.json holds.

    Parameters
    ----------
    directory : Path
    scores : dict
        As `Scores.read` gives them.
    probabilities, corrected : ndarray, shape (N, C)
        Plain softmax, and corrected for the loss (docs/losses.md §7).
    labels : ndarray of int, shape (N,)
    class_names : sequence of str
    paths : sequence of str, optional
        The image files, in the order of `labels`.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    predicted = probabilities.argmax(1)
    everyone = np.arange(len(class_names))
    # not classification_report, which has words of its own among the names: a class may be called "accuracy"
    figures = precision_recall_fscore_support(labels, predicted, labels=everyone, zero_division=0)
    names = ("precision", "recall", "f1-score", "support")
    per_class = [dict(zip(names, map(float, row), strict=True)) for row in zip(*figures, strict=True)]
    confidence = corrected.max(1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    report = {
        "images": len(labels),
        "accuracy": scores["acc"],
        **{name: scores[name] for name in ("nll", "nll_corrected", "ece", "ece_corrected")},
        "classes": dict(zip(map(str, class_names), per_class, strict=True)),
        "mistakes": [
            {
                "image": str(paths[i]) if paths else int(i),
                "label": str(class_names[labels[i]]),
                "predicted": str(class_names[predicted[i]]),
                "probability": float(confidence[i]),
            }
            for i in worst
        ],
    }
    directory = Path(directory)
    try:
        directory.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {directory} for the report: {error.strerror}") from None
    _write(directory / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    _write(directory / "report.md", _markdown(report))
    matrix = confusion_matrix(labels, predicted, labels=everyone)
    write_atomically(directory / "confusion.png", lambda f: f.write(_confusion(matrix, class_names)))
    both = (("softmax", probabilities, scores["ece"]), ("corrected", corrected, scores["ece_corrected"]))
    write_atomically(directory / "reliability.png", lambda f: f.write(_reliability(both, labels)))
    return report


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def _bins(p: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, mean confidence and accuracy of each bin; NaN where it is empty."""
    confidence, right = p.max(1), p.argmax(1) == labels
    which = np.clip(np.ceil(confidence * BINS).astype(int), 1, BINS) - 1
    count = np.bincount(which, minlength=BINS)
    with np.errstate(invalid="ignore"):
        means = np.bincount(which, confidence, BINS) / count
        accuracy = np.bincount(which, right, BINS) / count
    return count, means, accuracy


def _cell(text: object) -> str:
    return str(text).replace("|", "/").replace("\n", " ")


def _markdown(report: dict) -> str:
    lines = [
        f"# Test on {report['images']:,} images",
        "",
        f"Accuracy {report['accuracy']:.2f} %.",
        "",
        "| | softmax | corrected for the loss |",
        "| --- | --- | --- |",
        f"| negative log likelihood | {report['nll']:.4f} | {report['nll_corrected']:.4f} |",
        f"| calibration error, % | {report['ece']:.2f} | {report['ece_corrected']:.2f} |",
        "",
        "| class | precision | recall | F1 | images |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in report["classes"].items():
        numbers = " | ".join(f"{row[k]:.3f}" for k in ("precision", "recall", "f1-score"))
        lines.append(f"| {_cell(name)} | {numbers} | {row['support']:.0f} |")
    if report["mistakes"]:
        lines += [
            "",
            "The most confident mistakes:",
            "",
            "| image | is | taken for | probability |",
            "| --- | --- | --- | --- |",
        ]
        for m in report["mistakes"]:
            lines.append(
                f"| {_cell(m['image'])} | {_cell(m['label'])} | {_cell(m['predicted'])} | {m['probability']:.3f} |"
            )
    return "\n".join(lines) + "\n"


def _figure(width: float, height: float):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _confusion(matrix: np.ndarray, class_names: Sequence[str]) -> bytes:
    """Rows sum to 100 %: where the images of each class went."""
    n = len(matrix)
    shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = min(14.0, max(4.5, 2.2 + 0.34 * n)) if n <= READABLE else 9.0
    figure, axes = _figure(side + 1, side)
    squares = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    axes.set(xlabel="predicted class", ylabel="true class")
    if n <= READABLE:
        names = [printable(str(name))[:24] for name in class_names]
        axes.set_xticks(
            range(n),
            names,
            rotation=45 if max(map(len, names)) > 2 else 0,
            ha="right" if max(map(len, names)) > 2 else "center",
            parse_math=False,
        )
        axes.set_yticks(range(n), names, parse_math=False)
    if n <= 20:
        for i, j in np.argwhere(matrix > 0):
            colour = "white" if shares[i, j] > 55 else "black"
            axes.text(j, i, matrix[i, j], ha="center", va="center", fontsize=8, color=colour)
    figure.colorbar(squares, label="share of the true class, %", fraction=0.046)
    return picture(figure)


def _reliability(both, labels: np.ndarray) -> bytes:
    """Accuracy against confidence; the distance from the diagonal is the calibration error."""
    figure, axes = _figure(5, 4.6)
    axes.plot([0, 100], [0, 100], color="0.6", linewidth=1, label="as sure as right")
    seen = []
    for (name, p, ece), colour, marker in zip(both, OKABE_ITO[1:], "os", strict=False):
        if any(np.array_equal(p, other) for other in seen):
            continue  # nothing to correct: one curve
        seen.append(p)
        count, confidence, accuracy = _bins(p, labels)
        full = count > 0
        label = f"{name}: error {ece:.2f} %"
        sizes = 12 + 120 * count[full] / count.max()
        axes.plot(100 * confidence[full], 100 * accuracy[full], color=colour, linewidth=1.2)
        axes.scatter(
            100 * confidence[full], 100 * accuracy[full], s=sizes, color=colour, marker=marker, label=label
        )
    axes.set(xlabel="confidence, %", ylabel="accuracy, %", xlim=(0, 102), ylim=(-3, 103))
    axes.set_title("larger marks: more images", fontsize=9)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    legend = figure.legend(frameon=False, loc="outside lower center", fontsize=9, ncols=2)  # covers no data
    for handle in legend.legend_handles[1:]:
        handle.set_sizes([40])
    return picture(figure)
