"""Draw line charts as SVG text."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

_COLOURS = ("#1f77b4", "#ff7f0e")
_WIDTH, _HEIGHT = 430, 250  # of a panel, in pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 46, 40  # the margins of a panel
_TICKS_MAX = 6


class Panel(NamedTuple):
    """A chart with one or two named lines."""

    title: str
    lines: dict[str, list[float]]


def draw(panels: Sequence[Panel], xs: Sequence[float], x_title: str) -> str:
    """Return an SVG document with the panels in two columns.

    The axes of each panel begin at zero. All lines share `xs`.
    """
    width, height = 2 * _WIDTH, math.ceil(len(panels) / 2) * _HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">',
        '<g font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, panel in enumerate(panels):
        row, column = divmod(number, 2)
        parts.append(f'<g transform="translate({column * _WIDTH} {row * _HEIGHT})">')
        parts += _panel(panel, xs, x_title)
        parts.append("</g>")
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _panel(panel: Panel, xs: Sequence[float], x_title: str) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    x_ticks = _ticks(max(xs, default=0.0))
    y_ticks = _ticks(max((y for ys in panel.lines.values() for y in ys), default=0.0))
    x_scale, y_scale = (right - _LEFT) / x_ticks[-1], (bottom - _TOP) / y_ticks[-1]
    parts = [f'<text x="{_LEFT}" y="18" font-size="12">{escape(panel.title)}</text>']
    for tick in x_ticks:
        x = _LEFT + tick * x_scale
        parts += [
            f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="#ddd"/>',
            f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{tick:g}</text>',
        ]
    for tick in y_ticks:
        y = bottom - tick * y_scale
        parts += [
            f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#ddd"/>',
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>',
        ]
    middle = (_LEFT + right) / 2
    parts.append(
        f'<text x="{middle:.1f}" y="{bottom + 31}" text-anchor="middle">{escape(x_title)}</text>'
    )
    for number, (name, ys) in enumerate(panel.lines.items()):
        colour = _COLOURS[number]
        points = " ".join(
            f"{_LEFT + x * x_scale:.1f},{bottom - y * y_scale:.1f}"
            for x, y in zip(xs, ys, strict=True)
        )
        x = _LEFT + number * 130
        parts += [
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.2"/>',
            f'<path d="M{x} 33h18" stroke="{colour}" stroke-width="2"/>',
            f'<text x="{x + 23}" y="37">{escape(name)}</text>',
        ]
    return parts


def _ticks(greatest: float) -> list[float]:
    """Return round numbers at equal steps, from zero to `greatest` or just above."""
    least = greatest / _TICKS_MAX
    if least <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= least)
    return [step * number for number in range(math.ceil(greatest / step) + 1)]
