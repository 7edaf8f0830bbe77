"""Time ``prepare`` on a generated Amazon 2014 category beside gzip, DuckDB and polars.

    python -m bench.prepare --reviews 1500000 --rounds 3

All take turns within one run. ISA-L only decompresses, which is the least that any reader does.
DuckDB, where it is installed, and polars read the reviews, take the 5-core, order the sequences,
hold out the last two events and write Parquet; they draw no candidates and read no metadata.
``prepare`` does its whole job, metadata included. Ray is started and its workers have imported
their modules before the first round.
"""

import argparse
import gzip
import importlib.util
import json
import logging
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
from isal import igzip

from bench.record import Aim, Result, Row, Table, add_option, keep
from msrrec.config import DataConfig

CORE = 5


def make_texts(rng: np.random.Generator, count: int) -> list[str]:
    """Texts of 10 to 400 words that gzip compresses to a third, like English."""
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    weights = 1 / np.arange(1, len(letters) + 1) ** 0.6
    words = [
        "".join(rng.choice(letters, size=n, p=weights / weights.sum()))
        for n in rng.integers(2, 10, 12_000)
    ]
    ranks = 1 / np.arange(1, len(words) + 1) ** 1.02
    lengths = np.clip(rng.lognormal(3.65, 0.8, count), 10, 400).astype(int)
    drawn = iter(rng.choice(len(words), size=int(lengths.sum()), p=ranks / ranks.sum()).tolist())
    texts = [" ".join(words[next(drawn)] for _ in range(n)).capitalize() for n in lengths]
    return [text.replace(" ta ", ', "it\'s" & ').replace(" hn ", "\n") for text in texts]


def draw(rng: np.random.Generator, kinds: int, sigma: float, count: int) -> list[int]:
    """Numbers below ``kinds`` with a skewed distribution."""
    weights = rng.lognormal(0, sigma, kinds)
    return rng.choice(kinds, count, p=weights / weights.sum()).tolist()  # type: ignore[no-any-return]


def iter_reviews(rng: np.random.Generator, texts: list[str], count: int) -> Iterator[str]:
    """Lines with the format of ``reviews_Electronics_5.json.gz``."""
    bodies = [json.dumps(text) for text in texts]
    heads = [json.dumps(text[:40]) for text in texts]
    columns = zip(
        draw(rng, count // 7, 0.9, count),
        draw(rng, count // 18, 1.4, count),
        rng.integers(11_000, 16_270, count).tolist(),
        rng.integers(len(texts), size=count).tolist(),
        rng.integers(len(texts), size=count).tolist(),
        strict=True,
    )
    for user, item, day, body, head in columns:
        yield (
            f'{{"reviewerID": "A{user * 2654435761 % 2**40:013X}", "asin": "B{item:09d}", '
            f'"reviewerName": "Name {user % 977}", "helpful": [{body % 7}, {head % 11}], '
            f'"reviewText": {bodies[body]}, "overall": {day % 5 + 1}.0, "summary": {heads[head]}, '
            f'"unixReviewTime": {day * 86400}, "reviewTime": "09 {day % 28 + 1}, 2012"}}\n'
        )


def iter_metadata(rng: np.random.Generator, texts: list[str], num_items: int) -> Iterator[str]:
    """Lines with the format of ``meta_Electronics.json.gz``; one in fifty lacks a title."""
    for item in range(num_items):
        title, brand = (texts[i][:60] for i in rng.integers(len(texts), size=2))
        record = {
            "asin": f"B{item:09d}",
            "related": {"also_bought": [f"B{i:09d}" for i in rng.integers(num_items, size=30)]},
            "title": f"{title} {'&amp;' if item % 10 == 0 else 'x'} {item}",
            "price": 12.5,
            "salesRank": {"Electronics": item},
            "imUrl": f"http://images.example/{item}.jpg",
            "brand": brand.split()[0],
            "categories": [["Electronics", "Accessories & Supplies", title.split()[0]]],
            "description": texts[int(rng.integers(len(texts)))],
        }
        if item % 50 == 0:
            del record["title"]
        yield f"{record}\n"


def write_gzip(path: Path, lines: Iterator[str]) -> None:
    """Compress lines with the gzip program, as published files are."""
    with (
        path.open("wb") as out,
        subprocess.Popen(["gzip", "-c"], stdin=subprocess.PIPE, stdout=out) as process,
    ):
        assert process.stdin is not None
        for line in lines:
            process.stdin.write(line.encode())


def run_gzip(reviews: Path, out: Path) -> None:
    subprocess.run(["gzip", "-dc", str(reviews)], stdout=subprocess.DEVNULL, check=True)


def run_isal(reviews: Path, out: Path) -> None:
    with igzip.open(reviews) as file:
        while file.read(1 << 20):
            pass


def run_duckdb(reviews: Path, out: Path) -> None:
    """The same events, core, order and cut in SQL."""
    import duckdb  # `make bench` installs it

    db = duckdb.connect()
    db.execute(
        f"""create table events as
        select reviewerID as user_id, asin as item_id, unixReviewTime as timestamp
        from read_json('{reviews}', format='newline_delimited', columns={{reviewerID: 'varchar',
        asin: 'varchar', unixReviewTime: 'bigint'}})"""
    )
    before, after = -1, 0
    while before != after:
        before = after
        db.execute(
            f"""create or replace table events as select * from events
            qualify count(*) over (partition by user_id) >= {CORE}
            and count(*) over (partition by item_id) >= {CORE}"""
        )
        (after,) = db.execute("select count(*) from events").fetchone()  # type: ignore[misc]
    db.execute(
        """create table sequences as select user_id,
        list(item_id order by timestamp) as items from events group by user_id"""
    )
    for name, back in (("test", 1), ("validation", 2), ("train", 3)):
        db.execute(
            f"""copy (select user_id,
            items[greatest(len(items) - {back + 9}, 1):len(items) - {back}] as history,
            items[len(items) - {back - 1}] as target from sequences)
            to '{out / name}.parquet'"""
        )


def run_polars(reviews: Path, out: Path) -> None:
    """The same events, core, order and cut with polars."""
    keys = {"reviewerID": pl.String, "asin": pl.String, "unixReviewTime": pl.Int64}
    events = pl.scan_ndjson(reviews, schema=keys).collect()
    before = -1
    while before != events.height:
        before = events.height
        events = events.filter(
            (pl.len().over("reviewerID") >= CORE) & (pl.len().over("asin") >= CORE)
        )
    sequences = (
        events.sort("unixReviewTime", maintain_order=True)
        .group_by("reviewerID", maintain_order=True)
        .agg(pl.col("asin"))
    )
    for name, back in (("test", 1), ("validation", 2), ("train", 3)):
        sequences.select(
            "reviewerID",
            history=pl.col("asin").list.head(pl.col("asin").list.len() - back).list.tail(10),
            target=pl.col("asin").list.get(-back),
        ).write_parquet(out / f"{name}.parquet")


def run_prepare(reviews: Path, out: Path, num_users: int) -> None:
    """The whole of ``msrrec prepare --source amazon``."""
    from msrrec.data.prepare import prepare

    config = DataConfig(k_core=CORE, num_users=num_users)
    metadata = reviews.with_name("meta.json.gz")
    prepare("amazon", str(reviews), str(metadata), str(out / "dataset"), config)


def start_ray(folder: Path) -> None:
    """Start Ray and run one small ``prepare``."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
    import ray.data

    logging.getLogger("ray.data").setLevel("ERROR")
    with gzip.open(folder / "reviews.json.gz", "rt") as reviews:
        lines = reviews.readlines(3_000_000)
    small = folder / "small"
    small.mkdir(exist_ok=True)
    write_gzip(small / "reviews.json.gz", iter(lines))
    with gzip.open(folder / "meta.json.gz", "rt") as metadata:
        write_gzip(small / "meta.json.gz", iter(metadata))
    from msrrec.data.prepare import prepare
    from msrrec.data.sources import base

    base.SMALL_BYTES = 0  # use Ray for the small one too
    prepare(
        "amazon",
        str(small / "reviews.json.gz"),
        str(small / "meta.json.gz"),
        str(small / "dataset"),
        DataConfig(k_core=1, min_user_events=3, num_users=0),
    )


SYSTEMS: dict[str, Callable[[Path, Path], None]] = {
    "gzip -dc": run_gzip,
    "ISA-L, decompression alone": run_isal,
    "DuckDB": run_duckdb,
    "polars": run_polars,
    "prepare, 1,500 users": lambda reviews, out: run_prepare(reviews, out, 1500),
    "prepare, all users": lambda reviews, out: run_prepare(reviews, out, 0),
}


if importlib.util.find_spec("duckdb") is None:
    del SYSTEMS["DuckDB"]


def measure(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Wall seconds of each system in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in SYSTEMS}
    for _ in range(rounds):
        for name, run in SYSTEMS.items():
            with tempfile.TemporaryDirectory() as out:
                begin = time.perf_counter()
                run(folder / "reviews.json.gz", Path(out))
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def make_files(folder: Path, num_reviews: int) -> None:
    """Make the two files unless they exist."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "meta.json.gz").exists():
        return
    rng = np.random.default_rng(0)
    texts = make_texts(rng, 30_000)
    write_gzip(folder / "reviews.json.gz", iter_reviews(rng, texts, num_reviews))
    write_gzip(folder / "meta.json.gz", iter_metadata(rng, texts, num_reviews // 18))


def measure_parts(folder: Path) -> dict[str, float]:
    """Processor seconds of the parts of ``prepare``, one after the other in this process."""
    from msrrec.data import events, loading, readers
    from msrrec.data.arrow import pick
    from msrrec.data.kcore import k_core
    from msrrec.data.sources import amazon, make_source

    source = make_source("amazon", DataConfig(k_core=CORE, num_users=1500))
    reviews, metadata = (str(folder / name) for name in ("reviews.json.gz", "meta.json.gz"))
    found, begin = {}, time.process_time()

    def lap(name: str) -> None:
        nonlocal begin
        found[name] = time.process_time() - begin
        begin = time.process_time()

    pieces = list(readers.iter_pieces(reviews))
    lap("decompress the reviews")
    scanned = amazon.scan_reviews(pieces)
    assert scanned is not None
    lap("scan them for user, item and time")
    encoded = events.encode_file(reviews, scanned, source.config, guesses=source.takes_columns)
    every = events.combine((reviews,), [encoded]).events
    lap("number users and items")
    core = every.take(k_core(every.users, every.items, CORE))
    lap("the 5-core")
    records = source.read_records(metadata, pick(core.item_ids, np.unique(core.items)))
    lap("find the items' metadata")
    loading.parse_part(source, records.slice(0, 11_000))
    lap("parse that of 11,000 items")
    return found


def describe(seconds: dict[str, list[float]], parts: dict[str, float]) -> Result:
    """What is kept of the measurements."""
    gzip_s, least = seconds["gzip -dc"], seconds["ISA-L, decompression alone"]
    floor = statistics.median(a / b for a, b in zip(least, gzip_s, strict=True))
    rows = [
        Row(
            f"1.5M reviews, {name}",
            seconds[name],
            gzip_s,
            "gzip -dc",
            "s",
            aim=Aim("at most", 0.5),
            floor=f"{floor:.2g}, ISA-L decompressing alone",
            is_headline=name == "prepare, 1,500 users",
        )
        for name in SYSTEMS
        if name.startswith("prepare")
    ]
    rows.append(
        Row(
            "the same beside polars",
            seconds["prepare, 1,500 users"],
            seconds["polars"],
            "polars",
            "s",
        )
    )
    body = [
        [
            name,
            f"{statistics.median(times):.2f}",
            f"{statistics.median(a / b for a, b in zip(times, gzip_s, strict=True)):.2f}",
            " ".join(f"{t:.2f}" for t in times),
        ]
        for name, times in seconds.items()
    ]
    table = Table(("", "s", "over gzip -dc", "all rounds"), body)
    lines = [[name, f"{value:.2f}"] for name, value in parts.items()]
    lines.append(["together", f"{sum(parts.values()):.2f}"])
    of_parts = Table(("part of prepare", "processor s"), lines)
    packages = ("polars", "duckdb", "isal", "ray")
    return Result(rows, len(gzip_s), packages, {"systems": table, "parts": of_parts})


def main() -> None:
    """Make the files, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reviews", type=int, default=1_500_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keeps the files; default: a temporary one")
    add_option(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        make_files(folder, args.reviews)
        start_ray(folder)
        seconds = measure(folder, args.rounds)
        parts = measure_parts(folder)
    result = describe(seconds, parts)
    keep(args.result, result)
    for name, *cells in result.tables["systems"].rows:
        print(f"{name:28}{cells[0]:>8}{cells[1]:>14}   {cells[2]}")
    for name, value in result.tables["parts"].rows:
        print(f"    {name:40}{value:>8}")


if __name__ == "__main__":
    main()
