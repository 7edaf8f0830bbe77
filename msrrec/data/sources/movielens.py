"""MovieLens folders: 100k (``u.data``), 1M and 10M (``ratings.dat``), latest (``ratings.csv``)."""

import polars as pl

from msrrec import schema, storage
from msrrec.data import readers
from msrrec.data.columns import Column, ColumnChoice
from msrrec.data.delimited import decode, parse_delimited
from msrrec.data.folders import find_files
from msrrec.data.sources.base import Inputs, Source
from msrrec.errors import ConfigError, DataError

_RATING_COLUMNS = (schema.USER_ID, schema.ITEM_ID, schema.RATING, schema.TIMESTAMP)
_RATINGS = (
    Column(schema.USER_ID, "who rated", aliases=("userId",)),
    Column(schema.ITEM_ID, "which movie", aliases=("movieId",)),
    Column(schema.TIMESTAMP, "when"),
)
_MOVIES = (
    Column(schema.ITEM_ID, "which movie", aliases=("movieId",)),
    Column(schema.TITLE, "its title and year"),
    Column(schema.CATEGORIES, "its genres", aliases=("genres",)),
)
_RATINGS_AND_MOVIES = {
    "ratings.csv": "movies.csv",
    "ratings.dat": "movies.dat",
    "u.data": "u.item",
}
_NO_GENRE = "(no genres listed)"
# fmt: off
_GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime",
    "Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical",
    "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)
# fmt: on
"""The order of the flags in ``u.item``, as in ``u.genre``."""


class MovieLens(Source):
    """Ratings of movies as GroupLens publishes them."""

    def find(self, interactions: str | None, items: str | None) -> Inputs:
        """The ratings of a folder or the given file, and the movies given or beside them."""
        if interactions is None:
            raise ConfigError(f"--source {self.name} needs --interactions PATH")
        ratings = find_ratings(interactions)
        movies = items if items is not None else movies_beside(ratings)
        return Inputs((ratings,), (find_files(movies)[0],))

    def read_events(self, path: str) -> pl.DataFrame:
        """User, item and time of each rating as text."""
        return read_ratings(path)

    def read_items(self, path: str) -> pl.DataFrame:
        """Item id, title and genres of each movie."""
        return read_movies(path)

    def domain(self, interactions: str | None) -> str:
        """What the ratings are about: movies."""
        del interactions
        return "Movies"


def find_ratings(path: str) -> str:
    """The ratings file in a MovieLens folder; the path itself if it is a file.

    Raises:
        DataError: If the folder lacks a ratings file or the movies file that belongs to it.
    """
    folder, name = storage.parent(path), storage.base_name(path)
    if storage.is_file(path):
        pairs = {name: _RATINGS_AND_MOVIES[name]} if name in _RATINGS_AND_MOVIES else {}
        names = storage.list_files(folder)
    else:
        folder, pairs, names = path, _RATINGS_AND_MOVIES, storage.list_files(path)
    for ratings, movies in pairs.items():
        if ratings in names and movies in names:
            return storage.join(folder, ratings)
    expected = ", ".join(" and ".join(pair) for pair in _RATINGS_AND_MOVIES.items())
    raise DataError(f"{path}: not a MovieLens folder; expected {expected}")


def movies_beside(ratings: str) -> str:
    """The movies file that belongs to a ratings file."""
    return storage.join(storage.parent(ratings), _RATINGS_AND_MOVIES[storage.base_name(ratings)])


def read_ratings(path: str) -> pl.DataFrame:
    """User, item and time of each rating as text."""
    if storage.base_name(path).endswith(".csv"):
        return readers.read_columns(path, ColumnChoice(_RATINGS, {}, ""))
    content = readers.read_content(path).replace(b"::", b"\t")
    frame = parse_delimited(path, decode(path, content, None), "\t", has_header=False)
    if frame.width < len(_RATING_COLUMNS):
        raise DataError(f"{path}: found {frame.width} fields; expected user, item, rating, time")
    return frame[:, : len(_RATING_COLUMNS)].rename(
        dict(zip(frame.columns, _RATING_COLUMNS, strict=False))
    )


def read_movies(path: str) -> pl.DataFrame:
    """Item id, title and genres (joined by ``|``) of each movie."""
    if storage.base_name(path).endswith(".csv"):
        frame = readers.read_columns(path, ColumnChoice(_MOVIES, {}, ""))
    else:
        lines = decode(path, readers.read_content(path), None).decode().split("\n")
        parse = _parse_100k if storage.base_name(path) == "u.item" else _parse_1m
        plain = ((number, line.removesuffix("\r")) for number, line in enumerate(lines, 1))
        rows = [parse(path, number, line) for number, line in plain if line]
        names = [schema.ITEM_ID, schema.TITLE, schema.CATEGORIES]
        frame = pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")
    return frame.with_columns(pl.col(schema.CATEGORIES).replace(_NO_GENRE, None))


def _parse_100k(path: str, number: int, line: str) -> tuple[str, str, str]:
    fields = line.split("|")
    if len(fields) != 5 + len(_GENRES_100K):
        raise DataError(f"{path}:{number}: found {len(fields)} fields; expected 24 of u.item")
    genres = [g for g, flag in zip(_GENRES_100K, fields[5:], strict=True) if flag == "1"]
    return fields[0], fields[1], "|".join(genres)


def _parse_1m(path: str, number: int, line: str) -> tuple[str, str, str]:
    item_id, _, rest = line.partition("::")
    title, separator, genres = rest.rpartition("::")
    if not separator:
        raise DataError(f"{path}:{number}: {line[:60]!r}; expected MovieID::Title::Genres")
    return item_id, title, genres
