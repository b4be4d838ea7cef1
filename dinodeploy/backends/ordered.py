"""Ordered parallel map with a bounded number of pending items."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_in_order(
    run: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    wait: Callable[[Future[Result]], Result] = Future.result,
) -> Iterator[Result]:
    """`run(item)` for every item on `threads` threads; results come in the order of the items.

    One more item per thread is pending: a thread that finishes early waits neither for the oldest item nor
    for the next one to be made. `wait` waits for a result. An exception in an item ends the iteration.
    """
    running: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="parallel-run") as pool:
        try:
            for item in items:
                running.append(pool.submit(run, item))
                while len(running) > 2 * threads - 1:
                    yield wait(running.popleft())
            while running:
                yield wait(running.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
