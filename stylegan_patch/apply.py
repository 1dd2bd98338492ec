"""Install the rooted GAN loss in a clone of NVIDIA's stylegan2-ada-pytorch or stylegan3.

    python stylegan_patch/apply.py CLONE              install, and mend what stops the clone on PyTorch 2.x
    python stylegan_patch/apply.py CLONE --dry-run    show what would change, change nothing
    python stylegan_patch/apply.py CLONE --revert     put every byte back

The clone's own loss stays beside ours as training/loss_original.py. All originals are also kept in
.rooted-loss/ in the clone, with the checksums by which a second run, or --revert, knows what is ours, what
is NVIDIA's and what you have changed since. Files are replaced whole, one at a time: after a crash, run the
same command again, or --revert. Needs nothing but Python. Exit code 2: not done, and why.
"""

import argparse
import difflib
import hashlib
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from mends import CLONES, MENDS, mend

HERE = Path(__file__).resolve().parent
LOSS, ORIGINAL_LOSS = "training/loss.py", "training/loss_original.py"
STORE = ".rooted-loss"
OURS = "Part of rooted-loss."  # a line of both loss files' docstrings


class Refusal(Exception):
    """The one line a user gets instead of a change."""


def digest(data):
    return hashlib.sha256(data).hexdigest()


def recognise(root):
    """Which of `CLONES` the folder is; raises Refusal for any other folder."""
    if not root.is_dir():
        raise Refusal(f"{root} is no folder; give the folder of your clone")
    # networks_stylegan3.py first: a stylegan3 clone could be mistaken for nothing else.
    for kind in reversed(CLONES):
        if (root / kind.marker).is_file():
            break
    else:
        names = " or ".join(kind.name for kind in CLONES)
        raise Refusal(f"{root} is no clone of {names}; give the folder of your clone")
    for name in (LOSS, "training/training_loop.py", "torch_utils/misc.py", "dnnlib/util.py"):
        if not (root / name).is_file():
            raise Refusal(f"{root} looks like {kind.name}, but has no {name}; a fresh clone would")
    loop = (root / "training/training_loop.py").read_text(encoding="utf-8", errors="replace")
    if not re.search(kind.call, loop):
        raise Refusal(
            f"{root} looks like {kind.name}, but its training_loop.py calls the loss another way; "
            "a fresh clone would not"
        )
    return kind


def real_file(root, name):
    """Path of a file to replace; raises Refusal where that would reach outside the clone."""
    path = root / name
    if path.is_symlink() or not path.resolve().is_relative_to(root.resolve()):
        raise Refusal(f"{path} is a symbolic link; give the folder where the file itself is")
    return path


def read_manifest(root):
    """{file: {"original": sha256, "applied": sha256}} of an earlier run; {} if there was none."""
    path = real_file(root, STORE) / "manifest.json"
    if not path.is_file():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        known = {
            name: {key: str(entry[key]) for key in ("original", "applied")}
            for name, entry in manifest.items()
        }
        if not all(re.fullmatch(r"[\w./-]+", name, re.ASCII) for name in known):
            raise ValueError("a name that was never written")
        return known
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Refusal(f"{path} is damaged; the originals beside it are whole: copy them back") from error


def plan(root, kind, manifest):
    """What to do: {file: (bytes now, bytes to be)}, and the lines to report."""
    changes, report = {}, []
    names = [LOSS, *dict.fromkeys(m.path for m in MENDS)]
    for name in names:
        path = real_file(root, name)
        if not path.is_file():
            continue
        now = path.read_bytes()
        known = manifest.get(name)
        if known and digest(now) not in known.values():
            report.append(f"keep  {name}: changed by you since it was installed")
            continue
        if name == LOSS:
            if not known and OURS.encode() in now:
                report.append(f"keep  {name}: ours already, copied by hand, so there is no original to keep")
                continue
            new, lines = (HERE / kind.loss).read_bytes(), [f"loss  {name}: now stylegan_patch/{kind.loss}"]
            if not known and digest(now.replace(b"\r\n", b"\n")) != kind.published:
                lines.append(f"note  {name} was not the published one; yours is kept as {ORIGINAL_LOSS}")
        else:
            original = (root / STORE / "originals" / name).read_bytes() if known else now
            try:
                new, lines = mend(kind, name, original)
            except UnicodeDecodeError:
                raise Refusal(
                    f"{path} is not text in UTF-8; `git checkout {name}` in the clone may help"
                ) from None
        if now != new:
            changes[name] = (now, new)
        report += lines
    return changes, report


def write(root, name, data, mode_of=None):
    """Write a file of the clone whole or not at all, with the permissions of the file `mode_of`."""
    draft, path = real_file(root, f"{STORE}/draft"), real_file(root, name)
    draft.parent.mkdir(exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(draft, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if mode_of:
        shutil.copymode(mode_of, draft)
    os.replace(draft, path)


def install(root, changes, manifest):
    """Keep the originals first, then say so in the manifest, then replace one file after another."""
    manifest = dict(manifest)
    for name, (now, new) in changes.items():
        if name not in manifest:
            write(root, f"{STORE}/originals/{name}", now, root / name)
        original = manifest.get(name, {"original": digest(now)})["original"]
        manifest[name] = {"original": original, "applied": digest(new)}
    write(root, f"{STORE}/manifest.json", json.dumps(manifest, indent=1).encode())
    if LOSS in manifest:
        source = root / STORE / "originals" / LOSS
        write(root, ORIGINAL_LOSS, source.read_bytes(), source)
    for name, (_, new) in changes.items():
        write(root, name, new, root / name)


def revert(root, manifest, dry_run):
    """Put the originals back. A file you have changed since is kept beside, as `<name>.yours`."""
    report, originals, yours = [], {}, {}
    for name, known in manifest.items():
        path, source = real_file(root, name), root / STORE / "originals" / name
        originals[name] = source.read_bytes()
        if digest(originals[name]) != known["original"]:
            raise Refusal(
                f"{source} is not the original any more; `git checkout {name}` in the clone may help"
            )
        if path.is_file() and digest(path.read_bytes()) not in known.values():
            yours[path] = path.with_name(path.name + ".yours")
            if yours[path].exists():
                raise Refusal(f"{path} was changed, and {yours[path]} is taken; move that away first")
            report.append(f"keep  {name}.yours: your changes of {name}")
        report.append(f"back  {name}")
    if dry_run:
        return report
    for path, kept in yours.items():
        path.rename(kept)
    for name, data in originals.items():
        write(root, name, data, root / STORE / "originals" / name)
    copy = root / ORIGINAL_LOSS
    if LOSS in manifest and copy.is_file() and digest(copy.read_bytes()) == manifest[LOSS]["original"]:
        copy.unlink()
    # The manifest goes first: without it a store is known to hold nothing that is still needed.
    (root / STORE / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(root / STORE, ignore_errors=True)
    return report or ["nothing to put back"]


def show(changes):
    """The changes as a diff without context."""
    for name, (now, new) in changes.items():
        before, after = (data.decode("utf-8", "replace").splitlines(keepends=True) for data in (now, new))
        for line in difflib.unified_diff(before, after, f"a/{name}", f"b/{name}", n=0):
            sys.stdout.write(line if line.endswith("\n") else line + "\n")


def run(args):
    """Do what the command line asks; the lines to print."""
    root = args.clone
    kind, manifest = recognise(root), read_manifest(root)
    if args.revert:
        return [
            f"{root}: {kind.name}{', nothing done yet' if args.dry_run else ''}",
            *revert(root, manifest, args.dry_run),
        ]
    changes, report = plan(root, kind, manifest)
    kept = root / ORIGINAL_LOSS
    if LOSS in changes and LOSS not in manifest and kept.exists() and kept.read_bytes() != changes[LOSS][0]:
        raise Refusal(f"{kept} exists and is not a copy of {LOSS}; move it away first")
    if args.dry_run:
        show(changes)
        return [f"{root}: {kind.name}, {len(changes)} files would change", *report]
    for folder in {root, *((root / name).parent for name in changes)} if changes else ():
        if not os.access(folder, os.W_OK):
            raise Refusal(f"{folder} cannot be written")
    if changes:
        install(root, changes, manifest)
    state = f"{len(changes)} files changed" if changes else "already installed, nothing changed"
    after = [
        "Train as before: train.py now uses the rooted loss (k = 2). RLO_K=5 or RLO_LS=ce before the command",
        f"choose otherwise. Undo: python {shlex.quote(sys.argv[0])} {shlex.quote(str(root))} --revert",
    ]
    return [f"{root}: {kind.name}, {state}", *report, *after]


class Parser(argparse.ArgumentParser):
    """Says a mistake in one line, like everything else here."""

    def error(self, message):
        hint = "; --help lists the flags" if message.startswith("unrecognized") else ""
        self.exit(2, f"{self.prog}: {' '.join(message.split())}{hint}\n")


def folder(text):
    """An argparse type: a path that is not empty, which would be the working directory."""
    if not text:  # an unset variable of the shell, as a rule
        raise argparse.ArgumentTypeError("is empty; give the folder of your clone")
    return Path(text)


def parse_args(argv=None):
    paragraphs = __doc__.split("\n\n")
    parser = Parser(
        prog="apply.py",
        description=paragraphs[0],
        epilog="\n\n".join(paragraphs[2:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("clone", metavar="CLONE", type=folder, help="folder of the clone")
    parser.add_argument(
        "--dry-run", action="store_true", help="show a diff of what would change, change nothing"
    )
    parser.add_argument("--revert", action="store_true", help="restore every file, remove what was added")
    return parser.parse_args(argv)


def main(argv=None):
    try:
        print("\n".join(run(parse_args(argv))))
    except (Refusal, OSError) as error:
        print(f"apply.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # a path need not be text
    sys.exit(main())
