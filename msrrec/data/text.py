"""Cleans item texts from shops: HTML, lists in Python syntax, placeholders for missing values."""

import ast
import html
import json
import re
from typing import Any

from msrrec.titles import clean_title

MISSING_WORDS = frozenset({"nan", "NaN", "None", "NULL", "null", "<NA>", "NaT"})
"""Words that programs write for a missing value."""

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
_SURROGATE = re.compile("[\ud800-\udfff]")
_CUT_TAG = re.compile(r"<[a-zA-Z/][^<>]*\Z")


def is_missing(value: Any) -> bool:
    """Whether a value means none: empty, blank, or a word such as NaN."""
    return value is None or value != value or str(value).strip() in {"", *MISSING_WORDS}


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
    """One category path, widest first: from a list, the first of several lists, or ``A|B``."""
    if isinstance(value, str):
        parsed = parse_list(value)
        value = re.split(r"\||\s>\s", value) if parsed is None else parsed
    if not isinstance(value, list | tuple):
        return []
    if value and isinstance(value[0], list | tuple):
        value = value[0]
    return [str(name) for name in value if not is_missing(name)]


def parse_list(value: Any) -> list[Any] | None:
    """A list in JSON or in Python's syntax for lists and tuples; None for anything else."""
    text = value.strip() if isinstance(value, str) else ""
    if text[:1] + text[-1:] not in ("[]", "()"):
        return None
    try:
        parsed = json.loads(text)
    except ValueError:
        try:
            parsed = ast.literal_eval(re.sub(r"\bnan\b(?=\s*[,\])])", "None", text))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return list(parsed) if isinstance(parsed, list | tuple) else None
