"""Random flags, values and files: never a traceback, never a write elsewhere, and a refusal is one line."""

# ruff: noqa: E501 - tables of words
import itertools
import json
import random
import shutil
import tempfile
from pathlib import Path

import pytest
import sandbox
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compare import compare_parser
from flags import train_parser
from regression import regression_parser
from sweep import sweep_parser

pytestmark = pytest.mark.slow

FINE = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck), print_blob=False
)
NEEDED = {"sweep": ["images"], "regression": ["images"]}  # of the folders; else all
EXIT_CODES = (0, 2, 3)

ODD = (
    "", " ", "nan", "inf", "1e400", "9" * 400, "-1", "0", "0.5", "٣", "1_0", "0x10", "-", "--", "ä", "\u202e", "\udcff",
    "a\nb", "\x1b[31m", "$\\frac{$", "a,b", "=", "../up", "a/b", "..", ".", "~", "x" * 300, "none", "notes.txt", "notes.txt/x",
    "images", "runs", "runs/run0", "table.csv", "clone", "/dev/null", "/proc/x",
)  # fmt: skip
anything = st.sampled_from(ODD) | st.text(st.characters(exclude_characters="\0"), max_size=6)


def flags_of(parser, good, never=()):
    """A few of the parser's flags, with values that are now good, now odd, now missing."""
    names = [a.option_strings[-1] for a in parser._actions if a.option_strings and a.dest != "help"]
    names = [name for name in names if name not in never]

    def values(name):
        value = st.sampled_from(good[name]) | anything if name in good else anything
        return st.lists(value, max_size=2).map(lambda found: [name, *found])

    usual = st.sampled_from([n for n in names if n in good])
    usual = usual.flatmap(lambda name: st.sampled_from(good[name]).map(lambda text: [name, text]))
    parts = st.lists(usual | usual | st.sampled_from(names).flatmap(values), max_size=4)
    return parts.map(lambda parts: list(itertools.chain(*parts)))


@st.composite
def bytes_like(draw, whole, kinds=("whole", "cut", "changed", "changed", "other")):
    """A file as it was, cut off, with bytes changed, or of something else."""
    how = draw(st.sampled_from(kinds))
    if how == "cut":
        return whole[: draw(st.integers(0, len(whole)))]
    if how == "changed":
        content = bytearray(whole)
        chance = random.Random(draw(st.integers(0, 10**6)))
        for _ in range(draw(st.integers(1, 8))):
            content[chance.randrange(len(content))] = chance.randrange(256)
        return bytes(content)
    other = [b"[" * 10**5, b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.", b"\xff\xfe", b"null"]
    return whole if how == "whole" else draw(st.sampled_from(other) | st.binary(max_size=60))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A machine with good things, which every case has a copy of."""
    root = tmp_path_factory.mktemp("original").resolve()
    with sandbox.machine(root) as work:
        sandbox.furnish(work)
    return root


def check(original, program, words, files=(), may_write=()):
    """Run a program on a copy of `original` with some `files` replaced; `may_write` are where it may."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve() / "machine"
        unused = {"images", "clone", "runs"} - set(NEEDED.get(program, ["images", "runs"]))
        shutil.copytree(original, root, ignore=lambda folder, _: unused if folder.endswith("work") else ())
        with sandbox.machine(root) as work:
            for name, content in files:
                (work / name).parent.mkdir(exist_ok=True)
                (work / name).write_bytes(content)
            before = sandbox.snapshot(root)
            code, _, err = sandbox.call(program, words)
            allowed = [Path(path).expanduser() for path in may_write]
            changed = sandbox.differences(before, sandbox.snapshot(root), allowed)
    assert code in EXIT_CODES, (code, err)
    assert code != 2 or err.count("\n") == 1, err
    assert changed == []


def values_of(words, *names):
    """What stands behind some flags, wherever they stand."""
    split = [word.partition("=") for word in words if "=" in word]
    pairs = [*itertools.pairwise(words), *((a, b) for a, _, b in split)]
    return [b for a, b in pairs if a in names and b]


TRAIN = {
    "--dataset": ["digits", "folder:images", "folder:runs", "folder:notes.txt", "cifar10", "wine"],
    "--net": ["vit_tiny", "VIT-tiny", "resnet19", "timm:none"], "--loss": ["root", "rlo", "ce", "focal"],
    "--k": ["1", "8", "1e300"], "--m": ["1", "1e-300", "1e300"], "--alpha": ["1"], "--gamma": ["0", "1e300"],
    "--bs": ["1", "64", "1000000000"], "--accumulate": ["1", "3"], "--lr": ["1e-3", "1e300"], "--patch": ["1", "4", "8"],
    "--opt": ["adamw", "sgd", "lion"], "--opt-args": ["nesterov=True", "x=1"], "--epochs": ["1", "1000000000"],
    "--warmup": ["1", "1e6"], "--clip-grad": ["1", "1e-300"], "--label-noise": ["0.4"], "--label-smoothing": ["1"],
    "--cache": ["ram", "device"], "--seed": ["7"], "--mixup": ["1"], "--ema": ["0.5"], "--val-split": ["0.2"],
    "--out": ["runs", "new", "notes.txt"], "--data-dir": ["new", "notes.txt"], "--run-name": ["a", "run0"],
    "--checkpoint": ["runs/run0/best.pt", "table.csv"], "--resume": ["auto", "runs/run0", "images"],
    "--save-every": ["1", "1s"], "--device": ["cpu", "auto"], "--weight-decay": ["1", "1e300"],
}  # fmt: skip
# What takes minutes or any amount of memory where it is meant as it stands; --max-steps stays at 1.
TOO_MUCH = ("--max-steps", "--size", "--dimhead", "--compile", "--list-nets", "--workers", "--threads")


@settings(FINE, max_examples=20)
@given(extra=flags_of(train_parser(), TRAIN, TOO_MUCH), data=st.data())
def test_train_with_any_flags(original, extra, data):
    files = []
    for name in ("images/train/ant/0.png", "runs/run0/best.pt"):
        if any(Path(name).parts[0] in word for word in extra):
            files.append((name, data.draw(bytes_like((original / "home/work" / name).read_bytes()))))
    may_write = [*values_of(extra, "--out", "--data-dir", "--resume", "-r"), "runs", "datasets"]
    check(original, "train", [*sandbox.TINY, *extra], files, may_write)


@settings(FINE, max_examples=20)
@given(data=st.data())
def test_resume_of_any_run_directory(original, data):
    run = original / "home/work/runs/run0"
    # A value of another type in config.json is nobody's mistake: the file is ours, and written whole.
    kinds = {name: ["whole", "cut", "changed", "other"] for name in ("last.pt", "best.pt", "metrics.csv")}
    kinds["config.json"] = ["cut", "other"]
    files = [
        (f"runs/run0/{name}", data.draw(bytes_like((run / name).read_bytes(), kinds[name])))
        for name in data.draw(st.lists(st.sampled_from(sorted(kinds)), max_size=2, unique=True))
    ]
    how = data.draw(st.sampled_from([["--max-steps", "2"], ["--max-steps", "1"], ["--eval-only"]]))
    check(original, "train", ["--resume", "runs/run0", *how], files, ["runs/run0"])


REGRESSION = {
    "--dataset": ["table.csv", "table.csv", "table.svm", "wine", "openml:x"], "--target": ["sick", "a", "-1", "9"],
    "--test-file": ["table.csv", "notes.txt", "none.csv"], "--test-size": ["0.5", "0.01", "0.99"],
    "--n": ["2", "9", "99999999999"], "--d": ["1", "2", "99999999999"], "--margin": ["1", "100", "1e300"],
    "--condition": ["1", "1e300"], "--k": ["1", "1e300"], "--l2": ["0", "1", "1e300"], "--lr": ["1", "1e300", "1e-300"],
    "--tol": ["1", "1e300"], "--seed": ["7"], "--optimizer": ["gd", "newton", "lbfgs"], "--out": ["new", "runs", "notes.txt"],
    "--data-dir": ["new"], "--header": ["yes", "no"], "--sep": ["tab", ",", " "], "--decimal": [".", ","], "--drop": ["a", "0"],
}  # fmt: skip
SHORT = ["--k", "3", "--l2", "0.1", "--optimizer", "gd", "--n", "20", "--max-iter", "5"]
cell = st.sampled_from(
    ["1", "0", "2.5", "-3", "1e308", "1e400", "nan", "", "?", "yes", '"', "ä", "1:2", "99999999:1"]
)
rows = st.lists(st.lists(cell, min_size=1, max_size=4), max_size=6)
table = st.tuples(rows, st.sampled_from(",; \t")).map(
    lambda t: "\n".join(t[1].join(row) for row in t[0]).encode()
)


@settings(FINE, max_examples=20)
@given(extra=flags_of(regression_parser(), REGRESSION, ["--max-iter"]), data=st.data())
def test_regression_with_any_flags_and_tables(original, extra, data):
    content = data.draw(bytes_like((original / "home/work/table.csv").read_bytes()) | table)
    files = [(name, content) for name in ("table.csv", "table.svm")]
    may_write = [*values_of(extra, "--out", "--data-dir"), "runs", "datasets"]
    check(original, "regression", [*SHORT, *extra], files, may_write)


COMPARE = {
    "--out": ["new", "runs", "notes.txt"], "--target": ["50", "0", "100"],
    "--baseline": ["loss=root", "seed=0", "lr=7", "opt=sgd,lr=1", "dataset=digits", "k=nan"],
}  # fmt: skip


@settings(FINE, max_examples=20)
@given(
    extra=flags_of(compare_parser(), COMPARE),
    names=st.lists(st.just("runs") | anything, max_size=2),
    data=st.data(),
)
def test_compare_of_any_runs(original, extra, names, data):
    names = [name for name in names if not name.startswith("/")] or [
        "runs"
    ]  # or it would look on all of the disk
    files = []
    for name in ("runs/run0/config.json", "runs/run1/metrics.csv"):
        whole = (original / "home/work" / name).read_bytes()
        if name.endswith("json") and data.draw(st.booleans()):
            config = json.loads(whole)
            whole = json.dumps(
                config | {"run_name": data.draw(st.sampled_from(["x", "$_$", "\ud800"]))}
            ).encode()
        files.append((name, data.draw(bytes_like(whole, ["whole", "cut", "other"]))))
    words = [*names, "--out", "new", *extra]
    check(original, "compare", words, files, values_of(words, "--out"))


SWEEP = {
    name: TRAIN[name]
    for name in ("--dataset", "--net", "--loss", "--k", "--m", "--label-noise", "--opt", "--lr")
}
SWEEP |= {"--jobs": ["2"], "--out": ["runs", "new"], "--lines": ["new", "notes.txt/x"]}


@settings(FINE, max_examples=20)
@given(
    extra=flags_of(sweep_parser(), SWEEP),
    rest=st.just([]) | flags_of(train_parser(), TRAIN, ["--list-nets"]),
)
def test_sweep_of_anything(original, extra, rest):
    words = ["--dry-run", *extra, "--", *rest]
    check(original, "sweep", words, may_write=values_of(extra, "--lines", "--out"))
