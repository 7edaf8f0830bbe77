"""Requests to the teacher about each example, with what pruning needs to judge completions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from msrrec.config import PromptConfig, RunConfig
from msrrec.data.dataset import Dataset
from msrrec.data.leakage import later_items, shows_later
from msrrec.data.places import Places
from msrrec.errors import DataError
from msrrec.reasoning.prompts import render_plain_prompt, render_prompt
from msrrec.schema import Example
from msrrec.synthesis.journal import JournalEntry, hash_prompt
from msrrec.synthesis.pruning import Judgement, judge
from msrrec.titles import clean_title, show_titles


@dataclass(frozen=True)
class TeacherRequest:
    """One example's prompt for the teacher, and what pruning needs besides.

    Attributes:
        candidates: Titles as the prompt shows them, in the frozen order.
        target: 0-based index of the target; never marked in the prompt.
        history: Titles of the history in the prompt.
        later: Titles that the user bought in validation and test; they must be in no prompt or
            path.
    """

    example_id: str
    prompt: str
    prompt_hash: str
    candidates: tuple[str, ...]
    target: int
    history: tuple[str, ...] = ()
    later: tuple[str, ...] = ()

    def is_answered_by(self, entry: JournalEntry) -> bool:
        """Whether a journal entry of this example is a completion of exactly this prompt."""
        return entry.prompt_hash == self.prompt_hash

    def judge(self, entry: JournalEntry) -> Judgement:
        """The verdict on a completion of this request."""
        return judge(entry, self.candidates, self.target, self.history, self.later)


@dataclass(frozen=True)
class _Form:
    """How prompts are written.

    Attributes:
        domain: What prompts call the shop.
        kind: As ``synthesis.prompt``.
        prompt: The section ``prompt`` of the settings.
    """

    domain: str
    kind: str
    prompt: PromptConfig


_ITEMS = pa.large_list(pa.int32())
_ROWS = pa.schema(
    [
        pa.field("example_id", pa.large_string()),
        pa.field("history", _ITEMS),
        pa.field("candidates", _ITEMS),
        pa.field("target", pa.int32()),
        pa.field("later", _ITEMS),
    ]
)
"""What a request is built from; items are places in the catalogue, ``target`` one in the
candidates."""

_BATCH = 5_000
"""Rows that are in memory as Python objects at once."""

Requests = Mapping[str, TeacherRequest]
"""Requests by example id, in the order of the calls."""

_RENDER: dict[str, Callable[..., str]] = {
    "chain": partial(render_prompt, "full"),
    "plain": render_plain_prompt,
}
"""The prompt's renderer by ``synthesis.prompt``."""


class ExampleRequests(Mapping[str, TeacherRequest]):
    """Requests about examples in their order, each built from some bytes when it is asked for.

    A prompt takes kilobytes, and few of very many are asked in one run.
    """

    def __init__(self, rows: pa.Table, titles: Sequence[str], form: _Form) -> None:
        """Keep what the requests are built from.

        Args:
            rows: As ``_ROWS``, one per request.
            titles: Titles of the items, in the order of the catalogue.
            form: How prompts are written.
        """
        self._rows, self._titles, self._form = rows, titles, form
        self._places = Places(rows["example_id"].combine_chunks())

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        for batch in self._rows.select(["example_id"]).to_batches(_BATCH):
            yield from batch["example_id"].to_pylist()

    def __getitem__(self, example_id: str) -> TeacherRequest:
        place = self._places.find(example_id)
        if place is None:
            raise KeyError(example_id)
        (row,) = self._rows.slice(place, 1).to_pylist()
        return self._build(row)

    def iter_prompts(self) -> Iterator[str]:
        """The prompts of all requests."""
        for batch in self._rows.to_batches(_BATCH):
            for row in batch.to_pylist():
                yield self._prompt(self._named(row["history"]), self._named(row["candidates"]))

    def _named(self, places: Sequence[int]) -> tuple[str, ...]:
        return tuple(self._titles[place] for place in places)

    def _prompt(self, history: Sequence[str], candidates: Sequence[str]) -> str:
        form = self._form
        return _RENDER[form.kind](form.domain, history, candidates, form.prompt)

    def _build(self, row: Mapping[str, Any]) -> TeacherRequest:
        history, candidates = self._named(row["history"]), self._named(row["candidates"])
        prompt = self._prompt(history, candidates)
        max_chars = self._form.prompt.max_title_chars
        return TeacherRequest(
            row["example_id"],
            prompt,
            hash_prompt(prompt),
            tuple(show_titles(candidates, max_chars)),
            row["target"],
            tuple(clean_title(title, max_chars) for title in history),
            self._named(row["later"]),
        )


def iter_prompts(requests: Requests) -> Iterator[str]:
    """The prompts of all requests, one by one."""
    if isinstance(requests, ExampleRequests):
        return requests.iter_prompts()
    return (request.prompt for request in requests.values())


def build_requests(dataset: Dataset, config: RunConfig) -> ExampleRequests:
    """The requests for a split's examples by example id, in their order.

    Training examples are left out if their history or candidates show what the user bought in
    validation or test, for example after a repeated purchase.

    Raises:
        DataError: If the split has no examples, or all of them are left out.
    """
    split = config.synthesis.split
    examples = dataset.partitions(split, config.synthesis.num_examples)
    if not examples.num_examples:
        raise DataError(
            f"{dataset.path}: the {split} split has no examples; expected at least one; prepare it "
            "with data.train_examples_per_user above 0 and users of at least 4 events"
        )
    later_of = later_items(dataset) if split == "train" else {}
    codes = {item_id: n for n, item_id in enumerate(dataset.items)}
    rows = pa.concat_tables(
        pa.Table.from_pylist(
            [row for e in part if (row := _encode(dataset, e, codes, later_of))], _ROWS
        )
        for part in examples.read()
    ).combine_chunks()
    if not rows.num_rows:
        raise DataError(
            f"{dataset.path}: every training prompt shows a held-out item of its user; expected "
            "users who buy other things later; check the order of their events"
        )
    titles = [item.title for item in dataset.items.values()]
    return ExampleRequests(
        rows, titles, _Form(dataset.domain, config.synthesis.prompt, config.prompt)
    )


def _encode(
    dataset: Dataset,
    example: Example,
    codes: Mapping[str, int],
    later_of: Mapping[str, tuple[str, ...]],
) -> dict[str, object] | None:
    """The row of one example; None if its prompt would show a later purchase."""
    later = later_of.get(example.user_id, ())
    if shows_later(dataset.titles((*example.history, *example.candidates)), dataset.titles(later)):
        return None
    return {
        "example_id": example.example_id,
        "history": [codes[item_id] for item_id in example.history],
        "candidates": [codes[item_id] for item_id in example.candidates],
        "target": example.candidates.index(example.target),
        "later": [codes[item_id] for item_id in later],
    }
