"""Local data files: tables with or without a header (CSV, TSV, UCI ``.data``, …) and LIBSVM.

``dialect`` says how the cells are written, ``header`` whether the first row is one, ``columns`` what they
mean; here both files, training and test, are taken through them together.
"""

import contextlib
import io
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common import UserError

from . import columns
from .dialect import SEPARATORS, decode, guess_separator, read_cells
from .header import guess_header, take_header

SUFFIXES = (".csv", ".data", ".svm", ".libsvm")
LARGEST = 2**30  # numbers of a matrix: 8 GiB in float64
_SVM_LINE = re.compile(r"\S+(\s+qid:\d+)?(\s+\d+:\S+)+\s*(#.*)?", re.ASCII)


@dataclass(frozen=True)
class Told:
    """What the user said about the files; None where it is to be guessed."""

    target: str | None = None  # name or index of a column
    header: bool | None = None
    sep: str | None = None
    decimal: str | None = None
    drop: tuple | None = None  # () leaves out no column at all


@dataclass
class Samples:
    """Training and test samples; without a test file its parts are None.

    ``X`` and ``X_test`` are float64 of shapes (n, d) and (n', d), ``y`` and ``y_test`` lists of str,
    ``names`` those of the d features, ``understood`` the lines that say how the files were read.
    """

    X: np.ndarray
    y: list
    names: list
    X_test: np.ndarray | None = None
    y_test: list | None = None
    understood: list = field(default_factory=list)


def check_size(rows, columns, what):
    """Raise UserError for a matrix that would not fit into memory anywhere."""
    if rows * columns > LARGEST:
        raise UserError(f"{what}: {rows:,} × {columns:,} numbers are more than {LARGEST:,}, use fewer")


def read_files(path, test_path=None, told=None) -> Samples:
    """Read a file of samples, and the file of test samples that belongs to it.

    Parameters
    ----------
    path, test_path : path
        LIBSVM by the suffix ``.svm`` or ``.libsvm``, or by content where the name has no suffix that says
        otherwise. Anything else is a table with one sample a line.
    told : Told, optional
        The target is the last column unless told.

    Raises
    ------
    UserError
        For what cannot be read, and for what two readings fit equally well, in one line.
    """
    told = told or Told()
    paths = [Path(path)] + ([Path(test_path)] if test_path is not None else [])
    for one in paths:
        if one.is_dir():
            raise UserError(f"{one} is a directory; give one of the files in it")
        if not one.is_file():
            raise UserError(f"no such file: {one}; give the path of a {', '.join(SUFFIXES)} file")
    texts = [decode(one) for one in paths]
    for one, (text, _) in zip(paths, texts, strict=True):
        if not text.strip():
            raise UserError(f"{one} is empty; it needs a sample a line")
    sparse = [_is_svm(one, text) for one, (text, _) in zip(paths, texts, strict=True)]
    if all(sparse):
        return _read_svm(paths, [text for text, _ in texts], told)
    if any(sparse):
        raise UserError(f"{paths[sparse.index(True)]} is a LIBSVM file and the other is not; give both alike")
    return _read_tables(paths, texts, told)


def _is_svm(path, text) -> bool:
    if path.suffix.lower() in (".svm", ".libsvm"):
        return True
    if path.suffix.lower() in (".csv", ".tsv", ".data"):
        return False
    lines = [line for line in text.split("\n") if line.strip() and not line.startswith("#")]
    return any(" " in line for line in lines) and all(map(_SVM_LINE.fullmatch, lines))


def _read_svm(paths, texts, told) -> Samples:
    from sklearn.datasets import load_svmlight_files

    given = [
        name for name in ("target", "header", "sep", "decimal", "drop") if getattr(told, name) is not None
    ]
    if given:
        raise UserError(
            f"{paths[0]}: a LIBSVM file has its target first in every line; leave --{given[0]} out"
        )
    indices, labels = [], []
    for path, text in zip(paths, texts, strict=True):
        lines = [line.split("#")[0].split() for line in text.split("\n")]
        lines = [line for line in lines if line]
        if any(word.startswith("qid:") for line in lines for word in line):
            raise UserError(f"{path} is for ranking (qid:), not for classes; remove the qid: parts")
        labels.append([re.sub(r"^\+(?=\d)|(?<=\d)\.0*$", "", line[0]) for line in lines])
        seen = {word.split(":")[0] for line in lines for word in line[1:]}
        indices.append([int(i) for i in seen if i.isascii() and i.isdigit()] or [1])
    ranges = [(min(seen), max(seen)) for seen in indices]
    if len(ranges) == 2 and {a - b for a, b in zip(*ranges, strict=True)} in ({1}, {-1}):
        raise UserError(
            f"{paths[1]} counts features from {ranges[1][0]}, {paths[0]} from {ranges[0][0]}; use one base"
        )
    _check_base(paths, texts)
    try:
        loaded = load_svmlight_files([io.BytesIO(text.encode()) for text in texts], zero_based="auto")
    except (ValueError, OverflowError) as error:
        files = " or ".join(map(str, paths))
        raise UserError(f"{files} is not in LIBSVM format ('label index:value …'): {error}") from None
    parts = []
    for path, X, y in zip(paths, loaded[::2], loaded[1::2], strict=True):
        check_size(*X.shape, path)
        parts.append(X.toarray())
        if not np.isfinite(parts[-1]).all() or not np.isfinite(y).all():
            raise UserError(f"{path} holds a value that is not a finite number; drop such samples first")
    base = 0 if min(low for low, _ in ranges) == 0 else 1
    doubts = columns.doubtful_labels(labels) + (_seen_before(parts, labels) if len(parts) == 2 else [])
    line = f"read as LIBSVM: indices from {base}, the target first; {_counts(labels)}"
    if len(ranges) == 2 and ranges[1][1] > ranges[0][1]:
        line += f"; features above {ranges[0][1]} only in {paths[1]}: 0 in training, so without effect"
    names = [f"x{i}" for i in range(parts[0].shape[1])]
    return Samples(
        parts[0], labels[0], names, *(parts[1:] or [None]), *(labels[1:] or [None]), [line, *doubts]
    )


def _check_base(paths, texts):
    """Refuse two files of which one has an index 0 and the other, by chance, hardly could be without it.

    Raises
    ------
    UserError
        Where the share of samples with index 0 in one file makes the other's lack of it less likely than 1 in 1000.
    """
    rows = [len(re.findall(r"^\s*[^\s#]", text, re.MULTILINE)) for text in texts]
    zeros = [len(re.findall(r"^\s*[^\s#]\S*\s+0:", text, re.MULTILINE)) for text in texts]
    if len(texts) == 2 and (not zeros[0]) != (not zeros[1]):
        one, other = (0, 1) if zeros[0] else (1, 0)
        if (1 - zeros[one] / (rows[one] + 1)) ** rows[other] < 1e-3:
            raise UserError(
                f"{paths[one]} has a feature 0 in {zeros[one]} of {rows[one]} samples, {paths[other]} in none of "
                f"{rows[other]}: does that one count from 1? Use one base"
            )


def _read_tables(paths, texts, told) -> Samples:
    separator = told.sep
    texts = [(text, encoding) for text, encoding in texts]
    for i, (text, encoding) in enumerate(texts):
        # Excel's own first line. It stays as an empty one, so that lines keep their numbers.
        if found := re.match(r"sep=(.)\n", text):
            separator = separator or found[1]
            texts[i] = "\n" + text[found.end() :], encoding
    separator = separator or guess_separator(paths[0], texts[0][0])
    if len(paths) == 2 and told.sep is None:
        other = _separator_of_test(paths[1], texts[1][0], separator)
        if other != separator:
            by, but = (SEPARATORS.get(s, repr(s)) for s in (separator, other))
            raise UserError(f"{paths[1]} is separated by {but}, {paths[0]} by {by}; save both alike")
    tables = [read_cells(path, *text, separator) for path, text in zip(paths, texts, strict=True)]
    for table in tables:
        if table.frame.shape[1] < 2:
            raise UserError(
                f"{table.path} has one column; features and a target are needed, separated by commas "
                "(or say by what with --sep)"
            )
    header = told.header
    if header is None:
        header = guess_header(tables[0], told.target)
        if not header and len(tables) == 2 and guess_header(tables[1], told.target):
            raise UserError(
                f"{paths[1]} has a header and {paths[0]} has none; give both one, or say --header yes or no"
            )
    tables = [take_header(table) for table in tables] if header else tables
    for table in tables:
        if not len(table.frame):
            raise UserError(f"{table.path} has a header and no samples; add some")
    return _understand(tables, separator, told)


def _separator_of_test(path, text, separator):
    """The same, wherever it fits the test file too."""
    with contextlib.suppress(UserError):
        if read_cells(path, text, "", separator).frame.shape[1] > 1:
            return separator
    return guess_separator(path, text)


def _understand(tables, separator, told) -> Samples:
    table, test = tables[0], tables[1] if len(tables) == 2 else None
    width = table.frame.shape[1]
    if told.target is None:
        columns.check_last_is_target(table)
    goal = width - 1 if told.target is None else columns.find(table, told.target, "target")
    features = [j for j in range(width) if j != goal]
    if told.drop is not None:
        left_out = {columns.find(table, text, "--drop"): "--drop" for text in told.drop}
        if goal in left_out:
            raise UserError(
                f"{table.path}: {columns.say(table, goal)} is the target; --drop cannot leave it out"
            )
    else:
        left_out = columns.row_numbers(table, test, features)
    features = [j for j in features if j not in left_out]
    if not features:
        raise UserError(f"{table.path} has no features besides the target and what --drop leaves out")
    check_size(max(len(t.frame) for t in tables), len(features), table.path)

    places = [(table, features, goal)]
    if test is not None:
        *test_features, test_goal = columns.match(table, [*features, goal], test, left_out)
        places.append((test, test_features, test_goal))
    decimal = told.decimal or columns.guess_decimal([(t, f) for t, f, _ in places])
    parts = [np.column_stack([columns.numbers(t, j, decimal) for j in f]) for t, f, _ in places]
    labels, remark = columns.labels([(t, g) for t, _, g in places])
    _check_target(table, goal, labels[0], told)

    rows = " + ".join(str(len(t.frame)) for t in tables)
    by = SEPARATORS.get(separator, repr(separator))
    thousands = any(columns.has_thousands(t, f, decimal) for t, f, _ in places)
    words = [
        f"{rows} rows, {width} columns separated by {by}",
        "a header" if table.names else "no header",
        *(["decimal commas"] if decimal == "," else []),
        *([f"{',' if decimal == '.' else '.'} between thousands"] if thousands else []),
        *(f"{t.path.name} in {t.encoding}" for t in tables if t.encoding),
        *(["test columns matched by name"] if test is not None and test.names != table.names else []),
    ]
    goal_name = columns.say(table, goal) + (" (the last)" if told.target is None else "")
    notes = [f"left out: {columns.say(table, j)} ({why})" for j, why in left_out.items()]
    notes += [f"left out: {what} of {t.path.name}" for t in tables for what in t.left_out]
    notes += [remark] if remark else []
    line = f"read as {', '.join(words)}; target {goal_name}: {_counts(labels)}" + "".join(
        f"; {n}" for n in notes
    )
    names = [table.names[j] if table.names else f"x{j}" for j in features]
    understood = [line, *columns.doubts(table, parts[0], features), *columns.doubtful_labels(labels)]
    understood += columns.label_in_disguise(table, parts[0], features, labels[0])
    if test is not None:
        understood += columns.other_units(table, *parts, features) + _seen_before(parts, labels)
    return Samples(parts[0], labels[0], names, *(parts[1:] or [None]), *(labels[1:] or [None]), understood)


def _seen_before(parts, labels) -> list:
    """A line where half of the test samples or more are training samples."""
    train, test = (
        [hash((row.tobytes(), label)) for row, label in zip(*part, strict=True)]
        for part in zip(parts, labels, strict=True)
    )
    seen = set(train)
    again = sum(row in seen for row in test)
    n = len(labels[1])
    return [f"{again} of {n} test samples are training samples too"] if again >= n / 2 else []


def _check_target(table, goal, labels, told):
    """Refuse a last column that is a quantity, unless it was named."""
    classes = set(labels)
    fractions = [
        label for label in classes if re.fullmatch(r"[+-]?\d*[.,]\d+", label) and label.strip("+-0.,")
    ]
    if told.target is None and len(classes) > 2 and len(fractions) > len(classes) / 2:
        raise UserError(
            f"{table.path}: the target, {columns.say(table, goal)}, has {len(classes)} values like "
            f"{fractions[0]!r:.20}: a quantity, no class; give --target, {goal} if it is meant"
        )


def _counts(labels) -> str:
    """Classes and how many samples each has, in training + test."""
    counts = [Counter(part) for part in labels]
    classes = sorted(set().union(*counts), key=lambda c: (-counts[0][c], c))
    shown = [f"{_quote(c)} × {' + '.join(str(part[c]) for part in counts)}" for c in classes[:6]]
    return ", ".join(shown) + (f", … ({len(classes)} classes)" if len(classes) > 6 else "")


def _quote(label) -> str:
    plain = label.isprintable() and not re.search(r"[,;×]|^\s|\s$", label)
    return label[:40] if plain else repr(label[:40])
