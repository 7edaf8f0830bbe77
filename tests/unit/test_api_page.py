"""The page /docs comes from this service alone, and says what the OpenAPI document says."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from serve.api_page import render_api_page
from tests.support.service import World


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data + " "


@pytest.fixture(scope="module")
def world() -> World:
    return World(key="k")


def schema(world: World) -> dict[str, Any]:
    found: dict[str, Any] = world.call("GET", "/openapi.json").json()
    return found


def test_every_path_and_field_is_described_without_anything_from_elsewhere(world: World) -> None:
    response = world.call("GET", "/docs")
    assert response.status_code == 200
    assert "default-src 'none'" in response.headers["content-security-policy"]
    page = Elements(response.text)
    assert "script" not in {tag for tag, _ in page.found}
    places = [
        value for _, at in page.found for name, value in at.items() if name in ("href", "src")
    ]
    assert all(re.match(r"#|/(openapi\.json)?$|data:,$", place or "") for place in places)
    document = schema(world)
    for path in document["paths"]:
        assert path in page.text
    for name, one in document["components"]["schemas"].items():
        assert name in page.text
        assert set(one.get("properties", {})) <= set(page.text.split())
    anchors = {at["id"] for tag, at in page.found if tag == "h3" and "id" in at}
    assert {place[1:] for place in places if place and place.startswith("#")} <= anchors


def test_the_other_pages_of_the_framework_are_gone(world: World) -> None:
    assert world.call("GET", "/redoc").status_code == 404
    assert "cdn" not in world.call("GET", "/docs").text


def test_the_document_says_which_paths_need_the_token(world: World) -> None:
    document = schema(world)
    assert document["components"]["securitySchemes"] == {
        "bearer": {"type": "http", "scheme": "bearer"}
    }
    needs = {
        path: {bool(one["security"]) for one in operations.values()}
        for path, operations in document["paths"].items()
    }
    assert needs.pop("/healthz") == needs.pop("/readyz") == {False}
    assert set(map(tuple, needs.values())) == {(True,)}
    open_one = schema(World())
    assert not any(one["security"] for path in open_one["paths"].values() for one in path.values())


def test_texts_of_the_document_stay_texts() -> None:
    hostile = "<script>alert(1)</script> `code`"
    page = render_api_page(
        {
            "info": {"title": hostile, "version": "1", "description": ""},
            "paths": {"/<b>": {"get": {"description": hostile, "responses": {}}}},
            "components": {"schemas": {'"x"': {"properties": {"<i>": {"enum": ["<u>"]}}}}},
        }
    )
    assert not {"script", "b", "i", "u"} & {tag for tag, _ in Elements(page).found}
    assert "<code>code</code>" in page
