"""Remote images: fsspec's memory file system, a zip file, and a web server with failures."""

from __future__ import annotations

import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinodeploy.errors import MisuseError, UnavailableError
from dinodeploy.images.open import open_image
from dinodeploy.sources import SourceOptions, open_source, remote
from tests.dinodeploy.sources.reading import assert_same, read_all, read_by_threads
from tests.support.images.image_files import NAMES, encoded, write_tar
from tests.support.images.video_files import write_video

fsspec = pytest.importorskip("fsspec")

IMAGES = {f"{name}.jpg": encoded(name) for name in NAMES}


@pytest.fixture
def memory() -> Iterator[Any]:
    fs = fsspec.filesystem("memory")
    for name, data in IMAGES.items():
        fs.pipe(f"/m/photos/{name}", data)
    fs.pipe("/m/photos/sub/deep.jpg", IMAGES["coffee.jpg"])
    fs.pipe("/m/photos/.hidden/no.jpg", b"")
    fs.pipe("/m/photos/notes.md", b"no image")
    yield fs
    fs.rm("/m", recursive=True)


def misuse(*inputs: str) -> str:
    with pytest.raises(MisuseError) as caught:
        open_source(inputs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_folder_glob_and_file(memory: Any) -> None:
    photos = [f"memory:///m/photos/{name}" for name in sorted(IMAGES)]
    source = open_source(["memory://m/photos"])
    assert list(source.ids) == [*photos, "memory:///m/photos/sub/deep.jpg"]
    wanted = [np.asarray(open_image(IMAGES[name])) for name in sorted(IMAGES)]
    assert_same(read_by_threads(source)[:-1], wanted)
    assert list(open_source(["memory://m/photos"], SourceOptions(recursive=False)).ids) == photos
    assert list(open_source(["memory://m/photos/c*.jpg"]).ids) == [one for one in photos if "/c" in one]
    assert list(open_source([photos[3], "memory://m/photos/coffee.jpg"]).ids) == [photos[3]]  # one location


def test_archives_tables_and_lists_may_be_remote(memory: Any) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    write_tar(Path("a.tar"), IMAGES)
    pq.write_table(pa.table({"image": list(IMAGES.values())}), "a.parquet", row_group_size=2)
    Path("l.txt").write_text("photos/coffee.jpg\nphotos/none.jpg\n")
    Path("t.csv").write_text("url\nmemory://m/photos/china.jpg\nphotos/coffee.jpg\n")
    for name in ("a.tar", "a.parquet", "l.txt", "t.csv"):
        memory.put(name, f"/m/{name}")
    wanted = [np.asarray(open_image(data)) for data in IMAGES.values()]
    for name in ("a.tar", "a.parquet"):
        source = open_source([f"memory://m/{name}"])
        assert source.ids[0] == f"memory:///m/{name}" + ("/astronaut.jpg" if name == "a.tar" else "#0")
        assert_same(read_by_threads(source), wanted)
        source.close()
    seen = read_all("memory://m/l.txt")
    assert list(seen) == ["memory:///m/photos/coffee.jpg", "memory:///m/photos/none.jpg"]
    assert "not found" in seen["memory:///m/photos/none.jpg"]
    assert list(read_all("memory://m/t.csv")) == [
        "memory://m/photos/china.jpg",
        "memory:///m/photos/coffee.jpg",
    ]
    memory.pipe("/m/cut.tar", Path("a.tar").read_bytes()[:9000])
    assert "lost after" in read_all("memory://m/cut.tar")["memory:///m/cut.tar#rest"]


def test_videos_may_be_remote(memory: Any) -> None:
    pytest.importorskip("av")
    memory.put(str(write_video(Path("a.mp4"), 5)), "/m/a.mp4")
    local, far = read_all("a.mp4"), read_all("memory://m/a.mp4")
    assert list(far) == [id_.replace("a.mp4", "memory:///m/a.mp4") for id_ in local]
    assert_same(list(far.values()), list(local.values()))


def test_zip_files_through_a_chained_url() -> None:
    with zipfile.ZipFile("p.zip", "w") as archive:
        for name, data in IMAGES.items():
            archive.writestr(f"k/{name}", data)
    wanted = [np.asarray(open_image(IMAGES[name])) for name in sorted(IMAGES)]
    for url in ("zip://k::p.zip", "zip://k/*::p.zip", "zip://::p.zip"):
        source = open_source([url])
        assert list(source.ids) == [f"zip://k/{name}::p.zip" for name in sorted(IMAGES)]
        assert_same(read_by_threads(source), wanted)
        source.close()
    fsspec.filesystem("zip", fo="p.zip").close()


def test_misuse_is_one_line(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "'memory://m/none.jpg' cannot be listed: not found" in misuse("memory://m/none.jpg")
    assert "'memory://m/*.png' matches nothing" in misuse("memory://m/*.png")
    assert "cannot be reached: ValueError: Protocol not known: foo" in misuse("foo://m/x.jpg")
    memory.makedirs("/m/empty")
    assert "no image under 'memory://m/empty'" in misuse("memory://m/empty")
    Path("l.txt").write_text("foo://x/y.jpg\n")
    assert "Protocol not known" in misuse("l.txt")  # reported before the work begins
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(UnavailableError, match=r"pip install 'dinodeploy\[remote\]'"):
        open_source(["memory://m/photos"])


def test_package_that_a_protocol_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(UnavailableError, match="needs a package that is missing: Install s3fs to access S3"):
        open_source(["s3://bucket/x.jpg"])


class Web(ThreadingHTTPServer):
    """Serves `files`, after the failures listed in `trouble`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.trouble: dict[str, list[int | float]] = {}  # statuses, or seconds to wait (floats)
        self.asked: Counter[str] = Counter()
        self.ranges = True

    def handle_error(self, *_: Any) -> None: ...  # a client that gave up

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Web
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: Any) -> None: ...

    def _answer(self, body: bool) -> None:
        self.server.asked[self.path] += 1
        trouble = self.server.trouble.get(self.path)
        if trouble:
            what = trouble.pop(0)
            if isinstance(what, float):
                time.sleep(what)
            else:
                self._send(what, b"", body)
                return
        data = self.server.files.get(self.path)
        if data is None:
            self._send(404, b"", body)
            return
        wanted = self.headers.get("Range")
        if wanted and self.server.ranges:
            first, last = wanted.removeprefix("bytes=").split("-")
            data = data[int(first) : int(last) + 1]
        self._send(206 if wanted and self.server.ranges else 200, data, body)

    def _send(self, status: int, data: bytes, body: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "image/jpeg")
        if self.server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.01)
    server = Web()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.files = {f"/{name}": data for name, data in IMAGES.items()}
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_web_images_and_a_listed_folder(web: Web) -> None:
    links = "".join(f'<a href="{name}">{name}</a>' for name in IMAGES)
    web.files["/folder/"] = links.encode()
    web.files |= {f"/folder/{name}": data for name, data in IMAGES.items()}
    seen = read_all(f"{web.url}/coffee.jpg", f"{web.url}/china.jpg?size=big", f"{web.url}/none.jpg")
    assert list(seen) == [f"{web.url}/coffee.jpg", f"{web.url}/china.jpg?size=big", f"{web.url}/none.jpg"]
    np.testing.assert_array_equal(seen[f"{web.url}/coffee.jpg"], np.asarray(open_image(encoded("coffee"))))
    assert "not found" in seen[f"{web.url}/none.jpg"]
    source = open_source([f"{web.url}/folder/"])
    assert list(source.ids) == [f"{web.url}/folder/{name}" for name in sorted(IMAGES)]
    assert_same(read_by_threads(source), [np.asarray(open_image(IMAGES[name])) for name in sorted(IMAGES)])


def test_temporary_failures_are_retried(web: Web) -> None:
    web.trouble["/coffee.jpg"] = [503, 429, 500]
    web.trouble["/china.jpg"] = [403]
    seen = read_all(f"{web.url}/coffee.jpg", f"{web.url}/china.jpg", f"{web.url}/gone.jpg")
    assert not isinstance(seen[f"{web.url}/coffee.jpg"], str)
    assert "the server answers 403" in seen[f"{web.url}/china.jpg"]
    assert [web.asked[f"/{name}.jpg"] for name in ("coffee", "china", "gone")] == [4, 1, 1]


def test_a_server_that_hangs_or_keeps_failing_times_out(web: Web) -> None:
    web.trouble["/coffee.jpg"] = [3.0] * 9
    web.trouble["/china.jpg"] = [503] * 999
    started = time.monotonic()
    seen = read_all(f"{web.url}/coffee.jpg", f"{web.url}/china.jpg", timeout=0.4)
    web.files["/a.tar"] = b""
    web.trouble["/a.tar"] = [3.0] * 9
    (lost,) = read_all(f"{web.url}/a.tar", timeout=0.4).values()
    assert "lost after 0 images" in lost
    assert time.monotonic() - started < 4
    assert "cannot be fetched: " in seen[f"{web.url}/coffee.jpg"]
    assert "the server answers 503" in seen[f"{web.url}/china.jpg"]


@pytest.mark.parametrize("ranges", [True, False])
def test_archive_behind_a_web_server(web: Web, ranges: bool) -> None:
    web.ranges = ranges
    web.files["/a.tar"] = write_tar(Path("a.tar"), IMAGES).read_bytes()
    web.trouble["/a.tar"] = [503]
    source = open_source([f"{web.url}/a.tar"])
    assert list(source.ids) == [f"{web.url}/a.tar/{name}" for name in IMAGES]
    assert_same(read_by_threads(source), [np.asarray(open_image(data)) for data in IMAGES.values()])


def test_no_server_at_all(web: Web) -> None:
    url = "http://127.0.0.1:9/x.jpg"  # the discard port, without a server
    assert "cannot be fetched" in read_all(url, timeout=0.2)[url]
