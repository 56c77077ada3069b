"""Search over HTTP: the page, and the same as a JSON interface that /openapi.json describes.

    serve(Gallery.open("index"))                                             # http://127.0.0.1:8000/
    serve(Gallery.open("index"), host="0.0.0.0", token="...", audit_log="searches.jsonl")

The model answers one call at a time, in a thread of its own, while the page and pictures are served beside it. Nothing
is sent to, or loaded from, any other machine.
"""

import contextlib
import hashlib
import ipaddress
import logging
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import uvicorn
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, FastAPI, File, Form, HTTPException, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException as AnyHTTPException

from gallery.answers import CannotAnswer
from gallery.pictures import PictureChanged, decode
from gallery.service_access import SECURITY_HEADERS, Access, check_token, is_loopback
from gallery.service_audit import AuditLog
from gallery.service_guard import Guard, client_of, refuse
from gallery.service_images import SIZES_PX, encode_image, version_tag
from gallery.service_limits import Limits
from gallery.service_models import (
    ExplainRequest,
    Explanation,
    GalleryInfo,
    Health,
    Problem,
    SearchAnswer,
    SearchRequest,
    SimilarRequest,
    Top,
    Word,
)
from gallery.service_page import PAGE, page_router
from gallery.store import UnknownImage
from utils.errors import UserError

if TYPE_CHECKING:
    from gallery import Answer, Gallery

logger = logging.getLogger(__name__)

T = TypeVar("T")

# of Gallery.describe, for those who need a token: nothing that may name a file or a host
FOR_ALL = ("images", "checkpoint_sha256", "image_size", "embedding_width", "second_stage", "image_tokens", "calibrated")
MAX_CONNECTIONS = 200
IMAGE_CACHE = "private, max-age=3600"
PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "No token, or a wrong one"},
    404: {"model": Problem, "description": "Not an indexed image"},
    413: {"model": Problem, "description": "Too large"},
    422: {"model": Problem, "description": "The request is not understood"},
    429: {"model": Problem, "description": "Too many requests from this address"},
    503: {"model": Problem, "description": "Too many requests are waiting for the model, or the index is gone"},
}

IMAGE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {}}},
    **{status: PROBLEMS[status] for status in (401, 404, 503)},
}


class Service:
    """What the routes share: the gallery behind its queue, access, limits and the audit log."""

    def __init__(self, gallery: "Gallery", access: Access, audit: AuditLog, limits: Limits) -> None:
        self.gallery, self.access, self.audit, self.limits = gallery, access, audit, limits
        self._one_at_a_time = CapacityLimiter(1)
        self._calls = 0  # at work and waiting; counted here, as the limiter sees a call only an event-loop turn later

    async def ask(self, call: Callable[[], T]) -> T:
        """Let the gallery work in its thread, after the calls that came before."""
        if self._calls > self.limits.waiting_calls:
            raise HTTPException(503, "too many searches are waiting: try again in a moment", {"retry-after": "5"})
        self._calls += 1
        try:
            return await to_thread.run_sync(call, limiter=self._one_at_a_time)
        except (UnknownImage, PictureChanged) as error:
            raise _no_image(error) from error
        except CannotAnswer as error:
            raise HTTPException(422, str(error)) from error
        except ValueError as error:
            raise HTTPException(422, self.told(error)) from error
        finally:
            self._calls -= 1

    def told(self, error: Exception) -> str:
        """What to tell whoever asked: the whole message, which may name files and hosts, only on loopback."""
        logger.warning("not answered: %s", error)
        return str(error) if self.access.open else "the service cannot answer this; its log says why"

    async def search(self, request: Request, call: Callable[[], "Answer"], **asked: Any) -> SearchAnswer:
        """An answer, after it was logged."""
        answer = await self.ask(call)
        shown = [hit.image_id for hit in answer.hits]
        self.audit.write(client_of(request), "search", mode=answer.mode, **asked, shown=shown)
        return SearchAnswer.of(answer, whole_paths=self.access.open)


def serve(
    gallery: "Gallery",
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    audit_log: str | Path | None = None,
    trusted_proxy: str | None = None,
) -> None:
    """Serve the page and the interface until Ctrl-C.

    port 0: any free one; the log says which. token: needed on every host but loopback. trusted_proxy: address or
    network of a reverse proxy whose X-Forwarded-For and X-Forwarded-Proto are believed; None = nobody's.
    Raises: UserError for a host without a token, a weak token, a port in use, an audit log that cannot be written, or a
        proxy that is no address.
    """
    check_token(token, host)
    if trusted_proxy is not None:
        _check_address(trusted_proxy)
    app = create_app(gallery, token=token, audit_log=audit_log)
    config = uvicorn.Config(
        app,
        log_config=None,  # ours is set up already
        log_level="warning",
        access_log=False,  # the audit log is for that
        server_header=False,
        ws="none",
        lifespan="off",
        limit_concurrency=MAX_CONNECTIONS,
        proxy_headers=trusted_proxy is not None,  # anybody can send such headers: limits and audit log rest on them
        forwarded_allow_ips=trusted_proxy or "",
    )
    with contextlib.closing(_listen(host, port)) as listener:
        shown = f"[{host}]" if ":" in host else host
        if not is_loopback(host):
            logger.warning('the connection is not encrypted: see docs/search.md, "Who can reach it"')
        logger.info("search page: http://%s:%d/ (Ctrl-C ends it)", shown, listener.getsockname()[1])
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def _check_address(address: str) -> None:
    try:
        ipaddress.ip_network(address)
    except ValueError:
        raise UserError(f"trusted proxy {address!r}: expected an address or a network, e.g. 127.0.0.1") from None


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen on {host} port {port} ({error}): give another --port") from error


def create_app(
    gallery: "Gallery",
    *,
    token: str | None = None,
    audit_log: str | Path | None = None,
    limits: Limits = Limits(),  # noqa: B008 (a tuple)
) -> FastAPI:
    """The application: routes, limits, headers. Without a token it answers to loopback host names only.

    Raises: UserError for a weak token or an audit log that cannot be written.
    """
    if token is not None:
        check_token(token, "localhost")
    access = Access(token)
    service = Service(gallery, access, AuditLog(audit_log), limits)
    app = FastAPI(
        title="Text-based person search",
        summary="Search a gallery of person crops with a sentence or a picture.",
        version="1",
        docs_url=None,  # that page loads scripts from elsewhere
        redoc_url=None,
    )
    app.add_middleware(Guard, access=access, limits=limits, audit=service.audit)
    app.include_router(_searches(service))
    app.include_router(_gallery(service))
    app.include_router(page_router(access, service.audit))
    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    app.add_exception_handler(RequestValidationError, _not_understood)
    app.add_exception_handler(AnyHTTPException, _http_problem)

    async def gone(request: Request, error: Exception) -> Response:
        return refuse(503, service.told(error))

    app.add_exception_handler(UserError, gone)  # of the routes that only look at the index: it is gone, say
    app.add_exception_handler(Exception, _own_mistake)
    return app


def _searches(service: Service) -> APIRouter:
    """Routes that ask the model."""
    router = APIRouter(prefix="/api", tags=["search"], responses=PROBLEMS)
    gallery = service.gallery

    @router.post("/search", summary="Search with a sentence")
    async def search(request: Request, body: SearchRequest) -> SearchAnswer:
        call = partial(gallery.query, body.query, top=body.top, fast=body.fast)
        return await service.search(request, call, query=body.query)

    @router.post("/search/image", summary="Search for people who look like the one in a picture")
    async def search_image(
        request: Request,
        image: Annotated[UploadFile, File(description="JPEG, PNG or WebP of one person, cropped.")],
        top: Annotated[Top, Form()] = 20,
    ) -> SearchAnswer:
        data = await image.read()

        def call() -> "Answer":
            return gallery.query_image(decode(data, max_pixels=service.limits.pixels), top=top)

        return await service.search(request, call, image_sha256=hashlib.sha256(data).hexdigest())

    @router.post("/search/similar", summary="Search for people who look like the one in an indexed image")
    async def search_similar(request: Request, body: SimilarRequest) -> SearchAnswer:
        call = partial(gallery.query_similar, body.image_id, top=body.top)
        return await service.search(request, call, image_id=body.image_id)

    @router.post("/explain", summary="Where in an indexed image the model looks for each word")
    async def explain(request: Request, body: ExplainRequest) -> Explanation:
        words = await service.ask(partial(gallery.explain, body.query, body.image_id))
        service.audit.write(client_of(request), "explain", query=body.query, image_id=body.image_id)
        return Explanation(words=[Word.of(word) for word in words])

    return router


def _gallery(service: Service) -> APIRouter:
    """Routes about what is searched."""
    router = APIRouter(tags=["gallery"])

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
        )

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
            raise _no_image(error) from error
        return Response(content, media_type="image/jpeg", headers=headers)

    return router


def _no_image(error: Exception) -> HTTPException:
    return HTTPException(404, "no image of this gallery has that id" if isinstance(error, KeyError) else str(error))


async def _not_understood(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [(".".join(str(part) for part in problem["loc"][1:]), problem["msg"]) for problem in error.errors()]
    return refuse(422, "; ".join(f"{place}: {message}" if place else message for place, message in problems))


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, AnyHTTPException)
    return refuse(error.status_code, str(error.detail), dict(error.headers or {}))


async def _own_mistake(request: Request, error: Exception) -> Response:
    # handled outside of Guard, which therefore cannot add the headers; the error itself is logged by the server
    return refuse(500, "the service failed; its log says why", SECURITY_HEADERS)
