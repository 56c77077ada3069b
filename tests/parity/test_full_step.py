"""One whole training step of the seed system against ours: momentum update, all features, draws, losses, queue.

Where ours differs on purpose (docs/differences.md), the test gives our parts what the seed's parts see:
- the seed takes the first patch's token as class feature, and adds position row 0 to the class token: an encoder that
  does so stands in for ours;
- its masked-language distillation runs over the sequence, its masked pass is not encoded: of the first the logits are
  compared, of the second nothing (tests/parity/test_losses.py and test_mae_decoder.py compare the pieces).
The recorded draws of the seed are replayed.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import losses.mlm
import losses.mrtd
import training.passes
from dataset.batches import TrainBatch
from dataset.texts import Texts
from losses import OBJECTIVES
from losses.masking import MaskDraws, apply_mask
from losses.mrtd import apply_replacement, places_of_words
from losses.negatives import Negatives, negative_weights
from losses.objective import ObjectiveSettings, Step
from models.bert_layers import BertSizes
from models.image_features import ImageFeatures
from models.momentum import MomentumEncoder
from models.person_search import PersonSearchModel
from models.queue import FeatureQueue
from models.text_encoder import TextEncoder
from models.vision_mamba import VisionMamba
from tests.helpers.vectors import load_case, starting_with
from training.lessons import prepare_lesson
from training.passes import run_passes

F64 = {"rtol": 1e-7, "atol": 1e-7}
F32_TRACE = {"rtol": 1e-3, "atol": 2e-4}  # the trace was recorded in float32 (noise up to 5e-6 relative per layer)
KEYS = ("itc", "itm", "prd", "mlm", "mrtd", "attribute")
CASES = ["full_ca_bs4_wrap", "plain_bs3_alpha0"]


class SeedEncoder(VisionMamba):
    """The seed's reading of a Vim: the first token of the scan order is taken for the class token."""

    def forward(self, image):
        features = super().forward(image)
        middle = self.num_patches // 2
        patches = features.patches
        tokens = torch.cat([patches[:, :middle], features.pooled[:, None], patches[:, middle:]], dim=1)
        return ImageFeatures(tokens[:, 0], tokens[:, 1:])


def build_model(description: dict, weights: dict) -> PersonSearchModel:
    config, bert = description["config"], description["bert_config"]
    image_encoder = SeedEncoder(
        image_size=(config["image_res"],) * 2, width=config["vision_width"], depth=config["vis_depth"]
    )
    sizes = {name: bert[name] for name in BertSizes.__dataclass_fields__ if name in bert}
    text_encoder = TextEncoder(
        BertSizes(**sizes),
        image_width=bert["encoder_width"],
        fusion_layer=bert["fusion_layer"],
        full_cross_attention=bert["full_ca"],
    )
    model = PersonSearchModel(
        image_encoder,
        text_encoder,
        embed_dim=config["embed_dim"],
        temperature=config["temp"],
        pixel_mean=(0, 0, 0),
        pixel_std=(1, 1, 1),
    )
    model.add_heads({name: nn.Linear(text_encoder.width, 2) for name in ("prd_head", "mrtd_head")})
    model.double()
    model.load_state_dict(own_names(weights, suffix=""))
    return model.eval()


def own_names(weights: dict, suffix: str) -> dict:
    """Published names -> ours; suffix "_m" picks the momentum copies."""
    modules = {f"visual_encoder{suffix}": "image_encoder", f"text_encoder{suffix}": "text_encoder"}
    modules |= {f"{name}{suffix}": name for name in ("vision_proj", "text_proj")}
    if not suffix:
        modules |= {name: name for name in ("itm_head", "prd_head", "mrtd_head")} | {"temp": "temperature"}
    renamed = {}
    for name, tensor in weights.items():
        module, _, rest = name.partition(".")
        unused = rest.startswith("head.") or rest in ("bert.embeddings.position_ids", "cls.predictions.decoder.bias")
        if module in modules and not unused:
            own = f"{modules[module]}.{rest}" if rest else modules[module]
            renamed[own] = tensor.double()
            if own == "image_encoder.pos_embed":  # to where Vim has the rows
                middle = (tensor.shape[1] - 1) // 2
                rows = (tensor[:, 1 : middle + 1], tensor[:, :1], tensor[:, middle + 1 :])
                renamed[own] = torch.cat(rows, dim=1).double()
    return renamed


def replay(monkeypatch, tensors: dict, attention_mask: torch.Tensor) -> None:
    """Make the model's draws give what the seed drew."""
    ids = tensors["in.text1.input_ids"]
    special = {"mask_id": 4, "cls_id": 2}
    draws = iter(("02 03 04 05", "06 07 08 09"))

    def masked_as_recorded(input_ids, mask, **_):
        hidden, to_mask, to_random, words = (
            tensors[next(name for name in tensors if name.startswith(f"draw.{n}.") and not name.endswith(".p"))]
            for n in next(draws).split()
        )
        return apply_mask(input_ids, mask, MaskDraws(hidden.bool(), to_mask.bool(), to_random.bool(), words), **special)

    def replaced_as_recorded(logits, places, input_ids):
        assert logits.shape == (len(places), 104)
        drawn = tensors["draw.10.multinomial"].view_as(ids)[tuple(places.T)]
        return apply_replacement(drawn, places, input_ids)

    negatives = Negatives(
        tensors["draw.00.multinomial"].flatten(),
        tensors["draw.01.multinomial"].flatten(),
        torch.ones(len(ids), dtype=torch.bool),
        torch.ones(len(ids), dtype=torch.bool),
    )
    monkeypatch.setattr(training.passes, "draw_negatives", lambda *_: negatives)
    monkeypatch.setattr(losses.mlm, "mask_tokens", masked_as_recorded)
    monkeypatch.setattr(losses.mrtd, "mask_tokens", masked_as_recorded)
    monkeypatch.setattr(losses.mrtd, "replaced_tokens", replaced_as_recorded)


@pytest.mark.parametrize("case", CASES)
def test_step(case, monkeypatch):
    description, tensors = load_case(f"losses_full/{case}")
    weights = starting_with(tensors, "w.")
    config = description["config"]
    model = build_model(description, weights)
    momentum_encoder = MomentumEncoder(model, momentum=config["momentum"])
    momentum_encoder.load_state_dict(own_names(weights, suffix="_m"))
    momentum_encoder.update(model)  # the seed updates before the pass, ours after the step before: the same state
    queue = FeatureQueue(config["queue_size"], config["embed_dim"]).double()
    queue.image.copy_(weights["image_queue"].T)
    queue.text.copy_(weights["text_queue"].T)
    queue.person_id.copy_(weights["idx_queue"].flatten())
    queue.pointer.copy_(weights["queue_ptr"])

    texts = []
    for number in (1, 2):
        fields = starting_with(tensors, f"in.text{number}.")
        chunks = fields.get("attribute_masks", torch.zeros_like(fields["input_ids"])).long()
        texts.append(Texts(fields["input_ids"], fields["attention_mask"], chunks))
    images = tensors["in.image1"].double(), tensors["in.image2"].double()
    batch = TrainBatch(*images, *texts, person_id=tensors["in.idx"], replaced=tensors["in.replace"])
    settings = ObjectiveSettings(
        104, 4, 2, config["mlm_probability"], config["mrtd_mask_probability"], config["mask_ratio"], 16
    )
    replay(monkeypatch, tensors, texts[0].attention_mask)
    monkeypatch.setattr(model, "normalize", lambda image: image)  # they are normalised already
    objectives = [OBJECTIVES[key](settings) for key in KEYS]
    lesson = prepare_lesson(batch, len(batch.person_id), model, momentum_encoder, objectives)
    passes = run_passes(model, lesson, objectives)
    step = Step(model, lesson, passes, lesson.momentum, queue, description["alpha"])
    computed = {each.key: each.loss(step, lesson.prepared[each.key]) for each in objectives}

    published = starting_with(tensors, "loss.f64.loss_")
    torch.testing.assert_close(computed["itc"], published["cl"], **F64)
    torch.testing.assert_close(computed["itm"], published["pitm"], **F64)
    torch.testing.assert_close(computed["prd"], published["prd"], **F64)
    torch.testing.assert_close(computed["attribute"], published["attribute"], **F64)
    check_words(step, computed, tensors, published)
    check_negatives(step, tensors)

    queue.push(lesson.momentum.image, lesson.momentum.text, batch.person_id)
    torch.testing.assert_close(queue.image.T.float(), tensors["after.image_queue"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(queue.text.T.float(), tensors["after.text_queue"], rtol=1e-4, atol=1e-5)
    assert torch.equal(queue.person_id, tensors["after.idx_queue"].flatten())
    assert torch.equal(queue.pointer, tensors["after.queue_ptr"])


def check_words(step: Step, computed: dict, tensors: dict, published: dict) -> None:
    """Masked and rewritten captions, logits of both models, the hard part of mlm, mrtd where no [PAD] was drawn."""
    words, replaced = step.lesson.prepared["mlm"], step.lesson.prepared["mrtd"]
    inside = step.lesson.pairs.text_1.attention_mask == 1
    assert torch.equal(words.input_ids, tensors["trace.mask.input_ids@3"])
    assert torch.equal(replaced.input_ids[inside], tensors["trace.mrtd_mask_modeling.mrtd_input_ids@2"][inside])
    where = tuple(words.places.T)
    mlm_logits = step.model.word_logits(step.passes.own_hidden["mlm"][where])
    logits = tensors["trace.forward.mlm_output.logits@1"][where].double()
    torch.testing.assert_close(mlm_logits, logits, **F32_TRACE)
    torch.testing.assert_close(words.momentum_logits, tensors["trace.forward.logits_m@1"][where].double(), **F32_TRACE)
    own = F.cross_entropy(mlm_logits, words.labels)
    torch.testing.assert_close(own, F.cross_entropy(logits, words.labels), **F32_TRACE)
    recorded = tensors["trace.mrtd_mask_modeling.mrtd_labels@3"]
    mrtd = tensors["trace.forward.mrtd_output@1"].view(*recorded.shape, 2).double()
    mrtd_logits = step.model.head("mrtd_head")(step.passes.own_hidden["mrtd"])
    torch.testing.assert_close(mrtd_logits[inside], mrtd[inside], **F32_TRACE)
    if torch.equal(recorded, replaced.labels):
        torch.testing.assert_close(computed["mrtd"], published["mrtd"], **F64)
    else:  # the seed ignores a [PAD] or [CLS] that the momentum encoder put into a sentence
        assert (recorded[recorded != replaced.labels] == -100).all()


def check_negatives(step: Step, tensors: dict) -> None:
    """The chances that the negatives were drawn with."""
    logits = step.passes.text_embedding @ step.lesson.momentum.image.T / step.model.temperature
    recorded = tensors["draw.00.multinomial.p"].double()
    torch.testing.assert_close(
        negative_weights(logits, step.lesson.momentum.person_id).double(),
        recorded / recorded.sum(dim=1, keepdim=True),
        **F32_TRACE,
    )


def test_places_of_words_leave_out_cls_and_padding():
    _, tensors = load_case("losses_full/full_ca_bs4_wrap")
    ids, mask = tensors["in.text1.input_ids"], tensors["in.text1.attention_mask"]
    assert len(places_of_words(ids, mask, cls_id=2)) == int(mask.sum()) - len(ids)
