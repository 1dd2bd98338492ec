"""Local data files: CSV with or without a header, UCI ``.data``, LIBSVM ``.svm``."""

import csv
import math
from pathlib import Path

import numpy as np

SUFFIXES = (".csv", ".data", ".svm", ".libsvm")
MISSING = {"", "?", "na", "nan", "null"}
LARGEST = 2**30  # numbers of a matrix: 8 GiB in float64


class DataError(ValueError):
    """The user's data cannot be used; the message is one line that says what would be right."""


def check_size(rows, columns, what):
    """Raise DataError for a matrix that would not fit into memory anywhere."""
    if rows * columns > LARGEST:
        raise DataError(f"{what}: {rows:,} × {columns:,} numbers are more than {LARGEST:,}, use fewer")


def is_sparse(path) -> bool:
    """Whether the name is that of a LIBSVM file."""
    return Path(path).suffix.lower() in (".svm", ".libsvm")


def read_file(path, target=None):
    """Read a file of samples.

    Parameters
    ----------
    path : path
        ``.svm`` / ``.libsvm``: LIBSVM (its label is the target). Anything else: one sample a line, separated
        by comma, semicolon, tab or blanks, with or without a header line.
    target : str, optional
        Name or index of the target column, from 0, negative from the end; the last unless given.

    Returns
    -------
    X : ndarray of float64, shape (n, d)
    y : list of str, length n
        The labels, numbers in one spelling (``1``, ``1.0`` and ``1e0`` are the class ``1``).
    names : list of str, length d

    Raises
    ------
    DataError
        For a missing or empty file, a ragged line, a feature that is missing or not a finite number, an
        unknown target column.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path} is a directory; give one of the files in it")
    if not path.is_file():
        raise DataError(f"no such file: {path}; give the path of a {', '.join(SUFFIXES)} file")
    if is_sparse(path):
        return _read_svm(path, target)
    return _read_table(path, target)


def _read_svm(path, target):
    from sklearn.datasets import load_svmlight_file

    if target is not None:
        raise DataError(f"{path}: a LIBSVM file has its target first in every line; leave --target out")
    try:
        X, y = load_svmlight_file(str(path))
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path} is not in LIBSVM format ('label index:value …'): {error}") from None
    check_size(*X.shape, path)
    X = X.toarray()
    if not np.isfinite(X).all() or not np.isfinite(y).all():
        raise DataError(f"{path} holds a value that is not a finite number; drop such samples first")
    return X, [f"{label:g}" for label in y], [f"x{i}" for i in range(X.shape[1])]


def _read_table(path, target):
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"cannot read {path} as text: {error}; save it as UTF-8") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise DataError(f"{path} is empty; it needs a sample a line")
    try:
        rows = [(number, _split(line, numbered[0][1])) for number, line in numbered]
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as a table: {error}; save it as CSV") from None
    width = len(rows[0][1])
    for number, cells in rows:
        if len(cells) != width:
            raise DataError(
                f"{path}, line {number}: {len(cells)} columns where the first line has {width}; mend the line"
            )
    if width < 2:
        raise DataError(f"{path} has one column; features and a target are needed, separated by commas")

    names = [f"x{i}" for i in range(width)]
    header = _has_header(rows)
    if header:
        names = rows.pop(0)[1]
        if not rows:
            raise DataError(f"{path} has a header and no samples; add some")
    column = _target_column(path, target, names, header)
    X = np.empty((len(rows), width - 1))
    features = [i for i in range(width) if i != column]
    for row, (number, cells) in enumerate(rows):
        for place, i in enumerate(features):
            X[row, place] = _number(cells[i])
            if not math.isfinite(X[row, place]):
                raise DataError(_complaint(path, number, i, names, header, cells[i]))
        if cells[column].lower() in MISSING:
            raise DataError(f"{path}, line {number}: the target is missing; drop the line")
    return X, [_label(cells[column]) for _, cells in rows], [names[i] for i in features]


def _split(line, first_line):
    """Cells of a line; the first line decides on the separator."""
    delimiter = next((d for d in (",", ";", "\t") if d in first_line), None)
    cells = line.split() if delimiter is None else next(csv.reader([line], delimiter=delimiter))
    return [cell.strip() for cell in cells]


def _number(cell) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _is_number(cell) -> bool:
    return not math.isnan(_number(cell)) or cell.lower() in MISSING


def _has_header(rows) -> bool:
    """A first line of words, or one with a word above a number."""
    first = rows[0][1]
    if not any(_is_number(cell) for cell in first):
        return True
    return len(rows) > 1 and any(
        not _is_number(above) and _is_number(below) for above, below in zip(first, rows[1][1], strict=True)
    )


def _target_column(path, target, names, header) -> int:
    if target is None:
        return len(names) - 1
    if header and target in names:
        return names.index(target)
    try:
        index = int(target)
    except ValueError:
        index = None
    if index is not None and -len(names) <= index < len(names):
        return index % len(names)
    known = (
        f"columns: {', '.join(name[:40] for name in names[:20])}{', …' * (len(names) > 20)}"
        if header
        else "it has no header"
    )
    indices = f"indices 0 to {len(names) - 1}"
    raise DataError(f"unknown target {target!r} in {path}; {known}; {indices}")


def _complaint(path, number, i, names, header, cell) -> str:
    where = f"{path}, line {number}: column {i}" + (f" ({names[i]:.40})" if header else "")
    if cell.lower() in MISSING:
        return f"{where} is missing ({cell!r}); drop or impute such samples first"
    if math.isinf(_number(cell)):
        return f"{where} is not finite ({cell!r:.40}); drop or impute such samples first"
    return f"{where} is not numeric ({cell!r:.40}); encode or remove that column first"


def _label(cell) -> str:
    value = _number(cell)
    return f"{value:.15g}" if math.isfinite(value) else cell
