"""The version; pyproject.toml is its one home."""

import re
from importlib.metadata import version
from pathlib import Path

# In the repository this folder is not installed (another version may be): ask the file beside it.
_pyproject = Path(__file__).resolve().parent.parent / "pyproject.toml"
_text = _pyproject.read_text(encoding="utf-8") if _pyproject.is_file() else ""
_found = re.search(r'^name = "rooted-loss"\nversion = "(.+)"$', _text, re.MULTILINE)
__version__: str = _found[1] if _found else version("rooted-loss")
