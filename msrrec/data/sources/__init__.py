"""Every source of purchases and items, by the name that the command line knows it by.

A new one is a file beside these with a subclass of ``Source``, and one line of the table.
"""

from msrrec.config import DataConfig
from msrrec.data.sources.amazon import Amazon
from msrrec.data.sources.base import Inputs, Source
from msrrec.data.sources.demo import Demo
from msrrec.data.sources.movielens import MovieLens
from msrrec.data.sources.table import Table
from msrrec.errors import ConfigError

__all__ = ["SOURCES", "Inputs", "Source", "make_source"]

SOURCES: dict[str, type[Source]] = {
    "table": Table,
    "amazon": Amazon,
    "movielens": MovieLens,
    "demo": Demo,
}


def make_source(name: str, config: DataConfig) -> Source:
    """The source of a name.

    Raises:
        ConfigError: If there is none.
    """
    if name not in SOURCES:
        raise ConfigError(f"--source {name!r} is unknown; expected one of {', '.join(SOURCES)}")
    return SOURCES[name](config)
