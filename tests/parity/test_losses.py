"""Losses, draws and queue against the published implementation; vectors and their oddities: tests/parity/README.md.

The vectors of these sets are float32 results, so most comparisons cast the inputs to float64 and allow what float32
rounding costs the published side: rtol 1e-5, atol 1e-6. Integers and masks must be equal.
"""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from losses.attribute import attribute_loss
from losses.itc import contrastive_loss, identity_targets, itc_loss
from losses.itm import itm_loss
from losses.mae import kept_patches, mae_loss, patchify, unpatchify
from losses.masking import MaskDraws, apply_mask
from losses.mlm import mlm_loss
from losses.mrtd import apply_replacement, mrtd_loss, places_of_words
from losses.negatives import negative_weights
from losses.prd import prd_loss
from models.queue import FeatureQueue
from tests.helpers.vectors import load_case

close = functools.partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6, check_dtype=False)
exactly = functools.partial(torch.testing.assert_close, rtol=0, atol=0)

CONTRASTIVE_CASES = ["full_ca_bs4_wrap", "plain_bs3_alpha0"]


def doubled(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def contrastive(case: dict[str, Tensor], alpha: float) -> Tensor:
    return contrastive_loss(
        case["image_feat"],
        case["text_feat"],
        case["image_feat_m"],
        case["text_feat_m"],
        queue_image=case["image_queue"].T,
        queue_text=case["text_queue"].T,
        person_id=case["idx"],
        queue_person_id=case["idx_queue"][0],
        temperature=case["temp"],
        alpha=alpha,
    )


@pytest.mark.parametrize("name", CONTRASTIVE_CASES)
@pytest.mark.parametrize("direction", ["i2t", "t2i", "i2i", "t2t"])
def test_each_contrastive_direction(name, direction):
    meta, case = load_case(f"losses_contrastive_pitm/{name}")
    case = doubled(case)
    person_id = torch.cat([case["idx"], case["idx_queue"][0]])
    targets = identity_targets(case["idx"], person_id, dtype=torch.float64)
    close(targets, case["sim_targets"])
    loss = itc_loss(case[f"sim_{direction}"], targets, case[f"sim_{direction}_m"], alpha=meta["alpha"])
    close(loss, case[f"loss_{direction}"])


@pytest.mark.parametrize("name", CONTRASTIVE_CASES)
def test_contrastive_loss_from_embeddings(name):
    meta, case = load_case(f"losses_contrastive_pitm/{name}")
    close(contrastive(doubled(case), meta["alpha"]), case["loss_cl"])
    _, full = load_case(f"losses_full/{name}")
    # The published embeddings are stored in float32; their rounding is divided by the temperature.
    torch.testing.assert_close(contrastive(doubled(case), meta["alpha"]), full["loss.f64.loss_cl"], rtol=2e-6, atol=0)


@pytest.mark.parametrize("name", CONTRASTIVE_CASES)
def test_gradient_of_the_temperature_comes_from_online_logits_only(name):
    meta, case = load_case(f"losses_contrastive_pitm/{name}")
    full_meta, full = load_case(f"losses_full/{name}")
    case = doubled(case)
    case["temp"].requires_grad_()
    (full_meta["loss_weights"]["loss_cl"] * contrastive(case, meta["alpha"])).backward()
    torch.testing.assert_close(case["temp"].grad, full["grad.temp"].double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", CONTRASTIVE_CASES)
def test_negative_weights(name):
    """Ours are scaled to sum to 1, which changes no draw."""
    meta, case = load_case(f"losses_contrastive_pitm/{name}")
    for direction in ("i2t", "t2i"):
        published = case[f"weights_{direction}"]
        ours = negative_weights(case[f"sim_{direction}"][:, : meta["bs"]], case["idx"])
        close(ours, published / published.sum(dim=1, keepdim=True))
        exactly(ours == 0, published == 0)


@pytest.mark.parametrize("name", CONTRASTIVE_CASES)
def test_matching_and_relation_losses(name):
    _, case = load_case(f"losses_contrastive_pitm/{name}")
    case = doubled(case)
    logits = F.linear(case["vl_embeddings"], case["w.itm_head.weight"], case["w.itm_head.bias"])
    close(itm_loss(logits, case["itm_labels"], torch.ones(len(logits), dtype=torch.bool)), case["loss_pitm"])
    close(prd_loss(case["prd_output"], case["replace"]), case["loss_prd"])


@pytest.mark.parametrize("name", ["plain", "exact_end", "wrap"])
def test_queue_push(name):
    """Published layout: (E, Q) features and (1, Q) ids. Only copies: equal to the bit."""
    meta, case = load_case(f"losses_queue/{name}")
    queue = FeatureQueue(meta["queue_size"], len(case["before.image_queue"]))
    queue.image.copy_(case["before.image_queue"].T)
    queue.text.copy_(case["before.text_queue"].T)
    queue.person_id.copy_(case["before.idx_queue"][0])
    queue.pointer.copy_(case["before.queue_ptr"])
    queue.push(case["image_feat"], case["text_feat"], case["idx"][:, 0])
    exactly(queue.image.T, case["after.image_queue"])
    exactly(queue.text.T, case["after.text_queue"])
    exactly(queue.person_id[None], case["after.idx_queue"])
    exactly(queue.pointer, case["after.queue_ptr"])


@pytest.mark.parametrize("name", ["mlm", "mrtd"])
def test_masked_words(name):
    """The published draws replayed. Padding is what the published code takes for it: id 0."""
    meta, case = load_case(f"losses_mask/{name}")
    masked, to_mask_token, to_random_word = (case[f"draw.0{i}.bernoulli"].bool() for i in range(3))
    draws = MaskDraws(masked, to_mask_token, to_random_word, case["draw.03.randint"])
    attention_mask = (case["input_ids"] != meta["pad"]).long()
    tokens = apply_mask(case["input_ids"], attention_mask, draws, mask_id=meta["mask"], cls_id=meta["cls"])
    exactly(tokens.input_ids, case["output_ids"])
    if "labels" in case:
        exactly(tokens.labels, case["labels"])


def test_replaced_words():
    """Labels differ on purpose where [PAD] or [CLS] was drawn inside a sentence.

    The published code ignores these places; they are replaced words all the same, and ours count them.
    """
    meta, case = load_case("losses_mrtd/a")
    places = places_of_words(case["original_ids"], case["attention_mask"], cls_id=meta["cls"])
    drawn = case["draw.multinomial"].view_as(case["original_ids"])
    tokens = apply_replacement(drawn[tuple(places.T)], places, case["original_ids"])
    exactly(tokens.input_ids, case["mrtd_input_ids"])
    inside = case["attention_mask"].bool() & (case["original_ids"] != meta["cls"])
    special = inside & ((tokens.input_ids == meta["pad"]) | (tokens.input_ids == meta["cls"]))
    assert special.any()
    exactly(tokens.labels[~special], case["mrtd_labels"][~special])
    assert (case["mrtd_labels"][special] == -100).all()
    assert (tokens.labels[special] == 1).all()


def test_replaced_token_detection_loss():
    _, case = load_case("losses_mrtd/a")
    case = doubled(case)
    logits = F.linear(case["hidden"], case["w.mrtd_head.weight"], case["w.mrtd_head.bias"])
    close(mrtd_loss(logits, case["mrtd_labels"]), case["loss"])


@pytest.mark.parametrize("name", ["full_ca_true", "full_ca_false", "rasa_plain"])
def test_masked_language_modelling_loss(name):
    """Cross-entropy as published; the distillation over the vocabulary, which the published code only meant to do.

    float64 throughout, atol 1e-8; distillation rtol 2e-7: soft_labels are stored in float32, not quite summing to 1.
    """
    _, case = load_case(f"xbert/{name}")
    masked = case["labels"] != -100
    logits, labels = case["f64.mlm_logits"][masked], case["labels"][masked]
    torch.testing.assert_close(mlm_loss(logits, labels), case["f64.mlm_loss_hard"], rtol=0, atol=1e-8)
    distilled = mlm_loss(logits, labels, case["soft_labels"][masked].double().log(), alpha=1.0)
    torch.testing.assert_close(distilled, case["f64.mlm_distill_if_softmax_over_vocab"], rtol=2e-7, atol=0)
    all_places = mlm_loss(case["f64.mlm_logits"].flatten(0, 1), case["labels"].flatten())
    torch.testing.assert_close(all_places, case["f64.mlm_loss_hard"], rtol=0, atol=1e-8)


def chunk_inputs(case: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Matching head on the mean over each chunk's tokens, by a plain loop: logits (3B, C, 2), present, labels."""
    hidden = torch.cat([case["output_pos"], case["output_neg_cross"]])
    ids = torch.cat([case["attribute_masks"], case["attribute_masks_neg"]])
    num_chunks = int(ids.max())
    logits = torch.full((len(ids), num_chunks, 2), float("nan"), dtype=hidden.dtype)
    present = torch.zeros(len(ids), num_chunks, dtype=torch.bool)
    for row in range(len(ids)):
        for chunk in range(num_chunks):
            tokens = hidden[row, ids[row] == chunk + 1]
            if len(tokens):
                present[row, chunk] = True
                logits[row, chunk] = F.linear(tokens.mean(0), case["w.itm_head.weight"], case["w.itm_head.bias"])
    labels = torch.zeros(len(ids), dtype=torch.long)
    labels[: len(case["output_pos"])] = 1
    return logits, present, labels


@pytest.mark.parametrize("name", ["some_empty", "only_one"])
def test_attribute_loss(name):
    _, case = load_case(f"losses_attribute/{name}")
    case = doubled(case)
    close(attribute_loss(*chunk_inputs(case)), case["loss_attribute"])


def test_attribute_loss_with_a_missing_chunk_number():
    """Published: NaN, the mean over no tokens. Ours: the chunks that exist."""
    _, case = load_case("losses_attribute/gap_nan")
    assert case["loss_attribute"].isnan()
    case = doubled(case)
    logits, present, labels = chunk_inputs(case)
    per_pair = [
        F.cross_entropy(logits[row, present[row]], labels[row].expand(int(present[row].sum())))
        for row in range(len(labels))
        if present[row].any()
    ]
    torch.testing.assert_close(attribute_loss(logits, present, labels), torch.stack(per_pair).mean())


def test_attribute_loss_without_any_chunk():
    """Published: ZeroDivisionError. Ours: 0."""
    meta, case = load_case("losses_attribute/none_crash")
    assert "ZeroDivisionError" in meta["crash"]
    assert attribute_loss(*chunk_inputs(case)) == 0


def test_kept_patches():
    """The same patches stay. Published: in the order of their noise; ours: in raster order."""
    meta, case = load_case("losses_mae/a")
    patches = kept_patches(case["noise"], meta["mask_ratio"])
    exactly(patches.masked, case["mask"].bool())
    exactly(patches.kept, case["noise"].argsort(dim=1)[:, : patches.kept.shape[1]].sort(dim=1).values)
    kept_tokens = case["x"].gather(1, patches.kept[:, :, None].expand(-1, -1, case["x"].shape[2]))
    rank = case["ids_restore"].gather(1, patches.kept)  # where the published code put each kept patch
    exactly(kept_tokens, case["x_masked"].gather(1, rank[:, :, None].expand_as(kept_tokens)))


def test_patches_and_reconstruction_loss():
    meta, case = load_case("losses_mae/a")
    exactly(patchify(case["images"], meta["patch"]), case["patches"])
    exactly(unpatchify(case["patches"], meta["patch"], (meta["img"], meta["img"])), case["images"])
    loss = mae_loss(case["pred"].double(), case["images"].double(), case["mask"], meta["patch"])
    close(loss, case["loss_mae"])
