"""Tables by the strict rule: what is read is what stands there, and what is doubtful is refused with its flag."""

# ruff: noqa: E501 - tables of words
import gzip

import numpy as np
import pytest
from sklearn.datasets import dump_svmlight_file

from common import UserError
from logreg.datasets import load
from logreg.tables import Rule, read_files


def read(folder, text, test=None, **rule):
    """Parts and summary of a table, and of a test table, given as text or bytes."""
    paths = []
    for name, content in (("train.csv", text), ("test.csv", test)):
        if content is not None:
            paths.append(folder / name)
            paths[-1].write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_files(*paths, rule=Rule(**rule))


def refusal(folder, *args, **rule):
    with pytest.raises(UserError) as error:
        read(folder, *args, **rule)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_default_is_commas_a_header_points_and_the_last_column_as_target(tmp_path):
    [(X, y)], summary = read(tmp_path, 'a,"b, c",kind\n1,2.5,yes\n\n-3e1,.4,no\n5,6,yes\n')
    np.testing.assert_array_equal(X, [[1, 2.5], [-30, 0.4], [5, 6]])
    assert y == ["yes", "no", "yes"]
    assert summary == "read 3 rows, 3 columns; target column 2 (kind): yes × 2, no × 1"


@pytest.mark.parametrize(
    "text", ["a,b,y\r\n1,2,p\r\n3,4,q\r\n", "\ufeffa,b,y\r1,2,p\r3,4,q", "a, b ,y\n1 , 2,p \n3,4,q\n"]
)
def test_line_ends_byte_order_marks_and_blanks_around_cells_change_nothing(tmp_path, text):
    [(X, y)], summary = read(tmp_path, text)
    assert (X.tolist(), y) == ([[1, 2], [3, 4]], ["p", "q"]) and "(y): p × 1, q × 1" in summary


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("1,2.5,p\n3,4,q\n", {"header": False}),
        ("a;b;y\n1;2,5;p\n3;4;q\n", {"sep": ";", "decimal": ","}),
        ("a\tb\ty\n1\t2.5\tp\n3\t4\tq\n", {"sep": "\t"}),
        (" a  b y\n1   2.5 p\n3 4  q\n", {"sep": " "}),
        ("y,a,b\np,1,2.5\nq,3,4\n", {"target": "y"}),
        ("b,y,a\n1,p,2.5\n3,q,4\n", {"target": "1"}),
        ("id,a,b,y\nx,1,2.5,p\nz,3,4,q\n", {"drop": ("id",)}),
        (",a,b,y,\n0,1,2.5,p,\n1,3,4,q,\n", {"drop": ("0", "4")}),  # the last column that is left is the target
        ("1,2,3\n1,2.5,p\n3,4,q\n", {"header": True}),
    ],
)  # fmt: skip
def test_every_flag_reads_what_it_says(tmp_path, text, rule):
    [(X, y)], _ = read(tmp_path, text, **rule)
    assert (X.tolist(), y) == ([[1, 2.5], [3, 4]], ["p", "q"])


def test_a_column_is_named_by_its_name_first_and_else_by_its_index(tmp_path):
    text = "1,2,0\n0.5,0.25,7\n1.5,2.5,8\n"
    assert read(tmp_path, text, header=True, target="2")[0][0][1] == ["0.25", "2.5"]
    assert read(tmp_path, text, header=True, target="0")[0][0][1] == ["7", "8"]
    assert read(tmp_path, text.replace("0\n0", "x\n0"), header=True, target="0")[0][0][1] == ["0.5", "1.5"]


@pytest.mark.parametrize(
    "spellings",
    [
        ["1_1", "11"], ["007", "7"], ["1e0", "1"], ["1.10", "1.1"], ["1", "1.0"], ["+1", "1"], ["Yes", "yes"],
        ["1234567890123456789", "1234567890123456788"], ["NA", "EU"], ["nan", "None"], ["?", "."], ["null", "n/a"],
    ],
)  # fmt: skip
def test_labels_are_the_text_that_stands_there(tmp_path, spellings):
    rows = [f"{i / 8},{label}\n" for i, label in enumerate(spellings * 2)]
    assert read(tmp_path, "a,y\n" + "".join(rows), target="y")[0][0][1] == spellings * 2


@pytest.mark.parametrize(
    "cell",
    ["1_1", "٣", "0x10", "1e5e", "5 %", "$5", "12:30", "yes", "NA", "?", "nan", "inf", "1e400", "1,5", ""],
)
def test_a_feature_that_is_no_finite_number_is_refused_by_column_line_and_value(tmp_path, cell):
    said = refusal(tmp_path, f'"x\n(m)",size,kind\n1,2,a\n\n2,"{cell}",b\n3,4,a\n')
    assert "line 5: column 1 (size)" in said and "or leave the column out with --drop size" in said
    assert (repr(cell) if cell else "is missing") in said
    assert ("say --decimal ," in said) == (cell == "1,5")


@pytest.mark.parametrize(
    ("text", "rule", "says"),
    [
        ("a;b\n1;2\n3;4\n", {}, "has one column; a target and features are needed: say what separates cells with --sep"),
        ("1,2,a\n3,4,b\n5,6,a\n", {}, "its first line (1, 2, a) looks like data; say --header no, or --header yes"),
        ("1,2,2\n3,4,1\n5,6,1\n", {}, "looks like data; say --header no"),
        ("1,1,2\n3,4,1\n", {}, "looks like data; say --header no"),  # and not: two columns of one name
        ("0.5,1,g\nx,0,b\nz,0,g\n", {"drop": ("0",)}, "looks like data"),
        (",b,y\n0,2,p\n1,4,q\n", {}, "column 0 has no name (row numbers, as a rule); name it, or leave it out with --drop 0"),
        ("b,b,y\n1,2,p\n3,4,q\n", {}, "two columns are called 'b'"),
        ("b,b,y\n1,2,p\n3,4,q\n", {"drop": ("b",)}, "several columns are called 'b'; give --drop an index"),
        ("a,b,y\n1,2,p\n3,4,5,q\n", {}, "line 3: 4 cells where the first line has 3"),
        ("a,b\n1,2,p\n3,4,q\n", {}, "line 2: 3 cells where the first line has 2"),
        ("a,b,y\n1,2,p\n3,q\n", {}, "line 3: 2 cells where the first line has 3; fix the line"),
        ("a,y,note\n1,p,\n3,q\n", {"drop": ("note",), "target": "y"}, "line 3: 2 cells where the first line has 3"),
        ("0,5;p\n1,5;q\n2,5;p\n", {"sep": ";", "decimal": ","}, "looks like data; say --header no"),
        ("a,y\n950,p\n1.250,q\n", {}, "is 1.250 in column 0 (a) a fraction, or a point between thousands? Say --decimal ."),
        ("a,y\n950,p\n2.000,q\n", {}, "say --decimal ."),
        ("a;y\n1,5;p\n2.5;q\n", {"sep": ";", "decimal": ","}, "line 3: column 0 (a) is '2.5', no finite number"),
        ("a,y\n\n1,p\n2,\n", {}, "line 4: the target, column 1 (y), is missing"),
        ('a,y\n1,"p\n2,q"\n3,q\n', {}, "goes on in the next line: close its quote"),
        ('a,y\n1,p\n2,"q\n3,p\n', {}, "a quote is not closed"),
        ("a,b\n1,0.15\n2,0.25\n3,0.35\n4,0.15\n", {}, "looks continuous (3 values like '0.15'); pass --target 1 to use it anyway"),
        ("a,b,y\n1,2,p\n", {"target": "x"}, "--target: no column 'x' in "),
        ("a,b,y\n1,2,p\n", {"target": "3"}, "(it has a, b, y; indices 0 to 2)"),
        ("a,b,y\n1,2,p\n", {"target": "-1"}, "no column '-1'"),
        ("a,when,y\n1,2,p\n", {"drop": ("whn",)}, "did you mean when"),
        ("a,b,y\n1,2,p\n", {"drop": ("y",), "target": "y"}, "is the target; --drop cannot leave it out"),
        ("a,b,y\n1,2,p\n", {"drop": ("a", "b")}, "no features besides the target"),
        ("a,b,y\n", {}, "has a header and no samples"),
        ("", {}, "is empty"),
        (b"\xff\xfe\x00", {}, "save it as UTF-8"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", {}, "is a git-lfs pointer, not the file itself"),
        ('{"a": 1, "y": "p"}\n{"a": 2, "y": "q"}\n', {}, "is JSON: save it as CSV"),
        ("<!DOCTYPE html>\n<html>", {}, "is HTML or XML"),
        (gzip.compress(b"a,y\n1,p\n", mtime=0), {}, "compressed"),
    ],
)  # fmt: skip
def test_what_is_doubtful_or_no_table_is_refused_with_what_settles_it(tmp_path, text, rule, says):
    assert says.lower() in refusal(tmp_path, text, **rule).lower()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("a,y\n950,p\n1.250,q\n", {"decimal": "."}),  # the flag settles it
        ("a,y\n950,p\n0.125,q\n", {}),  # nobody groups a zero
        ("a,y\n950,p\n1.25,q\n", {}),
        ("a,y\n1950,p\n1.250,q\n", {}),  # a whole number that is not grouped
        ("a,y\n1.125,p\n1.250,q\n", {}),  # fractions alone
    ],
)
def test_fractions_that_cannot_be_thousands_are_read(tmp_path, text, rule):
    assert read(tmp_path, text, **rule)[0][0][0][1, 0] in (0.125, 1.25)


def test_columns_of_the_test_file_are_found_by_name_wherever_they_stand(tmp_path):
    parts, summary = read(tmp_path, "id,a,b,y\n7,1,2,p\n8,3,4,q\n", "y,b,a\nq,20,10\np,40,30\n", drop=("id",))
    assert [X.tolist() for X, _ in parts] == [[[1, 2], [3, 4]], [[10, 20], [30, 40]]]
    assert parts[1][1] == ["q", "p"]
    assert summary == (
        "read 2 + 2 rows, 4 columns (left out: column 0 (id)); target column 3 (y): p × 1 + 1, q × 1 + 1"
    )


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ("a,y\n1,p\n", "has no column 'b'; its first line must name the columns"),
        ("a,b,c,y\n1,2,3,p\n", "has a column that the training file lacks, 'c'"),
        ("1,2,p\n3,4,q\n", "has no column 'a'"),
        ("a;b;y\n1;2;p\n", "has one column"),
        ("b,a,a,y\n1,2,3,p\n", "has several columns 'a'"),
        ("a,b,y\n1,x,p\n", "line 2: column 1 (b) is 'x'"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path, test, message):
    assert message in refusal(tmp_path, "a,b,y\n1,2,p\n3,4,q\n5,6,p\n", test)


def test_test_files_without_a_header_have_the_same_columns(tmp_path):
    parts, _ = read(tmp_path, "1,2,p\n3,4,q\n", "5,6,q\n", header=False)
    assert parts[1][0].tolist() == [[5, 6]] and parts[1][1] == ["q"]
    assert "has 2 columns, the training file 3" in refusal(tmp_path, "1,2,p\n3,4,q\n", "5,q\n", header=False)


def test_a_test_class_that_the_training_file_lacks_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("a,y\n1,p\n2,q\n3,p\n4,q\n")
    (tmp_path / "b.csv").write_text("a,y\n1,r\n2,q\n")
    with pytest.raises(UserError, match="classes that the training file lacks: r"):
        load(str(tmp_path / "a.csv"), test_file=str(tmp_path / "b.csv"))


def test_a_libsvm_file_counts_from_1_and_narrower_test_files_are_padded(tmp_path):
    X, y = np.array([[1.0, 0, 2], [0, 3, 0], [1, 1, 1]]), np.array([1, -1, 1.5])
    train, test = tmp_path / "train.svm", tmp_path / "test.libsvm"
    dump_svmlight_file(X, y, str(train), zero_based=False)
    dump_svmlight_file(X[:2, :2], y[:2], str(test), zero_based=False)
    parts, summary = read_files(train, test)
    np.testing.assert_array_equal(parts[0][0], X)
    np.testing.assert_array_equal(parts[1][0], [[1, 0, 0], [0, 3, 0]])
    assert parts[0][1] == ["1", "-1", "1.5"]
    assert summary.startswith("read 3 + 2 rows, 3 features; target the first of each line: ")
    test.write_text("1 0:8 2:1\n")
    for rule, message in ((Rule(), "indices from 1"), (Rule(target="0"), "take no --target")):
        with pytest.raises(UserError, match=message):
            read_files(train, test, rule)
    (tmp_path / "t.csv").write_text("a,y\n1,p\n")
    with pytest.raises(UserError, match="give both alike"):
        read_files(train, tmp_path / "t.csv")
