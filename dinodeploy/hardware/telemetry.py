"""Turn off what other packages report to their makers, unless the user has turned it on.

    onnxruntime      from 1.29 on: device id under HOME, events to events.data.microsoft.com
    huggingface_hub  library versions in the headers of downloads; a request per started library
    openvino, nncf   an event to Google Analytics on import; client id under HOME
    ray              usage statistics to usage-stats.ray.io

`import dinodeploy` sets the variables of the first two, which count in processes started from here too and
are read when the package is imported. Here is what takes more than a variable.

Sources: https://github.com/microsoft/onnxruntime (Privacy.md),
https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables,
https://docs.openvino.ai/2026/about-openvino/additional-resources/telemetry.html,
https://docs.ray.io/en/latest/cluster/usage-stats.html
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

from dinodeploy.errors import DinodeployError
from dinodeploy.files.json_file import read_json

OPENVINO_PACKAGE = "openvino_telemetry"


def silence_onnxruntime(onnxruntime: ModuleType) -> None:
    """Call it after importing onnxruntime: event tracing of Windows reads no variable."""
    if os.environ.get("ORT_DISABLE_TELEMETRY") == "1":
        onnxruntime.disable_telemetry_events()


def silence_openvino() -> None:
    """Call it before importing openvino or nncf, which know no variable.

    Both do without the package that sends. It stays hidden for this process, unless it is loaded already or
    the user has called `opt_in_out --opt_in`.
    """
    if OPENVINO_PACKAGE not in sys.modules and _read(_openvino_consent()) != "1":
        sys.modules[OPENVINO_PACKAGE] = None  # type: ignore[assignment]  # importing it is an ImportError


def silence_ray() -> None:
    """Call it before importing ray; `ray enable-usage-stats` of the user counts more."""
    given = os.environ.get("RAY_USAGE_STATS_CONFIG_PATH")
    try:
        enabled = read_json(Path(given) if given else _home() / ".ray/config.json", "settings")
    except DinodeployError:
        enabled = None
    if not (isinstance(enabled, dict) and enabled.get("usage_stats") is True):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def _openvino_consent() -> Path:
    """Where `opt_in_out` writes 1 or 0."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", ""), "Intel Corporation", OPENVINO_PACKAGE)
    return _home() / "intel" / OPENVINO_PACKAGE


def _home() -> Path:
    """The home directory; a path that does not exist if the system knows none."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(os.devnull)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
