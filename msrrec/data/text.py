"""Cleans item texts from shops: HTML, lists in Python syntax, placeholders for missing values."""

import ast
import contextlib
import html
import json
import re
from itertools import product
from typing import Any

from msrrec.titles import clean_title

MISSING_WORDS = frozenset(
    {"nan", "NaN", "None", "NULL", "null", "<NA>", "NaT", "\\N", "#N/A", "(null)"}
)
"""Words that programs and databases write for a missing value, and that no title or brand is."""
_MISSING_KEYS = ("nan", "none", "null", "nat", "nil", "<na>", "\\n", "n/a", "#n/a", "(null)")
MISSING_KEYS = frozenset(
    {"NA"}
    | {
        "".join(letters)
        for word in _MISSING_KEYS
        for letters in product(*((char, char.upper()) for char in word))
    }
)
"""Words that mean no id, time or category, in any case; NA in capitals alone, as Na is a name. A
title or brand may well be NA."""

_MAX_DESCRIPTION_CHARS = 2_000
_MAX_RAW_TITLE_CHARS = 4_096
_INLINE = "a|abbr|b|code|del|em|font|i|ins|label|mark|s|small|span|strike|strong|sub|sup|tt|u|wbr"
_BLOCK = (
    "article|blockquote|body|br|center|dd|div|dl|dt|figure|footer|form|h[1-6]|head|header|hr|html|"
    "iframe|img|input|li|link|main|meta|nav|ol|p|picture|pre|section|source|svg|table|tbody|td|"
    "tfoot|th|thead|tr|ul|video"
)
_INLINE_TAG, _BLOCK_TAG = (
    re.compile(rf"</?(?:{names})(?:\s[^<>]*)?/?>", re.IGNORECASE) for names in (_INLINE, _BLOCK)
)
"""HTML's own tags alone: a film may be called <Untitled>. Blocks part words, inline tags don't."""
_HIDDEN = re.compile(r"<(script|style)\b.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)", re.DOTALL | re.I)
_WIDER = re.compile(r"\s>\s")
_COMMA = re.compile(r"(?<!\\),\s+")
_NAME_KEYS = ("name", "title", "label")
_ARRAY = re.compile(r"\barray\((\[.*?\])(?:,\s*dtype=\w+)?\)", re.DOTALL)
_TOKEN = re.compile(r"""('[^'\\]*+(?:\\.[^'\\]*+)*+'|"[^"\\]*+(?:\\.[^"\\]*+)*+")(\s+(?=['"]))?""")
"""A text in Python's syntax, and the space before another, where numpy writes no comma."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_CUT_TAG = re.compile(r"<[a-zA-Z/][^<>]*\Z")


def is_missing(value: Any) -> bool:
    """Whether a value means none: empty, blank, or a word such as NaN."""
    return value is None or value != value or str(value).strip() in {"", *MISSING_WORDS}


def is_missing_key(value: Any) -> bool:
    """Whether a value means no id, time or category."""
    return value is None or value != value or str(value).strip() in {"", *MISSING_KEYS}


def replace_surrogates(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair, which no UTF-8 file can hold."""
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def strip_tags(text: str) -> str:
    """The text without HTML tags, comments and scripts, even if entities hide the brackets."""
    if "<" not in text and "&lt;" not in text and "&#" not in text:
        return text
    stripped = _strip_once(text)
    unescaped = html.unescape(stripped)
    return _strip_once(unescaped) if unescaped != stripped else stripped


def _strip_once(text: str) -> str:
    return _INLINE_TAG.sub("", _BLOCK_TAG.sub(" ", _HIDDEN.sub(" ", text)))


def visible_title(title: str) -> str:
    """A title without HTML, as prompts show it; a title of nothing but tags keeps them."""
    title = replace_surrogates(title)
    return clean_title(strip_tags(title[:_MAX_RAW_TITLE_CHARS])) or clean_title(title)


def plain_description(value: Any) -> str | None:
    """A description, text or list of texts, as one line without HTML; None if there is none."""
    parsed = parse_list(value)
    value = value if parsed is None else parsed
    if isinstance(value, list | tuple):
        value = " ".join(str(part) for part in value if not is_missing(part))
    if is_missing(value):
        return None
    value = replace_surrogates(str(value)[:_MAX_DESCRIPTION_CHARS])
    text = _CUT_TAG.sub("", strip_tags(value))
    return " ".join(html.unescape(text).split()) or None


def category_path(value: Any) -> list[str]:
    """One category path, widest first.

    It is read from a list, the first of several lists or paths, objects with names, ``A|B`` or
    ``A > B``. Several paths in one text are separated by ``|``, or by a comma where each begins
    with the same category: ``Clothing > Shirts, Clothing > Hats``.
    """
    if isinstance(value, str):
        parsed = parse_list(value)
        value = _split_path(value) if parsed is None else parsed
    if not isinstance(value, list | tuple):
        return []
    if value and isinstance(value[0], list | tuple):
        value = value[0]
    names = [_name_of(part) for part in value]
    if names and isinstance(names[0], str) and _WIDER.search(names[0]):
        names = _WIDER.split(names[0])  # a list of whole paths
    return [str(name) for name in names if not is_missing_key(name)]


def _split_path(text: str) -> list[Any]:
    if text.lstrip().startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            return [json.loads(text)]
    text = html.unescape(html.unescape(text))
    first, *others = text.split("|")
    if others and _WIDER.search(first):
        text = first.strip()
    first, *others = _COMMA.split(text)
    root = _WIDER.split(first)[0].strip()
    if first != root and any(_WIDER.split(path)[0].strip() == root for path in others):
        return _WIDER.split(first)
    return re.split(r"\||\s>\s", text)


def _name_of(part: Any) -> Any:
    """The name in an object such as ``{"id": 18, "name": "Drama"}``; anything else as it is."""
    if not isinstance(part, dict):
        return part
    folded = {str(key).casefold(): value for key, value in part.items()}
    return next((folded[key] for key in _NAME_KEYS if key in folded), None)


def parse_list(value: Any) -> list[Any] | None:
    """A list in JSON, in Python's syntax for lists and tuples, or as numpy writes an array.

    Returns:
        None for anything else.
    """
    text = value.strip() if isinstance(value, str) else ""
    text = _ARRAY.sub(r"\1", text) if "array(" in text else text
    if text[:1] + text[-1:] not in ("[]", "()"):
        return None
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        text = _TOKEN.sub(lambda m: m[1] + (", " if m[2] else ""), text)
        try:
            parsed = ast.literal_eval(re.sub(r"\bnan\b(?=\s*[,\])])", "None", text))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return list(parsed) if isinstance(parsed, list | tuple) else None
