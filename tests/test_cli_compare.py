"""compare.py on made-up runs: its statistics against SciPy's, and runs that are not whole."""

import csv
import json
import math
import os
import sys

import numpy as np
import pytest
from scipy import stats

import compare
from comparison import plots
from comparison.runs import Group
from comparison.statistics import Difference, difference, first_at, holm, mean_and_std

FLAGS = {
    "dataset": "digits", "net": "vit", "loss": "root", "k": 3.0, "m": 3.0, "alpha": 0.25, "gamma": 2.0,
    "label_noise": 0.0, "epochs": 4, "seed": 0, "out": "runs", "workers": 8, "lr": 0.001,
}  # fmt: skip


def make(folder, name, accuracies, *, ece=None, **flags):
    """A run directory with these test accuracies, an epoch of 2 s each."""
    path = folder / name
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(FLAGS | flags))
    columns = "epoch,step,train_loss,train_acc,test_loss,test_acc,lr,epoch_seconds,images_per_second"
    lines = [columns + (",test_ece" if ece is not None else "")]
    for epoch, accuracy in enumerate(accuracies, 1):
        lines.append(
            f"{epoch},{epoch * 10},1,50,1,{accuracy},0.1,2.0,100" + (f",{ece}" if ece is not None else "")
        )
    (path / "metrics.csv").write_text("\n".join(lines) + "\n")
    return path


def table(capsys, *args, code=0):
    """What compare.py printed, as a dict of columns by group; its standard error."""
    try:
        compare.main([str(a) for a in args])
        left = 0
    except SystemExit as leaving:
        left = leaving.code
    out, err = capsys.readouterr()
    assert left == code, err
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines()]
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}, err


@pytest.fixture
def runs(tmp_path):
    """Cross entropy and root with seeds 0, 1, 2; root has one more, and flags that do not matter."""
    folder = tmp_path / "runs"
    for seed, (a, b) in enumerate([(80.0, 84.0), (82.0, 85.0), (81.0, 88.0)]):
        make(folder, f"ce{seed}", [40, 60, a + 5, a], loss="ce", k=7.0 + seed, seed=seed, ece=10 + seed)
        make(folder, f"root{seed}", [50, 70, 80, b], seed=seed, workers=seed, out=f"o{seed}", ece=3)
    make(folder, "root3", [50, 70, 80, 80], seed=3, ece=3)
    return folder


def test_the_table_says_what_scipy_says(runs, tmp_path, capsys):
    rows, err = table(capsys, runs, "--out", tmp_path / "out", "--target", 60, 85, 99)
    assert list(rows) == ["ce", "root k=3 m=3"] and err.count("\n") == 1 and str(tmp_path / "out") in err
    ce, root = rows["ce"], rows["root k=3 m=3"]
    assert ce["last accuracy"] == f"81.00 ± {np.std([80, 82, 81], ddof=1):.2f}"
    assert ce["best accuracy"].startswith("86.00")
    assert root["seeds"] == "0 1 2 3" and root["epochs"] == "4"
    assert root["mean over epochs"].startswith(f"{np.mean([71, 71.25, 72, 70]):.2f}")
    assert (ce["epochs to 60 %"], ce["s to 60 %"]) == ("2.0", "4.0")
    assert root["epochs to 85 %"] == "4.0 (2/4)" and root["epochs to 99 %"] == "–"
    interval = stats.ttest_rel([84, 85, 88], [80, 82, 81]).confidence_interval(0.95)
    low, high = interval
    assert (
        root["last − baseline, 95 % interval"]
        == f"+4.67 ± {(high - low) / 2:.2f} (tie) (n = 3, without seed 3)"
    )
    assert low < 0
    assert (
        root["calibration error − baseline"]
        == f"-8.00 ± {stats.t.ppf(0.975, 2) / np.sqrt(3):.2f} ** (n = 3, without seed 3)"
    )
    assert ce["last − baseline, 95 % interval"] == ""


def test_files_hold_the_table_and_the_pictures(runs, tmp_path, capsys):
    rows, _ = table(capsys, runs, "--out", tmp_path / "out")
    with open(tmp_path / "out" / "table.csv") as file:
        assert {row["group"]: row for row in csv.DictReader(file)} == rows
    assert (tmp_path / "out" / "table.md").read_text().count("\n") == 6
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "table.md", "table.csv", "accuracy-epochs.png", "accuracy-seconds.png",
    }  # fmt: skip
    for noise in (0.2, 0.4):
        make(runs, f"n{noise}", [50, 60], label_noise=noise, ece=1)
        make(runs, f"k{noise}", [50, 60], label_noise=noise, k=8.0, ece=1)
    table(capsys, runs, "--out", tmp_path / "out")
    pictures = {p.name for p in (tmp_path / "out").glob("*.png")}
    assert {"accuracy-k.png", "accuracy-noise.png", "calibration-noise.png"} < pictures


def test_default_targets_are_shares_of_the_best_group_of_the_same_condition(runs, tmp_path, capsys):
    make(runs, "other", [10, 20], dataset="cifar10")
    rows, _ = table(capsys, runs, "--out", tmp_path / "out")
    assert rows["root k=3 m=3, digits"]["epochs to 90% of best"] == "3.0"  # 90 % of 84.25 is 75.8
    assert rows["root k=3 m=3, cifar10"]["epochs to 90% of best"] == "2.0"


def test_broken_runs_are_named_and_skipped(runs, tmp_path, capsys):
    (make(runs, "torn", [1]) / "metrics.csv").write_text("epoch,step,test_acc\n1,10,5")
    (make(runs, "json", [1]) / "config.json").write_text("{")
    (make(runs, "empty", []) / "metrics.csv").write_text("epoch\n")
    (make(runs, "gone", [1]) / "metrics.csv").unlink()
    (make(runs, "nan", ["nan"]))
    half = make(runs, "half", [97.2222]) / "metrics.csv"
    half.write_text(half.read_text().replace(",test_ece", "")[:-3])
    path = make(runs, "doubled", [50, 60]) / "metrics.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")
    make(runs, "accuracy", [500])
    make(runs, "type", [1], k="3")
    make(runs, "list", [1], loss=["root"])
    make(runs, "range", [1], label_noise=7.0)
    rows, err = table(capsys, runs, "--out", tmp_path / "out")
    assert list(rows) == ["ce", "root k=3 m=3"]
    wrong = ("half", "doubled", "accuracy", "type", "list", "range")
    assert [name for name in wrong if f"/{name}: " not in err] == []
    assert [name for name in ("torn", "json", "empty", "gone", "nan") if f"/{name}: " not in err] == []
    assert err.count("\n") == 6 + len(wrong)


def test_a_run_from_before_a_flag_existed_has_its_default(tmp_path, capsys):
    for seed in (0, 1):
        make(tmp_path, f"old{seed}", [50 + seed], loss="ce", seed=seed)
        make(tmp_path, f"new{seed}", [52 + seed], seed=seed, accumulate=1, sync_bn=False, size=0)
    rows, _ = table(capsys, tmp_path, "--out", tmp_path / "out")
    assert rows["root k=3 m=3"]["last − baseline, 95 % interval"] == (
        "+2.00 (no interval: 2 seeds are too few)"
    )


def test_a_baseline_that_is_not_there_or_not_one_group_is_said(tmp_path, capsys):
    for k in (3.0, 8.0):
        make(tmp_path, f"k{k}", [50], k=k)
    rows, err = table(capsys, tmp_path, "--out", tmp_path / "out")
    assert len(rows) == 2 and "no group has a baseline with loss=ce" in err
    make(tmp_path, "ce", [50], loss="ce")
    for text, message in (
        ("loss=root", "k=3 m=3; root k=8"),
        ("lr=7", "no group"),
        ("los=ce", "flags of train.py"),
    ):
        _, err = table(capsys, tmp_path, "--out", tmp_path / "out", "--baseline", text, code=2)
        assert message in err and err.count("\n") == 1
    rows, _ = table(capsys, tmp_path, "--out", tmp_path / "out", "--baseline", "loss=root,k=8")
    assert [name for name, row in rows.items() if row["last − baseline, 95 % interval"]] == [
        "ce",
        "root k=3 m=3",
    ]


def test_panels_hold_what_differs_in_the_loss_alone():
    def group(label, **flags):
        return Group({"dataset": "digits", "net": "vit", "label_noise": 0.0} | flags, label=label)

    groups = [
        group("ce, digits, label noise 0", loss="ce"),
        group("root k=3 m=3, digits, label noise 0", loss="root", k=3.0),
        group("ce, digits, label noise 0.4", loss="ce", label_noise=0.4),
        group("ce, cifar10, label noise 0.4", loss="ce", label_noise=0.4, dataset="cifar10"),
    ]
    titles = {title: len(panel) for title, panel in plots._panels(groups).items()}
    assert titles == {"digits, label noise 0": 2, "digits, label noise 0.4": 1, "cifar10, label noise 0.4": 1}
    assert {title: len(panel) for title, panel in plots._panels(groups, "label_noise").items()} == {
        "digits": 3, "cifar10": 1,
    }  # fmt: skip


def test_a_label_says_every_flag_in_which_groups_differ(tmp_path, capsys):
    make(tmp_path, "a", [1], loss="focal", gamma=1.0)
    make(tmp_path, "b", [1], loss="focal", noaug=True)
    rows, _ = table(capsys, tmp_path, "--out", tmp_path / "out")
    assert set(rows) == {"focal gamma=1, noaug False", "focal gamma=2, noaug True"}


def test_a_plot_of_an_earlier_comparison_does_not_stay(tmp_path, capsys):
    for i, k in enumerate((3.0, 8.0)):
        make(tmp_path / "runs", f"k{k}", [50 + i], k=k)
    table(capsys, tmp_path / "runs", "--out", tmp_path / "out")
    assert (tmp_path / "out" / "accuracy-k.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    table(capsys, tmp_path / "runs" / "k3.0", "--out", tmp_path / "out")
    assert not (tmp_path / "out" / "accuracy-k.png").exists()


def test_nothing_to_compare_is_one_line(tmp_path, capsys):
    for path in (tmp_path / "none", tmp_path):
        _, err = table(capsys, path, "--out", tmp_path / "out", code=2)
        assert err.splitlines()[-1].startswith("compare.py: error: no run to compare")
    make(tmp_path, "a", [1])
    _, err = table(capsys, tmp_path, "--out", tmp_path / "out", "--baseline", "ce", code=2)
    assert "--baseline must be flags of train.py" in err
    (tmp_path / "file").write_text("")
    _, err = table(capsys, tmp_path, "--out", tmp_path / "file", code=2)
    assert "cannot use --out" in err and "Traceback" not in err


def test_unfinished_runs_and_doubled_seeds(tmp_path, capsys):
    make(tmp_path, "a", [10, 20, 30])
    make(tmp_path, "short", [10], seed=1)
    make(tmp_path, "again", [10, 20], seed=0)
    for name, when in (("new", 2000), ("old", 1000)):  # of two as long, the one written last
        os.utime(make(tmp_path, name, [when / 100], seed=2, net="resnet18") / "metrics.csv", (when, when))
    make(tmp_path / "limited", "run", [10], max_steps=10)
    rows, err = table(capsys, tmp_path, "--out", tmp_path / "out")
    vit, resnet = (rows[f"root k=3 m=3, max steps 0, {net}"] for net in ("vit", "resnet18"))
    assert (vit["epochs"], vit["seeds"], resnet["last accuracy"]) == ("1–3 of 4", "0 1", "20.00")
    assert rows["root k=3 m=3, max steps 10, vit"]["epochs"] == "1"
    assert "again is left out" in err and "old is left out" in err


def test_the_baseline_can_be_any_flag(tmp_path, capsys):
    for seed in (0, 1):
        make(tmp_path, f"adam{seed}", [50 + seed], opt="adam", seed=seed)
        make(tmp_path, f"sgd{seed}", [40 + 3 * seed], opt="sgd", seed=seed)
    rows, _ = table(capsys, tmp_path, "--out", tmp_path / "out", "--baseline", "opt=adam")
    assert rows["root k=3 m=3, adam"]["last − baseline, 95 % interval"] == ""
    assert rows["root k=3 m=3, sgd"]["last − baseline, 95 % interval"] == (
        "-9.00 (no interval: 2 seeds are too few)"
    )


@pytest.mark.parametrize("trial", range(5))
def test_intervals_are_scipys(trial):
    g = np.random.default_rng(trial)
    a, b = g.normal(3, 2, 4), g.normal(0, 1, 4)
    paired = difference(dict(enumerate(a)), dict(enumerate(b)))
    assert (paired.low, paired.high) == pytest.approx(tuple(stats.ttest_rel(a, b).confidence_interval()))
    welch = difference(dict(enumerate(a)), {10 + i: v for i, v in enumerate(b[:3])})
    expected = stats.ttest_ind(a, b[:3], equal_var=False).confidence_interval()
    assert (welch.low, welch.high) == pytest.approx(tuple(expected)) and not welch.paired
    assert mean_and_std(a) == pytest.approx((a.mean(), a.std(ddof=1)))


def test_no_interval_is_narrower_than_one_test_image():
    """Three seeds that differ by the same one of 360 images: that is no certainty."""
    step = 100 / 360
    a = {seed: 97.0 - step for seed in range(3)}
    b = dict.fromkeys(range(3), 97.0)
    blind, seeing = difference(a, b), difference(a, b, step)
    assert blind.high - blind.low < 1e-9
    assert (seeing.low, seeing.high) == pytest.approx((-1.5 * step, -0.5 * step))
    assert difference(dict.fromkeys(range(3), 97.0), b, step).is_tie


def test_seeds_of_one_side_are_named():
    d = difference({0: 1.0, 1: 2.0, 2: 3.5, 7: 9.0}, {0: 0.0, 1: 0.5, 2: 2.0, 4: 1.0})
    assert (d.n, d.left_out) == (3, (4, 7)) and "n = 3, without seed 4 7" in str(d)


def test_holms_marks_are_those_of_the_textbook():
    """p = 0.01, 0.013, 0.04, 0.03 of four: 0.0125, 0.0167, 0.025 and 0.05 are the levels in order."""
    ps = [0.01, 0.013, 0.04, 0.03]
    rows = [Difference(1.0, 0.5, 1.5, True, 5, p) for p in ps]
    holm([*rows, None, Difference(0.1, math.nan, math.nan, True, 1)])
    assert [d.survives for d in rows] == [True, True, False, False]
    assert str(rows[0]).endswith(" **") and str(rows[2]).endswith(" *")


def test_runs_of_a_loss_that_is_no_more_are_compared(runs, tmp_path, capsys):
    for seed in range(3):
        make(runs, f"old{seed}", [40, 60, 70, 71 + seed], loss="gone", seed=seed)
    rows, err = table(capsys, runs, "--out", tmp_path / "out")
    assert any(group.startswith("gone") for group in rows) and "skipped" not in err


def test_a_single_seed_has_no_interval():
    assert str(difference({0: 2.0}, {0: 1.0})) == "+1.00 (no interval: one seed)"
    assert first_at([1, 3, 2], 3) == 1 and first_at([1], 3) is None


def test_help_is_quick_because_nothing_heavy_is_imported():
    heavy = {"torch", "scipy", "matplotlib", "sklearn"}
    import subprocess

    code = f"import sys, compare; compare.parse_args(['a', '--out', 'b']); print({heavy} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "set()"
