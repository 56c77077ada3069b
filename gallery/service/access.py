"""Who may use the service: token, signed-in browsers, accepted host names, and security headers for browsers.

Without a token the service answers only to loopback names. Otherwise another web page could reach it through a host
name that resolves to 127.0.0.1.
"""

import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
import time
from collections.abc import Callable

from starlette.requests import Request

from utils.errors import UserError

COOKIE = "search_session"
SESSION_SECONDS = 12 * 3600
MAX_SESSIONS = 1000
MIN_TOKEN_CHARACTERS = 16
NEW_TOKEN = 'python -c "import secrets; print(secrets.token_urlsafe(24))"'
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
OWN_PAGE = (None, "same-origin", "none")  # values of Sec-Fetch-Site: no browser, our page, typed by the user

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


def check_token(token: str | None, host: str) -> None:
    """Raises: UserError if other machines can reach the host and there is no token, or if the token is weak."""
    if token is None:
        if not is_loopback(host):
            raise UserError(
                f"{host} can be reached from other machines: give --token TOKEN as well, a new one: {NEW_TOKEN}"
            )
    elif len(token) < MIN_TOKEN_CHARACTERS or not re.fullmatch(r"[!-~]+", token):
        raise UserError(
            f"the token must have at least {MIN_TOKEN_CHARACTERS} ASCII characters and no space, a new one: {NEW_TOKEN}"
        )


def is_loopback(host: str) -> bool:
    """Whether every address of a host name is a loopback address. Raises: UserError if it has no address."""
    try:
        addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(host or "0.0.0.0", None)}
    except (OSError, UnicodeError) as error:
        raise UserError(f"host {host!r} has no address here: {error}") from error
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses)


class Access:
    """Decides who may ask. token None: everyone who can reach a loopback address."""

    def __init__(self, token: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._token = None if token is None else _digest(token)
        self._clock = clock
        self._sessions: dict[bytes, float] = {}  # digest of a cookie -> when it ends

    @property
    def open(self) -> bool:
        """Whether no token is needed."""
        return self._token is None

    def is_own_host(self, request: Request) -> bool:
        """Whether the request names a host that this service answers to."""
        name = re.sub(r":\d*$", "", request.headers.get("host", "")).lower()
        return not self.open or name in LOOPBACK_NAMES

    def is_own_page(self, request: Request) -> bool:
        """Whether the request comes from our page or the user, not from another web page in the user's browser."""
        return request.headers.get("sec-fetch-site") in OWN_PAGE

    def is_token(self, token: str) -> bool:
        """Whether this is the token; compared in constant time."""
        return self._token is not None and hmac.compare_digest(_digest(token), self._token)

    def has_bearer(self, request: Request) -> bool:
        """Whether the request has a header `Authorization: Bearer TOKEN` although a token is needed."""
        return not self.open and _bearer(request) is not None

    def is_signed_in(self, request: Request) -> bool:
        """Whether the request has the token in its header, or the cookie that the sign-in form sets."""
        if self.open:
            return True
        token = _bearer(request)
        if token is not None:
            return self.is_token(token)
        return self._sessions.get(_digest(request.cookies.get(COOKIE, "")), 0.0) > self._clock()

    def sign_in(self) -> str:
        """A new cookie for one browser, valid for SESSION_SECONDS."""
        now = self._clock()
        live = sorted(((end, key) for key, end in self._sessions.items() if end > now), reverse=True)
        cookie = secrets.token_urlsafe(32)
        self._sessions = {key: end for end, key in live[: MAX_SESSIONS - 1]} | {_digest(cookie): now + SESSION_SECONDS}
        return cookie

    def sign_out(self, request: Request) -> None:
        """End the session of the browser's cookie."""
        self._sessions.pop(_digest(request.cookies.get(COOKIE, "")), None)


def _bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogateescape")).digest()
