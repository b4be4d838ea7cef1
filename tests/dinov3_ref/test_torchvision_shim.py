"""The shim makes torchvision importable, and leaves a torchvision that imports by itself alone."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed"
)


def _run(code: str) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.slow
def test_torchvision_and_its_dependants_import() -> None:
    _run(
        "from dinov3_ref.torchvision_shim import import_torchvision\n"
        "torchvision = import_torchvision()\n"
        "assert torchvision is import_torchvision()\n"
        "from torchvision.transforms import v2\n"
        "import timm.data\n"
    )


def test_nothing_is_defined_where_torchvision_imports_by_itself() -> None:
    _run(
        "import sys, types\n"
        "sys.modules['torchvision'] = stand_in = types.ModuleType('torchvision')\n"
        "from dinov3_ref import torchvision_shim\n"
        "assert torchvision_shim.import_torchvision() is stand_in\n"
        "assert not torchvision_shim._libraries\n"
    )
