"""Archives that mean harm or are broken."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from autoprune.data.archives import read_bytes, read_tar
from autoprune.errors import DataError

LIMITS = {"member_limit": 1000, "total_limit": 3000}


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 3, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, target
    return info


def pack(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for info in members:
            archive.addfile(info, io.BytesIO(b"x" * info.size))
    return path


def test_files_come_in_order_and_folders_are_skipped(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar.gz", member("b", tarfile.DIRTYPE, 0), member("./b/2", size=5), member("1", size=0))
    assert list(read_tar(path, **LIMITS)) == [("b/2", b"xxxxx"), ("1", b"")]


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (member("../evil"), "'../evil' points outside"),
        (member("a/../../evil"), "points outside"),
        (member("/etc/passwd"), "'/etc/passwd' points outside"),
        (member("..\\evil"), "points outside"),
        (member("C:/evil"), "points outside"),
        (member("link", tarfile.SYMTYPE, 0, "/etc/passwd"), "'link' is a link or a device"),
        (member("link", tarfile.LNKTYPE, 0, "good"), "'link' is a link or a device"),
        (member("null", tarfile.CHRTYPE, 0), "is a link or a device"),
        (member("pipe", tarfile.FIFOTYPE, 0), "is a link or a device"),
        (member("good"), "holds 'good' twice"),
        (member("./good"), "holds 'good' twice"),
        (member("big", size=1001), "'big' makes .* larger than it may be"),
    ],
)
def test_harmful_members_are_refused(tmp_path: Path, info: tarfile.TarInfo, message: str) -> None:
    path = pack(tmp_path / "a.tar.gz", member("good"), info)
    with pytest.raises(DataError, match=message):
        list(read_tar(path, **LIMITS))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tar.gz"]  # nothing is unpacked


def test_the_total_is_limited(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar.gz", *(member(str(i), size=900) for i in range(4)))
    with pytest.raises(DataError, match="member '3' makes"):
        list(read_tar(path, **LIMITS))


def test_what_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(b"<html>")
    with pytest.raises(DataError, match="is corrupt"):
        list(read_tar(path, **LIMITS))
    with pytest.raises(DataError, match=r"cannot read .*No such file"):
        list(read_tar(tmp_path / "none", **LIMITS))
    with pytest.raises(DataError, match=r"cannot read .*Is a directory"):
        read_bytes(tmp_path, limit=10)


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.998])
def test_truncated_archives(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for i in range(3):
            archive.addfile(member(str(i), size=900), io.BytesIO(os.urandom(900)))
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(DataError, match="truncated"):
        list(read_tar(path, **LIMITS))
