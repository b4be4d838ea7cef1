"""Every error a user can meet, with the exit code it ends in.

    DinodeployError
    ├── MisuseError              2  an option, a size or a path that cannot mean anything
    │   ├── OutputExistsError    2  the output is there already and --overwrite was not given
    │   └── OutsideProfileError  2  an input that the engine was not built for
    ├── ImageError               2  one image cannot be read (`embed` quarantines it and ends in 5)
    │   └── PictureTooLargeError 2  it has more pixels than are let through
    ├── BundleError              2  not a bundle, or a file of it is missing or malformed
    │   └── TamperedError        2  a file of a bundle is not the one that was exported
    ├── JudgementError           1  judged, and failed: the engine is not the model
    ├── ExportError              3  the graph or the engine could not be made
    │   └── LintError            3  the graph breaks a rule that some runtime relies on
    └── UnavailableError         4  this machine can't: missing package, device or version
        └── BusyError            4  not now: as much is waiting already as may wait

A message is one line and says what, got, wanted, mend. `dinov3_ref.errors` keeps a tree of its own
(a reference model knows nothing of deployment); the CLI treats any exception that carries an
`exit_code` the same way: one line on stderr, no traceback.
"""

from __future__ import annotations

import errno

_HEAD, _TAIL = 1500, 400  # characters kept of a very long message
_JOINER = "\u200d"  # joins emoji of several characters; not printable alone


def reason_of(error: BaseException, limit: int = 200) -> str:
    """Why another library failed, in one line: the operating system's words, else the first line, else
    the class.
    """
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full"
    system = error.strerror if isinstance(error, OSError) else None
    text = (system or str(error)).strip() or type(error).__name__
    return " ".join(text.splitlines()[0].split())[:limit]


def printable(text: str) -> str:
    """`text` with line breaks, control and bidirectional characters as escapes: \\n, \\x1b, \\u202e."""
    return "".join(
        sign if sign.isprintable() or sign == _JOINER else sign.encode("unicode_escape").decode()
        for sign in text
    )


def one_line(text: str) -> str:
    """`text` on one printable line, its middle cut out where it is very long.

    Messages quote foreign files, whose names and fields may hold anything.
    """
    joined = printable(" ".join(text.splitlines()))
    if len(joined) <= _HEAD + _TAIL:
        return joined
    return f"{joined[:_HEAD]} … {joined[-_TAIL:]}"  # keeps both the cause and the fix


class DinodeployError(Exception):
    """Base of all errors a user can cause or meet."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class MisuseError(DinodeployError):
    """An argument that cannot mean anything."""


class OutputExistsError(MisuseError):
    """The output is there already; nothing was touched."""


class OutsideProfileError(MisuseError):
    """An input size that no shape profile of the engine takes."""


class ImageError(DinodeployError):
    """One image cannot be read as a picture."""


class PictureTooLargeError(ImageError):
    """A picture has more pixels than the limit; it was not decoded."""


class BundleError(DinodeployError):
    """A bundle, or a file in it, is missing or malformed."""


class TamperedError(BundleError):
    """A file of a bundle is not the file that was exported."""


class JudgementError(DinodeployError):
    """The judge compared an engine with the reference and rejected it."""

    exit_code = 1


class ExportError(DinodeployError):
    """The graph or the engine could not be made."""

    exit_code = 3


class LintError(ExportError):
    """The graph breaks a rule that some runtime relies on."""


class UnavailableError(DinodeployError):
    """This machine can't do it: a package, a device or a version is missing."""

    exit_code = 4


class BusyError(UnavailableError):
    """As much is waiting already as may wait; the same again later may do."""
