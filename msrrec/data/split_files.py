"""Building the tables of a dataset row group by row group, from sequences of codes.

Codes take a few bytes an event; ids and lists are made for one row group at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from msrrec import schema, storage
from msrrec.config import DataConfig
from msrrec.data.arrow import lists, numbers, pick, texts
from msrrec.data.candidates import CandidateSampler
from msrrec.data.dataset import ITEMS_FILE, USERS_FILE
from msrrec.data.records import TITLE_KEY
from msrrec.data.sequences import Cuts, Sequences, cut_sequences, histories
from msrrec.schema import SPLITS, Split

ROWS = 1 << 20
"""Rows of a row group. It is the usual number of pyarrow, so a table that is written in parts has
the same bytes as one that is written at once, and datasets keep their fingerprints."""

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class SplitFiles:
    """The files of a dataset before they are written.

    Attributes:
        sequences: All events of the sampled users.
        user_ids: Ids of the users, in the order of the sequences.
        catalogue: The items, as ``records.PARSED``.
        config: The section ``data`` of the settings.
        sampler: Draws the candidates.
        cuts: The examples of each split.
    """

    sequences: Sequences
    user_ids: pa.Array
    catalogue: pa.Table
    config: DataConfig
    sampler: CandidateSampler
    cuts: dict[Split, Cuts]

    @classmethod
    def plan(
        cls, sequences: Sequences, user_ids: pa.Array, catalogue: pa.Table, config: DataConfig
    ) -> "SplitFiles":
        """The files of some users.

        Raises:
            DataError: If too few items are left as negatives of a user.
        """
        keys = catalogue[TITLE_KEY].combine_chunks().dictionary_encode()
        titles = numbers(keys.indices).astype(np.int64)
        sampler = CandidateSampler(sequences, titles, config.num_negatives)
        sampler.check(user_ids)
        cuts = cut_sequences(sequences, config.history_length, config.train_examples_per_user)
        return cls(sequences, user_ids, catalogue, config, sampler, cuts)

    @property
    def num_examples(self) -> dict[Split, int]:
        """Number of examples of each split."""
        return {split: len(self.cuts[split].targets) for split in SPLITS}

    def write(self, folder: str, rows: int = ROWS) -> list[str]:
        """Write all files into a folder; their names, sorted.

        Args:
            folder: Where to write.
            rows: Rows of a row group.
        """
        for split in SPLITS:
            file = storage.join(folder, f"{split}.parquet")
            with storage.table_writer(file, schema.EXAMPLES) as writer:
                for table in self.iter_examples(split, rows):
                    writer.write_table(table)
        with storage.table_writer(storage.join(folder, USERS_FILE), schema.USERS) as writer:
            for table in self.iter_users(rows):
                writer.write_table(table)
        items = self.catalogue.select(schema.ITEMS.names).cast(schema.ITEMS)
        storage.write_table(storage.join(folder, ITEMS_FILE), items.combine_chunks())
        return sorted([ITEMS_FILE, USERS_FILE, *(f"{split}.parquet" for split in SPLITS)])

    def iter_examples(self, split: Split, rows: int = ROWS) -> Iterator[pa.Table]:
        """The examples of a split in tables of some rows; one without rows if there are none."""
        cut = self.cuts[split]
        stream = 1 + SPLITS.index(split)
        chosen = self.sampler.draw(cut, np.random.default_rng([self.config.seed, stream]))
        for begin in range(0, max(len(chosen), 1), rows):
            part = Cuts(*(column[begin : begin + rows] for column in vars(cut).values()))
            yield self._examples(split, part, chosen[begin : begin + rows])

    def _examples(self, split: Split, cut: Cuts, chosen: IntArray) -> pa.Table:
        """The rows of some examples, given the codes of their candidates."""
        item_ids = self.catalogue[schema.ITEM_ID].combine_chunks()
        users = pick(self.user_ids, cut.users)
        starts = np.arange(0, chosen.size + 1, chosen.shape[1])
        columns = [
            self._example_ids(split, cut, users),
            users,
            histories(self.sequences, cut, item_ids),
            pick(item_ids, self.sequences.items[cut.targets]),
            lists(starts, pick(item_ids, chosen.ravel())),
        ]
        return pa.table(columns, schema=schema.EXAMPLES)

    def _example_ids(self, split: Split, cut: Cuts, users: pa.Array) -> pa.Array:
        """``user:split``; for training examples also the 0-based position of the target."""
        names = pl.Series(users, dtype=pl.String) + f":{split}"
        if split == "train":
            places = cut.targets - self.sequences.starts[cut.users]
            names = names + ":" + pl.Series(places).cast(pl.String)
        return texts(names)

    def iter_users(self, rows: int = ROWS) -> Iterator[pa.Table]:
        """All events of every user in tables of some rows."""
        item_ids = self.catalogue[schema.ITEM_ID].combine_chunks()
        starts = self.sequences.starts
        for begin in range(0, len(self.user_ids), rows):
            own = starts[begin : begin + rows + 1]
            events = lists(own - own[0], pick(item_ids, self.sequences.items[own[0] : own[-1]]))
            yield pa.table([self.user_ids.slice(begin, rows), events], schema=schema.USERS)
