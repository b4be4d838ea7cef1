"""Where links inside an archive lead."""

from __future__ import annotations

import pytest

from dinodeploy.sources.archives.links import Link, LinkError, absent, follow, plain_name

LINKS = {
    "l.jpg": Link("a/1.jpg"),
    "a/up.jpg": Link("../b/2.jpg"),
    "chain.jpg": Link("a/up.jpg"),
    "folder": Link("a"),
    "deep/folder": Link("../folder"),
    "hard": Link("a/1.jpg", is_hard=True),
    "a/hard": Link("a/1.jpg", is_hard=True),
    "self": Link("self"),
    "x": Link("y"),
    "y": Link("./x"),
    "out": Link("../out"),
    "etc": Link("/etc/passwd"),
    "/abs/l.jpg": Link("x.jpg"),
    "grow": Link("grow/more"),
    "../beside/l.jpg": Link("../beside/x.jpg", is_hard=True),
}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a/1.jpg", "a/1.jpg"),
        ("./a//1.jpg", "a/1.jpg"),
        ("l.jpg", "a/1.jpg"),
        ("a/up.jpg", "b/2.jpg"),
        ("chain.jpg", "b/2.jpg"),
        ("folder/1.jpg", "a/1.jpg"),
        ("deep/folder/up.jpg", "b/2.jpg"),
        ("hard", "a/1.jpg"),
        ("a/hard", "a/1.jpg"),
        ("etc", "/etc/passwd"),
        ("/abs/l.jpg", "/abs/x.jpg"),
        ("out", "../out"),
        ("../beside/l.jpg", "../beside/x.jpg"),
        ("../a", "../a"),
    ],
)
def test_links_are_followed(name: str, wanted: str) -> None:
    assert follow(name, LINKS) == wanted


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("self", "leads back to itself"),
        ("x", "leads back to itself"),
        ("grow", "leads back to itself"),
    ],
)
def test_links_that_lead_nowhere(name: str, message: str) -> None:
    with pytest.raises(LinkError, match=message):
        follow(name, LINKS)


def test_plain_names() -> None:
    assert plain_name("/a/./b/../c//d/") == "/a/c/d"
    assert plain_name("/../a/..") == ""
    assert plain_name("a/../../../x") == "../../x"


@pytest.mark.parametrize(
    ("name", "said"),
    [("/etc/x", "leads out of"), ("../x", "leads out of"), ("..x", "is not in"), ("a/x", "is not in")],
)
def test_what_is_said_of_names_that_no_member_has(name: str, said: str) -> None:
    assert absent(name) == f"{said} the archive"
