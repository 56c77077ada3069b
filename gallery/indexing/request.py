"""What is to be indexed, whether it fits the index that is there, and what the index notes of it."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gallery.encoding.checkpoints import config_of
from gallery.footage.origin import Origin
from gallery.indexing.footprint import Tokens, chosen_token_shape
from gallery.indexing.scan import Changes, Found, not_read
from gallery.search.calibration import calibration_beside
from gallery.store.manifest import CheckpointStamp, Manifest
from gallery.store.store import Store
from gallery.store.writer import StoreWriter
from utils.errors import UserError

MAX_SHARE_GONE = 0.5  # of the images; indexing removes more only on request


@dataclass(frozen=True, kw_only=True)
class IndexingRequest:
    """A folder of pictures, the checkpoint to encode them with, and the index that they go to.

    config: the model's configuration, if the checkpoint does not hold it.
    paths: only these images, relative to the folder `images`; None = all of them.
    engine_url: of a Milvus server; None = the engine that the index has, and FAISS for a new index.
    prune: go on even if most images are gone, or if the index is of another folder.
    """

    images: Path
    checkpoint: Path
    index: Path
    config: Path | None = None
    paths: Sequence[str] | None = None
    tokens: Tokens = "auto"
    engine_url: str | None = None
    prune: bool = False


def open_writer(request: IndexingRequest, found: Found, old: Manifest | None, stamp: CheckpointStamp) -> StoreWriter:
    """Open the index for writing, or create an empty one if there is none (old: None).

    Raises: UserError if a new index would have no images, or if the request does not fit the index that is there.
    """
    if old is None:
        if not found.images:
            others = not_read(found.other_kinds)
            raise UserError(
                f"no images (jpg, jpeg, png, webp) below {request.images}" + (f"; {others}" if others else "")
            )
        return StoreWriter(request.index, _new_manifest(request, stamp, len(found.images)))
    if stamp.sha256 != old.checkpoint.sha256:
        raise UserError(
            f"{request.index} was made with another checkpoint ({old.checkpoint.path}, {old.checkpoint.sha256[:8]}) "
            f"than {request.checkpoint} ({stamp.sha256[:8]}), and their vectors do not compare: give another --index, "
            "or delete this one"
        )
    if request.tokens != "auto" and (request.tokens == "yes") != (old.token_shape is not None):
        kept = "keeps" if old.token_shape else "does not keep"
        raise UserError(f"{request.index} {kept} image tokens; that is chosen once: delete it to choose anew")
    if not request.prune and old.root != str(request.images.resolve()):
        raise UserError(
            f"{request.index} is of the folder {old.root}, not of {request.images.resolve()}, whose images would take "
            "the place of those: give another --index, or --prune as well if that is what you want (the folder moved)"
        )
    return StoreWriter(request.index)


def check_loss(
    request: IndexingRequest, store: Store, found: Found, changes: Changes, origins: Mapping[str, Origin]
) -> None:
    """Raises: UserError if so many images are gone that the folder is more likely out of reach.

    origins: of the images in the folder, by path. A recording that was cropped anew has other crops now: the old ones
        are not missed.
    """
    here = {origins[image.path].source for image in found.images if image.path in origins}
    lost = sum(1 for key in changes.gone if (own := store.origin(key)) is None or own.source not in here)
    if len(store) and not found.images:
        what = f"no image was found below {request.images}, and {request.index} has {len(store)}"
    elif lost > MAX_SHARE_GONE * len(store):
        what = f"{lost} of the {len(store)} images of {request.index} are not found any more"
    else:
        return
    raise UserError(f"{what}: is the disk there? Nothing was changed; --prune takes them out")


def commit_request(request: IndexingRequest, writer: StoreWriter, stamp: CheckpointStamp) -> None:
    """Write to the manifest what may differ from one run to the next."""
    manifest = writer.store.manifest
    changes: dict[str, Any] = {"root": str(request.images.resolve()), "checkpoint": stamp}  # fields of a manifest
    if request.engine_url is not None:
        changes["engine"] = request.engine_url
    calibration = calibration_beside(request.checkpoint, stamp.sha256)
    if calibration is not None:
        changes["calibration"] = calibration
    if any(getattr(manifest, name) != value for name, value in changes.items()):
        writer.commit(**changes)


def _new_manifest(request: IndexingRequest, stamp: CheckpointStamp, num_images: int) -> Manifest:
    config = config_of(request.checkpoint, request.config)
    return Manifest(
        name=secrets.token_hex(8),
        root=str(request.images.resolve()),
        checkpoint=stamp,
        config=config.as_dict(),
        width=config.model.embed_dim,
        token_shape=chosen_token_shape(config, num_images, request.tokens, request.index),
        engine=request.engine_url,
        calibration=calibration_beside(request.checkpoint, stamp.sha256),
    )
