"""The Hugging Face hub, played by a small HTTP server on this machine for the real client of huggingface_hub.

Repositories have commits and branches; large files are kept apart, by their SHA-256, and are downloaded
from another address; the routes are those of a model repository: resolve, info, paths-info, create, branch,
preupload, LFS batch, commit, settings. Faults can be planted. Sources: the requests of huggingface_hub 0.30
and 2.4, https://huggingface.co/docs/hub/api, https://git-lfs.com
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

LARGE = (".safetensors", ".onnx", ".onnx.data", ".plan", ".bin")  # kept by LFS, as .gitattributes would say
WRITER, READER = "hf_writer", "hf_reader"


@dataclass
class Repository:
    """Commits are whole trees: path -> content."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    private: bool = False
    gated: str | bool = False

    def commit(self, branch: str, files: dict[str, bytes], message: str = "") -> str:
        text = json.dumps(
            [len(self.commits), sorted((n, hashlib.sha1(c).hexdigest()) for n, c in files.items())]
        )
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        self.messages.append(message)
        return commit

    def find(self, revision: str) -> str | None:
        commit = self.branches.get(revision, revision)
        return commit if commit in self.commits else None


@dataclass
class Hub:
    """What the server holds, what it was asked for, and what is wrong with it."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)  # SHA-256 -> content that was uploaded
    gated: set[str] = field(default_factory=set)  # repositories that nobody may read
    corrupted: set[str] = field(default_factory=set)  # names of files served with a flipped byte
    truncated: set[str] = field(default_factory=set)  # names of files cut off in the middle
    unhashed: bool = False  # ETags that are no SHA-256
    status: int | None = None  # of every answer
    delay: float = 0.0  # seconds before every answer
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, repository, path or route
    tokens: list[str | None] = field(default_factory=list)
    cards: list[str] = field(default_factory=list)  # README.md that were validated
    endpoint: str = ""
    storage: str = ""  # the address of large files: another host, to which no token is sent

    def hold(self, repo: str, directory: Path, message: str = "") -> str:
        """A commit of a folder's files on main."""
        files = {
            p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()
        }
        return self.repositories.setdefault(repo, Repository()).commit("main", files, message)

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        found = self.repositories[repo]
        return found.commits[found.branches.get(revision, revision)]

    def head(self, repo: str, branch: str = "main") -> str:
        return self.repositories[repo].branches[branch]

    def downloaded(self) -> list[str]:
        """Names of the files whose content was asked for."""
        return [name for method, _, name in self.asked if method == "GET" and not name.startswith("api ")]


def is_large(name: str, content: bytes) -> bool:
    return name.endswith(LARGE) or len(content) > 10 << 20


def blob_id(content: bytes) -> str:
    """Git's hash of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def entry(name: str, content: bytes) -> dict[str, Any]:
    """A file as the hub lists it."""
    found: dict[str, Any] = {"type": "file", "path": name, "rfilename": name, "size": len(content)}
    found["oid"] = found["blobId"] = blob_id(content)
    if is_large(name, content):
        sha256 = hashlib.sha256(content).hexdigest()
        found["lfs"] = {"oid": sha256, "sha256": sha256, "size": len(content), "pointerSize": 134}
    return found


class Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class Handler(BaseHTTPRequestHandler):
    hub: Hub  # of the class made by `serve_hub`

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self.read_chunks()
        else:
            body = self.rfile.read(length)
        url = urlsplit(self.path)
        if self.hub.delay:
            time.sleep(self.hub.delay)
        try:
            if self.hub.status is not None:
                raise Refused(self.hub.status, message="planted")
            self.route(unquote(url.path), parse_qs(url.query), body)
        except Refused as refused:
            words = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            self.send(
                refused.status,
                json.dumps({"error": refused.message}).encode(),
                {k: v for k, v in words.items() if v},
            )
        except (BrokenPipeError, ConnectionResetError):
            """The client has gone: it did not wait, or saw the fault."""

    def read_chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def route(self, path: str, query: dict[str, list[str]], body: bytes) -> None:
        hub = self.hub
        if not path.startswith("/large/"):
            hub.tokens.append(self.headers.get("Authorization"))
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/(.+)", path):
            return self.resolve(match[1], match[2])
        if match := re.fullmatch(r"/large/([0-9a-f]{64})/([^/]+/[^/]+)/(.*)", path):
            assert "Authorization" not in self.headers
            hub.asked.append((self.command, match[2], match[3]))
            return self.send_file(match[3], match[1])
        if match := re.fullmatch(r"/upload/([0-9a-f]{64})", path):
            assert hashlib.sha256(body).hexdigest() == match[1], "the client sends what it announced"
            hub.large[match[1]] = body
            return self.send(200)
        if match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self.batch(match[1], json.loads(body))
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            return self.validate(json.loads(body)["content"])
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(\w[\w-]*)(?:/(.+))?)?", path):
            return self.of_model(match[1], match[2] or "revision", match[3] or "main", query, body)
        raise Refused(404, "RepoNotFound", path)

    def of_model(self, repo: str, what: str, revision: str, query: Any, body: bytes) -> None:
        self.hub.asked.append((self.command, repo, f"api {what}"))
        found = self.readable(repo)
        if what == "branch":
            self.require_writer()
            if revision in found.branches:
                raise Refused(409, message="Reference already exists")
            found.branches[revision] = found.branches["main"]
            return self.send_json({})
        if what == "settings":
            self.require_writer()
            found.gated = json.loads(body)["gated"]
            return self.send_json({})
        commit = self.commit_of(found, revision)
        files = found.commits[commit]
        if what == "revision":
            siblings = [entry(name, content) for name, content in sorted(files.items())]
            return self.send_json(
                {
                    "_id": "1",
                    "id": repo,
                    "modelId": repo,
                    "sha": commit,
                    "private": found.private,
                    "gated": found.gated,
                    "tags": [],
                    "siblings": siblings,
                    "disabled": False,
                    "downloads": 0,
                    "likes": 0,
                }
            )
        if what == "tree":
            return self.send_json([entry(name, content) for name, content in sorted(files.items())])
        if what == "paths-info":
            paths = parse_qs(body.decode())["paths"]
            return self.send_json([entry(name, files[name]) for name in paths if name in files])
        if what == "preupload":
            self.require_writer()
            return self.send_json(
                {"files": [self.preuploaded(one, files) for one in json.loads(body)["files"]]}
            )
        if what == "commit":
            self.require_writer()
            return self.make_commit(repo, found, revision, commit, body)
        raise Refused(404, "RepoNotFound", what)

    def preuploaded(self, asked: dict[str, Any], files: dict[str, bytes]) -> dict[str, Any]:
        name = asked["path"]
        mode = "lfs" if name.endswith(LARGE) or asked["size"] > 10 << 20 else "regular"
        there = entry(name, files[name]) if name in files else {}
        oid = there.get("lfs", {}).get("sha256") or there.get("oid")
        return {"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    def make_commit(self, repo: str, found: Repository, branch: str, parent: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, parent):
            raise Refused(412, message="A commit has happened since. Please refresh and try again.")
        files = dict(found.commits[parent])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.large:
                    raise Refused(400, message=f"{value['path']} was not uploaded")
                files[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise Refused(400, message=f"what is {line['key']}?")
        commit = found.commit(branch, files, header["summary"])
        self.send_json(
            {
                "commitUrl": f"{self.hub.endpoint}/{repo}/commit/{commit}",
                "commitOid": commit,
                "success": True,
                "hookOutput": "",
            }
        )

    def create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked['organization']}/{asked['name']}"
        self.hub.asked.append((self.command, repo, "api create"))
        self.require_writer()
        url = f"{self.hub.endpoint}/{repo}"
        if repo in self.hub.repositories:
            return self.send_json({"url": url, "error": "You already created this model repo"}, 409)
        private = asked.get("private") or asked.get("visibility") == "private"
        made = self.hub.repositories[repo] = Repository(private=bool(private))
        made.commit("main", {".gitattributes": b"*.onnx filter=lfs\n"}, "initial commit")
        return self.send_json({"url": url, "name": repo, "id": "1"})

    def validate(self, content: str) -> None:
        self.hub.cards.append(content)
        front = yaml.safe_load(content.split("---")[1])
        wrong = [] if isinstance(front, dict) else [{"message": "no front matter"}]
        self.send_json({"errors": wrong, "warnings": []}, 400 if wrong else 200)

    def batch(self, repo: str, asked: dict[str, Any]) -> None:
        self.require_writer()
        objects = []
        for one in asked["objects"]:
            upload = {"upload": {"href": f"{self.hub.endpoint}/upload/{one['oid']}"}}
            known = one["oid"] in self.hub.large
            objects.append({**one, "authenticated": True, **({} if known else {"actions": upload})})
            if not known:
                self.hub.asked.append(("UPLOAD", repo, one["oid"]))
        self.send_json({"transfer": "basic", "objects": objects})

    def readable(self, repo: str) -> Repository:
        if repo in self.hub.gated:
            raise Refused(403, "GatedRepo", f"Access to model {repo} is restricted")
        found = self.hub.repositories.get(repo)
        token = self.headers.get("Authorization")
        if token not in (None, f"Bearer {WRITER}", f"Bearer {READER}", "Bearer hf_secret"):
            raise Refused(401, message="Invalid credentials in Authorization header")
        if found is None or (found.private and token is None):
            raise Refused(401 if token is None else 404, "RepoNotFound", "Repository not found")
        return found

    def require_writer(self) -> None:
        token = self.headers.get("Authorization")
        if token is None:
            raise Refused(401, message="Invalid username or password.")
        if token != f"Bearer {WRITER}":
            raise Refused(
                403, message='You don\'t have the rights to create a model under the namespace "org"'
            )

    def commit_of(self, found: Repository, revision: str) -> str:
        commit = found.find(revision)
        if commit is None:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def resolve(self, repo: str, rest: str) -> None:
        found = self.hub.repositories.get(repo)
        named = (
            [name for name in (*found.branches, *found.commits) if rest.startswith(f"{name}/")]
            if found
            else []
        )
        revision = max(named, key=len, default=rest.partition("/")[0])
        name = rest.removeprefix(f"{revision}/")
        self.hub.asked.append((self.command, repo, name))
        files = self.readable(repo).commits[commit := self.commit_of(self.readable(repo), revision)]
        if name not in files:
            raise Refused(404, "EntryNotFound", f"{name} is not there")
        content = files[name]
        head = {"X-Repo-Commit": commit}
        if not is_large(name, content) or self.hub.unhashed:
            return self.send(
                200, self.damaged(name, content), {**head, "ETag": f'"{blob_id(content)}"'}, cut=name
            )
        sha256 = hashlib.sha256(content).hexdigest()
        self.hub.large[sha256] = content
        head |= {
            "X-Linked-Etag": f'"{sha256}"',
            "X-Linked-Size": str(len(content)),
            "ETag": f'"{sha256[:8]}"',
        }
        return self.send(302, b"", {**head, "Location": f"{self.hub.storage}/large/{sha256}/{repo}/{name}"})

    def send_file(self, name: str, sha256: str) -> None:
        content = self.hub.large[sha256]
        start = int(re.sub(r"bytes=(\d+)-.*", r"\1", self.headers.get("Range") or "bytes=0-"))
        part = self.damaged(name, content)[start:]
        ranges = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        self.send(206 if start else 200, part, {"ETag": f'"{sha256}"', **ranges}, cut=name)

    def damaged(self, name: str, content: bytes) -> bytes:
        last = name.rpartition("/")[2]
        return content[:-1] + bytes([content[-1] ^ 1]) if last in self.hub.corrupted else content

    def send_json(self, content: Any, status: int = 200) -> None:
        self.send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def send(
        self, status: int, content: bytes = b"", headers: dict[str, str] | None = None, cut: str = ""
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            whole = cut.rpartition("/")[2] not in self.hub.truncated
            self.wfile.write(content if whole else content[: len(content) // 2])

    def log_message(self, *args: object) -> None:
        """Quiet."""


@contextmanager
def serve_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that this process's huggingface_hub uses, with an empty cache in `folder` and no token."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HandlerOfHub", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    hub.storage = f"http://localhost:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    constants = "huggingface_hub.constants"
    monkeypatch.setattr(f"{constants}.ENDPOINT", hub.endpoint)  # read from the environment once
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, "huggingface_hub.file_download"):  # where older versions keep a copy
        monkeypatch.setattr(f"{module}.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(f"{constants}.HF_TOKEN_PATH", str(folder / "token"))
    monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(f"{constants}.HF_HUB_DISABLE_XET", True, raising=False)  # its servers are others
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    disable_progress_bars()
    try:
        yield hub
    finally:
        enable_progress_bars()
        server.shutdown()
        server.server_close()
        thread.join()
