"""Work done ahead of whoever asks for it: in order, several pieces at once, never more than a few."""

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
    lanes: int,
    wait: Callable[[Future[Result]], Result] = Future.result,
) -> Iterator[Result]:
    """`run(item)` of every item, in order, on as many threads as there are lanes.

    One item more for each lane lies ready: a lane that is done before the oldest waits neither for it nor for
    the next item to be made. `wait` waits for a result. What an item raises ends the work.
    """
    running: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(lanes, thread_name_prefix="lane") as pool:
        try:
            for item in items:
                running.append(pool.submit(run, item))
                while len(running) > 2 * lanes - 1:
                    yield wait(running.popleft())
            while running:
                yield wait(running.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
