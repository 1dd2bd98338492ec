"""Whether the first row of a table names its columns, or whether that has to be asked."""

import itertools

from common import UserError

from .dialect import MISSING, TARGETS, WHOLE, Table, is_number


def _steps(row) -> set:
    """Differences between neighbours; empty where a cell is not one plain number."""
    try:
        values = [float(cell.replace(",", ".")) for cell in row]
    except ValueError:
        return set()
    return {round(b - a, 9) for a, b in itertools.pairwise(values)}


def _looks_like_names(first, rest) -> str:
    """What makes a row of numbers above numbers look like names of columns; empty if nothing does."""
    if len(first) < 3:
        return ""

    def is_regular(row):
        return len(_steps(row)) == 1 and _steps(row) != {0.0}

    if is_regular(first) and not any(map(is_regular, rest.head(1000).itertuples(index=False))):
        return f"counts {first[0]}, {first[1]}, …"
    fractions = rest.apply(lambda column: column.str.contains(r"[.,]", regex=True).mean()).min()
    return "is whole numbers above fractions" if fractions > 0.9 and all(map(WHOLE.fullmatch, first)) else ""


def _is_usual(cell, column) -> bool:
    """Whether a number lies between the smallest and the largest of a column (True where that is unknown)."""
    try:
        below = [float(c.replace(",", ".")) for c in column if c.lower() not in MISSING]
        return min(below) <= float(cell.replace(",", ".")) <= max(below)
    except ValueError:
        return True


def guess_header(table, target) -> bool:
    """Whether the first row holds names.

    Words above numbers do, and so does a word that no other row has in a column of labels, above numbers that
    look like names. Numbers that look like names above numbers are refused, since either may be meant.

    Raises
    ------
    UserError
        Where a header and a sample are equally likely; the line names ``--header``.
    """
    first, rest = list(table.frame.iloc[0]), table.frame.iloc[1:]
    words = [j for j, cell in enumerate(first) if cell.lower() not in MISSING and not is_number(cell)]
    if target is not None and not WHOLE.fullmatch(target) and target in first:
        return True
    if len(rest) == 0:
        return len(words) == len(first)
    if any(first[j].lower() in TARGETS - {"y"} and first[j] not in set(rest.iloc[:, j]) for j in words):
        return True
    numeric = []
    for j in range(len(first)):
        cells = set(rest.iloc[:, j])
        numbers = sum(map(is_number, cells))
        numeric.append(numbers > 0 and all(is_number(c) or c.lower() in MISSING for c in cells))
    labels = [j for j in words if not numeric[j]]
    above = [j for j in words if numeric[j]]
    numbers = [j for j, cell in enumerate(first) if numeric[j] and is_number(cell)]
    recurs = any(first[j] in set(rest.iloc[:, j]) for j in labels)
    if not numbers:
        return bool(words)
    where = f"{table.path}, line {table.lines[0]}"
    if above:
        if not recurs and all(_is_usual(first[j], rest.iloc[:, j]) for j in numbers):
            why = _looks_like_names([first[j] for j in numbers], rest.iloc[:, numbers])
            if not why:
                raise UserError(
                    f"{where}: a header, or a sample with a slip? {first[above[0]]!r:.40} is no number, and "
                    f"{first[numbers[0]]!r:.40} is one like those below it. Say --header yes or no"
                )
        return not recurs
    if recurs:
        return False
    if labels:
        j = labels[-1]
        if rest.iloc[:, j].nunique() > len(rest) / 2:
            return False
        if _looks_like_names([first[i] for i in numbers], rest.iloc[:, numbers]):
            return True
        raise UserError(
            f"{where}: a header, or the only sample of class {first[j]!r:.40}? Say --header yes or no"
        )
    goal = int(target) % len(first) if target is not None and WHOLE.fullmatch(target) else len(first) - 1
    features = [j for j in numbers if j != goal]
    if first in (["0", "1", "2"], ["1", "2", "3"]):  # two features alone show no rule
        features = [0, 1, 2]
    why = _looks_like_names([first[j] for j in features], rest.iloc[:, features])
    if why:
        raise UserError(f"{where}: a header or a sample? It {why}. Say --header yes or no")
    return False


def take_header(table) -> Table:
    """The same table with its first row as names, numpy's ``# `` before them taken away."""
    table.names = list(table.frame.iloc[0])
    table.names[0] = table.names[0].removeprefix("#").lstrip()
    table.frame, table.lines = table.frame.iloc[1:].reset_index(drop=True), table.lines[1:]
    return table
