"""Whether data and a run belong together."""

from common import UserError


def same_data(known: dict, now: dict, name: str, run: str) -> None:
    """Raise :class:`UserError` unless a run continues on the data it has begun with; says what changed.

    Parameters
    ----------
    known, now : dict
        ``fingerprint``, and the number of images: ``training``, ``test``.
    name : str
        The data set, as the user calls it.
    run : str
        The run directory.
    """
    if known["fingerprint"] == now["fingerprint"]:
        return
    counts = [(split, known.get(split), now.get(split)) for split in ("training", "test")]
    changed = [f"{then:,} {split} images became {today:,}" for split, then, today in counts if then != today]
    raise UserError(
        f"{name} is not the data that the run in {run} has begun with: "
        f"{' and '.join(changed) or 'names or sizes of its files changed'}; "
        "give those with --dataset, or start a new run"
    )
