"""compare.py on made-up runs: its statistics against SciPy's, and runs that are not whole."""

import json
import math
import os

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import common
import compare
from comparison import plots
from comparison.statistics import difference, holm

FLAGS = {
    "dataset": "digits", "net": "vit", "loss": "root", "k": 3.0, "m": 3.0, "alpha": 0.25, "gamma": 2.0,
    "label_noise": 0.0, "epochs": 4, "seed": 0, "out": "runs", "workers": 8, "lr": 0.001,
}  # fmt: skip


def make(folder, name, accuracies, *, ece=None, more=None, **flags):
    """A run directory with these test accuracies, an epoch of 2 s each, and `more` columns of one value."""
    path = folder / name
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(FLAGS | flags))
    more = (more or {}) | ({"test_ece": ece} if ece is not None else {})
    columns = "epoch,step,train_loss,train_acc,test_loss,test_acc,lr,epoch_seconds,images_per_second"
    lines = [",".join([columns, *more])]
    for epoch, accuracy in enumerate(accuracies, 1):
        row = (epoch, epoch * 10, 1, 50, 1, accuracy, 0.1, 2.0, 100, *more.values())
        lines.append(",".join(map(str, row)))
    (path / "metrics.csv").write_text("\n".join(lines) + "\n")
    return path


def table(capsys, *args, code=0):
    """What compare.py printed, as a dict of columns by group, its marks left out; and its standard error."""
    try:
        compare.main([str(a) for a in args])
        left = 0
    except SystemExit as leaving:
        left = leaving.code
    out, err = capsys.readouterr()
    assert left == code, err
    rows, heads = {}, []
    for line in out.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| group"):
            heads = [cell.partition(" (±")[0] for cell in cells]
        elif line.startswith("| ") and not line.startswith("|:"):
            rows.setdefault(cells[0].rstrip(" †‡"), {}).update(zip(heads, cells, strict=True))
    return rows, err


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Pictures are most of the time of a comparison; a few tests look at them."""
    monkeypatch.setattr(plots, "draw", lambda path, make, **options: None)


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
    assert ce["test accuracy, %"] == f"81.00 ± {np.std([80, 82, 81], ddof=1):.2f}"
    assert ce["best epoch, %"].startswith("86.00")
    assert root["seeds"] == "0 1 2 3" and root["epochs"] == "4"
    assert root["mean over epochs, %"].startswith(f"{np.mean([71, 71.25, 72, 70]):.2f}")
    assert (ce["epochs to 60 %"], ce["seconds to 60 %"]) == ("2.0 ± 0.0", "4.0 ± 0.0")
    assert (
        root["epochs to 85 %"] == "≥ 4.0 (2 of 4 never)" and root["epochs to 99 %"] == "≥ 4.0 (4 of 4 never)"
    )
    interval = stats.ttest_rel([84, 85, 88], [80, 82, 81]).confidence_interval(0.95)
    low, high = interval
    assert root["test accuracy − baseline"] == f"+4.67 ± {(high - low) / 2:.2f} (tie) (n = 3, without seed 3)"
    assert low < 0
    assert (
        root["ECE − baseline"]
        == f"-8.00 ± {stats.t.ppf(0.975, 2) / np.sqrt(3):.2f} ** (n = 3, without seed 3)"
    )
    assert ce["test accuracy − baseline"] == ""


def test_pandas_reads_the_table_as_numbers_and_md_and_tex_hold_the_same(runs, pictures, tmp_path, capsys):
    out = tmp_path / "a_b"
    table(capsys, runs, "--out", out, "--target", 60, 85)
    frame = pd.read_csv(out / "table.csv").set_index(["group", "figure"])
    ce, root = frame.loc[("ce", "test_acc")], frame.loc[("root k=3 m=3", "test_acc")]
    assert (ce["mean"], ce.n, root.k, root.baseline) == (81, 3, 3, "ce")
    low, high = stats.t.interval(0.95, 2, 81, np.std([80, 82, 81], ddof=1) / np.sqrt(3))
    assert (ce.low, ce.high) == pytest.approx((low, high), rel=1e-5)
    paired = stats.ttest_rel([84, 85, 88], [80, 82, 81])
    found = (root.difference, root.difference_low, root.difference_high, root.p)
    assert found == pytest.approx((14 / 3, *paired.confidence_interval(0.95), paired.pvalue), rel=1e-5)
    assert (root.test, root.verdict) == ("paired", "tie")
    # Where a seed never got there, there is a lower bound and no mean.
    late, early = frame.loc[("root k=3 m=3", "epochs to 85 %")], frame.loc[("root k=3 m=3", "epochs to 60 %")]
    assert (late.never, late.at_least, early["mean"]) == (2, 4, 2) and math.isnan(late["mean"])
    page = (out / "table.md").read_text()
    listed = {line[2:].split()[0] for line in page.partition("## Files")[2].splitlines() if line[:2] == "- "}
    assert "± is the standard deviation over seeds" in page
    assert listed == {p.name for p in out.iterdir()} == {
        "table.md", "table.csv", "table.tex", "accuracy.png", "learning-curves.png", "differences.png", "times.png",
    }  # fmt: skip
    tex = [line for line in (out / "table.tex").read_text().splitlines() if not line.startswith("%")]
    assert tex[1] == "\\toprule" and tex[-2:] == ["\\bottomrule", "\\end{tabular}"]
    assert any(line.startswith("ce & 3 & 81.00 ± 1.00 & ") and line.endswith(r"\\") for line in tex)


def test_columns_are_those_that_all_runs_of_a_group_have(tmp_path, capsys):
    scores = {"test_nll": 0.5, "test_nll_corrected": 0.25, "test_ece_corrected": 2, "test_rare_acc": 40}
    for seed in range(3):
        make(tmp_path, f"ce{seed}", [50], loss="ce", seed=seed, ece=7, more=scores)
        make(tmp_path, f"root{seed}", [50], seed=seed, ece=7, more=scores if seed else {})
    rows, _ = table(capsys, tmp_path, "--out", tmp_path / "out")
    names = ("NLL", "NLL corrected", "ECE, %", "ECE corrected, %", "rare classes, %")
    assert [rows["ce"][n][:5] for n in names] == ["0.500", "0.250", "7.00 ", "2.00 ", "40.00"]
    assert [rows["root k=3 m=3"][n] for n in names] == ["", "", "7.00 ± 0.00", "", ""]


def test_where_a_validation_set_chose_the_test_accuracy_is_the_reports(tmp_path, capsys):
    report = {"accuracy": 71.5, "nll": 1.0, "nll_corrected": 0.9, "ece": 4.0, "ece_corrected": 3.0}
    for seed, last in enumerate((80, 82, 81, 83)):
        path = make(tmp_path, f"run{seed}", ["nan"] * 4, seed=seed, val_split=0.2, more={"val_acc": last})
        if seed < 3:  # the last one is killed before the test
            (path / "report.json").write_text(json.dumps(report))
    rows, _ = table(capsys, tmp_path, "--out", tmp_path / "out", "--target", 80)
    row = rows["root k=3 m=3"]
    assert (
        row["group"].endswith("‡")
        and row["test accuracy, %"] == "71.50 ± 0.00"
        and row["NLL"] == "1.000 ± 0.000"
    )
    assert row["best epoch, %"].startswith("81.50") and row["epochs to 80 %"] == "1.0 ± 0.0"
    assert pd.read_csv(tmp_path / "out" / "table.csv").set_index("figure").n["test_acc"] == 3
    (path / "report.json").write_text(json.dumps(report | {"accuracy": "x"}))
    assert "report.json is damaged" in table(capsys, tmp_path, "--out", tmp_path / "out")[1]


def test_spellings_of_a_folder_are_one_data_set_called_by_its_name(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spellings = ["folder:imgs", "folder:imgs/", "folder:./imgs", f"folder:{tmp_path}/imgs"]
    for seed, dataset in enumerate(spellings):
        make(tmp_path / "runs", f"r{seed}", [50], dataset=dataset, seed=seed)
    make(tmp_path / "runs", "other", [50])
    make(tmp_path / "runs", "same name", [50], dataset="folder:b/imgs")
    rows, _ = table(capsys, "runs", "--out", "out")
    ours, theirs = f"folder:{tmp_path}/imgs", f"folder:{tmp_path}/b/imgs"
    assert set(rows) == {f"root k=3 m=3, {name}" for name in ("digits", ours, theirs)}
    assert rows[f"root k=3 m=3, {ours}"]["seeds"] == "0 1 2 3"
    rows, _ = table(capsys, *(f"runs/r{seed}" for seed in range(4)), "runs/other", "--out", "out")
    assert "root k=3 m=3, imgs" in rows


def test_runs_on_other_files_under_one_name_are_not_compared(tmp_path, capsys):
    for data in ("aaaaaaaaaa", "bbbbbbbbbb"):
        for seed in range(3):
            loss = {"a": "ce", "b": "root"}[data[0]]
            make(
                tmp_path / "runs",
                f"{loss}{seed}",
                [80, 90 + seed],
                loss=loss,
                seed=seed,
                data={"fingerprint": data},
            )
    rows, err = table(capsys, tmp_path / "runs", "--out", tmp_path / "out")
    assert list(rows) == ["ce, data aaaaaaaa", "root k=3 m=3, data bbbbbbbb"]
    assert "the data of digits are not the same in all runs" in err and "no group has a baseline" in err
    make(tmp_path / "runs", "root-on-a", [80, 95], seed=0, data={"fingerprint": "aaaaaaaaaa"})
    rows, _ = table(capsys, tmp_path / "runs", "--out", tmp_path / "out")
    assert rows["root k=3 m=3, data aaaaaaaa"]["test accuracy − baseline"].startswith("+4.00")
    assert not rows["root k=3 m=3, data bbbbbbbb"]["test accuracy − baseline"]


def test_default_targets_are_shares_of_the_best_group_of_the_same_condition(runs, tmp_path, capsys):
    make(runs, "other", [10, 20], dataset="cifar10")
    rows, _ = table(capsys, runs, "--out", tmp_path / "out")
    assert rows["root k=3 m=3, digits"]["epochs to 90% of best"] == "3.0 ± 0.0"  # 90 % of 84.25 is 75.8
    assert rows["root k=3 m=3, cifar10"]["epochs to 90% of best"] == "2.0"


def test_a_run_from_before_a_flag_existed_has_its_default(tmp_path, capsys):
    for seed in (0, 1):
        make(tmp_path, f"old{seed}", [50 + seed], loss="ce", seed=seed)
        make(tmp_path, f"new{seed}", [52 + seed], seed=seed, accumulate=1, sync_bn=False, size=0)
    rows, _ = table(capsys, tmp_path, "--out", tmp_path / "out")
    assert rows["root k=3 m=3"]["test accuracy − baseline"] == ("+2.00 (no interval: 2 seeds are too few)")


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
    assert [name for name, row in rows.items() if row["test accuracy − baseline"]] == [
        "ce",
        "root k=3 m=3",
    ]


def test_a_picture_of_an_earlier_comparison_does_not_stay(runs, pictures, tmp_path, capsys):
    table(capsys, runs, "--out", tmp_path / "out")
    (tmp_path / "out" / "mine.png").write_text("")
    table(capsys, runs / "ce0", "--out", tmp_path / "out", "--format", "svg")
    found = {path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".svg"}
    assert found == {"table.md", "table.csv", "table.tex", "mine.png"}
    assert not (tmp_path / "out" / "differences.svg").exists()


@pytest.mark.parametrize("name", ["table.md", "table.csv"])
def test_a_table_of_somebody_else_is_not_written_over(runs, tmp_path, capsys, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("# My runs\n")
    _, err = table(capsys, runs, "--out", tmp_path / "mine", code=2)
    assert (
        err
        == f"compare.py: error: {tmp_path}/mine/{name} exists, and is no table of compare.py; give another --out\n"
    )
    assert [file.name for file in (tmp_path / "mine").iterdir()] == [name]
    (tmp_path / "mine" / name).write_text("")
    for _ in range(2):  # of its own it is
        table(capsys, runs, "--out", tmp_path / "mine")


def test_unfinished_runs_and_doubled_seeds(tmp_path, capsys):
    make(tmp_path, "a", [10, 20, 30])
    make(tmp_path, "short", [10], seed=1)
    make(tmp_path, "again", [10, 20], seed=0)
    for name, when in (("new", 2000), ("old", 1000)):  # of two as long, the one written last
        os.utime(make(tmp_path, name, [when / 100], seed=2, net="resnet18") / "metrics.csv", (when, when))
    make(tmp_path / "limited", "run", [10], max_steps=10)
    rows, err = table(capsys, tmp_path, "--out", tmp_path / "out")
    vit, resnet = rows["root k=3 m=3, vit, max steps 0"], rows["root k=3 m=3, resnet18, max steps 0"]
    assert (vit["epochs"], vit["seeds"], resnet["test accuracy, %"]) == ("1–3 of 4", "0 1", "20.00")
    limited = rows["root k=3 m=3, vit, max steps 10"]
    assert limited["epochs"] == "1" and vit["group"].endswith(" †") and "†" not in limited["group"]
    assert "again is left out" in err and "old is left out" in err


def test_spellings_of_a_net_are_one_net(tmp_path, capsys):
    for seed in range(3):
        make(tmp_path / "runs", f"ce{seed}", [50, 60 + seed], loss="ce", net="ViT", seed=seed)
        make(tmp_path / "runs", f"root{seed}", [50, 64 + seed], net="vit", seed=seed)
        make(tmp_path / "runs", f"tiny{seed}", [50, 61 + seed], net="vit-tiny", seed=seed)
    rows, _ = table(capsys, tmp_path / "runs", "--out", tmp_path / "out")
    assert rows["root k=3 m=3, vit"]["test accuracy − baseline"].startswith("+4.00")
    rows, _ = table(capsys, tmp_path / "runs", "--out", tmp_path / "out", "--baseline", "net=VIT_Tiny")
    assert rows["root k=3 m=3, vit"]["test accuracy − baseline"].startswith("+3.00")


def test_differences_are_scipys_paired_from_three_common_seeds_on():
    g = np.random.default_rng(0)
    a, b = dict(enumerate(g.normal(3, 2, 5))), dict(enumerate(g.normal(0, 1, 4)))
    for shift in (0, 2, 3, 9):  # seeds in common: 4, 3, 2, none
        theirs = {seed + shift: value for seed, value in b.items()}
        both = sorted(a.keys() & theirs.keys())
        test = stats.ttest_ind(list(a.values()), list(theirs.values()), equal_var=False)
        if len(both) >= 3:
            test = stats.ttest_rel([a[seed] for seed in both], [theirs[seed] for seed in both])
        d = difference(a, theirs)
        found = (d["difference_low"], d["difference_high"], d["p"])
        assert found == pytest.approx((*test.confidence_interval(), test.pvalue))
        assert d["test"] == ("paired" if len(both) >= 3 else "Welch")


def test_an_interval_is_shown_no_narrower_than_one_test_image_and_p_stays():
    """Three seeds that differ by the same one of 360 images: a tie, though their deviation is zero."""
    step = 100 / 360
    b = dict.fromkeys(range(3), 97.0)

    def images(*n):
        return {seed: float(f"{97.0 + i * step:.6g}") for seed, i in enumerate(n)}  # as metrics.csv rounds

    def ends(a, *resolution):
        d = difference(a, b, *resolution)
        return d["difference_low"], d["difference_high"]

    assert ends(images(-1, -1, -1), step) == pytest.approx((-2 * step, 0), abs=1e-4)
    assert ends(images(-1, -1, -1), step)[1] >= 0
    assert ends(images(2, 2, 2), step) == pytest.approx((step, 3 * step), abs=1e-4)
    assert ends(b, step) == (-step, step) and difference(b, b, step)["p"] == 1
    spread = images(1, 1, 2)
    narrow, wide = difference(spread, b, 5 * step), difference(spread, b)
    assert narrow["p"] == wide["p"] == stats.ttest_rel(list(spread.values()), list(b.values())).pvalue


def test_holms_correction_is_the_textbooks():
    """p = 0.01, 0.013, 0.04, 0.03 of four: 0.0125, 0.0167, 0.025 and 0.05 are the levels in order."""
    assert holm([0.01, 0.013, 0.04, 0.03, math.nan]) == [True, True, False, False, False]


def test_broken_runs_are_named_and_skipped(runs, tmp_path, capsys):
    (make(runs, "torn", [1]) / "metrics.csv").write_text("epoch,step,test_acc\n1,10,5")
    (make(runs, "json", [1]) / "config.json").write_text("{")
    (make(runs, "empty", []) / "metrics.csv").write_text("epoch\n")
    (make(runs, "gone", [1]) / "metrics.csv").unlink()
    make(runs, "nan", ["nan"])
    half = make(runs, "half", [97.2222]) / "metrics.csv"
    half.write_text(half.read_text()[:-1])
    path = make(runs, "doubled", [50, 60]) / "metrics.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")
    make(runs, "accuracy", [500])
    make(runs, "type", [1], k="3")
    make(runs, "list", [1], loss=["root"])
    rows, err = table(capsys, runs, "--out", tmp_path / "out")
    assert list(rows) == ["ce", "root k=3 m=3"]
    names = ("torn", "json", "empty", "gone", "nan", "half", "doubled", "accuracy", "type", "list")
    assert [name for name in names if f"/{name}" not in err] == [] and err.count("\n") == 1 + len(names)


def test_a_label_says_every_flag_in_which_groups_differ(tmp_path, capsys):
    make(tmp_path, "a", [1], loss="focal", gamma=1.0)
    make(tmp_path, "b", [1], loss="focal", noaug=True)
    make(tmp_path, "c", [1], k_end=8.0)
    rows, _ = table(capsys, tmp_path, "--out", tmp_path / "out")
    assert set(rows) == {
        "focal gamma=1, noaug False",
        "focal gamma=2, noaug True",
        "root k=3 m=3 k-end=8, noaug False",
    }


def test_runs_behind_links_are_compared_once_each(runs, tmp_path, capsys):
    """As TensorBoard's manual gathers runs: pytorch/kineto 331."""
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in runs.iterdir():
        (linked / path.name).symlink_to(path)
    (linked / "again").symlink_to(linked)
    rows, err = table(capsys, linked, runs, "--out", tmp_path / "out")
    assert rows["root k=3 m=3"]["seeds"] == "0 1 2 3" and "left out" not in err


@pytest.fixture
def pictures(monkeypatch):
    """The figures that are drawn, by the name of their file."""
    figures = {}

    def keep(path, make, **options):
        common.draw(path, lambda: figures.setdefault(path.stem, make()), **options)

    monkeypatch.setattr(plots, "draw", keep)
    return figures


def test_pictures_show_what_the_table_says(pictures, tmp_path, capsys):
    for seed in range(3):
        make(tmp_path / "runs", f"ce{seed}", [50, 60, 70, 75 + seed], loss="ce", net="a_$b", seed=seed)
        make(tmp_path / "runs", f"r{seed}", [50, 60, 70, 78][: 4 - (seed > 1)], net="a_$b", seed=seed)
    make(tmp_path / "runs", "noisy", [20, 30, 40, 50], net="a_$b", label_noise=0.4)
    table(capsys, tmp_path / "runs", "--out", tmp_path / "out")
    assert set(pictures) == {"accuracy", "learning-curves", "differences", "times"}
    clean, noisy = pictures["learning-curves"].axes
    assert (clean.get_title(), noisy.get_title()) == ("label noise 0", "label noise 0.4")
    assert (clean.get_xlabel(), clean.get_ylabel()) == ("epoch", "test accuracy (%)")
    ce, root = clean.lines
    assert ce.get_label() == "ce" and list(ce.get_ydata()) == [50, 60, 70, 76]
    assert root.get_label() == "root k=3 m=3 †"
    low, high = stats.t.interval(0.95, 2, 76, 1 / np.sqrt(3))
    band = clean.collections[0].get_paths()[0].vertices
    ends = band[band[:, 0] == 4][:, 1]
    assert (min(ends), max(ends)) == pytest.approx((low, high))
    names = [t.get_text() for t in pictures["accuracy"].axes[0].get_yticklabels()]
    assert names == ["ce, label noise 0", "root k=3 m=3, label noise 0 †", "root k=3 m=3, label noise 0.4"]


@pytest.mark.parametrize("suffix, start", [("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_pictures_for_print_and_one_that_fails_is_a_note(
    suffix, start, runs, pictures, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(plots, "draw_curves", lambda *args: 1 / 0)
    compare.main([str(runs), "--out", str(tmp_path / "out"), "--format", suffix])
    assert f"learning-curves.{suffix} was not drawn" in capsys.readouterr().out
    assert (tmp_path / "out" / f"differences.{suffix}").read_bytes().startswith(start)
    assert "learning-curves" not in (tmp_path / "out" / "table.md").read_text()
