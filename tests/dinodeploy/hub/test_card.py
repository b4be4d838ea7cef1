"""The model card, read back by the hub's own library."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest

from dinodeploy.bundle.bundle import Bundle, open_bundle
from dinodeploy.bundle.facts import HeadFacts
from dinodeploy.bundle.manifest import Manifest
from dinodeploy.errors import MisuseError
from dinodeploy.hub.card import KNOWN_LICENCES, base_model, front_matter, make_card, pipeline_of
from dinodeploy.hub.reference import parse

TOY = Path(__file__).parents[2] / "data" / "format1_bundle"
HERE = parse("org/toy")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(TOY)


def with_head(manifest: Manifest, task: str) -> Manifest:
    head = HeadFacts(task, "kind", (), (), (), "head.pth", "0" * 64, "MIT")  # type: ignore[arg-type]
    return replace(manifest, head=head)


def card(bundle: Bundle, before: str | None = None, reference: str = "org/toy") -> huggingface_hub.ModelCard:
    text = make_card(bundle, parse(reference), huggingface_hub, before)
    return huggingface_hub.ModelCard(text)


def test_the_library_reads_what_was_written(bundle: Bundle) -> None:
    data = card(bundle).data.to_dict()
    assert data["library_name"] == "dinodeploy"
    assert data["pipeline_tag"] == "image-feature-extraction"
    assert (data["license"], data["license_name"]) == ("other", "dinov3-license")
    assert data["license_link"].startswith("https://ai.meta.com/")
    assert "DINOv3 License" in data["extra_gated_prompt"]
    assert {"dinodeploy", "onnx", "dinov3", "fp32"} <= set(data["tags"])
    assert "base_model" not in data, "random weights are nobody's"
    text = card(bundle).text
    assert "--engine hf://org/toy " in text
    assert 'Embedder.open("hf://org/toy")' in text
    assert "| `model.cpu.onnx` | onnxruntime 1.32.0 |" in text
    assert "relative\\_frobenius | 4.7" in text
    assert "Random weights" in text


def test_it_is_the_same_each_time(bundle: Bundle) -> None:
    first = make_card(bundle, HERE, huggingface_hub)
    assert make_card(bundle, HERE, huggingface_hub, first) == first


def test_an_authors_card_is_kept(bundle: Bundle) -> None:
    before = "---\nlanguage: en\nlicense: mit\ntags:\n- mine\n---\n# Mine\n\nWords of mine.\n"
    made = card(bundle, before)
    assert "# Mine\n\nWords of mine.\n" in made.text
    assert made.data.language == "en"
    assert made.data.license == "other", "the licence is the bundle's"
    assert made.data.tags[0] == "mine"
    edited = str(made).replace("Words of mine.", "Other words.") + "\n## Below\n"
    again = card(bundle, edited)
    assert "Other words." in again.text
    assert "## Below" in again.text
    assert again.text.count("## Use") == 1
    plain = card(bundle, "# No front matter\n")
    assert "# No front matter" in plain.text
    assert plain.data.library_name == "dinodeploy"


def test_a_card_that_cannot_be_read(bundle: Bundle) -> None:
    with pytest.raises(MisuseError, match=r"README\.md of org/toy: its front matter cannot be read"):
        make_card(bundle, HERE, huggingface_hub, "---\na: [1\n---\n")


def test_a_bundle_in_a_folder_beside_another_librarys_model(bundle: Bundle) -> None:
    before = "---\nlibrary_name: transformers.js\ntags: [dinov3]\n---\n# Model\n"
    made = card(bundle, before, "org/toy/dinodeploy")
    assert made.data.library_name == "transformers.js"
    assert made.data.license_name == "dinov3-license"
    assert "hf://org/toy/dinodeploy" in made.text
    assert card(bundle, before).data.library_name == "dinodeploy"


def test_two_bundles_in_one_repository(bundle: Bundle) -> None:
    first = make_card(bundle, parse("org/many/fp32"), huggingface_hub)
    both = make_card(bundle, parse("org/many/fp16"), huggingface_hub, first)
    assert both.count("## Use") == 2
    assert make_card(bundle, parse("org/many/fp32"), huggingface_hub, both) == both


@pytest.mark.parametrize(
    ("task", "tag"),
    [
        ("classify", "image-classification"),
        ("segment", "image-segmentation"),
        ("panoptic", "image-segmentation"),
        ("depth", "depth-estimation"),
        ("detect", "object-detection"),
        ("pyramid", "image-feature-extraction"),
        ("custom", None),
    ],
)
def test_the_task_on_the_hub(bundle: Bundle, task: str, tag: str | None) -> None:
    manifest = with_head(bundle.manifest, task)
    assert pipeline_of(manifest) == tag
    assert ("pipeline_tag" in front_matter(manifest)) is (tag is not None)
    made = card(replace(bundle, manifest=manifest))
    assert made.data.to_dict().get("pipeline_tag") == tag
    assert "Head (kind): MIT" in made.text


@pytest.mark.slow
def test_texts_are_zero_shot_classification(tiny_text_bundle: Path) -> None:
    made = card(open_bundle(tiny_text_bundle))
    assert made.data.pipeline_tag == "zero-shot-image-classification"
    assert "dinodeploy classify photos/ --engine hf://org/toy --labels labels.txt" in made.text


def of_weights(manifest: Manifest, weights: str, source: str, sha256: str = "0" * 64) -> Manifest:
    model = replace(manifest.model, weights=weights, source=source, sha256=sha256)  # type: ignore[arg-type]
    return replace(manifest, model=model)


def test_the_base_model_where_it_is_proven(bundle: Bundle) -> None:
    manifest, commit = bundle.manifest, "a" * 40
    official = "facebook/dinov3-vits16-pretrain-lvd1689m"
    of_file = "dinov3_vits16_pretrain_lvd1689m-08c60483.pth"
    assert base_model(of_weights(manifest, "hub", f"{official}@{commit}")) == official
    assert base_model(of_weights(manifest, "file", of_file, "08c60483" + "0" * 56)) == official
    assert base_model(of_weights(manifest, "file", of_file)) is None, "only by its name"
    assert base_model(of_weights(manifest, "file", "model.safetensors")) is None
    int8 = replace(manifest, graph=replace(manifest.graph, recipe="int8"))
    found = front_matter(of_weights(int8, "hub", f"{official}@{commit}"))
    assert (found["base_model"], found["base_model_relation"]) == (official, "quantized")


def test_the_names_of_released_files() -> None:
    pytest.importorskip("torch")
    from dinov3_ref.models.released import RELEASED

    manifest = open_bundle(TOY).manifest
    for row in RELEASED:
        if row.hf_repo is not None:
            sha256 = row.hash_prefix + "0" * 56
            assert base_model(of_weights(manifest, "file", f"{row.file_stem}.pth", sha256)) == row.hf_repo


@pytest.mark.parametrize(
    ("licence", "fields"),
    [
        ("The weights are under apache-2.0, as the config.json beside them says.", {"license": "apache-2.0"}),
        ("The weights are under my-own, as the config.json beside them says.", {"license": "other"}),
        ("not stated", {}),
    ],
)
def test_other_licences(bundle: Bundle, licence: str, fields: dict[str, str]) -> None:
    found = front_matter(replace(bundle.manifest, licence=licence))
    assert {name: value for name, value in found.items() if "licen" in name} == fields
    assert "apache-2.0" in KNOWN_LICENCES


def test_a_manifest_is_no_markup(bundle: Bundle) -> None:
    nasty = "x\n---\nlicense: mit\n# <script>`|[a](b)"
    manifest = of_weights(bundle.manifest, "file", nasty)
    manifest = replace(manifest, model=replace(manifest.model, arch="a: b\n- c"))
    made = card(replace(bundle, manifest=manifest))
    assert made.data.license == "other"
    assert "<script>" not in made.text
    assert "\n# " not in made.text.partition("begin -->")[2].replace("\n## ", "")
