"""Routes that ask the model."""

import hashlib
from functools import partial
from typing import Annotated

from fastapi import APIRouter, File, Form, Request, UploadFile

from gallery.answers import Answer
from gallery.encoding.pictures import decode
from gallery.service.guard import client_of
from gallery.service.problems import PROBLEMS
from gallery.service.schemas import (
    ExplainRequest,
    Explanation,
    SearchAnswer,
    SearchRequest,
    SimilarRequest,
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
        call = partial(gallery.query, body.query, top=body.top, fast=body.fast)
        return await service.search(request, call, query=body.query)

    @router.post("/search/image", summary="Search for people who look like the one in a picture")
    async def search_image(
        request: Request,
        image: Annotated[UploadFile, File(description="JPEG, PNG or WebP of one person, cropped.")],
        top: Annotated[Top, Form()] = 20,
    ) -> SearchAnswer:
        data = await image.read()

        def call() -> Answer:
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
