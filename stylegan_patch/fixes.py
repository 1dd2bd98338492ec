"""What today's libraries stop in the clones, and the few characters that let them run.

A fix looks for its trouble in every Python file of a clone, whichever fork that is. Most were found by running
the published versions (stylegan2-ada-pytorch d72cc7d, stylegan3 c233a91) on PyTorch 2.15, NumPy 2.4,
SciPy 1.17 and setuptools 84; those of distutils, of SciPy 1.18 and of grid_sample by reading and from reports.
"""

import os
import re
from codecs import BOM_UTF8 as BOM
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fix:
    """Substitutions that remove one trouble. Where only some of `edits` match, none is made."""

    why: str
    trouble: str  # a regular expression of the code that breaks; it no longer matches what is fixed
    edits: tuple  # of (pattern, replacement)


FLAGS = re.ASCII | re.MULTILINE | re.DOTALL
# A class derived from torch's Sampler, up to an argument of its super().__init__ call.
SAMPLER = (
    r"(^class \w+\((?:[\w.]+\.)?Sampler(?:\[\w+\])?\):(?:(?!^\S).)*?\bsuper\([^()]*\)\.__init__\()"
    r"\s*[^()\s](?:[^()]|\([^()]*\))*(?=\))"
)
PERCENTILE = (
    r"(\b(?:np|numpy)\.(?:nan)?(?:percentile|quantile)\((?:[^()]|\([^()]*\))*?\b)interpolation(?=\s*=)"
)
OLD_VERSIONS = r"(?<=in )\[(?:\s*['\"]1\.\d+\.?['\"],?)+\s*\](?=.*\bgrid_sampler_2d_backward\b)"
BETAS = r"(\bbetas\s*=\s*[\[(]\s*)0(?=\s*,)"

FIXES = (
    Fix("Sampler.__init__ takes no data set (PyTorch 2.x: TypeError at start)", SAMPLER, ((SAMPLER, r"\1"),)),
    Fix("Adam wants two floats as betas (PyTorch 2.6: ValueError at start)", BETAS, ((BETAS, r"\g<1>0.0"),)),
    Fix(
        "pkg_resources is gone from setuptools 82 (ModuleNotFoundError at start)",
        r"^[ \t]*(?:from|import)[ \t]+pkg_resources\b",
        # torch brings the comparison of versions that the clone wants from it.
        (
            (
                r"from pkg_resources import parse_version(?=[ \t]*(?:#[^\n]*)?\r?$)",
                "from torch.torch_version import TorchVersion as parse_version",
            ),
        ),
    ),
    Fix(
        "its second derivative, which R1 needs under augmentation, is off since PyTorch 1.10 (RuntimeError)",
        OLD_VERSIONS,
        (
            (OLD_VERSIONS, "['2.']"),
            (
                r"torch\._C\._jit_get_operation\(['\"]aten::(grid_sampler_2d_backward)['\"]\)",
                r"torch.ops.aten.\1",
            ),
            (r"(?<=\bop\()([^\n]*)False(?=\))", r"\1False, ctx.needs_input_grad[1:]"),
        ),
    ),
    Fix(
        "a built extension is no longer importable by name (PyTorch 1.12: falls back to slow kernels)",
        r"\bcpp_extension\.load\(.*module = importlib\.import_module\(module_name\)",
        (
            (r"(?<= )torch\.utils\.cpp_extension\.load\(", "module = torch.utils.cpp_extension.load("),
            (r"[ \t]*module = importlib\.import_module\(module_name\)(?=\s)", ""),
        ),
    ),
    Fix(
        "distutils is gone from Python 3.12 (ModuleNotFoundError at start)",
        r"^[ \t]*(?:from|import)[ \t]+distutils\b",
        (
            (
                r"from distutils\.util import strtobool(?=[ \t]*(?:#[^\n]*)?\r?$)",
                'strtobool = lambda s: "n no f false off 0 y yes t true on 1".split().index(s) // 6',
            ),
        ),
    ),
    Fix(
        "sqrtm loses its argument disp (SciPy 1.18: TypeError in FID)",
        r"\bsqrtm\([^=]*\bdisp\s*=",
        ((r"(\w+), _(\s*=\s*[\w.]*\bsqrtm\([^=]*?),\s*disp\s*=\s*False,?\s*\)", r"\1\2)"),),
    ),
    Fix(
        "percentile's interpolation is now its method (NumPy 2.4: TypeError in PPL)",
        PERCENTILE,
        ((PERCENTILE, r"\1method"),),
    ),
)


def fix(name, data):
    """The fixed bytes of a file, and a line of report for each trouble that is in it."""
    mark = BOM if data.startswith(BOM) else b""
    text, lines = (
        data[len(mark) :].decode("latin-1"),
        [],
    )  # the patterns are ASCII: whatever else is there stays
    for f in FIXES:
        if not re.search(f.trouble, text, FLAGS):
            continue
        if all(re.search(pattern, text, FLAGS) for pattern, _ in f.edits):
            for pattern, replacement in f.edits:
                text = re.sub(pattern, replacement, text, flags=FLAGS)
            lines.append(f"fix   {name}: {f.why}")
        if re.search(f.trouble, text, FLAGS):
            lines.append(f"keep  {name}: written another way, so look yourself: {f.why}")
    return mark + text.encode("latin-1"), lines


def python_files(root):
    """Names of the clone's own Python files: no hidden folders, environments, or projects inside it."""
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        folders[:] = sorted(
            f
            for f in folders
            if not f.startswith(".")
            and f not in ("__pycache__", "site-packages")
            and not any((here / f / mark).exists() for mark in (".git", "pyvenv.cfg", "stylegan3_loss.py"))
        )
        yield from (
            (here / f).relative_to(root).as_posix()
            for f in sorted(files)
            if f.endswith(".py") and (here / f).is_file()
        )
