import ast
import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from msrrec.config import DataConfig
from msrrec.data import readers
from msrrec.data.folders import find_files
from msrrec.data.loading import parse_part, read_file
from msrrec.data.sources import Inputs, amazon, make_source
from msrrec.data.sources.amazon import scan_reviews
from msrrec.errors import ConfigError, DataError

ROWS = [("ann", "i1", 10), ("bob", "i2", 20), ("ann", "i2", 15)]
COLUMNS = ["user_id", "item_id", "timestamp"]


def write(path: Path, content: str | bytes) -> str:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return str(path)


def json_lines(records: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def read_records(source: str, wanted: list[str] | None, path: str) -> pa.Table:
    ids = None if wanted is None else pa.array(wanted)
    return make_source(source, DataConfig()).read_records(path, ids)


def parse_items(source: str, records: pa.Table) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = parse_part(make_source(source, DataConfig()), records).to_pylist()
    return items


def find(source: str, interactions: str | None, items: str | None) -> Inputs:
    return make_source(source, DataConfig()).find(interactions, items)


def events(source: str, path: str) -> list[tuple[str, str, int]]:
    table = read_file(make_source(source, DataConfig()), path)
    return list(zip(*(table[name].to_pylist() for name in COLUMNS), strict=True))


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_table_reads_alike_from_every_kind_of_file(tmp_path: Path, kind: str, gz: str) -> None:
    frame = pl.DataFrame(ROWS, schema=COLUMNS, orient="row").with_columns(rating=5.0)
    if kind == "parquet":
        if gz:
            pytest.skip("Parquet compresses inside")
        path = str(tmp_path / "events.parquet")
        frame.write_parquet(path)
    else:
        text = frame.write_csv() if kind == "csv" else frame.write_ndjson()
        path = write(tmp_path / f"events.{kind}{gz}", text)
    assert events("table", path) == ROWS


def test_numbers_as_ids_and_whole_floats_as_times_are_accepted(tmp_path: Path) -> None:
    path = write(tmp_path / "e.jsonl", '{"user_id": 7, "item_id": 12, "timestamp": 5.0}\n')
    assert events("table", path) == [("7", "12", 5)]
    path = write(tmp_path / "e.csv", "user_id,item_id,timestamp\n7,012,5.0\n")
    assert events("table", path) == [("7", "012", 5)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("e.csv", "user_id,item_id\na,b\n", r"e.csv: lacks column 'timestamp'"),
        ("e.jsonl", '{"user_id": "a", "timestamp": 1}\n', r"e.jsonl: lacks column 'item_id'"),
        ("e.csv", "", r"e.csv: the file is empty"),
        ("e.csv.gz", "", r"e.csv.gz: the file is empty"),
        ("e.csv", "user_id,item_id,timestamp\n", r"e.csv: holds no rows"),
        ("e.jsonl", "", r"e.jsonl: the file is empty"),
        ("e.csv", "user_id,item_id,timestamp\na,b,1\na,c,soon\n", r"e.csv: row 2: .*'soon'"),
        ("e.csv", "user_id,item_id,timestamp\na,b,1.5\n", r"row 1: timestamp '1.5' is not a whole"),
        ("e.csv", "user_id,item_id,timestamp\na,,1\n", r"e.csv: row 1: has no item_id"),
        (
            "e.jsonl",
            '{"user_id": "a", "item_id": "b", "timestamp": 1}\n\n'
            '{"user_id": "a", "item_id": "b", "timestamp": "x"}\n',
            r"e.jsonl:3: timestamp 'x'",
        ),
        ("e.jsonl", '{"user_id": "a"}\nnonsense\n', r"e.jsonl:2: not JSON"),
        ("e.jsonl", '{"user_id": "a"}\n[1]\n', r"e.jsonl:2: not a JSON object"),
        ("e.parquet", "nonsense", r"e.parquet: not a Parquet file"),
        ("e.csv", 'user_id,item_id,timestamp\na,b,1\na,"b,1\n', r"e.csv:3: a quoted text begins"),
        ("e.xlsx", "nonsense", r"e.xlsx: unknown kind of file"),
    ],
)
def test_bad_events_are_named_with_their_place(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        events("table", write(tmp_path / name, content))


@pytest.mark.parametrize("blank", ["\n", "\r\n \n", "\n\n\n"])
def test_reviews_may_begin_with_blank_lines(tmp_path: Path, blank: str) -> None:
    line = '{"reviewerID": "ann", "asin": "i1", "unixReviewTime": 1400000000}\n'
    path = write(tmp_path / "reviews.json", blank + line)
    assert events("amazon", path) == [("ann", "i1", 1_400_000_000)]
    number = blank.count("\n") + 1
    with pytest.raises(DataError, match=rf":{number}: lacks the keys of an Amazon review"):
        events("amazon", write(tmp_path / "other.json", blank + '{"user": "ann"}\n'))


@pytest.mark.parametrize("kept", [0.5, 0.999])
def test_a_truncated_gzip_is_an_error_and_not_a_shorter_file(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "e.csv.gz"
    text = "user_id,item_id,timestamp\n" + "".join(
        f"u{i},i{i * 7 % 1013},{i}\n" for i in range(9999)
    )
    write(path, text)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(DataError, match="the gzip stream ends too soon"):
        events("table", str(path))


def test_a_damaged_gzip_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "e.csv.gz"
    path.write_bytes(b"\x1f\x8b" + b"nonsense" * 9)
    with pytest.raises(DataError, match="can't be read"):
        events("table", str(path))


def test_lines_longer_than_a_piece_and_a_missing_last_newline_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "PIECE_BYTES", 7)
    path = write(tmp_path / "a.jsonl.gz", '{"x": "abcdefghijklmnop"}\n{"x": "b"}\n\n{"x": "c"}')
    assert readers.read_json_lines(path, ["x"])["x"].to_list() == ["abcdefghijklmnop", "b", "c"]
    assert list(readers.iter_lines(path))[-1] == (4, b'{"x": "c"}')


def test_a_folder_and_a_pattern_stand_for_their_files_by_name(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv.gz", "notes.txt", "c.json"):
        write(tmp_path / name, "x")
    names = [Path(p).name for p in find_files(str(tmp_path))]
    assert names == ["a.csv.gz", "b.csv", "c.json"]
    assert [Path(p).name for p in find_files(f"{tmp_path}/*.csv*")] == ["a.csv.gz", "b.csv"]
    with pytest.raises(DataError, match="no such file or folder"):
        find_files(str(tmp_path / "absent"))
    with pytest.raises(DataError, match="matches no file"):
        find_files(f"{tmp_path}/*.parquet")


def test_sources_say_which_path_they_need(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'nowhere' is unknown"):
        find("nowhere", None, None)
    with pytest.raises(ConfigError, match="--source table needs --interactions"):
        find("table", None, None)
    with pytest.raises(ConfigError, match="--source amazon needs --items"):
        find("amazon", str(tmp_path), None)
    with pytest.raises(DataError, match="not a MovieLens folder"):
        find("movielens", str(tmp_path), None)


REVIEW_2014 = {
    "reviewerID": "A2SUAM1J3GNN3B",
    "asin": "0000013714",
    "reviewerName": 'J. "Mac"',
    "helpful": [2, 3],
    "reviewText": 'He said "unixReviewTime": 5, "reviewTime": "x"} and\nleft \\',
    "overall": 5.0,
    "summary": "Good",
    "unixReviewTime": 1252800000,
    "reviewTime": "09 13, 2009",
}
REVIEW_2018 = {
    "overall": 5.0,
    "verified": True,
    "reviewTime": "09 1, 2016",
    "reviewerID": "A3",
    "asin": "B00001",
    "style": {"Color": "red"},
    "unixReviewTime": 1472688000,
}
REVIEW_2023 = {
    "rating": 5.0,
    "title": "x",
    "images": [],
    "asin": "B00variant",
    "parent_asin": "B00parent",
    "user_id": "AE2",
    "timestamp": 1588687728923,
}


@pytest.mark.parametrize(
    ("review", "expected"),
    [
        (REVIEW_2014, ("A2SUAM1J3GNN3B", "0000013714", 1252800000)),
        (REVIEW_2018, ("A3", "B00001", 1472688000)),
        (REVIEW_2023, ("AE2", "B00parent", 1588687728923)),
    ],
)
def test_reviews_of_every_release_are_read(
    tmp_path: Path, review: dict[str, Any], expected: tuple[str, str, int]
) -> None:
    path = write(tmp_path / "reviews.json.gz", json_lines([review, review]))
    assert events("amazon", path) == [expected, expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A2SUAM1J3GNN3B,0000013714,5.0,12\n", ("A2SUAM1J3GNN3B", "0000013714", 12)),
        ("0000013714,A2SUAM1J3GNN3B,5.0,12\n", ("A2SUAM1J3GNN3B", "0000013714", 12)),
        ("user_id,parent_asin,rating,timestamp\nAE2,B0,5.0,12\n", ("AE2", "B0", 12)),
    ],
)
def test_ratings_only_files_of_every_release_are_read(
    tmp_path: Path, text: str, expected: tuple[str, str, int]
) -> None:
    assert events("amazon", write(tmp_path / "ratings.csv", text)) == [expected]


def test_a_file_of_something_else_is_not_taken_for_reviews(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"r.json:1: lacks the keys of an Amazon review"):
        events("amazon", write(tmp_path / "r.json", '{"user": 1}\n'))
    with pytest.raises(DataError, match="the file is empty"):
        events("amazon", write(tmp_path / "e.json", ""))


def scanned(*reviews: dict[str, Any]) -> list[tuple[Any, ...]] | None:
    table = scan_reviews([json_lines(list(reviews)).encode()])
    return table and list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def test_the_scan_reads_what_the_parser_reads() -> None:
    reviews = [
        REVIEW_2014
        | {
            "reviewerID": f"A{i**3}",
            "asin": f"B{i % 7:09d}",
            "unixReviewTime": 11**i % 10**10,
            "reviewTime": f"09 {i}, 2009",
            "reviewText": 'ü"\\ \n' * (i * 40),
        }
        for i in range(1, 30)
    ]
    keys = ["reviewerID", "asin", "unixReviewTime"]
    assert scanned(*reviews) == [tuple(review[key] for key in keys) for review in reviews]


@pytest.mark.parametrize(
    "change",
    [
        {"reviewerID": 'A"B'},
        {"reviewerID": "Aé"},
        {"reviewerID": ""},
        {"reviewerID": "A" * 40},
        {"unixReviewTime": -5},
        {"unixReviewTime": "soon"},
        {"unixReviewTime": 10**16},
        {"reviewTime": 5},
        {"extra": 1},
    ],
)
def test_the_scan_leaves_any_other_layout_to_the_parser(change: dict[str, Any]) -> None:
    assert scanned(REVIEW_2014, REVIEW_2014 | change) is None


def test_the_scan_leaves_short_and_unfinished_lines_to_the_parser() -> None:
    line = json_lines([REVIEW_2014]).encode()
    assert scan_reviews([line]) is not None
    for piece in (line[:-1], line + b"\n", line + b"{}\n", line[:90] + b"\n" + line):
        assert scan_reviews([piece]) is None


META_2014 = {
    "asin": "B1",
    "related": {"also_bought": ["B2", "B3"], "buy_after": ["'title': 'no'"]},
    "title": 'Fish &amp; Chips "24\'"',
    "description": "It's 'title': 'not this'",
    "brand": "Ace",
    "categories": [["Food", "Fast &amp; Hot"], ["Other"]],
}
META_2018 = {
    "category": ["Food", "Fast"],
    "description": ["One.", "Two."],
    "title": "<b>Fish</b> &amp; Chips",
    "brand": "Ace",
    "asin": "B1",
}
META_2023 = {
    "main_category": "Food",
    "title": "Fish & Chips",
    "description": [],
    "store": "Ace",
    "categories": ["Food", "Fast"],
    "videos": [{"title": "no", "asin": "B9"}],
    "parent_asin": "B1",
}


def parse(path: str, wanted: list[str] | None = None) -> list[dict[str, Any]]:
    return parse_items("amazon", read_records("amazon", wanted, path))


def test_metadata_of_2014_are_python_literals(tmp_path: Path) -> None:
    path = write(tmp_path / "meta.json.gz", f"{META_2014}\n{META_2014 | {'asin': 'B2'}}\n")
    (item,) = parse(path, ["B1", "absent"])
    assert item == {
        "item_id": "B1",
        "title": 'Fish & Chips "24\'"',
        "categories": ["Food", "Fast & Hot"],
        "brand": "Ace",
        "description": "It's 'title': 'not this'",
        "title_key": 'fish & chips "24',
    }
    assert [item["item_id"] for item in parse(path)] == ["B1", "B2"]


@pytest.mark.parametrize("meta", [META_2018, META_2023])
def test_metadata_of_2018_and_2023_are_json(tmp_path: Path, meta: dict[str, Any]) -> None:
    (item,) = parse(write(tmp_path / "meta.jsonl", json_lines([meta])))
    assert item["item_id"] == "B1"
    assert item["title"] == "Fish & Chips"
    assert item["categories"] == ["Food", "Fast"]
    assert item["brand"] == "Ace"
    assert item["description"] == ("One. Two." if meta is META_2018 else None)


@pytest.mark.parametrize(
    ("record", "titled"),
    [
        (META_2014, True),
        (META_2014 | {"title": "  &nbsp; "}, False),
        (META_2014 | {"title": "\u200b"}, False),
        (META_2014 | {"title": "é"}, True),
        (META_2014 | {"title": "var aPageStart = (new Date()).getTime();"}, False),
        ({k: v for k, v in META_2014.items() if k != "title"}, False),
    ],
)
def test_a_literal_line_tells_whether_it_has_a_title(
    tmp_path: Path, record: dict[str, Any], titled: bool
) -> None:
    assert "'title': 'not this'" in repr(record)  # inside a text, which must not count
    path = write(tmp_path / "meta.json", f"{record}\n")
    assert read_records("amazon", None, path)["titled"].to_pylist() == [titled]


def test_bad_metadata_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "meta.json", "{'asin': 'B1'}\n{'title': 'x'}\n")
    with pytest.raises(DataError, match=r"meta.json:2: names no asin"):
        parse(path)
    with pytest.raises(DataError, match="here: neither JSON nor a Python literal"):
        amazon.parse_line(b"{'asin': open('x')}", "here")


_TEXTS = st.text(alphabet=st.sampled_from("ab'\"\\/nux07é\n\t\x85\u2028🙂{}:, "), max_size=12)


@given(
    st.dictionaries(
        _TEXTS,
        st.recursive(
            st.one_of(_TEXTS, st.integers(), st.floats(allow_nan=False, allow_infinity=False)),
            lambda inner: st.one_of(st.lists(inner, max_size=3), st.none(), st.tuples(inner)),
            max_leaves=4,
        ),
        max_size=4,
    )
)
def test_a_literal_reads_as_python_reads_it(record: dict[str, Any]) -> None:
    assert amazon.parse_literal(repr(record)) == record


@given(st.text(alphabet="'\"\\/nux0 ", max_size=10))
@example(r"'\/'")
@example(r"'\ud83d\ude42'")
@example("'a' 'b'")
def test_escapes_that_json_reads_in_another_way_are_left_to_python(inner: str) -> None:
    try:
        expected = ast.literal_eval(inner)
    except (ValueError, SyntaxError):
        return
    assert amazon.parse_literal(inner) == expected


def test_categories_come_as_a_path_a_list_of_paths_json_text_or_joined(tmp_path: Path) -> None:
    values = ["A|B", '["A", "B"]', '[["A", "B"], ["C"]]', "", None, ["A", "B"], [["A", "B"]]]
    rows = [{"item_id": str(i), "title": "t", "categories": v} for i, v in enumerate(values)]
    path = write(tmp_path / "items.jsonl", json_lines(rows))
    items = parse_items("table", read_records("table", None, path))
    two = ["A", "B"]
    assert [item["categories"] for item in items] == [two, two, two, None, None, two, two]


def test_titles_are_cleaned_and_blank_ones_marked(tmp_path: Path) -> None:
    text = 'item_id,title,brand\n1,"A\nlamp &amp;  shade",X\n2,&nbsp;,\n3,,\n'
    records = read_records("table", None, write(tmp_path / "items.csv", text))
    assert records["titled"].to_pylist() == [True, False, False]
    (item,) = parse_items("table", records.slice(0, 1))
    assert (item["title"], item["brand"]) == ("A lamp & shade", "X")


def test_titles_of_a_table_keep_what_looks_like_amazons_page_script(tmp_path: Path) -> None:
    rows = [
        {"item_id": "1", "title": "<Untitled>"},
        {"item_id": "2", "title": "getTime() explained"},
    ]
    path = write(tmp_path / "items.jsonl", json_lines(rows))
    records = read_records("table", None, path)
    assert records["titled"].to_pylist() == [True, True]
    titles = [item["title"] for item in parse_items("table", records)]
    assert titles == ["<Untitled>", "getTime() explained"]


def test_movielens_of_every_release_is_read(tmp_path: Path) -> None:
    flags = "|".join("1" if i in (3, 5) else "0" for i in range(19))
    releases = {
        "100k": ("u.data", "1\t2\t5\t9\n", "u.item", f"2|Café (1995)|01-Jan-1995||x|{flags}\n"),
        "1m": ("ratings.dat", "1::2::5::9\n", "movies.dat", "2::Café (1995)::Animation|Comedy\n"),
        "latest": (
            "ratings.csv",
            "userId,movieId,rating,timestamp\n1,2,5.0,9\n",
            "movies.csv",
            "movieId,title,genres\n2,Café (1995),Animation|Comedy\n",
        ),
    }
    for name, (ratings, rows, movies, items) in releases.items():
        folder = tmp_path / name
        folder.mkdir()
        write(folder / ratings, rows)
        write(folder / movies, items.encode("utf-8" if name == "latest" else "latin-1"))
        inputs = find("movielens", str(folder), None)
        assert events("movielens", inputs.interactions[0]) == [("1", "2", 9)]
        records = read_records("movielens", None, inputs.items[0])
        (item,) = parse_items("movielens", records)
        assert item["title"] == "Café (1995)"
        assert item["categories"] == ["Animation", "Comedy"]


@pytest.mark.parametrize(
    ("source", "path", "domain"),
    [
        ("amazon", "/d/reviews_Home_and_Kitchen_5.json.gz", "Home and Kitchen"),
        ("amazon", "/d/All_Beauty.jsonl.gz", "All Beauty"),
        ("table", "/d/toys/interactions.csv.gz", "toys"),
        ("table", "s3://bucket/shop/*.parquet", "shop"),
        ("movielens", "/d/ml-1m", "Movies"),
        ("demo", None, "Marketplace"),
    ],
)
def test_the_domain_is_named_after_the_interactions(
    source: str, path: str | None, domain: str
) -> None:
    assert make_source(source, DataConfig()).domain(path) == domain
