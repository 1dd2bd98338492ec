"""Who imports whom: the arrows that CONTRIBUTING.md draws."""

import ast
from pathlib import Path

import pytest
from conftest import ROOT

# What a folder or program may import of this project, besides itself.
MAY_IMPORT = {
    "common": set(),
    "flags": {"common"},
    "losses": set(),
    "models": {"common"},
    "data": {"common"},
    "engine": {"common"},
    "logreg": {"common"},
    "comparison": {"common", "flags", "engine"},
    "train": {"common", "flags", "losses", "models", "data", "engine"},
    "predict": {"common", "models", "data"},
    "export": {"common", "models", "data"},
    "regression": {"common", "logreg"},
    "compare": {"common", "flags", "comparison", "engine"},
    "sweep": {"common", "flags", "engine"},
}
# Where two rooms meet besides: the transform of `models.load_run` decodes an image as training does.
EXCEPTIONS = {"models/run.py": {"data"}}
EVERYTHING = {*MAY_IMPORT, "rooted_loss", "stylegan_patch", "benchmarks", "examples", "tests"}


def files_of(name):
    return sorted((ROOT / name).rglob("*.py")) if (ROOT / name).is_dir() else [ROOT / f"{name}.py"]


def imports_of(path: Path):
    """First words of the absolute imports of a file, those within functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_arrows_point_one_way(name):
    for path in files_of(name):
        where = str(path.relative_to(ROOT))
        foreign = set(imports_of(path)) & EVERYTHING - MAY_IMPORT[name] - {name} - EXCEPTIONS.get(
            where, set()
        )
        assert not foreign, f"{where} imports {', '.join(sorted(foreign))}"


def test_the_losses_import_torch_and_python_alone():
    import sys

    for path in files_of("losses"):
        assert set(imports_of(path)) <= {"torch", *sys.stdlib_module_names}, path


def test_contributing_draws_these_arrows():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for name, allowed in MAY_IMPORT.items():
        shown = f"{name if (ROOT / name).is_dir() else f'{name}.py'}"
        row = next(line for line in text.splitlines() if line.startswith(f"| `{shown}"))
        drawn = {word.strip("`").removesuffix(".py").rstrip("/") for word in row.split("|")[2].split()}
        assert {word for word in drawn if word in EVERYTHING} == allowed, row


def test_every_folder_has_its_line_in_contributing():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    code = {path.parent.relative_to(ROOT).parts[0] for path in ROOT.glob("*/*.py")}
    for name in code - {".venv", "runs", "datasets", "docs"}:
        assert f"`{name}/`" in text, name
