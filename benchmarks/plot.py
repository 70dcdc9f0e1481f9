"""Draw time series as a small SVG file: four panels, one polyline per series."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

_COLOURS = ("#1f77b4", "#ff7f0e")
_POINTS_MAX = 120
_WIDTH, _HEIGHT = 720, 440
_PLOT_WIDTH, _PLOT_HEIGHT = 300, 150
_LEFT, _TOP = 40, 30
_COLUMN, _ROW = 360, 205


class Series(NamedTuple):
    """A named line: one value for each point in time."""

    name: str
    values: Sequence[float]


class Panel(NamedTuple):
    """A title, and the lines below it."""

    title: str
    series: Sequence[Series]


def draw(minutes: Sequence[float], panels: Sequence[Panel], file: Path) -> None:
    """Write up to four panels over the same minutes."""
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            'font-family="sans-serif" font-size="10">'
        ),
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
    ]
    for number, panel in enumerate(panels):
        left = _LEFT + number % 2 * _COLUMN
        top = _TOP + number // 2 * _ROW
        lines += _panel(minutes, panel, left, top)
    lines.append("</svg>")
    file.write_text("\n".join(lines) + "\n", "utf-8")


def _panel(minutes: Sequence[float], panel: Panel, left: int, top: int) -> list[str]:
    bottom, right = top + _PLOT_HEIGHT, left + _PLOT_WIDTH
    last = max(minutes) or 1.0
    highest = max((max(series.values) for series in panel.series), default=0.0) or 1.0

    def x(minute: float) -> float:
        return left + minute / last * _PLOT_WIDTH

    def y(value: float) -> float:
        return bottom - value / (highest * 1.05) * _PLOT_HEIGHT

    lines = [
        _text(left + _PLOT_WIDTH / 2, top - 8, panel.title, anchor="middle"),
        (
            f'<rect x="{left}" y="{top}" width="{_PLOT_WIDTH}" height="{_PLOT_HEIGHT}" '
            'fill="none" stroke="#000000" stroke-width="0.8"/>'
        ),
    ]
    for value in _ticks(highest):
        lines.append(_grid(left, y(value), right, y(value)))
        lines.append(_text(left - 4, y(value) + 3, f"{value:g}", anchor="end"))
    for minute in _ticks(last):
        lines.append(_grid(x(minute), top, x(minute), bottom))
        lines.append(_text(x(minute), bottom + 13, f"{minute:g}", anchor="middle"))
    lines.append(_text(right, bottom + 26, "minutes", anchor="end"))
    for number, (series, colour) in enumerate(zip(panel.series, _COLOURS, strict=False)):
        points = " ".join(f"{x(m):.1f},{y(v):.1f}" for m, v in _thinned(minutes, series.values))
        lines.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.2"/>'
        )
        lines.append(_text(left + 90 * number, bottom + 26, series.name, colour=colour))
    return lines


def _thinned(minutes: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """Return at most `_POINTS_MAX` points; each is the highest of its stretch, so peaks stay."""
    size = math.ceil(len(minutes) / _POINTS_MAX)
    points = list(zip(minutes, values, strict=True))
    return [
        max(points[start : start + size], key=lambda point: point[1])
        for start in range(0, len(points), size)
    ]


def _ticks(highest: float) -> list[float]:
    """Return round values from 0 to `highest`, four to seven of them."""
    power = 10.0 ** math.floor(math.log10(highest))
    step = next(s * power for s in (0.1, 0.2, 0.5, 1.0, 2.0) if highest / (s * power) <= 6.5)
    return [step * n for n in range(int(highest / step) + 1)]


def _grid(x1: float, y1: float, x2: float, y2: float) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        'stroke="#b0b0b0" stroke-width="0.4"/>'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", colour: str = "#000000") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">'
        f"{escape(text)}</text>"
    )
