"""Downloads, from a server on this machine."""

from __future__ import annotations

import functools
import gzip
import hashlib
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from autoprune.data import load_data
from autoprune.data.download import RemoteFile, fetch
from autoprune.errors import DataError

CONTENT = bytes(range(256)) * 100


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; ``/cut/x`` promises the whole of x and sends half; counts what it is asked for."""

    asked: list[str]

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if not self.path.startswith("/cut/"):
            super().do_GET()
            return
        data = (Path(self.directory) / self.path.removeprefix("/cut/")).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self.close_connection = True


class Server:
    """Address and folder of a running server, and the paths it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        handler = type("H", (Handler,), {"asked": self.asked})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "set.bin").write_bytes(CONTENT)
    running = Server(tmp_path / "www")
    yield running
    running.close()


def remote(*urls: str) -> RemoteFile:
    return RemoteFile("set.bin", hashlib.sha256(CONTENT).hexdigest(), urls)


def check(file: RemoteFile, path: Path) -> None:
    if hashlib.sha256(path.read_bytes()).hexdigest() != file.sha256:
        raise DataError("wrong checksum")


def test_a_file_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "new"
    for _ in range(2):
        paths = fetch([remote(server.url + "set.bin")], folder, dataset="toy", check=check)
        assert paths == {"set.bin": folder / "set.bin"}
        assert (folder / "set.bin").read_bytes() == CONTENT
    assert server.asked == ["/set.bin"]
    assert [entry.name for entry in folder.iterdir()] == ["set.bin"]


def test_the_next_mirror_serves_where_the_first_fails(server: Server, tmp_path: Path) -> None:
    (server.folder / "wrong").write_bytes(b"other content")
    dead = "http://127.0.0.1:9/set.bin"
    urls = [dead, server.url + "none", server.url + "cut/set.bin", server.url + "wrong", server.url + "set.bin"]
    fetch([remote(*urls)], tmp_path / "data", dataset="toy", check=check)
    assert (tmp_path / "data" / "set.bin").read_bytes() == CONTENT
    assert server.asked == ["/none", "/cut/set.bin", "/wrong", "/set.bin"]


def test_when_none_serves_the_error_says_what_to_put_where(server: Server, tmp_path: Path) -> None:
    (server.folder / "wrong").write_bytes(b"other content")
    urls = ["http://127.0.0.1:9/set.bin", server.url + "none", server.url + "cut/set.bin", server.url + "wrong"]
    folder = tmp_path / "data"
    with pytest.raises(DataError) as caught:
        fetch([remote(*urls)], folder, dataset="toy", check=check)
    message = str(caught.value)
    host = server.url.removeprefix("http://").rstrip("/")
    checksum = hashlib.sha256(CONTENT).hexdigest()
    assert message.startswith(f"toy needs 'set.bin' (SHA-256 of the file: {checksum}) in the folder '{folder}'")
    for reason in ("no connection to 127.0.0.1:9", f"{host} answered HTTP 404", f"{host}: wrong checksum"):
        assert reason in message
    assert list(folder.iterdir()) == []  # nothing half done stays behind


def test_a_silent_server_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr("autoprune.data.download.TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/set.bin"
        with pytest.raises(DataError, match=r"did not answer within 0.2 s"):
            fetch([remote(url)], tmp_path, dataset="toy", check=check)


def test_no_network_is_used_when_switched_off(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="downloads are switched off"):
        fetch([remote(server.url + "set.bin")], tmp_path, dataset="toy", check=check, download=False)
    assert server.asked == []


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"(FileExists|NotADirectory)Error"):
        fetch([remote(server.url + "set.bin")], tmp_path / "file", dataset="toy", check=check)


def test_mnist_through_a_mirror(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The .gz files are not the published ones byte by byte, their content is."""
    from test_data_mnist import COUNTS, contents

    made = contents()
    monkeypatch.setattr("autoprune.data.mnist.COUNTS", COUNTS)
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in made.items()}
    monkeypatch.setattr("autoprune.data.mnist.CHECKSUMS", sums)
    monkeypatch.setattr("autoprune.data.mnist.MIRRORS", (server.url + "gone/", server.url))
    for name, data in made.items():
        (server.folder / f"{name}.gz").write_bytes(gzip.compress(data, 3))
    data = load_data("mnist", data_dir=tmp_path / "root", validation=10)
    assert (len(data.train), len(data.test)) == (50, 20)
    asked = len(server.asked)
    assert asked == 2 * len(made)
    assert load_data("mnist", data_dir=tmp_path / "root", validation=10).digest == data.digest
    assert len(server.asked) == asked


def test_mnist_from_a_mirror_with_other_content(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoprune.data.mnist.MIRRORS", (server.url,))
    (server.folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"sign in first"))
    with pytest.raises(DataError, match=r"too few for an IDX header .*; get them from http://127.0.0.1:\d+/ or"):
        load_data("mnist", data_dir=tmp_path / "root")
    assert list((tmp_path / "root" / "mnist").iterdir()) == []


def test_cifar10_archive_is_downloaded_and_checked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_data_cifar10 import FOLDER, RECORDS, batches, write_tar

    monkeypatch.setattr("autoprune.data.decoded.cache_root", lambda: tmp_path / "cache")
    monkeypatch.setattr("autoprune.data.cifar10_binary.RECORDS", RECORDS)
    archive = server.folder / "cifar-10-binary.tar.gz"
    write_tar(archive, ((f"{FOLDER}/{name}", data) for name, data in batches().items()))
    checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
    file = RemoteFile(archive.name, checksum, (server.url + archive.name,))
    monkeypatch.setattr("autoprune.data.cifar10.ARCHIVE", file)
    data = load_data("cifar10", data_dir=tmp_path / "root", validation=20)
    assert len(data.train) == 5 * RECORDS - 20
    assert (tmp_path / "root" / "cifar10" / archive.name).is_file()
