"""What the cells of a table mean: which column is the target, which are left out, numbers, labels.

Everything is decided on the training file and the test file together, so that both are read alike.
"""

import re
import unicodedata
from collections import Counter

import numpy as np

from common import UserError, did_you_mean

from .dialect import MISSING, TARGETS, WHOLE, is_number

_ID = re.compile(
    r"(unnamed: ?\d+|index|idx|id|rownames?|row[_ ]?(id|no|nr|num|number|names?)|.*[_ ]id|id[_ ].*)"
)
_PLAIN_LABEL = re.compile(r"(-?(?:0|[1-9]\d*))(?:[.,]0*)?", re.ASCII)
_BOOLEANS = {"true": "1", "false": "0"}
_SENTINELS = (-99, -999, -9999, -99999, 999, 9999, 99999)
_POINT = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)?(\.\d*)?([eE][+-]?\d+)?", re.ASCII)
_COMMA = re.compile(r"[+-]?(\d+|\d{1,3}(\.\d{3})+)?(,\d*)?([eE][+-]?\d+)?", re.ASCII)
_GROUPED_ZERO = re.compile(r"[+-]?0\d*[.,]\d{3}(?!\d)")  # no thousands: 0,125


def find(table, text, what) -> int:
    """The place of the column that `text` names, by its name or its index from 0, negative from the end.

    Raises
    ------
    UserError
        For an unknown column, and for a name and an index that mean different ones.
    """
    names, width = table.names, table.frame.shape[1]
    by_name = [j for j, name in enumerate(names) if name == text]
    index = int(text) if WHOLE.fullmatch(text) else None
    by_index = index % width if index is not None and -width <= index < width else None
    if len(by_name) > 1:
        raise UserError(f"{table.path} has several columns {text!r}; give {what} as an index from 0")
    if by_name and by_index not in (None, by_name[0]):
        raise UserError(
            f"{table.path}: {what} {text} is the name of column {by_name[0]} and the index of "
            f"column {by_index}; give {by_name[0] - width} or {by_index - width}, counted from the end"
        )
    if by_name or by_index is not None:
        return by_name[0] if by_name else by_index
    known = "it has no header"
    if names:
        known = f"columns: {', '.join(n[:40] for n in names[:20])}{', …' * (len(names) > 20)}"
    near = did_you_mean(text, names)
    raise UserError(f"unknown {what} {text!r} in {table.path}; {known}; indices 0 to {width - 1}{near}")


def check_last_is_target(table):
    """Refuse a header in which another column has the last one's name, or a target's and the last has not.

    Raises
    ------
    UserError
        The line names ``--target``.
    """
    names = [name.lower() for name in table.names]
    usual = [j for j, name in enumerate(names) if name in TARGETS and not (name == "y" and "x" in names)]
    if names and names[-1] and names.index(names[-1]) < len(names) - 1:
        usual = [names.index(names[-1])]
    if usual and len(names) - 1 not in usual:
        last = len(names) - 1
        raise UserError(
            f"{table.path}: is the target {say(table, usual[0])} or, as usual, {say(table, last)}, the last? "
            f"Say --target {usual[0]} or {last}"
        )


def say(table, j) -> str:
    """A column, for messages: its index and its name."""
    return f"column {j}" + (f" ({table.names[j]:.40})" if table.names and table.names[j] else "")


def _whole_numbers(cells):
    """A column as integers, or None where it holds anything else."""
    try:
        values = np.array([float(cell) if is_number(cell) else np.nan for cell in cells])
    except ValueError:  # 1,234
        return None
    if len(values) and np.isfinite(values).all() and (values == np.round(values)).all():
        return values
    return None


def _is_range(values) -> bool:
    """Every whole number between the smallest and the largest, once."""
    return len(values) >= 10 and len(np.unique(values)) == len(values) == np.ptp(values) + 1


def row_numbers(table, test, features) -> dict:
    """Columns that number or name the rows: ``{index: what it is}``, of those that are no use as features."""
    found = {}
    for j in features:
        cells = table.frame.iloc[:, j]
        name = table.names[j] if table.names else None
        nameless = name is not None and not name
        distinct = cells.nunique() == len(cells) > 1
        if not distinct:
            continue
        values = _whole_numbers(cells)
        named = nameless or (name is not None and _ID.fullmatch(name.lower()))
        if named and (values is not None or not any(map(is_number, cells))):
            found[j] = ("nameless, " if nameless else "") + (
                "row numbers" if values is not None else "row names"
            )
        elif values is not None:
            both = [values]
            if test is not None and (k := _same_column(table, test, j)) is not None:
                more = _whole_numbers(test.frame.iloc[:, k])
                both.append(np.concatenate([values, more]) if more is not None else values)
            if any(map(_is_range, both)):
                found[j] = "row numbers: each whole number of a range once"
    # All that there is to learn from cannot be left out by a guess.
    return found if len(found) < len(features) else {}


def _same_column(table, other, j):
    if not table.names:
        return j if j < other.frame.shape[1] else None
    return other.names.index(table.names[j]) if table.names[j] in other.names else None


def match(table, kept, test, dropped) -> list:
    """The columns of `test` in the order of the `kept` ones of `table`: by name, without names by place.

    Raises
    ------
    UserError
        Where the names, or without a header the numbers of columns, differ.
    """
    if not table.names:
        if test.frame.shape[1] != table.frame.shape[1]:
            raise UserError(
                f"{test.path} has {test.frame.shape[1]} columns, the training file {table.frame.shape[1]}; "
                "give both the same columns"
            )
        return kept
    if test.names == table.names:
        return kept
    wanted = [table.names[j] for j in kept]
    left_out = {table.names[j] for j in dropped}
    extra = [name for name in test.names if name not in wanted and name not in left_out]
    if "" in extra and 0 in row_numbers(test, None, list(range(test.frame.shape[1]))):
        extra.remove("")
        test.left_out.append("column 0 (nameless, row numbers)")
    missing = [name for name in wanted if name not in test.names]
    if missing or extra:
        parts = [f"lacks {_list(missing)}"] * bool(missing) + [f"has {_list(extra)} besides"] * bool(extra)
        first = ", ".join(test.names[:3])
        raise UserError(
            f"{test.path} {' and '.join(parts)}: its first line ({first:.60}{', …' * (len(test.names) > 3)}) "
            f"must name the columns of {table.path}; rename them, or leave columns out with --drop"
        )
    twice = sorted({name for name in wanted if wanted.count(name) > 1 or test.names.count(name) > 1})
    if twice:
        raise UserError(f"{test.path}: several columns {_list(twice)}, in another order; rename them")
    return [test.names.index(name) for name in wanted]


def _list(names) -> str:
    return ", ".join(repr(n[:40]) for n in names[:5]) + ", …" * (len(names) > 5)


def guess_decimal(tables) -> str:
    """``.`` or ``,``: what stands before the fraction in all number cells.

    Commas that stand where thousands are grouped, and only there, may be either, so that is asked.

    Parameters
    ----------
    tables : list of (Table, list of int)
        With the columns that are features.

    Raises
    ------
    UserError
        Where both readings fit; the line names ``--decimal``.
    """
    cells = {c for table, columns in tables for j in columns for c in set(table.frame.iloc[:, j]) if "," in c}
    cells = {cell for cell in cells if is_number(cell)}
    if not cells:
        return "."
    dotted = {
        c for table, columns in tables for j in columns for c in set(table.frame.iloc[:, j])
        if "." in c and is_number(c)
    }  # fmt: skip
    point, comma = (all(map(fits, cells | dotted)) for fits in (_fits_point, _fits_comma))
    example = min(cells)
    if point and comma:
        raise UserError(
            f"{tables[0][0].path}: {example!r} may be a fraction or thousands; say --decimal , or --decimal ."
        )
    if not point and not comma:
        raise UserError(
            f"{tables[0][0].path} has decimal commas ({example!r}) and decimal points "
            f"({min(dotted, default=example)!r}); write all alike, or say --decimal , or --decimal ."
        )
    return "." if point else ","


def _fits_point(cell) -> bool:
    return _POINT.fullmatch(cell) is not None and not ("," in cell and _GROUPED_ZERO.match(cell))


def _fits_comma(cell) -> bool:
    return _COMMA.fullmatch(cell) is not None and not ("." in cell and _GROUPED_ZERO.match(cell))


def numbers(table, j, decimal) -> np.ndarray:
    """A column as float64, each cell the nearest double; True and False are 1 and 0.

    Raises
    ------
    UserError
        For a cell that is missing, not a number, or not finite, by its line.
    """
    cells = table.frame.iloc[:, j].to_numpy(dtype=object)
    if all(cell.lower() in _BOOLEANS for cell in cells):
        return np.array([float(_BOOLEANS[cell.lower()]) for cell in cells])
    fits, other = (_fits_point, ",") if decimal == "." else (_fits_comma, ".")
    wrong = next((i for i, cell in enumerate(cells) if not is_number(cell) or not fits(cell)), None)
    if wrong is None:
        values = np.array([cell.replace(other, "").replace(",", ".") for cell in cells], dtype=object).astype(
            float
        )
        if np.isfinite(values).all():
            return values
        wrong = int(np.argmin(np.isfinite(values)))
    cell, name = cells[wrong], table.names[j] if table.names and table.names[j] else j
    where = f"{table.path}, line {table.lines[wrong]}: {say(table, j)}"
    drop = f"the column out with --drop {name!s:.40}"
    if cell.lower() in MISSING:
        gaps = sum(c.lower() in MISSING for c in cells)
        raise UserError(
            f"{where} is missing ({cell!r}), as in {gaps} of {len(cells)} rows; drop or impute such samples "
            f"first, or leave {drop}"
        )
    if cell.lower().lstrip("+-") in ("inf", "infinity") or (is_number(cell) and fits(cell)):
        raise UserError(f"{where} is not finite ({cell!r:.40}); drop or impute such samples first")
    hint = f" (decimal mark {decimal!r}; --decimal changes it)" if is_number(cell) else ""
    remedy = f"encode or remove that column first, or leave {drop}"
    raise UserError(f"{where} is not numeric ({cell!r:.40}){hint}; {remedy}")


def has_thousands(table, columns, decimal) -> bool:
    """Whether a number is grouped by the mark that is not the decimal one."""
    other = "," if decimal == "." else "."
    return any(table.frame.iloc[:, j].str.contains(other, regex=False).any() for j in columns)


def labels(tables) -> tuple:
    """The classes of every row as they are spelt, and a remark on what was taken as one.

    Whole numbers alone lose a fraction of zeros: ``1`` and ``1.0`` are the class ``1``. Everything else is
    the text that stands there: ``007`` is not ``7``, ``1.10`` not ``1.1``, ``1_1`` not ``11``.

    Parameters
    ----------
    tables : list of (Table, int)
        With the target column.

    Raises
    ------
    UserError
        For a missing label.
    """
    columns = [table.frame.iloc[:, j].tolist() for table, j in tables]
    for (table, j), column in zip(tables, columns, strict=True):
        for line, label in zip(table.lines, column, strict=True):
            if label.lower() in MISSING - {"none", "."}:
                raise UserError(f"{table.path}, line {line}: the target is missing; drop the line")
            if "\n" in label and re.search(r"[,;\t|]", label):
                raise UserError(f"{table.path}, line {line}: a quote of the target is not closed; close it")
            if j == 0 and label[0] in "#%" and not all(c[:1] in ("#", "%") for c in column):
                raise UserError(
                    f"{table.path}, line {line} begins with {label[0]}: a comment or a class? Delete "
                    "the line, or the mark"
                )
    spellings = {label for column in columns for label in column}
    plain = {label: found[1] for label in spellings if (found := _PLAIN_LABEL.fullmatch(label))}
    changed = sorted(label for label, text in plain.items() if label != text)
    if len(plain) < len(spellings) or not changed:
        return columns, ""
    remark = f"{changed[0]} taken as {plain[changed[0]]}" + (", and so on" if len(changed) > 1 else "")
    return [[plain[label] for label in column] for column in columns], remark


def doubtful_labels(labels) -> list:
    """Classes that only a slip may have made, in one line a kind.

    Parameters
    ----------
    labels : list of list of str
        Of training and test.
    """
    lines, alike = [], {}
    for label in sorted(set().union(*labels)):
        plain = unicodedata.normalize("NFKC", label).casefold()
        plain = "".join(c for c in plain if unicodedata.category(c)[0] not in "CZ").rstrip(".")
        alike.setdefault({"-0": "0"}.get(plain, plain), []).append(label)
    twins = [" and ".join(map(repr, same[:3])) for same in alike.values() if len(same) > 1]
    if twins:
        lines.append(
            f"classes that look alike are kept apart: {', '.join(twins[:5])}{', …' * (len(twins) > 5)}"
        )
    counts = Counter(labels[0])
    single = sorted(label for label, n in counts.items() if n == 1)
    if single and len(single) < len(counts):
        names = ", ".join(repr(label[:40]) for label in single[:5])
        lines.append(
            f"one training sample each: {names}{', …' * (len(single) > 5)}; classes, or a slip of the file?"
        )
    return lines


def other_units(table, X, X_test, columns) -> list:
    """A line about test columns that lie or spread 30 times as far as their training columns, or 1/30."""
    if min(len(X), len(X_test)) < 10:
        return []

    def place(part):
        middle = np.median(part, axis=0)
        return middle, np.median(np.abs(part - middle), axis=0)

    (middle, spread), (middle_test, spread_test) = place(X), place(X_test)
    known = (spread > 0) & (spread_test > 0)
    with np.errstate(all="ignore"):
        ratio = np.where(known, spread_test / spread, 1)
        far = (ratio > 30) | (ratio < 1 / 30) | (known & (np.abs(middle_test - middle) > 30 * spread))
    names = [say(table, j) for j, is_far in zip(columns, far, strict=True) if is_far]
    if not names:
        return []
    shown = ", ".join(names[:5]) + ", …" * (len(names) > 5)
    return [f"far from the training file in the test file: {shown}; in other units?"]


def label_in_disguise(table, X, columns, labels) -> list:
    """A line about features that have one value for each class, every class its own."""
    n = len(set(labels))
    if n < 2 or len(X) < 10:
        return []

    def one_to_one(x, labels):
        return len(set(x)) == n == len(set(zip(x, labels, strict=True)))

    head = X[: 10 * n]  # enough to tell nearly all others apart
    names = [
        say(table, j)
        for i, j in enumerate(columns)
        if len(set(zip(head[:, i].tolist(), labels[: 10 * n], strict=True))) <= n
        and one_to_one(X[:, i].tolist(), labels)
    ]
    if not names:
        return []
    return [
        f"the label by another name: {', '.join(names[:5])}{', …' * (len(names) > 5)}, one value for each class; "
        "leave it out with --drop"
    ]


def doubts(table, X, columns) -> list:
    """What may be meant otherwise than it was taken, in one line a kind."""
    lines = []
    constant = [say(table, j) for j, x in zip(columns, X.T, strict=True) if (x == x[0]).all()]
    if constant:
        lines.append(f"constant, so of no use: {', '.join(constant[:5])}{', …' * (len(constant) > 5)}")
    for j, x in zip(columns, X.T, strict=True):
        for value in _SENTINELS:
            rest = np.abs(x[x != value])
            if 0 < len(rest) < len(x) and rest.max() < abs(value) / 3:
                lines.append(
                    f"{say(table, j)}: {value} in {len(x) - len(rest)} rows is read as a number; missing?"
                )
    whole = [
        say(table, j) for j, x in zip(columns, X.T, strict=True)
        if len(x) >= 10 and (x == np.round(x)).all() and len(np.unique(x)) == len(x)
    ]  # fmt: skip
    ids = [say(table, j) for j in columns if table.names and _ID.fullmatch(table.names[j].lower())]
    suspects = list(dict.fromkeys(whole + ids))
    if suspects:
        lines.append(
            f"used as a feature: {', '.join(suspects[:5])}{', …' * (len(suspects) > 5)}; if it only "
            "numbers the samples, leave it out with --drop"
        )
    return lines
