"""report.json, report.md, confusion.png and reliability.png: what a test says of a net, for people."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from common import OKABE_ITO, draw, printable, write_atomically

from .scores import calibration_bins, calibration_error, probabilities

REPORT = ("report.json", "report.md", "confusion.png", "reliability.png")
MISTAKES = 20
READABLE = 40  # classes whose names fit the picture


def write_report(
    directory: Path,
    scores: dict[str, float],
    logits: Tensor,
    labels: Tensor,
    logit_scale: float | None,
    class_names: Sequence[str],
    paths: Sequence[str] | None = None,
) -> None:
    """Write the four files into `directory`.

    Parameters
    ----------
    directory : Path
    scores : dict
        As :func:`engine.scores.test_scores` gives them.
    logits : Tensor, shape (N, C)
    labels : Tensor of int64, shape (N,)
    logit_scale : float, optional
        Probabilities corrected for the loss are those of softmax(logit_scale · logits); None: no correction.
    class_names : sequence of str
    paths : sequence of str, optional
        The image files, in the order of `labels`.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    names, plain = [str(name) for name in class_names], probabilities(logits)
    corrected = plain if logit_scale is None else probabilities(logits, logit_scale)
    labels, predicted, everyone = labels.numpy(), plain.argmax(1), np.arange(len(names))
    columns = ("precision", "recall", "f1-score", "support")
    figures = precision_recall_fscore_support(labels, predicted, labels=everyone, zero_division=0)
    confidence, wrong = corrected.max(1), np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    report = {
        "images": len(labels),
        "accuracy": scores["acc"],
        **{name: scores[name] for name in ("nll", "nll_corrected", "ece", "ece_corrected") if name in scores},
        "classes": {
            name: dict(zip(columns, map(float, row), strict=True))
            for name, *row in zip(names, *figures, strict=True)
        },
        "mistakes": [
            {
                "image": str(paths[i]) if paths else int(i),
                "label": names[labels[i]],
                "predicted": names[predicted[i]],
                "probability": float(confidence[i]),
            }
            for i in worst
        ],
    }
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    for name, content in (("report.json", text), ("report.md", _markdown(report))):
        data = content.encode(errors="backslashreplace")
        write_atomically(directory / name, lambda file, data=data: file.write(data))
    matrix = confusion_matrix(labels, predicted, labels=everyone)
    draw(directory / "confusion.png", lambda: _confusion(matrix, names))
    curves = {"softmax": plain} if logit_scale in (None, 1) else {"softmax": plain, "corrected": corrected}
    draw(directory / "reliability.png", lambda: _reliability(curves, labels))


def _markdown(report: dict) -> str:
    def table(header, rows):
        lines = [header, ["---"] * len(header), *rows]
        return ["", *(f"| {' | '.join(str(c).replace('|', '/') for c in line)} |" for line in lines)]

    has_correction = "nll_corrected" in report
    header = [
        "",
        "softmax",
        "corrected for the loss" if has_correction else "uncorrected: the loss has no correction",
    ]
    rows = [
        [what, f"{report[name]:.4f}", f"{report[f'{name}_corrected']:.4f}" if has_correction else ""]
        for what, name in (("negative log likelihood", "nll"), ("calibration error, %", "ece"))
    ]
    lines = [f"# Test on {report['images']:,} images", "", f"Accuracy {report['accuracy']:.2f} %."]
    lines += table(header, rows)
    lines += table(
        ["class", "precision", "recall", "F1", "images"],
        [
            [name, *(f"{row[k]:.3f}" for k in ("precision", "recall", "f1-score")), f"{row['support']:.0f}"]
            for name, row in report["classes"].items()
        ],
    )
    if report["mistakes"]:
        lines += ["", "The most confident mistakes:"]
        mistakes = [[*list(m.values())[:3], f"{m['probability']:.3f}"] for m in report["mistakes"]]
        lines += table(["image", "label", "predicted", "probability"], mistakes)
    return "\n".join(lines) + "\n"


def _confusion(matrix: np.ndarray, names: list[str]):
    """Rows sum to 100 %: where the images of each class went."""
    from matplotlib.figure import Figure

    n, shares = len(matrix), 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = min(14.0, max(4.5, 2.2 + 0.34 * n)) if n <= READABLE else 9.0
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    squares = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    axes.set(xlabel="predicted class", ylabel="true class")
    if n <= READABLE:
        shown = [printable(name)[:24] for name in names]
        turned = {"rotation": 45, "ha": "right"} if max(map(len, shown)) > 2 else {}
        axes.set_xticks(range(n), shown, parse_math=False, **turned)
        axes.set_yticks(range(n), shown, parse_math=False)
    if n <= 20:
        for i, j in np.argwhere(matrix > 0):
            colour = "white" if shares[i, j] > 55 else "black"
            axes.text(j, i, matrix[i, j], ha="center", va="center", fontsize=8, color=colour)
    figure.colorbar(squares, label="share of the true class, %", fraction=0.046)
    return figure


def _reliability(curves: dict[str, np.ndarray], labels: np.ndarray):
    """Accuracy against confidence; the distance from the diagonal is the calibration error."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color="0.6", linewidth=1, label="as sure as right")
    for (name, p), colour, marker in zip(curves.items(), OKABE_ITO[1:], "os", strict=False):
        count, confidence, accuracy = calibration_bins(p, labels)
        full = count > 0
        x, y = 100 * confidence[full], 100 * accuracy[full]
        axes.plot(x, y, color=colour, linewidth=1.2)
        label = f"{name}: error {calibration_error(p, labels):.2f} %"
        axes.scatter(x, y, s=12 + 120 * count[full] / count.max(), color=colour, marker=marker, label=label)
    axes.set(xlabel="confidence, %", ylabel="accuracy, %", xlim=(0, 102), ylim=(-3, 103))
    axes.set_title("larger marks: more images", fontsize=9)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    legend = figure.legend(frameon=False, loc="outside lower center", fontsize=9, ncols=2)  # covers no data
    for handle in legend.legend_handles[1:]:
        handle.set_sizes([40])
    return figure
