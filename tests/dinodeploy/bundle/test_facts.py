"""New facts are left out of a manifest at their defaults, so older digests stay valid."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from dinodeploy.bundle.bundle import open_bundle
from dinodeploy.bundle.facts import HeadFacts
from dinodeploy.bundle.manifest import read_manifest, write_manifest

HEAD = HeadFacts("detect", "boxes", (), ("boxes",), ("cat",), "boxes.safetensors", "0" * 64, "MIT")


def test_defaults_are_not_written(tiny_bundle: Path) -> None:
    text = (tiny_bundle / "manifest.json").read_text()
    assert not any(name in text for name in ("fixed", "head_precision", "backbones", "settings"))


def test_facts_of_a_whole_model_come_back(tiny_bundle: Path, tmp_path: Path) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    graph = replace(manifest.graph, fixed=("height", "width"), backbones=("encoder",), head_precision="fp16")
    head = replace(HEAD, settings={"threshold": 0.5, "labels": [1, 2], "resize": {"height": 640}})
    changed = replace(manifest, graph=graph, head=head)
    write_manifest(changed, tmp_path)
    assert read_manifest(tmp_path) == changed.sealed()
    assert json.loads((tmp_path / "manifest.json").read_text())["head"]["settings"] == head.settings


def test_a_task_without_settings_has_no_field(tiny_bundle: Path, tmp_path: Path) -> None:
    write_manifest(replace(open_bundle(tiny_bundle).manifest, head=HEAD), tmp_path)
    assert "settings" not in json.loads((tmp_path / "manifest.json").read_text())["head"]
