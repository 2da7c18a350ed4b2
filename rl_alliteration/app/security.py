"""Who may ask: this machine alone, with the token of the printed link, from a page of ours."""

from __future__ import annotations

import hmac
import html
import re
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "rl_alliteration"
"""Its name, with the port after it: browsers share cookies among the ports of a host."""
_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Styles alone may be inline: Plotly sets them. No script of a page runs."""
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_REFUSED = "403: open the link that `rl-alliteration serve` has printed\n"


class Guard:
    """Refuses every request that has no token, or comes from elsewhere, before it reaches the application."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        """`token`: what the printed link has; `port`: that is listened at."""
        self._app = app
        self._token = token
        self._cookie = f"{COOKIE}_{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no other protocol is spoken
        answer = self._answer(scope)

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await (answer or self._app)(scope, receive, sealed)

    def _answer(self, scope: Scope) -> ASGIApp | None:
        """What to answer in place of the application; None to let it answer."""
        found: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        if not _of_this_place(found, scope["method"]):
            return PlainTextResponse(_REFUSED, 403)
        if self._is_token(_cookies(found.get("cookie", ()), self._cookie)):
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if scope["method"] == "GET" and self._is_token([value for name, value in query if name == "token"]):
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            return self._welcome(f"http://{found['host'][0]}{scope['path']}{'?' if rest else ''}{rest}")
        return PlainTextResponse(_REFUSED, 403)

    def _is_token(self, given: Iterable[str]) -> bool:
        return any(hmac.compare_digest(one.encode(), self._token.encode()) for one in given)

    def _welcome(self, address: str) -> HTMLResponse:
        """A page that sets the cookie and goes on without the token in the address. No redirect: the browser would
        count what follows to wherever the link was, and withhold a strict cookie."""
        shown = html.escape(address, quote=True)
        page = f'<!doctype html><html lang="en"><meta http-equiv="refresh" content="0;url={shown}">'
        page += '<link rel="icon" href="data:,"><title>rl-alliteration</title>'
        response = HTMLResponse(page)
        response.set_cookie(self._cookie, self._token, httponly=True, samesite="strict", path="/")
        return response


def _of_this_place(headers: dict[str, list[str]], method: str) -> bool:
    """Whether the name that was asked for is this machine's own, and no other page has asked."""
    host = headers.get("host", [])
    if len(host) != 1 or not _HOST.fullmatch(host[0]):
        return False
    origins = headers.get("origin", [])
    if any(origin != f"http://{host[0]}" for origin in origins):
        return False
    if method not in ("GET", "HEAD"):
        return len(origins) == 1
    (site,) = headers.get("sec-fetch-site", ["none"])[:1]
    return site in ("same-origin", "none") or headers.get("sec-fetch-mode") == ["navigate"]


def _cookies(headers: Iterable[str], name: str) -> list[str]:
    found = []
    for header in headers:
        try:
            jar = SimpleCookie(header)
        except CookieError:
            continue
        if name in jar:
            found.append(jar[name].value)
    return found
