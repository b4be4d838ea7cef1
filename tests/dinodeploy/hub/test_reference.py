"""References to the hub: what is read, what is written, what is refused."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

import pytest

from dinodeploy.errors import MisuseError
from dinodeploy.hub.reference import HubReference, parse

COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.mark.parametrize(
    ("text", "repo", "folder", "revision"),
    [
        ("org/name", "org/name", "", "main"),
        ("hf://org/name", "org/name", "", "main"),
        ("hf://org/name/", "org/name", "", "main"),
        ("hf://models/org/name", "org/name", "", "main"),
        ("hf://org/name@v1.0", "org/name", "", "v1.0"),
        (f"hf://org/name@{COMMIT}", "org/name", "", COMMIT),
        ("hf://org/name/fp16@v1", "org/name", "fp16", "v1"),
        ("hf://org/name/a/b@feature/x", "org/name", "a/b", "feature/x"),
        ("hf://org/name@v1/a/b", "org/name", "a/b", "v1"),  # huggingface_hub's order
        ("hf://org/name@refs/pr/7", "org/name", "", "refs/pr/7"),
        ("hf://org/name@refs/pr/7/fp16", "org/name", "fp16", "refs/pr/7"),
        ("hf://org/name@feature%2Fx", "org/name", "", "feature/x"),
        ("hf://org/name/model.onnx", "org/name", "model.onnx", "main"),
        ("hf://_u.ser/n-a.m_e", "_u.ser/n-a.m_e", "", "main"),
    ],
)
def test_references(text: str, repo: str, folder: str, revision: str) -> None:
    found = parse(text)
    assert found == HubReference(repo, folder, revision)
    assert parse(str(found)) == found
    assert parse(Path(text)) == found, "pathlib takes one slash"
    assert parse(PureWindowsPath(text)) == found
    assert found.is_commit is (revision == COMMIT)


def test_it_reads_what_the_library_reads() -> None:
    """The independent implementation; older versions have none."""
    hub = pytest.importorskip("huggingface_hub.utils._hf_uris")
    for text in (
        "hf://org/name",
        "hf://org/name@v1/a/b",
        "hf://models/org/name@refs/pr/7/x",
        "hf://o/n@a%2Fb",
    ):
        theirs, ours = hub.parse_hf_uri(text), parse(text)
        assert (ours.repo, ours.folder, ours.revision) == (
            theirs.id,
            theirs.path_in_repo,
            theirs.revision or "main",
        )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("hf://", "not an organisation"),
        ("hf://name", "not an organisation"),
        ("hf://org/../etc", "no name on the hub"),
        ("hf://org/name/../../etc", "no folder in a repository"),
        ("hf://org/name//a", "no folder"),
        ("hf://org/name/.git", "no folder"),
        ("hf://org/na--me", "no name"),
        ("hf://org/name@", "no branch, tag or commit"),
        ("hf://org/name@../x", "no branch"),
        ("hf://org/name/a@b..c", "no branch"),
        ("hf://org/na me", "no name"),
        ("hf://org/name\x00", "no name"),
        ("hf://datasets/org/name", "is in datasets; bundles are in model repositories"),
    ],
)
def test_what_is_refused(text: str, problem: str) -> None:
    with pytest.raises(MisuseError, match=r"wanted hf://ORG/NAME|bundles are in model") as caught:
        parse(text)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_revision_is_given_once() -> None:
    assert parse("org/name", "v1").revision == "v1"
    with pytest.raises(MisuseError, match="give one"):
        parse("org/name@v2", "v1")


def test_places_in_a_repository() -> None:
    place = parse("hf://org/name/fp16@v1")
    assert place.path_of("manifest.json") == "fp16/manifest.json"
    assert str(place.inside("model.onnx")) == "hf://org/name/fp16/model.onnx@v1"
    assert place.inside("model.onnx").split_file() == (place, "model.onnx")
    assert parse("hf://org/name").split_file() is None
