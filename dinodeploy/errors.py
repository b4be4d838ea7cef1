"""All errors that dinodeploy raises. `exit_code`: of the command line, inherited.

A message is one line: what happened, what was given, what was wanted, how to fix it. `dinov3_ref` has its own
tree and does not depend on dinodeploy; the command line prints any exception with an `exit_code` as one line.
"""

from __future__ import annotations

import errno

_HEAD, _TAIL = 1500, 400  # characters kept of a very long message
_JOINER = "\u200d"  # joins the parts of an emoji; not printable alone


def reason_of(error: BaseException, limit: int = 200) -> str:
    """Why another library failed: the operating system's words, else the first line, else the class."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full"
    system = error.strerror if isinstance(error, OSError) else None
    text = (system or str(error)).strip() or type(error).__name__
    return " ".join(text.splitlines()[0].split())[:limit]


def raise_if_interrupted(error: BaseException) -> None:
    """Raise KeyboardInterrupt if `error` is what a library made of one: no reason to try another engine."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, KeyboardInterrupt) or "KeyboardInterrupt" in str(link):
            raise KeyboardInterrupt from error
        link = link.__cause__ or link.__context__


def printable(text: str) -> str:
    """`text` with line breaks, control and bidirectional characters as escapes: \\n, \\x1b, \\u202e."""
    return "".join(
        sign if sign.isprintable() or sign == _JOINER else sign.encode("unicode_escape").decode()
        for sign in text
    )


def one_line(text: str) -> str:
    """`text` on one printable line; the middle of a very long one is cut out.

    Messages quote names and fields of files, which may contain anything.
    """
    joined = printable(" ".join(text.splitlines()))
    if len(joined) <= _HEAD + _TAIL:
        return joined
    return f"{joined[:_HEAD]} … {joined[-_TAIL:]}"  # keeps both the cause and the fix


class DinodeployError(Exception):
    """Base class of all errors of dinodeploy."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class MisuseError(DinodeployError):
    """An invalid argument."""


class OutputExistsError(MisuseError):
    """The output exists already; nothing was changed."""


class OutsideProfileError(MisuseError):
    """An input size outside every shape profile of the engine."""


class ImageError(DinodeployError):
    """An image cannot be read."""


class ImageTooLargeError(ImageError):
    """An image has more pixels than the limit; it was not decoded."""


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
    """Not possible on this machine: a package, a device or a version is missing."""

    exit_code = 4


class HubError(DinodeployError):
    """The Hugging Face hub, the way to it, or access to a repository."""

    exit_code = 4


class BusyError(UnavailableError):
    """The queue is full; try again later."""
