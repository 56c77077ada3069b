"""The application: the page, and a JSON interface that /openapi.json describes."""

from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles

from gallery.service.access import Access, check_token
from gallery.service.audit import AuditLog
from gallery.service.frame_routes import frame_router
from gallery.service.gallery_routes import gallery_router
from gallery.service.guard import Guard
from gallery.service.limits import Limits
from gallery.service.page_routes import PAGE, page_router
from gallery.service.problems import add_problem_handlers, refuse
from gallery.service.search_routes import search_router
from gallery.service.service import Service
from utils.errors import UserError

if TYPE_CHECKING:
    from gallery import Gallery  # only its interface is used: a test serves one without torch


def create_app(
    gallery: "Gallery",
    *,
    token: str | None = None,
    audit_log: str | Path | None = None,
    blur_others: bool = False,
    limits: Limits = Limits(),  # noqa: B008 (a tuple)
) -> FastAPI:
    """The application with its routes, limits and headers. Without a token it answers only to loopback host names.

    blur_others: of a full frame, show only what is in the box of the image that was asked for, and give out no video.
    Raises: UserError for a weak token, or an audit log that cannot be written.
    """
    if token is not None:
        check_token(token, "localhost")
    access = Access(token)
    service = Service(gallery, access, AuditLog(audit_log), limits, blur_others=blur_others)
    app = FastAPI(
        title="Text-based person search",
        summary="Search a gallery of person crops with a sentence or a picture.",
        version="1",
        docs_url=None,  # that page loads scripts from another host
        redoc_url=None,
    )
    app.add_middleware(Guard, access=access, limits=limits, audit=service.audit)
    app.include_router(search_router(service))
    app.include_router(gallery_router(service))
    app.include_router(frame_router(service))
    app.include_router(page_router(access, service.audit))
    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    add_problem_handlers(app)

    async def gone(request: Request, error: Exception) -> Response:
        return refuse(503, service.told(error))

    app.add_exception_handler(UserError, gone)  # of the routes that only read the index, which may be gone
    return app
