"""The calls to huggingface_hub, which is imported when the first is made. Every failure is one line.

Tokens, the cache and the endpoint are the library's: HF_TOKEN or `hf auth login`, HF_HOME, HF_HUB_CACHE,
HF_HUB_OFFLINE, HF_ENDPOINT, and its timeouts HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT.

    HubError            the hub, the network, access, space on the disk
    Unreachable         of these: no answer at all, or an answer that may be another one soon
    NotThere            the repository and the revision exist, but not the file
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinodeploy.errors import BundleError, HubError, UnavailableError, reason_of
from dinodeploy.hub.reference import HubReference

_LOGIN = "hf auth login, or set HF_TOKEN"
_LATER = (408, 429, 500, 502, 503, 504)


class Unreachable(HubError):
    """The hub does not answer now; what the cache holds may be used."""


class NotThere(BundleError):
    """A revision has no such file."""


@dataclass(frozen=True)
class Listed:
    """A file as the hub lists it. sha256: of a large file; blob: git's hash of a small one."""

    bytes: int
    sha256: str | None
    blob: str


class HubClient:
    """huggingface_hub with this process's token, endpoint and cache."""

    def __init__(self, token: str | None = None) -> None:
        self.package = _package()
        self.token = token or self.package.get_token()
        self.endpoint: str = os.environ.get("HF_ENDPOINT") or self.package.constants.ENDPOINT
        self.api: Any = self.package.HfApi(endpoint=self.endpoint, token=token, library_name="dinodeploy")

    @property
    def offline(self) -> bool:
        return bool(self.package.constants.HF_HUB_OFFLINE)

    def size_of(self, reference: HubReference, name: str) -> int | None:
        """Bytes of a file, by one request without retries: it also tells whether the hub can be reached."""
        package = self.package
        url = package.hf_hub_url(
            reference.repo, reference.path_of(name), revision=reference.revision, endpoint=self.endpoint
        )
        with self.failures(reference, name):
            metadata = package.get_hf_file_metadata(
                url, token=self.token, timeout=package.constants.HF_HUB_ETAG_TIMEOUT
            )
        return None if metadata.size is None else int(metadata.size)

    def cached(self, reference: HubReference, name: str) -> Path | None:
        """A file in the cache, at the commit or branch as it was last seen; no request."""
        found = self.package.try_to_load_from_cache(
            reference.repo, reference.path_of(name), revision=reference.revision
        )
        return Path(found) if isinstance(found, str) else None

    def download(self, reference: HubReference, name: str, *, again: bool = False) -> Path:
        """A file's path in the cache, downloaded if it is not there; again: whatever is there."""
        with self.failures(reference, name):
            return Path(
                self.api.hf_hub_download(
                    reference.repo,
                    reference.path_of(name),
                    revision=reference.revision,
                    force_download=again,
                )
            )

    def list_files(self, reference: HubReference, names: list[str]) -> dict[str, Listed]:
        """What the hub says of files, by name; without those that it does not have."""
        paths = {reference.path_of(name): name for name in names}
        with self.failures(reference, "the list of files"):
            found = self.api.get_paths_info(reference.repo, list(paths), revision=reference.revision)
        files = [one for one in found if hasattr(one, "blob_id") and one.path in paths]
        return {paths[one.path]: listed(one) for one in files}

    @contextmanager
    def failures(self, reference: HubReference, name: str = "") -> Iterator[None]:
        """Turn what the library raises into HubError, Unreachable, NotThere, in one line."""
        errors = self.package.errors
        try:
            yield
        except errors.GatedRepoError as error:
            access = f"with this token; ask at {self.endpoint}/{reference.repo}"
            access = access if self.token else f"without a token: {_LOGIN}"
            raise HubError(f"{reference} is gated, and access is not granted {access}") from error
        except errors.RevisionNotFoundError as error:
            hint = "" if "/" not in reference.revision else "; write a folder before the @"
            raise HubError(
                f"{reference.repo} has no branch, tag or commit {reference.revision!r} on the hub{hint}"
            ) from error
        except errors.RepositoryNotFoundError as error:
            why = "this token may not read it" if self.token else f"it needs a token: {_LOGIN}"
            raise HubError(
                f"the hub has no repository {reference.repo}, or it is private and {why}"
            ) from error
        except errors.LocalEntryNotFoundError as error:
            raise Unreachable(self._not_cached(reference, name, error)) from error
        except errors.EntryNotFoundError as error:
            raise NotThere(f"{reference} has no {name}") from error
        except Exception as error:  # each network library has its own classes
            raise self._other(reference, name, error) from error

    def _not_cached(self, reference: HubReference, name: str, error: Exception) -> str:
        why = "HF_HUB_OFFLINE is set" if self.offline else f"the hub cannot be reached ({_cause(error)})"
        return f"{reference}: {name} is not in {self.package.constants.HF_HUB_CACHE}, and {why}"

    def _other(self, reference: HubReference, name: str, error: Exception) -> Exception:
        what = f"{reference}: {name}" if name else str(reference)
        links = tuple(_chain(error))
        answers = (getattr(getattr(link, "response", None), "status_code", None) for link in links)
        status = next((answer for answer in answers if answer is not None), None)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return HubError(f"{what}: the disk of {self.package.constants.HF_HUB_CACHE} is full")
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            return HubError(
                f"{what}: {error.filename or self.package.constants.HF_HUB_CACHE} cannot be written; set "
                "HF_HOME to a folder that can"
            )
        if status == 401:
            return HubError(f"{what}: the hub does not accept this token (401); {_LOGIN}")
        if status == 403:
            return HubError(f"{what}: this token may not do that (403); {self._refusal(error)}")
        if status == 429:
            return Unreachable(
                f"{what}: the hub limits the rate of requests (429); try again in some minutes, with a token "
                "the limit is higher"
            )
        if status in _LATER:
            return Unreachable(f"{what}: the hub has a problem ({status}); try again later")
        if status is not None:
            return HubError(f"{what}: the hub refuses ({status}): {self._refusal(error)}")
        if any("Timeout" in type(link).__name__ for link in links):
            return Unreachable(
                f"{what}: the hub did not answer in time; HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT "
                "(seconds) allow more"
            )
        if "Consistency check failed" in str(error):
            return HubError(f"{what}: the download was cut off; run the same command again")
        if any(_is_of_network(link) for link in links):
            return Unreachable(f"{what}: the hub cannot be reached ({_cause(error)})")
        return HubError(f"{what}: {_cause(error)}")

    @staticmethod
    def _refusal(error: Exception) -> str:
        """The hub's own words."""
        words = getattr(error, "server_message", None)
        return reason_of(Exception(words)) if words else reason_of(error)


def listed(entry: Any) -> Listed:
    """A RepoFile of huggingface_hub, or a sibling of a model's info."""
    large = entry.lfs
    sha256 = None if large is None else large["sha256"] if isinstance(large, dict) else large.sha256
    return Listed(int(entry.size or 0), sha256, entry.blob_id or "")


def _package() -> Any:
    try:
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise UnavailableError(
            f"the Hugging Face hub needs {error.name}, which is not installed: pip install 'dinodeploy[hub]'"
        ) from error
    return huggingface_hub


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, and those that it was made of: the outermost first."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _is_of_network(error: BaseException) -> bool:
    """Of the operating system, or of one of the libraries that huggingface_hub sends requests with."""
    library = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or library in ("httpx", "httpx2", "httpcore", "requests", "urllib3")


def _cause(error: BaseException) -> str:
    """Class and words of the innermost exception."""
    *_, inner = _chain(error)
    return f"{type(inner).__name__}: {reason_of(inner, 100)}"
