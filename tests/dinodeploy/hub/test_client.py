"""What the hub, the network and the disk may answer: one line each, and exit code 4."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dinodeploy.bundle.bundle import locate
from dinodeploy.errors import HubError, UnavailableError
from dinodeploy.hub.client import HubClient
from dinodeploy.hub.reference import parse
from tests.support.hub.server import READER, WRITER, Hub

TOY = Path(__file__).parents[2] / "data" / "format1_bundle"


@pytest.fixture
def held(hub: Hub) -> Hub:
    hub.hold("org/toy", TOY)
    return hub


def refusal(text: str) -> str:
    with pytest.raises(HubError) as caught:
        locate(text)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_repository_with_and_without_a_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no repository org/none, or it is private and this token may not read it" in refusal(
        "hf://org/none"
    )
    monkeypatch.delenv("HF_TOKEN")
    assert "it needs a token: hf auth login, or set HF_TOKEN" in refusal("hf://org/none")


def test_a_private_repository(held: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    held.repositories["org/toy"].private = True
    monkeypatch.setenv("HF_TOKEN", READER)
    assert locate("hf://org/toy")
    monkeypatch.delenv("HF_TOKEN")
    assert "private" in refusal("hf://org/toy")


def test_a_gated_repository(held: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    held.gated.add("org/toy")
    assert f"is gated, and access is not granted with this token; ask at {held.endpoint}/org/toy" in refusal(
        "hf://org/toy"
    )
    monkeypatch.delenv("HF_TOKEN")
    assert "is gated, and access is not granted without a token: hf auth login" in refusal("hf://org/toy")


def test_a_token_that_the_hub_does_not_know(held: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    message = refusal("hf://org/toy")
    assert "token" in message
    assert "hf_expired" not in message


def test_a_missing_revision(held: Hub) -> None:
    assert "org/toy has no branch, tag or commit 'v2' on the hub" in refusal("hf://org/toy@v2")
    assert "write a folder before the @" in refusal("hf://org/toy/a@v2/b")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (403, "may not do that (403)"),
        (429, "limits the rate of requests (429)"),
        (500, "the hub has a problem (500); try again later"),
        (503, "the hub has a problem (503)"),
        (418, "the hub refuses (418)"),
    ],
)
def test_what_the_hub_may_answer(held: Hub, status: int, words: str) -> None:
    held.status = status
    assert words in refusal("hf://org/toy")


def test_an_answer_that_does_not_come(held: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.1)
    held.delay = 1.0
    message = refusal("hf://org/toy")
    assert "did not answer in time; HF_HUB_ETAG_TIMEOUT" in message


@pytest.mark.parametrize("status", [429, 503])
def test_a_hub_that_is_busy_does_not_stop_what_is_in_the_cache(held: Hub, status: int) -> None:
    before = locate("hf://org/toy")[0].named
    held.status = status
    assert locate("hf://org/toy")[0].named == before


def test_access_that_was_taken_away_counts_at_once(held: Hub) -> None:
    """Only a commit, which asks nobody, still opens."""
    named = locate("hf://org/toy")[0].named
    held.gated.add("org/toy")
    assert "is gated" in refusal("hf://org/toy")
    assert locate(named)[0].named == named


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "is full"),
        (PermissionError(13, "Permission denied", "/ro/hub"), "/ro/hub cannot be written; set HF_HOME"),
        (OSError("Consistency check failed: file should be of size 2 but has size 1"), "was cut off"),
        (TimeoutError("read"), "did not answer in time"),
    ],
)
def test_what_this_machine_may_answer(
    held: Hub, monkeypatch: pytest.MonkeyPatch, error: OSError, words: str
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.HfApi.hf_hub_download", fail)
    assert words in refusal("hf://org/toy")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UnavailableError, match=r"pip install 'dinodeploy\[hub\]'"):
        locate("hf://org/toy")


def test_the_hubs_list_of_files(held: Hub) -> None:
    reference = parse("org/toy")
    listed = HubClient().list_files(reference, ["model.onnx", "manifest.json", "nothing"])
    assert set(listed) == {"model.onnx", "manifest.json"}
    assert listed["model.onnx"].sha256 is not None
    assert listed["manifest.json"].sha256 is None
    assert listed["manifest.json"].bytes == (TOY / "manifest.json").stat().st_size
    assert HubClient().token == WRITER
