"""What the command line shows: settings, and errors as one sentence with an exit code."""

import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from msrrec.config import EMBEDDED, Config, RunConfig
from msrrec.errors import MsrRecError, hide_credentials

if TYPE_CHECKING:
    from rich.table import Table


def settings_help(*sections: str) -> str:
    """The settings of some sections with defaults and descriptions, for ``--help``.

    Args:
        sections: Names of sections, or of single settings such as ``evaluate.gate``.
    """
    defaults = RunConfig()
    lines = [
        f"[cyan]{key}[/cyan]={_escaped(_json(value))}  {_escaped(meaning)}"
        for name in sections
        for key, value, meaning in _iter_named(name, defaults)
    ]
    return "\n\n".join(["[bold]Settings[/bold]", *lines])


def _escaped(text: str) -> str:
    """Text whose brackets are shown, not taken for the help's markup."""
    return text.replace("[", "\\[")


def _iter_named(name: str, config: RunConfig) -> Iterator[tuple[str, Any, str]]:
    """What ``iter_settings`` gives of a section, or of the one setting that is named."""
    section, _, key = name.partition(".")
    for found in iter_settings(section, getattr(config, section)):
        if not key or found[0] == name:
            yield found


def iter_settings(name: str, config: Config) -> Iterator[tuple[str, Any, str]]:
    """Dotted name, value and description of every setting of a section."""
    for key, field in type(config).model_fields.items():
        value = getattr(config, key)
        if isinstance(value, Config):
            yield from iter_settings(f"{name}.{key}", value)
        else:
            yield f"{name}.{key}", value, " ".join((field.description or "").split())


def show_settings(command: str, config: RunConfig, sections: Sequence[str]) -> None:
    """Print on stderr the settings that a command would use, changed ones marked."""
    from rich.console import Console
    from rich.table import Table

    defaults, changed = RunConfig(), 0
    table = Table(box=None, pad_edge=False, show_edge=False)
    for heading in ("setting", "value", "default where it differs"):
        table.add_column(heading, overflow="fold")
    for name in sections:
        before = {key: value for key, value, _ in _iter_named(name, defaults)}
        for key, value, _ in _iter_named(name, config):
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
    """Advice if the settings do not suit the embedded backbone, else None."""
    if config.model.name_or_path != EMBEDDED:
        return None
    if config.train.learning_rate != RunConfig().train.learning_rate:
        return None
    return (
        "the embedded backbone is tiny, but the settings are the paper's for 8 billion parameters; "
        "use --config embedded, whose settings suit it"
    )


def run_guarded(work: Callable[[], None]) -> None:
    """Run a command; an error becomes one sentence on stderr and an exit code.

    Exit codes: 1 for a failure of the program, 2 for bad input or a machine that lacks something,
    130 for an interrupt, 143 for SIGTERM, which ends a command as gently: `ray job stop` sends it.
    """
    try:
        _stop_gently(work)
    except MsrRecError as error:
        _end(str(error), 2)
    except OSError as error:
        if os.environ.get("MSRREC_TRACEBACK"):
            raise
        _end(_describe_os_error(error), 2)
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, SystemExit) and ended.code != 130:
            raise
        # Typer ends an interrupted command with this code and prints nothing.
        _end("interrupted; run the same command again to continue", 130)


def _stop_gently(work: Callable[[], None]) -> None:
    """Run a command; SIGTERM raises SystemExit in it, so that it closes what is open.

    The sentence is printed at once, as whoever stops a command may kill it seconds later. Whatever
    the interrupted work then raises, the exit code is 143.
    """
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        if not stopped:
            print("msrrec: stopped; run the same command again to continue", file=sys.stderr)
        stopped = True
        sys.exit(128 + signal.SIGTERM)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)
    try:
        work()
    except BaseException:
        if stopped:
            sys.exit(128 + signal.SIGTERM)
        raise


def _describe_os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    what = error.strerror or str(error).strip() or type(error).__name__
    todo = {
        errno.ENOSPC: "free space there and run the same command again",
        errno.EROFS: "choose a place that can be written",
        errno.EACCES: "choose a place that you may read and write",
    }.get(error.errno or 0, "set MSRREC_TRACEBACK=1 to see where")
    return f"{where}{what}; {todo}"


def _end(sentence: str, code: int) -> None:
    print(f"msrrec: {hide_credentials(sentence)}", file=sys.stderr)
    sys.exit(code)
