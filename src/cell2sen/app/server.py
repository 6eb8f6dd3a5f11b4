"""Web server of a page: loopback, a token, no path from the browser, one frame format, events of jobs."""

from __future__ import annotations

import json
import secrets
import socket
import tempfile
from collections.abc import AsyncIterator
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import anyio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cell2sen.app.assets import MODULES, STATIC
from cell2sen.app.frames import pack
from cell2sen.app.jobs.queue import message_of
from cell2sen.app.page import Page
from cell2sen.data.names.errors import MENDABLE

#: Files that the browser loads, and their types; nothing else is served.
FILES = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    **dict.fromkeys(("start.js", *MODULES), "text/javascript; charset=utf-8"),
}

#: Names of this machine to itself.
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})

#: Largest body of a request: the rows of all cells, several times.
MAX_BODY = 4 * 4 * 2_000_000

#: Seconds between two looks at a job.
INTERVAL = 0.1

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)

HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Checks before each request: host, token or cookie, origin of writes, size; and headers of each response.

    Parameters
    ----------
    app
        What is guarded.
    token
        Secret of the URL that is printed.
    port
        Port of the server, after which the cookie is named: browsers send cookies of one host to all its ports.
    hosts
        Names in the header ``Host`` that are served besides those of loopback.
    """

    def __init__(self, app: ASGIApp, *, token: str, port: int, hosts: frozenset[str] = frozenset()) -> None:
        self.app, self.token, self.hosts = app, token, LOOPBACK | hosts
        self.cookie, self.session = f"cell2sen_{port}", secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message["headers"] if name.decode().lower() not in HEADERS]
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*kept, *added]}
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send_guarded)
            return
        body = await _body(receive)
        if body is None:
            await PlainTextResponse("the request is too large", 413)(scope, receive, send_guarded)
            return
        read: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_read() -> Message:
            return read.pop() if read else await receive()

        await self.app(scope, receive_read, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if _without_port(host) not in self.hosts:
            return PlainTextResponse(f"this page is not served under the name {host!r}", 421)
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        given = query.get("token", [""])[0]
        if scope["method"] == "GET" and scope["path"] == "/" and given:
            if not secrets.compare_digest(given.encode(), self.token.encode()):
                return PlainTextResponse("the token is not that of this page: open the address that it printed", 401)
            response = RedirectResponse("/", 303)
            response.set_cookie(self.cookie, self.session, httponly=True, samesite="strict", path="/")
            return response
        if not secrets.compare_digest(_cookie(headers.get("cookie", ""), self.cookie).encode(), self.session.encode()):
            return PlainTextResponse("open the address that the command printed, with its token", 401)
        if scope["method"] not in ("GET", "HEAD") and headers.get("origin") not in (
            f"http://{host}",
            f"https://{host}",
        ):
            return PlainTextResponse("requests from other pages are refused", 403)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY:
            return PlainTextResponse("the request is too large", 413)
        return None


async def _body(receive: Receive) -> bytes | None:
    """The whole body of a request; ``None`` if it is longer than allowed."""
    parts, size = [], 0
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


def _without_port(host: str) -> str:
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdecimal() else host.lower()


def _cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return "" if found is None else found.value


def application(page: Page, *, token: str, port: int, hosts: frozenset[str] = frozenset()) -> ASGIApp:
    """The web application of a page, guarded."""

    async def asset(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in FILES:
            return PlainTextResponse("not found", 404)
        return Response((STATIC / name).read_bytes(), media_type=FILES[name])

    async def ask(request: Request) -> Response:
        return await _answer(page, await request.body())

    async def cancel(request: Request) -> Response:
        body = {"job": int(request.path_params["job"])}
        return await _answer(page, pack({"verb": "cancel", "body": body}))

    async def events(request: Request) -> Response:
        try:
            page.jobs.get(int(request.path_params["job"]))
        except KeyError as error:
            return Response(pack({"error": message_of(error)}), 404, media_type="application/octet-stream")
        return StreamingResponse(_events(page, int(request.path_params["job"])), media_type="text/event-stream")

    async def download(request: Request) -> Response:
        folder = tempfile.TemporaryDirectory(prefix="cell2sen-")
        path = Path(folder.name) / "cells.h5ad"
        try:
            await run_in_threadpool(page.results.save, path)
        except MENDABLE as error:
            folder.cleanup()
            return PlainTextResponse(message_of(error), 409)
        stem = Path(page.name).name.removesuffix(".h5ad")
        return FileResponse(path, filename=f"{stem}.cell2sen.h5ad", background=BackgroundTask(folder.cleanup))

    routes = [
        Route("/", asset),
        Route("/api/ask", ask, methods=["POST"]),
        Route("/api/jobs/{job:int}", cancel, methods=["DELETE"]),
        Route("/api/jobs/{job:int}/events", events),
        Route("/api/cells.h5ad", download),
        Route("/{name}", asset),
    ]
    return Guard(Starlette(routes=routes), token=token, port=port, hosts=hosts)


async def _answer(page: Page, body: bytes) -> Response:
    content, status = await run_in_threadpool(page.answer, body)
    return Response(content, status, media_type="application/octet-stream")


async def _events(page: Page, number: int) -> AsyncIterator[str]:
    """Status of a job whenever it changes, as server-sent events, until the job is over."""
    version = -1
    while True:
        job = page.jobs.get(number)
        if job.version != version:
            version, status = job.version, job.status()
            yield f"data: {json.dumps(status, ensure_ascii=False)}\n\n"
            if status["state"] in ("done", "failed", "cancelled"):
                return
        await anyio.sleep(INTERVAL)


def listen(host: str, port: int) -> socket.socket:
    """Socket that listens; port 0: any free one.

    Raises
    ------
    OSError
        The address is taken, or none of this machine.
    """
    opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
        opened.listen(64)
    except OSError as error:
        opened.close()
        raise OSError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error
    return opened


def serve(page: Page, opened: socket.socket, *, token: str, hosts: frozenset[str] = frozenset()) -> Any:
    """Server of a page on a socket: its ``run(sockets=[...])`` returns after an interrupt."""
    import uvicorn

    port = opened.getsockname()[1]
    config = uvicorn.Config(
        application(page, token=token, port=port, hosts=hosts),
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)
