"""Judged answers without a journal."""

from typing import Any

from msrrec.synthesis.verdicts import JudgedEntry


def judged(**changes: Any) -> JudgedEntry:
    """A kept answer of 100 prompt and 10 completion tokens; ``changes`` are of its fields."""
    usual: dict[str, Any] = {
        "file": 0,
        "line": 0,
        "journal": "1.jsonl:1",
        "verdict": "kept",
        "status": "valid",
        "detail": "",
        "steps": (),
        "rule": None,
        "estimated_prompt_tokens": 100,
        "example_id": "e0",
        "attempt": 0,
        "model": "m",
        "served_model": "m",
        "teacher": None,
        "prompt_hash": "h",
        "answered_at_s": 0.0,
        "run": "",
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "cost": None,
        "latency_s": 1.0,
        "finish_reason": "stop",
        "tries": 1,
    }
    return JudgedEntry(**{**usual, **changes})
