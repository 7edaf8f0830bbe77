"""Shared parts of baselines that fine-tune the backbone: examples, training, generation."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from msrrec.baselines.interface import Facts, WrittenChoice
from msrrec.baselines.language import Section, tuning_config
from msrrec.baselines.language.generation import OutputSpec, generate_all
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.engines.placement import trains_on_gpu
from msrrec.errors import DataError
from msrrec.models import ModelSource, locate_base
from msrrec.reasoning.encoding import Query, encode_text, show_query
from msrrec.reasoning.reading import read_strict
from msrrec.schema import Example
from msrrec.titles import clean_title
from msrrec.training.checkpoint import read_metrics, steps_of
from msrrec.training.examples import Encoded, ExampleSet, iter_training_examples, make_query
from msrrec.training.export import begin_folder
from msrrec.training.loop import fit
from msrrec.training.loss import NOT_SUPERVISED, RECOMMENDATION
from msrrec.training.model import check_4bit, load_tokenizer, probe_for_training
from msrrec.training.worker import TrainingJob

logger = logging.getLogger(__name__)

TIED = "its candidates count as tied"
"""What becomes of an example that does not fit where candidates are scored."""

_SLACK = 8
"""Tokens allowed beyond the longest candidate, so that the end of an answer is seen."""


class Tuned:
    """The backbone with LoRA for one baseline; subclasses define the texts.

    Args:
        config: Settings of the run.
        trains: False leaves the backbone untrained, to measure what training adds.
    """

    section: ClassVar[Section]
    learns_prompts = False

    def __init__(self, config: RunConfig, *, trains: bool = True) -> None:
        self.config, self.trains = config, trains
        self.form = config.prompt
        self.training = tuning_config(config, self.section)
        self.tokenizer: Any = None
        self.dataset: Dataset | None = None
        self._job: TrainingJob | None = None
        self._checkpoint: str | None = None

    def encode_training(self, example: Example) -> list[Encoded]:
        """The encoded training examples made of one example."""
        raise NotImplementedError

    def make_job(self, source: ModelSource, num_examples: int, folder: str) -> TrainingJob:
        """The model, and how it trains on a number of encoded examples."""
        del num_examples, folder
        return TrainingJob(source, self.config.model.dtype, self.training)

    def fit(self, dataset: Dataset, folder: str) -> Facts:
        """Train on every example of the training split; nothing is chosen on validation.

        Raises:
            ConfigError: If the cluster is too small.
            DataError: If an example does not fit even with one title of history, or there are no
                examples.
            ModelError: If the backbone can't be loaded, or training diverges.
        """
        source = locate_base(self.config.model)
        self.tokenizer, self.dataset = load_tokenizer(source), dataset
        if not self.trains:
            self._job = self.make_job(source, 0, folder)
            return {"tuned": False}
        probe_for_training(source, self.training.lora)
        check_4bit(self.training)
        on_gpu = trains_on_gpu(self.training, source)
        num_shown = 0

        def encode_all() -> Iterator[Encoded]:
            nonlocal num_shown
            for example in iter_training_examples(dataset):
                num_shown += 1
                yield from self.encode_training(example)

        examples, place = ExampleSet.collect(encode_all()), begin_folder(folder)
        self._job = self.make_job(source, len(examples), folder)
        last, resumed = fit(self._job, examples, None, place, on_gpu=on_gpu)
        self._checkpoint = last
        row = read_metrics(last)[-1]
        return {
            "tuned": True,
            "num_left_out": dataset.partitions("train").num_examples - num_shown,
            "num_examples": len(examples),
            "num_shortened": examples.num_shortened,
            "num_tokens": int(examples.lengths.sum()),
            "steps": steps_of(last),
            "steps_resumed": resumed,
            **{name: row[name] for name in ("loss", "tokens_per_s")},
        }

    @property
    def max_tokens(self) -> int:
        """Maximum number of tokens of prompt and output together."""
        return int(min(self.training.max_seq_len, self.tokenizer.model_max_length))

    def query(self, example: Example) -> Query:
        """An example as titles instead of item ids; long ones are cut as prompts show them."""
        assert self.dataset is not None, "fit comes first"
        return show_query(make_query(self.dataset, example), self.form.max_title_chars)

    def generate(self, prompts: Sequence[Sequence[int]], spec: OutputSpec) -> list[list[float]]:
        """The model's output after each prompt; see ``generation.generate_all``."""
        assert self._job is not None, "fit comes first"
        return generate_all(self._job, self._checkpoint, prompts, spec, self.config.inference)


class TitleTuned(Tuned):
    """A backbone that writes the title it chooses; subclasses define the prompt."""

    def prompt(self, example: Example, room: int) -> tuple[list[int], int]:
        """The prompt within a limit of tokens, and how many of the oldest titles were left out."""
        raise NotImplementedError

    def show(self, title: str) -> str:
        """A title as prompts show it."""
        return clean_title(title, self.form.max_title_chars)

    def render_answer(self, title: str, index: int) -> str:
        """The answer for a candidate, in the tokens with which the prompt's list has it.

        Args:
            title: As ``query`` gives it.
            index: 0-based place in the list.
        """
        raise NotImplementedError

    def number(self, index: int) -> str:
        """The text before a 0-based candidate's title, by ``prompt.answer_format``.

        A number before the title helps small models: the choice is then a single token, which
        attention at the end of a candidate's line can point to.
        """
        return f"({index + 1}) " if self.form.answer_format == "number_title" else ""

    def encode_training(self, example: Example) -> list[Encoded]:
        """The prompt, and the target's title as answer."""
        index = example.candidates.index(example.target)
        answer = self.render_answer(self.query(example).candidates[index], index)
        room = self.max_tokens - len(encode_text(self.tokenizer, answer)) - 1
        prompt, dropped = self.prompt(example, room)
        return [join(self.tokenizer, prompt, dropped, answer, whole=self.learns_prompts)]

    def write(self, examples: Sequence[Example]) -> list[WrittenChoice]:
        """The titles, decoded greedily and without constraint; an answer's first line counts.

        An example that does not fit gets an empty, invalid answer.
        """
        lengths = [self._answer_tokens(example) for example in examples]
        prompts: dict[int, list[int]] = {}
        for n, (example, length) in enumerate(zip(examples, lengths, strict=True)):
            with drop_unfit("the example counts as invalid"):
                prompts[n], _ = self.prompt(example, self.max_tokens - length)
        longest = max((lengths[n] for n in prompts), default=0)
        generated = self.generate(
            list(prompts.values()), OutputSpec(longest, max_length=self.max_tokens)
        )
        written = dict(zip(prompts, generated, strict=True))
        return [self._read(example, written.get(n, [])) for n, example in enumerate(examples)]

    def _answer_tokens(self, example: Example) -> int:
        """Number of tokens of the longest possible answer, and a few more."""
        titles = enumerate(self.query(example).candidates)
        answers = (self.render_answer(title, n) for n, title in titles)
        return max(len(encode_text(self.tokenizer, answer)) for answer in answers) + _SLACK

    def _read(self, example: Example, ids: Sequence[float]) -> WrittenChoice:
        text = str(self.tokenizer.decode(ids, skip_special_tokens=True))
        shown = list(map(self.show, self.query(example).candidates))
        return WrittenChoice(text, read_strict(text, shown), len(ids))


@contextlib.contextmanager
def drop_unfit(consequence: str) -> Iterator[None]:
    """Skip an example that does not fit, with a warning, and continue with the others.

    Args:
        consequence: What becomes of it, for the warning.
    """
    try:
        yield
    except DataError as error:
        logger.warning("%s; %s", error, consequence)


def encode_beginning(tokenizer: Any) -> list[int]:
    """The beginning-of-text token, if the tokenizer has one."""
    return [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]


def join(
    tokenizer: Any, prompt: Sequence[int], dropped: int, answer: str, *, whole: bool = False
) -> Encoded:
    """Prompt, answer and end token as one example, in which the answer is supervised.

    Args:
        tokenizer: The backbone's tokenizer.
        prompt: Token ids.
        dropped: Number of history titles left out of it.
        answer: The answer; it may contain an untrusted title, so nothing in it becomes a special
            token.
        whole: Whether to train on the prompt too, except on its first token, which has no context.
    """
    written = [*encode_text(tokenizer, answer), tokenizer.eos_token_id]
    prompt_segment = RECOMMENDATION if whole else NOT_SUPERVISED
    segments = [NOT_SUPERVISED, *[prompt_segment] * (len(prompt) - 1)]
    return Encoded([*prompt, *written], segments + [RECOMMENDATION] * len(written), dropped)
