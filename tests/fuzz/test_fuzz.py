"""All our parsers on more than ten thousand damaged inputs.

    DINODEPLOY_FUZZ=20 pytest tests/fuzz       20 times as many mutants
    DINODEPLOY_FUZZ_SEED=7 pytest tests/fuzz   other mutants

A failure names its seed; the same seed gives the same mutant.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz import light
from tests.fuzz.attack import Violation, run_attack
from tests.fuzz.child import Child

TIMES = int(os.environ.get("DINODEPLOY_FUZZ", "1"))
SEED = int(os.environ.get("DINODEPLOY_FUZZ_SEED", "0"))
LEAST = 10_000
HEAVY = {"skeleton": 800, "external": 300, "onnxruntime": 300, "checkpoint": 500, "head": 300}
NOTHING_IS_REFUSED = ("receipts", "tar")  # damage is no error there: a missing receipt, an unreadable image


@pytest.fixture(scope="module")
def light_child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    child = Child("tests.fuzz.light", tmp_path_factory.mktemp("light"))
    yield child
    child.close()


@pytest.fixture(scope="module")
def heavy_child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    child = Child("tests.fuzz.heavy", tmp_path_factory.mktemp("heavy"))
    yield child
    child.close()


def check(child: Child, target: str, count: int) -> None:
    outcome = child.attack(target, count, SEED)
    assert outcome["failure"] == "", outcome["failure"]
    assert outcome["taken"] + outcome["refused"] == count
    if target not in NOTHING_IS_REFUSED:
        assert outcome["refused"] > count // 20, "else the mutants are harmless and prove nothing"


@pytest.mark.slow
@pytest.mark.parametrize("target", list(light.TARGETS))
def test_parsers_of_the_runtime(target: str, light_child: Child) -> None:
    check(light_child, target, light.TARGETS[target][1] * TIMES)


@pytest.mark.parametrize("target", list(HEAVY))
def test_parsers_of_graphs_and_checkpoints(target: str, heavy_child: Child) -> None:
    check(heavy_child, target, HEAVY[target] * TIMES)


def test_there_are_at_least_ten_thousand_mutants() -> None:
    assert sum(count for _, count in light.TARGETS.values()) + sum(HEAVY.values()) >= LEAST


# ---- attacks must be able to fail -------------------------------------------------------------------


def test_an_unexpected_error_is_a_failure() -> None:
    def attack(rng: object) -> None:
        raise KeyError("x")

    assert "KeyError" in run_attack(attack, 3, 0, (ValueError,)).failure


def test_a_violation_cannot_be_caught() -> None:
    def attack(rng: object) -> None:
        try:
            raise Violation("wrote elsewhere")
        except Exception:
            pass

    assert "wrote elsewhere" in run_attack(attack, 1, 0, (Exception,)).failure


def test_a_message_of_two_lines_is_a_failure() -> None:
    def attack(rng: object) -> None:
        raise ValueError("one\ntwo")

    assert "not a one-line message" in run_attack(attack, 1, 0, (ValueError,)).failure


def test_writing_outside_the_folder_is_detected(tmp_path: Path) -> None:
    """In a child process, because an audit hook cannot be removed."""
    program = f"""
from pathlib import Path
from tests.fuzz.attack import Violation, confine
confine(Path({str(tmp_path / "in")!r}))
(Path({str(tmp_path / "in")!r}) / "x").write_text("fine")
try:
    Path({str(tmp_path / "evil")!r}).write_text("x")
except Violation:
    print("seen")
"""
    import subprocess
    import sys

    (tmp_path / "in").mkdir()
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "seen"
    assert not (tmp_path / "evil").exists()
