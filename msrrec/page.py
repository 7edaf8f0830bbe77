"""Self-contained HTML pages: templates, the style sheet, and SVG plots.

Jinja's autoescaping covers all text from models and shops; pages load nothing and run no scripts.
Plots are SVG with a view box of 600 by 200.
"""

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from msrrec.errors import hide_credentials


def render_page(template: str, **values: Any) -> bytes:
    """An HTML page from a template, which is named by its path inside this package.

    Credentials of URIs are left out.
    """
    environment = Environment(
        loader=PackageLoader("msrrec", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    page = environment.get_template(template).render(**values)
    return hide_credentials(page).encode("utf-8", errors="replace")


def percent(value: float) -> str:
    """A share as a percentage with one decimal place."""
    return f"{100 * value:.1f}%"


def format_p(value: float) -> str:
    """A p-value with three decimal places, or ``p < 0.001``."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def svg_points(points: Sequence[tuple[float, float]]) -> str:
    """Coordinates of an SVG polyline."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
