"""Tables as people have them: two files read alike, labels as spelt, guesses that are said or asked."""

import gzip

import numpy as np
import pytest

import regression
from common import UserError
from logreg.readers import Told, read_files


def read(folder, text, test=None, target=None, **told):
    """What is read from a table, and from a test table, given as text or bytes."""
    paths = []
    for name, content in (("train.csv", text), ("test.csv", test)):
        if content is not None:
            paths.append(folder / name)
            paths[-1].write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_files(*paths, told=Told(target, **told))


def lines(*rows):
    return "".join(f"{row}\n" for row in rows)


def refusal(folder, *args, **told):
    with pytest.raises(UserError) as error:
        read(folder, *args, **told)
    assert "\n" not in str(error.value)
    return str(error.value)


# Two files that belong together


def test_columns_of_the_test_file_are_matched_by_name_wherever_they_stand(tmp_path):
    samples = read(tmp_path, "a,b,y\n1,2,p\n3,4,q\n", "y,b,a\nq,20,10\np,40,30\n")
    np.testing.assert_array_equal(samples.X_test, [[10, 20], [30, 40]])
    assert samples.y_test == ["q", "p"]
    assert "test columns matched by name" in samples.understood[0]


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ("a,y\n1,p\n", "lacks 'b'"),
        ("a,b,c,y\n1,2,3,p\n", "has 'c' besides"),
        ("a,B,y\n1,2,p\n", "lacks 'b' and has 'B' besides"),
        ("1,2,p\n3,4,q\n", "its first line (1, 2, p) must name the columns"),
        ("a;b;y\n1;2;p\n", "is separated by semicolons"),
        ("a,b,label\n1,2,p\n", "lacks 'y'"),
        ("b,a,a,y\n1,2,3,p\n", "several columns 'a'"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path, test, message):
    assert message in refusal(tmp_path, "a,b,y\n1,2,p\n3,4,q\n5,6,p\n", test)


def test_a_header_in_one_of_two_files_is_refused(tmp_path):
    assert "has a header and" in refusal(tmp_path, "1,2,p\n3,4,q\n5,6,p\n7,8,q\n", "a,b,y\n1,2,p\n3,4,q\n")


def test_the_decimal_mark_is_the_same_in_both_files(tmp_path):
    # Alone, the test file's 1,250 may be a fraction or thousands; the training file settles it.
    samples = read(tmp_path, "0,5;p\n1,25;q\n", "1,250;p\n2,125;q\n")
    np.testing.assert_array_equal(samples.X_test, [[1.25], [2.125]])
    assert "--decimal" in refusal(tmp_path, "1,250;p\n2,125;q\n")
    assert "decimal points" in refusal(tmp_path, "0,5;p\n1,25;q\n", "0.75;p\n1.5;q\n")


def test_labels_are_spelt_alike_in_both_files(tmp_path):
    samples = read(tmp_path, "a,y\n5,1.0\n7,2.0\n", "a,y\n8,1\n9,2\n")
    assert (samples.y, samples.y_test) == (["1", "2"], ["1", "2"])
    assert "1.0 taken as 1" in samples.understood[0]


def test_indices_of_libsvm_files_count_from_the_same_number(tmp_path):
    train, test = tmp_path / "train.svm", tmp_path / "test.svm"
    train.write_text("1 1:5 3:6\n-1 2:7\n")
    test.write_text("1 2:8\n")  # alone it could count from 0, 1 or 2
    samples = read_files(train, test)
    np.testing.assert_array_equal(samples.X_test, [[0, 8, 0]])
    assert "indices from 1" in samples.understood[0]
    test.write_text("1 0:8 2:1\n")
    with pytest.raises(UserError, match="counts features from 0"):
        read_files(train, test)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_libsvm_file_may_begin_with_a_byte_order_mark(tmp_path, encoding):
    (tmp_path / "a.svm").write_bytes("2 1:0.5 3:1\r\n1 2:1\r\n".encode(encoding))
    samples = read_files(tmp_path / "a.svm")
    assert samples.X.tolist() == [[0.5, 0, 1], [0, 1, 0]] and samples.y == ["2", "1"]


def test_a_libsvm_file_without_a_suffix_is_known_by_its_content(tmp_path):
    (tmp_path / "a9a").write_text("+1 1:1 3:1\n-1 2:1\n")
    (tmp_path / "a9a.t").write_text("-1 1:1\n")
    samples = read_files(tmp_path / "a9a", tmp_path / "a9a.t")
    assert (samples.y, samples.y_test, samples.X.shape) == (["1", "-1"], ["-1"], (2, 3))


# Labels are the text that stands there


@pytest.mark.parametrize(
    "spellings",
    [
        ["1_1", "11"], ["007", "7"], ["1e0", "1"], ["1.10", "1.1"], ["+1", "1"], ["Yes", "yes"], ["0x1", "1"],
        ["1234567890123456789", "1234567890123456788"], ["٣", "3"], ["inf", "Infinity"],
    ],
)  # fmt: skip
def test_labels_that_only_a_number_parser_would_merge_stay_apart(tmp_path, spellings):
    text = lines("a,y", *(f"{i / 8},{label}" for i, label in enumerate(spellings * 2)))
    assert read(tmp_path, text, target="y").y == spellings * 2


def test_only_whole_numbers_lose_zeros_and_it_is_said(tmp_path):
    samples = read(tmp_path, "0.5,1\n0.25,1.0\n0.125,2.\n0.5,2\n")
    assert samples.y == ["1", "1", "2", "2"]
    assert "1.0 taken as 1, and so on" in samples.understood[0]
    assert read(tmp_path, "0.5,1\n0.25,1.0\n0.125,2a\n").y == ["1", "1.0", "2a"]  # names, not numbers


def test_features_are_numbers_as_everybody_writes_them_and_nothing_else(tmp_path):
    for cell in ("1_1", "٣", "0x10", "1e5e", "5 %", "$5", "12:30", "2020-01-31", "yes"):
        assert "is not numeric" in refusal(tmp_path, f"1,a\n{cell},b\n3,a\n"), cell


# Guesses


@pytest.mark.parametrize(
    ("text", "target", "names"),
    [
        (
            lines("0,1,2,kind", *(f"{i / 2},{i / 4},{i / 8},{'ab'[i % 2]}" for i in range(12))),
            None,
            ["0", "1", "2"],
        ),
        (
            lines("1990,1995,kind", *(f"{i / 2},{i / 4},{'ab'[i % 2]}" for i in range(12))),
            "kind",
            ["1990", "1995"],
        ),
        (lines("# u,v,kind", "1,2,a", "3,4,b"), None, ["u", "v"]),  # as numpy.savetxt writes it
        (lines("kind,n", "n,1", "y,2", "n,3"), "kind", ["n"]),  # a label and a name are one word
    ],
)
def test_a_header_is_recognised(tmp_path, text, target, names):
    samples = read(tmp_path, text, target=target)
    assert samples.names == names and "a header" in samples.understood[0]


@pytest.mark.parametrize(
    "text",
    [
        lines("400.5,401.5,402.5,0", *(f"{i / 2},{i * i},{i % 5},{i % 2}" for i in range(12))),
        lines("1990,1995,kind", *(f"{i / 2},{i / 4},{'ab'[i % 2]}" for i in range(12))),
    ],
)
def test_numbers_that_may_be_names_are_asked_about_and_the_flag_settles_it(tmp_path, text):
    assert "--header yes or no" in refusal(tmp_path, text)
    assert len(read(tmp_path, text, header=True).X) == 12
    assert len(read(tmp_path, text, header=False).X) == 13


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("1.5;a\r\n2.5;b\r\n", [1.5, 2.5]),
        ("1,5;a\n2,5;b\n", [1.5, 2.5]),
        ("1,5 a\n2,5 b\n", [1.5, 2.5]),
        ('"1,234.5",a\n"2,000",b\n', [1234.5, 2000]),
        ("1.234,5;a\n2.000;b\n", [1234.5, 2000]),
        ("sep=;\n1,5;a\n2,5;b\n", [1.5, 2.5]),
        ("1.5|a|\n2.5|b|\n", [1.5, 2.5]),  # a separator at the end
        ("1.5,a\n,\n2.5,b\n,\n", [1.5, 2.5]),  # rows that a spreadsheet left behind
        ("% from a program\n1.5,a\n2.5,b\n# the end\n", [1.5, 2.5]),
        ('"x"\t"y"\n1.5\t"a\tb"\n2.5\tb\n', [1.5, 2.5]),
        ('"x" "y"\n"1" 1.5 "a"\n"2" 2.5 "b"\n', [1.5, 2.5]),  # R's write.table: no name above the row names
        ("x,y\nTrue,a\nFALSE,b\n", [1, 0]),
        ("x\u00e9,y\n1.5,\u00e4\n2.5,b\n".encode("cp1252"), [1.5, 2.5]),
        ("x;y\n1,5;a\n2,5;b\n".encode("utf-16"), [1.5, 2.5]),
        ("\ufeffx,y\r1.5,a\r2.5,b\r", [1.5, 2.5]),  # as old Macintoshes did
        ("1.5,a\n2.5,b\n\x1a", [1.5, 2.5]),  # as DOS did
    ],
)
def test_a_column_is_read_however_a_program_wrote_it(tmp_path, text, rows):
    np.testing.assert_array_equal(read(tmp_path, text).X, np.array(rows)[:, None])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1,2;a\n3,4;b\n", None),
        ("Smith, J;5;a\nJones, B;6;b\n", "commas or semicolons; say which with --sep"),
        ("1,5;2.5;a\n2,5;3.5;b\n", "--decimal"),
        ('1,"a\n2,b"\n3,a\n4,b\n', "a quote of the target is not closed"),
        ('1,a\n2,"b\n3,a\n', "a quote is not closed"),
        ("1,0.15\n2,0.25\n3,0.35\n4,0.15\n5,0.25\n6,0.35\n", "a quantity, no class; give --target"),
        ("# 1,2\nb,3\nc,5\nb,3\n", "a comment or a class"),
    ],
)
def test_what_two_readings_fit_is_one_line(tmp_path, text, says):
    if says:
        assert says in refusal(tmp_path, text, target="0" if "#" in text else None)
    else:
        read(tmp_path, text)


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "id", "index", "row_id", "patient_id", "shuffled"])
def test_row_numbers_are_left_out_and_it_is_said_unless_they_are_wanted(tmp_path, name):
    order = np.random.default_rng(0).permutation(20)
    text = lines(f"{name},a,y", *(f"{i},{i / 3:.3f},{'pq'[int(i > 9)]}" for i in order))
    samples = read(tmp_path, text)
    assert samples.names == ["a"]
    assert "left out: column 0" in samples.understood[0] and "row numbers" in samples.understood[0]
    assert read(tmp_path, text, drop=()).names == [name, "a"]


def test_row_numbers_that_go_on_in_the_test_file_are_left_out_of_both(tmp_path):
    row = "{i},{x:.3f},{y}".format
    numbers = np.random.default_rng(0).permutation(30)
    train, test = (
        lines("k,a,y", *(row(i=i, x=i / 7, y="pq"[i % 2]) for i in part))
        for part in (numbers[:20], numbers[20:])
    )
    samples = read(tmp_path, train, test)
    assert samples.X.shape == (20, 1) and samples.X_test.shape == (10, 1)


def test_row_numbers_without_a_header_and_those_that_only_the_test_file_has(tmp_path):
    headless = lines(*(f"{i},{i % 7},{'pq'[i % 2]}" for i in range(1, 13)))
    assert read(tmp_path, headless).X.shape == (12, 1)
    samples = read(tmp_path, "a,y\n1.5,p\n2.5,q\n", ",a,y\n0,3.5,p\n1,4.5,q\n")
    np.testing.assert_array_equal(samples.X_test, [[3.5], [4.5]])


def test_what_may_be_meant_otherwise_is_said(tmp_path):
    text = lines("a,b,c,y", *(f"{i * i + 5},{-999 if i == 3 else i % 4},7,{'pq'[i % 2]}" for i in range(12)))
    said = "\n".join(read(tmp_path, text).understood)
    assert "constant, so of no use: column 2 (c)" in said
    assert "column 1 (b): -999 in 1 rows" in said
    assert "used as a feature: column 0 (a)" in said


def test_columns_are_dropped_by_name_or_index_in_both_files(tmp_path):
    train, test = "a,when,b,y\n1,mon,2,p\n3,tue,5,q\n", "b,a,y\n2,1,p\n"
    samples = read(tmp_path, train, test, drop=("when",))
    np.testing.assert_array_equal(samples.X_test, [[1, 2]])
    assert read(tmp_path, train, drop=("1", "a")).names == ["b"]
    assert "is the target" in refusal(tmp_path, train, drop=("y",))
    assert "did you mean when" in refusal(tmp_path, train, drop=("whn",))


def test_a_name_that_is_another_columns_index_is_asked_about(tmp_path):
    text = lines("1,2,0", "0.5,0.25,7", "1.5,2.5,8", "0.5,3.5,7")
    assert "give -2 or -1" in refusal(tmp_path, text, header=True, target="2")
    assert read(tmp_path, text, header=True, target="-1").y == ["7", "8", "7"]


def test_one_line_says_what_was_understood(tmp_path, capsys):
    rows = [f"{i / 8};{i % 3};{'ab'[i % 2]}".replace(".", ",") for i in range(20)]
    (tmp_path / "t.csv").write_text(lines("x;z;kind", *rows))
    arguments = ["--dataset", str(tmp_path / "t.csv"), "--k", "3", "--l2", "0.1", "--optimizer", "newton"]
    assert regression.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.splitlines()[1] == (
        "read as 20 rows, 3 columns separated by semicolons, a header, decimal commas; "
        "target column 2 (kind) (the last): a × 10, b × 10"
    )


@pytest.mark.parametrize("name", ["class", "Target", "y"])
def test_a_target_by_name_that_is_not_the_last_column_is_asked_about(tmp_path, name):
    text = lines(f"{name},a,rooms", *(f"{i % 2},{i / 7:.2f},{i % 4}" for i in range(12)))
    asked = refusal(tmp_path, text)
    assert f"column 0 ({name}) or, as usual, column 2 (rooms)" in asked and "--target 0 or 2" in asked
    assert read(tmp_path, text, target="0").names == ["a", "rooms"]
    assert read(tmp_path, text, target="rooms").y[:4] == ["0", "1", "2", "3"]
    assert "Say --target 0 or 2" in refusal(tmp_path, text.replace("rooms", name))
    # The name of the last column settles it, and y beside x is a place.
    assert read(tmp_path, text.replace("rooms", "label")).names == [name, "a"]
    assert read(tmp_path, text.replace(f"{name},a", "x,y")).names == ["x", "y"]


def test_classes_that_only_a_slip_may_have_made_are_said(tmp_path):
    rows = [f"{i / 7:.2f},{i % 3},{'yes' if i % 2 else 'no'}" for i in range(12)]
    said = read(tmp_path, lines("a,b,kind", *rows)).understood
    assert len(said) == 1
    said = read(
        tmp_path, lines("a,b,kind", *rows, "1,1,Yes", "1,1,Total", "1,1,no\u200b", "2,2,no\u200b")
    ).understood
    assert said[1] == "classes that look alike are kept apart: 'Yes' and 'yes', 'no' and 'no\\u200b'"
    assert said[2] == "one training sample each: 'Total', 'Yes'; classes, or a slip of the file?"


@pytest.mark.parametrize("missing", ["<NA>", "\\N", "n.a.", "-nan", "1.#QNAN"])
def test_what_other_programs_write_for_a_missing_label_is_no_class(tmp_path, missing):
    assert "the target is missing" in refusal(tmp_path, lines("a,y", "1,p", "2,q", f"3,{missing}"))


def test_files_of_other_formats_are_named(tmp_path):
    for content, name in (
        (gzip.compress(b"1,a\n2,b\n"), "gzip"),
        (b"PK\x03\x04", "ZIP"),
        (b"PAR1", "Parquet"),
    ):
        assert name in refusal(tmp_path, content)


@pytest.mark.parametrize(
    ("counts", "wrong"),
    [((0, 4, 2, 5), True), ((1, 5, 0, 3), True), ((1, 5, 1, 3), False), ((0, 4, 0, 9), False)],
)
def test_libsvm_files_of_different_bases_are_found_by_what_they_lack(tmp_path, counts, wrong):
    low, high, test_low, test_high = counts

    def write(name, low, high):
        features = " ".join(f"{j}:{j + 0.5}" for j in range(low, high + 1))
        (tmp_path / name).write_text(lines(*(f"{i % 2} {features}" for i in range(12))))
        return tmp_path / name

    paths = write("train.svm", low, high), write("test.svm", test_low, test_high)
    if wrong:
        with pytest.raises(UserError, match="in none of 12: does that one count from 1"):
            read_files(*paths)
    else:
        assert read_files(*paths).X.shape[1] == max(high, test_high) + (low == 0)


def test_a_rare_feature_0_may_be_absent_from_the_other_file(tmp_path):
    (tmp_path / "a.svm").write_text(lines("1 0:1 3:1", *(f"{i % 2} 2:1 3:{i}" for i in range(30))))
    (tmp_path / "b.svm").write_text(lines(*(f"{i % 2} 2:1 5:1" for i in range(30))))
    assert read_files(tmp_path / "a.svm", tmp_path / "b.svm").X_test.shape == (30, 6)


def test_a_first_row_with_a_slip_is_not_taken_for_a_header_in_silence(tmp_path):
    rows = [f"{i / 7:.2f},{i % 5 / 3:.2f},{i % 2}" for i in range(12)]
    for first in ("<0.5,0.33,0", "0.5 kg,0.67,1", "n/a?,1.00,1"):
        assert "Say --header yes or no" in refusal(tmp_path, lines(first, *rows))
    # Numbers that the columns below do not hold, and a target's name, are names.
    for names in ("dose,2001,kind", "2001,2002,kind", "0,1,class"):
        assert read(tmp_path, lines(names, *rows)).names == names.split(",")[:2]
    # What pandas writes above three columns without names.
    assert "It counts 0, 1, …. Say --header" in refusal(tmp_path, lines("0,1,2", *rows))


def test_test_samples_seen_before_or_in_other_units_are_said(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 2)).round(4)
    table = lines("a,b,kind", *(f"{a},{b},{'pq'[i % 2]}" for i, (a, b) in enumerate(X)))
    other = lines("a,b,kind", *(f"{1000 * a:.4f},{b + 0.5:.4f},{'pq'[i % 2]}" for i, (a, b) in enumerate(X)))
    assert read(tmp_path, table, table).understood[1:] == ["40 of 40 test samples are training samples too"]
    said = read(tmp_path, table, other).understood
    assert said[1:] == ["far from the training file in the test file: column 0 (a); in other units?"]
    assert "column 0 (a)" in read(tmp_path, other, table).understood[1]  # and the other way round
    for name in ("a.svm", "b.svm"):
        (tmp_path / name).write_text(lines(*(f"{i % 2} 1:{a} 2:{b}" for i, (a, b) in enumerate(X))))
    assert "40 of 40" in read_files(tmp_path / "a.svm", tmp_path / "b.svm").understood[1]


def test_a_feature_that_is_the_label_by_another_name_is_said(tmp_path):
    rows = [f"{i / 7:.2f},{(i + 1) % 3},{i % 2},{'abc'[i % 3]}" for i in range(12)]
    said = read(tmp_path, lines("x,code,odd,kind", *rows)).understood
    assert said[1:] == [
        "the label by another name: column 1 (code), one value for each class; leave it out with --drop"
    ]
