"""Archives and downloads: whole or not at all, and never outside the data directory."""

import hashlib
import io
import tarfile
import urllib.request
import zipfile

import numpy as np
import pytest

import data
from data import fetch


def tar(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path.read_bytes()


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "member",
    [
        {"../outside": b"x"}, {"top/../../outside": b"x"}, {"/tmp/outside": b"x"},
        {"top/link": link("top/link", "/etc")},
        {"top/hard": link("top/hard", "/etc/passwd", tarfile.LNKTYPE)},
        {"top/fifo": link("top/fifo", "", tarfile.FIFOTYPE)},
    ],
)  # fmt: skip
def test_a_tar_that_would_write_elsewhere_is_refused(tmp_path, member):
    folder = tmp_path / "deep" / "data"
    folder.mkdir(parents=True)
    tar(folder / "a.tar.gz", {"top/good": b"x"} | member)
    archive = fetch.Archive("a.tar.gz", "", "")
    with pytest.raises(data.DataError, match="refused"):
        fetch.unpack(folder / "a.tar.gz", archive, "top", folder)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["a.tar.gz"]


@pytest.mark.parametrize(
    ("name", "mode"),
    [("../outside", 0), ("/tmp/outside", 0), ("top/..\\..\\x", 0), ("C:/x", 0), ("top/link", 0o120777)],
)
def test_a_zip_that_would_write_elsewhere_is_refused(tmp_path, name, mode):
    folder = tmp_path / "deep" / "data"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr("top/good", "x")
        archive.writestr(info, "/etc")
    with pytest.raises(data.DataError, match="refused"):
        fetch.unpack(folder / "a.zip", fetch.Archive("a.zip", "", ""), "top", folder)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["a.zip"]


@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
def test_archives_that_are_too_large_truncated_or_of_something_else_leave_nothing(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    content = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tobytes()
    if suffix == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("top/big", content)
    else:
        tar(path, {"top/big": content})
    for limit, top, says in ((4999, "top", "refused"), (5000, "other", "no folder other")):
        with pytest.raises(data.DataError, match=says):
            fetch.unpack(path, fetch.Archive(path.name, "", "", max_unpacked=limit), top, tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:1000] + b"\0" * 100 + (whole[1100:] if suffix == "zip" else b""))
    with pytest.raises(data.DataError, match=r"damaged|cannot be unpacked"):
        fetch.unpack(path, fetch.Archive(path.name, "", ""), "top", tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    path.write_bytes(whole)
    assert (
        fetch.unpack(path, fetch.Archive(path.name, "", ""), "top", tmp_path) / "big"
    ).read_bytes() == content


class Response(io.BytesIO):
    length = None


def test_a_download_appears_under_its_name_only_when_it_is_whole(tmp_path, monkeypatch):
    content = b"whole" * 1000
    archive = fetch.Archive(
        "a.zip", "http://example.org/a.zip", hashlib.md5(content).hexdigest(), size=len(content)
    )
    for sent, says in ((content[:-1], "bytes"), (content + b"x", "more than"), (b"x" * len(content), "md5")):
        monkeypatch.setattr(urllib.request, "urlopen", lambda *_, sent=sent, **__: Response(sent))
        with pytest.raises(data.DataError, match=says):
            fetch.obtain(archive, tmp_path, False)
        assert not list(tmp_path.iterdir())
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Response(content))
    assert fetch.obtain(archive, tmp_path, False).read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]
