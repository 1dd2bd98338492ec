"""Does a loss file fit a clone? Read from the sources with `ast`: nothing of the clone is imported or run.

A clone's training loop constructs the loss, `construct_class_by_name(device=…, **ddp_modules, **loss_kwargs)`,
and calls its `accumulate_gradients(…)`; train.py fills `loss_kwargs`. :func:`misfits` compares what is passed
with what the loss file takes. Where the sources do not show what is passed, it may be whatever the clone's own
loss takes.
"""

import ast
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from arguments import CLASS, Passed, assignments, functions, last_name, strings, takes

LOSS, ORIGINAL_LOSS = "training/loss.py", "training/loss_original.py"
LOOP, TRAIN = "training/training_loop.py", "train.py"
CONSTRUCT, STEP = "construct_class_by_name", "accumulate_gradients"


class Refusal(Exception):
    """The one line a user gets instead of a change."""


@dataclass(frozen=True)
class Sources:
    """The files of a clone that say how the loss is used, parsed."""

    loop: ast.Module  # training/training_loop.py, or the loops that train.py imports
    train: ast.Module  # train.py
    loss: ast.Module  # the clone's own training/loss.py
    others: dict  # name → ast.Module of every other file that may use training/loss.py
    helpers: dict  # name → ast.Module of the files in torch_utils


def tree_of(path):
    """A Python file as a syntax tree, without the warnings that its strings may deserve."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(path.read_bytes())


def parsed(root, name):
    """A file of the clone as a syntax tree; raises Refusal for what is not Python 3."""
    try:
        return tree_of(root / name)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise Refusal(
            f"{root / name} cannot be read as Python: {error}; restore it with git checkout {name}"
        ) from None


def read_sources(root, loss):
    """:class:`Sources` of the clone whose own loss is the file `loss`; raises Refusal like :func:`parsed`."""
    try:
        own = tree_of(loss)
    except (SyntaxError, ValueError, RecursionError):
        own = ast.Module([], [])  # it is to be replaced, so it need not work

    def files(*patterns, holding):
        """Trees of the files that hold one of some strings."""
        names = sorted(p.relative_to(root).as_posix() for pattern in patterns for p in root.glob(pattern))
        texts = {n: (root / n).read_bytes() for n in names if n not in (LOSS, ORIGINAL_LOSS, TRAIN)}
        return {n: parsed(root, n) for n, text in texts.items() if any(h in text for h in holding)}

    train = parsed(root, TRAIN)
    loops = files("training/*.py", holding=[f".{STEP}(".encode()])
    used = [tree for name, tree in loops.items() if Path(name).stem in imported(train, "training")]
    loop = used or [parsed(root, LOOP)]
    return Sources(
        loop=ast.Module([statement for tree in loop for statement in tree.body], []),
        train=train,
        loss=own,
        others=files("*.py", "training/*.py", holding=[b"training.loss", b"from .loss"]),
        helpers=files("torch_utils/*.py", "torch_utils/ops/*.py", holding=[b""]),
    )


def imported(tree, package):
    """Names of the modules of a package that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            if node.module == package:
                yield from (alias.name for alias in node.names)
            elif (node.module or "").startswith(f"{package}."):
                yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith(f"{package}."))


def attributes(tree):
    """Names of the methods, and of what they assign to `self`."""
    nodes = [node for f in functions(tree) for node in ast.walk(f) if isinstance(node, ast.Attribute)]
    stored = {n.attr for n in nodes if isinstance(n.ctx, ast.Store) and last_name(n.value) == "self"}
    return stored | {f.name for f in functions(tree)}


def defined(tree):
    """Names that a file has at its top level."""
    names = set()
    for node in tree.body:
        scope = isinstance(node, (ast.ClassDef, ast.FunctionDef))
        for inner in (node,) if scope else ast.walk(node):  # what `if` and `try` define counts
            if isinstance(inner, (ast.ClassDef, ast.FunctionDef)):
                names.add(inner.name)
            elif isinstance(inner, (ast.Import, ast.ImportFrom)):
                names |= {(alias.asname or alias.name).split(".")[0] for alias in inner.names}
            elif isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                names.add(inner.id)
    return names


def wanted(tree):
    """Names of training/loss.py that a file mentions: by import, or as "training.loss.Name"."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            if (node.module, node.level) in (("training.loss", 0), ("loss", 1)):
                names |= {alias.name for alias in node.names} - {"*"}
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "training.loss":
            names.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names |= set(re.findall(r"\Atraining\.loss\.(\w+)\Z", node.value))
    return names


def uses(sources):
    """How the loop uses the loss: (constructions, steps) as :class:`Passed`, and the attributes it asks for."""
    nodes = list(ast.walk(sources.loop))
    calls = [n for n in nodes if isinstance(n, ast.Call)]
    steps = [n for n in calls if isinstance(n.func, ast.Attribute) and n.func.attr == STEP]
    losses, made = {ast.unparse(n.func.value) for n in steps}, []
    for target, value in (pair for node in nodes for pair in assignments(node)):
        for call in (n for n in ast.walk(value) if isinstance(n, ast.Call)):
            by_name = ast.unparse(target) in losses and last_name(call.func) in (CONSTRUCT, CLASS)
            if by_name or any(k.arg is None and last_name(k.value) == "loss_kwargs" for k in call.keywords):
                made.append(call)
                losses.add(ast.unparse(target))
    asked = [
        n
        for n in nodes
        if isinstance(n, ast.Attribute) and (n.value in made or ast.unparse(n.value) in losses)
    ]
    stored = {n.attr for n in asked if isinstance(n.ctx, ast.Store)}
    guarded = {
        argument.value
        for call in calls
        if last_name(call.func) in ("hasattr", "getattr", "setattr")
        for argument in call.args[1:2]
        if isinstance(argument, ast.Constant)
    }
    return (
        [Passed((sources.loop, sources.train)).call(call) for call in made],
        [Passed((sources.loop,)).call(step) for step in steps],
        {n.attr for n in asked} - stored - guarded - {STEP},
    )


def phases(sources):
    """Names of the phases that the loop makes, `EasyDict(name=name + "both", module=…)`, where they can be read."""
    for node in ast.walk(sources.loop):
        names = {k.arg: k.value for k in getattr(node, "keywords", ())}
        if not {"name", "module", "opt"} <= names.keys():
            continue
        name = names["name"]
        if isinstance(name, ast.Constant):
            yield name.value
        elif isinstance(name, ast.BinOp) and isinstance(name.right, ast.Constant):
            yield from (net + name.right.value for net in strings(name.left, (sources.loop,)) or ())


def helpers_missing(loss, sources):
    """What a loss file uses of the clone's torch_utils that is not there, as "torch_utils/misc.py: ddp_sync"."""
    files = {
        alias.asname or alias.name: f"{node.module.replace('.', '/')}/{alias.name}.py"
        for node in loss.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch_utils"
        for alias in node.names
    }
    nodes = [n for n in ast.walk(loss) if isinstance(n, ast.Attribute) and last_name(n.value) in files]
    used = {(files[last_name(n.value)], n.attr) for n in nodes}
    have = {file: defined(tree) for file, tree in sources.helpers.items()}
    return {f"{file}: {name}" for file, name in used if not {name, "*"} & have.get(file, set())}


def distance(loss, sources):
    """In how many argument names the loss file and the clone's loop differ."""
    made, steps, _ = uses(sources)
    pairs = [*(("__init__", call) for call in made), *((STEP, step) for step in steps)]
    return sum(len(passed.values.keys() ^ takes(loss, method).names) for method, passed in pairs)


def misfits(loss, name, sources):
    """Why the loss file called `name` cannot serve the clone, a clause for each reason; [] if it can."""
    made, steps, asked = uses(sources)
    if not all(takes(loss, method) for method in ("__init__", STEP)):
        return [f"{name} has no {CLASS} with __init__ and {STEP}"]
    found = [] if made else [f"its loop has no `loss = {CONSTRUCT}(…, **loss_kwargs)`"]
    found += [] if steps else [f"its loop never calls {STEP}"]
    for passed in made:
        classes = passed.values.pop("class_name", [])
        found += clashes("the loss is constructed", loss, name, "__init__", passed, sources)
        found += classes_that_differ(classes, loss, name, sources)
    for passed in steps:
        found += clashes(f"{STEP} is called", loss, name, STEP, passed, sources)
    if lacking := asked - attributes(loss):
        found.append(f"its loop uses {listed(lacking)} of the loss, which {name} does not have")
    users = {"train.py": sources.train, **sources.others}
    for user, tree in users.items():
        if lacking := wanted(tree) - defined(loss):
            lacks = f"{listed(lacking)}, which {name} does not have"
            found.append(f"its {user} asks training/loss.py for {lacks}")
    if missing := helpers_missing(loss, sources):
        found.append(f"{name} needs what its torch_utils lacks ({listed(missing)})")
    pairs = [pair for node in loss.body for pair in assignments(node)]
    known = next((ast.literal_eval(value) for target, value in pairs if last_name(target) == "PHASES"), ())
    if known and (strange := set(phases(sources)) - set(known)):
        found.append(f"its loop has phases called {listed(strange)}, which {name} does not know")
    return list(dict.fromkeys(found))


def remarks(loss, name, sources):
    """What a user should know of a clone that the loss fits, a line each."""
    found, own = [], takes(sources.loss, "__init__")
    if own and (unused := own.names - takes(loss, "__init__").names):
        found.append(f"training/loss.py had {listed(unused)} as well; nothing sets it, and {name} lacks it")
    for user, tree in sources.others.items():
        if CLASS in wanted(tree):
            found.append(f"{user} builds on {CLASS} of training/loss.py; not checked whether it still fits")
    return found


def clashes(what, loss, name, method, passed, sources):
    """Clauses on one call: arguments too many, missing, or not to be read."""
    ours, own = takes(loss, method), takes(sources.loss, method)
    found, given = [], set(passed.values) | set(ours.order[: passed.position])
    if passed.position > len(ours.order):
        found.append(f"{what} with {passed.position} arguments by position, {name} takes {len(ours.order)}")
    if (extra := given - ours.names) and not ours.anything:
        found.append(f"{what} with {listed(extra)}, which {name} does not take")
    if missing := ours.required - given - (own.required if passed.unread and own else set()):
        found.append(f"{what} without {listed(missing)}, which {name} needs")
    if passed.unread and not ours.anything:
        source = ", ".join(dict.fromkeys(passed.unread))
        if own is None or own.anything:
            found.append(f"{what} with `{source}`, and its sources do not show what that holds")
        elif maybe := own.names - ours.names - extra:
            found.append(f"{what} with `{source}`, perhaps {listed(maybe)}, which {name} does not take")
    return found


def classes_that_differ(values, loss, name, sources):
    """Clauses on the class that train.py names: not in training/loss.py, or not to be read."""
    options = [o for v in values for o in ((v.body, v.orelse) if isinstance(v, ast.IfExp) else (v,))]
    known = [str(o.value) for o in options if isinstance(o, ast.Constant)]
    own = {node.name for node in sources.loss.body if isinstance(node, ast.ClassDef)}
    if len(known) < len(options):
        if others := own - defined(loss):
            return [f"it may train with {listed(others)} of training/loss.py, which {name} does not have"]
    elif known and not any(n.startswith("training.loss.") for n in known):
        return [f"it trains with {listed(set(known))}, not with a class of training/loss.py"]
    return []


def listed(names):
    *first, last = sorted(map(str, names))
    return f"{', '.join(first)} and {last}" if first else last
