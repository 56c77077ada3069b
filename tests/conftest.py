"""Shared fixtures: a tiny SynthPedes on disk, a BERT folder with its few words, and the debug configuration on both."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: threads that wait for each other cost more than they help

import pytest
import torch

from dataset.batches import TrainBatch
from dataset.prepare import main as prepare
from dataset.run_loaders import train_loader_of
from dataset.synthpedes.generate import generate
from dataset.tokenizer import load_tokenizer
from tests.helpers.benchmark import PEOPLE, read_split, words_of
from tests.helpers.paths import DEBUG_CONFIG
from utils.config import Config, load_config
from utils.distributed import start

logging.getLogger("milvus_lite").setLevel(logging.WARNING)  # it still talks when pytest has closed its streams

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def tiny_benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared CUHK-PEDES format, PEOPLE with two images of two captions each. Not to be changed: see copy_of."""
    root = tmp_path_factory.mktemp("data") / "tiny"
    generate(
        root,
        benchmark="CUHK-PEDES",
        people=PEOPLE,
        images_per_person=2,
        captions_per_image=2,
        seed=0,
        size_px=(64, 32),
        workers=1,
        lookalikes=0.0,
    )
    assert prepare(["CUHK-PEDES", str(root)]) == 0
    return root


@pytest.fixture(scope="session")
def tiny_bert(tiny_benchmark: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a config.json and a vocab.txt of the benchmark's words: most of a step's time is the vocabulary."""
    folder = tmp_path_factory.mktemp("bert")
    words = {word for record in read_split(tiny_benchmark, "train") for word in words_of(record)}
    vocabulary = [*SPECIAL_TOKENS, *sorted(words)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": len(vocabulary)}))
    return folder


@pytest.fixture(scope="session")
def debug_settings(tiny_benchmark: Path, tiny_bert: Path) -> Callable[..., list[str]]:
    """Makes the arguments of a command on configs/debug.yaml: settings("train.epochs=1", root=...)."""

    def settings(*overrides: str, root: Path = tiny_benchmark) -> list[str]:
        given = [f"dataset.root={root}", f"model.text_encoder.name={tiny_bert}", *overrides]
        return ["--config", str(DEBUG_CONFIG), "--set", *given]

    return settings


@pytest.fixture(scope="session")
def debug_config(debug_settings: Callable[..., list[str]]) -> Callable[..., Config]:
    """Makes the same configuration as an object: config("train.epochs=1")."""

    def config(*overrides: str, root: Path | None = None) -> Config:
        arguments = debug_settings(*overrides) if root is None else debug_settings(*overrides, root=root)
        return load_config(arguments[1], arguments[3:])

    return config


@pytest.fixture
def batch(debug_config: Callable[..., Config]) -> TrainBatch:
    """The first one of the debug configuration's training set."""
    config = debug_config()
    loader = train_loader_of(config, load_tokenizer(config.model.text_encoder.name), start())
    loader.sampler.set_position(0)
    return next(iter(loader.batches))
