"""Random tables, written in many ways: with the flags that describe them, what is read is what was written.

Without flags a table of commas is refused, or read as it was written: never otherwise.
ROOTED_FUZZ_TABLES draws more of them.
"""

import csv
import io
import os
import random

import numpy as np
import pytest

from common import UserError
from logreg.tables import Rule, read_files

pytestmark = pytest.mark.slow

CASES = int(os.environ.get("ROOTED_FUZZ_TABLES", "150"))
LABELS = (
    ["yes", "no"], ["1_1", "11", "1_2", "12"], ["007", "7", "07"], ["1.10", "1.1"], ["+1", "-1"], ["0", "1"],
    ["a, b", "a; b", "c|d"], ['say "so"', "it's"], ["ärger", "Übel"], ["New York", "Los Angeles"], ["1e0", "1"],
    ["NA", "EU"], ["none", "?"], ["True", "False"], ["1/2", "2/1"], ["12,5", "13,5"], ["#1", "#2"], ["1", "1.0"],
)  # fmt: skip
NAMES = (
    ["width", "height", "x1", "x_2", "mass", "größe"], ["a, b", "c; d", "e|f", "g h", 'i "j"', "k"],
    ["2001", "2002", "2003", "2004", "2005", "2006"], ["0", "1", "2", "3", "4", "5"],
    ["length\n(cm)", "b", "c", "d", "e", "f"],
)  # fmt: skip


def spell(rng, style, decimal):
    """A number as text, and the double nearest to that text."""
    if style == "whole":
        text = str(rng.randint(-20, 20))
    elif style == "exponent":
        text = f"{rng.gauss(0, 1) * 10 ** rng.randint(-30, 30):.5e}"
    else:
        text = f"{rng.gauss(0, 3):.{rng.choice([1, 2, 6, 15])}f}"
    return text.replace(".", decimal), float(text)


def draw(rng):
    """Files (bytes), what they hold as (X, labels), and the rule by which they are written."""
    d, separator, decimal = rng.randint(1, 6), rng.choice([",", ",", ";", "\t", "|", " "]), rng.choice("..,")
    header, labels, place = rng.random() < 0.6, rng.choice(LABELS), rng.randrange(d + 1)
    names = rng.choice(NAMES)[:d]
    styles = [rng.choice(["whole", "fraction", "exponent"]) for _ in range(d)]
    quoting = csv.QUOTE_ALL if separator == " " else rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    newline = rng.choice(["\n", "\r\n"])
    files, held = [], []
    for part, n in enumerate([rng.randint(12, 40), rng.randint(4, 12)][: rng.choice([1, 2])]):
        order = [*range(place), d, *range(place, d)]  # of features and, as d, the target
        if part == 1 and header:
            rng.shuffle(order)
        text, X, y = io.StringIO(), [], []
        writer = csv.writer(text, delimiter=separator, quoting=quoting, lineterminator=newline)
        if header:
            writer.writerow("kind" if j == d else names[j] for j in order)
        for row in range(n):
            cells, values = zip(*(spell(rng, style, decimal) for style in styles), strict=True)
            y.append(labels[row % len(labels)])
            X.append(values)
            writer.writerow(y[-1] if j == d else cells[j] for j in order)
            if rng.random() < 0.02:
                text.write(newline)
        files.append(text.getvalue().encode(rng.choice(["utf-8", "utf-8-sig"])))
        held.append((np.array(X), y))
    target = "kind" if header else str(place)
    return files, held, Rule(separator, header, decimal, target)


def same(read, held):
    return all(np.array_equal(X, Y) and a == b for (X, a), (Y, b) in zip(read, held, strict=True))


def test_what_is_read_is_what_was_written(tmp_path):
    refused = plain = 0
    for seed in range(CASES):
        files, held, rule = draw(random.Random(seed))
        paths = [tmp_path / name for name in ("train.csv", "test.csv")[: len(files)]]
        for path, content in zip(paths, files, strict=True):
            path.write_bytes(content)
        assert same(read_files(*paths, rule=rule)[0], held), f"seed {seed}"
        if rule.sep != ",":
            continue
        plain += 1
        try:
            read, _ = read_files(*paths, rule=Rule(target=rule.target))
        except UserError:
            refused += 1
        else:
            assert same(read, held), f"seed {seed}, without flags"
    print(f"\ntables: {CASES}, with commas {plain}, of these refused without flags: {refused}")
    assert 0 < refused < plain
