"""`Refused`: an error answer of the service, with its HTTP status.

401  missing or unknown API key          415  the body is no form, JSON or image
404  no such image, or no index          422  an image or parameter that cannot be used
408  the body took too long to arrive    429  more requests per second than --rate
413  more bytes, pixels or images        503  queue full, time limit exceeded, short of memory,
     than allowed                             or shutting down
421  the Host header names another host
"""

from __future__ import annotations

from collections.abc import Mapping


class Refused(Exception):
    """An error answer. retry_after: seconds after which the client may try again.

    param, code: under /v1 also the field of the request that is wrong, and a word for programs.
    """

    def __init__(
        self,
        status: int,
        message: str,
        retry_after: int | None = None,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after
        self.param, self.code = param, code
        self.headers = headers or {}
