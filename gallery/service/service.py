"""What the routes share: the gallery behind its queue, access, limits and the audit log."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import HTTPException, Request

from gallery.answers import Answer, CannotAnswer
from gallery.encoding.pictures import PictureChanged
from gallery.service.access import Access
from gallery.service.audit import AuditLog
from gallery.service.guard import client_of
from gallery.service.limits import Limits
from gallery.service.problems import no_image
from gallery.service.schemas import SearchAnswer
from gallery.service.source_names import SourceNames
from gallery.store.store import UnknownImage

if TYPE_CHECKING:
    from gallery import Gallery  # only its interface is used: a test serves one without torch

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Service:
    """The model answers one call at a time, in its own thread; the page and pictures are served in the meantime."""

    def __init__(
        self, gallery: "Gallery", access: Access, audit: AuditLog, limits: Limits, *, blur_others: bool = False
    ) -> None:
        self.gallery, self.access, self.audit, self.limits = gallery, access, audit, limits
        self.blur_others = blur_others  # show nobody but the person of the image that was asked for
        self.source_name = SourceNames(gallery, whole_paths=access.open)
        self._one_at_a_time = CapacityLimiter(1)
        self._decoders = CapacityLimiter(limits.decoders)
        self._decoding = 0
        self._calls = 0  # running and waiting; the limiter itself counts a call one turn of the event loop too late

    async def ask(self, call: Callable[[], T]) -> T:
        """Run a call of the gallery in its thread, after the calls that came before."""
        if self._calls > self.limits.waiting_calls:
            raise HTTPException(503, "too many searches are waiting: try again in a moment", {"retry-after": "5"})
        self._calls += 1
        try:
            return await to_thread.run_sync(call, limiter=self._one_at_a_time)
        except (UnknownImage, PictureChanged) as error:
            raise no_image(error) from error
        except CannotAnswer as error:
            raise HTTPException(422, str(error)) from error
        except ValueError as error:
            raise HTTPException(422, self.told(error)) from error
        finally:
            self._calls -= 1

    async def decode(self, call: Callable[[], T]) -> T:
        """Run a call that decodes a frame in a thread: `limits.decoders` at once, `limits.waiting_calls` may wait."""
        if self._decoding >= self.limits.decoders + self.limits.waiting_calls:
            raise HTTPException(503, "too many frames are waiting: try again in a moment", {"retry-after": "5"})
        self._decoding += 1
        try:
            return await to_thread.run_sync(call, limiter=self._decoders)
        finally:
            self._decoding -= 1

    def told(self, error: Exception) -> str:
        """What the client is told. The message may name files and hosts, so only a service on loopback shows it."""
        logger.warning("not answered: %s", error)
        return str(error) if self.access.open else "the service cannot answer this; its log says why"

    async def search(self, request: Request, call: Callable[[], Answer], **asked: Any) -> SearchAnswer:
        """Run a search and log it before it is answered. asked: what the audit log notes of the query."""
        answer = await self.ask(call)
        shown = [hit.image_id for hit in answer.hits]
        self.audit.write(client_of(request), "search", mode=answer.mode, **asked, shown=shown)
        return SearchAnswer.of(answer, whole_paths=self.access.open, source_name=self.source_name)
