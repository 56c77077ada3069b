"""The parts of a training step whose shares of its time bench.train_step shows."""

from collections.abc import Callable
from typing import Any

import losses.attribute
import losses.itc
import losses.itm
import losses.mae
import losses.mlm
import losses.mrtd
import losses.prd
from bench import plain_step
from training.objectives import Objectives
from training.state import TrainState


def own_parts(state: TrainState) -> dict[str, list[tuple[Any, str]]]:
    model = state.model
    return {
        "momentum encoders": [(Objectives, "prepare")],
        "image encoder": [(model, "encode_image")],
        "masked pass and decoder": [(model.image_encoder, "encode_masked"), (model.head("decoder"), "forward")],
        "text mode": [(model.text_encoder, "forward")],
        "cross-modal mode": [(model.text_encoder, "cross_modal")],
        "vocabulary": [(model.text_encoder, "mlm_logits")],
        "losses": [
            (losses.itc, "contrastive_loss"),
            (losses.itm, "itm_loss"),
            (losses.prd, "prd_loss"),
            (losses.mlm, "mlm_loss"),
            (losses.mrtd, "mrtd_loss"),
            (losses.attribute, "attribute_loss"),
            (losses.mae, "mae_loss"),
        ],
    }


def plain_parts(state: TrainState) -> dict[str, list[tuple[Any, str]]]:
    return {
        "momentum encoders": [(plain_step, "teach")],
        "image encoder": [(plain_step, "plain_image")],
        "masked pass and decoder": [(plain_step, "reconstruct")],
        "text mode": [(plain_step, "plain_text")],
        "cross-modal mode": [(plain_step, "plain_cross_modal")],
        "vocabulary": [(state.model.text_encoder, "mlm_logits")],
        "losses": [(plain_step, name) for name in ("contrastive", "attributes", "masked_words")],
    }


PARTS: dict[bool, Callable[[TrainState], dict[str, list[tuple[Any, str]]]]] = {False: own_parts, True: plain_parts}
