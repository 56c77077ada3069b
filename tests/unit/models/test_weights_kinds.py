"""Files of weights: formats, Hugging Face folders, refusals, and what the report says."""

import argparse
import io
import pickle

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import nn

from models.name_lists import abbreviated
from models.weights import filled_names, initialise, initialise_from, report_table
from tests.helpers.tiny_models import published_system, tiny_model
from training.optimizer import parameter_groups
from utils.errors import UserError
from utils.pretrained import bert_config, read_weights


def hugging_face_bert(donor, prefix="bert."):
    """A donor's text encoder as Hugging Face names it, with the tensors that nothing here reads."""
    tensors = {}
    for name, tensor in donor.text_encoder.state_dict().items():
        if "crossattention" not in name and not (name.startswith("cls.") and not prefix):
            tensors[name if name.startswith("cls.") else prefix + name.removeprefix("bert.")] = tensor.clone()
    return {
        **tensors,
        f"{prefix}pooler.dense.weight": torch.zeros(16, 16),
        f"{prefix}embeddings.position_ids": torch.arange(20)[None],
    }


def assert_text_side_taken(model, donor, report):
    own, theirs = model.state_dict(), donor.state_dict()
    assert report.kind == "BERT"
    assert report.missing == []
    assert all(name.startswith("text_encoder.") for name in report.loaded)
    for name in report.loaded:
        assert torch.equal(own[name], theirs[name]), name
    text = [n for n, _ in model.named_parameters() if n.startswith("text_encoder.bert.") and "crossattention" not in n]
    assert set(text) <= set(report.loaded)


@pytest.mark.parametrize("zipped", [True, False])  # files of PyTorch before 1.6 are plain pickles
@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_bert_folder_with_a_bin(tmp_path, zipped, prefix):
    donor = tiny_model(seed=1)
    torch.save(hugging_face_bert(donor, prefix), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    model = tiny_model()
    report = initialise(model, tmp_path)
    assert_text_side_taken(model, donor, report)
    assert report.ignored == [f"{prefix}pooler.dense.weight", f"{prefix}embeddings.position_ids"]


def test_bert_folder_with_safetensors(tmp_path):
    donor = tiny_model(seed=1)
    save_file(hugging_face_bert(donor), tmp_path / "model.safetensors")
    model = tiny_model()
    assert_text_side_taken(model, donor, initialise(model, tmp_path))


def test_oldest_bert_names(tmp_path):
    donor = tiny_model(seed=1)
    old = {".LayerNorm.weight": ".LayerNorm.gamma", ".LayerNorm.bias": ".LayerNorm.beta"}
    tensors = {}
    for name, tensor in hugging_face_bert(donor).items():
        for ours, theirs in old.items():
            name = name.replace(ours, theirs)
        tensors[name.replace("cls.predictions.bias", "cls.predictions.decoder.bias")] = tensor
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    model = tiny_model()
    report = initialise(model, tmp_path)
    assert_text_side_taken(model, donor, report)
    assert "text_encoder.cls.predictions.bias" in report.loaded


def test_half_precision_weights_become_the_models_precision(tmp_path):
    donor = tiny_model(seed=1)
    torch.save({name: tensor.half() for name, tensor in hugging_face_bert(donor).items()}, tmp_path / "bert.pth")
    model = tiny_model()
    initialise(model, tmp_path / "bert.pth")
    word = model.text_encoder.bert.embeddings.word_embeddings.weight
    assert word.dtype == torch.float32
    assert torch.equal(word, donor.text_encoder.bert.embeddings.word_embeddings.weight.half().float())


def test_word_embedding_stays_tied_to_the_masked_language_head(tmp_path):
    torch.save(hugging_face_bert(tiny_model(seed=1)), tmp_path / "bert.pth")
    model = tiny_model()
    initialise(model, tmp_path / "bert.pth")
    encoder = model.text_encoder
    assert encoder.cls.predictions.decoder.weight is encoder.bert.embeddings.word_embeddings.weight


def test_what_stayed_new_trains_at_its_own_rate(tmp_path):
    torch.save(published_system(tiny_model(full_cross_attention=False)), tmp_path / "rasa.pth")
    model = tiny_model()
    reports = initialise_from(model, [tmp_path / "rasa.pth"], copy_cross_attention=True)
    groups = parameter_groups(model, filled=filled_names(reports), lr=1e-5, lr_new=1e-4, weight_decay=0.0)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == (1e-4 if name in reports[0].new else 1e-5), name
    assert rates[id(model.text_encoder.bert.encoder.layer[0].crossattention.self.query.weight)] == 1e-5


class Opens:
    """Unpickling it runs code."""

    def __reduce__(self):
        return (open, ("never_to_be_made", "w"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            lambda tensors: {"model": tensors, "hook": Opens()},
            r"it holds \S+open, which may run code.*--trust-checkpoint",
        ),
        (lambda tensors: nn.Linear(2, 2), r"it holds torch\.nn\.modules\.linear\.Linear"),
        (lambda tensors: [tensors], "holds no named tensors, but an object of type list"),
        (lambda tensors: {"model": {"epoch": 3, **tensors}}, "holds no named tensors, but a dictionary of Tensor, int"),
        (lambda tensors: {}, "a dictionary of nothing"),
    ],
)
def test_what_is_no_plain_state_dict_is_refused(tmp_path, monkeypatch, content, reason):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pth"
    torch.save(content(published_system(tiny_model())), path)
    with pytest.raises(UserError, match=rf"checkpoint {path} .*{reason}"):
        read_weights(path)
    assert not (tmp_path / "never_to_be_made").exists()


def test_a_plain_pickle_is_refused(tmp_path):
    (tmp_path / "model.pth").write_bytes(pickle.dumps({"model": Opens()}, protocol=2))
    with pytest.raises(UserError, match="is not a plain file of tensors"):
        read_weights(tmp_path / "model.pth")


def test_trust_reads_what_the_file_holds(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"model": published_system(tiny_model(seed=1)), "config": nn.Identity()}, path)
    with pytest.raises(UserError, match="Identity"):
        initialise(tiny_model(), path)
    assert initialise(tiny_model(), path, trust=True).kind == "MARS"


def test_arguments_beside_the_tensors_are_plain_values(tmp_path):
    """Vim's own training writes its argparse.Namespace into the file."""
    donor = tiny_model("vim", seed=1)
    args = argparse.Namespace(lr=1e-3, data_path="imagenet")
    torch.save({"model": donor.image_encoder.state_dict(), "args": args}, tmp_path / "vim.pth")
    model = tiny_model("vim")
    initialise(model, tmp_path / "vim.pth")
    assert torch.equal(model.image_encoder.cls_token, donor.image_encoder.cls_token)


def test_a_safetensors_file_that_is_none(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match="is not a readable safetensors file"):
        read_weights(tmp_path)


def test_size_of_a_vocabulary_in_a_folder(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n")
    assert bert_config(str(tmp_path)) == {"vocab_size": 3}


def test_table_names_what_is_behind_the_counts(tmp_path):
    path = tmp_path / "albef.pth"
    donor = tiny_model(full_cross_attention=False)
    torch.save(published_system(donor, without=("prd_head", "mrtd_head", "decoder")), path)
    model = tiny_model(image_size=(48, 48))
    (report,) = initialise_from(model, [path], copy_cross_attention=True)
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(report_table(report, model))
    lines = {line.split("│")[1].strip(): line for line in console.export_text().splitlines() if "│" in line}
    assert "image_encoder.pos_embed" in lines["resized"]
    assert "text_encoder.bert.encoder.layer.0-1.crossattention.* (20)" in lines["copied"]
    assert "prd_head.* (2), mrtd_head.* (2), decoder." in lines["new"]
    assert "text_encoder_m.* (" in lines["ignored"]
    assert f" {len(report.ignored)} " in lines["ignored"]


def test_abbreviated():
    assert abbreviated(["a.b", "c"]) == "a.b, c"
    layers = [f"encoder.layer.{n}.{part}" for n in (0, 1, 4) for part in ("weight", "bias")]
    assert abbreviated(layers) == "encoder.layer.0,1,4.* (6)"
    assert abbreviated([*layers, "queue"]) == "encoder.layer.0,1,4.* (6), queue"
    assert abbreviated([f"part_{n}" for n in range(20)]).endswith("part_11, ...")
