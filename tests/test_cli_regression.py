"""The regression.py command: what it prints, writes and refuses, and its exit codes."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import regression
from logreg import plots

SCRIPT = str(Path(regression.__file__).resolve())
SMALL = ["--n", "60", "--k", "2", "--l2", "0.01"]


def run(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, cwd=cwd, timeout=300
    )


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing them takes most of the time."""
    for name in ("losses", "convergence", "boundaries", "condition"):
        monkeypatch.setattr(f"logreg.plots.plot_{name}", lambda *args: None)


def rows(out):
    with open(out / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_help_shows_grouped_flags_and_loads_no_heavy_library():
    code = f"""
import runpy, sys
sys.argv = ["regression.py", "--help"]
try:
    runpy.run_path({SCRIPT!r}, run_name="__main__")
except SystemExit as done:
    assert done.code == 0
assert not {{"torch", "numpy", "sklearn", "scipy", "matplotlib"}} & set(sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    for group in ("data:", "synthetic data:", "objectives:", "optimisers:", "run:"):
        assert group in result.stdout
    assert "(default: 2 3 5 10)" in result.stdout


@pytest.mark.slow
def test_one_command_writes_the_table_and_the_plots_and_nothing_outside_out(tmp_path):
    result = run(*SMALL, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    out = tmp_path / "runs" / "regression-synthetic"
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]
    assert sorted(p.name for p in out.iterdir()) == [
        "boundaries-l2-0.01.png",
        "condition.png",
        "config.json",
        "convergence-iterations-l2-0.01.png",
        "convergence-seconds-l2-0.01.png",
        "losses.png",
        "results.csv",
    ]
    table = rows(out)
    assert len(table) == 2 * 4  # logistic and one k, four optimisers
    assert {row["status"] for row in table} == {"converged"}
    assert result.stdout.splitlines()[-1] == "table and plots · runs/regression-synthetic"


def test_same_seed_gives_the_same_table_but_for_the_seconds(tmp_path, no_pictures, capsys):
    tables = []
    for name in ("a", "b"):
        assert regression.main([*SMALL, "--optimizer", "lbfgs", "--out", str(tmp_path / name)]) == 0
        tables.append([{**row, "seconds": ""} for row in rows(tmp_path / name)])
    assert tables[0] == tables[1]
    capsys.readouterr()


def test_separable_data_without_l2_are_said_to_have_no_minimum(tmp_path, no_pictures, capsys):
    arguments = ["--margin", "0.5", "--l2", "0", "--k", "3", "--optimizer", "gd", "--max-iter", "50"]
    assert regression.main([*arguments, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert ">50" in printed
    assert "not reached" in printed
    assert "separable" in printed


SEPARATION = {
    # x, z → class; the classes overlap in x.
    "none": lambda x, z, i: i % 2,
    "quasi-separable": lambda x, z, i: i % 2 or int(z),
    "separable": lambda x, z, i: int(x > 4.5),
    "three, quasi-separable": lambda x, z, i: 2 if z else i % 2,
}


@pytest.mark.parametrize("kind", SEPARATION)
def test_data_without_a_minimum_never_read_as_converged(tmp_path, capsys, kind, no_pictures):
    lines = [(i % 10, int(i % 7 == 0), i) for i in range(80)]
    table = tmp_path / "t.csv"
    table.write_text("x,z,label\n" + "".join(f"{x},{z},{SEPARATION[kind](x, z, i)}\n" for x, z, i in lines))
    words = ["--dataset", str(table), "--l2", "0", "1e-30", "0.1", "--k", "2"]
    words += ["--optimizer", "lbfgs", "newton"]
    statuses = {"0.0": set(), "1e-30": set(), "0.1": set()}
    for tol in ("1e-3", "1e-7"):
        assert regression.main([*words, "--tol", tol, "--out", str(tmp_path / "out")]) == 0
        printed = capsys.readouterr().out
        for row in rows(tmp_path / "out"):
            statuses[row["l2"]].add(row["status"])
            assert row["separation"] == ("" if row["l2"] == "0.1" else kind.split(", ")[-1])
        word = kind.split(", ")[-1]
        said = f"{word}: without l2, or with next to none, there is no minimum" in printed
        assert said == (word != "none") and ("^ not converged" in printed) == said
    end = {"no_minimum" if word != "none" else "converged"}
    assert statuses == {"0.0": end, "1e-30": end, "0.1": {"converged"}}


def test_polyak_and_normalised_reach_newtons_values(tmp_path, capsys, no_pictures):
    words = ["--n", "80", "--k", "1", "--l2", "0.1", "0.5", "--tol", "1e-5", "--fmin", "solve"]
    names = ("newton", "polyak", "normalised")
    assert regression.main([*words, "--optimizer", *names, "--out", str(tmp_path)]) == 0
    table = rows(tmp_path)
    assert {row["status"] for row in table} == {"converged"}
    for newton, *others in zip(*(table[i::3] for i in range(3)), strict=True):
        for row in others:
            assert float(row["value"]) == pytest.approx(float(newton["value"]), abs=1e-9)
    assert [bool(row["step"]) for row in table[:3]] == [False, False, True]
    capsys.readouterr()


def test_an_fmin_that_is_no_minimum_is_explained(tmp_path, capsys, no_pictures):
    words = ["--n", "80", "--k", "2", "--l2", "0", "--optimizer", "polyak", "--out", str(tmp_path)]
    for extra, said in (
        ([], "F* = 0 is below what these data reach"),
        (["--fmin", "0.01"], "--fmin 0.01 was F* of every objective"),
        (["--fmin", "0.6"], "~ of polyak: F is down to --fmin"),
    ):
        code = regression.main([*words, "--max-iter", "20", *extra])
        printed = capsys.readouterr()
        assert said in printed.out
        assert code == 0 or "F* is too low: give --fmin solve" in printed.err
    with pytest.raises(SystemExit):
        regression.main(["--optimizer", "polyak"])
    assert "give --fmin solve, --fmin VALUE or --l2 0" in capsys.readouterr().err


def test_with_l2_scaled_strong_penalties_leave_corrected_probabilities_of_all_k_alike(
    tmp_path, capsys, no_pictures
):
    # w = −∇F(0) / λ to first order: predict_proba's (1 + 1/k) w is then the same for every k.
    words = ["--n", "200", "--k", "1", "3", "--l2", "300", "--optimizer", "newton", "--out", str(tmp_path)]
    assert regression.main([*words, "--l2-scaled"]) == 0
    logistic, *rooted = rows(tmp_path)
    assert float(logistic["penalty"]) == 300
    for k, row in zip((1, 3), rooted, strict=True):
        assert float(row["penalty"]) == pytest.approx(300 * 2 ** (1 / k) * (1 + 1 / k))
        assert (1 + 1 / k) * float(row["norm"]) == pytest.approx(float(logistic["norm"]), rel=5e-3)
    capsys.readouterr()


def test_multinomial_data_with_a_step_of_its_own(tmp_path, no_pictures, capsys):
    arguments = [
        "--dataset",
        "wine",
        "--k",
        "3",
        "--l2",
        "0.01",
        "--optimizer",
        "nesterov",
        "--lr",
        "0.02",
        "0.05",
    ]
    assert regression.main([*arguments, "--tol", "1e-3", "--out", str(tmp_path)]) == 0
    assert [row["step"] for row in rows(tmp_path)] == ["0.02", "0.05"] * 2
    assert "nesterov lr=0.02" in capsys.readouterr().out


def test_divergence_exits_3_with_one_line_and_keeps_the_other_results(tmp_path, no_pictures, capsys):
    code = regression.main([*SMALL, "--optimizer", "gd", "--lr", "0.1", "1e5", "--out", str(tmp_path)])
    error = capsys.readouterr().err
    assert code == 3
    assert error.count("\n") == 1
    assert "diverged with gd lr=100000" in error
    assert "1/L =" in error
    assert {row["status"] for row in rows(tmp_path)} == {"converged", "diverged"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--k", "0"], "argument --k: must be a number > 0, got '0'"),
        (["--k", "nan"], "--k"),
        (["--l2", "-1"], "--l2"),
        (["--tol", "0"], "--tol"),
        (["--lr", "0"], "--lr"),
        (["--max-iter", "2.5"], "must be a whole number"),
        (["--n", "1"], "--n"),
        (["--test-size", "1"], "--test-size"),
        (["--margin", "-1"], "--margin"),
        (["--optimizer", "adam"], "--optimizer"),
        (["--optimizer", "polyak", "--fmin", "-1"], "--fmin: must be a number ≥ 0, got '-1'"),
        (["--dataset", "wine", "--test-file", "x.csv"], "--test-file goes with a file"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_wrong_usage_exits_2_with_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit:
        regression.main(arguments)
    error = capsys.readouterr().err
    assert exit.value.code == 2
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize(
    ("content", "extra", "message"),
    [
        (None, [], "no such file"),
        ("1,red,a\n2,blue,b\n", [], "not numeric"),
        ("1,2,a\n2,nan,b\n", [], "missing"),
        ("1,2,a\n2,3,a\n", [], "one class only"),
        ("1,2,a\n", [], "at least two"),
        ("1,2,a\n2,3,b\n", ["--target", "size"], "unknown target"),
    ],
)
def test_bad_data_exit_2_with_one_line(tmp_path, content, extra, message, capsys):
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_text(content)
    assert regression.main(["--dataset", str(path), *extra, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out").exists()


def test_an_unknown_data_set_exits_2_without_a_traceback():
    result = run("--dataset", "brest_cancer")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "did you mean breast_cancer?" in result.stderr


def test_a_test_file_and_a_target_by_name(tmp_path, no_pictures, capsys):
    lines = [f"{i % 2},{i % 7},{(i * 5) % 11 + 4 * (i % 2)}" for i in range(40)]
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text("sick,age,weight\n" + "\n".join(lines) + "\n")
    files = ["--dataset", str(tmp_path / "train.csv"), "--test-file", str(tmp_path / "test.csv")]
    code = regression.main(
        [*files, "--target", "sick", "--l2", "0.1", "--k", "3", "--out", str(tmp_path / "out")]
    )
    assert code == 0
    assert "40 training and 40 test samples, 2 features, 2 classes" in capsys.readouterr().out
    assert all(row["train_accuracy"] == row["test_accuracy"] for row in rows(tmp_path / "out"))


def test_newton_with_too_many_parameters_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(regression, "LARGEST_HESSIAN", 13)
    assert regression.main(["--d", "13", "--out", str(tmp_path)]) == 2
    assert "a Hessian of 14 × 14; leave it out of --optimizer" in capsys.readouterr().err


def test_plots_of_an_earlier_study_do_not_stay_among_new_ones(tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--n", "40", "--k", "2", "--optimizer", "newton", "--out", str(out)]
    assert regression.main([*words, "--l2", "0.5"]) == 0
    (out / "mine.png").write_text("kept")
    assert regression.main([*words, "--l2", "0.25", "--d", "3"]) == 0
    assert sorted(path.name for path in out.glob("*.png")) == [
        "condition.png", "convergence-iterations-l2-0.25.png", "convergence-seconds-l2-0.25.png",
        "losses.png", "mine.png",
    ]  # fmt: skip
    capsys.readouterr()


@pytest.mark.parametrize("name", ["metrics.csv", "last.pt", "config.json", "table.csv", "results.csv"])
def test_a_directory_of_another_program_is_refused_and_stays_as_it_was(tmp_path, name, capsys):
    (tmp_path / name).write_text("{}")
    assert regression.main([*SMALL, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and name in error and "give another directory" in error
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "{}")]


def test_flags_without_effect_are_said(tmp_path, no_pictures, capsys):
    words = ["--dataset", "wine", "--n", "9", "--k", "2", "--l2", "0.1", "--optimizer", "newton", "--lr", "1"]
    assert regression.main([*words, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "without effect: --n (for synthetic data only)" in printed
    assert "without effect: --lr (for gd, nesterov and normalised)" in printed


def test_a_reader_that_leaves_early_is_no_traceback(tmp_path):
    command = f"{sys.executable} {SCRIPT} {' '.join(SMALL)} --optimizer newton --out {tmp_path} | head -1"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=300)
    assert result.stdout.count("\n") == 1
    assert result.stderr == ""


def test_pictures_do_not_take_a_run_that_stopped_early_for_one_at_its_minimum(tmp_path, monkeypatch, capsys):
    drawn = {}
    for name in ("losses", "convergence", "boundaries", "condition"):
        monkeypatch.setattr(plots, f"plot_{name}", lambda *args, name=name: drawn.update({name: args}))
    words = ["--n", "200", "--l2", "0.01", "--k", "3", "--out", str(tmp_path)]
    assert regression.main([*words, "--optimizer", "newton"]) == 0
    assert drawn["condition"][1].keys() == {0.01} and drawn["condition"][3] == []
    lowest = [run["result"].values[-1] for run in drawn["convergence"][1]]
    drawn.clear()
    assert regression.main([*words, "--optimizer", "gd", "--max-iter", "20"]) == 0
    runs = drawn["convergence"][1]
    np.testing.assert_allclose([run["lowest"] for run in runs], lowest, atol=1e-12)
    assert all(run["is_minimum"] and run["result"].values[-1] > run["lowest"] + 1e-4 for run in runs)
    assert "not all at their minimum" in drawn["boundaries"][3] and "condition" not in drawn
    assert regression.main([*words, "--optimizer", "newton", "gd", "--lr", "1000"]) == 3
    assert [run["optimizer"] for run in drawn["convergence"][5]] == ["gd lr=1000"] * 2
    # A penalty that tol cannot see: no row is at its minimum, so there is no condition number at one.
    drawn.clear()
    assert (
        regression.main([*words[:2], "--margin", "0.5", "--l2", "1e-12", *words[4:], "--optimizer", "newton"])
        == 0
    )
    assert "condition" not in drawn


def test_another_file_of_the_same_name_does_not_replace_a_study(tmp_path, monkeypatch, no_pictures, capsys):
    monkeypatch.chdir(tmp_path)
    for i, folder in enumerate(("one", "two")):
        Path(folder).mkdir()
        Path(folder, "train.csv").write_text(
            "".join(f"{j * (i + 2) % 7},{j % 5},{'ab'[j % 2]}\n" for j in range(20))
        )
    words = ["--k", "2", "--l2", "0.1", "--optimizer", "newton", "--dataset"]
    assert regression.main([*words, "one/train.csv"]) == regression.main([*words, "./one/train.csv"]) == 0
    before = Path("runs/regression-train/results.csv").read_text()
    assert regression.main([*words, "two/train.csv"]) == 2
    assert "holds the study of ./one/train.csv; give another directory with --out" in capsys.readouterr().err
    assert Path("runs/regression-train/results.csv").read_text() == before
    assert regression.main([*words, "two/train.csv", "--out", "runs/regression-train"]) == 0
