"""The memory of request bodies: waiting, giving way, and what is left to small ones."""

from __future__ import annotations

import asyncio
import time

import pytest

from dinodeploy.serve.limits import budget as budgets
from dinodeploy.serve.limits.budget import SMALL, ByteBudget
from dinodeploy.serve.refused import Refused

MIB = 1 << 20


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "PATIENCE", 0.1)


def soon(seconds: float = 5) -> float:
    return time.monotonic() + seconds


def test_a_body_waits_until_there_is_room() -> None:
    async def run() -> None:
        budget = ByteBudget(16 * MIB)
        first, second = budget.open(), budget.open()
        await budget.reserve(first, 10 * MIB, soon())
        first.finished = True  # it is being answered, so it does not give way
        waiting = asyncio.create_task(budget.reserve(second, 10 * MIB, soon()))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        budget.close(first)
        await waiting
        assert budget.used == 10 * MIB
        budget.close(second)
        assert budget.used == 0

    asyncio.run(run())


def test_a_slow_large_body_gives_way() -> None:
    async def run() -> None:
        budget = ByteBudget(16 * MIB)
        slow, honest = budget.open(), budget.open()
        await budget.reserve(slow, 12 * MIB, soon())
        slow.parts.append(b"x")
        await budget.reserve(honest, 10 * MIB, soon())
        assert budget.used == 10 * MIB
        assert slow.parts == []
        with pytest.raises(Refused, match="short of memory") as refused:
            slow.take()
        assert refused.value.status == 503

    asyncio.run(run())


def test_small_bodies_have_a_quarter_of_their_own() -> None:
    async def run() -> None:
        budget = ByteBudget(16 * MIB)
        for _ in range(3):
            upload = budget.open()
            await budget.reserve(upload, 4 * MIB, soon())
            upload.finished = True
        small, large = budget.open(), budget.open()
        await budget.reserve(small, SMALL, soon())
        with pytest.raises(Refused) as refused:
            await budget.reserve(large, SMALL + 1, soon(0.2))
        assert refused.value.status == 503

    asyncio.run(run())
