"""A page that shows some customers: what they bought, what they are offered, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msrrec import storage
from msrrec.page import render_page
from msrrec.recommendations.rows import Offer
from msrrec.stage import Summary

SHOWN_PURCHASES = 8
"""The latest purchases on the page."""
MAX_TITLE_CHARS = 160


@dataclass(frozen=True)
class Sample:
    """A customer on the page.

    Attributes:
        history: Titles of the latest purchases, oldest first.
        offers: The best items.
    """

    user_id: str
    history: tuple[str, ...]
    offers: tuple[Offer, ...]

    @property
    def reasoning(self) -> str | None:
        """Why the first item is offered; None if only likelihood ranks it."""
        return next((offer.reasoning for offer in self.offers if offer.reasoning), None)


def write_page(
    path: str,
    summary: Summary,
    sample: Sequence[Sample],
    reasons: Mapping[str, Mapping[str, str]],
) -> None:
    """Write the page.

    Args:
        path: Its file.
        summary: The figures of the run.
        sample: The customers that are shown.
        reasons: The retrievers that proposed an item, by user and item id.
    """
    page = render_page(
        "recommendations/page.html",
        summary=summary,
        sample=[(one, _shorten(one.history[-SHOWN_PURCHASES:])) for one in sample],
        reasons=reasons,
        cut=_cut,
    )
    storage.write_bytes(path, page)


def _shorten(titles: Sequence[str]) -> list[str]:
    return [_cut(title) for title in titles]


def _cut(title: str) -> str:
    return title if len(title) <= MAX_TITLE_CHARS else title[: MAX_TITLE_CHARS - 1] + "…"
