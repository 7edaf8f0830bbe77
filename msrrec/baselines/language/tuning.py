"""What systems that tune the backbone share: examples, training on Ray Train, and asking."""

from collections.abc import Sequence
from typing import Any, ClassVar

from msrrec.baselines.interface import Answer, Facts
from msrrec.baselines.language import Section, tuning_config
from msrrec.baselines.language.speaker import Wanted, ask
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.inference.decoding import Query, encode_text
from msrrec.models import ModelSource, locate_base
from msrrec.reasoning.parsing import parse_answer
from msrrec.reasoning.titles import clean_title
from msrrec.schema import Example
from msrrec.training.checkpoint import read_metrics, steps_of
from msrrec.training.examples import Encoded, ExampleSet, make_query, training_examples
from msrrec.training.export import begin_folder
from msrrec.training.loop import check_cluster, fit
from msrrec.training.loss import NOT_SUPERVISED, RECOMMENDATION
from msrrec.training.model import load_tokenizer
from msrrec.training.worker import Job

_SLACK = 8
"""Tokens that may be written beyond the longest candidate, so that its end is seen."""


class Tuned:
    """The backbone of a run with LoRA for one system; its file says with which texts.

    Args:
        config: Of the run.
        trains: False leaves the backbone as it is, to tell what training adds.
    """

    section: ClassVar[Section]
    learns_prompts = False

    def __init__(self, config: RunConfig, *, trains: bool = True) -> None:
        self.config, self.trains = config, trains
        self.training = tuning_config(config, self.section)
        self.tokenizer: Any = None
        self.dataset: Dataset | None = None
        self._job: Job | None = None
        self._checkpoint: str | None = None

    def encode_training(self, example: Example) -> list[Encoded]:
        """What one example of the training split teaches."""
        raise NotImplementedError

    def make_job(self, source: ModelSource, num_examples: int, folder: str) -> Job:
        """The model, and how it trains on so many encoded examples."""
        del num_examples, folder
        return Job(source, self.config.model.dtype, self.training)

    def fit(self, dataset: Dataset, folder: str) -> Facts:
        """Train on every example of the training split; no setting is left to validation.

        Raises:
            ConfigError: If the cluster is too small.
            DataError: If an example does not fit with one title of history, or there is none.
            ModelError: If the backbone can't be loaded, or training diverges.
        """
        source = locate_base(self.config.model)
        self.tokenizer, self.dataset = load_tokenizer(source), dataset
        if not self.trains:
            self._job = self.make_job(source, 0, folder)
            return {"tuned": False}
        on_gpu = check_cluster(self.training)
        encoded = [e for one in training_examples(dataset) for e in self.encode_training(one)]
        examples, place = ExampleSet.collect(encoded), begin_folder(folder)
        self._job = self.make_job(source, len(examples), folder)
        last = fit(self._job, examples, None, place, on_gpu=on_gpu)
        self._checkpoint = str(last)
        row = read_metrics(str(last))[-1]
        return {
            "tuned": True,
            "num_examples": len(examples),
            "num_shortened": examples.num_shortened,
            "num_tokens": int(examples.lengths.sum()),
            "steps": steps_of(last),
            **{name: row[name] for name in ("loss", "tokens_per_s")},
        }

    @property
    def max_tokens(self) -> int:
        """Of a prompt and what is written after it."""
        return int(min(self.training.max_seq_len, self.tokenizer.model_max_length))

    def query(self, example: Example) -> Query:
        """An example in titles."""
        assert self.dataset is not None, "fit comes first"
        return make_query(self.dataset, example)

    def ask(self, prompts: Sequence[Sequence[int]], wanted: Wanted) -> list[list[float]]:
        """What the model says after each prompt; see ``speaker.ask``."""
        assert self._job is not None, "fit comes first"
        return ask(self._job, self._checkpoint, prompts, wanted, self.config.inference)


class TitleTuned(Tuned):
    """A backbone that writes the title it chooses; a system's file says how it is asked."""

    def prompt(self, example: Example, room: int) -> tuple[list[int], int]:
        """Numbers of the prompt within so many, and how many of the oldest titles were left out."""
        raise NotImplementedError

    def show(self, title: str) -> str:
        """A title as prompts show it."""
        return clean_title(title)

    def render_answer(self, title: str, index: int) -> str:
        """What is to be written for a candidate, just as it stands in the prompt's list."""
        raise NotImplementedError

    def number(self, index: int) -> str:
        """What stands before a 0-based candidate's title by the run's ``model.answer_format``.

        A number before the title helps small models: the choice is then one token, which the end of
        a candidate's line can point to, whereas a title begins before anything is known of it.
        """
        return f"({index + 1}) " if self.config.model.answer_format == "number_title" else ""

    def encode_training(self, example: Example) -> list[Encoded]:
        """The prompt, and the target's title."""
        assert self.dataset is not None, "fit comes first"
        index = example.candidates.index(example.target)
        answer = self.render_answer(self.dataset.items[example.target].title, index)
        room = self.max_tokens - len(encode_text(self.tokenizer, answer)) - 1
        prompt, dropped = self.prompt(example, room)
        return [join(self.tokenizer, prompt, dropped, answer, whole=self.learns_prompts)]

    def write(self, examples: Sequence[Example]) -> list[Answer]:
        """The titles, decoded greedily and freely; an answer's first line counts."""
        queries = [self.query(example) for example in examples]
        shown = [list(map(self.show, query.candidates)) for query in queries]
        answers = {
            self.render_answer(title, n)
            for query in queries
            for n, title in enumerate(query.candidates)
        }
        longest = max(len(encode_text(self.tokenizer, answer)) for answer in answers)
        wanted = Wanted(max_new_tokens=longest + _SLACK)
        room = self.max_tokens - wanted.max_new_tokens
        written = self.ask([self.prompt(example, room)[0] for example in examples], wanted)
        texts = [str(self.tokenizer.decode(ids, skip_special_tokens=True)) for ids in written]
        return [
            Answer(text, parse_answer(text, titles), len(ids))
            for text, titles, ids in zip(texts, shown, written, strict=True)
        ]


def encode_beginning(tokenizer: Any) -> list[int]:
    """What a text begins with, where the tokenizer has a token for that."""
    return [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]


def join(
    tokenizer: Any, prompt: Sequence[int], dropped: int, answer: str, *, whole: bool = False
) -> Encoded:
    """Prompt, answer and end token as one example, of which the answer is learned.

    Args:
        tokenizer: Of the backbone.
        prompt: Token ids.
        dropped: History titles left out of it.
        answer: A stranger's title, perhaps, in which nothing becomes a special token.
        whole: Learn to write the prompt too, but for its first token, which nothing foretells.
    """
    written = [*encode_text(tokenizer, answer), tokenizer.eos_token_id]
    prompt_segment = RECOMMENDATION if whole else NOT_SUPERVISED
    segments = [NOT_SUPERVISED, *[prompt_segment] * (len(prompt) - 1)]
    return Encoded([*prompt, *written], segments + [RECOMMENDATION] * len(written), dropped)
