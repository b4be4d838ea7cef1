"""Pictures that are files of their own, here or far away: the id of each is its path or URL, or is given."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dinodeploy.errors import ImageError
from dinodeploy.sources import remote
from dinodeploy.sources.options import SourceOptions


class FileSource:
    """Files and URLs, each one picture.

    paths: of the same length as `ids`; the ids are paths themselves if None. missing: positions that have an
    id and no picture.
    """

    def __init__(
        self,
        ids: Sequence[str],
        timeout: float = SourceOptions.timeout,
        paths: Sequence[str] | None = None,
        missing: Collection[int] = (),
    ) -> None:
        self.ids = ids
        self.ids_are_places = paths is None
        self._paths = ids if paths is None else paths
        self._missing = missing
        self.timeout = timeout

    @property
    def is_plain(self) -> bool:
        """Every id is the path of its picture."""
        return self.ids_are_places and not self._missing

    @property
    def origins(self) -> Sequence[str]:
        """The paths, where the ids are others."""
        return () if self.ids_are_places else self._paths

    def picture(self, index: int) -> str | bytes:
        if index in self._missing:
            raise ImageError(f"{self.ids[index]!r}: this row names no picture")
        path = self._paths[index]
        return remote.fetch(path, self.timeout) if remote.is_url(path) else path

    def close(self) -> None: ...
