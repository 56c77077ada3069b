"""Reading a configuration: order of the layers, every kind of mistake as one line, and the files in configs/."""

import dataclasses
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from dataset.benchmarks import BENCHMARKS
from tests.helpers.paths import CONFIGS
from utils.config import ConfigError, load_config, save_config
from utils.config_schema import DatasetConfig
from utils.errors import UserError

BASE = CONFIGS / "base.yaml"


@pytest.fixture
def write(tmp_path):
    """Write a file that builds on base.yaml, unless it says otherwise; its own lines start at line 2."""

    def write(text: str, name: str = "x.yaml", base: str | None = str(BASE)) -> Path:
        path = tmp_path / name
        path.write_text((f"base: {base}\n" if base else "") + text, encoding="utf-8")
        return path

    return write


def error_of(path: Path, *overrides: str) -> str:
    """The message of the ConfigError, checked to be one line, with the folder of a temporary file taken off."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{path.parent}/", "")


def test_order_is_base_then_file_then_set(write):
    path = write("optimizer: {lr: 1e-3, lr_new: 1e-2}\n")
    config = load_config(path, ["optimizer.lr=1e-5"])
    assert (config.optimizer.lr, config.optimizer.lr_new, config.optimizer.eps) == (1e-5, 1e-2, 1e-8)


def test_later_override_wins_and_mappings_are_merged():
    config = load_config(BASE, ["train.epochs=2", "train={epochs: 3, seed: 5}"])
    assert (config.train.epochs, config.train.seed, config.train.batch_size) == (3, 5, 8)


def test_base_is_relative_to_its_file_and_chains(write, tmp_path):
    write("train: {epochs: 3, seed: 3}\n", "first.yaml")
    (tmp_path / "deeper").mkdir()
    path = write("train: {epochs: 4}\n", "deeper/second.yaml", base="../first.yaml")
    train = load_config(path).train
    assert (train.epochs, train.seed, train.batch_size) == (4, 3, 8)


@pytest.mark.parametrize("text", ["1e-5", "1E-5", "1.e-5", "0.00001", "1.0e-05"])
def test_small_numbers_are_numbers(text):
    assert load_config(BASE, [f"optimizer.lr={text}"]).optimizer.lr == 1e-5


@pytest.mark.parametrize(("text", "size"), [("96", (96, 96)), ("[384, 128]", (384, 128))])
def test_image_size_is_height_and_width(text, size):
    assert load_config(BASE, [f"dataset.image_size={text}"]).dataset.image_size == size


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_files_load_and_survive_saving(path, tmp_path):
    config = load_config(path)
    saved = tmp_path / "config.yaml"
    save_config(config, saved)
    assert load_config(saved) == config
    assert load_config(saved).as_dict() == config.as_dict()
    assert isinstance(config.as_dict()["optimizer"]["betas"], list)


def test_the_demos_twin_differs_in_the_kind_of_image_encoder_alone():
    vim, vit = (load_config(CONFIGS / f"{name}.yaml").as_dict() for name in ("demo_from_scratch", "demo_vit"))
    changed = {"type": ("vim", "vit"), "num_heads": (None, 3)}
    encoders = vim["model"].pop("image_encoder"), vit["model"].pop("image_encoder")
    assert vim == vit
    assert {key: pair for key in encoders[0] if len(set(pair := tuple(one[key] for one in encoders))) > 1} == changed


@pytest.mark.parametrize(
    ("name", "image_size", "mask_ratio", "max_words", "momentum", "temperature", "weight_decay", "weights"),
    [
        ("cuhk_pedes", 224, 0.50, 90, 0.995, 0.05, 0.01, (0.5, 1, 1, 0.5, 0.5, 0.1, 2)),
        ("icfg_pedes", 384, 0.75, 75, 0.995, 0.07, 0.02, (0.5, 1, 1, 0.5, 0.5, 1, 2)),
        ("rstp_reid", 224, 0.50, 70, 0.99, 0.07, 0.02, (2, 1, 1, 0.5, 0.5, 1, 2)),
        ("cuhk_pedes_vit", 384, 0.75, 70, 0.995, 0.07, 0.02, (0.5, 1, 1, 0.5, 0.5, 1, 2)),
        ("icfg_pedes_vit", 384, 0.75, 70, 0.995, 0.07, 0.02, (0.5, 1, 1, 0.5, 0.5, 1, 2)),
        ("rstp_reid_vit", 384, 0.75, 70, 0.995, 0.07, 0.02, (0.5, 1, 1, 0.5, 0.5, 1, 2)),
    ],
)
def test_published_settings(name, image_size, mask_ratio, max_words, momentum, temperature, weight_decay, weights):
    config = load_config(CONFIGS / f"{name}.yaml")
    order = ("itc", "itm", "mlm", "prd", "mrtd", "mae", "attribute")
    assert tuple(config.losses.weights[key] for key in order) == weights
    assert config.dataset.image_size == (image_size, image_size)
    assert (config.model.mask_ratio, config.dataset.max_words) == (mask_ratio, max_words)
    assert (config.model.momentum, config.model.temperature) == (momentum, temperature)
    assert config.optimizer.weight_decay == weight_decay
    encoder = config.model.image_encoder
    expected = ("vit_base_patch16", "clip", "vit") if name.endswith("_vit") else ("vim_base", "imagenet", "vim")
    assert (encoder.name, encoder.normalization, encoder.kind) == expected


@pytest.mark.parametrize("name", ["cuhk_pedes", "icfg_pedes", "rstp_reid"])
def test_files_with_registers_differ_in_the_image_encoder_alone(name):
    vim, registers = (load_config(CONFIGS / f"{name}{kind}.yaml").as_dict() for kind in ("", "_mamba_reg"))
    assert registers["model"]["image_encoder"].pop("name") == "mamba_reg_base"
    assert vim["model"]["image_encoder"].pop("name") == "vim_base"
    assert registers == vim


def test_frozen():
    config = load_config(BASE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.train.epochs = 3  # type: ignore[misc]


def test_benchmark_names_are_those_that_can_be_prepared():
    assert set(get_args(get_type_hints(DatasetConfig)["name"])) == set(BENCHMARKS)


def test_mistakes_in_a_file_name_file_line_and_key(write):
    path = write("train:\n  epochs: 3\nlosses:\n  weigths: {itc: 1}\n")
    assert error_of(path) == "x.yaml:5: losses.weigths: unknown key; did you mean losses.weights?"
    path = write("train:\n  epochs: many\n")
    assert error_of(path) == 'x.yaml:3: train.epochs: must be a whole number, got "many"'
    path = write("eval:\n  every: 1\n  select_on: vla\n")
    assert error_of(path) == "x.yaml:4: eval.select_on: must be 'val' or 'test', got \"vla\"; did you mean val?"


def test_mistake_in_a_base_names_the_base(write):
    write("train: {epochs: -1}\n", "first.yaml")
    path = write("train: {seed: 1}\n", "second.yaml", base="first.yaml")
    assert error_of(path) == "first.yaml:2: train.epochs: must be greater than 0, got -1"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr=abc", 'optimizer.lr: must be a number, got "abc"'),
        ("optimizer.lr=", "optimizer.lr: must be a number, got null"),
        ("optimizer.lr=.nan", "optimizer.lr: must be a finite number, got NaN"),
        ("optimizer.betas=[0.9]", "optimizer.betas: the list is too short, got [0.9]"),
        ("optimizer.betas=[0.9, 0.99, 0.999]", "optimizer.betas: the list is too long, got [0.9, 0.99, 0.999]"),
        ("train.epochs=3.5", "train.epochs: must be a whole number, got 3.5"),
        ("train.epochs=true", "train.epochs: must be a whole number, got true"),
        ("dataset.cache=yes", 'dataset.cache: must be true or false, got "yes"'),
        ("dataset.root=3", "dataset.root: must be text (in quotes where it looks like something else), got 3"),
        ("dataset.root=[a, a]", "dataset.root: must be folders that differ, got"),
        ("dataset.root=[]", "dataset.root: must be text"),
        ("init.paths=a.pth", 'init.paths: must be a list, e.g. [a, b], got "a.pth"'),
        ("losses.alpha=-0.1", "losses.alpha: must be greater than or equal to 0, got -0.1"),
        ("losses.weights.itc=-1", "losses.weights.itc: must be greater than or equal to 0, got -1"),
        ("model.mask_ratio=1", "model.mask_ratio: must be less than 1, got 1"),
        ("model.temperature=0", "model.temperature: must be greater than or equal to 0.001, got 0"),
        ("dataset.image_size=big", 'dataset.image_size: must be one number or [height, width], got "big"'),
        (
            "dataset.image_size=100",
            "dataset.image_size: 100 px is not divisible by patch_size 16; the nearest size is 96",
        ),
        ("dataset.image_size=16", "dataset.image_size: mask_ratio 0.5 leaves no patch to see or none to rebuild of 1"),
        ("model.image_encoder.scan_backend=refrence", "did you mean reference?"),
        ("model.image_encoder.name=vim_bse", "did you mean vim_base?"),
        ("model.image_encoder.type=vit", "name vim_base is not of type vit; set one to null"),
        ("model.image_encoder.num_heads=3", "a vim has no attention, set it to null"),
        (
            "model.image_encoder={name: vit_base_patch16, registers: 4}",
            "registers belong to vim; set them to null for a vit",
        ),
        ("model.image_encoder.register_reduction=2", "register_reduction needs registers, and this encoder has none"),
        (
            "model.image_encoder={name: null, type: vim, embed_dim: 48, depth: 2, registers: 4, register_reduction: 5}",
            "embed_dim 48 is not divisible by register_reduction 5",
        ),
        ("model.image_encoder={name: mamba_reg_base, type: vit}", "name mamba_reg_base is not of type vit"),
        ("model.image_encoder.name=mamba_reg_bse", "did you mean mamba_reg_base?"),
        ("model.image_encoder={name: null, type: vit}", "embed_dim, depth, num_heads must be given"),
        ("model.image_encoder.embed_dim=100", "image_encoder.embed_dim 100 is not divisible by decoder.num_heads 8"),
        ("model.text_encoder.num_hidden_layers=4", "fusion_layer 6 is more than num_hidden_layers 4"),
        (
            "model.text_encoder={num_hidden_layers: 6, full_cross_attention: false}",
            "no layer is left for cross-attention",
        ),
        ("model.text_encoder={hidden_size: 10, num_attention_heads: 3}", "hidden_size 10 is not divisible by"),
        ("model.text_encoder.max_position_embeddings=64", "dataset.max_words 90 does not fit"),
        ("schedule.min_lr=1", "schedule.min_lr 1.0 is more than optimizer.lr 1e-05"),
        ("losses.weights={itc: 0, itm: 0, mlm: 0, prd: 0, mrtd: 0, mae: 0, attribute: 0}", "every weight is 0"),
        ("dataset.name=cuhk_pedes", "did you mean CUHK-PEDES?"),
        ("optimizer=", "optimizer: must hold the keys lr, lr_new, weight_decay, betas, eps, clip_norm, got null"),
        ("optimzer.lr=1", "optimzer: unknown key; did you mean optimizer?"),
        ("lr=1", "lr: unknown key; did you mean optimizer.lr?"),
        ("batch_size=1", "batch_size: unknown key; did you mean train.batch_size or eval.batch_size?"),
        ("debug.colour=red", "debug.colour: unknown key; valid keys: deterministic, detect_anomaly"),
        ("optimizer.lr=[1", "not valid YAML: expected ',' or ']'"),
        ("optimizer={lr: 1, lr: 2}", "optimizer.lr: duplicate key"),
        ("optimizer.lr", "expected section.key=value"),
        ("=1", "expected section.key=value"),
        ("optimizer..lr=1", "expected section.key=value"),
    ],
)
def test_mistakes_on_the_command_line_name_the_option(override, message):
    error = error_of(BASE, override)
    assert error.startswith(f"--set {override}: ")
    assert message in error


def test_values_that_clash_blame_the_one_written_last(write):
    path = write("dataset: {image_size: [96, 48]}\nmodel:\n  image_encoder: {patch_size: 32}\n")
    assert error_of(path).startswith("x.yaml:2: dataset.image_size: 48 px is not divisible by patch_size 32")
    path = write("dataset: {image_size: [96, 48]}\n")
    error = error_of(path, "model.image_encoder.patch_size=32")
    assert error.startswith("--set model.image_encoder.patch_size=32: model.image_encoder.patch_size: 48 px is not")


def test_missing_key(write):
    path = write("train: {epochs: 3}\n", base=None)
    assert error_of(path) == "x.yaml: dataset: missing key; start the file with `base: base.yaml`"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n  seed: 1\n  epochs: 1\n  seed: 2\n", "x.yaml:5: train.seed: duplicate key, given on line 3 already"),
        ("train: {seed: 1\neval: {}\n", "x.yaml:3: not valid YAML: "),
        ("train:\n\tseed: 1\n", "x.yaml:3: not valid YAML: "),
        ("? [a]\n: 1\n", "x.yaml:2: a key must be a plain word"),
        ("train:\n", "x.yaml:2: train: must hold the keys epochs, "),
        ("train: {seed: !!python/object:os.system 1}\n", "x.yaml:2: not valid YAML: "),
    ],
)
def test_broken_yaml(write, text, message):
    assert error_of(write(text)).startswith(message)


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "word\n"])
def test_file_without_sections(write, text):
    assert error_of(write(text, base=None)).startswith("x.yaml:1: expected sections of keys")


def test_missing_files(write, tmp_path):
    write("", "cuhk_pedes.yaml")
    error = error_of(tmp_path / "cuhk_peds.yaml")
    assert error == "cuhk_peds.yaml: no such file; did you mean cuhk_pedes.yaml?"
    assert error_of(write("", base="bse.yaml")).startswith("x.yaml:1: base: bse.yaml: no such file")
    assert error_of(write("", base="[a, b]")) == 'x.yaml:1: base: must be the path of one file, got ["a", "b"]'
    assert "cannot be read: Is a directory" in error_of(tmp_path)


def test_file_that_is_not_text(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    assert error_of(tmp_path / "x.yaml") == "x.yaml: not a text file in UTF-8"


def test_bases_in_a_circle(write):
    write("", "first.yaml", base="second.yaml")
    path = write("", "second.yaml", base="first.yaml")
    error = error_of(path)
    assert error.startswith("first.yaml:1: base: ")
    assert "circle" in error


def test_config_errors_are_told_in_one_line():
    assert issubclass(ConfigError, UserError)
    assert issubclass(UserError, ValueError)
