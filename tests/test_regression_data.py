"""Data of regression.py: what files mean, what made data promise, one clear line for what cannot be used."""

import os
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from sklearn.datasets import dump_svmlight_file, load_wine

from common import UserError
from logreg import NAMES
from logreg.datasets import load, synthetic
from logreg.readers import Told, read_files

ROWS = "1,2.5,a\n3,4,b\n5,6,a\n7,8,b\n"


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read_file(path, target=None, **told):
    samples = read_files(path, told=Told(target, **told))
    return samples.X, samples.y, samples.names


@pytest.mark.parametrize("separator", [",", ";", "\t", " ", ", "])
def test_a_table_without_header_is_read_whatever_separates_its_columns(tmp_path, separator):
    X, y, names = read_file(write(tmp_path / "t.data", ROWS.replace(",", separator)))
    np.testing.assert_array_equal(X, [[1, 2.5], [3, 4], [5, 6], [7, 8]])
    assert y == ["a", "b", "a", "b"]
    assert names == ["x0", "x1"]


@pytest.mark.parametrize("target", ["kind", "0", "-3"])
def test_a_header_is_recognised_and_the_target_found_by_name_or_index(tmp_path, target):
    path = write(tmp_path / "t.csv", "kind,width,height\n1,2,3\n1.0,5,6\n0,8,9\n")
    X, y, names = read_file(path, target)
    np.testing.assert_array_equal(X, [[2, 3], [5, 6], [8, 9]])
    assert y == ["1", "1", "0"]  # one class, however it is spelt
    assert names == ["width", "height"]


def test_a_header_of_quoted_words_over_string_labels_and_a_byte_order_mark(tmp_path):
    X, y, names = read_file(write(tmp_path / "t.csv", '\ufeff"a, b",c,label\n1,2,yes\n\n3,4,no\n'))
    assert (X.tolist(), y, names) == ([[1, 2], [3, 4]], ["yes", "no"], ["a, b", "c"])


def test_a_libsvm_file_is_read_and_narrower_test_files_are_padded(tmp_path):
    X, y = np.array([[1.0, 0, 2], [0, 3, 0], [1, 1, 1], [2, 0, 1]]), np.array([1, -1, 1, -1])
    dump_svmlight_file(X, y, str(tmp_path / "train.svm"))
    dump_svmlight_file(X[:2, :2], y[:2], str(tmp_path / "test.svm"))
    read, labels, _ = read_file(tmp_path / "train.svm")
    np.testing.assert_array_equal(read, X)
    assert labels == ["1", "-1", "1", "-1"]
    data = load(str(tmp_path / "train.svm"), test_file=str(tmp_path / "test.svm"))
    assert data.X_test.shape == (2, 3)


@pytest.mark.parametrize(
    ("text", "target", "message"),
    [
        ("1,red,a\n2,blue,b\n", None, r"line 1: column 1 is not numeric \('red'\)"),
        ("size,colour,y\n1,2,a\n2,blue,b\n", None, r"line 3: column 1 \(colour\) is not numeric"),
        ("1,nan,a\n2,3,b\n", None, "line 1: column 1 is missing"),
        ("1,2,a\n2,?,b\n", None, r"line 2: column 1 is missing \('\?'\)"),
        ("1,2,a\n2,,b\n", None, "line 2: column 1 is missing"),
        ("1,2,a\n2,inf,b\n", None, "line 2: column 1 is not finite"),
        ("1,2,a\n2,3,?\n", None, "line 2: the target is missing"),
        ("1,2,a\n2,3\n", None, "line 2: 2 columns where the first line has 3"),
        ("1,2,a\n2,3,b\n", "7", "unknown target '7'.*indices 0 to 2"),
        ("u,v,w\n1,2,a\n2,3,b\n", "x", "unknown target 'x'.*u, v, w"),
        ("", None, "is empty"),
        ("u,v,w\n", None, "a header and no samples"),
        ("1\n2\n", None, "one column"),
        ("1,2,a\n2,3,a\n", None, "one class only"),
        ("1,2,a\n", None, "at least two"),
        ("1,2,3\n2,4,4\n5,6,7\n8,8,10\n", None, "4 values in 4 samples"),
        ("1,2,a\n2,3,a\n3,4,a\n4,5,b\n", None, "one sample only"),
    ],
)
def test_unusable_files_are_explained_in_one_line(tmp_path, text, target, message):
    with pytest.raises(UserError, match=message) as error:
        load(str(write(tmp_path / "t.csv", text)), told=Told(target))
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_file_that_is_not_text_are_explained(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load(str(tmp_path / "missing.csv"))
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="as text"):
        load(str(tmp_path / "t.csv"))
    with pytest.raises(UserError, match="LIBSVM format"):
        load(str(write(tmp_path / "t.svm", "hello world\n")))


def test_a_test_file_must_fit_the_training_file(tmp_path):
    train = str(write(tmp_path / "train.csv", ROWS))
    with pytest.raises(UserError, match="classes that the training file lacks: c"):
        load(train, test_file=str(write(tmp_path / "t1.csv", "1,2,c\n2,3,a\n")))
    with pytest.raises(UserError, match="2 columns, the training file 3"):
        load(train, test_file=str(write(tmp_path / "t2.csv", "1,a\n2,b\n")))


def test_an_unknown_data_set_names_its_nearest_neighbour():
    with pytest.raises(UserError, match="did you mean breast_cancer"):
        load("brest_cancer")


def test_the_split_is_stratified_seeded_and_standardised_on_the_training_part():
    data, again, other = load("wine"), load("wine"), load("wine", seed=1)
    np.testing.assert_allclose(data.X_train.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(data.X_train.std(axis=0), 1, rtol=1e-12)
    assert abs(data.X_test.mean(axis=0)).max() > 1e-3
    shares = [np.bincount(y) / len(y) for y in (data.y_train, data.y_test, load_wine().target)]
    np.testing.assert_allclose(shares[0], shares[1], atol=0.03)
    np.testing.assert_array_equal(data.X_train, again.X_train)
    assert not np.array_equal(data.X_train, other.X_train)


def test_a_column_too_small_for_its_squares_is_refused_and_not_taken_for_constant(tmp_path):
    rows = "".join(f"{i % 5}e-200,{i / 7:.2f},{'ab'[i % 2]}\n" for i in range(20))
    with pytest.raises(UserError, match="squares of feature 0 underflow"):
        load(str(write(tmp_path / "t.csv", rows)))


def test_a_constant_column_stays_finite(tmp_path):
    data = load(str(write(tmp_path / "t.csv", "0.1,1,a\n0.1,2,b\n0.1,3,a\n0.1,4,b\n0.1,5,a\n0.1,6,b\n")))
    np.testing.assert_allclose(data.X_train[:, 0], 0, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "synthetic"])
def test_every_named_data_set_loads_with_its_known_size(name):
    data = load(name)
    samples = len(data.y_train) + len(data.y_test)
    sizes = {
        "madelon": (2000, 500, 2),
        "wine": (178, 13, 3),
        "breast_cancer": (569, 30, 2),
        "digits": (1797, 64, 10),
    }
    assert (samples, data.X_train.shape[1], len(data.classes)) == sizes[name]


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
    with pytest.raises(UserError, match="needs a name"):
        load("openml:")


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
    ionosphere = load(str(folder / "ionosphere.data"))
    assert len(ionosphere.y_train) + len(ionosphere.y_test) == 351
    assert ionosphere.X_train.shape[1] == 34
    spectf = load(str(folder / "SPECTF.train"), test_file=str(folder / "SPECTF.test"), told=Told("0"))
    assert (spectf.X_train.shape, spectf.X_test.shape) == ((80, 44), (187, 44))
