"""paper/acceleration.py: what its table counts, against counts made by hand. Never how fast."""

import sys
from pathlib import Path

import numpy as np
import pytest

from logreg.estimator.objectives import Objective

sys.path.append(str(Path(__file__).resolve().parent.parent / "paper"))

import acceleration


@pytest.mark.parametrize("k", [None, 3.0])
def test_a_course_counts_the_steps_of_gradient_descent_written_by_hand(k):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(50, 3)), np.arange(50) % 2
    objective = Objective(X, y, 2, k=k, fit_intercept=False)
    line = acceleration.course(objective, "gd", lambda w, gradient: np.linalg.norm(gradient) - 1e-4, 1000)
    w, sign, count = np.zeros(3), np.where(y == 1, 1, -1), 0
    while True:
        t = sign * (X @ w)
        root = 1 if k is None else (1 + np.exp(-t)) ** (1 / k)
        gradient = -(sign * root / (1 + np.exp(t))) @ X / 50
        assert line[count, 0] == pytest.approx(np.linalg.norm(gradient) - 1e-4, rel=1e-6, abs=1e-12)
        if np.linalg.norm(gradient) <= 1e-4:
            break
        w, count = w - gradient / objective.lipschitz(), count + 1
    assert count == len(line) - 1 > 3
    assert (np.diff(line[:, 1]) >= 0).all()


def test_the_table_has_a_line_a_method_and_says_what_never_got_there(capsys, tmp_path):
    acceleration.main(["--seeds", "1", "--k", "1", "--max-iter", "40", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    tables = [part.splitlines() for part in printed.strip().split("\n\n")]
    assert [table[0] for table in tables] == [
        f"| {kind} | logistic | rlo k=1 |" for kind in ("separable", "overlapping")
    ]
    assert [len(table) - 2 for table in tables] == [len(acceleration.METHODS)] * 2
    assert tables[0][2] == "| gd | > 40 | > 40 |"  # 1 / log t
    assert tables[0][6].startswith("| polyak | ") and ">" not in tables[0][6]
    assert (tmp_path / "acceleration.png").stat().st_size > 10_000
