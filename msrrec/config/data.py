"""Settings for preparing a dataset."""

import codecs
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from msrrec.config.base import Config


def _as_text(value: Any) -> Any:
    """Column names as text: YAML reads a column called 0 as a number."""
    return str(value) if isinstance(value, int | float) else value


def _as_separator(value: Any) -> Any:
    """The separator, where the word ``tab`` stands for a tab, which is hard to type in a shell."""
    return "\t" if value in ("tab", "\\t") else value


def _check_encoding(value: str | None) -> str | None:
    if value is not None:
        try:
            codecs.lookup(value)
        except LookupError as error:
            raise ValueError(
                "Python knows no such encoding; expected one such as utf-8 or cp1252"
            ) from error
    return value


DemoWorld = Literal["mixture", "transitions", "unnamed"]
"""What purchases follow in a generated world, see ``msrrec.embedded.world``."""

ColumnName = Annotated[str | None, BeforeValidator(_as_text)]
Separator = Annotated[str | None, BeforeValidator(_as_separator)]
Encoding = Annotated[str | None, AfterValidator(_check_encoding)]


class ColumnsConfig(Config):
    """Column names in a table of interactions; unset, a column must have the setting's own name."""

    user_id: ColumnName = None
    """Column with the user who bought, such as Email."""
    item_id: ColumnName = None
    """Column with the item that was bought, such as "Lineitem sku"."""
    timestamp: ColumnName = None
    """Column with the time of the purchase, such as "Created at"."""
    order_id: ColumnName = None
    """Column with the order that a row belongs to, such as Name in a shop's export. Rows that lack
    the user or time take them from the first row of their order that has them. Unset: rows are
    independent."""


class ItemColumnsConfig(Config):
    """Column names in a table of items; unset, a column must have the setting's own name."""

    item_id: ColumnName = None
    """Column with the item id that the interactions use, such as "Variant SKU"."""
    title: ColumnName = None
    """Column with the title that prompts show, such as Title."""
    categories: ColumnName = None
    """Column with the categories from wide to narrow, such as "Product Category". Unset: a column
    called categories or category."""
    brand: ColumnName = None
    """Column with the brand, such as Vendor."""
    description: ColumnName = None
    """Column with the description, text or HTML, such as "Body (HTML)"."""


class DataConfig(Config):
    """Settings for preparing a dataset from raw purchases."""

    columns: ColumnsConfig = ColumnsConfig()
    item_columns: ItemColumnsConfig = ItemColumnsConfig()
    timestamp_format: str | None = None
    """Format of the times for Python's strptime, such as "%d.%m.%Y %H:%M", or the unit of numbers,
    such as seconds. Unset: numbers since 1970 and ISO 8601 are recognised."""
    separator: Separator = Field(default=None, min_length=1, max_length=1)
    """Character between the fields of a CSV file, such as ; or tab. Unset: detected from the
    header."""
    encoding: Encoding = None
    """Encoding of text files, such as cp1252. Unset: by byte order mark, else UTF-8, else
    Windows-1252."""
    missing_fields: Literal["error", "drop"] = "error"
    """What to do with rows that lack the user, item or time: error names the first such row; drop
    leaves them out and counts them."""
    fold_users: bool = False
    """Treat user ids that differ only in case or surrounding spaces as one user, as for e-mail
    addresses."""
    k_core: int = Field(default=5, ge=1)
    """Minimum number of interactions per user and per item, applied repeatedly until both hold; 1
    keeps all."""
    num_users: int = Field(default=1500, ge=0)
    """Number of users sampled after the k-core; 0 keeps all."""
    min_user_events: int | None = Field(default=None, ge=3)
    """Leave out users with fewer interactions before sampling. Unset: a user with fewer than 3 is
    an error."""
    max_user_events: int | None = Field(default=None, ge=3)
    """Leave out users with more interactions before sampling. Unset: no limit."""
    history_length: int = Field(default=10, ge=1)
    """Number of latest interactions that a prompt shows."""
    train_examples_per_user: int = Field(default=1, ge=0)
    """Number of latest training interactions per user that become examples; 0 takes all that have a
    history."""
    num_negatives: int = Field(default=5, ge=1)
    """Number of negatives per example: items that the user never bought in any split."""
    missing_items: Literal["error", "drop"] | None = None
    """What to do with interactions whose item has no title. Unset: drop for amazon, error for other
    sources."""
    domain: str | None = None
    """What prompts call the shop, such as Electronics. Unset: the name of the interactions file."""
    seed: int = Field(default=0, ge=0)
    """Seed for sampling users and candidates; the result does not depend on the number of
    workers."""
    demo_users: int = Field(default=1500, ge=20)
    """Number of users in the embedded world (``--source demo``)."""
    demo_world: DemoWorld = "mixture"
    """What purchases follow in the embedded world: mixture, two categories and a brand of the user,
    in any order; transitions, the category of the purchase before; unnamed, as mixture, but by
    attributes that no title, category or brand names."""

    @model_validator(mode="after")
    def _check(self) -> "DataConfig":
        low, high = self.min_user_events, self.max_user_events
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_user_events ({low}) must not exceed max_user_events ({high})")
        return self
