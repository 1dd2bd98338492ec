"""What the methods of a loss file take, and what calls in a clone pass: read from syntax trees.

Where the sources do not show what is passed, `Passed.unread` says so.
"""

import ast
from dataclasses import dataclass, field
from itertools import zip_longest

CLASS = "StyleGAN2Loss"  # what both clones call their loss


@dataclass(frozen=True)
class Takes:
    """What a method may and must be called with, without `self`."""

    order: list
    names: set
    required: set
    anything: bool  # **kwargs


def takes(tree, method):
    """:class:`Takes` of a method of the loss class; None where the class does not define it."""
    for node in functions(tree):
        if node.name == method:
            a = node.args
            order = [arg.arg for arg in a.posonlyargs + a.args][1:]
            optional = order[len(order) - len(a.defaults) :]
            keyword_only = {
                arg.arg: default is None for arg, default in zip(a.kwonlyargs, a.kw_defaults, strict=True)
            }
            required = set(order) - set(optional) | {name for name, must in keyword_only.items() if must}
            return Takes(order, {*order, *keyword_only}, required, a.kwarg is not None)
    return None


def functions(tree):
    """The methods that a loss file defines for the loss class."""
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    return [f for f in getattr(classes.get(CLASS), "body", ()) if isinstance(f, ast.FunctionDef)]


def last_name(node):
    """`loss_kwargs` of both `loss_kwargs` and `args.loss_kwargs`; None for what is not a name."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


@dataclass
class Passed:
    """What a call passes: `values` by name, so many by position, and the source of what cannot be read.

    Mappings unpacked with `**` are followed through `trees` by their last name: literals, `dict(…)` and
    `EasyDict(…)`, later assignments to keys and attributes, `update`, keys from a loop over a literal list.
    """

    trees: tuple
    values: dict = field(default_factory=dict)
    position: int = 0
    unread: list = field(default_factory=list)
    followed: set = field(default_factory=set)

    def call(self, node):
        for value in node.args:
            self.position += 1
            if isinstance(value, ast.Starred):
                self.unread.append(ast.unparse(value))
        self.keywords(node)
        return self

    def keywords(self, node):
        for keyword in node.keywords:
            if keyword.arg is None:
                self.mapping(keyword.value)
            else:
                self.put(keyword.arg, keyword.value)

    def put(self, name, value):
        self.values.setdefault(name, []).append(value)

    def mapping(self, node):
        """Add what an expression that is a mapping holds."""
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                self.mapping(value) if key is None else self.key(key, value, ast.unparse(node))
        elif isinstance(node, ast.DictComp):
            self.key(node.key, node.value, ast.unparse(node), node.generators)
        elif isinstance(node, ast.Call) and (last_name(node.func) or "").lower().endswith("dict"):
            for value in node.args:
                self.mapping(value)
            self.keywords(node)
        elif isinstance(node, ast.IfExp):
            self.mapping(node.body)
            self.mapping(node.orelse)
        elif isinstance(node, ast.BinOp):
            self.mapping(node.left)
            self.mapping(node.right)
        elif last_name(node):
            self.named(last_name(node))
        elif not (isinstance(node, ast.Constant) and node.value is None):
            self.unread.append(f"**{ast.unparse(node)}")

    def key(self, node, value, source, loops=None):
        """Add the value of a key: a string, or a variable that runs through strings."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return self.put(node.value, value)
        names = strings(node, self.trees, loops)
        if names is None:
            self.unread.append(source)
        for name in names or ():
            self.put(name, value)

    def named(self, name):
        """Add what the code puts in the mapping of this name."""
        if name in self.followed:
            return
        self.followed.add(name)
        assigned = False
        for node in (node for tree in self.trees for node in ast.walk(tree)):
            for target, value in assignments(node):
                if last_name(target) == name:
                    assigned = True
                    self.mapping(value)
                elif isinstance(target, ast.Subscript) and last_name(target.value) == name:
                    self.key(target.slice, value, ast.unparse(target))
                elif isinstance(target, ast.Attribute) and last_name(target.value) == name:
                    self.put(target.attr, value)
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Attribute) and last_name(node.func.value) == name:
                if node.func.attr == "update":
                    for value in node.args:
                        self.mapping(value)
                    self.keywords(node)
                elif node.func.attr == "setdefault" and node.args:
                    self.key(node.args[0], node, ast.unparse(node))
            for keyword in node.keywords:  # training_loop(loss_kwargs=…)
                if keyword.arg == name and last_name(keyword.value) != name:
                    assigned = True
                    self.mapping(keyword.value)
        if not assigned:
            self.unread.append(f"**{name}")


def assignments(node):
    """(target, value) pairs of a statement."""
    if isinstance(node, ast.Assign):
        targets, value = node.targets, node.value
    elif isinstance(node, (ast.AnnAssign, ast.AugAssign, ast.NamedExpr)) and node.value is not None:
        targets, value = [node.target], node.value
    else:
        return
    for target in targets:
        if isinstance(target, ast.Tuple):
            values = value.elts if isinstance(value, ast.Tuple) else ()
            yield from zip_longest(target.elts, values[: len(target.elts)], fillvalue=value)
        else:
            yield target, value


def strings(node, trees, loops=None):
    """The strings that a variable runs through in the innermost loop over a literal list; None: unknown."""
    if loops is None:
        fors = [n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.For)]
        loops = [loop for loop in reversed(fors) if any(n is node for n in ast.walk(loop))]
    for loop in loops:
        targets = loop.target.elts if isinstance(loop.target, ast.Tuple) else [loop.target]
        names = [last_name(target) for target in targets]
        if last_name(node) not in names:
            continue
        if not isinstance(loop.iter, (ast.List, ast.Tuple)):
            return None
        at = names.index(last_name(node)) if isinstance(loop.target, ast.Tuple) else None
        cells = [row if at is None else getattr(row, "elts", [row])[at:] for row in loop.iter.elts]
        cells = [cell[0] if isinstance(cell, list) and cell else cell for cell in cells]
        if all(isinstance(cell, ast.Constant) for cell in cells):
            return [cell.value for cell in cells if isinstance(cell.value, str)]
        return None
    return None
