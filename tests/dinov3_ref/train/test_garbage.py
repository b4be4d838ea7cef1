"""Garbage collection happens at the chosen steps, and Python's own is restored."""

from __future__ import annotations

import gc
import weakref

from dinov3_ref.train.garbage import GarbageCollection


class Cycle:
    def __init__(self) -> None:
        self.itself = self


def test_cycles_are_collected_at_the_chosen_steps() -> None:
    with GarbageCollection(3) as collect:
        assert not gc.isenabled()
        gone = weakref.ref(Cycle())
        for left in (True, True, False):
            collect.after_step()
            assert (gone() is not None) == left
    assert gc.isenabled()


def test_no_period_leaves_python_alone() -> None:
    with GarbageCollection(0) as collect:
        assert gc.isenabled()
        collect.after_step()


def test_what_was_off_stays_off() -> None:
    gc.disable()
    try:
        with GarbageCollection(2):
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
