"""The checks that every request passes before its route (host, origin, rate, sign-in, size), and response headers."""

import math

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gallery.service.access import SECURITY_HEADERS, Access
from gallery.service.audit import AuditLog
from gallery.service.limits import Limits, RateLimiter
from gallery.service.problems import refuse

PUBLIC_PATHS = ("/health", "/sign-in")
PUBLIC_FOLDER = "/page/"  # style, script and icon: the same for everybody
MODEL_PATHS = ("/api/search", "/api/explain")  # and what lies below them
UPLOAD_PATH = "/api/search/image"


class Guard:
    """ASGI middleware that refuses a request before any of its body is read."""

    def __init__(self, app: ASGIApp, *, access: Access, limits: Limits, audit: AuditLog) -> None:
        self._app = app
        self._access = access
        self._audit = audit
        self._limits = limits
        self._model_calls = RateLimiter(limits.model_calls)
        self._sign_ins = RateLimiter(limits.sign_ins)
        self._files = RateLimiter(limits.files)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        # Searches must not stay in a browser's cache. The browser asks for the page's own files again each time.
        send = _with_headers(send, "no-cache" if request.url.path.startswith(PUBLIC_FOLDER) else "no-store")
        refusal = self._refusal(request)
        if refusal is not None:
            await refusal(scope, receive, send)
        else:
            await self._app(scope, _at_most(self._max_body_bytes(request), receive), send)

    def _refusal(self, request: Request) -> Response | None:
        path = request.url.path
        if not self._access.is_own_host(request):
            return refuse(403, "without a token this service answers to localhost only")
        is_page = request.method == "GET" and path in ("/", "/sign-in")
        if not is_page and not self._access.is_own_page(request):
            return refuse(403, "another web page may not ask this service")
        seconds = self._limiter(request).seconds_to_wait(client_of(request))
        if seconds > 0:
            return _too_many(seconds)
        refusal = None if self._is_public(path) else self._not_signed_in(request)
        if refusal is not None:
            return refusal
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._max_body_bytes(request):
            return _too_large(self._max_body_bytes(request))
        return None

    def _not_signed_in(self, request: Request) -> Response | None:
        """Refuse a request that is not signed in. Wrong tokens in the header are limited like those in the form."""
        client, tries = client_of(request), self._access.has_bearer(request)
        if tries:
            seconds = self._sign_ins.seconds_to_wait(client, take=False)
            if seconds > 0:  # even the right token is refused, so that the response does not tell
                return _too_many(seconds)
        if self._access.is_signed_in(request):
            return None
        if tries:
            self._sign_ins.seconds_to_wait(client)
            self._audit.write(client, "sign-in refused")
        if request.url.path == "/":
            return RedirectResponse("/sign-in", 303)
        return refuse(
            401, "sign in first, or send the header Authorization: Bearer TOKEN", {"www-authenticate": "Bearer"}
        )

    def _is_public(self, path: str) -> bool:
        return path in PUBLIC_PATHS or path.startswith(PUBLIC_FOLDER)

    def _limiter(self, request: Request) -> RateLimiter:
        if request.url.path.startswith(MODEL_PATHS):
            return self._model_calls
        return self._sign_ins if request.method == "POST" and request.url.path == "/sign-in" else self._files

    def _max_body_bytes(self, request: Request) -> int:
        extra = self._limits.upload_bytes if request.url.path == UPLOAD_PATH else 0
        return self._limits.other_body_bytes + extra


def client_of(request: Request) -> str:
    """The address of the client."""
    return request.client.host if request.client is not None else "unknown"


def _too_many(seconds: float) -> JSONResponse:
    wait = math.ceil(seconds)
    return refuse(429, f"too many requests: try again in {wait} s", {"retry-after": str(wait)})


def _too_large(max_bytes: int) -> JSONResponse:
    return refuse(413, f"the request is larger than {max_bytes:,} bytes")


def _with_headers(send: Send, cache_control: str) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(SECURITY_HEADERS)
            headers.setdefault("cache-control", cache_control)
        await send(message)

    return send_with_headers


def _at_most(max_bytes: int, receive: Receive) -> Receive:
    """Limit a body that was sent without its length."""
    received = 0

    async def receive_some() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise HTTPException(413, f"the request is larger than {max_bytes:,} bytes")
        return message

    return receive_some
