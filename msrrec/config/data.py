"""How raw purchases become a dataset."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from msrrec.config.base import Config


def _as_text(value: Any) -> Any:
    """A column may be called 0; YAML reads that as a number."""
    return str(value) if isinstance(value, int | float) else value


ColumnName = Annotated[str | None, BeforeValidator(_as_text)]


class ColumnsConfig(Config):
    """What a table of interactions calls its columns; unset, each is looked for by its own name."""

    user_id: ColumnName = None
    """Who bought, such as Email."""
    item_id: ColumnName = None
    """What was bought, such as "Lineitem sku"."""
    timestamp: ColumnName = None
    """When, such as "Created at"."""
    order_id: ColumnName = None
    """Which order a row belongs to, such as Name in a shop's export; unset: rows stand alone. Rows
    of one order that lack the user or the time take it from the order's first row that has it."""


class ItemColumnsConfig(Config):
    """What a table of items calls its columns; unset, each is looked for by its own name."""

    item_id: ColumnName = None
    """The id that the interactions name, such as "Variant SKU"."""
    title: ColumnName = None
    """What prompts show, such as Title."""
    categories: ColumnName = None
    """Widest first, such as "Product Category"; also looked for as category."""
    brand: ColumnName = None
    """Such as Vendor."""
    description: ColumnName = None
    """Text or HTML, such as "Body (HTML)"."""


class DataConfig(Config):
    """How raw purchases become a dataset."""

    columns: ColumnsConfig = ColumnsConfig()
    item_columns: ItemColumnsConfig = ItemColumnsConfig()
    timestamp_format: str | None = None
    """How times are written, as Python's strptime takes it, such as "%d.%m.%Y %H:%M"; unset: found
    out from numbers since 1970 and ISO 8601."""
    separator: str | None = Field(default=None, min_length=1, max_length=1)
    """Between the fields of a CSV file; unset: found in its header."""
    encoding: str | None = None
    """What text files are written in, such as cp1252; unset: by its mark, else UTF-8, else
    Windows-1252."""
    missing_fields: Literal["error", "drop"] = "error"
    """What happens to rows without a user, an item or a time: an error that names the first, as a
    wrong column looks like that too, or dropped and counted."""
    fold_users: bool = False
    """Take user ids that differ only by case or outer spaces for one user, as e-mail addresses
    do."""
    k_core: int = Field(default=5, ge=1)
    """Least events of every user and item, to the fixed point, on the whole category; 1 keeps
    all."""
    num_users: int = Field(default=1500, ge=0)
    """Users sampled after the k-core; 0 keeps all."""
    min_user_events: int | None = Field(default=None, ge=3)
    """Leave out users with fewer events before sampling; unset, a user with fewer than 3 is an
    error."""
    max_user_events: int | None = Field(default=None, ge=3)
    """Leave out users with more events before sampling."""
    history_length: int = Field(default=10, ge=1)
    """Latest events that a prompt shows."""
    train_examples_per_user: int = Field(default=1, ge=0)
    """Latest training events of a user that become examples; 0 takes all with a history."""
    num_negatives: int = Field(default=5, ge=1)
    """Items beside the target in each candidate set, never touched by the user in any split."""
    missing_items: Literal["error", "drop"] | None = None
    """What happens to events whose item has no title; unset: dropped and counted for amazon, an
    error for the other sources."""
    domain: str | None = None
    """What prompts call the shop, such as Electronics; unset: the name of the interactions file."""
    seed: int = Field(default=0, ge=0)
    """Decides users and candidates, whatever the number of workers."""
    demo_users: int = Field(default=1500, ge=20)
    """Users of the embedded world (``--source demo``)."""

    @model_validator(mode="after")
    def _check(self) -> "DataConfig":
        low, high = self.min_user_events, self.max_user_events
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_user_events ({low}) must not exceed max_user_events ({high})")
        return self
