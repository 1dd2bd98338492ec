"""How a file writes a table: encoding, comments, separator.

What is guessed can be settled by a flag, and what two readings fit equally well is refused.
"""

import csv
import io
import itertools
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from common import UserError

# Blanks come last: they may stand in any text, so they separate only where nothing else could.
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "blanks"}
MISSING = {  # in lower case: pandas' own list, R, SQL, SAS, old C libraries
    "", "?", "na", "n/a", "n.a.", "#n/a", "#n/a n/a", "#na", "<na>", "nan", "-nan", "null", "\\n", "none", ".",
    "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan",
}  # fmt: skip
BOMS = (
    (b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig"),
)  # fmt: skip
# What a target is called, in lower case.
TARGETS = {"target", "class", "label", "labels", "outcome", "response", "diagnosis", "species", "y"}
# What other formats begin with.
BINARY = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook", b"\x1f\x8b": "packed by gzip", b"BZh": "packed by bzip2",
    b"\xfd7zXZ": "packed by xz", b"\x28\xb5\x2f\xfd": "packed by zstd", b"PAR1": "a Parquet file",
    b"ARROW1": "a Feather file", b"FEA1": "a Feather file", b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"\x89HDF": "an HDF5 file", b"\x93NUMPY": "a NumPy file", b"SQLite": "an SQLite database", b"%PDF": "a PDF file",
    b"@relation": "an ARFF file", b"@RELATION": "an ARFF file",
}  # fmt: skip
# ASCII digits only, and no underscores: Python's float() would take "1_1" for 11.
NUMBER = re.compile(r"[+-]?(\d+([.,]\d+)*\.?|[.,]\d+)([eE][+-]?\d+)?", re.ASCII)
WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_BLANK_CELL = re.compile(r'\n|"((?:[^"]|"")*)"(?!\S)|(\S+)')


@dataclass
class Table:
    """The cells of one file as they stand there, and what was left out on the way."""

    path: Path
    frame: pd.DataFrame  # of str, stripped, without the header
    lines: list  # of the file, from 1: where each row begins
    names: list = field(default_factory=list)  # empty without a header
    left_out: list = field(default_factory=list)
    encoding: str = ""  # where it is no UTF-8


def is_number(cell) -> bool:
    """Whether a cell is spelt as a number, with a decimal point or comma."""
    return NUMBER.fullmatch(cell) is not None


def decode(path) -> tuple:
    """The text of a file and, where it is not UTF-8, the name of its encoding."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; give another file") from None
    kind = next((kind for start, kind in BINARY.items() if raw.startswith(start)), None)
    if kind:
        raise UserError(f"{path} is {kind}; export it as CSV, or unpack it")
    named = next((name for bom, name in BOMS if raw.startswith(bom)), None)
    for encoding in [named] if named else ["utf-8", "cp1252"]:
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        text = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\x1a")  # DOS ended files with it
        if not re.search(r"[\0-\x08\x0e-\x1f]", text):
            return text, "" if encoding in ("utf-8", "utf-8-sig") else encoding
    raise UserError(f"cannot read {path} as text; save it as UTF-8")


def _records(text, separator):
    """(line, cells) of every record that is not blank."""
    if separator == " ":
        yield from _records_of_blanks(text)
        return
    reader = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True)
    start = 1
    for cells in reader:
        if len(cells) > 1 or "".join(cells).strip(" "):
            yield start, cells
        start = reader.line_num + 1


def _records_of_blanks(text):
    line, start, cells = 1, 1, []
    for found in itertools.chain(_BLANK_CELL.finditer(text), [None]):
        if found is None or found[0] == "\n":
            if cells:
                yield start, cells
            line, start, cells = line + 1, line + 1, []
        else:
            quoted, word = found.groups()
            cells.append(word if quoted is None else quoted.replace('""', '"'))
            line += found[0].count("\n")


def _is_marked(cells) -> bool:
    """Whether a record begins as comments do: one with as many cells as a sample is not taken for one."""
    return cells[0].lstrip()[:1] in ("#", "%")


def _width(records):
    """Cells in a record, if all agree; R's write.table leaves the name of the first column out."""
    counts = Counter(len(cells) for _, cells in records if not _is_marked(cells))
    counts = counts or Counter(len(cells) for _, cells in records)
    if len(counts) == 1:
        return next(iter(counts))
    width = max(counts, default=0)
    first = next((len(cells) for _, cells in records if not _is_marked(cells)), None)
    if counts == {width: counts.total() - 1, width - 1: 1} and first == width - 1:
        return width
    return None


def _is_clean(records, others) -> bool:
    """No cell holds another possible separator, but for a comma in a number."""
    return not any(
        other in cell and not (other == "," and is_number(cell))
        for _, cells in records
        for cell in cells
        for other in others
    )


def _is_torn(records) -> bool:
    """A quote inside a cell, as a wrong separator leaves it behind."""
    return any(cell.count('"') % 2 for _, cells in records for cell in cells)


def _try(text, separator):
    try:
        return list(_records(text, separator))
    except csv.Error:
        return []


def guess_separator(path, text):
    """The one separator that gives every record the same number of cells, two at least.

    Raises
    ------
    UserError
        Where two fit, or none; the line names ``--sep``.
    """
    found = {s: records for s in SEPARATORS if (records := _try(text, s))}
    fits = [s for s in found if (_width(found[s]) or 0) >= 2]
    if '"' in text:
        fits = [s for s in fits if not _is_torn(found[s])] or fits
    bare = [(0, [word for _, word in _BLANK_CELL.findall(text) if word])]  # what no quotes protect
    if " " in fits and ("\t" in fits or not _is_clean(bare, ",;\t|")):
        fits.remove(" ")
    if len(fits) > 1:
        clean = [s for s in fits if _is_clean(found[s], [o for o in fits if o != s])]
        if len(clean) != 1:
            names = " or ".join(SEPARATORS[s] for s in fits)
            raise UserError(f"{path}: its columns may be separated by {names}; say which with --sep")
        fits = clean
    if fits:
        return fits[0]
    # For the complaint: the one that most records agree on.
    share = {s: Counter(len(cells) for _, cells in r).most_common(1)[0] for s, r in found.items()}
    several = [s for s, (width, _) in share.items() if width >= 2]
    if not several:
        raise UserError(
            f"{path} has one column; features and a target are needed, separated by commas "
            "(or say by what with --sep)"
        )
    return max(several, key=lambda s: share[s][1])


def read_cells(path, text, encoding, separator) -> Table:
    """All cells as pandas reads them, before any of them means something.

    Comments and empty lines are left out, a first line that lacks one cell gets it.

    Raises
    ------
    UserError
        For a record with more or fewer cells than the first, by its line.
    """
    try:
        records = list(_records(text, separator))
    except csv.Error as error:
        raise UserError(f"{path} cannot be read as a table: {error}; save it as CSV") from None
    width = _width(records) or len(
        next((cells for _, cells in records if not _is_marked(cells)), records[0][1])
    )
    left_out = []
    comments = {
        line
        for line, cells in records
        if _is_marked(cells) and (len(cells) != width or cells[0] in ("#", "%"))
    }
    if comments:
        left_out.append(f"{len(comments)} comment line{'s' * (len(comments) > 1)}")
    ends = [line for line, _ in records[1:]] + [text.count("\n") + 2]
    text_lines = text.split("\n")
    kept, lines = [], []
    for position, ((line, cells), end) in enumerate(zip(records, ends, strict=True)):
        if line in comments:
            continue
        short = not kept and len(cells) == width - 1
        if len(cells) != width and not short:
            raise UserError(
                f"{path}, line {line}: {len(cells)} columns where the first line has {width}; "
                "fix the line, or give --sep"
            )
        # R leaves out the name of the row names; others end each line but the header with a separator.
        ends_empty = short and all(c[-1] == "" for _, c in records[position + 1 :] if len(c) == width)
        block = "\n".join(text_lines[line - 1 : end - 1]).rstrip("\n")
        if separator == " ":
            block = block.strip()
        if short:
            nameless = '""' if separator == " " else ""
            block = f"{block}{separator}{nameless}" if ends_empty else f"{nameless}{separator}{block}"
        kept.append(block)
        lines.append(line)
    try:
        frame = pd.read_csv(
            io.StringIO("\n".join(kept) + "\n"), sep=r"\s+" if separator == " " else separator, header=None,
            names=range(width), index_col=False, dtype=str, keep_default_na=False, skipinitialspace=True,
            skip_blank_lines=False,
        )  # fmt: skip
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        reason = "a quote is not closed" if "inside string" in str(error) else error
        raise UserError(f"{path} cannot be read as a table: {reason}; save it as CSV") from None
    frame = frame.fillna("").apply(lambda column: column.str.strip())
    if len(frame) != len(lines):
        raise UserError(f"{path} cannot be read as a table: a quote is not closed; save it as CSV")
    empty = (frame == "").all(axis=1).tolist()
    if any(empty) and width > 1:
        left_out.append(f"{sum(empty)} empty line{'s' * (sum(empty) > 1)}")
        frame = frame[[not is_empty for is_empty in empty]].reset_index(drop=True)
        lines = [line for line, is_empty in zip(lines, empty, strict=True) if not is_empty]
    if len(frame.columns) > 2 and (frame.iloc[:, -1] == "").all():
        left_out.append("an empty last column")
        frame = frame.iloc[:, :-1]
    return Table(path, frame, lines, left_out=left_out, encoding=encoding)
