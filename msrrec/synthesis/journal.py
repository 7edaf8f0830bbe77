"""The journal: every completion of a teacher is stored durably before it is used.

Each writer has its own file of JSON lines; its last line may be incomplete if it was killed.
Completions are found again by request (example, attempt, prompt, model and sampling), so a rerun
pays only for requests that have none.
"""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields

from msrrec import storage
from msrrec.chat.completions import Usage
from msrrec.config import EndpointConfig
from msrrec.data.dataset import Dataset
from msrrec.fingerprint import identify_dataset
from msrrec.journal import Journal, read_lines

logger = logging.getLogger(__name__)

FOLDER = "journal"
_MARK = "dataset.json"


@dataclass(frozen=True)
class Sampling:
    """What decides a completion besides its prompt.

    Attributes:
        variation: Parameters left out and added, as JSON; empty if there are none.
    """

    model: str
    temperature: float
    max_tokens: int
    variation: str = ""


def sampling_of(endpoint: EndpointConfig) -> Sampling:
    """How a teacher samples."""
    varied = json.dumps(endpoint.variation, sort_keys=True) if endpoint.variation else ""
    return Sampling(
        storage.shown(endpoint.model), endpoint.temperature, endpoint.max_tokens, varied
    )


@dataclass(frozen=True)
class JournalEntry:
    """One completion as it arrived.

    Attributes:
        attempt: 0-based number of the sample of this example.
        prompt_hash: Hash of the prompt's text, see ``hash_prompt``.
        sampling: Requested model, and how it sampled.
        served_model: The model that the API reports.
        reasoning_content: A reasoning model's hidden reasoning, which is separate from the
            completion.
        usage: Token counts reported by the API, and the price if it reports one.
        latency_s: Seconds that the successful try took.
        tries: Number of tries, failed ones included.
        answered_at_s: Time of arrival in Unix seconds.
        teacher: Name of the teacher: model and address.
        cost: Cost in the currency of the prices; None if no price is known.
        run: Id of the run that paid for it; later runs reuse it for free.
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
        """The call that led to it: example id and attempt."""
        return self.example_id, self.attempt

    def to_line(self) -> bytes:
        """One line of JSON; line breaks in the text are escaped."""
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
    """A hash of a prompt (16 hexadecimal digits)."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def claim_journal(out: str, dataset: Dataset) -> str:
    """The journal folder of an output folder, marked with the dataset that it is asked about.

    Small files that earlier runs left on an object store are joined. Another dataset, or the same
    one changed, finds its own prompts among the completions, which are known by the hash of their
    prompt; all others stay in the journal and are only counted.
    """
    folder = storage.join(out, FOLDER)
    mark = storage.join(folder, _MARK)
    identity = identify_dataset(dataset)
    found = storage.read_object(mark) if storage.exists(mark) else None
    if found and found.get("fingerprint") != identity:
        logger.warning(
            "%s: holds completions about %s; those of unchanged prompts count, the others stay",
            folder,
            found.get("path"),
        )
    if num := Journal(folder).compact():
        logger.info("%s: joined %d small files", folder, num)
    if not found or found.get("fingerprint") != identity:
        storage.write_json(mark, {"fingerprint": identity, "path": dataset.path})
    return folder


def list_journal_files(folder: str) -> list[str]:
    """The journal's files, oldest writer first."""
    return Journal(folder).list_files()


def iter_entries(path: str) -> Iterator[JournalEntry | None]:
    """The entries of one file in order, None for each damaged line."""
    yield from map(JournalEntry.from_line, read_lines(path))


class JournalWriter:
    """Appends completions to its own file; ``append`` returns once they are on disk.

    Completions that arrive during a write are written together by the next one. So the cost of
    ``fsync`` is shared and never blocks the event loop. On an object store a write waits until a
    second after the last one began, as it makes an object; what came since is at risk until then.
    """

    def __init__(self, folder: str) -> None:
        self._journal = Journal(folder)
        self._lines: list[bytes] = []
        self._lock = asyncio.Lock()
        self._next = 0.0

    async def append(self, entry: JournalEntry) -> None:
        """Write one completion durably.

        Raises:
            OSError: If the storage refuses, a full disk for example.
        """
        self._lines.append(entry.to_line())
        async with self._lock:  # the previous holder may already have written this line
            if self._lines:
                await asyncio.sleep(self._next - time.monotonic())
                self._next = time.monotonic() + self._journal.batch_s
                batch, self._lines = b"".join(self._lines), []
                await asyncio.to_thread(self._journal.append, batch)
