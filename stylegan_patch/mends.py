"""What apply.py knows of the two clones: how to tell them apart, and what today's libraries stop in them.

Each mend is a substitution of a few characters within a line. Most were found by running the published
versions (stylegan2-ada-pytorch d72cc7d, stylegan3 c233a91) on PyTorch 2.15, NumPy 2.4, SciPy 1.17 and
setuptools 84; those of distutils, of SciPy 1.18 and of grid_sample by reading and from reports.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Clone:
    """What tells one clone from the other, and the loss file made for it."""

    name: str
    marker: str  # a file that only this one has
    call: str  # the arguments, as a regular expression, that its training loop calls the loss with
    loss: str
    published: str  # sha256 of its published training/loss.py, line ends as LF


CLONES = (
    Clone(
        "stylegan2-ada-pytorch",
        "training/networks.py",
        r"accumulate_gradients\([^)]*\bsync=",
        "loss.py",
        "1bd68d7dc1c92c1b78b91f193a45a433b1ff374614f91909ea8cb88eac7bc2d7",
    ),
    Clone(
        "stylegan3",
        "training/networks_stylegan3.py",
        r"accumulate_gradients\([^)]*\bcur_nimg=",
        "stylegan3_loss.py",
        "95cd1d2fb2db27b0c501d4913429ecc1bb21e50c090bab02044aa35c090a64ee",
    ),
)


@dataclass(frozen=True)
class Mend:
    """Substitutions within single lines that let one file of a clone run today.

    If `trouble` is not in the file, there is nothing to mend. If it is, every pattern of `edits` must occur
    exactly as often as stated, else the file is a version that nobody has tried, and is left alone.
    """

    path: str
    why: str
    trouble: str
    edits: tuple  # of (pattern, replacement, how often)
    only: str = ""  # name of the clone, "" for both


# setuptools 82 has no pkg_resources; torch brings the comparison that the clone wants from it.
VERSIONS = (r"from pkg_resources import", "from torch.torch_version import TorchVersion as", 1)
MENDS = (
    Mend(
        "torch_utils/misc.py",
        "Sampler.__init__ takes no data set (PyTorch 2.x: TypeError at start)",
        r"class InfiniteSampler\(",
        ((r"(?<=super\(\)\.__init__\()dataset(?=\))", "", 1),),
    ),
    Mend(
        "train.py",
        "Adam wants two floats as betas (PyTorch 2.6: ValueError at start)",
        r"betas=\[0,",
        ((r"(?<=betas=\[)0(?=,)", "0.0", 2),),
        only="stylegan3",
    ),
    Mend(
        "torch_utils/ops/conv2d_gradfix.py",
        "pkg_resources is gone from setuptools (ModuleNotFoundError at start)",
        r"\bpkg_resources\b",
        (VERSIONS,),
        only="stylegan3",
    ),
    Mend(
        "torch_utils/ops/grid_sample_gradfix.py",
        "pkg_resources is gone from setuptools (ModuleNotFoundError at start)",
        r"\bpkg_resources\b",
        (VERSIONS,),
        only="stylegan3",
    ),
    Mend(
        "torch_utils/ops/grid_sample_gradfix.py",
        "its second derivative, which R1 needs under augmentation, is off since PyTorch 1.10 (RuntimeError)",
        r"\['1\.7\.', '1\.8\.', '1\.9'\]",
        (
            (r"\['1\.7\.', '1\.8\.', '1\.9'\]", "['2.']", 1),
            (r"torch\._C\._jit_get_operation\('aten::(grid_sampler_2d_backward)'\)", r"torch.ops.aten.\1", 1),
            (r"(?<=\bop\()(.*)False(?=\))", r"\1False, ctx.needs_input_grad[1:]", 1),
        ),
        only="stylegan2-ada-pytorch",
    ),
    Mend(
        "torch_utils/custom_ops.py",
        "a built extension is no longer importable by name (PyTorch 1.12: falls back to slow kernels)",
        r"module = importlib\.import_module\(module_name\)",
        (
            (r"(?<= )torch\.utils\.cpp_extension\.load\(", "module = torch.utils.cpp_extension.load(", 2),
            (r" *module = importlib\.import_module\(module_name\)(?=\s)", "", 1),
        ),
    ),
    Mend(
        "dnnlib/util.py",
        "distutils is gone from Python 3.12 (ModuleNotFoundError at start)",
        r"\bdistutils\b",
        (
            (
                r"from distutils\.util import strtobool",
                'strtobool = lambda s: "n no f false off 0 y yes t true on 1".split().index(s) // 6',
                1,
            ),
        ),
    ),
    Mend(
        "metrics/frechet_inception_distance.py",
        "sqrtm loses its argument disp (SciPy 1.18: TypeError in FID)",
        r"\bdisp=False\b",
        ((r"\bs, _ = (scipy\.linalg\.sqrtm\(.*), disp=False\)", r"s = \1)", 1),),
    ),
    Mend(
        "metrics/perceptual_path_length.py",
        "percentile's interpolation is now its method (NumPy 2.4: TypeError in PPL)",
        r"\binterpolation=",
        ((r"\binterpolation(?==')", "method", 2),),
    ),
)


def mend(kind, name, data):
    """The mended bytes of a file, and a line of report for each mend that the file calls for."""
    text, lines = data.decode("utf-8"), []  # bytes in, bytes out: line ends and a BOM stay as they are
    for m in MENDS:
        if m.path != name or m.only not in ("", kind.name) or not re.search(m.trouble, text):
            continue
        counts = [len(re.findall(pattern, text)) for pattern, _, _ in m.edits]
        if counts == [times for _, _, times in m.edits]:
            for pattern, replacement, _ in m.edits:
                text = re.sub(pattern, replacement, text)
            lines.append(f"mend  {name}: {m.why}")
        elif any(counts):
            lines.append(f"keep  {name}: not the published version, so look yourself: {m.why}")
    return text.encode("utf-8"), lines
