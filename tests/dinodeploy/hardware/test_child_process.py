"""Start and end of one helper process: here a decoder."""

from __future__ import annotations

import signal

from dinodeploy.hardware.child_process import cause_of, end_process, start_process
from dinodeploy.serve.decoders.pool import WORKER
from dinodeploy.serve.decoders.wire import receive_reply


def test_a_process_starts_and_ends() -> None:
    process = start_process(WORKER, 1 << 28, 0)
    assert process.stdout is not None
    assert receive_reply(process.stdout, 0) == ({"ready": True}, b"")
    assert end_process(process) == -signal.SIGKILL
    assert process.stdout.closed


def test_a_process_ends_when_the_service_has_died() -> None:
    process = start_process(WORKER, 1 << 28, 0)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == 0
    assert end_process(process) == 0


def test_causes() -> None:
    assert cause_of(-signal.SIGKILL, late=True) == "past its deadline"
    assert cause_of(-signal.SIGSEGV, late=False) == "SIGSEGV"
    assert cause_of(1, late=False) == "exit 1"
