"""Ids of users, items and orders as one text each, however a program wrote them."""

import polars as pl

from msrrec.data.text import MISSING_KEYS
from msrrec.errors import DataError

_WHOLE, _FLOAT = r"^-?\d+$", r"^-?\d+\.0$"


def blank_missing(texts: pl.Series) -> pl.Series:
    """The texts without outer spaces; null where they are empty or a word for a missing value."""
    texts = texts.str.strip_chars()
    return texts.set(texts.is_in(["", *MISSING_KEYS]), None)


def clean_ids(path: str, ids: pl.Series) -> pl.Series:
    """A file's column of ids: without outer spaces, and whole numbers without ``.0``.

    A program that knows missing values only in decimal numbers writes ``1.0`` for the id 1, and
    then it does so in every row. So ``.0`` is removed where all ids of the file end with it.

    Raises:
        DataError: If all ids are whole numbers, but only some end with ``.0``, so that one user may
            occur under two ids.
    """
    ids = blank_missing(ids)
    if not ids.str.ends_with(".0").any():
        return ids
    is_float, is_whole = ids.str.contains(_FLOAT), ids.str.contains(_WHOLE)
    if is_float.all():
        return ids.str.strip_suffix(".0")
    if (is_float | is_whole).all():
        raise DataError(
            f"{path}: column {ids.name!r} holds {ids.filter(is_whole)[0]!r} as well as "
            f"{ids.filter(is_float)[0]!r}; expected all whole numbers in one spelling, as they "
            "would be taken for different ids"
        )
    return ids
