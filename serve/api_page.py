"""The page that describes the API, made from its OpenAPI document; it runs no scripts.

FastAPI's own page loads scripts and styles from other hosts, which this service's readers may not
reach and its policy forbids.
"""

import html
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from jinja2 import Environment, FileSystemLoader, StrictUndefined

_STATIC = Path(__file__).parent / "static"
_SCHEME = "bearer"
_CODE = re.compile(r"``?([^`]+)``?")

Json = Mapping[str, Any]
"""A part of an OpenAPI document."""


class Html(str):
    """Text that is HTML already, which templates don't escape again."""

    def __html__(self) -> str:
        """Asked for by templates."""
        return self


@dataclass(frozen=True)
class Operation:
    """What can be done with a path.

    Attributes:
        method: Such as ``POST``.
        path: With parameters in braces.
        description: What it does.
        is_protected: Whether it needs the bearer token.
        body: The type of the request's body; empty without one.
        responses: Status, what it means and type of the body.
    """

    method: str
    path: str
    description: Html
    is_protected: bool
    body: Html
    responses: tuple[tuple[str, str, Html], ...]


@dataclass(frozen=True)
class SchemaField:
    """A field of a body."""

    name: str
    type: Html
    default: str
    description: Html


def describe_security(app: FastAPI, is_protected: Callable[[str], bool]) -> None:
    """Let the application's OpenAPI document say which paths need the bearer token."""

    def build() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
            schemes[_SCHEME] = {"type": "http", "scheme": "bearer"}
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    operation["security"] = [{_SCHEME: []}] if is_protected(path) else []
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = build  # type: ignore[method-assign]


def render_api_page(document: Json) -> str:
    """The HTML page of an OpenAPI document."""
    environment = Environment(
        loader=FileSystemLoader(_STATIC),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    schemas = document["components"]["schemas"]
    return environment.get_template("api.html").render(
        info=document["info"],
        operations=list(_operations(document)),
        schemas=[(name, _text(one), list(_fields(one))) for name, one in schemas.items()],
    )


def _operations(document: Json) -> Iterator[Operation]:
    for path, operations in document["paths"].items():
        for method, one in operations.items():
            yield Operation(
                method.upper(),
                path,
                _text(one),
                bool(one.get("security")),
                _type_of_content(one.get("requestBody", {})),
                tuple(
                    (status, response["description"], _type_of_content(response))
                    for status, response in one["responses"].items()
                ),
            )


def _fields(schema: Json) -> Iterator[SchemaField]:
    required = schema.get("required", ())
    for name, one in schema.get("properties", {}).items():
        default = "required" if name in required else str(one.get("default", ""))
        yield SchemaField(name, _type(one), default, _text(one))


def _type_of_content(holder: Json) -> Html:
    schema = holder.get("content", {}).get("application/json", {}).get("schema", {})
    return _type(schema) if schema else Html("")


def _type(schema: Json) -> Html:
    """A type in words; names of schemas are links."""
    if "$ref" in schema:
        name = html.escape(schema["$ref"].rpartition("/")[2])
        return Html(f'<a href="#{name}">{name}</a>')
    if "anyOf" in schema:
        return Html(" or ".join(map(_type, schema["anyOf"])))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum") or [schema["const"]]
        return Html(", ".join(f"<code>{html.escape(str(value))}</code>" for value in values))
    if schema.get("type") == "array":
        return Html(f"list of ({_type(schema['items'])})")
    if isinstance(schema.get("additionalProperties"), Mapping):
        return Html(f"object of ({_type(schema['additionalProperties'])})")
    return Html(html.escape(schema.get("type", "anything")))


def _text(schema: Json) -> Html:
    """A description, with the names in it marked."""
    return Html(_CODE.sub(r"<code>\1</code>", html.escape(schema.get("description", ""))))
