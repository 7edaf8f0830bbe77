"""What all commands do alike: read the settings, run a stage, and print one line of JSON."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from msrrec import storage
from msrrec.arguments import expand
from msrrec.cluster import ask_for_token
from msrrec.config import RunConfig, load_config
from msrrec.console import show_settings
from msrrec.stage import Call, Stage, Summary

logger = logging.getLogger("msrrec.cli")


def resolve(
    command: str,
    config: str | None,
    overrides: Sequence[str] | None,
    dry_run: bool,
    sections: Sequence[str],
    **arguments: Any,
) -> RunConfig:
    """The settings of a run; with ``--dry-run`` they are shown and the command ends.

    A warning lists given settings that the command does not use: those outside ``sections``, which
    names sections, or single settings such as ``evaluate.gate``. A local Ray that the command
    starts will ask for a token.
    """
    given = list(overrides or ())
    resolved = load_config(config, given)
    read = (*sections, "tracking")
    unused = [text for text in given if not any(_is_part(text, name) for name in read)]
    if unused:
        logger.warning("%s does not use %s; ignored", command, ", ".join(unused))
    if dry_run:
        show_settings(command, resolved, sections)
        emit({**arguments, **resolved.model_dump(mode="json")})
        raise typer.Exit
    ask_for_token(resolved.ray.address)
    return resolved


def _is_part(override: str, name: str) -> bool:
    """Whether an override sets a section or setting, or a part of it."""
    return f"{override.partition('=')[0]}.".startswith(f"{name}.")


def emit(summary: Summary) -> None:
    """Print the summary as the one line of stdout."""
    print(storage.shown(json.dumps(summary, ensure_ascii=False)))


def teacher_keys(config: RunConfig) -> dict[str, str]:
    """The API keys of teachers and judge found in the environment, by variable name."""
    chats = (*config.teacher.endpoints, config.judge)
    names = {chat.api_key_env for chat in chats if chat.api_key_env}
    found = {name: os.environ.get(name, "").strip() for name in names}  # files end in a new line
    return {name: key for name, key in found.items() if key}


def run_stage(
    row: Stage,
    out: str,
    config: RunConfig,
    inputs: Mapping[str, str | None],
    overwrite: bool,
    **options: Any,
) -> None:
    """Run one stage and print its summary."""
    named = {name: expand(path) for name, path in inputs.items() if path is not None}
    call = Call(expand(out), config, named, options, teacher_keys(config))
    emit(row.run(call, overwrite=overwrite))
