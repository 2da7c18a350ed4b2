"""Draw figures: as Plotly's JSON for the page, and as PNG files."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rl_alliteration.errors import UserError
from rl_alliteration.report.base import GREY, Figure, Series

CONFIG: dict[str, Any] = {
    "responsive": True,
    "displaylogo": False,
    # Nothing of a figure leaves this machine: Plotly's own button uploads it to its cloud.
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d", "sendChartToCloud"],
}
"""Of Plotly, wherever it draws."""


def to_plotly(figure: Figure) -> dict[str, Any]:
    """The figure as Plotly's `data` and `layout`; colours of the page (text, grid) are the page's own affair."""
    categorical = any(series.x and isinstance(series.x[0], str) for series in figure.series)
    shapes = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y,
         "line": {"color": GREY, "width": 1.5, "dash": "dot"}}
        for _, y in figure.references
    ]  # fmt: skip
    notes = [
        {"xref": "paper", "x": 1, "y": y, "xanchor": "right", "yanchor": "bottom", "text": _plain(name),
         "showarrow": False, "font": {"size": 11, "color": GREY}}
        for name, y in figure.references
    ]  # fmt: skip
    for name, place in figure.marks:
        if math.isfinite(place.low) and math.isfinite(place.high):
            shapes.append({"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "x0": place.low, "x1": place.high,
                           "line": {"width": 0}, "fillcolor": GREY, "opacity": 0.2, "layer": "below"})  # fmt: skip
        shapes.append({"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": place.value, "x1": place.value,
                       "line": {"color": GREY, "width": 1.5, "dash": "dash"}})  # fmt: skip
        notes.append({"yref": "paper", "y": 1, "x": place.value, "xanchor": "left", "yanchor": "top",
                      "text": _plain(name), "showarrow": False, "font": {"size": 11, "color": GREY}})  # fmt: skip
    x_axis: dict[str, Any] = {"title": {"text": figure.x_title}, "automargin": True}
    y_axis: dict[str, Any] = {"title": {"text": figure.y_title}, "automargin": True}
    if figure.view is not None:
        x_axis["range"], y_axis["range"] = map(list, figure.view)
    if categorical:
        x_axis["type"] = "category"
    elif figure.log_x:
        x_axis["type"] = "log"
    return {
        "data": [_trace(series, figure) for series in figure.series],
        "layout": {
            "xaxis": x_axis,
            "yaxis": y_axis,
            "shapes": shapes,
            "annotations": notes,
            "barmode": "stack",
            "hovermode": "closest",
        },
    }


def _trace(series: Series, figure: Figure) -> dict[str, Any]:
    name = _plain(series.name)
    trace: dict[str, Any] = {
        "name": name,
        "x": list(series.x),
        "y": [_number(value) for value in series.y],
        "hovertemplate": f"{name}<br>%{{x}}: %{{y:.{figure.digits + 1}f}}<extra></extra>",
        "legendgroup": _plain(series.group or series.name),
        "showlegend": _in_legend(series),
    }
    if series.kind == "bar":
        trace |= {"type": "bar", "marker": {"color": series.colour}}
    elif series.kind == "area":
        trace |= {"type": "scatter", "mode": "lines", "stackgroup": "one", "fillcolor": series.colour,
                  "line": {"color": series.colour, "width": 0.5}}  # fmt: skip
    elif series.kind == "band":
        low, high = series.bounds or ((), ())
        trace |= {"type": "scatter", "mode": "lines", "fill": "toself", "fillcolor": series.colour, "opacity": 0.25,
                  "line": {"width": 0}, "hoverinfo": "skip", "x": [*series.x, *reversed(series.x)],
                  "y": [_number(value) for value in [*high, *reversed(low)]]}  # fmt: skip
        del trace["hovertemplate"]
    elif series.kind == "points":
        symbol = "star" if series.star else series.symbol + ("-open" if series.hollow else "")
        size = 16 if series.star else 6 if series.faint or series.small else 9
        trace |= {"type": "scatter", "mode": "markers", "opacity": 0.55 if series.faint else 0.9,
                  "marker": {"color": series.colour, "size": size, "symbol": symbol}}  # fmt: skip
    else:
        trace |= {"type": "scatter", "mode": "lines", "opacity": 0.35 if series.faint else 1,
                  "line": {"color": series.colour, "width": 1 if series.faint else 2.5,
                           "dash": series.dash}}  # fmt: skip
        if series.faint:
            trace["hoverinfo"] = "skip"
            del trace["hovertemplate"]
    if series.bounds is not None and series.kind != "band":
        low, high = series.bounds
        trace["error_y"] = {
            "type": "data", "symmetric": False, "color": series.colour, "thickness": 2, "width": 5,
            "array": [_number(h - y) for h, y in zip(high, series.y, strict=True)],
            "arrayminus": [_number(y - v) for v, y in zip(low, series.y, strict=True)],
        }  # fmt: skip
    if series.targets is not None:
        # The name once to be shown, once to be found by.
        trace["customdata"] = [[_plain(name), generation, name] for name, generation in series.targets]
        where = "%{customdata[0]}, generation %{customdata[1]}"
        x = "%{x}" if series.x and isinstance(series.x[0], str) else f"%{{x:.{figure.digits}f}}"
        trace["hovertemplate"] = (
            f"{name}<br>{_plain(figure.x_title)} {x}, "
            f"{_plain(figure.y_title)} %{{y:.{figure.digits}f}}<br>{where}<extra></extra>"
        )
    return trace


def save_png(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Draw each figure to FOLDER/key.png.

    Raises:
        UserError: the folder cannot be written.
    """
    from matplotlib.figure import Figure as Canvas

    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for figure in figures:
            canvas = Canvas(figsize=(9, 4.5), dpi=150, layout="constrained")
            _draw(canvas.subplots(), figure)
            path = folder / f"{re.sub(r'[^A-Za-z0-9_-]', '_', figure.key)}.png"  # keys hold names from the data
            canvas.savefig(path)
            paths.append(path)
    except OSError as error:
        raise UserError(f"--figures: {str(folder)!r} cannot be written ({error.strerror})") from error
    return paths


def _draw(axes: Any, figure: Figure) -> None:
    handles: dict[str, Any] = {}
    bottom: list[float] | None = None
    for series in figure.series:
        style: dict[str, Any] = {"color": series.colour, "label": series.name.replace("$", r"\$")}
        if series.kind in ("bar", "area"):
            bottom = bottom or [0.0] * len(series.y)
            top = [a + b for a, b in zip(bottom, series.y, strict=True)]
            if series.kind == "bar":
                drawn = axes.bar(list(series.x), series.y, bottom=bottom, **style)
            else:
                drawn = axes.fill_between(list(series.x), bottom, top, **style)
            bottom = top
        elif series.kind == "band":
            low, high = series.bounds or ((), ())
            drawn = axes.fill_between(list(series.x), low, high, alpha=0.25, linewidth=0, **style)
        elif series.kind == "points":
            face = "none" if series.hollow else series.colour
            marker, size = (
                ("*", 14) if series.star else (_MARKERS[series.symbol], 3 if series.faint or series.small else 6)
            )
            drawn = axes.plot(list(series.x), series.y, linestyle="none", marker=marker, markersize=size,
                              markerfacecolor=face, alpha=0.5 if series.faint else 0.9,
                              zorder=5 if series.star else 2, **style)[0]  # fmt: skip
        else:
            drawn = axes.plot(series.x, series.y, linewidth=0.7 if series.faint else 1.8,
                              alpha=0.35 if series.faint else 1, linestyle=_LINES[series.dash],
                              **style)[0]  # fmt: skip
        if series.bounds is not None and series.kind != "band":
            away = [[y - v for v, y in zip(series.bounds[0], series.y, strict=True)],
                    [v - y for v, y in zip(series.bounds[1], series.y, strict=True)]]  # fmt: skip
            axes.errorbar(list(series.x), series.y, yerr=away, fmt="none", ecolor=series.colour, capsize=3)
        if _in_legend(series):
            handles.setdefault(series.name, drawn)
    bottom_seen, top_seen = figure.view[1] if figure.view is not None else (-math.inf, math.inf)
    for name, y in figure.references:
        if not bottom_seen <= y <= top_seen:  # matplotlib would make room for its name
            continue
        axes.axhline(y, color=GREY, linestyle=":", linewidth=1)
        axes.annotate(name, (1, y), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8, color=GREY)
    for name, place in figure.marks:
        axes.axvline(place.value, color=GREY, linestyle="--", linewidth=1)
        if math.isfinite(place.low) and math.isfinite(place.high):
            axes.axvspan(place.low, place.high, color=GREY, alpha=0.2, linewidth=0)
        axes.annotate(name, (place.value, 1), xycoords=("data", "axes fraction"), ha="left", va="top", fontsize=8,
                      color=GREY)  # fmt: skip
    axes.set(title=figure.title, xlabel=figure.x_title, ylabel=figure.y_title)
    if figure.view is not None:
        axes.set(xlim=figure.view[0], ylim=figure.view[1])
    if figure.log_x:
        axes.set_xscale("log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#00000018")
    axes.legend(handles.values(), handles.keys(), loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)


_MARKERS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "triangle-down": "v",
    "cross": "P",
    "x": "x",
}
_LINES = {
    "solid": "-",
    "dash": "--",
    "dot": ":",
    "dashdot": "-.",
    "longdash": (0, (8, 3)),
    "longdashdot": (0, (8, 3, 1, 3)),
}
"""What matplotlib calls them."""


def _in_legend(series: Series) -> bool:
    return not (series.quiet or series.hollow or (series.faint and series.kind == "line"))


def page_json(value: Any) -> Markup:
    """JSON that cannot end the element it is in: the characters of markup are written as escapes."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text))


def _plain(text: str) -> str:
    """Plotly reads a little HTML in names; they are to be read as they are."""
    return html.escape(text, quote=False)


def _number(value: float) -> float | None:
    """Five digits are more than a screen shows; JSON knows no nan."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
