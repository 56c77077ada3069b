"""Serve the search page and the HTTP interface.

    serve(Gallery.open("index"))                                             # http://127.0.0.1:8000/
    serve(Gallery.open("index"), host="0.0.0.0", token="...", audit_log="searches.jsonl")

Nothing is sent to, or loaded from, any other machine.
"""

import contextlib
import ipaddress
import logging
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

from gallery.service.access import check_token, is_loopback
from gallery.service.app import create_app
from utils.errors import UserError

if TYPE_CHECKING:
    from gallery import Gallery  # only its interface is used: a test serves one without torch

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 200


def serve(
    gallery: "Gallery",
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    audit_log: str | Path | None = None,
    trusted_proxy: str | None = None,
    blur_others: bool = False,
) -> None:
    """Serve until Ctrl-C.

    Args:
        port: 0 = any free port; the log says which.
        token: required unless the host is a loopback address.
        trusted_proxy: address or network of a reverse proxy whose X-Forwarded-For and X-Forwarded-Proto are believed;
            None = nobody's.
        blur_others: as for `create_app`.
    Raises: UserError for a host without a token, a weak token, a port in use, an audit log that cannot be written, or a
        proxy that is not an address.
    """
    check_token(token, host)
    if trusted_proxy is not None:
        _check_address(trusted_proxy)
    app = create_app(gallery, token=token, audit_log=audit_log, blur_others=blur_others)
    config = _server_config(app, trusted_proxy)
    with contextlib.closing(listen(host, port)) as listener:
        shown = f"[{host}]" if ":" in host else host
        if not is_loopback(host):
            logger.warning('the connection is not encrypted: see docs/search.md, "Who can reach it"')
        logger.info("search page: http://%s:%d/ (Ctrl-C ends it)", shown, listener.getsockname()[1])
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def _server_config(app: FastAPI, trusted_proxy: str | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,  # the command has set up logging
        log_level="warning",
        access_log=False,  # the audit log does that
        server_header=False,
        ws="none",
        lifespan="off",
        limit_concurrency=MAX_CONNECTIONS,
        proxy_headers=trusted_proxy is not None,  # anyone can send these headers; limits and audit log rely on them
        forwarded_allow_ips=trusted_proxy or "",
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises: UserError if the address or the port cannot be used."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen on {host} port {port} ({error}): give another --port") from error


def _check_address(address: str) -> None:
    try:
        ipaddress.ip_network(address)
    except ValueError:
        raise UserError(f"trusted proxy {address!r}: expected an address or a network, e.g. 127.0.0.1") from None
