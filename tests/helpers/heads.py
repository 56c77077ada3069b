"""The heads of objectives on models that tests build by hand."""

from collections.abc import Collection

from losses import OBJECTIVES
from losses.objective import ObjectiveSettings
from models.mae_decoder import MAEDecoder
from models.person_search import PersonSearchModel

SETTINGS = ObjectiveSettings(
    vocab_size=30, mask_id=4, cls_id=2, mlm_probability=0.15, mrtd_mask_probability=0.3, mask_ratio=0.5, patch_size=8
)


def add_heads(model: PersonSearchModel, keys: Collection[str], decoder: MAEDecoder) -> None:
    """In the order of training, whatever the order of keys."""
    for key, kind in OBJECTIVES.items():
        if key in keys:
            model.add_heads(kind(SETTINGS).heads(model.text_encoder.width, decoder))
