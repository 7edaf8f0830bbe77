"""CSV as Python's csv reads it: no row is lost, or the file is refused with the line."""

import csv
import io
import logging
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msrrec.data.delimited import count_records, decode, parse_delimited
from msrrec.errors import DataError

Rows = list[tuple[str, ...]]
HEADER = "user_id,item_id,timestamp,title\n"


def rows(content: str | bytes, separator: str | None = None) -> Rows:
    """All rows, the header first, empty fields as empty texts."""
    data = content.encode() if isinstance(content, str) else content
    frame = parse_delimited("f.csv", data, separator, has_header=False)
    return [tuple(field or "" for field in row) for row in frame.rows()]


def python_rows(text: str) -> Rows:
    """What Python's csv makes of it, blank lines left out, short rows filled up."""
    found = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    return [tuple([*row, *[""] * (len(found[0]) - len(row))]) for row in found]


def test_backslash_escaped_quotes_lose_no_row(caplog: pytest.LogCaptureFixture) -> None:
    text = HEADER + 'u0,i1,2,"a 6\\" lamp"\nu0,i2,3,fine\nu0,i3,4,"an 8\\" lamp"\n'
    with caplog.at_level(logging.INFO, "msrrec"):
        found = rows(text)
    assert found[1:] == [
        ("u0", "i1", "2", 'a 6" lamp'),
        ("u0", "i2", "3", "fine"),
        ("u0", "i3", "4", 'an 8" lamp'),
    ]
    assert "escaped by backslashes" in caplog.text


def test_a_backslash_before_the_quote_of_an_inch_at_the_end_loses_no_row() -> None:
    text = HEADER + 'u0,i1,2,"a 6\\""\nu0,i2,3,fine\nu0,i3,4,"an 8\\""\n'
    assert [row[3] for row in rows(text)[1:]] == ['a 6"', "fine", 'an 8"']


def test_a_quote_inside_an_unquoted_text_is_a_quote() -> None:
    text = HEADER + 'u0,i1,2,Orion 6" Telescope\nu0,i2,3,fine\nu0,i3,4,an 8" one\n'
    assert rows(text) == python_rows(text)
    assert [row[3] for row in rows(text)[1:]] == ['Orion 6" Telescope', "fine", 'an 8" one']


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ('u0,i1,2,"Screen 24\nu0,i2,3,fine\nu0,i3,4,"Screen 25"\n', 2),
        ('u0,i1,2,fine\nu0,i2,3,"open\nu0,i3,4,fine\n', 3),
        ('u0,i1,2,"open', 2),
    ],
)
def test_a_text_that_swallows_rows_is_refused_with_its_line(body: str, line: int) -> None:
    with pytest.raises(DataError, match=rf"f.csv:{line}: a quoted text begins here") as caught:
        rows(HEADER + body)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("separator", ["\t", ","])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "body",
    [
        'u,i1,1,"Q\nu,i2,2,fine\nu,i3,3,R"\nu,i4,4,x\n',
        'u,i1,1,"Q\nu,i3,3,R"\nu,i4,4,6" lamp\n',
        'u,"i1",1,"Q\nu,i2,2,"\nu,i3,3,x\n',
        'u,i1,1,"Q\nu,i2,2,R"',
    ],
)
def test_rows_between_two_stray_quotes_are_not_swallowed(
    body: str, end: str, separator: str
) -> None:
    text = (HEADER + body).replace(",", separator).replace("\n", end)
    with pytest.raises(DataError, match=r"f.csv:2: a quoted text .* holds whole rows"):
        rows(text)


@pytest.mark.parametrize(
    "text",
    [
        'a,b\n1,"A lamp\nred, blue"\n2,x\n',
        'a,b,c\n1,T,"Text, long\nand, more, of it\n\nend"\n',
        'a\tb\n1\t"A lamp\nred,blue"\n',
        'a\n"x\ny"\n',
    ],
)
def test_a_text_of_several_lines_of_prose_is_one_text(text: str) -> None:
    found = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in text else ","))
    assert rows(text) == [tuple(row) for row in found]


def test_a_row_with_more_fields_is_refused_with_its_line() -> None:
    with pytest.raises(DataError, match=r"f.csv:3: found 5 fields; expected 4"):
        rows(HEADER + "u0,i1,2,a\nu0,i2,3,a,b\n")


def test_empty_fields_at_the_end_and_missing_ones_are_no_mistake() -> None:
    assert rows("a,b,\n1,2\n1,2,\n1,2,,,\n") == [
        ("a", "b", ""),
        ("1", "2", ""),
        ("1", "2", ""),
        ("1", "2", ""),
    ]


def test_every_line_end_is_a_line_end_and_blank_lines_are_none() -> None:
    for end in ("\n", "\r\n", "\r", "\r\r\n"):
        text = end + HEADER.strip() + end + end + "u0,i1,2,a" + end + "u0,i2,3,b" + end
        assert [row[1] for row in rows(text)] == ["item_id", "i1", "i2"]


def test_line_ends_and_separators_inside_quotes_belong_to_the_text() -> None:
    text = HEADER + 'u0,i1,2,"a\nb,""c"""\r\nu0,i2,3,"\r\n"\r\n'
    assert rows(text) == python_rows(text)
    assert count_records(text.encode(), ",") == 3


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_found_in_the_header(separator: str) -> None:
    text = separator.join(["user", "item", '"a, b"']) + "\n" + separator.join(["1", "2", "3"])
    assert rows(text) == [("user", "item", "a, b"), ("1", "2", "3")]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252", "latin-1"]
)
def test_encodings_are_found_or_set(encoding: str) -> None:
    content = "title\nCafé\n".encode(encoding)
    setting = encoding if encoding == "utf-16-le" else None
    assert decode("f", content, setting) == "title\nCafé\n".encode()


def test_windows_characters_that_latin_1_lacks_are_read() -> None:
    assert decode("f", "City… Lights".encode("cp1252"), None).decode() == "City… Lights"
    assert decode("f", b"\x81", None).decode() == "\x81"


def test_a_wrong_encoding_is_one_sentence() -> None:
    with pytest.raises(DataError, match="f: is not utf-8"):
        decode("f", b"\xff", "utf-8")


@pytest.mark.parametrize("bad", [b"\xe9", b"\xc3", b"\xff\xfe"])
def test_one_bad_byte_among_utf_8_is_refused_with_its_line(bad: bytes) -> None:
    content = HEADER.encode() + "Café\n".encode() * 4 + b"bad " + bad + b"\nCaf\xc3\xa9\n"
    with pytest.raises(DataError, match=rf"f:6: byte {bad.hex()[:2]} is not UTF-8, but 5 other"):
        decode("f", content, None)


@pytest.mark.parametrize("text", ["Café, Crème", "«Größe» ß»", "Straße"])
def test_a_windows_file_is_not_taken_for_damaged_utf_8(text: str) -> None:
    assert decode("f", text.encode("cp1252"), None).decode() == text


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_wide_text_without_a_mark_is_named(encoding: str) -> None:
    for text in (HEADER, HEADER + "é,…,1,ü\n"):
        with pytest.raises(DataError, match=rf"mark; set data.encoding={encoding}$"):
            decode("f", text.encode(encoding), None)


def test_the_line_of_excel_that_names_the_separator_is_obeyed_and_counted() -> None:
    for line in ("sep=;", '"sep=;"', "SEP=;\r"):
        assert rows(f"{line}\na;b\nx,y,z;2\n") == [("a", "b"), ("x,y,z", "2")]
    assert rows("sep=;\na|b\n1|2\n", "|") == [("a", "b"), ("1", "2")]
    with pytest.raises(DataError, match=r"f.csv:4: found 3 fields"):
        rows("sep=;\n\na;b\n1;2;3\n")
    with pytest.raises(DataError, match="the file is empty"):
        rows("sep=;\n")


FIELDS = st.text(alphabet=st.sampled_from('a b"\n\r,;é'), max_size=6)


@settings(max_examples=300, derandomize=True)
@given(
    st.integers(2, 3).flatmap(
        lambda width: st.lists(st.lists(FIELDS, min_size=width, max_size=width), min_size=1)
    ),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_what_python_writes_is_read_as_python_reads_it(
    table: list[list[str]], quoting: int, end: str
) -> None:
    sink = io.StringIO(newline="")
    csv.writer(sink, quoting=quoting, lineterminator=end).writerows([["x"] * len(table[0]), *table])
    text = sink.getvalue()
    try:
        rows(text, ",")
    except DataError:  # a text that is itself a table, such as "1,2 <line end> 3,4"
        assert any(re.search(r"[\r\n]", field) for row in table for field in row)
        return
    assert rows(text, ",") == python_rows(text)
    if quoting == csv.QUOTE_ALL:  # else its writer leaves a lone carriage return unquoted
        assert rows(text, ",")[1:] == [tuple(row) for row in table]


@settings(max_examples=500, derandomize=True)
@given(st.text(alphabet=st.sampled_from('ab",\n\r'), max_size=30))
def test_any_text_is_read_as_python_reads_it_or_refused(body: str) -> None:
    text = "x,y\n" + body
    try:
        found = rows(text, ",")
    except DataError:
        return
    assert found == [row[:2] for row in python_rows(text)]


@settings(max_examples=500, derandomize=True)
@given(
    st.lists(st.lists(st.text(alphabet='ab", 6', max_size=5), min_size=2, max_size=2), min_size=1),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_a_file_that_escapes_by_backslashes_loses_no_row(
    table: list[list[str]], quoting: int
) -> None:
    sink = io.StringIO(newline="")
    options = {"doublequote": False, "escapechar": "\\", "lineterminator": "\n"}
    csv.writer(sink, quoting=quoting, **options).writerows([["x", "y"], *table])
    try:
        found = rows(sink.getvalue(), ",")
    except DataError:
        return
    assert len(found) == len(table) + 1
