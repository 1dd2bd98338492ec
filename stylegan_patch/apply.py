"""Put the rooted loss into a clone of StyleGAN2-ADA, StyleGAN3 or a fork, and let it run on today's PyTorch.

    python stylegan_patch/apply.py stylegan3              change the files, and name the undo
    python stylegan_patch/apply.py stylegan3 --dry-run    say what would change

The clone keeps its own loss, which calls `rooted.softplus` of the new training/rooted.py instead of torch's
softplus. A training/loss.py that is a copy of stylegan_patch/loss.py has the rooted loss already and stays. Each
fix is a text that today's libraries stop, and the text that replaces it; what is fixed is not found again. Needs
nothing but Python and this checkout.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # it is run from anywhere

from common import Parser, UserError, one_line_errors, write_atomically  # noqa: E402

LOSS, ROOTED = "training/loss.py", "training/rooted.py"
OUR_LOSS = "Part of rooted-loss."  # a sentence of loss.py's docstring
SOFTPLUS = r"\b(?:(?:torch\.)?nn\.functional|F)\.softplus\b"
IMPORT_TORCH = r"^(?=(?:import|from) torch\b)"

# What today's libraries stop: (where, {pattern: replacement}). A file gets all replacements of a fix, or none.
FIXES = {
    "Sampler.__init__ takes no data set (TypeError at start)": (
        "torch_utils/misc.py",
        {r"super\(\)\.__init__\(dataset\)": "super().__init__()"},
    ),
    "Adam wants two floats as betas (ValueError at start)": (
        "train*.py",
        {r"(\bbetas\s*=\s*[\[(]\s*)0(?=\s*,)": r"\g<1>0.0"},
    ),
    "pkg_resources left setuptools (ModuleNotFoundError at start)": (
        "torch_utils/**/*.py",
        {
            r"from pkg_resources import (?=parse_version\s*$)": "from torch.torch_version import TorchVersion as "
        },
    ),
    "distutils left Python 3.12 (ModuleNotFoundError at start)": (  # index raises the ValueError that is waited for
        "dnnlib/util.py",
        {
            r"from distutils\.util import strtobool(?=\s*$)": "strtobool = lambda s: "
            '"n no f false off 0 y yes t true on 1".split().index(s) // 6'
        },
    ),
    "torch no longer imports the extensions that it built (falls back to slow kernels)": (
        "torch_utils/custom_ops.py",
        {
            r"^( +)(?=torch\.utils\.cpp_extension\.load\()": r"\1module = ",
            r"^ +module = importlib\.import_module\(module_name\)[ \t]*\r?\n": "",
        },
    ),
    "grid_sample's second derivative is off, which R1 under augmentation needs (RuntimeError)": (
        "torch_utils/ops/grid_sample_gradfix.py",
        {
            r"\['1\.7\.', '1\.8\.', '1\.9'\]": "['2.']",
            r"torch\._C\._jit_get_operation\('aten::(grid_sampler_2d_backward)'\)": r"torch.ops.aten.\1",
            r"(\bop\([^()\n]*, False)\)": r"\1, ctx.needs_input_grad[1:])",
        },
    ),
    "sqrtm loses its argument disp in SciPy 1.18 (TypeError in FID)": (
        "metrics/*.py",
        {r"(\w+), _( = scipy\.linalg\.sqrtm\(.*), disp=False\)": r"\1\2)"},
    ),
    "percentile's interpolation is now its method (TypeError in PPL)": (
        "metrics/*.py",
        {r"(\bnp\.percentile\([^)\n]*\b)interpolation=": r"\1method="},
    ),
    "one image a GPU leaves none for the path length (crash at the first Greg)": (
        LOSS,
        {r"(?<== )(gen_z\.shape\[0\] // self\.pl_batch_shrink)(?=\s*$)": r"max(1, \1)"},
    ),
}


def with_rooted_softplus(text, path):
    """The text of a clone's loss that calls `rooted.softplus`; raises UserError for a loss of another kind."""
    if OUR_LOSS in text or "rooted.softplus" in text:
        return text
    if not re.search(SOFTPLUS, text) or not re.search(IMPORT_TORCH, text, re.MULTILINE):
        raise UserError(
            f"{path} does not call torch.nn.functional.softplus, so it is not a logistic loss (hinge? Wasserstein?) "
            "and there is nothing to replace; the clone is left as it is"
        )
    end = "\r\n" if "\r\n" in text else "\n"
    text = re.sub(IMPORT_TORCH, f"from training import rooted{end}", text, count=1, flags=re.MULTILINE)
    return re.sub(SOFTPLUS, "rooted.softplus", text)


def plan(root):
    """({name: new text}, a line for each change) of a clone; nothing is written."""
    if not (root / LOSS).is_file():
        raise UserError(f"{root} is not a clone of StyleGAN: it has no {LOSS}; give the folder of your clone")
    refuse_link(root, LOSS)
    before = {LOSS: read(root / LOSS)}
    after = {LOSS: with_rooted_softplus(before[LOSS], root / LOSS)}
    report = []
    if OUR_LOSS in after[LOSS]:
        report.append(f"keep  {LOSS}: it is our own loss, copied by hand")
    else:
        if after != before:
            report.append(f"loss  {LOSS}: calls rooted.softplus instead of torch's")
        if not (root / ROOTED).is_file():
            after[ROOTED] = read(HERE / "rooted.py")
            report.append(f"new   {ROOTED}: the rooted softplus, with kparam = 2 and ls = 'rlo'")
        elif read(root / ROOTED) != read(HERE / "rooted.py"):
            report.append(f"keep  {ROOTED}: it differs from ours; delete it to get a fresh one")
    for why, (files, edits) in FIXES.items():
        for path in sorted(path for path in root.glob(files) if path.is_file()):
            name = path.relative_to(root).as_posix()
            text = after.get(name) or before.setdefault(name, read(path))
            if all(re.search(pattern, text, re.MULTILINE) for pattern in edits):
                for pattern, replacement in edits.items():
                    text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
                after[name] = text
                report.append(f"fix   {name}: {why}")
    changes = {name: text for name, text in after.items() if text != before.get(name)}
    for name in changes:
        refuse_link(root, name)
    return changes, report


def refuse_link(root, name):
    """Raise UserError where a change of the file would reach outside the clone."""
    if (root / name).resolve() != root.resolve() / name:
        raise UserError(f"{root / name} is a symbolic link; give the folder where the file itself is")


def read(path):
    """A file's text without a byte order mark; what is not UTF-8 comes back unchanged when it is written."""
    return path.read_bytes().decode("utf-8-sig", "surrogateescape")


def write(path, text):
    """Replace a file whole, with the permissions that it had."""
    mode = path.stat().st_mode if path.exists() else None
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")))
    if mode is not None:
        path.chmod(mode)


def git(root, *words):
    """What git says about a clone; None where it fails, or is not there."""
    command = ["git", "-C", str(root), *words]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, errors="replace").stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def uncommitted(root):
    """Names of the clone's files with uncommitted changes."""
    status = git(root, "status", "--porcelain", "--untracked-files=no")
    return ", ".join(line[3:] for line in status.splitlines())


def undo(root, changes):
    """The shell command that puts the changed files back."""
    replaced = [name for name in changes if name != ROOTED]
    commands = [["git", "-C", str(root), "checkout", "--", *replaced]] if replaced else []
    commands += [["rm", str(root / ROOTED)]] if ROOTED in changes else []
    return " && ".join(shlex.join(command) for command in commands)


def parse_args(argv=None):
    parser = Parser("apply.py", __doc__)
    parser.add_argument("clone", metavar="CLONE", help="folder of the clone")
    parser.add_argument("--dry-run", action="store_true", help="say what would change, change nothing")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    root = Path(args.clone)
    with one_line_errors("apply.py"):
        if not os.path.isdir(args.clone):
            raise UserError(f"{args.clone or repr('')} is not a folder; give the folder of your clone")
        changes, report = plan(root)
        in_git = git(root, "ls-files", "--error-unmatch", "--", LOSS) is not None
        if changes and not in_git:
            print(f"note  git does not know {root}, so nothing undoes this: keep a copy of it")
        elif changes and (names := uncommitted(root)):
            print(
                f"note  uncommitted changes in {names}: commit them, an undo takes those of the files below"
            )
        print("\n".join(report), flush=True)
        if args.dry_run:
            return
        for name, text in changes.items():
            write(root / name, text)
        print(f"Files changed: {len(changes)}." if changes else "Nothing to change.")
        print("Train as before; RLO_K=5 or RLO_LS=ce before the command choose another objective.")
        if changes and in_git:
            print(f"Undo: {undo(root, changes)}")


if __name__ == "__main__":
    main()
