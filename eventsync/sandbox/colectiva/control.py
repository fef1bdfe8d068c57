"""The control API's part for registrations: the POSTs that came, and what became of each."""

from dataclasses import asdict

from aiohttp import web

from eventsync.sandbox.colectiva.posts import PostBook
from eventsync.sandbox.control_wire import json_answer, json_lines, whole_query


class PostControl:
    """Handlers over the noted POSTs."""

    def __init__(self, posts: PostBook) -> None:
        self._posts = posts

    def add_routes(self, app: web.Application) -> None:
        """Register the routes."""
        app.router.add_get("/posts", self.posts)
        app.router.add_get("/posts/keys", self.keys)
        app.router.add_get("/posts/summary", self.summary)

    async def posts(self, request: web.Request) -> web.StreamResponse:
        """JSON lines, one POST each, as Post tells them; `?since=` a number."""
        return await json_lines(request, (post.as_json() for post in self._posts.since(whole_query(request, "since"))))

    async def keys(self, request: web.Request) -> web.StreamResponse:
        """JSON lines `{"idempotency_key","received","committed","accepted"}`, one key each; `?since=` a number."""
        counts = self._posts.by_key(whole_query(request, "since"))
        return await json_lines(request, ({"idempotency_key": key} | asdict(x) for key, x in counts.items()))

    async def summary(self, request: web.Request) -> web.Response:
        """How many came, wrote, were accepted, lost and needless since `?since=`, and the next one's number."""
        since = whole_query(request, "since")
        posts = self._posts.since(since)
        return json_answer(
            {
                "received": len(posts),
                "committed": sum(post.is_committed for post in posts),
                "accepted": sum(post.is_accepted for post in posts),
                "lost": sum(post.is_lost for post in posts),
                "overlapping": sum(post.is_overlapping for post in posts),
                "needless": len(self._posts.needless(since)),
                "next": self._posts.mark(),
            }
        )
