"""The journal: every answer of the teacher on durable storage before anything else happens to it.

One file of JSON lines per writer, so writers never share a file; a writer's last line may be torn
when it is killed. Answers are found again by what was asked (example, attempt, prompt, model and
sampling), so a rerun pays only for what it has not asked yet.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields

from msrrec import storage
from msrrec.chat.completions import Usage
from msrrec.config import EndpointConfig
from msrrec.data.dataset import Dataset
from msrrec.errors import DataError
from msrrec.journal import Journal, read_lines

FOLDER = "journal"
_MARK = "dataset.json"


@dataclass(frozen=True)
class Sampling:
    """What decides a completion beside its prompt.

    Attributes:
        variation: Parameters left out and added, as JSON; empty where there are none.
    """

    model: str
    temperature: float
    max_tokens: int
    variation: str = ""


def sampling_of(endpoint: EndpointConfig) -> Sampling:
    """How a teacher samples."""
    varied = json.dumps(endpoint.variation, sort_keys=True) if endpoint.variation else ""
    return Sampling(endpoint.model, endpoint.temperature, endpoint.max_tokens, varied)


@dataclass(frozen=True)
class JournalEntry:
    """One answer as it arrived.

    Attributes:
        attempt: 0-based number of the sample of this example.
        prompt_hash: Hash of the prompt's text, see ``hash_prompt``.
        sampling: Model asked for, and how it sampled.
        served_model: The model that the API says has answered.
        reasoning_content: What a reasoning model thought apart from its answer.
        usage: Token counts as the API gave them, and its price where it names one.
        latency_s: Seconds that the answering try took.
        tries: Calls made for it, failed ones included.
        answered_at_s: Unix seconds.
        teacher: Model and address that was asked.
        cost: In the currency of the price table; None where no price is known.
        run: The run that paid for it; to later ones it costs nothing.
    """

    example_id: str
    attempt: int
    prompt_hash: str
    sampling: Sampling
    text: str
    reasoning_content: str | None
    finish_reason: str
    usage: Usage
    served_model: str
    latency_s: float
    tries: int
    answered_at_s: float
    teacher: str = ""
    cost: float | None = None
    run: str = ""

    @property
    def call_id(self) -> tuple[str, int]:
        """The call that it answers: example and attempt."""
        return self.example_id, self.attempt

    def to_line(self) -> bytes:
        """One line of JSON; line breaks of the text are escaped in it."""
        row = asdict(self)
        row |= row.pop("sampling")
        return json.dumps(row, ensure_ascii=True).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "JournalEntry | None":
        """The inverse of ``to_line``; None for a torn or foreign line."""
        try:
            row = json.loads(line)
            row["sampling"] = Sampling(
                **{f.name: row[f.name] for f in fields(Sampling) if f.name in row}
            )
            known = {f.name: row[f.name] for f in fields(cls) if f.name in row}
            return cls(**known)
        except (ValueError, KeyError, TypeError):
            return None


def hash_prompt(prompt: str) -> str:
    """16 hexadecimal digits that change with any character."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def claim_journal(out: str, dataset: Dataset) -> str:
    """The journal's folder of an output folder, marked as this dataset's.

    Raises:
        DataError: If it holds answers about another dataset.
    """
    folder = storage.join(out, FOLDER)
    mark = storage.join(folder, _MARK)
    if not storage.exists(mark):
        storage.write_json(mark, {"fingerprint": dataset.fingerprint, "path": dataset.path})
        return folder
    found = storage.read_json(mark)
    if found.get("fingerprint") != dataset.fingerprint:
        raise DataError(
            f"{folder}: holds answers about another dataset ({found.get('path')}); expected "
            f"{dataset.path} as it is now; choose another --out"
        )
    return folder


def list_journal_files(folder: str) -> list[str]:
    """The journal's files, oldest writer first."""
    return Journal(folder).list_files()


def iter_entries(path: str) -> Iterator[JournalEntry | None]:
    """The entries of one file in order, None for each damaged line."""
    yield from map(JournalEntry.from_line, read_lines(path))


class JournalWriter:
    """Appends answers to a file of its own; ``append`` returns when they are on the disk.

    Answers that arrive during a write are written together by the next one, so the cost of
    ``fsync`` is shared and never blocks the event loop.
    """

    def __init__(self, folder: str) -> None:
        self._journal = Journal(folder)
        self._lines: list[bytes] = []
        self._lock = asyncio.Lock()

    async def append(self, entry: JournalEntry) -> None:
        """Write one answer durably.

        Raises:
            OSError: If the storage refuses, a full disk for example.
        """
        self._lines.append(entry.to_line())
        async with self._lock:  # whoever held it before may have written this line already
            if self._lines:
                batch, self._lines = b"".join(self._lines), []
                await asyncio.to_thread(self._journal.append, batch)
