"""The service's pages have none of the faults that axe-core finds, whatever shows them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import pytest

from msrrec.engines.loopback import serve_on_loopback
from tests.support.service import BODY, World

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.integration

SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
WIDTHS = (390, 1280)
"""Of a telephone and of a desk's screen, in pixels."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The API and its pages over scripted engines."""
    with serve_on_loopback(World().app) as found:
        yield found


def ask(page: "Page") -> None:
    """Have results shown, with the request as a command."""
    page.fill("#history", BODY["history"][0])
    page.fill("#candidates", "\n".join(BODY["candidates"]))
    page.click("#send")
    page.wait_for_selector("li.chosen")
    page.click("#command summary")


def find_faults(page: "Page", widths: tuple[int, ...] = WIDTHS) -> dict[str, list[str]]:
    """What axe-core finds in each scheme and width: its rule, and the places."""
    from axe_playwright_python.sync_playwright import Axe

    found = {}
    for scheme in SCHEMES:
        for width in widths:
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            page.set_viewport_size({"width": width, "height": 800})
            for fault in Axe().run(page).response["violations"]:
                places = [str(node["target"]) for node in fault["nodes"]]
                found[f"{fault['id']} ({scheme}, {width} px)"] = places
    return found


def test_the_page_with_results_has_no_fault_light_or_dark_on_any_screen(
    url: str, page: "Page"
) -> None:
    page.goto(url)
    ask(page)
    assert find_faults(page) == {}


def test_what_describes_the_api_has_no_fault_either_and_a_fault_is_found(
    url: str, page: "Page"
) -> None:
    page.goto(f"{url}/docs")
    assert find_faults(page) == {}
    page.set_viewport_size({"width": WIDTHS[0], "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == WIDTHS[0]
    page.evaluate("document.documentElement.removeAttribute('lang')")
    assert list(find_faults(page, WIDTHS[:1])) == [
        "html-has-lang (light, 390 px)",
        "html-has-lang (dark, 390 px)",
    ]
