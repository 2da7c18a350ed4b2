"""The application: addresses to views, views to pages, and what goes wrong to a line."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from rl_alliteration.analysis.alliteration import marked
from rl_alliteration.app.choices import Choices
from rl_alliteration.app.events import UNREADABLE, one_line
from rl_alliteration.app.index import Index
from rl_alliteration.app.page import Live, Page
from rl_alliteration.app.security import Guard
from rl_alliteration.app.views import VIEWS
from rl_alliteration.errors import Failure, UserError
from rl_alliteration.report.drawing import CONFIG, page_json
from rl_alliteration.results.notes import NAME_LENGTH, NOTE_LENGTH, Note, read_note, write_note
from rl_alliteration.results.storage import Storage
from rl_alliteration.terminal import printable

_LOG = logging.getLogger(__name__)
_BODY = 64 * 1024
"""Bytes of a request, at most."""
_WAIT_SECONDS = 1.0
"""How long a page waits for the first look at the storage."""


def application(index: Index, storage: Storage, token: str, port: int) -> Starlette:
    """All of it.

    Args:
        index: of the storage; the caller starts and closes it.
        storage: where notes are kept.
        token: that a browser must have had from the printed link.
        port: that is listened at.
    """
    live = Live(index)
    routes = [Route(f"/{name}", _page(live, name), methods=["GET"]) for name in VIEWS]
    routes += [Route(f"/download/{name}", _download(live, name), methods=["GET"]) for name in VIEWS]
    routes += [
        Route("/changes", _changes(live), methods=["GET"]),
        Route("/note", _note(live, storage), methods=["POST"]),
        Route("/static/{name}", _static, methods=["GET"]),
    ]
    middleware = [Middleware(Guard, token=token, port=port)]
    return Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={404: _not_found, 405: _not_found, Exception: _unexpected},
    )


# --- pages --------------------------------------------------------------------------------------------------------


def _shown(live: Live, name: str, request: Request) -> tuple[Page, int]:
    """A view's page, or the line that says why there is none; and its status."""
    live.index.wait(_WAIT_SECONDS)
    try:
        return VIEWS[name].make(live, Choices(request.query_params.multi_items())), 200
    except UserError as error:
        return Page("problem.html", "Not accepted", {"line": str(error)}), 400
    except UNREADABLE as error:
        return Page("problem.html", "Cannot be read", {"line": one_line(error)}), 503


def _page(live: Live, name: str) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        page, status = _shown(live, name, request)
        snapshot = live.index.snapshot
        html = _template(page.template).render(
            page.values,
            title=page.title,
            view=name,
            views=[(key, one.title) for key, one in VIEWS.items() if one.title],
            here=request.url.path,
            query=str(Choices(request.query_params.multi_items())),
            downloads=page.table is not None,
            snapshot=snapshot,
            storage=str(live.index.storage),
            static=_addresses(),
        )
        return Response(html, status, media_type="text/html")

    return answer


def _download(live: Live, name: str) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        page, status = _shown(live, name, request)
        if page.table is None:
            line = page.values.get("line", "there is nothing to download here")
            return PlainTextResponse(f"{printable(line)}\n", max(status, 400))
        table, sink = page.table(), io.BytesIO()
        if request.query_params.get("format") == "parquet":
            pyarrow.parquet.write_table(table, sink, compression="zstd")
            ending, kind = "parquet", "application/vnd.apache.parquet"
        else:
            flat = [pa.types.is_nested(field.type) for field in table.schema]
            pyarrow.csv.write_csv(table.select([i for i, nested in enumerate(flat) if not nested]), sink)
            ending, kind = "csv", "text/csv; charset=utf-8"
        disposition = f'attachment; filename="{name or "trials"}.{ending}"'
        return Response(sink.getvalue(), media_type=kind, headers={"Content-Disposition": disposition})

    return answer


def _changes(live: Live) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        snapshot = live.index.snapshot
        return JSONResponse({"version": snapshot.version, "reading": snapshot.reading, "left": snapshot.unmeasured})

    return answer


def _note(live: Live, storage: Storage) -> Any:
    async def answer(request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _BODY:
                return _refused("the note is too long", 413)
        try:
            given = json.loads(body)
            trial, name, note, starred = (given[key] for key in ("trial", "name", "note", "starred"))
            right = all(isinstance(one, str) for one in (trial, name, note)) and isinstance(starred, bool)
        except (ValueError, KeyError, TypeError, RecursionError):
            right = False
        if not right:
            return _refused("this is no note", 400)
        if len(name) > NAME_LENGTH or len(note) > NOTE_LENGTH:
            return _refused(f"a name has at most {NAME_LENGTH} characters, a note {NOTE_LENGTH:,}", 400)
        try:
            name.encode(), note.encode()
            (known,) = Choices([("trial", trial)]).trials(live.index.snapshot)
            tag = read_note(storage, *known.pair)[1]
            write_note(storage, *known.pair, Note(name.strip(), note.strip(), starred), tag)
        except (UserError, ValueError) as error:
            return _refused(one_line(error), 400)
        except (Failure, OSError) as error:
            return _refused(one_line(error), 503)
        live.index.look_soon()
        return JSONResponse({"kept": True})

    return answer


def _refused(line: str, status: int) -> Response:
    return JSONResponse({"line": line}, status)


async def _not_found(request: Request, error: Exception) -> Response:
    return PlainTextResponse("404: there is no such page\n", 404)


async def _unexpected(request: Request, error: Exception) -> Response:
    _LOG.error("the page %s failed", request.url.path, exc_info=error)
    return PlainTextResponse(f"500: {type(error).__name__}: {printable(one_line(error))}\n", 500)


# --- templates and what pages load ---------------------------------------------------------------------------------


def _readable(value: Any) -> Any:
    """What a template writes: without what drives a browser's text, then escaped."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:z,.{digits}f}"


def _moment(value: str) -> str:
    """A time as it is stored (ISO 8601), in words for people; whatever else is there, as it is."""
    try:
        moment = datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        return value
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rl_alliteration.app", "pages"),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_readable,
    )  # fmt: skip
    environment.globals["plotly_config"] = CONFIG
    environment.filters |= {"spans": marked, "number": _number, "moment": _moment, "json": page_json}
    return environment


def _template(name: str) -> jinja2.Template:
    return _environment().get_template(name)


@lru_cache(maxsize=1)
def _assets() -> dict[str, tuple[bytes, str]]:
    """What pages load, by name: bytes and kind."""
    own, report = files("rl_alliteration.app.static"), files("rl_alliteration.report")
    style = report.joinpath("style.css").read_bytes() + own.joinpath("app.css").read_bytes()
    script = "text/javascript; charset=utf-8"
    return {
        "app.css": (style, "text/css; charset=utf-8"),
        "look.js": (report.joinpath("look.js").read_bytes(), script),
        "app.js": (own.joinpath("app.js").read_bytes(), script),
        "plotly.js": (get_plotlyjs().encode(), script),
    }


@lru_cache(maxsize=1)
def _addresses() -> dict[str, str]:
    """Addresses with a digest, so that a browser may keep what it has."""
    return {
        name.partition(".")[0]
        + "_"
        + name.rpartition(".")[2]: f"/static/{name}?{hashlib.sha256(data).hexdigest()[:12]}"
        for name, (data, _) in _assets().items()
    }


async def _static(request: Request) -> Response:
    found = _assets().get(request.path_params["name"])
    if found is None:
        return PlainTextResponse("404: there is no such file\n", 404)
    keep = {"Cache-Control": "private, max-age=31536000, immutable"}
    return Response(found[0], media_type=found[1], headers=keep)
