"""Say in one line why a module cannot be traced: the line of the user's code, and what to change."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

import onnx_ir
import onnxscript
import torch
from torch.export import ExportedProgram

from dinodeploy.errors import reason_of

BY_VALUES = (
    "a shape depends on the values of a tensor: keep all elements and mask them, or leave this step to the "
    "code after the model"
)
# Part of a class name or a message -> what to change; the first match counts.
FIXES: tuple[tuple[str, str], ...] = (
    (
        r"GuardOnDataDependent|DataDependent|data-dependent",
        "the code decides by the values of a tensor: compute both sides and use torch.where, or decide in "
        "__init__",
    ),
    (r"nonzero|unbacked|masked_select|unique", BY_VALUES),
    (
        r"ConstraintViolation|specializ|not divisible|Expected.*size",
        "the code fixes the image size: compute sizes from x.shape, or export with --dynamic batch",
    ),
    (
        r"no translation|No ONNX|ConversionError|DispatchError|not support",
        "ONNX has no such operator: use another one, or leave this step to the code after the model",
    ),
)
PACKAGES = Path(__file__).parents[2]  # where ours are
OWN = tuple(
    str(folder)
    for folder in (
        *(PACKAGES / name for name in ("exporters", "dinov3_ref", "dinodeploy")),
        *(Path(str(package.__file__)).parent for package in (torch, onnxscript, onnx_ir)),
        Path(traceback.__file__).parent / "contextlib.py",
    )
)
IN_TEXT = re.compile(
    r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\w+)(?:\n\s+(?P<code>.+))?'
)


def why_not_traced(error: BaseException) -> str:
    """One line: the error, the line of the user's code that it comes from, and what to change."""
    words = f"{type(error).__name__}: {reason_of(error)}"
    where = _line_of(error)
    text = f"{_chain(error)}"
    fix = next((fix for pattern, fix in FIXES if re.search(pattern, text, re.IGNORECASE)), "")
    return "; ".join(part for part in (f"{words}{f' at {where}' if where else ''}", fix) if part)


def place_of(program: ExportedProgram, operator: str) -> str | None:
    """FILE:LINE of the user's code that calls `operator`, where the trace kept it."""
    for node in program.graph.nodes:
        if operator in str(node.target) and (place := _last_of(str(node.meta.get("stack_trace", "")))):
            return place
    return None


def is_by_values(error: BaseException) -> bool:
    """Whether fixed sizes cannot help: the code decides by the values of a tensor."""
    return any(re.search(pattern, _chain(error), re.IGNORECASE) for pattern, _ in FIXES[:2])


def _chain(error: BaseException) -> str:
    """Class names and messages of an error and of those that it came from."""
    parts: list[str] = []
    link: BaseException | None = error
    while link is not None and len(parts) < 8:
        parts.append(f"{type(link).__name__}: {link}")
        link = link.__cause__ or link.__context__
    return "\n".join(parts)


def _line_of(error: BaseException) -> str:
    """FILE:LINE and the code there, of the innermost frame outside torch and this package; or nothing."""
    link: BaseException | None = error
    found = ""
    while link is not None:
        for frame in traceback.extract_tb(link.__traceback__):
            if _is_users(frame.filename):
                found = f"{frame.filename}:{frame.lineno} ({frame.line})"
        link = link.__cause__ or link.__context__
    if found:
        return found
    return _last_of(_chain(error))


def _last_of(text: str) -> str:
    """The innermost place of the user's code that a stack trace in a text names; or nothing."""
    named = [match for match in IN_TEXT.finditer(text) if _is_users(match["file"])]
    if not named:
        return ""
    last = named[-1]
    code = f" ({last['code'].strip()})" if last["code"] else ""
    return f"{last['file']}:{last['line']}{code}"


def _is_users(file: str) -> bool:
    return not file.startswith(("<", *OWN))
