"""Instructions that a graph needs to be right."""

from __future__ import annotations

import pytest

from dinodeploy.hardware import instructions
from dinodeploy.hardware.devices import Cpu
from dinodeploy.hardware.instructions import VNNI, missing_instructions


@pytest.mark.parametrize(
    ("features", "missing"),
    [
        ({"avx2"}, ("vnni",)),
        ({"avx2", "avx512f"}, ("vnni",)),
        ({"avx2", "avx_vnni"}, ()),
        ({"avx512f", "avx512_vnni"}, ()),
        (set(), ("vnni",)),
    ],
)
def test_vnni(features: set[str], missing: tuple[str, ...]) -> None:
    assert missing_instructions(VNNI, features) == missing


def test_what_is_unknown_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set that only a later version knows, and a system that does not say what its CPU has."""
    assert missing_instructions(("later",), {"avx512_vnni"}) == ("later",)
    monkeypatch.setattr(instructions, "find_cpu", lambda: Cpu("unknown", None))
    assert missing_instructions(VNNI) == VNNI
    assert missing_instructions(()) == ()
