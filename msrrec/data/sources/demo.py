"""The embedded world as a source, which needs no files."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import polars as pl
import pyarrow as pa

from msrrec.config import DataConfig
from msrrec.config.data import DemoWorld
from msrrec.data.sources.base import Inputs, Source
from msrrec.embedded.ceiling import CeilingTally
from msrrec.embedded.world import DOMAIN, make_catalogue, make_rules, make_world


class Demo(Source):
    """A generated marketplace of ``data.demo_users`` users."""

    def find(self, interactions: str | None, items: str | None) -> Inputs:
        """One placeholder per kind of input instead of files."""
        del interactions, items
        return Inputs(("",), ("",))

    def read_events(self, path: str) -> pa.Table:
        """All purchases of the world."""
        del path
        return _make_world(self.config)[0]

    def read_items(self, path: str) -> pl.DataFrame:
        """All items of the world."""
        del path
        return pl.DataFrame(_make_world(self.config)[1])

    def domain(self, interactions: str | None) -> str:
        """The name of the embedded marketplace."""
        del interactions
        return DOMAIN


def tally_ceiling(manifest: Mapping[str, Any]) -> CeilingTally | None:
    """The best that any system can reach on a dataset's examples with uniform negatives.

    None unless the manifest is that of an embedded world. Examples are added in partitions.
    """
    world = _find_world(manifest)
    return CeilingTally(*world) if world else None


def find_followers(manifest: Mapping[str, Any]) -> Mapping[str, tuple[str, str]]:
    """Which two categories are wanted after a purchase from each, most wanted first.

    Empty unless the manifest is that of an embedded world where order matters.
    """
    world = _find_world(manifest)
    return make_rules(make_catalogue(world[1]), *world).successors if world else {}


def _find_world(manifest: Mapping[str, Any]) -> tuple[DemoWorld, int] | None:
    """The kind and seed of an embedded world; None for the manifest of any other dataset."""
    if manifest.get("source") != Demo.__name__.lower():
        return None
    config = manifest["config"]
    return config.get("demo_world", "mixture"), config["seed"]


@lru_cache(1)
def _make_world(config: DataConfig) -> tuple[pa.Table, pa.Table]:
    world: tuple[pa.Table, pa.Table] = make_world(config.demo_users, config.seed, config.demo_world)
    return world
