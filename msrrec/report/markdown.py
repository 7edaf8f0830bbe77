"""Cells of tables in Markdown."""

from msrrec.metrics.statistics import Share


def table_line(cells: tuple[str, ...]) -> str:
    """A line of a table, from cells that hold no bars."""
    return f"| {' | '.join(cells)} |"


def interval(share: Share | None) -> str:
    """A share with its 95% interval; a dash for None."""
    return "–" if share is None else f"{share.value:.4f} [{share.low:.3f}, {share.high:.3f}]"


def plain_p(value: float) -> str:
    """A p-value for a cell, such as ``0.012`` or ``< 0.001``."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def one_line(text: str) -> str:
    """Text for one cell: a single line, without bars and markup."""
    cleaned = " ".join(text.split()).replace("|", "/")
    return cleaned.replace("<", "&lt;").replace(">", "&gt;")
