"""As much of Elasticsearch's HTTP API as docs/vector-databases.md uses, with the rules of its documentation.

It refuses what the documentation says that Elasticsearch refuses: fields that the mapping does not know,
vectors of another length, vectors that are not of length 1 where the similarity is `dot_product`, an `_id` of
more than 512 bytes, a bulk body that does not end with a newline. It does not prove that a server accepts the
rest.

Sources: https://www.elastic.co/docs/reference/elasticsearch/mapping-reference/dense-vector and
https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-bulk
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

DENSE_VECTOR = {"type", "dims", "index", "similarity", "element_type", "index_options"}
SIMILARITIES = {"l2_norm", "dot_product", "cosine", "max_inner_product"}
MOST_DIMS = 4096
UNIT = 1e-4  # by how much the squared length may differ from 1


class Indices:
    """Indices by name: their fields, and their documents by `_id`. Nothing is seen before a refresh."""

    def __init__(self) -> None:
        self.fields: dict[str, dict[str, Any]] = {}
        self.written: dict[str, dict[str, Any]] = {}
        self.seen: dict[str, dict[str, Any]] = {}
        self.indexed = 0  # documents written, over all requests

    def create(self, name: str, mappings: dict[str, Any]) -> None:
        for field in mappings["properties"].values():
            if field["type"] == "dense_vector":
                assert field.keys() <= DENSE_VECTOR, field
                assert 1 <= field["dims"] <= MOST_DIMS
                assert field["similarity"] in SIMILARITIES
                assert field["index"] is True
        self.fields[name], self.written[name], self.seen[name] = mappings["properties"], {}, {}

    def bulk(self, body: bytes) -> dict[str, Any]:
        assert body.endswith(b"\n"), "the last line of a bulk body ends with a newline"
        lines = [json.loads(line) for line in body.splitlines()]
        items = []
        for action, source in zip(lines[::2], lines[1::2], strict=True):
            ((kind, where),) = action.items()
            assert kind == "index", "which replaces a document of the same _id"
            assert len(where["_id"].encode()) <= 512
            self._check(self.fields[where["_index"]], source)
            self.written[where["_index"]][where["_id"]] = source
            self.indexed += 1
            items.append({kind: {**where, "status": 201, "result": "created"}})
        return {"took": 1, "errors": False, "items": items}

    def _check(self, fields: dict[str, Any], source: dict[str, Any]) -> None:
        assert source.keys() == fields.keys()
        for name, field in fields.items():
            if field["type"] == "dense_vector":
                vector = np.array(source[name], np.float64)
                assert vector.shape == (field["dims"],)
                assert field["similarity"] != "dot_product" or abs(vector @ vector - 1) < UNIT
            else:
                assert isinstance(source[name], {"keyword": str, "integer": int}[field["type"]])

    def matching(self, name: str, query: dict[str, Any]) -> list[str]:
        """The `_id`s of the documents that a term, terms or must_not query finds."""
        ((kind, how),) = query.items()
        documents = self.seen[name]
        if kind == "bool":
            left_out = set(self.matching(name, how["must_not"]))
            return [id_ for id_ in documents if id_ not in left_out]
        ((field, value),) = how.items()
        assert self.fields[name][field]["type"] == "keyword"
        values = [value] if kind == "term" else value
        return [id_ for id_, source in documents.items() if source[field] in values]

    def nearest(self, name: str, knn: dict[str, Any], size: int, source: list[str]) -> list[dict[str, Any]]:
        assert knn["k"] <= knn["num_candidates"] <= 10_000
        assert self.fields[name][knn["field"]]["similarity"] == "dot_product"
        query = np.array(knn["query_vector"])
        assert abs(query @ query - 1) < UNIT
        hits = [
            {
                "_id": id_,
                "_score": (1 + float(np.array(found[knn["field"]]) @ query)) / 2,
                "_source": {key: found[key] for key in source},
            }
            for id_, found in self.seen[name].items()
        ]
        return sorted(hits, key=lambda hit: -float(str(hit["_score"])))[: min(size, knn["k"])]

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON of a request."""
        name, _, rest = path.partition("?")[0].strip("/").partition("/")
        if name == "_bulk":
            return 200, self.bulk(body)
        if method == "HEAD":
            return (200 if name in self.fields else 404), None
        given = json.loads(body) if body else {}
        if method == "PUT" and not rest:
            self.create(name, given["mappings"])
            return 200, {"acknowledged": True, "index": name}
        if rest == "_refresh":
            self.seen[name] = dict(self.written[name])
            return 200, {"_shards": {"failed": 0}}
        if rest == "_count":
            return 200, {"count": len(self.matching(name, given["query"]))}
        if rest == "_delete_by_query":
            found = self.matching(name, given["query"])
            for id_ in found:
                del self.written[name][id_]
            self.seen[name] = dict(self.written[name])
            return 200, {"deleted": len(found), "failures": []}
        assert rest == "_search", path
        hits = self.nearest(name, given["knn"], given["size"], given["_source"])
        return 200, {"took": 1, "timed_out": False, "hits": {"hits": hits}}


@contextmanager
def elasticsearch() -> Iterator[tuple[str, Indices]]:
    """The address of a server, and what it holds."""
    indices = Indices()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                status, answer = indices.answer(self.command, self.path, body)
            except (AssertionError, KeyError, ValueError) as error:
                status, answer = 400, {"error": {"type": "refused", "reason": repr(error)}, "status": 400}
            content = b"" if answer is None else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("X-Elastic-Product", "Elasticsearch")  # without it the client refuses to go on
            self.send_header("Content-Type", "application/vnd.elasticsearch+json;compatible-with=9")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_HEAD = do_PUT = do_POST = do_GET = handle_one  # noqa: N815

        def log_message(self, *arguments: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", indices
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
