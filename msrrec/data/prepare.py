"""Preparing a frozen dataset from purchases: the order of the steps, and the files.

Identical events are merged, items without a title dropped, the k-core taken on the whole category,
users filtered by length and sampled, their last two events held out, and candidates frozen.
Untitled items are dropped after a first k-core, followed by a second k-core. That gives the same
events as dropping them first, but only needs the metadata of items in the first core.
"""

import logging
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from msrrec import schema, storage
from msrrec.config import DataConfig
from msrrec.data import loading, sequences
from msrrec.data.arrow import numbers, pick
from msrrec.data.dataset import hash_files, read_examples
from msrrec.data.events import Events, Loaded
from msrrec.data.kcore import distinct_rows, k_core
from msrrec.data.leave_one_out import HELD_OUT, MIN_EVENTS
from msrrec.data.partitions import PARTITION_SIZE
from msrrec.data.records import TITLE_KEY, TITLED
from msrrec.data.sequences import Sequences
from msrrec.data.sources import Inputs, Source, make_source, tally_ceiling
from msrrec.data.split_files import SplitFiles
from msrrec.errors import DataError
from msrrec.storage import MANIFEST

logger = logging.getLogger(__name__)

_DATASET_NAMES = (MANIFEST, storage.RECORD, "*.parquet")
"""Names in a dataset's folder."""

IntArray = NDArray[np.int64]


def check(
    source: str, interactions: str | None, items: str | None, out: str, config: DataConfig
) -> Inputs:
    """The files that ``prepare`` would read, once they exist and ``out`` is writable.

    No file is read, so errors are reported at once.

    Raises:
        ConfigError: If the source is unknown, a path is missing or a setting is not for the source.
        DataError: If no file exists at a path, or ``out`` can't be written.
    """
    inputs = make_source(source, config).find(interactions, items)
    storage.check_writable(out)
    return inputs


def prepare(
    source: str, interactions: str | None, items: str | None, out: str, config: DataConfig
) -> dict[str, Any]:
    """Make a dataset folder; Ray must be running if ``check(…).needs_ray``.

    Args:
        source: A name in ``sources.SOURCES``.
        interactions: A file, folder or pattern of files; for movielens its folder.
        items: Likewise for items; unused by movielens and demo.
        out: The folder to make; an existing dataset is replaced at the end.
        config: The section ``data`` of the settings.

    Returns:
        The manifest, as written beside the data.

    Raises:
        ConfigError: If a path is missing.
        DataError: If an input is invalid or too small.
    """
    chosen = make_source(source, config)
    inputs = check(source, interactions, items, out, config)
    loaded = _load_events(chosen, inputs, config)
    read = {"times": loaded.describe_times(), "num_rows": loaded.num_rows}
    events, records, dropped = _reduce(chosen, inputs, loaded.events, config)
    dropped = {**loaded.dropped, **dropped}
    del loaded  # events of very many users take as much as all that follows
    seqs, user_ids, codes = _sample(events, config, dropped)
    item_ids = pick(events.item_ids, codes)
    del events
    catalogue = _load_catalogue(chosen, inputs, item_ids, records)
    files = SplitFiles.plan(seqs, user_ids, catalogue, config)
    domain = config.domain or chosen.domain(interactions)
    manifest = _describe(source, inputs, domain, config)
    manifest |= read
    manifest |= _count(files, dropped)
    _account(manifest)
    with storage.atomic_folder(out, _DATASET_NAMES) as folder:
        names = files.write(folder)
        manifest |= _measure(manifest, folder)
        manifest |= hash_files({name: storage.join(folder, name) for name in names})
        storage.write_json(storage.join(folder, MANIFEST), manifest)
    return manifest


def _load_events(source: Source, inputs: Inputs, config: DataConfig) -> Loaded:
    """All events; logs what was assumed about times and user ids."""
    loaded = loading.load_events(source, inputs)
    found = loaded.describe_times()
    logger.info("prepare: times are %s: %s to %s", *found.values())
    if config.fold_users:
        return replace(loaded, events=loaded.events.fold_users())
    num_alike = loaded.events.count_folded()
    if num_alike:
        logger.warning(
            "prepare: %s user ids differ from another only by case or outer spaces; "
            "data.fold_users=true takes them for one user",
            f"{num_alike:,}",
        )
    return loaded


def _reduce(
    source: Source, inputs: Inputs, loaded: Events, config: DataConfig
) -> tuple[Events, pa.Table, dict[str, int]]:
    """The k-core of events on titled items, their item records, and counts of dropped events."""
    events = loaded.take(distinct_rows(loaded.users, loaded.items, loaded.timestamps))
    dropped = {"identical_event": len(loaded) - len(events)}
    if _drops_untitled(source, config):
        before = len(events)
        events = _core(events, config.k_core)
        wanted = pick(events.item_ids, np.unique(events.items))
        records = loading.load_records(source, inputs, wanted)
        _check_any_titled(source, inputs, events, records)
        titled = _is_titled(events, records)[events.items]
        dropped["untitled_item"] = int(np.count_nonzero(~titled))
        events = _core(events.take(titled), config.k_core)
        dropped["k_core"] = before - dropped["untitled_item"] - len(events)
    else:
        records = loading.load_records(source, inputs, None)
        _check_any_titled(source, inputs, events, records)
        _check_all_titled(events, records)
        core = _core(events, config.k_core)
        dropped |= {"untitled_item": 0, "k_core": len(events) - len(core)}
        events = core
    logger.info("prepare: %s of %s events are left in the k-core", len(events), len(loaded))
    return events, records, dropped


def _drops_untitled(source: Source, config: DataConfig) -> bool:
    if config.missing_items is None:
        return source.drops_untitled
    return config.missing_items == "drop"


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
    titled = records[schema.ITEM_ID].filter(records[TITLED]).combine_chunks()
    return numbers(pc.is_in(events.item_ids, value_set=titled))


def _check_any_titled(source: Source, inputs: Inputs, events: Events, records: pa.Table) -> None:
    """Check that at least one item that was bought has a title.

    Raises:
        DataError: If none has, for example because the items belong to another shop.
    """
    bought = np.unique(events.items)
    if _is_titled(events, records)[bought].any():
        return
    ids = loading.load_records(source, inputs, None)[schema.ITEM_ID]
    known = pc.is_in(pick(events.item_ids, bought), ids.unique())
    example = f", such as {ids[0].as_py()!r}" if len(ids) else ""
    raise DataError(
        f"none of the {len(bought):,} items bought, such as "
        f"{events.item_ids[int(bought[0])].as_py()!r}, has a title among the items: "
        f"{pc.sum(known).as_py():,} of them occur in {len(ids):,} records{example}; expected the "
        "items of the same shop under the same ids, see data.columns.item_id and "
        "data.item_columns.item_id"
    )


def _check_all_titled(events: Events, records: pa.Table) -> None:
    """Check that every item that was bought has a title.

    Raises:
        DataError: If one has no title; names it and a user who bought it.
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
) -> tuple[Sequences, pa.Array, IntArray]:
    """Sequences of the sampled users, their ids, and the codes of their items sorted by item id."""
    codes = _codes_by_id(events.users, events.user_ids)
    lengths = np.bincount(events.users)
    _check_lengths(lengths[codes], codes, events.user_ids, config)
    fits = lengths[codes] >= (config.min_user_events or MIN_EVENTS)
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
    return seqs, pick(events.user_ids, drawn), item_codes


def _check_lengths(
    lengths: IntArray, codes: IntArray, user_ids: pa.Array, config: DataConfig
) -> None:
    if config.min_user_events is not None or lengths.min() >= MIN_EVENTS:
        return
    short = int(np.flatnonzero(lengths < MIN_EVENTS)[0])
    raise DataError(
        f"user {user_ids[int(codes[short])].as_py()!r}: has {lengths[short]} events; leave-one-out "
        f"needs {MIN_EVENTS}, so set data.min_user_events={MIN_EVENTS}"
    )


def _codes_by_id(codes: IntArray, ids: pa.Array) -> IntArray:
    """The codes that occur, sorted by their ids, so that the order of the input has no effect."""
    occurring = np.flatnonzero(np.bincount(codes))
    order = numbers(pc.sort_indices(pick(ids, occurring)))
    return np.asarray(occurring[order])


def _positions(codes: IntArray, size: int) -> IntArray:
    """Position of each code in ``codes``; -1 for codes that are not in it."""
    positions = np.full(size, -1)
    positions[codes] = np.arange(len(codes))
    return positions


def _load_catalogue(
    source: Source, inputs: Inputs, item_ids: pa.Array, records: pa.Table
) -> pa.Table:
    """The items of the sampled users sorted by id, each from its first record with a title."""
    titled = np.flatnonzero(numbers(records[TITLED]))
    places = pc.index_in(item_ids, pick(records[schema.ITEM_ID], titled).combine_chunks())
    catalogue = loading.parse_records(source, inputs, pick(records, titled[numbers(places)]))
    assert "" not in set(catalogue[schema.TITLE].to_pylist())  # untitled items were dropped before
    return catalogue


def _describe(source: str, inputs: Inputs, domain: str, config: DataConfig) -> dict[str, Any]:
    files = [path.rpartition("/")[2] for path in (*inputs.interactions, *inputs.items) if path]
    return {
        "schema_version": schema.SCHEMA_VERSION,
        "domain": domain,
        "source": source,
        "inputs": files,
        "seed": config.seed,
        "config": config.model_dump(),
    }


def _count(files: SplitFiles, dropped: dict[str, int]) -> dict[str, Any]:
    seqs, catalogue = files.sequences, files.catalogue
    num_events, num_items = len(seqs.items), catalogue.num_rows
    pairs = np.unique(seqs.users * num_items + seqs.items)
    distinct_titles = pc.count_distinct(catalogue[TITLE_KEY]).as_py()
    return {
        "num_users": seqs.num_users,
        "num_items": num_items,
        "num_interactions": num_events,
        "density": num_events / (seqs.num_users * num_items),
        "num_examples": files.num_examples,
        "repeat_purchases": num_events - len(pairs),
        "duplicate_titles": num_items - distinct_titles,
        "dropped_events": dropped,
    }


def _measure(manifest: dict[str, Any], folder: str) -> dict[str, Any]:
    """The ceiling of each held-out split that was written, where purchases are generated."""
    known = {}
    for split in HELD_OUT:
        if (tally := tally_ceiling(manifest)) is None:
            return {}
        path = storage.join(folder, f"{split}.parquet")
        for table in storage.iter_tables(path, schema.EXAMPLES, PARTITION_SIZE):
            tally.add(read_examples(table))
        if ceiling := tally.result():
            known[split] = asdict(ceiling)
    return {"ceiling": known} if known else {}


def _account(manifest: dict[str, Any]) -> None:
    """Check that every row is either kept or dropped for a reason, and log the counts."""
    read, kept = manifest["num_rows"], manifest["num_interactions"]
    dropped = manifest["dropped_events"]
    assert read == kept + sum(dropped.values()), (read, kept, dropped)
    reasons = "".join(f" + {count:,} {reason}" for reason, count in dropped.items() if count)
    logger.info("prepare: %s rows read = %s kept%s", f"{read:,}", f"{kept:,}", reasons)
