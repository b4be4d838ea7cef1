"""What a service refuses, with the status that says why.

401  no key, or an unknown one           415  a body that is neither form, JSON nor picture
404  there is nothing of that name       422  a picture or parameter that cannot be used
408  the body did not come in time       429  more requests than --rate
413  more bytes, pixels or pictures      503  the queue is full, it took too long, or it is shutting down
     than the limits
"""

from __future__ import annotations


class Refused(Exception):
    """An answer other than success; `retry_after` is in seconds."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after
