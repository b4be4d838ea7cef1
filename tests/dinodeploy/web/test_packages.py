"""npm packages: from the configured registry, only with the pinned hash, and once."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dinodeploy.errors import MisuseError, TamperedError, UnavailableError
from dinodeploy.web.packages import RUNTIME, Package, copy_runtime, fetch, registry


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """A package `@lab/tool` on a registry of this machine, and an empty cache."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in ("package/dist/tool.mjs", "package/dist/unused.mjs"):
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"code"))
    place = tmp_path / "registry/@lab/tool/-"
    place.mkdir(parents=True)
    (place / "tool-1.2.3.tgz").write_bytes(buffer.getvalue())
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "registry")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    digest = base64.b64encode(hashlib.sha512(buffer.getvalue()).digest()).decode()
    yield Package("@lab/tool", "1.2.3", f"sha512-{digest}", ("tool.mjs",))
    server.shutdown()
    server.server_close()


def test_downloaded_once(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    folder = fetch(package, said.append)
    assert [path.name for path in folder.iterdir()] == ["tool.mjs"]
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    assert fetch(package, said.append) == folder
    assert said == ["downloading @lab/tool 1.2.3"]


def test_another_file_is_refused(package: Package, tmp_path: Path) -> None:
    wrong = Package(package.name, package.version, RUNTIME.integrity, package.files)
    with pytest.raises(TamperedError, match="its hash is another"):
        fetch(wrong)
    assert not list(tmp_path.glob("cache/**/tool.mjs"))


def test_no_network_says_what_to_do(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match=r"npm pack @lab/tool@1\.2\.3.*--runtime"):
        fetch(package)


def test_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("npm_config_registry", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert registry() == "https://registry.npmjs.org"
    (tmp_path / ".npmrc").write_text("fund=false\nregistry = https://npm.lab.example/all/\n")
    assert registry() == "https://npm.lab.example/all"
    monkeypatch.setenv("npm_config_registry", "file:///etc")
    with pytest.raises(MisuseError, match="wanted https"):
        registry()


def test_a_folder_in_place_of_a_download(tmp_path: Path) -> None:
    (tmp_path / "package/dist").mkdir(parents=True)
    with pytest.raises(MisuseError, match=r"no ort\.wasm\.min\.mjs"):
        copy_runtime(tmp_path / "out", tmp_path / "package")
    for name in RUNTIME.files:
        (tmp_path / "package/dist" / name).write_text(name)
    assert copy_runtime(tmp_path / "out", tmp_path / "package") == "onnxruntime-web of package"
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(RUNTIME.files)
