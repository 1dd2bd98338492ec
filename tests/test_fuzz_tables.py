"""Random tables, written in many ways: what was read is what was written, or a question is answered.

ROOTED_FUZZ_TABLES draws more of them.
"""

import csv
import io
import os
import random
from dataclasses import dataclass, field

import numpy as np
import pytest

from common import UserError
from logreg.readers import Told, read_files

pytestmark = pytest.mark.slow

CASES = int(os.environ.get("ROOTED_FUZZ_TABLES", "250"))
LABELS = (
    ["yes", "no"], ["1_1", "11", "1_2", "12"], ["007", "7", "07"], ["1.10", "1.1", "1.0"], ["+1", "-1"],
    ["0", "1"],
    ["a, b", "a; b", "c|d"], ['say "so"', "it's"], ["ärger", "Übel", "naïve"], ["New York", "Los Angeles"],
    ["1e0", "1"], ["Iris-setosa", "Iris-versicolor", "Iris-virginica"], ["none", "mild"], ["True", "False"],
    ["NaNny", "nano"], ["0x1", "1"], ["1/2", "2/1"], ["12,5", "13,5"], ["#1", "#2"],
    ["  in", "out"], ["-", "+"],
)  # fmt: skip
WHOLE = (["1.0", "2.0"], ["1", "1.0", "2"], ["0", "1."], ["-1", "1.00"])  # as numbers are: 1.0 is 1
NAMES = (
    ["width", "height", "x1", "x_2", "mass", "größe"], ["a, b", "c; d", "e|f", "g h", 'i "j"', "k"],
    ["2001", "2002", "2003", "2004", "2005", "2006"], ["0", "1", "2", "3", "4", "5"],
    ["400.5", "401.5", "402.5", "403.5", "404.5", "405.5"], ["A", "B", "C", "D", "E", "F"],
    ["day 1", "day 2", "day 3", "day 4", "day 5", "day 6"], ["length\n(cm)", "b", "c", "d", "e", "f"],
)  # fmt: skip


@dataclass
class Case:
    """A table, how it was written, and what a reader must be told if it asks."""

    files: list = field(default_factory=list)  # bytes: training, test
    X: list = field(default_factory=list)
    y: list = field(default_factory=list)
    names: list = field(default_factory=list)
    target: str | None = None
    truth: dict = field(default_factory=dict)


def spell(rng, style, decimal):
    """A number as text, and the double nearest to that text."""
    if style == "whole":
        text = str(rng.randint(-20, 20))
    elif style == "thousands":
        text = f"{rng.uniform(-1e7, 1e7):,.2f}"
    elif style == "exponent":
        text = f"{rng.gauss(0, 1) * 10 ** rng.randint(-30, 30):.5e}"
    else:
        text = f"{rng.gauss(0, 3):.{rng.choice([1, 2, 3, 6, 17])}f}"
    value = float(text.replace(",", ""))
    return (text if decimal == "." else text.translate(str.maketrans(".,", ",."))), value


def draw(rng):
    case, n, d = Case(), rng.randint(12, 40), rng.randint(1, 6)
    separator = rng.choice([",", ",", ";", ";", "\t", "|", " "])
    decimal = rng.choice([".", ".", ","])
    header = rng.random() < 0.6
    names = rng.choice(NAMES)[:d] if header else []
    spellings = rng.choice(WHOLE) if rng.random() < 0.15 else rng.choice(LABELS)
    styles = [rng.choice(["whole", "fraction", "fraction", "exponent", "thousands"]) for _ in range(d)]
    if (
        decimal == "," or rng.random() < 0.7
    ):  # a file with thousands and fractions of the other kind is no file
        styles = ["fraction" if s == "thousands" and rng.random() < 0.8 else s for s in styles]
    place = d if rng.random() < 0.6 else rng.randrange(d + 1)
    numbered = header and rng.random() < 0.25
    two = rng.random() < 0.4
    quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    # Nobody writes these without quotes, and csv quotes no leading blank or single quote of its own accord.
    if separator == " " or any(s != s.strip() for s in spellings) or "\n" in "".join(names):
        quoting = csv.QUOTE_ALL
    newline = rng.choice(["\n", "\r\n", "\r"])
    encoding = rng.choice(["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
    trailing = rng.random() < 0.1 and separator != " "
    comments = rng.random() < 0.15 and "#1" not in spellings
    whole = all(s.strip("-").rstrip("0").rstrip(".").isdigit() or s in ("0", "1.") for s in spellings)

    parts = [n, rng.randint(4, 12)] if two else [n]
    for part, rows in enumerate(parts):
        order = list(range(d + 1))  # of features and, as d, the target
        order.remove(d)
        order.insert(place, d)
        if part == 1 and header:
            rng.shuffle(order)
        X, y, lines = [], [], []
        if header:
            lines.append([""] * numbered + ["kind" if j == d else names[j] for j in order] + [""] * trailing)
        for row in range(rows):
            texts, values = zip(*(spell(rng, style, decimal) for style in styles), strict=True)
            label = spellings[row % len(spellings)]
            X.append(values)
            y.append(label.strip().rstrip("0").rstrip(".") if whole and "." in label else label.strip())
            cells = [label if j == d else texts[j] for j in order]
            lines.append([str(row)] * numbered + cells + [""] * trailing)
        text = io.StringIO()
        writer = csv.writer(text, delimiter=separator, quoting=quoting, lineterminator=newline)
        if comments:
            text.write(f"# made by a program{newline}{newline}")
        for i, line in enumerate(lines):
            writer.writerow(line)
            if rng.random() < 0.02:
                text.write("# a remark" * comments * (separator != " ") + newline)
            if i == len(lines) - 1 and rng.random() < 0.05 and separator != " ":
                writer.writerow([""] * len(line))  # as spreadsheets leave behind
        case.files.append(text.getvalue().encode(encoding))
        case.X.append(np.array(X))
        case.y.append(y)
    case.names = names or [f"x{j + (j >= place)}" for j in range(d)]  # by their place in the file
    target = "kind" if header else str(place if rng.random() < 0.5 else place - d - 1)
    if place != d or (header and rng.random() < 0.3):
        case.target = target
    case.truth = {"target": target, "header": header, "sep": separator, "decimal": decimal}
    return case


def difference(case, paths, told):
    """What was read otherwise than it was written; empty if nothing was."""
    samples = read_files(*paths, told=told)
    read = [(samples.X, samples.y), (samples.X_test, samples.y_test)][: len(paths)]
    if samples.names != [name.strip() for name in case.names]:
        return f"names {samples.names}"
    for (X, y), wanted_X, wanted_y in zip(read, case.X, case.y, strict=True):
        if not np.array_equal(X, wanted_X):
            return f"numbers {X[:2]} instead of {wanted_X[:2]}"
        if y != wanted_y:
            return f"labels {y[:6]} instead of {wanted_y[:6]}"
    return ""


def test_what_is_read_is_what_was_written(tmp_path):
    asked, wrong = 0, []
    for seed in range(CASES):
        case = draw(random.Random(seed))
        paths = [tmp_path / name for name in ("train.csv", "test.csv")[: len(case.files)]]
        for path, content in zip(paths, case.files, strict=True):
            path.write_bytes(content)
        try:
            found = difference(case, paths, Told(case.target))
        except UserError as error:
            if not any(flag in str(error) for flag in ("--header", "--sep", "--decimal", "--target")):
                found = str(error)
            else:
                asked += 1
                try:  # the flags that the question names settle it
                    found = difference(case, paths, Told(**case.truth))
                except UserError as again:
                    found = f"{error} – and with the flags {again}"
        if found:
            wrong.append(f"seed {seed}: {found} – {case.files[0][:150]!r}")
    at_once = CASES - asked - len(wrong)
    print(f"\ntables: {CASES}, read at once: {at_once}, asked: {asked}, different: {len(wrong)}")
    assert wrong == []
    assert asked < CASES / 5  # else it guesses too little
