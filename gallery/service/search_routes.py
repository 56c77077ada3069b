"""Routes that ask the model."""

import hashlib
from functools import partial
from typing import Annotated

from fastapi import APIRouter, File, Form, Request, UploadFile

from gallery.answers import Answer
from gallery.encoding.pictures import decode
from gallery.search.filters import Filter
from gallery.service.guard import client_of
from gallery.service.problems import PROBLEMS
from gallery.service.schemas import (
    Disliked,
    ExplainRequest,
    Explanation,
    Group,
    Liked,
    MinHeight,
    SearchAnswer,
    SearchRequest,
    SimilarRequest,
    Sources,
    Time,
    Top,
    Word,
)
from gallery.service.service import Service


def search_router(service: Service) -> APIRouter:
    """The routes below /api/search, and /api/explain."""
    router = APIRouter(prefix="/api", tags=["search"], responses=PROBLEMS)
    gallery = service.gallery

    @router.post("/search", summary="Search with a sentence")
    async def search(request: Request, body: SearchRequest) -> SearchAnswer:
        where, marks = body.where, _marks(body.liked, body.disliked)
        call = partial(gallery.query, body.query, top=body.top, fast=body.fast, where=where, group=body.group, **marks)
        return await service.search(request, call, query=body.query, **where.described(), **marks)

    @router.post("/search/image", summary="Search for people who look like the one in a picture")
    async def search_image(
        request: Request,
        image: Annotated[UploadFile, File(description="JPEG, PNG or WebP of one person, cropped.")],
        top: Annotated[Top, Form()] = 20,
        group: Annotated[Group, Form()] = True,
        source: Annotated[Sources, Form()] = [],  # noqa: B006 (FastAPI copies it)
        after: Annotated[Time, Form()] = None,
        before: Annotated[Time, Form()] = None,
        min_height: Annotated[MinHeight, Form()] = None,
        liked: Annotated[Liked, Form()] = [],  # noqa: B006
        disliked: Annotated[Disliked, Form()] = [],  # noqa: B006
    ) -> SearchAnswer:
        data, where = await image.read(), Filter.parse(source=source, after=after, before=before, min_height=min_height)
        marks = _marks(liked, disliked)

        def call() -> Answer:
            picture = decode(data, max_pixels=service.limits.pixels)
            return gallery.query_image(picture, top=top, where=where, group=group, **marks)

        sha256 = hashlib.sha256(data).hexdigest()
        return await service.search(request, call, image_sha256=sha256, **where.described(), **marks)

    @router.post("/search/similar", summary="Search for people who look like the one in an indexed image")
    async def search_similar(request: Request, body: SimilarRequest) -> SearchAnswer:
        where, marks = body.where, _marks(body.liked, body.disliked)
        call = partial(gallery.query_similar, body.image_id, top=body.top, where=where, group=body.group, **marks)
        return await service.search(request, call, image_id=body.image_id, **where.described(), **marks)

    @router.post("/explain", summary="Where in an indexed image the model looks for each word")
    async def explain(request: Request, body: ExplainRequest) -> Explanation:
        words = await service.ask(partial(gallery.explain, body.query, body.image_id))
        service.audit.write(client_of(request), "explain", query=body.query, image_id=body.image_id)
        return Explanation(words=[Word.of(word) for word in words])

    return router


def _marks(liked: list[str], disliked: list[str]) -> dict[str, list[str]]:
    """The arguments of a query for marks, without empty ones; the audit log notes them too."""
    return {name: marked for name, marked in (("liked", liked), ("disliked", disliked)) if marked}
