"""The log: a flood is counted, not written."""

from __future__ import annotations

import io
import json
import logging

from dinodeploy.serve.limits.log import BURST, LINES, Log, LogHandler


def test_a_flood_is_counted() -> None:
    now = 0.0
    stream = io.StringIO()
    log = Log(stream, clock=lambda: now)
    for number in range(10 * int(BURST)):
        log.write({"number": number})
    assert stream.getvalue().count("\n") == BURST
    now = 2.0
    for _ in range(1000):
        log.write({"late": True})
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) == BURST + 2 * LINES
    assert lines[int(BURST)]["left_out"] == 9 * BURST
    assert "left_out" not in lines[-1]


def test_warnings_of_libraries_are_one_line_without_traceback() -> None:
    stream = io.StringIO()
    logger = logging.getLogger("a library")
    logger.handlers, logger.propagate = [LogHandler(Log(stream))], False
    try:
        raise OSError("too many open files")
    except OSError:
        logger.exception("accept\nfailed")
    (line,) = map(json.loads, stream.getvalue().splitlines())
    assert line["warning"] == "accept failed: OSError: too many open files"
    assert line["from"] == "a library"
