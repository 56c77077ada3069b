"""The kinds of checkpoints: how their tensor names identify them, and where their tensors belong in our model.

Sources of the names: Vim (arXiv:2401.09417) and its masked-autoencoder pre-training in FastVim, Mamba-Reg
(arXiv:2405.14858), Hugging Face's BERT, ALBEF (arXiv:2107.07651) and the systems that grew from it: RaSa
(arXiv:2305.13653), MARS (arXiv:2407.04287) and MAMBA-TBPS. docs/checkpoints.md says where to find each file.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from models.positions import class_row_to_middle
from utils.errors import UserError

CROSS_ATTENTION = ".crossattention."
SYSTEM_MODULES = {
    "visual_encoder": "image_encoder",
    "text_encoder": "text_encoder",
    "vision_proj": "vision_proj",
    "text_proj": "text_proj",
    "itm_head": "itm_head",
    "prd_head": "prd_head",
    "mrtd_head": "mrtd_head",
    "temp": "temperature",
    "visual_decoder": "decoder",
    "visual_decoder_pos_embed": "decoder.pos_embed",
    "mask_token": "decoder.mask_token",
    "decoder_pred": "decoder.prediction",
}
HEAD_OF_TASK = {"prd": "prd_head", "mrtd": "mrtd_head", "mae": "decoder"}  # a system has all tensors of one or none
DECODER_PARTS = {".to_out.0.": ".to_out.", ".ff.net.0.l.": ".ff.expand.", ".ff.net.2.": ".ff.contract."}
TIED_BIAS = "cls.predictions.decoder.bias"  # a second name of cls.predictions.bias
WITHOUT_ROLE = (  # beginnings of renamed names: classifiers, outputs and buffers of BERT that are not used here
    "image_encoder.head",
    "text_encoder.bert.pooler.",
    "text_encoder.bert.embeddings.position_ids",
    "text_encoder.cls.seq_relationship.",
    f"text_encoder.{TIED_BIAS}",
)


class Kind(NamedTuple):
    """One kind of checkpoint, determined from the names in one file.

    rename: maps a name in the file to ours, whether or not the model has it; None = the tensor has no role.
    fills: says which of our parameters the file should hold.
    image: the file's image encoder, "vim", "mamba_reg" or "vit"; None = it has none, or the same as our model.
    arrange: puts position rows in the order of our encoders, at the file's resolution; leaves other tensors unchanged.
    """

    name: str
    rename: Callable[[str], str | None]
    fills: Callable[[str], bool]
    image: str | None = None
    arrange: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor


def recognise(tensors: Mapping[str, Tensor], path: str | Path) -> Kind:
    """Determine the kind of a checkpoint from its tensor names.

    Raises: UserError if the names fit no known kind, or a Vim variant that computes something else.
    """
    if any(".mixer.layernorm." in name for name in tensors):
        raise UserError(
            f"{path}: a Vim with a LayerNorm behind each scan (FastVim trains those unless use_norm_after_ssm is off); "
            "the image encoder here has none, so these weights would compute something else"
        )
    for marker, build in MARKERS.items():
        if marker in tensors:
            return build(tensors)
    raise UserError(
        f"{path}: unknown kind of checkpoint (first key: {next(iter(tensors))}); known are ours, ALBEF, RaSa, MARS, "
        "MAMBA-TBPS, Vision Mamba, BERT"
    )


def image_encoder_type(names: Collection[str], module: str) -> str | None:
    """Return the type of the image encoder under that module name: "vim", "mamba_reg", "vit", or None without one."""
    if f"{module}.pos_embed_cls" in names:
        return "mamba_reg"
    if f"{module}.layers.0.mixer.A_log" in names:
        return "vim"
    return "vit" if f"{module}.blocks.0.attn.qkv.weight" in names else None


def _ours(tensors: Mapping[str, Tensor]) -> Kind:
    return Kind("ours", lambda name: name, lambda name: True, image_encoder_type(tensors, "image_encoder"))


def _vim(tensors: Mapping[str, Tensor]) -> Kind:
    # masked-autoencoder pre-training has a fixed sine-cosine embedding whose first row, the class row, is zero
    class_row_first = not tensors["pos_embed"][0, 0].any() if "pos_embed" in tensors else False

    def rename(name: str) -> str | None:
        of_pretraining = name.startswith(("decoder_", "mask_token"))
        return None if of_pretraining else _with_role(f"image_encoder.{name}")

    def arrange(name: str, tensor: Tensor) -> Tensor:
        return class_row_to_middle(tensor) if name.endswith("pos_embed") and class_row_first else tensor

    return Kind("Vision Mamba", rename, lambda name: name.startswith("image_encoder."), "vim", arrange)


def _mamba_reg(tensors: Mapping[str, Tensor]) -> Kind:
    def rename(name: str) -> str | None:
        return _with_role(f"image_encoder.{name}")

    return Kind("Mamba-Reg", rename, lambda name: name.startswith("image_encoder."), "mamba_reg")


def _bert(tensors: Mapping[str, Tensor]) -> Kind:
    def rename(name: str) -> str | None:
        # the oldest files call the parameters of LayerNorm gamma and beta
        name = name.removeprefix("bert.").replace(".gamma", ".weight").replace(".beta", ".bias")
        if name == TIED_BIAS and "cls.predictions.bias" not in tensors:
            name = "cls.predictions.bias"
        return _with_role(f"text_encoder.{name}" if name.startswith("cls.") else f"text_encoder.bert.{name}")

    def fills(name: str) -> bool:
        # a bare BertModel has no masked-language head, and no BERT has cross-attention
        return name.startswith("text_encoder.bert.") and CROSS_ATTENTION not in name

    return Kind("BERT", rename, fills)


def _system(tensors: Mapping[str, Tensor]) -> Kind:
    """ALBEF and its descendants. Momentum copies and queues have no role, because a run makes its own."""
    image = image_encoder_type(tensors, "visual_encoder")
    own_names = {own for name in tensors if (own := _rename_system(name))}
    modules = {name.partition(".")[0] for name in own_names}
    absent = tuple(f"{module}." for module in HEAD_OF_TASK.values() if module not in modules)
    with_cross = [layer_number(name) for name in own_names if CROSS_ATTENTION in name]
    first_cross = min(with_cross, default=0)

    def fills(name: str) -> bool:
        return not name.startswith(absent) and not (CROSS_ATTENTION in name and layer_number(name) < first_cross)

    def arrange(name: str, tensor: Tensor) -> Tensor:
        if name == "decoder.pos_embed":  # (rows, width); the published code uses the first ones
            used = tensors["visual_encoder.pos_embed"].shape[1] if "visual_encoder.pos_embed" in tensors else None
            return tensor[None, :used]
        # MAMBA-TBPS adds row 0 of its Vim to the class token, as a ViT does
        return class_row_to_middle(tensor) if name == "image_encoder.pos_embed" and image == "vim" else tensor

    return Kind(_system_name(modules, image), _rename_system, fills, image, arrange)


def _system_name(modules: Collection[str], image: str | None) -> str:
    if image == "vim":
        return "MAMBA-TBPS"
    if "decoder" in modules:
        return "MARS"
    return "RaSa" if "prd_head" in modules else "ALBEF"


def _rename_system(name: str) -> str | None:
    module, _, rest = name.partition(".")
    if module not in SYSTEM_MODULES:
        return None
    if module == "visual_decoder":
        for theirs, ours in DECODER_PARTS.items():
            name, rest = name.replace(theirs, ours), rest.replace(theirs, ours)
    own = f"{SYSTEM_MODULES[module]}.{rest}" if rest else SYSTEM_MODULES[module]
    return _with_role(own)


def _with_role(own: str) -> str | None:
    return None if own.startswith(WITHOUT_ROLE) else own


def of_bert_layers(kind: Kind, layers: Sequence[int]) -> Kind:
    """Restrict a kind of BERT to these layers: the first one becomes layer 0, and so on."""

    def rename(name: str) -> str | None:
        before, marker, after = name.partition(".layer.")
        if not marker:
            return kind.rename(name)
        number, _, rest = after.partition(".")
        return kind.rename(f"{before}.layer.{layers.index(int(number))}.{rest}") if int(number) in layers else None

    return kind._replace(rename=rename)


def layer_number(name: str) -> int:
    """Return the number of the BERT layer in a parameter name."""
    return int(name.partition(".layer.")[2].partition(".")[0])


MARKERS: dict[str, Callable[[Mapping[str, Tensor]], Kind]] = {  # by a name that only this kind has; first match
    "image_encoder.pos_embed": _ours,
    "temperature": _ours,
    "visual_encoder.pos_embed": _system,
    "text_encoder.bert.embeddings.word_embeddings.weight": _system,
    "pos_embed_cls": _mamba_reg,
    "layers.0.mixer.A_b_log": _vim,
    "embeddings.word_embeddings.weight": _bert,
    "bert.embeddings.word_embeddings.weight": _bert,
}
