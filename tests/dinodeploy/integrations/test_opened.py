"""`opened`: one embedder per process and bundle."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinodeploy import MisuseError
from dinodeploy.integrations import opened as module
from dinodeploy.integrations.opened import opened
from tests.support.tiny_models import ONNXRUNTIME

OPTIONS: dict[str, Any] = {"device": ONNXRUNTIME, "threads": 1}
PIXELS = np.zeros((1, 3, 32, 32), np.float32)


def test_the_same_arguments_give_the_same_embedder(tiny_bundle: Path) -> None:
    one = opened(tiny_bundle, **OPTIONS)
    assert opened(str(tiny_bundle), **OPTIONS) is one
    assert opened(tiny_bundle, threads=1, device=ONNXRUNTIME) is one
    small = opened(tiny_bundle, outputs=["cls"], **OPTIONS)
    assert small is not one
    assert opened(tiny_bundle, outputs=("cls",), **OPTIONS) is small


def test_threads_open_it_once(own_bundle: Path) -> None:
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(opened(own_bundle, **OPTIONS))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(one) for one in found}) == 1


def test_a_replaced_bundle_is_opened_again(own_bundle: Path) -> None:
    before = opened(own_bundle, **OPTIONS)
    manifest = own_bundle / "manifest.json"
    found = manifest.stat()
    os.utime(manifest, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    assert opened(own_bundle, **OPTIONS) is not before


def test_the_longest_unused_is_let_go(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 1)
    one = opened(tiny_bundle, **OPTIONS)
    opened(tiny_bundle, outputs=("cls",), **OPTIONS)
    assert opened(tiny_bundle, **OPTIONS) is not one
    assert one.run(PIXELS).keys() >= {"cls"}, "its user keeps it"


def test_a_missing_bundle_is_no_surprise_later(tmp_path: Path, own_bundle: Path) -> None:
    with pytest.raises(MisuseError, match="no such bundle"):
        opened(tmp_path / "later", **OPTIONS)
    own_bundle.rename(tmp_path / "later")
    assert opened(tmp_path / "later", **OPTIONS).run(PIXELS)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_opens_its_own(tiny_bundle: Path) -> None:
    program = """
import os, sys, numpy
from dinodeploy.integrations.opened import opened
options = {"device": "onnxruntime", "threads": 2}
pixels = numpy.zeros((1, 3, 224, 224), numpy.float32)
parent = opened(sys.argv[1], **options)
parent.run(pixels)
child = os.fork()
if not child:
    own = opened(sys.argv[1], **options)
    os._exit(0 if own is not parent and own.run(pixels) else 1)
assert os.waitpid(child, 0)[1] == 0
assert opened(sys.argv[1], **options) is parent
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program, str(tiny_bundle)], check=True, timeout=120)
