"""A model's chat template: rendered around a prompt, always on the same day, or refused."""

from datetime import datetime
from typing import Any

from msrrec.errors import ModelError, first_line

TEMPLATE_DATE = "2024-07-26"
"""The day that every chat template takes for today: the one that Llama 3's own falls back to."""

_SLOT = "\N{WHITE VERTICAL RECTANGLE}prompt\N{WHITE VERTICAL RECTANGLE}"
_CLOCK = "strftime_now"
_DIRECTIVES = (
    *("%-d", "%-m", "%-I", "%-H", "%-j", "%-M", "%-S", "%-y"),
    *("%d", "%e", "%j", "%m", "%b", "%h", "%B", "%y", "%Y", "%a", "%A", "%u", "%w", "%U", "%V"),
    *("%F", "%D", "%x", "%c", "%H", "%I", "%M", "%S", "%p", "%T", "%R", "%X", "%f", "%z", "%Z"),
    *("%s", "%G"),
)
_HINT = (
    "mend chat_template in its tokenizer_config.json or chat_template.jinja, or remove it to have "
    "prompts without one"
)


def split_template(tokenizer: Any, *, use_chat_template: bool = True) -> tuple[str, str]:
    """What stands before and after a prompt in the chat template, the answer's beginning included.

    Without a template, or where it is not to be used, BOS stands before and a line break after.

    Raises:
        ModelError: If the template fails on a single message of a user, or does not show it just
            once as it is.
    """
    if not (use_chat_template and getattr(tokenizer, "chat_template", None)):
        return tokenizer.bos_token or "", "\n"
    where = getattr(tokenizer, "name_or_path", None) or type(tokenizer).__name__
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": _SLOT}], tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # a template is a stranger's program
        raise ModelError(
            f"{where}: its chat template fails on a single user's message ({first_line(error)}); "
            f"{_HINT}"
        ) from error
    parts = str(text).split(_SLOT)
    if len(parts) != 2:
        times = "drops the user's message" if len(parts) == 1 else "shows the message repeatedly"
        raise ModelError(f"{where}: its chat template {times}; expected it once; {_HINT}")
    return parts[0], parts[1]


def pin_date(tokenizer: Any, day: str) -> None:
    """Let a tokenizer's chat templates take a day for today, for good.

    Templates ask for the date through ``strftime_now``, so that prompts would change at midnight.
    The day is written into the template itself: whatever reads the saved tokenizer uses it too.

    Args:
        tokenizer: Changed in place; one without a template, or whose template asks for no date,
            stays as it is.
        day: As in 2024-07-26.
    """
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        tokenizer.chat_template = {name: _pinned(text, day) for name, text in template.items()}
    elif isinstance(template, str):
        tokenizer.chat_template = _pinned(template, day)


def _pinned(template: str, day: str) -> str:
    """The template with its own ``strftime_now`` in front; one that has it keeps its day."""
    if _CLOCK not in template or template.startswith(f"{{%- macro {_CLOCK}("):
        return template
    midnight = datetime.fromisoformat(day)
    replaced = "".join(f" | replace({d!r}, {midnight.strftime(d)!r})" for d in _DIRECTIVES)
    macro = f"{{%- macro {_CLOCK}(format) -%}}{{{{ format{replaced} }}}}{{%- endmacro %}}"
    return f"{macro}\n{template}"
