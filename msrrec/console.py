"""What the command line shows, and the one place where errors end: sentence and exit code."""

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from msrrec.config import EMBEDDED, Config, RunConfig
from msrrec.errors import MsrRecError

if TYPE_CHECKING:
    from rich.table import Table


def settings_help(*sections: str) -> str:
    """The settings of some sections with defaults and meaning, for ``--help``."""
    defaults = RunConfig()
    shown = [(name, getattr(defaults, name)) for name in sections]
    lines = [
        f"[cyan]{key}[/cyan]={_json(value).replace('[', chr(92) + '[')}  {meaning}"
        for name, config in shown
        for key, value, meaning in iter_settings(name, config)
    ]
    return "\n\n".join(["[bold]Settings[/bold]", *lines])


def iter_settings(name: str, config: Config) -> Iterator[tuple[str, Any, str]]:
    """Dotted name, value and meaning of every setting of a section."""
    for key, field in type(config).model_fields.items():
        value = getattr(config, key)
        if isinstance(value, Config):
            yield from iter_settings(f"{name}.{key}", value)
        else:
            yield f"{name}.{key}", value, " ".join((field.description or "").split())


def show_settings(command: str, config: RunConfig, sections: Sequence[str]) -> None:
    """The page of a dry run, on stderr: the settings that the command uses, changed ones marked."""
    from rich.console import Console
    from rich.table import Table

    defaults, changed = RunConfig(), 0
    table = Table(box=None, pad_edge=False, show_edge=False)
    for heading in ("setting", "value", "default where it differs"):
        table.add_column(heading, overflow="fold")
    for name in sections:
        before = {key: value for key, value, _ in iter_settings(name, getattr(defaults, name))}
        for key, value, _ in iter_settings(name, getattr(config, name)):
            is_changed = value != before[key]
            changed += is_changed
            _add_row(table, key, _json(value), _json(before[key]) if is_changed else "")
    console = Console(stderr=True, width=100)
    console.print(table)
    console.print(
        f"msrrec {command} would run with these settings, {changed} of them not the default; "
        "--dry-run stops here",
        markup=False,
    )


def _add_row(table: "Table", key: str, value: str, default: str) -> None:
    from rich.text import Text

    style = "bold" if default else ""
    table.add_row(Text(key, style), Text(value, style), Text(default, "dim"))


def _json(value: Any) -> str:
    return json.dumps(value, default=_plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, Config) else str(value)


def hint_at_preset(config: RunConfig) -> str | None:
    """What to say where the settings don't suit the embedded backbone; None where they do."""
    if config.model.name_or_path != EMBEDDED:
        return None
    if config.train.learning_rate != RunConfig().train.learning_rate:
        return None
    return (
        "the embedded backbone is tiny, and the settings are the paper's for 8 billion parameters; "
        "--config embedded has settings that it learns with"
    )


def run_guarded(work: Callable[[], None]) -> None:
    """Run a command; what goes wrong is one sentence on stderr and an exit code.

    2 is bad input or a machine that lacks something, 1 a failure of the program, 130 an interrupt.
    """
    try:
        work()
    except MsrRecError as error:
        _end(str(error), 2)
    except OSError as error:
        if os.environ.get("MSRREC_TRACEBACK"):
            raise
        _end(_describe_os_error(error), 2)
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, SystemExit) and ended.code != 130:
            raise
        _end("interrupted; the same command goes on where it was", 130)  # Typer's exit says nothing


def _describe_os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    what = error.strerror or str(error).strip() or type(error).__name__
    todo = {
        errno.ENOSPC: "free space there and run the same command again",
        errno.EROFS: "choose a place that can be written",
        errno.EACCES: "choose a place that you may read and write",
    }.get(error.errno or 0, "MSRREC_TRACEBACK=1 shows where")
    return f"{where}{what}; {todo}"


def _end(sentence: str, code: int) -> None:
    print(f"msrrec: {sentence}", file=sys.stderr)
    sys.exit(code)
