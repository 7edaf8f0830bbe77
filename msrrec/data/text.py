"""Texts of items as shops and programs write them: HTML, lists in Python's spelling, no value."""

import ast
import html
import json
import re
from typing import Any

from msrrec.titles import clean_title

MISSING_WORDS = frozenset({"nan", "NaN", "None", "NULL", "null", "<NA>", "NaT"})
"""What programs write where there is no value."""

_MAX_DESCRIPTION_CHARS = 2_000
_MAX_RAW_TITLE_CHARS = 4_096
_TAG = re.compile(
    r"</?(?:a|abbr|article|b|blockquote|body|br|center|code|dd|del|div|dl|dt|em|figure|font|footer|"
    r"form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|label|li|link|main|mark|meta|nav|ol|p|"
    r"picture|pre|s|section|small|source|span|strike|strong|sub|sup|svg|table|tbody|td|tfoot|th|"
    r"thead|tr|tt|u|ul|video|wbr)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
"""HTML's own tags alone: a film may be called <Untitled>."""
_HIDDEN = re.compile(r"<(script|style)\b.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)", re.DOTALL | re.I)
_CUT_TAG = re.compile(r"<[a-zA-Z/][^<>]*\Z")


def is_missing(value: Any) -> bool:
    """Whether a value stands for none: empty, blank, or a program's word for it."""
    return value is None or value != value or str(value).strip() in {"", *MISSING_WORDS}


def strip_tags(text: str) -> str:
    """The text without HTML tags, comments and scripts, also where entities hide their brackets."""
    if "<" not in text and "&lt;" not in text and "&#" not in text:
        return text
    stripped = _strip_once(text)
    unescaped = html.unescape(stripped)
    return _strip_once(unescaped) if unescaped != stripped else stripped


def _strip_once(text: str) -> str:
    return _TAG.sub(" ", _HIDDEN.sub(" ", text))


def visible_title(title: str) -> str:
    """A title as prompts show it, without HTML; one of nothing but tags keeps them."""
    return clean_title(strip_tags(title[:_MAX_RAW_TITLE_CHARS])) or clean_title(title)


def plain_description(value: Any) -> str | None:
    """A description of text or of a list of texts, on one line without HTML; None for none."""
    value = parse_list(value) or value
    if isinstance(value, list | tuple):
        value = " ".join(str(part) for part in value if not is_missing(part))
    if is_missing(value):
        return None
    text = _CUT_TAG.sub("", strip_tags(str(value)[:_MAX_DESCRIPTION_CHARS]))
    return " ".join(html.unescape(text).split()) or None


def category_path(value: Any) -> list[str]:
    """One path of categories, widest first: of a list, of the first of several, of ``A|B``."""
    if isinstance(value, str):
        value = parse_list(value) or re.split(r"\||\s>\s", value)
    if value and isinstance(value[0], list | tuple):
        value = value[0]
    return [str(name) for name in value or () if not is_missing(name)]


def parse_list(value: Any) -> list[Any] | None:
    """A list written as JSON or as Python writes lists and tuples; None for anything else."""
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
