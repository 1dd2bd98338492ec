"""Tables and LIBSVM files, read by one strict rule: nothing is guessed, and what is doubtful is refused.

A table has commas between its cells, a header, decimal points and its target in the last column, unless a
flag says otherwise. Labels are the text that stands there; all other cells are numbers.
"""

import csv
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from common import UserError, did_you_mean, one_line, printable

SVM = (".svm", ".libsvm")
LARGEST = 2**30  # numbers of a matrix: 8 GiB in float64
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_FRACTION = re.compile(r"[+-]?\d*[.,]\d*[1-9]\d*", re.ASCII)
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}\.\d{3}", re.ASCII)
# What a file begins with that is no table, and what to do about it.
_OTHER_KINDS = (
    (rb"version https://git-lfs", "a git-lfs pointer, not the file itself: get it with git lfs pull"),
    (rb'\s*[{\[]\s*["{\[]', "JSON: save it as CSV"),
    (rb"\s*<(!|\?|html)", "HTML or XML, an error page perhaps: download the table itself"),
    (
        rb"PK\x03\x04|\x1f\x8b|BZh|\xfd7zXZ",
        "an archive, a workbook or compressed: save the table in it as CSV",
    ),
)


@dataclass(frozen=True)
class Rule:
    """What the flags say of a table; None where one was not typed, which stands for its default."""

    sep: str | None = None  # a comma
    header: bool | None = None  # yes
    decimal: str | None = None  # a point
    target: str | None = None  # the last column
    drop: tuple = ()  # no column


def check_size(rows, columns, what):
    """Raise UserError for a matrix that would not fit into memory."""
    if rows * columns > LARGEST:
        raise UserError(f"{what}: {rows:,} × {columns:,} numbers are more than {LARGEST:,}, use fewer")


def read_files(path, test_path=None, rule=None):
    """Read a file of samples, and the file of test samples that belongs to it.

    Parameters
    ----------
    path, test_path : path
        LIBSVM if the suffix is ``.svm`` or ``.libsvm``, else tables.
    rule : Rule, optional
        Holds for both tables. Named columns of the test file are found by their names.

    Returns
    -------
    parts : list of (X, labels)
        One for each file: float64 of shape (n, d), and a list of n str.
    summary : str
        One line that says what was read.

    Raises
    ------
    UserError
        For what cannot be read and for what is doubtful, with the flag that settles it.
    """
    rule = rule or Rule()
    paths = [Path(path)] + ([Path(test_path)] if test_path is not None else [])
    for one in paths:
        _check_kind(one)
    sparse = [one.suffix.lower() in SVM for one in paths]
    if any(sparse) and rule != Rule():
        raise UserError(f"{path}: LIBSVM files take no --target, --header, --sep, --decimal or --drop")
    if any(sparse) and not all(sparse):
        raise UserError(f"{paths[0]} and {paths[1]}: one is a LIBSVM file by its suffix; give both alike")
    parts, columns = _read_svm(paths) if all(sparse) else _read_tables(paths, rule)
    counts = [Counter(labels) for _, labels in parts]
    classes = sorted(set().union(*counts), key=lambda c: (-counts[0][c], c))
    shown = [f"{printable(c[:40])} × {' + '.join(str(n[c]) for n in counts)}" for c in classes[:6]]
    more = f", … ({len(classes)} classes)" if len(classes) > 6 else ""
    rows = " + ".join(str(len(labels)) for _, labels in parts)
    return parts, f"read {rows} rows, {columns}: {', '.join(shown)}{more}"


def _check_kind(path):
    """Refuse what is no file, and files that are known to be no tables."""
    if path.is_dir():
        raise UserError(f"{path} is a directory; give one of the files in it")
    if not path.is_file():
        raise UserError(f"no such file: {path}; give the path of a .csv, .data or .svm file")
    try:
        with open(path, "rb") as file:
            beginning = file.read(1000)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give another file") from None
    for pattern, kind in _OTHER_KINDS:
        if re.match(pattern, beginning):
            raise UserError(f"{path} is {kind}")


def _read_svm(paths):
    from sklearn.datasets import load_svmlight_files

    try:
        loaded = load_svmlight_files(list(map(str, paths)), zero_based=False)
    except (ValueError, OverflowError) as error:
        files = " or ".join(map(str, paths))
        raise UserError(
            f"{files} is not in LIBSVM format ('label index:value …', indices from 1): {one_line(error, 200)}"
        ) from None
    parts = []
    for path, X, y in zip(paths, loaded[::2], loaded[1::2], strict=True):
        check_size(*X.shape, path)
        if not np.isfinite(X.data).all() or not np.isfinite(y).all():
            raise UserError(f"{path} holds a value that is no finite number; remove such lines")
        parts.append((X.toarray(), [str(int(v)) if v.is_integer() else repr(v) for v in y.tolist()]))
    return parts, f"{parts[0][0].shape[1]} features; target the first of each line"


def _read_tables(paths, rule):
    table, *tests = [_Table(path, rule) for path in paths]
    dropped = [table.find(text, "--drop") for text in rule.drop]
    kept = [j for j in range(table.width) if j not in dropped]
    goal = table.find(rule.target, "--target") if rule.target is not None else (kept or [0])[-1]
    if goal in dropped:
        raise UserError(f"{table.path}: {table.say(goal)} is the target; --drop cannot leave it out")
    features = [j for j in kept if j != goal]
    if not features:
        raise UserError(f"{table.path} has no features besides the target and what --drop leaves out")
    parts = [table.load(features, goal)]
    _check_continuous(table, goal, parts[0][1])
    for test in tests:
        *there, goal_there = _same_columns(table, [*features, goal], dropped, test)
        parts.append(test.load(there, goal_there))
    left_out = f" (left out: {', '.join(map(table.say, dropped))})" if dropped else ""
    return parts, f"{table.width} columns{left_out}; target {table.say(goal)}"


class _Table:
    """A file, the cells of its first line, and the names of its columns: none without a header."""

    def __init__(self, path, rule):
        self.path, self.rule = path, rule
        head = self.read(nrows=2, dtype=str, skip_blank_lines=False)
        self.width = head.shape[1]
        if self.width < 2:
            raise UserError(
                f"{path} has one column; a target and features are needed: say what separates cells with "
                "--sep (a LIBSVM file has the suffix .svm)"
            )
        self.first = [cell.strip() for cell in head.iloc[0]]
        self.names = [] if rule.header is False else self.first

    def read(self, **options):
        """What pandas reads; its complaints about lines become the user's."""
        sep = r"\s+" if self.rule.sep == " " else self.rule.sep or ","
        options |= {"sep": sep, "decimal": self.rule.decimal or ".", "header": None}
        try:
            return pd.read_csv(self.path, keep_default_na=False, skipinitialspace=True, **options)
        except pd.errors.EmptyDataError:
            raise UserError(f"{self.path} is empty; it needs a header and a sample a line") from None
        except UnicodeDecodeError:
            raise UserError(f"cannot read {self.path} as text; save it as UTF-8") from None
        except pd.errors.ParserError as error:
            found = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
            if found:
                raise UserError(
                    f"{self.path}, line {found[2]}: {found[3]} cells where the first line has {found[1]}; fix "
                    "the line, or say with --sep what separates cells"
                ) from None
            reason = "a quote is not closed" if "inside string" in str(error) else one_line(error, 200)
            raise UserError(f"{self.path} cannot be read as a table: {reason}; save it as CSV") from None

    def say(self, j):
        return f"column {j} ({self.names[j]})" if self.names and self.names[j] else f"column {j}"

    def find(self, text, flag):
        """The index of a column that a flag tells by its name or, if none is called so, by its index."""
        if self.names.count(text) > 1:
            raise UserError(f"{self.path}: several columns are called {text!r}; give {flag} an index")
        if text in self.names:
            return self.names.index(text)
        if text.isascii() and text.isdigit() and int(text) < self.width:
            return int(text)
        names = f"{', '.join(self.names[:10])}{', …' * (self.width > 10)}; " if self.names else ""
        raise UserError(
            f"{flag}: no column {text!r} in {self.path}{did_you_mean(text, self.names)} (it has {names}indices "
            f"0 to {self.width - 1})"
        )

    def is_number(self, cell):
        """Whether a cell is a finite number, with the decimal mark of the rule."""
        if self.rule.decimal == ",":
            cell = cell.translate({ord(","): ".", ord("."): "?"})
        return _NUMBER.fullmatch(cell) is not None and np.isfinite(float(cell))

    def load(self, features, target):
        """The numbers of some columns, shape (n, d), and the labels."""
        body = {"names": range(self.width), "index_col": False, "skiprows": int(bool(self.names))}
        # All columns, since pandas takes lines of any length with usecols.
        dtype = {j: np.float64 if j in features else str for j in range(self.width)}
        try:
            frame = self.read(**body, dtype=dtype)
        except ValueError:  # a cell is no number
            self._refuse_cell(features)
        if frame[self.width - 1].eq("").any():
            self._check_lengths()
        X = frame[features].to_numpy()
        if not np.isfinite(X).all():
            self._refuse_cell(features)
        labels = frame[target].str.strip().tolist()
        if not labels:
            raise UserError(f"{self.path} has a header and no samples; add some, or say --header no")
        self._check_first_line(features, target, labels)
        self._check_names(sorted([*features, target]))
        if not all(labels) or any("\n" in label for label in labels):
            self._refuse_label(target)
        below_1000 = ((np.abs(X) < 1000) & (np.round(X, 3) == X)).all(axis=0)
        doubtful = [j for j, is_doubtful in zip(features, below_1000, strict=True) if is_doubtful]
        if doubtful and self.rule.decimal is None:
            texts = self.read(**body, usecols=doubtful, dtype=str)
            for j in doubtful:
                self._check_thousands(j, texts[j].str.strip())
        return X, labels

    def _check_lengths(self):
        """Refuse a line of fewer cells than the first one, which pandas fills up."""
        with open(self.path, encoding="utf-8-sig", newline="") as file, suppress(csv.Error):
            lines = csv.reader(file, delimiter=self.rule.sep or ",", skipinitialspace=True)
            for cells in lines:
                if len(cells) < self.width and "".join(cells).strip():
                    raise UserError(
                        f"{self.path}, line {lines.line_num}: {len(cells)} cells where the first line has "
                        f"{self.width}; fix the line"
                    )

    def _check_names(self, columns):
        """Refuse columns without a name, and two of one name."""
        for j in columns if self.names else []:
            if not self.names[j]:
                raise UserError(
                    f"{self.path}: {self.say(j)} has no name (row numbers, as a rule); name it, or leave it out "
                    f"with --drop {j}"
                )
            if self.names[j] in [self.names[i] for i in columns if i < j]:
                raise UserError(
                    f"{self.path}: two columns are called {self.names[j]!r}; rename one, or leave one out with "
                    f"--drop {j}"
                )

    def _check_first_line(self, features, target, labels):
        """Refuse a header that looks like a sample, unless the user says that there is one."""
        label = self.first[target]
        numbers = all(self.is_number(self.first[j]) for j in features)
        if self.rule.header is None and numbers and (self.is_number(label) or label in labels):
            shown = ", ".join(self.first[:4]) + ", …" * (self.width > 4)
            raise UserError(
                f"{self.path}: its first line ({shown:.80}) looks like data; say --header no, or --header yes if "
                "it names the columns"
            )

    def _check_thousands(self, j, cells):
        """Refuse whole numbers below 1,000 beside 1.234, which may be one thousand two hundred thirty-four."""
        grouped = cells[cells.str.fullmatch(_GROUPED.pattern)]
        whole = cells.str.fullmatch(r"[+-]?\d{1,3}").sum()
        if len(grouped) and whole and len(grouped) + whole == len(cells):
            raise UserError(
                f"{self.path}: is {grouped.iloc[0]} in {self.say(j)} a fraction, or a point between thousands? "
                "Say --decimal . if it is a fraction, else remove such points"
            )

    def _text(self):
        """The line of every sample, from 1, and its cells as text."""
        cells = self.read(names=range(self.width), index_col=False, dtype=str, skip_blank_lines=False)
        breaks = cells.map(lambda cell: cell.count("\n")).sum(axis=1)  # within quotes
        lines = 1 + np.arange(len(cells)) + breaks.cumsum() - breaks
        samples = ~cells.eq("").all(axis=1) & (np.arange(len(cells)) >= bool(self.names))
        return lines[samples], cells[samples]

    def _refuse_label(self, target):
        self._check_lengths()
        lines, cells = self._text()
        for line, label in zip(lines, cells[target].str.strip(), strict=True):
            if not label or "\n" in label:
                wrong = "goes on in the next line: close its quote" if label else "is missing: fix the line"
                raise UserError(f"{self.path}, line {line}: the target, {self.say(target)}, {wrong}")

    def _refuse_cell(self, features):
        """Refuse the first cell that is no finite number, by its column, line and text."""
        self._check_lengths()
        other = "." if self.rule.decimal == "," else ","
        lines, cells = self._text()
        for j in features:
            for line, cell in zip(lines, cells[j].str.strip(), strict=True):
                if self.is_number(cell):
                    continue
                what = f"is {cell[:40]!r}, no finite number" if cell else "is missing"
                mark = f", say --decimal {other}" if re.fullmatch(rf"[+-]?\d+[{other}]\d+", cell) else ""
                raise UserError(
                    f"{self.path}, line {line}: {self.say(j)} {what}; fix or remove such lines{mark}, or leave "
                    f"the column out with --drop {(self.names and self.names[j]) or j}"
                )
        raise UserError(f"{self.path}: a line has separators and no cells; remove it")


def _same_columns(table, columns, dropped, test):
    """Where the `columns` of the training file stand in the test file: by name, or without names the same."""
    if not table.names:
        if test.width != table.width:
            raise UserError(f"{test.path} has {test.width} columns, the training file {table.width}")
        return columns
    names = [table.names[j] for j in columns]
    there = [name for name in test.names if name not in [table.names[j] for j in dropped]]
    for name in [*names, *there]:
        if there.count(name) != names.count(name):
            what = "several columns" if name in names else "a column that the training file lacks,"
            raise UserError(
                f"{test.path} has {what if name in there else 'no column'} {name!r}; its first line must name "
                f"the columns as that of {table.path} does"
            )
    return [test.names.index(name) for name in names]


def _check_continuous(table, goal, labels):
    """Refuse a target of many fractions, unless it was named."""
    classes = set(labels)
    fractions = sorted(label for label in classes if _FRACTION.fullmatch(label))
    if table.rule.target is None and len(classes) > 2 and len(fractions) > len(classes) / 2:
        raise UserError(
            f"{table.path}: the target, {table.say(goal)}, looks continuous ({len(classes)} values like "
            f"{fractions[0]!r:.20}); pass --target {goal} to use it anyway"
        )
