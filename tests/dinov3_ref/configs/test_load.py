"""Reading a configuration: recipes, files, command-line overrides; one-line errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinov3_ref.configs import get_default_config, load_config, recipe_names, student_configs
from dinov3_ref.errors import ConfigError
from dinov3_ref.train.schedules import build_rates

# Values that the user must give to a recipe.
TEACHER = ["distillation.full_cfg_path=x.yaml", "distillation.checkpoint_path=x.pth"]
TEXT = ["text.backbone=x.pth", "text.vocabulary=x.txt.gz"]
TO_BE_SAID = {
    "continued": ["student.pretrained_weights=x.pth"],
    "distillation": TEACHER,
    "distillation_convnext": TEACHER,
    "distillation_convnext_small": TEACHER,
    "distillation_convnext_base": TEACHER,
    "distillation_convnext_large": TEACHER,
    "multidistillation": TEACHER,
    "dinotxt": TEXT,
    "toy_text": TEXT,
}


@pytest.mark.parametrize("name", recipe_names())
def test_recipes(name: str) -> None:
    """Each is complete, and its schedules fit into its training."""
    config = load_config(name, TO_BE_SAID.get(name, []))
    rates = build_rates(config, world_size=8)
    last = rates.at(rates.total_iterations - 1)
    assert last.lr > 0
    if config.text.enabled:
        return  # it has no teacher
    assert 0.9 < last.momentum <= 1
    assert last.teacher_temp == pytest.approx(
        0.02 if name == "toy_cpu" else 0.07
    )  # the toy run has few steps and needs a low temperature


@pytest.mark.parametrize("name", TO_BE_SAID)
def test_missing_values_of_a_recipe(name: str) -> None:
    with pytest.raises(ConfigError, match=r"has no value; wanted \S+=\.\.\. on the command line"):
        load_config(name)


def test_a_recipe_starts_with_a_description_and_its_command() -> None:
    from dinov3_ref.configs.load import RECIPES

    for name in recipe_names():
        head = [line for line in (RECIPES / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
        assert len(head) >= 2
        assert any(f"--config {name}" in line for line in head)


def test_published_numbers_of_the_7b() -> None:
    """A peak of 5e-5 at batch 4096 is 4e-4; the last layer is frozen for 5 epochs (docs/spec.md 4.1, 4.9)."""
    rates = build_rates(load_config("vit7b_pretrain"), world_size=256)
    assert rates.at(100_000).lr == pytest.approx(4e-4)
    assert [rates.at(i).last_layer_lr > 0 for i in (4999, 5000)] == [False, True]
    assert rates.at(50_000).teacher_temp == pytest.approx(0.055)


def test_schedules_of_a_convnext() -> None:
    """docs/spec.md 4.1; rates are scaled by 4 at batch 1024, except the first value."""
    config = load_config("distillation_convnext", TEACHER)
    rates = build_rates(config, world_size=16)
    warm = 80 * config.train.OFFICIAL_EPOCH_LENGTH
    last = rates.at(rates.total_iterations - 1)
    assert (rates.at(0).lr, rates.at(warm).lr, last.lr) == pytest.approx((1e-6, 8e-4, 4e-6), rel=1e-3)
    assert (rates.at(0).weight_decay, last.weight_decay) == pytest.approx((0.04, 0.2), rel=1e-3)
    assert (rates.at(0).momentum, last.momentum) == pytest.approx((0.994, 1.0))


def test_a_file_can_extend_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("base: vits_single_gpu\nstudent: {drop_path_rate: 0.2}\n")
    config = load_config(file)
    assert (config.student.drop_path_rate, config.student.n_storage_tokens) == (0.2, 4)
    assert config.dino.head_n_prototypes == 32768


def test_defaults_then_file_then_overrides(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("optim: {lr: 2.0e-3, epochs: 7}\ntrain: {seed: 1}\n")
    config = load_config(file, ["optim.epochs=8", "crops.global_crops_size=256"])
    assert (config.optim.lr, config.optim.epochs, config.train.seed) == (2e-3, 8, 1)
    assert config.crops.global_crops_size == 256
    assert config.optim.min_lr == get_default_config().optim.min_lr
    assert load_config() == get_default_config()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ibot: {separate_head: false}", "ibot.separate_head is False"),
        ("MODEL: {META_ARCHITECTURE: MultiDistillationMetaArch}", "wanted true for both"),
        ("optim: {lrr: 1}", "run.yaml at optim.lrr: Key 'lrr' not in 'Optim'"),
        ("optim: {lr: fast}", "run.yaml at optim.lr: Value 'fast'"),
        ("- a\n- b", "holds a list; wanted groups"),
        ("optim: {lr: [", "is not YAML"),
        ("base: vits", "run.yaml: base is 'vits'; wanted a recipe: continued"),
        ("train: {centering: kmeans}", "train.centering is 'kmeans'; wanted one of sinkhorn_knopp"),
        ("optim: {epochs: 0}", "optim.epochs is 0; wanted a positive integer"),
        ("gram: {loss_weight_schedule: {start: 0.0}}", "gram.loss_weight_schedule.end has no value"),
        ("crops: {global_crops_size: [224, 256]}", "crops.local_crops_size is 96, .* has 2 sizes"),
    ],
)
def test_errors_of_a_file(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words) as raised:
        load_config(file)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("source", "word", "words"),
    [
        ("no_such", "", "no_such is neither a file nor a recipe; recipes: continued"),
        (None, "optim.lr", "'optim.lr' on the command line; wanted key=value"),
        (None, "optim.lr=[1", "the command line's values cannot be read"),
        (None, "optim.rate=1", "the command line at optim.rate"),
    ],
)
def test_errors_of_a_command_line(source: str | None, word: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        load_config(source, [word] if word else [])
    assert "\n" not in str(raised.value)


TEACHER = ("distillation.enabled=true", "distillation.full_cfg_path=x", "distillation.checkpoint_path=ignore")


def configure(students: str) -> list[str]:
    return [*TEACHER, f"multidistillation={{enabled: true, students: {students}}}", "train.output_dir=out"]


def test_a_student_merges_its_own_keys() -> None:
    config = load_config(
        None, configure("[{name: a}, {name: b, student: {arch: vit_base}, optim: {lr: 1e-4}}]")
    )
    own = student_configs(config)
    assert list(own) == ["a", "b"]
    assert (own["a"].student.arch, own["b"].student.arch) == ("vit_large", "vit_base")
    assert own["b"].optim.lr == 1e-4
    assert own["b"].train.output_dir == "out/students/b"
    assert not own["b"].multidistillation.enabled
    assert own["b"].crops == config.crops


@pytest.mark.parametrize(
    ("students", "message"),
    [
        ("[]", "wanted at least one"),
        ("[{name: a}, {name: a}]", "each with a unique name"),
        ("[{name: ../a}]", "of letters, digits"),
        ("[{name: a, student: {patch_size: 8}}]", "a sets student.patch_size"),
    ],
)
def test_wrong_students(students: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, configure(students))
