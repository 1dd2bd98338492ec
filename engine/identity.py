"""Whether data and a run belong together."""

import hashlib
import re
from pathlib import Path

from common import UserError
from flags import one_name


def same_data(known: dict, now: dict, name: str, run: str) -> None:
    """Raise :class:`UserError` unless a run continues on the data it has begun with; says what changed.

    Parameters
    ----------
    known, now : dict
        ``fingerprint``, a digest of the training ``labels`` (which older runs do not have), and the number of
        images: ``training``, ``test``.
    name : str
        The data set, as the user calls it.
    run : str
        The run directory.
    """
    same = [known.get(name, now[name]) == now[name] for name in ("fingerprint", "labels")]
    if all(same):
        return
    counts = [(split, known.get(split), now.get(split)) for split in ("training", "test")]
    changed = [f"{then:,} {split} images became {today:,}" for split, then, today in counts if then != today]
    other = "the training labels changed" if same[0] else "names or sizes of its files changed"
    raise UserError(
        f"{name} is not the data that the run in {run} has begun with: {' and '.join(changed) or other}; "
        "give those with --dataset, or start a new run"
    )


def folder_of_test(run: str, name: str, fingerprint: str) -> Path:
    """Where the report of a test on other data than the run's goes: its own report stays the run's.

    Parameters
    ----------
    run : str
    name : str
        The other data set, as the user calls it.
    fingerprint : str
        Of the other data.
    """
    name = one_name(name)
    last = re.sub(r"[^\w.+]+", "-", Path(name.partition(":")[2] or name).name)[:40].strip("-")
    digest = hashlib.sha256(f"{name}\0{fingerprint}".encode(errors="surrogateescape")).hexdigest()
    return Path(run) / f"test-{last}-{digest[:8]}"
