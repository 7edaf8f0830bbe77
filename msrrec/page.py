"""HTML pages that stand alone: their templates, their one style sheet, and their drawing.

All text from models and shops reaches a page through Jinja's autoescaping; a page loads nothing
from anywhere and runs no script. Plots are SVG on a plane of 600 by 200.
"""

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render_page(template: str, **values: Any) -> bytes:
    """A page from a template, named by its path inside this package."""
    environment = Environment(
        loader=PackageLoader("msrrec", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    page = environment.get_template(template).render(**values)
    return page.encode("utf-8", errors="replace")


def percent(value: float) -> str:
    """A share with one digit after the point."""
    return f"{100 * value:.1f}%"


def format_p(value: float) -> str:
    """A p-value with three digits after the point, never as 0."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def svg_points(points: Sequence[tuple[float, float]]) -> str:
    """Coordinates of a polyline."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
