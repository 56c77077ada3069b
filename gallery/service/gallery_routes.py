"""Routes about what is searched: the gallery and its images."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from gallery.answers import CannotAnswer
from gallery.service.images import SIZES_PX, encode_image, version_tag
from gallery.service.problems import PROBLEMS, no_image
from gallery.service.schemas import GalleryInfo, Health
from gallery.service.service import Service
from gallery.store.store import UnknownImage

# Keys of Gallery.describe for clients that need a token: none of them may name a file or a host.
FOR_ALL = ("images", "checkpoint_sha256", "image_size", "embedding_width", "second_stage", "image_tokens", "calibrated")
IMAGE_CACHE = "private, max-age=3600"
IMAGE_RESPONSES: dict[int | str, dict[str, Any]] = {  # the type that FastAPI declares
    200: {"content": {"image/jpeg": {}}},
    **{status: PROBLEMS[status] for status in (401, 404, 503)},
}


def gallery_router(service: Service) -> APIRouter:
    """/health, /api/gallery and /api/image."""
    router = APIRouter(tags=["gallery"])
    _add_descriptions(router, service)
    _add_images(router, service)
    return router


def _add_descriptions(router: APIRouter, service: Service) -> None:

    @router.get("/health", summary="Whether the service answers; needs no token")
    async def health() -> Health:
        return Health()

    @router.get(
        "/api/gallery",
        summary="What is searched, and what the service accepts",
        responses={401: PROBLEMS[401], 503: PROBLEMS[503]},
    )
    def info() -> GalleryInfo:
        details = service.gallery.describe()
        if not service.access.open:
            details = {name: value for name, value in details.items() if name in FOR_ALL}
        return GalleryInfo(
            images=len(service.gallery),
            calibrated=bool(details.get("calibrated")),
            details=details,
            max_upload_bytes=service.limits.upload_bytes,
            signed_in=not service.access.open,
            origins=bool(service.gallery.sources()),
            blur_others=service.blur_others,
        )


def _add_images(router: APIRouter, service: Service) -> None:
    @router.get(
        "/api/image",
        summary="One indexed image as JPEG",
        response_class=Response,
        responses=IMAGE_RESPONSES,
    )
    def image(
        request: Request,
        image_id: Annotated[str, Query(alias="id", max_length=100)],
        size: Literal["thumbnail", "full"] = "full",
    ) -> Response:
        try:
            indexed = service.gallery.image(image_id)
            headers = {"cache-control": IMAGE_CACHE, "etag": version_tag(indexed, size)}
            if request.headers.get("if-none-match") == headers["etag"]:
                return Response(status_code=304, headers=headers)
            content = encode_image(indexed, max_pixels=service.limits.pixels, longest_px=SIZES_PX[size])
        except (UnknownImage, CannotAnswer) as error:
            raise no_image(error) from error
        return Response(content, media_type="image/jpeg", headers=headers)
