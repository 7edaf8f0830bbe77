"""The columns of tables of interactions and items, and how they are found in a file.

The help of ``msrrec prepare``, the documentation and the readers all use these definitions.
"""

import difflib
import logging
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msrrec import schema
from msrrec.data.delimited import SEPARATORS
from msrrec.errors import DataError

logger = logging.getLogger(__name__)

ORDER_ID = "order_id"
"""A column of interactions that is not in ``schema``: the order that a row belongs to."""


@dataclass(frozen=True)
class Column:
    """One column that a source reads.

    Attributes:
        name: Name of the column unless a setting gives another.
        meaning: One sentence for users.
        required: Whether a file without it is refused.
        aliases: Other accepted names.
        hints: Parts of names that often mean this column; used only for suggestions.
    """

    name: str
    meaning: str
    required: bool = True
    aliases: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()


EVENT_COLUMNS = (
    Column(
        schema.USER_ID,
        "who bought; any text",
        hints=("user", "customer", "email", "client", "member", "reviewer", "buyer", "account"),
    ),
    Column(
        schema.ITEM_ID,
        "what was bought; an id of the items",
        hints=("sku", "asin", "product", "item", "movie", "article", "isbn", "variant"),
    ),
    Column(
        schema.TIMESTAMP,
        "when; whole or decimal seconds, milliseconds, microseconds or nanoseconds since 1970, or "
        "ISO 8601 such as 2024-08-25T20:59:29-04:00, 2024-08-25 20:59:29 -0400 or 2024-08-25 (UTC "
        "where there is no zone)",
        hints=("time", "created", "date", "ordered", "when", "ts"),
    ),
    Column(
        ORDER_ID,
        "read only if data.columns.order_id names it: rows of one order share the user and the "
        "time, which may be missing in some rows",
        required=False,
    ),
)
ITEM_COLUMNS = (
    Column(schema.ITEM_ID, EVENT_COLUMNS[1].meaning, hints=EVENT_COLUMNS[1].hints),
    Column(schema.TITLE, "what prompts show; one line", hints=("title", "name", "product")),
    Column(
        schema.CATEGORIES,
        "widest first: A|B, A > B, a JSON list, or a list as Python writes it",
        required=False,
        aliases=("category",),
    ),
    Column(schema.BRAND, "one name", required=False),
    Column(schema.DESCRIPTION, "text or HTML; HTML tags are removed", required=False),
)


@dataclass(frozen=True)
class ColumnChoice:
    """The columns to read from a file, and the settings that give their names.

    Attributes:
        columns: Columns to find.
        names: Names in the file by column, where a setting gives them.
        setting: Section of the settings with these names, such as ``data.columns``; empty for none.
    """

    columns: tuple[Column, ...]
    names: Mapping[str, str]
    setting: str

    def possible_names(self, found: Sequence[str]) -> list[str]:
        """The column names that may be read from a file, given its columns."""
        known = [*self.names.values()]
        for column in self.columns:
            known += [column.name, *column.aliases]
        folded = {name.casefold() for name in known}
        return list(dict.fromkeys([*known, *(n for n in found if n.casefold() in folded)]))

    def match(
        self, path: str, found: Sequence[str], shown: Sequence[str] | None = None
    ) -> dict[str, str]:
        """The name in the file of each column that it has, in the order of the columns.

        Args:
            path: Path for error messages.
            found: The columns of the file, repeated ones included.
            shown: Columns that error messages list; None for those found.

        Raises:
            DataError: If a required column is missing, or two columns mean one thing.
        """
        matched = {}
        for column in self.columns:
            name = self._find(path, column, found)
            if name is not None:
                matched[column.name] = name
            elif column.required or column.name in self.names:
                raise self._missing(path, column, found if shown is None else shown)
        return matched

    def _find(self, path: str, column: Column, found: Sequence[str]) -> str | None:
        own = self.names.get(column.name)
        if own is None and column.name == ORDER_ID:
            return None
        wanted = (own,) if own is not None else (column.name, *column.aliases)
        hits = [name for name in found if name in wanted]
        if not hits:
            folded = {name.casefold() for name in wanted}
            hits = [name for name in found if name.strip().casefold() in folded]
            if len(hits) == 1:
                logger.info("%s: reads column %r as %s", path, hits[0], column.name)
        if len(hits) > 1:
            raise self._twice(path, column, hits)
        return hits[0] if hits else None

    def _twice(self, path: str, column: Column, hits: list[str]) -> DataError:
        count = Counter(hits)
        if len(count) == 1:
            return DataError(f"{path}: has {len(hits)} columns {hits[0]!r}; expected one")
        both = " and ".join(repr(name) for name in count)
        return DataError(
            f"{path}: columns {both} both mean {column.name}; expected one"
            + self._advise(column, next(iter(count)))
        )

    def _missing(self, path: str, column: Column, found: Sequence[str]) -> DataError:
        own = self.names.get(column.name, column.name)
        listed = ", ".join(name for name in found if name) or "none"
        said = f" ({self.setting}.{column.name})" if own != column.name else ""
        if len(found) == 1 and any(sign in found[0] for sign in SEPARATORS):
            return DataError(
                f"{path}: lacks column {own!r}{said}; its only column is {found[0]!r}; expected "
                "another separator, see data.separator"
            )
        guess = _guess(own, column, found)
        hint = f"; did you mean {guess!r}?" if guess else ""
        return DataError(
            f"{path}: lacks column {own!r}{said}; its columns are {listed}{hint}"
            + self._advise(column, guess or "NAME")
        )

    def _advise(self, column: Column, name: str) -> str:
        """The setting to change, as a suggestion for an error message; empty if there is none."""
        return f"; set {self.setting}.{column.name}={shlex.quote(name)}" if self.setting else ""


def _guess(wanted: str, column: Column, found: Sequence[str]) -> str | None:
    """The column that the user most likely meant, or None."""
    plain = {_letters(name): name for name in reversed(found) if name}
    close = difflib.get_close_matches(_letters(wanted), plain, n=1, cutoff=0.75)
    if close:
        return plain[close[0]]
    hinted = (name for hint in column.hints for letters, name in plain.items() if hint in letters)
    return next(hinted, None)


def _letters(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def describe_columns() -> str:
    """Description of the columns of both tables, one line per column."""
    lines = []
    for title, setting, columns in (
        ("interactions", "data.columns", EVENT_COLUMNS),
        ("items", "data.item_columns", ITEM_COLUMNS),
    ):
        lines.append(f"{title} ({setting}.NAME={{the file's own name}}):")
        for column in columns:
            need = "" if column.required else " (optional)"
            also = f"; also called {', '.join(column.aliases)}" if column.aliases else ""
            lines.append(f"  {column.name}{need}: {column.meaning}{also}")
    return "\n".join(lines)
