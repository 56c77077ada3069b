"""The page and its sign-in form; the files that they load are in page/."""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from gallery.service.access import COOKIE, SESSION_SECONDS, Access
from gallery.service.audit import AuditLog
from gallery.service.guard import client_of

PAGE = Path(__file__).parent / "page"


def page_router(access: Access, audit: AuditLog) -> APIRouter:
    """Routes that a browser opens."""
    router = APIRouter(include_in_schema=False)
    form = (PAGE / "sign_in.html").read_text(encoding="utf-8")

    @router.get("/")
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @router.get("/sign-in")
    async def sign_in_form() -> Response:
        return RedirectResponse("/", 303) if access.open else HTMLResponse(form)

    @router.post("/sign-in")
    async def sign_in(request: Request, token: Annotated[str, Form()] = "") -> Response:
        accepted = access.is_token(token.strip())
        audit.write(client_of(request), "sign-in" if accepted else "sign-in refused")
        if not accepted:
            return HTMLResponse(form.replace("<!--problem-->", '<p role="alert">This is not the token.</p>'), 401)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            COOKIE,
            access.sign_in(),
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    @router.post("/sign-out")
    async def sign_out(request: Request) -> Response:
        access.sign_out(request)
        answer = RedirectResponse("/sign-in", 303)
        answer.delete_cookie(COOKIE)
        return answer

    return router
