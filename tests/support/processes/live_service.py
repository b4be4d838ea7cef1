"""A service on a local port, in a thread of this process, and its client."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from dinodeploy.serve.limits.log import Log
from dinodeploy.serve.server import Draining, bind
from dinodeploy.serve.service import Service
from dinodeploy.serve.settings import Settings


class Live(httpx.Client):
    """A client of the service, with access to the `Service` and its log."""

    def __init__(self, url: str, service: Service, log: io.StringIO) -> None:
        super().__init__(base_url=url, timeout=30)
        self.service, self.log = service, log

    def embed(self, *files: bytes, **query: Any) -> httpx.Response:
        """POST /embed with the files as a form."""
        form = [("files", (f"{number}.jpg", data)) for number, data in enumerate(files)]
        return self.post("/embed", files=form, params=query)


@contextmanager
def live(bundle: Path, **settings: Any) -> Iterator[Live]:
    """Serve `bundle`; `settings` are `Settings`'."""
    log = io.StringIO()
    with Service.open(Settings(bundle, threads=1, **settings)) as service, bind("127.0.0.1", 0) as listener:
        server = Draining(service, Log(log))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Live(url, service, log) as client:
            yield client
        server.should_exit = True
        thread.join()
