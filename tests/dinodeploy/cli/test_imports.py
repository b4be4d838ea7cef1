"""The collector of cycles rests while a command is imported, and only then."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dinodeploy.cli.imports import import_quickly

# What is alive after an import is frozen, and everything is when the process ends.
PROGRAM = """
import atexit, gc
atexit.register(lambda: print(gc.get_freeze_count()))  # runs last
from dinodeploy.cli.app import main
try:
    main()
finally:
    print(gc.isenabled(), gc.get_freeze_count())
"""


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`watches_gc` notes whether the collector is on as it is imported; `needs_more` cannot be imported."""
    (tmp_path / "watches_gc.py").write_text("import gc\nenabled = gc.isenabled()\n")
    (tmp_path / "needs_more.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("watches_gc", None)
    gc.unfreeze()


def test_nothing_is_collected_meanwhile() -> None:
    assert not import_quickly("watches_gc").enabled
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


def test_what_is_there_is_not_imported_again() -> None:
    first = import_quickly("watches_gc")
    gc.unfreeze()
    assert import_quickly("watches_gc") is first
    assert gc.get_freeze_count() == 0


def test_it_is_put_back_after_an_error() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        import_quickly("needs_more")
    assert gc.isenabled()


def test_who_collects_by_hand_goes_on_doing_so() -> None:
    gc.disable()
    try:
        import_quickly("watches_gc")
        assert not gc.isenabled()
        assert gc.get_freeze_count() == 0
    finally:
        gc.enable()


def test_a_command_collects_while_it_works_and_not_at_its_end() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "doctor", "--help"], capture_output=True, text=True, check=True
    )
    (enabled, after_import), (at_end,) = (line.split() for line in done.stdout.splitlines()[-2:])
    assert enabled == "True"
    assert 0 < int(after_import) < int(at_end)
