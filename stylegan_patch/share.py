"""Write what both loss files share from loss.py into stylegan3_loss.py, so that each can be copied alone.

    python stylegan_patch/share.py

Run it after a change between the two marks in loss.py; a test fails until you do.
"""

from pathlib import Path

HERE = Path(__file__).resolve().parent
BEGIN, END = "# ---- shared: ", "# ---- end of what is shared ----\n"


def split(text):
    """(before, shared, after) of a loss file."""
    before, begin, rest = text.partition(BEGIN)
    shared, end, after = rest.partition(END)
    return before, begin + shared + end, after


def shared_written(source, target):
    """The text of `target` with the shared part of `source`."""
    (_, shared, _), (before, _, after) = split(source), split(target)
    return before + shared + after


if __name__ == "__main__":
    source, target = HERE / "loss.py", HERE / "stylegan3_loss.py"
    text = shared_written(source.read_text(encoding="utf-8"), target.read_text(encoding="utf-8"))
    target.write_text(text, encoding="utf-8")
