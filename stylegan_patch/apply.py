"""Install the rooted GAN loss in a clone of NVIDIA's stylegan2-ada-pytorch or stylegan3.

    python stylegan_patch/apply.py CLONE              install, and fix what stops the clone on PyTorch 2.x
    python stylegan_patch/apply.py CLONE --dry-run    show what would change, change nothing
    python stylegan_patch/apply.py CLONE --revert     put every byte back

Forks are welcome: how a clone constructs and calls its loss is read from its sources, and a clone that passes
what the rooted loss does not take is refused by name, unchanged.

The clone's own loss stays beside ours as training/loss_original.py. All originals are also kept in
.rooted-loss/ in the clone, with checksums that tell a second run, or --revert, which files are ours, which
are the clone's and which you have changed since. Files are replaced whole, one at a time: after a crash, run
the same command again, or --revert. Needs nothing but Python. Exit code 2: nothing done, and why.
"""

import argparse
import difflib
import hashlib
import json
import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from fixes import fix, python_files
from interface import (
    LOOP,
    LOSS,
    ORIGINAL_LOSS,
    TRAIN,
    Refusal,
    distance,
    misfits,
    parsed,
    read_sources,
    remarks,
    tree_of,
)

HERE = Path(__file__).resolve().parent
STORE = ".rooted-loss"
OURS = "Part of rooted-loss."  # a line of both loss files' docstrings


def digest(data):
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Flavour:
    """A published clone, and the loss file made for it."""

    name: str
    loss: str
    published: str  # sha256 of its training/loss.py, without a byte order mark, line ends as LF


FLAVOURS = (
    Flavour(
        "stylegan2-ada-pytorch",
        "loss.py",
        "e0653e15178603df5e29e831ad67706f495d4170c18b8a13b4ba8aa5fc0d5185",
    ),
    Flavour(
        "stylegan3",
        "stylegan3_loss.py",
        "95cd1d2fb2db27b0c501d4913429ecc1bb21e50c090bab02044aa35c090a64ee",
    ),
)


def check_folder(root):
    """Raises Refusal for a folder that is no clone."""
    if not root.is_dir():
        raise Refusal(f"{root} is no folder; give the folder of your clone")
    missing = [n for n in (LOSS, LOOP, TRAIN, "torch_utils/misc.py") if not (root / n).is_file()]
    if missing:
        names = " or ".join(flavour.name for flavour in FLAVOURS)
        raise Refusal(f"{root} is no clone of {names}: it has no {missing[0]}; give the folder of your clone")


def recognise(root, manifest):
    """(`Flavour`, lines to report) of the clone; raises Refusal, with the reasons, where the loss does not fit."""
    sources = read_sources(root, root / STORE / "originals" / LOSS if LOSS in manifest else root / LOSS)
    now = (root / LOSS).read_bytes()
    if why_keep(now, manifest.get(LOSS)) and OURS.encode() not in now:
        raise Refusal(
            f"{root / LOSS} is not the rooted loss any more, nor what it replaced (another branch, a pull?); "
            f"--revert, which keeps it as {LOSS}.yours, put it back, and run this again"
        )
    ours = {flavour: tree_of(HERE / flavour.loss) for flavour in FLAVOURS}
    flavour = min(FLAVOURS, key=lambda flavour: distance(ours[flavour], sources))
    tree, name = ours[flavour], f"stylegan_patch/{flavour.loss}"
    if why_keep(now, manifest.get(LOSS)):  # then what you made of it has to fit
        tree, name = parsed(root, LOSS), LOSS
    if reasons := misfits(tree, name, sources):
        undo = "; --revert undoes an earlier run" if manifest else ""
        raise Refusal(
            f"{root} is left as it is, the loss does not fit: {'; '.join(reasons)}; "
            f"a fresh clone of NVIDIA's fits{undo}"
        )
    return flavour, remarks(tree, name, sources)


def why_keep(now, known):
    """Why a training/loss.py is not replaced, "" if it is."""
    if known and digest(now) not in known.values():
        return "changed by you since it was installed"
    if not known and OURS.encode() in now:
        return "ours already, copied by hand, so there is no original to keep"
    return ""


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
        if not all(name.endswith(".py") and ".." not in Path(name).parts for name in known):
            raise ValueError("a name that was never written")
        return known
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Refusal(f"{path} is damaged; the originals beside it are whole: copy them back") from error


def plan(root, flavour, manifest):
    """What to do: {file: (bytes now, bytes to be)}, and the lines to report."""
    changes, report = {}, []
    for name in [LOSS, *(n for n in python_files(root) if n not in (LOSS, ORIGINAL_LOSS))]:
        now, known = (root / name).read_bytes(), manifest.get(name)
        if name == LOSS and (why := why_keep(now, known)):
            report.append(f"keep  {name}: {why}")
            continue
        if known and digest(now) not in known.values():
            report.append(f"keep  {name}: changed by you since it was fixed")
            report += [
                f"keep  {name}: the trouble is back, so look yourself: {line.partition(': ')[2]}"
                for line in fix(name, now)[1]
            ]
            continue
        if name == LOSS:
            new = (HERE / flavour.loss).read_bytes()
            lines = [f"loss  {name}: now stylegan_patch/{flavour.loss}"]
            plain = now.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
            if not known and digest(plain) != flavour.published:
                lines.append(f"note  {name} was not the published one; yours is kept as {ORIGINAL_LOSS}")
        else:
            new, lines = fix(name, (root / STORE / "originals" / name).read_bytes() if known else now)
        if now != new:
            real_file(root, name)
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
    if LOSS not in manifest and (root / LOSS).is_file() and OURS.encode() in (root / LOSS).read_bytes():
        still = f"{LOSS} is the rooted loss still, its original is not kept here: `git checkout {LOSS}`"
        if not manifest:
            raise Refusal(f"{root}: nothing to put back, but {still}")
        report.append(f"keep  {still}")
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
    manifest = read_manifest(root)
    if not (args.revert and manifest):
        check_folder(root)
    if args.revert:
        return [f"{root}:{' nothing done yet' * args.dry_run}", *revert(root, manifest, args.dry_run)]
    flavour, notes = recognise(root, manifest)
    changes, report = plan(root, flavour, manifest)
    report += [f"note  {note}" for note in notes]
    kept = root / ORIGINAL_LOSS
    if LOSS in changes and LOSS not in manifest and kept.exists() and kept.read_bytes() != changes[LOSS][0]:
        raise Refusal(f"{kept} exists and is not a copy of {LOSS}; move it away first")
    files = "1 file" if len(changes) == 1 else f"{len(changes)} files"
    if args.dry_run:
        show(changes)
        return [f"{root}: {flavour.name}, {files} would change", *report]
    for folder in {root, *((root / name).parent for name in changes)} if changes else ():
        if not os.access(folder, os.W_OK):
            raise Refusal(f"{folder} cannot be written")
    if changes:
        install(root, changes, manifest)
    state = f"{files} changed" if changes else "already installed, nothing changed"
    first = "See to the lines above that say “look yourself”, then train as before"
    train = first if any("look yourself" in line for line in report) else "Train as before"
    after = [
        f"{train}: train.py now uses the rooted loss (k = 2). RLO_K=5 or RLO_LS=ce before the command",
        f"choose otherwise. Undo: python {shlex.quote(sys.argv[0])} {shlex.quote(str(root))} --revert",
    ]
    return [f"{root}: {flavour.name}, {state}", *report, *after]


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
        print("\n".join(run(parse_args(argv))), flush=True)
    except BrokenPipeError:  # `| head`: what was asked for is done, only nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (Refusal, OSError) as error:
        print(f"apply.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # a path need not be text
    sys.exit(main())
