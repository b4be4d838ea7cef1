"""The collector of cycles rests while a command is imported, and only then."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from dinodeploy.cli.imports import importing

# What is alive after an import is frozen, and everything is when the process ends.
PROGRAM = """
import atexit, gc, sys
atexit.register(lambda: print(gc.get_freeze_count()))  # runs last
from dinodeploy.cli.app import main
try:
    main()
finally:
    print(gc.isenabled(), gc.get_freeze_count())
"""


def test_nothing_is_collected_meanwhile() -> None:
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    gc.unfreeze()


def test_it_is_put_back_after_an_error() -> None:
    with pytest.raises(ModuleNotFoundError), importing():
        raise ModuleNotFoundError("torch")
    assert gc.isenabled()
    gc.unfreeze()


def test_who_collects_by_hand_goes_on_doing_so() -> None:
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()
        assert gc.get_freeze_count() == 0
    finally:
        gc.enable()


def test_a_command_collects_while_it_works_and_not_at_its_end() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "--version"], capture_output=True, text=True, check=True
    )
    _, (enabled, after_import), (at_end,) = (line.split() for line in done.stdout.splitlines())
    assert enabled == "True"
    assert 0 < int(after_import) < int(at_end)
