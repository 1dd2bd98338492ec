"""Data of regression.py: what made data promise, how they are split, one clear line for what cannot be used."""

import os
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from sklearn.datasets import load_wine

from common import UserError
from logreg import NAMES
from logreg.datasets import load, synthetic
from logreg.tables import Rule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,y\n1,2,p\n2,3,p\n", "one class only"),
        ("a,b,y\n1,2,p\n", "at least two"),
        ("a,b,y\n1,2,3\n2,4,4\n5,6,7\n8,8,10\n", "4 values in 4 samples"),
        ("a,b,y\n1,2,p\n2,3,p\n3,4,p\n4,5,q\n", "one sample only"),
        ("a,b,y\n" + "1e200,2,p\n-1e200,3,q\n" * 4, "too large or too small"),
        ("a,b,y\n" + "1e-200,2,p\n2e-200,3,q\n" * 4, "too large or too small"),
    ],
)
def test_files_that_cannot_be_split_are_explained_in_one_line(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load(str(tmp_path / "t.csv"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.csv", "no such file"),
        ("brest_cancer", "did you mean breast_cancer"),
        ("openml:", "needs a name"),
    ],
)
def test_what_is_not_there_is_named(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        load(name)


def test_the_split_is_stratified_seeded_and_standardised_on_the_training_part():
    data, again, other = load("wine"), load("wine"), load("wine", seed=1)
    np.testing.assert_allclose(data.X_train.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(data.X_train.std(axis=0), 1, rtol=1e-12)
    assert abs(data.X_test.mean(axis=0)).max() > 1e-3
    shares = [np.bincount(y) / len(y) for y in (data.y_train, data.y_test, load_wine().target)]
    np.testing.assert_allclose(shares[0], shares[1], atol=0.03)
    np.testing.assert_array_equal(data.X_train, again.X_train)
    assert not np.array_equal(data.X_train, other.X_train)
    X, y = load_wine(return_X_y=True)
    np.testing.assert_array_equal(y[data.index], data.y_train)
    whole = X[data.index]
    np.testing.assert_allclose((whole - whole.mean(axis=0)) / whole.std(axis=0), data.X_train, atol=1e-12)


def test_a_constant_column_stays_finite(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,y\n" + "".join(f"0.1,{i},{'pq'[i % 2]}\n" for i in range(6)))
    np.testing.assert_allclose(load(str(tmp_path / "t.csv")).X_train[:, 0], 0, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "synthetic"])
def test_every_named_data_set_loads_with_its_known_size(name):
    data = load(name)
    sizes = {
        "madelon": (2000, 500, 2),
        "wine": (178, 13, 3),
        "breast_cancer": (569, 30, 2),
        "digits": (1797, 64, 10),
    }
    assert (len(data.y_train) + len(data.y_test), data.X_train.shape[1], len(data.classes)) == sizes[name]


def test_synthetic_classes_overlap_as_two_normals_two_apart_or_keep_their_margin():
    X, y = synthetic(0, n=20000, d=3, condition=100.0)
    direction = X[y == 1].mean(axis=0) - X[y == 0].mean(axis=0)
    assert np.linalg.norm(direction) == pytest.approx(2, abs=0.05)
    unit = direction / np.linalg.norm(direction)
    right = (np.where(y == 1, 1, -1) * (X @ unit) > 0).mean()
    assert right == pytest.approx(0.8413, abs=0.01)  # Φ(1)
    across = X - np.outer(X @ unit, unit)
    spread = np.sort(np.linalg.eigvalsh(np.cov(across.T)))[1:]
    np.testing.assert_allclose(spread, [1e-2, 1e-1], rtol=0.1)

    X, y = synthetic(0, n=500, d=3, margin=0.7)
    from sklearn.svm import SVC

    svm = SVC(kernel="linear", C=1e6).fit(X, y)
    assert 1 / np.linalg.norm(svm.coef_) >= 0.7 - 1e-3


def test_openml_without_network_says_so_and_keeps_to_the_data_directory(tmp_path, monkeypatch):
    asked = {}

    def offline(**options):
        asked.update(options)
        raise URLError("no route to host")

    monkeypatch.setattr("sklearn.datasets.fetch_openml", offline)
    with pytest.raises(
        UserError, match=r"cannot fetch openml:diabetes \(no route to host\); with no network"
    ):
        load("openml:diabetes", data_dir=tmp_path)
    assert asked["data_home"] == str(tmp_path)


def test_openml_data_are_used_and_columns_that_are_not_numeric_refused(monkeypatch):
    from sklearn.utils import Bunch

    X, y = load_wine(return_X_y=True)
    bunch = Bunch(data=X, target=y.astype(str), feature_names=[f"f{i}" for i in range(13)], categories={})
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda **options: bunch)
    assert load("openml:wine").X_train.shape == (133, 13)
    for missing in (np.nan, None):
        bunch.target = np.where(y == 0, missing, y.astype(object))
        with pytest.raises(UserError, match="the target of 59 of 178 samples is missing"):
            load("openml:wine")
    bunch.target = y
    bunch.categories = {"f3": ["red", "white"]}
    with pytest.raises(UserError, match="not numeric: f3"):
        load("openml:187")


@pytest.mark.skipif("ROOTED_DATA" not in os.environ, reason="needs the UCI files: set ROOTED_DATA")
def test_uci_files_have_their_published_sizes():
    folder = next(Path(os.environ["ROOTED_DATA"]).rglob("ionosphere.data")).parent
    ionosphere = load(str(folder / "ionosphere.data"), rule=Rule(header=False))
    assert len(ionosphere.y_train) + len(ionosphere.y_test) == 351
    assert ionosphere.X_train.shape[1] == 34
    names = [str(folder / f"SPECTF.{part}") for part in ("train", "test")]
    with pytest.raises(UserError, match="looks like data; say --header no"):
        load(names[0], test_file=names[1], rule=Rule(target="0"))
    spectf = load(names[0], test_file=names[1], rule=Rule(target="0", header=False))
    assert (spectf.X_train.shape, spectf.X_test.shape) == ((80, 44), (187, 44))
