"""What a group is compared with: the group that has its flags, but for a change."""

from common import Parser, UserError
from flags import one_name, one_spelling

from .runs import LOSS_FLAGS, Group

SWITCH = {"on": True, "off": False, "true": True, "false": False}


def changes_of(text: str, parser: Parser) -> dict:
    """``"loss=root,k=3"`` as a dict of flags.

    Raises
    ------
    UserError
        If it is anything else.
    """
    flags = vars(parser.parse_args([]))
    changes = {}
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        name = name.lstrip("-").replace("-", "_")
        if not (name in flags and equals and value):
            raise UserError(
                f"--baseline must be flags of train.py, like loss=ce or loss=root,k=3, got {text!r}"
            )
        try:
            changes[name] = float(value)
        except ValueError:
            is_switch = isinstance(flags[name], bool)
            changes[name] = SWITCH.get(value.lower(), value) if is_switch else value
    if "dataset" in changes:
        changes["dataset"] = one_name(changes["dataset"])
    return changes


def baseline_of(group: Group, groups: list[Group], changes: dict) -> Group | None:
    """The group that has `group`'s flags but for `changes`; None if there is none, or it is `group` itself.

    Raises
    ------
    UserError
        If several groups do.
    """
    wanted = group.flags | changes
    compared = {n for n in wanted if n not in LOSS_FLAGS or n in changes or "loss" not in changes}
    wanted["net"] = one_spelling(wanted["net"])
    fits = []
    for g in groups:
        has = g.flags | {"net": one_spelling(g.flags["net"])}
        if all(n in has and has[n] == wanted[n] for n in compared):
            fits.append(g)
    if len(fits) > 1:
        labels = "; ".join(g.label for g in fits)
        raise UserError(f"--baseline fits several groups, name what tells them apart: {labels}")
    return fits[0] if fits and fits[0] is not group else None
