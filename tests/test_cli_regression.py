"""The regression.py command: what it prints, writes and refuses, and its exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import call
from sklearn.datasets import load_breast_cancer

import regression

SCRIPT = str(Path(regression.__file__).resolve())
SMALL = ["--n", "60", "--k", "2", "--l2", "0.01"]


@pytest.fixture
def run(tmp_path, monkeypatch, request):
    """Exit code, stdout and stderr of regression.py in an empty directory; it draws only if asked to."""
    monkeypatch.chdir(tmp_path)
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("logreg.plots.draw", lambda path, make, **options: None)
    return lambda *words: call("regression.py", words)


def rows(out):
    return pd.read_csv(Path(out) / "results.csv", keep_default_na=False).to_dict("records")


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


@pytest.mark.parametrize("drawn", [True])
def test_one_command_writes_the_table_and_the_plots_and_nothing_outside_out(
    drawn, run, tmp_path, monkeypatch
):
    import matplotlib

    monkeypatch.setitem(
        matplotlib.rcParams, "text.usetex", True
    )  # a matplotlibrc that most machines cannot obey
    code, printed, error = run(*SMALL, "--optimizer", "gd", "newton")
    assert (code, error) == (0, "") and "was not drawn" not in printed
    out = tmp_path / "runs" / "regression-synthetic"
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]
    assert sorted(p.name for p in out.iterdir()) == [
        "condition.png", "config.json", "convergence-iterations-l2-0.01.png",
        "convergence-seconds-l2-0.01.png", "label_issues.csv", "losses.png", "results.csv",
    ]  # fmt: skip
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in out.glob("*.png"))
    assert [row["objective"] for row in rows(out)] == [
        name for name in ("logistic", "rlo k=2", "root k=2") for _ in range(2)
    ]
    assert {row["status"] for row in rows(out)} == {"converged"}
    assert [bool(row["step"]) for row in rows(out)] == [True, False] * 3
    assert printed.splitlines()[-1] == "table and plots · runs/regression-synthetic"
    # Another study in the same place takes the pictures of the first away, and nobody else's.
    (out / "mine.png").write_text("kept")
    assert run(*SMALL[:-1], "0.25", "--d", "3", "--k", "1", "--optimizer", "newton")[0] == 0
    assert sorted(p.name for p in out.glob("*.*")) == [
        "condition.png", "config.json", "convergence-iterations-l2-0.25.png", "convergence-seconds-l2-0.25.png",
        "losses.png", "mine.png", "results.csv",
    ]  # fmt: skip


def test_same_seed_gives_the_same_table_but_for_the_seconds(run):
    tables = []
    for name in ("a", "b"):
        assert run(*SMALL, "--optimizer", "lbfgs", "--out", name)[0] == 0
        tables.append([{**row, "seconds": ""} for row in rows(name)])
    assert tables[0] == tables[1]


def test_values_are_those_of_scikit_learn_and_steps_are_those_taken(run):
    from sklearn.linear_model import LogisticRegression

    words = [
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
    code, printed, _ = run(*words, "--tol", "1e-5", "--out", "o")
    assert code == 0 and "nesterov lr=0.02" in printed
    assert [row["step"] for row in rows("o")] == [0.02, 0.05] * 3
    data = regression.load(regression.parse_args(words)[0])
    theirs = LogisticRegression(C=1 / (0.01 * len(data.y_train)), tol=1e-8).fit(data.X_train, data.y_train)
    assert rows("o")[0]["norm"] == pytest.approx(np.linalg.norm(theirs.coef_), rel=1e-3)
    assert rows("o")[0]["test_accuracy"] == theirs.score(data.X_test, data.y_test)


def test_label_issues_find_labels_that_were_changed(run):
    X, y = load_breast_cancer(return_X_y=True)
    changed = np.random.default_rng(0).choice(len(y), 40, replace=False)
    labels = y.copy()
    labels[changed] = 1 - labels[changed]
    table = pd.DataFrame(X[:, :10]).assign(kind=np.where(labels == 1, "benign", "malign"))
    table.columns = [f"f{j}" for j in range(10)] + ["kind"]
    table.to_csv("t.csv", index=False)
    code, printed, _ = run(
        "--dataset", "t.csv", "--k", "1", "2", "3", "--l2", "0.1", "0.01", "--optimizer", "lbfgs"
    )
    assert code == 0 and "root is left out for k = 1: it needs k > 1" in printed
    assert "most doubtful first, by root k=2 l2=0.01" in printed
    issues = pd.read_csv("runs/regression-t/label_issues.csv")
    assert list(issues.columns) == ["index", "label", "predicted", "quality"] and len(issues) == 426
    assert (table.kind[issues["index"]].to_numpy() == issues.label).all()
    assert issues.quality.is_monotonic_increasing and issues.quality.between(0, 1).all()
    assert ((issues.quality > 0.5) == (issues.label == issues.predicted)).all()
    found = issues["index"].isin(changed)
    assert found[: found.sum()].mean() > 0.7  # of the first as many as were changed

    # The corrected probability of the given label, from weights that another solver finds.
    from logreg.estimator.objectives import Objective
    from logreg.estimator.optimizers import minimize

    words = ["--dataset", "t.csv"]
    data = regression.load(regression.parse_args(words)[0])
    problem = Objective(data.X_train, data.y_train, 2, k=2.0, loss="root", l2=0.01)
    z = problem.scores(minimize("newton", problem, tol=1e-10, max_iter=200).w)[0]
    quality = 1 / (1 + np.exp(np.where(data.y_train == 1, -1, 1) * z / 2))
    np.testing.assert_allclose(issues.quality, np.sort(quality), rtol=1e-4)


def test_separable_data_without_l2_never_read_as_converged(run):
    words = ["--margin", "0.5", "--l2", "0", "1e-30", "0.1", "--k", "3"]
    code, printed, _ = run(*words, "--optimizer", "gd", "newton", "--max-iter", "50", "--out", "o")
    assert code == 0 and ">50" in printed and "not reached" in printed
    assert "separable: without l2, or with next to none, there is no minimum" in printed
    newton = [(row["l2"], row["status"]) for row in rows("o") if row["optimizer"] == "newton"]
    assert newton == [
        (l2, end)
        for l2, end in ((0, "no_minimum"), (1e-30, "no_minimum"), (0.1, "converged"))
        for _ in range(3)
    ]


def test_divergence_exits_3_with_one_line_and_keeps_the_other_results(run):
    code, _, error = run(*SMALL, "--optimizer", "gd", "--lr", "0.1", "1e5", "--tol", "1e-3", "--out", "o")
    assert code == 3 and error.count("\n") == 1
    assert "diverged with gd lr=100000" in error and "1/L =" in error
    assert {row["status"] for row in rows("o")} == {"converged", "diverged"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--k 0", "argument --k: must be a number > 0, got '0'"),
        ("--max-iter 2.5", "must be a whole number"),
        ("--optimizer adam", "--optimizer"),
        ("--optimizer polyak", "--optimizer"),
        ("--sep ;;", "--sep: must be one character, or one of comma"),
        ("--dataset wine --test-file x.csv", "--test-file goes with a file"),
        ("--nonsense", "unrecognized arguments: --nonsense"),
        ("--dataset brest_cancer", "did you mean breast_cancer?"),
        ("--dataset none.csv", "no such file"),
        ("--dataset t.csv", "say --header no"),
        ("--dataset t.csv --header no --target size", "no column 'size'"),
    ],
)
def test_wrong_usage_and_bad_data_exit_2_with_one_line_and_leave_nothing(run, tmp_path, words, message):
    (tmp_path / "t.csv").write_text("1,2,a\n2,3,b\n3,4,a\n")
    code, printed, error = run(*words.split())
    assert (code, printed) == (2, "") and error.count("\n") == 1 and message in error
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_a_test_file_and_a_target_by_name(run):
    lines = [f"{i % 2},{i % 7},{(i * 5) % 11 + 4 * (i % 2)}" for i in range(40)]
    for name in ("train", "test"):
        Path(f"{name}.csv").write_text("sick;age;weight\n" + "\n".join(lines).replace(",", ";") + "\n")
    files = ["--dataset", "train.csv", "--test-file", "test.csv", "--sep", "semicolon", "--target", "sick"]
    code, printed, _ = run(*files, "--l2", "0.1", "--k", "3", "--out", "o")
    assert code == 0
    assert printed.splitlines()[:2] == [
        "train: 40 training and 40 test samples, 2 features, 2 classes; tolerance 1e-08, seed 0",
        "read 40 + 40 rows, 3 columns; target column 0 (sick): 0 × 20 + 20, 1 × 20 + 20",
    ]
    assert all(row["train_accuracy"] == row["test_accuracy"] for row in rows("o"))


def test_newton_is_left_out_of_wide_problems_with_a_note(run, monkeypatch):
    monkeypatch.setattr(regression, "LARGEST_HESSIAN", 13)
    code, printed, _ = run(*SMALL, "--d", "13", "--max-iter", "50", "--out", "o")
    assert code == 0 and "newton is left out: its Hessian would be 14 × 14" in printed
    assert "newton" not in {row["optimizer"] for row in rows("o")}
    code, _, error = run(*SMALL, "--d", "13", "--optimizer", "newton")
    assert code == 2 and "give another --optimizer" in error


@pytest.mark.parametrize("name", ["metrics.csv", "last.pt", "config.json", "table.csv", "results.csv"])
def test_a_directory_of_another_program_is_refused_and_stays_as_it_was(run, tmp_path, name):
    (tmp_path / name).write_text("{}")
    code, _, error = run(*SMALL, "--out", str(tmp_path))
    assert code == 2 and error.count("\n") == 1 and name in error and "give another directory" in error
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "{}")]


def test_flags_without_effect_are_said(run):
    words = ["--dataset", "wine", "--n", "9", "--k", "2", "--l2", "0.1", "--optimizer", "newton", "--lr", "1"]
    code, printed, _ = run(*words)
    assert code == 0 and "without effect: --n (for synthetic data only)" in printed
    assert "without effect: --lr (for gd and nesterov)" in printed


def test_another_file_of_the_same_name_does_not_replace_a_study(run):
    for i, folder in enumerate(("one", "two")):
        Path(folder).mkdir()
        lines = [f"{j * (i + 2) % 7},{j % 5},{'ab'[j % 2]}\n" for j in range(20)]
        Path(folder, "train.csv").write_text("u,v,y\n" + "".join(lines))
    words = ["--k", "2", "--l2", "0.1", "--optimizer", "newton", "--dataset"]
    assert run(*words, "one/train.csv")[0] == run(*words, "./one/train.csv")[0] == 0
    before = Path("runs/regression-train/results.csv").read_text()
    code, _, error = run(*words, "two/train.csv")
    assert code == 2 and "holds the study of ./one/train.csv; give another directory with --out" in error
    assert Path("runs/regression-train/results.csv").read_text() == before
    assert json.loads(Path("runs/regression-train/config.json").read_text())["dataset"] == "./one/train.csv"
    assert run(*words, "two/train.csv", "--out", "runs/regression-train")[0] == 0


def test_a_reader_that_leaves_early_is_no_traceback(tmp_path):
    command = f"{sys.executable} {SCRIPT} {' '.join(SMALL)} --optimizer newton --out {tmp_path} | head -1"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=300)
    assert result.stdout.count("\n") == 1
    assert "Traceback" not in result.stderr and result.stderr.count("\n") <= 1


def test_root_starts_at_the_logistic_solution_so_that_its_optimisers_agree(run):
    # Wrong labels and few samples: from zero the two end at different stationary points.
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 30)).round(4)
    y = (X[:, 0] > 0) ^ (rng.random(80) < 0.2)
    pd.DataFrame(X).add_prefix("x").assign(y=y.astype(int)).to_csv("t.csv", index=False)
    words = [
        "--dataset",
        "t.csv",
        "--k",
        "2",
        "--l2",
        "0.001",
        "--optimizer",
        "lbfgs",
        "newton",
        "--out",
        "out",
    ]
    code, printed, _ = run(*words)
    lbfgs, newton = (row for row in rows("out") if row["objective"] == "root k=2")
    assert code == 0 and lbfgs["value"] == pytest.approx(newton["value"], abs=1e-9)
    assert "it starts at the logistic solution of the same l2" in printed
    assert "different stationary points" not in printed
