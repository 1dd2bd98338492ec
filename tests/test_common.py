"""common.py: types of flags, what was typed, names, cores, one-line errors."""

import os
import subprocess
import sys
from argparse import ArgumentTypeError

import pytest
from conftest import ROOT

import common
from common import Parser, number, spelling


def test_number_types_say_what_they_want():
    assert number(int, 0)("7") == 7 and number(float, 0, 1, below=True)("0.5") == 0.5
    for kind, text in [
        (number(int, 1), "0"),
        (number(int, 1), "1.5"),
        (number(float, 0, above=True), "0"),
        (number(float, 0, 1, below=True), "1"),
        (number(float, 0), "nan"),
        (number(float, 0), "inf"),
        (number(float, 0), "lots"),
    ]:
        with pytest.raises(ArgumentTypeError, match=f"must be a .*, got '{text}'"):
            kind(text)


def test_the_parser_knows_what_was_typed_even_if_it_is_the_default(capsys):
    parser = Parser("x.py", "What it does.\n\nAn example.")
    parser.add_argument("--k", type=number(float, 1), default=3.0)
    parser.add_argument("--flag", action="store_true")
    args, typed = parser.parse_typed(["--k", "3"])
    assert (args.k, args.flag, typed) == (3.0, False, {"k"})
    for wrong in (["--k", "0"], ["--kk", "3"], ["--k"]):
        with pytest.raises(SystemExit, match="2"):
            parser.parse_typed(wrong)
        assert capsys.readouterr().err.count("\n") == 1


def test_a_name_has_one_spelling(tmp_path, monkeypatch):
    assert spelling("ViT_Tiny") == spelling("vit-tiny") == "vittiny"
    assert spelling("timm:resnet10t.c3_in1k") == "timm:resnet10t.c3_in1k"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    same = {spelling(f"Folder:{path}") for path in ("a-B", "./a-B/", "link/a-B", "~/a-B", tmp_path / "a-B")}
    assert same == {f"folder:{tmp_path}/a-B"}


def test_cores_are_shared_by_the_processes_of_a_machine(monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    for processes, share in (("", 8), ("2", 4), ("9", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert common.cores() == share


def test_a_picture_that_fails_is_a_note_and_settings_of_the_user_have_no_say(tmp_path, monkeypatch, capsys):
    import matplotlib
    from matplotlib.figure import Figure

    def figure():
        made = Figure()
        made.subplots().set_title("$x")
        return made

    with matplotlib.rc_context({"text.usetex": True, "savefig.format": "pdf"}):
        common.draw(tmp_path / "a.png", lambda: Figure())
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    common.draw(tmp_path / "b.png", lambda: 1 / 0)
    common.draw(tmp_path / "no" / "c.png", lambda: Figure())
    notes = capsys.readouterr().out.splitlines()
    assert len(notes) == 2 and all("was not drawn" in note for note in notes)


def test_a_notebook_s_backend_does_not_stop_a_picture(tmp_path):
    code = """
import common

def figure():
    from matplotlib.figure import Figure
    return Figure()

common.draw("a.png", figure)
"""
    paths = {**os.environ, "MPLBACKEND": "module://of_a_notebook", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=paths, capture_output=True, text=True
    )
    assert not done.stdout + done.stderr and (tmp_path / "a.png").exists()


ENDS = {
    "raise KeyboardInterrupt": (130, "stopped by Ctrl-C"),
    "raise MemoryError('no room')": (2, "out of memory: try smaller data"),
    "raise RuntimeError('CUDA out of memory. Tried')": (2, "out of memory"),
    "raise UserError('a\\nb')": (2, "x.py: error: a b"),
    "raise OSError(28, 'No space left on device', 'f')": (2, "cannot write f: No space left"),
    "raise BrokenPipeError": (141, "nobody reads the output"),
    "raise RuntimeError('a bug')": (1, "Traceback"),
}


@pytest.mark.parametrize("line", ENDS)
def test_how_a_program_ends(line):
    code, says = ENDS[line]
    program = f"from common import *\nwith one_line_errors('x.py'):\n    {line}"
    done = subprocess.run([sys.executable, "-OO", "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code and says in done.stderr
    assert "Traceback" in says or done.stderr.count("\n") == 1


def test_a_closed_output_is_no_error():
    program = "from common import *\nwith one_line_errors('x.py'):\n    print('x')"
    words = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-c", program]
    assert subprocess.run(words, cwd=ROOT, env=os.environ).returncode == 0
