"""Whether data, weights and a run belong together."""

from collections.abc import Sequence

from common import UserError


def same_classes(of_weights: Sequence[str], of_data: Sequence[str], where: str) -> None:
    """Raise :class:`UserError` unless the data's classes are those of the weights `where`, in their order."""
    of_weights, of_data = list(of_weights), list(of_data)
    if of_weights == of_data:
        return
    gone = [c for c in of_weights if c not in of_data]
    new = [c for c in of_data if c not in of_weights]
    named = (("gone", gone), ("new", new))
    what = "; ".join(f"{verb}: {', '.join(map(str, names[:5]))}" for verb, names in named if names)
    raise UserError(
        f"the classes of the data are not those of {where} ({what or 'they are in another order'}); "
        "give the data it was trained on, or rename the folders back"
    )


def same_data(known: dict, now: dict, name: str, run: str) -> None:
    """Raise :class:`UserError` unless a run continues on the data it has begun with; says what changed.

    Parameters
    ----------
    known, now : dict
        ``fingerprint``, ``class_names``, and the number of images: ``training``, ``test``.
    name : str
        The data set, as the user calls it.
    run : str
        The run directory.
    """
    same_classes(known["class_names"], now["class_names"], f"the run in {run}")
    if known["fingerprint"] == now["fingerprint"]:
        return
    counts = [(split, known.get(split), now.get(split)) for split in ("training", "test")]
    changed = [f"{then:,} {split} images became {today:,}" for split, then, today in counts if then != today]
    raise UserError(
        f"{name} is not the data that the run in {run} has begun with: "
        f"{' and '.join(changed) or 'names or sizes of its files changed'}; "
        "give those with --dataset, or start a new run"
    )
