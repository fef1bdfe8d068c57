"""Colectiva's API below /api: organizations are registered and listed, and every POST is noted."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web
from aiohttp.typedefs import Middleware

from eventsync.sandbox.colectiva.books import Books
from eventsync.sandbox.colectiva.forms import listed
from eventsync.sandbox.colectiva.posts import Post, PostBook
from eventsync.sandbox.colectiva.registry import Registry, hash_body
from eventsync.sandbox.spoiling import html_page, is_cut

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

ORGANIZATIONS = "/ecosystem-orgs"
_KEY_HEADER = "Idempotency-Key"
_POST = web.RequestKey("post", Post)


class ColectivaApi:
    """Handlers over the books, and the middleware that notes POSTs, spoiled and refused ones included."""

    def __init__(self, *, books: Books, registry: Registry, posts: PostBook, now_ms: Callable[[], int]) -> None:
        self._books = books
        self._registry = registry
        self._posts = posts
        self._now_ms = now_ms

    def add_routes(self, app: web.Application) -> None:
        """Register the routes; what is not known gets a page for people."""
        app.middlewares.insert(0, self._note_posts())  # outside the gate, so that it sees what the gate answers
        app.router.add_get(ORGANIZATIONS, self.organizations)
        app.router.add_post(ORGANIZATIONS, self.register)
        app.router.add_route("*", "/{tail:.*}", _no_such_page)

    async def organizations(self, _request: web.Request) -> web.Response:
        """Every organization."""
        rows = [listed(organization) for organization in self._books.organizations.values()]
        return _json({"success": True, "orgs": rows, "count": len(rows), "total": len(rows)})

    async def register(self, request: web.Request) -> web.Response:
        """Register an organization, or change it: an upsert by `app_org_id`."""
        reply = self._registry.register(await request.read(), _key(request), self._now_ms())
        post = request[_POST]
        post.is_committed, post.is_replayed = reply.is_committed, reply.is_replayed
        return _json(reply.body, reply.status)

    def _note_posts(self) -> Middleware:
        @web.middleware
        async def note_posts(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.method != "POST":
                return await handler(request)
            post = self._noted(await request.read(), _key(request))
            request[_POST] = post
            status = None
            try:
                answer = await handler(request)
                status = answer.status
                return answer
            finally:
                self._posts.close(post, status, is_lost=is_cut(request))

        return note_posts

    def _noted(self, content: bytes, key: str | None) -> Post:
        return self._posts.open(
            at_ms=self._now_ms(),
            arrived_s=time.monotonic(),
            key=key,
            app_org_id=_app_org_id(content),
            body_hash=hash_body(content),
        )


def _key(request: web.Request) -> str | None:
    return request.headers.get(_KEY_HEADER) or None


def _app_org_id(content: bytes) -> str | None:
    """Whom a body is about, as far as it says."""
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    named = value.get("app_org_id") if isinstance(value, dict) else None
    return named if isinstance(named, str) else None


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")


async def _no_such_page(_request: web.Request) -> web.Response:
    return html_page(404, "Page not found")
