"""Records are named after their machine."""

from __future__ import annotations

from dinodeploy.bench.ledger import record_name


def test_a_record_is_named_for_its_machine() -> None:
    name = record_name("cpu", "vit_small", "fp32")
    assert name.startswith("cpu_vit_small_fp32_")
    assert name == name.lower()
    assert name.endswith(".json")
