"""Collect TensorRT's messages, to report a failure in one line.

TensorRT uses only the first logger of a process. So errors come through an error recorder, which belongs to
one builder, and the logger only adds the layers of a finished engine.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from exporters.tensorrt.api import TensorRT

# Messages to ignore: repetitions of another error, or of a missing GPU that is not needed.
_ECHOES = ("checkMacros.cpp::catchCudaError", "Skipping the engine compute capability check")
# Locations in TensorRT's source code, which do not help a user.
_SOURCE_LOCATIONS = re.compile(
    r"\[\w+\.(?:cpp|h): ?:?\d+: \w+(?:\(\))?\] |\s*\bIn \S+(?: \S+)? at \S+:\d+|\[\w+\.\w+::[\w:~]+::\d+\]\s*"
)
# words of a message -> how to fix it
_FIXES = (
    ("workspace limit", "give a larger --workspace"),
    ("out of memory", "give a smaller --imgsz or --batch, or --weight-streaming"),
    ("OutOfMemory", "give a smaller --imgsz or --batch, or --weight-streaming"),
    ("libnvinfer_lean", "leave out --version-compatible, or install TensorRT's lean runtime"),
)
_LAYER_LISTS = ("Engine Layer Information:", "Layers:")  # first line of the list, brief and detailed
_LONGEST = 300  # characters of a message that are shown


class Messages:
    """Errors and engine layers of one build."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.engine_layers: list[str] = []

    def reason(self) -> str:
        """The first useful error, and how to fix it if that is known."""
        useful = [text for text in self.errors if not any(echo in text for echo in _ECHOES)]
        if not useful:
            return (self.errors or ["it gave no reason"])[0]
        text = " ".join(_SOURCE_LOCATIONS.sub("", useful[0]).split())
        fixes = [fix for words, fix in _FIXES if words in text]
        shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
        return "; ".join((shown, *fixes[:1]))


@cache
def make_logger(trt: TensorRT) -> Any:
    """The process-wide logger of `trt`, an `ILogger`; set its `messages` for each build."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages = Messages()

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.messages.errors.append(message)
            elif message.startswith(_LAYER_LISTS):
                lines = [line.strip() for line in message.splitlines()]
                self.messages.engine_layers = [line for line in lines if line and line not in _LAYER_LISTS]

    return Logger()


def make_recorder(trt: TensorRT, messages: Messages) -> Any:
    """An `IErrorRecorder` that adds to `messages.errors`. Keep it alive as long as the builder."""

    class Recorder(trt.IErrorRecorder):
        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)
            self.found: list[tuple[Any, str]] = []

        def report_error(self, code: Any, description: str) -> bool:
            self.found.append((code, description))
            messages.errors.append(description)
            return False  # continue: the builder decides what is fatal

        def num_errors(self) -> int:
            return len(self.found)

        def get_error_code(self, index: int) -> Any:
            return self.found[index][0]

        def get_error_desc(self, index: int) -> str:
            return self.found[index][1]

        def has_overflowed(self) -> bool:
            return False

        def clear(self) -> None:
            self.found.clear()

    return Recorder()
