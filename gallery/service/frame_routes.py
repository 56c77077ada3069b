"""Routes about where images come from: their sources, the full frame, the rest of the track, the video."""

import mimetypes
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import FileResponse, Response

from gallery.footage.origin import Origin
from gallery.service.frames import blurred_outside, encode_frame, frame_tag, read_frame, video_file
from gallery.service.gallery_routes import IMAGE_CACHE
from gallery.service.guard import client_of
from gallery.service.images import SIZES_PX
from gallery.service.origin_schemas import OriginInfo, SourceList, TrackInfo
from gallery.service.problems import PROBLEMS, SOURCE_PROBLEMS, no_image
from gallery.service.schemas import Problem
from gallery.service.service import Service
from gallery.store.store import UnknownImage

MAX_TRACK = 1000
MAX_SOURCES = 1000
NO_ORIGIN = "it is not known where this image comes from"
RAW_VIDEO = "this service blurs other people (--blur-others), and the video itself would show them"
BUSY = "The recording cannot be read, too many frames are waiting, or the index is gone"
FRAME_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {}}},
    **SOURCE_PROBLEMS,
    503: {"model": Problem, "description": BUSY},
}
VIDEO_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"video/*": {}}},
    206: {"content": {"video/*": {}}, "description": "A part of the video"},
    403: {"model": Problem, "description": "The service blurs other people"},
    **SOURCE_PROBLEMS,
}

ImageId = Annotated[str, Query(alias="id", max_length=100)]


def frame_router(service: Service) -> APIRouter:
    """/api/sources, /api/origin, /api/track, /api/frame and /api/video."""
    router = APIRouter(prefix="/api", tags=["origins"])
    _add_origins(router, service)
    _add_recordings(router, service)
    return router


def _add_origins(router: APIRouter, service: Service) -> None:
    @router.get("/sources", summary="The pictures and videos that the images come from", responses={401: PROBLEMS[401]})
    def sources(limit: Annotated[int, Query(ge=1, le=MAX_SOURCES)] = MAX_SOURCES) -> SourceList:
        return SourceList.of(service.gallery.sources(), service.source_name, limit)

    @router.get("/origin", summary="Where an indexed image was cut from", responses=SOURCE_PROBLEMS)
    def origin(image_id: ImageId) -> OriginInfo:
        return OriginInfo.of(_origin(service, image_id), service.source_name)

    @router.get("/track", summary="The crops of the same person around an indexed image", responses=SOURCE_PROBLEMS)
    def track(image_id: ImageId, limit: Annotated[int, Query(ge=1, le=MAX_TRACK)] = 100) -> TrackInfo:
        _origin(service, image_id)
        found = service.gallery.track(image_id, limit=limit)
        if found is None:
            raise HTTPException(404, NO_ORIGIN)
        return TrackInfo.of(found)


def _add_recordings(router: APIRouter, service: Service) -> None:
    @router.get(
        "/frame",
        summary="The full frame of an indexed image as JPEG",
        response_class=Response,
        responses=FRAME_RESPONSES,
    )
    async def frame(request: Request, image_id: ImageId, size: Literal["thumbnail", "full"] = "full") -> Response:
        def read() -> Response:
            origin = _origin(service, image_id)
            service.audit.write(client_of(request), "frame", image_id=image_id)
            headers = {"cache-control": IMAGE_CACHE, "etag": frame_tag(origin, size=size, blurred=service.blur_others)}
            if request.headers.get("if-none-match") == headers["etag"]:
                return Response(status_code=304, headers=headers)
            picture = read_frame(origin)
            if service.blur_others:
                picture = blurred_outside(picture, origin.box)
            return Response(encode_frame(picture, longest_px=SIZES_PX[size]), media_type="image/jpeg", headers=headers)

        return await service.decode(read)

    @router.get(
        "/video",
        summary="The video of an indexed image, as it is; parts of it on request (Range)",
        response_class=FileResponse,
        responses=VIDEO_RESPONSES,
    )
    def video(request: Request, image_id: ImageId) -> Response:  # in a thread that waits for no frame
        if service.blur_others:
            raise HTTPException(403, RAW_VIDEO)
        origin = _origin(service, image_id)
        if origin.time_s is None:
            raise HTTPException(404, "this image comes from a picture, not from a video")
        service.audit.write(client_of(request), "video", image_id=image_id, range=request.headers.get("range", ""))
        path = video_file(origin)
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return FileResponse(path, media_type=kind, headers={"cache-control": IMAGE_CACHE})


def _origin(service: Service, image_id: str) -> Origin:
    """Raises: HTTPException 404 if there is no such image, or if it is a plain picture."""
    try:
        origin = service.gallery.origin(image_id)
    except UnknownImage as error:
        raise no_image(error) from error
    if origin is None:
        raise HTTPException(404, NO_ORIGIN)
    return origin
