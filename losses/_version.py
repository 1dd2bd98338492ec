"""The version; pyproject.toml is its one home."""

import re
from importlib.metadata import version
from pathlib import Path


def _version() -> str:
    # In the repository this folder is not installed (another version may be): ask the file beside it.
    pyproject = Path(__file__).resolve().parent.parent / "pyproject.toml"
    if pyproject.is_file():
        text = pyproject.read_text(encoding="utf-8")
        if re.search(r'^name = "rooted-loss"$', text, re.MULTILINE):  # tomllib came with Python 3.11
            return re.search(r'^version = "(.+)"$', text, re.MULTILINE)[1]
    return version("rooted-loss")


__version__ = _version()
