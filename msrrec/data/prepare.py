"""From purchases to a frozen dataset: the order of the steps, and the files.

Identical events are collapsed, items without a title dropped, the k-core taken on the whole
category, users filtered by length and sampled, their last two events held out, candidates frozen.
Dropping untitled items after a first k-core and taking the core again ends in the same events as
dropping them first, so only items of the first core need their metadata read.
"""

import hashlib
import logging
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from msrrec import schema, storage
from msrrec.config import DataConfig
from msrrec.data import sequences, sources
from msrrec.data.candidates import CandidateSampler
from msrrec.data.dataset import ITEMS_FILE, USERS_FILE
from msrrec.data.kcore import distinct_rows, k_core
from msrrec.data.sequences import Sequences
from msrrec.data.sources import Inputs
from msrrec.errors import DataError
from msrrec.schema import SPLITS, Split
from msrrec.storage import MANIFEST

logger = logging.getLogger(__name__)

IntArray = NDArray[np.int64]

_GENERIC_NAMES = {"interactions", "ratings", "reviews", "events", "train", "data", "u"}
_AMAZON_AFFIXES = re.compile(r"^(?:reviews|ratings|meta)_|_\d+$|\.\d+core$")
_EXTENSIONS = re.compile(r"(?:\.(?:csv|json|jsonl|ndjson|parquet|dat|data))?(?:\.gz)?$")


@dataclass(frozen=True)
class Events:
    """Purchases as columns of codes, in the order of the input.

    Attributes:
        users: Shape (E,). Places in ``user_ids``.
        items: Shape (E,). Places in ``item_ids``.
        timestamps: Shape (E,).
    """

    users: IntArray
    items: IntArray
    timestamps: IntArray
    user_ids: pa.Array
    item_ids: pa.Array

    @classmethod
    def from_table(cls, table: pa.Table) -> "Events":
        """Events from ``sources.load_events``."""
        users, items = (table[n].combine_chunks() for n in (schema.USER_ID, schema.ITEM_ID))
        return cls(
            users.indices.to_numpy(),
            items.indices.to_numpy(),
            table[schema.TIMESTAMP].to_numpy(),
            users.dictionary,
            items.dictionary,
        )

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: NDArray[Any]) -> "Events":
        """Some events, by place or by flag; ids keep their codes."""
        return Events(
            self.users[rows], self.items[rows], self.timestamps[rows], self.user_ids, self.item_ids
        )


def prepare(
    source: str, interactions: str | None, items: str | None, out: str, config: DataConfig
) -> dict[str, Any]:
    """Make a dataset folder; Ray must be initialised.

    Args:
        source: ``amazon``, ``movielens``, ``table`` or ``demo``.
        interactions: A file, folder or pattern of files; for movielens its folder.
        items: The same for items; unused by movielens and demo.
        out: The folder to make; what is there is replaced when all is done.
        config: Its defaults are the paper's.

    Returns:
        The manifest, as written beside the data.

    Raises:
        ConfigError: If a path is missing.
        DataError: If an input is not what it should be, or too small.
    """
    inputs = sources.find_inputs(source, interactions, items)
    events, records, dropped = _load(inputs, config)
    seqs, user_ids, codes = _sample(events, config, dropped)
    catalogue = _load_catalogue(inputs, events.item_ids.take(pa.array(codes)), records)
    tables = _build_examples(seqs, user_ids, catalogue, config)
    tables[ITEMS_FILE] = catalogue.select(schema.ITEMS.names).cast(schema.ITEMS)
    manifest = _describe(inputs, interactions, config) | _count(seqs, catalogue, tables, dropped)
    with storage.atomic_folder(out) as folder:
        for name, table in tables.items():
            storage.write_table(storage.join(folder, name), table.combine_chunks())
        manifest |= _hash_files(folder, sorted(tables))
        storage.write_json(storage.join(folder, MANIFEST), manifest)
    return manifest


def _load(inputs: Inputs, config: DataConfig) -> tuple[Events, pa.Table, dict[str, int]]:
    """The k-core of events on titled items, the records of its items, and what was dropped."""
    demo_events, demo_items = _make_demo(inputs, config)
    loaded = Events.from_table(sources.load_events(inputs, demo_events))
    events = loaded.take(distinct_rows(loaded.users, loaded.items, loaded.timestamps))
    dropped = {"identical_event": len(loaded) - len(events)}
    if _drops_untitled(inputs, config):
        before = len(events)
        events = _core(events, config.k_core)
        wanted = events.item_ids.take(pa.array(np.unique(events.items)))
        records = sources.load_records(inputs, wanted, demo_items)
        titled = _is_titled(events, records)[events.items]
        dropped["untitled_item"] = int(np.count_nonzero(~titled))
        events = _core(events.take(titled), config.k_core)
        dropped["k_core"] = before - dropped["untitled_item"] - len(events)
    else:
        records = sources.load_records(inputs, None, demo_items)
        _check_all_titled(events, records)
        core = _core(events, config.k_core)
        dropped |= {"untitled_item": 0, "k_core": len(events) - len(core)}
        events = core
    logger.info("prepare: %s of %s events are left in the k-core", len(events), len(loaded))
    return events, records, dropped


def _make_demo(inputs: Inputs, config: DataConfig) -> tuple[pa.Table | None, pa.Table | None]:
    if inputs.source != "demo":
        return None, None
    from msrrec.embedded.world import make_world

    world: tuple[pa.Table, pa.Table] = make_world(config.demo_users, config.seed)
    return world


def _drops_untitled(inputs: Inputs, config: DataConfig) -> bool:
    return (config.missing_items or ("drop" if inputs.source == "amazon" else "error")) == "drop"


def _core(events: Events, k: int) -> Events:
    core = events.take(k_core(events.users, events.items, k))
    if not len(core):
        raise DataError(
            f"the {k}-core of {len(events):,} events is empty; expected users and items with at "
            f"least {k} events each, so lower data.k_core"
        )
    return core


def _is_titled(events: Events, records: pa.Table) -> NDArray[np.bool_]:
    """Whether each item code has a visible title."""
    titled = records[schema.ITEM_ID].filter(records[sources.TITLED]).combine_chunks()
    return np.asarray(pc.is_in(events.item_ids, value_set=titled))


def _check_all_titled(events: Events, records: pa.Table) -> None:
    """See that every item bought has a title.

    Raises:
        DataError: If one has none; names it and a user who bought it.
    """
    untitled = np.flatnonzero(~_is_titled(events, records)[events.items])
    if not len(untitled):
        return
    row = untitled[0]
    item, user = (
        ids[int(codes[row])].as_py()
        for ids, codes in ((events.item_ids, events.items), (events.user_ids, events.users))
    )
    known = pc.index(records[schema.ITEM_ID], item).as_py() >= 0
    found = "has a blank title" if known else "is not among the items"
    raise DataError(
        f"item {item!r}, bought by user {user!r}: {found}; expected a title for every item, or set "
        "data.missing_items=drop"
    )


def _sample(
    events: Events, config: DataConfig, dropped: dict[str, int]
) -> tuple[Sequences, list[str], IntArray]:
    """Sequences of the users drawn, their ids, and the codes of the items they touched, by id."""
    codes = _codes_by_id(events.users, events.user_ids)
    lengths = np.bincount(events.users)
    _check_lengths(lengths[codes], codes, events.user_ids, config)
    fits = lengths[codes] >= (config.min_user_events or sequences.MIN_EVENTS)
    if config.max_user_events is not None:
        fits &= lengths[codes] <= config.max_user_events
    codes = codes[fits]
    if not len(codes):
        raise DataError(
            f"none of {len(fits):,} users has between data.min_user_events "
            f"({config.min_user_events}) and data.max_user_events ({config.max_user_events}) events"
        )
    drawn = codes[sequences.draw_users(len(codes), config.num_users, config.seed)]
    dropped["user_length"] = len(events) - int(lengths[codes].sum())
    dropped["not_sampled"] = int(lengths[codes].sum() - lengths[drawn].sum())
    users = _positions(drawn, len(events.user_ids))[events.users]
    sample = events.take(users >= 0)
    item_codes = _codes_by_id(sample.items, events.item_ids)
    items = _positions(item_codes, len(events.item_ids))[sample.items]
    seqs = sequences.build_sequences(users[users >= 0], items, sample.timestamps)
    return seqs, events.user_ids.take(pa.array(drawn)).to_pylist(), item_codes


def _check_lengths(
    lengths: IntArray, codes: IntArray, user_ids: pa.Array, config: DataConfig
) -> None:
    if config.min_user_events is not None or lengths.min() >= sequences.MIN_EVENTS:
        return
    short = int(np.flatnonzero(lengths < sequences.MIN_EVENTS)[0])
    raise DataError(
        f"user {user_ids[int(codes[short])].as_py()!r}: has {lengths[short]} events; leave-one-out "
        f"needs {sequences.MIN_EVENTS}, so set data.min_user_events={sequences.MIN_EVENTS}"
    )


def _codes_by_id(codes: IntArray, ids: pa.Array) -> IntArray:
    """The codes that occur, in the order of their ids, which no split of the input changes."""
    occurring = np.flatnonzero(np.bincount(codes))
    order = pc.sort_indices(ids.take(pa.array(occurring))).to_numpy()
    return np.asarray(occurring[order])


def _positions(codes: IntArray, size: int) -> IntArray:
    """Where each code stands in ``codes``; -1 for those that don't."""
    positions = np.full(size, -1)
    positions[codes] = np.arange(len(codes))
    return positions


def _load_catalogue(inputs: Inputs, item_ids: pa.Array, records: pa.Table) -> pa.Table:
    """The items of the sample in the order of their ids, each by its first record with a title."""
    titled = np.flatnonzero(records[sources.TITLED])
    places = pc.index_in(item_ids, records[schema.ITEM_ID].take(titled).combine_chunks())
    catalogue = sources.parse_records(inputs, records.take(titled[places]))
    assert "" not in set(catalogue[schema.TITLE].to_pylist())  # only titled items come here
    return catalogue


def _build_examples(
    seqs: Sequences, user_ids: list[str], catalogue: pa.Table, config: DataConfig
) -> dict[str, pa.Table]:
    """The table of each split and that of all events, by file name."""
    keys = catalogue[sources.TITLE_KEY].combine_chunks().dictionary_encode()
    titles = keys.indices.to_numpy().astype(np.int64)
    sampler = CandidateSampler(seqs, titles, config.num_negatives)
    sampler.check(user_ids)
    cuts = sequences.cut_sequences(seqs, config.history_length, config.train_examples_per_user)
    item_ids = catalogue[schema.ITEM_ID].combine_chunks()
    tables = {}
    for stream, split in enumerate(SPLITS, 1):
        cut = cuts[split]
        chosen = sampler.draw(cut, np.random.default_rng([config.seed, stream]))
        width = config.num_negatives + 1
        columns = [
            _example_ids(split, seqs, cut, user_ids),
            [user_ids[u] for u in cut.users],
            sequences.histories(seqs, cut, item_ids),
            item_ids.take(pa.array(seqs.items[cut.targets])),
            pa.ListArray.from_arrays(
                np.arange(0, chosen.size + 1, width, dtype=np.int32),
                item_ids.take(pa.array(chosen.ravel())),
            ),
        ]
        tables[f"{split}.parquet"] = pa.table(columns, schema=schema.EXAMPLES)
    events = pa.ListArray.from_arrays(
        seqs.starts.astype(np.int32), item_ids.take(pa.array(seqs.items))
    )
    tables[USERS_FILE] = pa.table([user_ids, events], schema=schema.USERS)
    return tables


def _example_ids(
    split: Split, seqs: Sequences, cut: sequences.Cuts, user_ids: list[str]
) -> list[str]:
    """``user:split``; of training examples also the 0-based place of the target in the sequence."""
    if split != "train":
        return [f"{user_ids[u]}:{split}" for u in cut.users]
    places = cut.targets - seqs.starts[cut.users]
    return [f"{user_ids[u]}:train:{k}" for u, k in zip(cut.users, places, strict=True)]


def _describe(inputs: Inputs, interactions: str | None, config: DataConfig) -> dict[str, Any]:
    files = [path.rpartition("/")[2] for path in (*inputs.interactions, *inputs.items)]
    return {
        "schema_version": schema.SCHEMA_VERSION,
        "domain": config.domain or name_domain(inputs.source, interactions),
        "source": inputs.source,
        "inputs": files,
        "seed": config.seed,
        "config": config.model_dump(),
    }


def name_domain(source: str, interactions: str | None) -> str:
    """A shop's name from that of its interactions, such as Electronics.

    The name of the file, or of its folder where the file's is as general as ``interactions.csv``,
    with spaces for underscores and without what Amazon's releases put around the category.
    """
    if interactions is None:
        return "Marketplace"
    if source == "movielens":
        return "Movies"
    parts = [part for part in interactions.split("/") if part not in ("", ".", "..")]
    names = [_EXTENSIONS.sub("", part) for part in reversed(parts)]
    usable = (n for n in names if n.lower() not in _GENERIC_NAMES and not set(n) & set("*?["))
    name = next(usable, "shop")
    if source == "amazon":
        name = _AMAZON_AFFIXES.sub("", name)
    return name.replace("_", " ")


def _count(
    seqs: Sequences, catalogue: pa.Table, tables: dict[str, pa.Table], dropped: dict[str, int]
) -> dict[str, Any]:
    num_events, num_items = len(seqs.items), catalogue.num_rows
    pairs = np.unique(seqs.users * num_items + seqs.items)
    distinct_titles = pc.count_distinct(catalogue[sources.TITLE_KEY]).as_py()
    return {
        "num_users": seqs.num_users,
        "num_items": num_items,
        "num_interactions": num_events,
        "density": num_events / (seqs.num_users * num_items),
        "num_examples": {split: tables[f"{split}.parquet"].num_rows for split in SPLITS},
        "repeat_purchases": num_events - len(pairs),
        "duplicate_titles": num_items - distinct_titles,
        "dropped_events": dropped,
    }


def _hash_files(folder: str, names: list[str]) -> dict[str, Any]:
    """The sha256 of each file, and one fingerprint over all of them."""
    hashes = {
        name: hashlib.sha256(storage.read_bytes(storage.join(folder, name))).hexdigest()
        for name in names
    }
    lines = "".join(f"{name} {digest}\n" for name, digest in hashes.items())
    return {"sha256": hashes, "fingerprint": hashlib.sha256(lines.encode()).hexdigest()}
