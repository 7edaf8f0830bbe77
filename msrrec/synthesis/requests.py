"""Requests to the teacher about each example, with what pruning needs to judge completions."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.data.leakage import later_titles, shows_later
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


Requests = dict[str, TeacherRequest]
"""Requests by example id, in the order of the examples."""

_RENDER: dict[str, Callable[..., str]] = {
    "chain": partial(render_prompt, "full"),
    "plain": render_plain_prompt,
}
"""The prompt's renderer by ``synthesis.prompt``."""


def build_requests(dataset: Dataset, config: RunConfig) -> Requests:
    """The requests for a split's examples by example id, in their order.

    Training examples are left out if their history or candidates show what the user bought in
    validation or test, for example after a repeated purchase.

    Raises:
        DataError: If the split has no examples, or all of them are left out.
    """
    split = config.synthesis.split
    examples = dataset.examples(split, config.synthesis.num_examples)
    if not examples:
        raise DataError(
            f"{dataset.path}: the {split} split has no examples; expected at least one; prepare it "
            "with data.train_examples_per_user above 0 and users of at least 4 events"
        )
    later_of = later_titles(dataset) if split == "train" else {}
    found = (_build(dataset, e, config, later_of.get(e.user_id, ())) for e in examples)
    requests = {request.example_id: request for request in found if request is not None}
    if not requests:
        raise DataError(
            f"{dataset.path}: every training prompt shows a held-out item of its user; expected "
            "users who buy other things later; check the order of their events"
        )
    return requests


def _build(
    dataset: Dataset, example: Example, config: RunConfig, later: tuple[str, ...]
) -> TeacherRequest | None:
    """The request for one example; None if its prompt would show a later purchase."""
    history, candidates = dataset.titles(example.history), dataset.titles(example.candidates)
    if shows_later((*history, *candidates), later):
        return None
    render, max_chars = _RENDER[config.synthesis.prompt], config.prompt.max_title_chars
    prompt = render(dataset.domain, history, candidates, config.prompt)
    return TeacherRequest(
        example.example_id,
        prompt,
        hash_prompt(prompt),
        tuple(show_titles(candidates, max_chars)),
        example.candidates.index(example.target),
        tuple(clean_title(title, max_chars) for title in history),
        later,
    )
