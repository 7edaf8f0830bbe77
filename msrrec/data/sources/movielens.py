"""MovieLens folders: 100k (``u.data``), 1M and 10M (``ratings.dat``), latest (``ratings.csv``)."""

import polars as pl

from msrrec import schema, storage
from msrrec.data import readers
from msrrec.data.sources.base import Inputs, Source
from msrrec.errors import ConfigError, DataError

_RATING_COLUMNS = (schema.USER_ID, schema.ITEM_ID, schema.RATING, schema.TIMESTAMP)
_LATEST_RATINGS = {"userId": schema.USER_ID, "movieId": schema.ITEM_ID}
_LATEST_MOVIES = {"movieId": schema.ITEM_ID, "genres": schema.CATEGORIES}
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
        """The ratings of a folder, and the movies beside them."""
        del items
        if interactions is None:
            raise ConfigError(f"--source {self.name} needs --interactions PATH")
        ratings = find_ratings(interactions)
        return Inputs((ratings,), (movies_beside(ratings),))

    def read_events(self, path: str) -> pl.DataFrame:
        """User, item and time of each rating as text."""
        return read_ratings(path)

    def read_items(self, path: str) -> pl.DataFrame:
        """Item id, title and genres of each movie."""
        return read_movies(path)

    def domain(self, interactions: str | None) -> str:
        """What the ratings are of."""
        del interactions
        return "Movies"


def find_ratings(folder: str) -> str:
    """The file of ratings in a MovieLens folder.

    Raises:
        DataError: If the folder holds none, or not the file of movies beside it.
    """
    names = storage.list_files(folder)
    for ratings, movies in _RATINGS_AND_MOVIES.items():
        if ratings in names and movies in names:
            return storage.join(folder, ratings)
    expected = ", ".join(" and ".join(pair) for pair in _RATINGS_AND_MOVIES.items())
    raise DataError(f"{folder}: not a MovieLens folder; expected {expected}")


def movies_beside(ratings: str) -> str:
    """The file of movies that belongs to a file of ratings."""
    folder, _, name = ratings.rpartition("/")
    return storage.join(folder, _RATINGS_AND_MOVIES[name])


def read_ratings(path: str) -> pl.DataFrame:
    """User, item and time of each rating as text."""
    if path.endswith(".csv"):
        return readers.read_csv(path, has_header=True).rename(_LATEST_RATINGS, strict=False)
    content = readers.read_content(path).replace(b"::", b"\t")
    return readers.parse_csv(
        path, content, has_header=False, separator="\t", new_columns=list(_RATING_COLUMNS)
    )


def read_movies(path: str) -> pl.DataFrame:
    """Item id, title and genres (joined by ``|``) of each movie."""
    if path.endswith(".csv"):
        frame = readers.read_csv(path, has_header=True).rename(_LATEST_MOVIES, strict=False)
    else:
        lines = readers.read_content(path).decode("latin-1").splitlines()
        parse = _parse_100k if path.endswith("u.item") else _parse_1m
        rows = [parse(path, number, line) for number, line in enumerate(lines, 1) if line]
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
