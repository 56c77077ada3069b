"""How the service refuses a request: a status and one sentence, in the form of `schemas.Problem`."""

from functools import partial
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as AnyHTTPException

from gallery.answers import CannotAnswer
from gallery.service.access import SECURITY_HEADERS
from gallery.service.frames import SourceGone, SourceUnreadable
from gallery.service.schemas import Problem

PROBLEMS: dict[int | str, dict[str, Any]] = {  # the type that FastAPI declares
    401: {"model": Problem, "description": "No token, or a wrong one"},
    404: {"model": Problem, "description": "Not an indexed image"},
    413: {"model": Problem, "description": "Too large"},
    422: {"model": Problem, "description": "The request is not understood"},
    429: {"model": Problem, "description": "Too many requests from this address"},
    503: {"model": Problem, "description": "Too many requests are waiting for the model, or the index is gone"},
}

SOURCE_PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: PROBLEMS[401],
    404: {"model": Problem, "description": "Not an indexed image, or a plain picture"},
    410: {"model": Problem, "description": "The recording is gone, or is not what was cropped"},
    503: {"model": Problem, "description": "The recording cannot be read, or the index is gone"},
}


def refuse(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The response of a request that is refused."""
    return JSONResponse({"detail": detail}, status, headers)


def no_image(error: Exception) -> HTTPException:
    """The exception for an image that is not in the gallery (a KeyError), or whose file has changed."""
    return HTTPException(404, "no image of this gallery has that id" if isinstance(error, KeyError) else str(error))


def add_problem_handlers(app: FastAPI) -> None:
    """Turn the exceptions of the routes into refusals."""
    app.add_exception_handler(RequestValidationError, _not_understood)
    app.add_exception_handler(AnyHTTPException, _http_problem)
    for kind, status in ((CannotAnswer, 422), (SourceGone, 410), (SourceUnreadable, 503)):
        app.add_exception_handler(kind, partial(_told, status))
    app.add_exception_handler(Exception, _own_mistake)


async def _not_understood(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [(".".join(str(part) for part in problem["loc"][1:]), problem["msg"]) for problem in error.errors()]
    return refuse(422, "; ".join(f"{place}: {message}" if place else message for place, message in problems))


async def _told(status: int, request: Request, error: Exception) -> Response:
    return refuse(status, str(error))


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, AnyHTTPException)
    return refuse(error.status_code, str(error.detail), dict(error.headers or {}))


async def _own_mistake(request: Request, error: Exception) -> Response:
    # This handler runs outside of Guard, which cannot add the headers then. The server logs the error itself.
    return refuse(500, "the service failed; its log says why", SECURITY_HEADERS)
