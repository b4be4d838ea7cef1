"""Rate limits, with an injected clock."""

from __future__ import annotations

from dinodeploy.serve.access import RateLimit


def test_each_client_has_a_bucket_that_refills() -> None:
    now = 0.0
    limit = RateLimit(2.0, clock=lambda: now)
    assert [limit.take("a") for _ in range(3)] == [0, 0, 1]
    assert limit.take("b") == 0
    now = 0.5
    assert [limit.take("a"), limit.take("a")] == [0, 1]
    now = 100.0
    assert [limit.take("a") for _ in range(3)] == [0, 0, 1]
    slow = RateLimit(0.1, clock=lambda: now)
    assert [slow.take("a"), slow.take("a")] == [0, 10]
