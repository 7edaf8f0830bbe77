"""The stages that ``bench.scale`` measures, with stand-ins for models, teachers and engines."""

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.scale_inputs import (
    TEACHER,
    WORDS,
    make_dataset,
    make_evaluation,
    make_file,
    make_hits,
    make_interactions,
    make_journal,
    make_paths,
)
from bench.stand_in import StandIn, completion, http_reply, running
from msrrec.cluster import ray_session
from msrrec.comparison.predictions_file import evaluate_file, read_predictions_file
from msrrec.config import InferenceConfig, PromptConfig, load_config
from msrrec.data.dataset import Dataset
from msrrec.data.prepare import prepare
from msrrec.engines.base import Generation, GenerationRequest
from msrrec.errors import DataError
from msrrec.evaluation.evaluate import evaluate, evaluate_baseline
from msrrec.evaluation.faithfulness import measure_faithfulness
from msrrec.evaluation.score import score_evaluation
from msrrec.inference.fusion import SideOutput
from msrrec.inference.recommender import Recommender
from msrrec.models import ModelSource, locate_base
from msrrec.pipeline.study import tell_hits
from msrrec.reasoning.encoding import Query
from msrrec.reasoning.prompts import Side
from msrrec.recommendations.everybody import recommend_everybody
from msrrec.report.load import load_results
from msrrec.report.page import write_report
from msrrec.retrieval.build import build_index
from msrrec.retrieval.folder import save_index
from msrrec.synthesis.synthesize import synthesize
from msrrec.titles import REASONING_END, REASONING_START

NUM_CALLS = 64
"""Calls that the stage ``synthesize`` makes, whatever the number of users."""


class Answers(Recommender):
    """Answers without a model: a chain of sixty words and the candidate that a hash picks.

    Where candidates are to be scored, a hash decides their likelihoods too.
    """

    def generate_each(
        self, queries: Sequence[Query], sides: Sequence[Side]
    ) -> list[dict[Side, SideOutput | DataError]]:
        """An output per side, which the query's key decides."""
        make = _make_ranked if self.config.candidate_logprobs else _make_output
        return [{side: make(query, side) for side in sides} for query in queries]


def _make_output(query: Query, side: Side) -> SideOutput:
    rng = random.Random(f"{query.key} {side}")
    index = rng.randrange(len(query.candidates))
    reasoning = f"Step 1. Preference Summary: {' '.join(rng.choices(WORDS, k=60))}."
    answer = f"({index + 1}) {query.candidates[index]}"
    text = f"{REASONING_START}\n{reasoning}\n{REASONING_END}\n{answer}"
    return SideOutput(side, text, reasoning, index, 1 + rng.random(), 80)


def _make_ranked(query: Query, side: Side) -> SideOutput:
    rng = random.Random(f"{query.key} {side} ranked")
    logprobs = tuple(math.log(rng.random()) for _ in query.candidates)
    return replace(_make_output(query, side), candidate_logprobs=logprobs)


def build_stand_in(source: ModelSource, config: InferenceConfig) -> Recommender:
    """What an engine's actor builds in place of vLLM."""
    return Answers(None, max_model_len=4096, form=PromptConfig(), config=config)


class FirstAnswer:
    """An engine that takes the first answer that it may give; tokens are characters."""

    tokenizer: Any = None
    bos_token: str | None = None
    model_name = "stand-in"
    max_model_len = 1 << 20

    def encode(self, text: str, **_: object) -> list[int]:
        """A token for each character."""
        return [ord(letter) for letter in text]

    def decode(self, ids: Sequence[int], **_: object) -> str:
        """The inverse of ``encode``."""
        return "".join(map(chr, ids))

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """One output per request."""
        found = [r.choice.answers[0] if r.choice else (ord("."),) for r in requests]
        return [Generation(ids, (-0.5,) * len(ids), "stop") for ids in found]


def build_first(source: ModelSource, config: InferenceConfig) -> Recommender:
    """A recommender on such an engine."""
    engine = FirstAnswer()
    engine.tokenizer = engine
    form, most = PromptConfig(), engine.max_model_len
    return Recommender(engine, max_model_len=most, form=form, config=config, engine=engine)


def run_prepare(folder: Path) -> None:
    """Prepare all users, each with eight purchases."""
    config = load_config(None, ["data.num_users=0", "data.k_core=1"]).data
    files = (str(folder / "interactions"), str(folder / "items.parquet"))
    with ray_session(num_cpus=2):
        prepare("table", *files, str(folder / "out"), config)


async def _refuse(number: int, prompt: str) -> tuple[bytes, str]:
    """An answer that holds no chain."""
    return http_reply(200, json.dumps(completion("I can't say.")).encode()), "answer"


def run_synthesize(folder: Path) -> None:
    """Plan a call for every user, and make the first few."""
    with running(StandIn(_refuse)) as teacher, ray_session(num_cpus=2):
        settings = [f"teacher.base_url={teacher.url}", f"teacher.model={TEACHER.model}"]
        settings += ["teacher.api_key_env=null", f"synthesis.max_calls={NUM_CALLS}"]
        config = load_config(None, settings)
        synthesize(Dataset.load(str(folder / "dataset")), str(folder / "out"), config)


def run_judge(folder: Path) -> None:
    """Judge an answer for every user, and write paths and card."""
    config = load_config(None, [f"teacher.model={TEACHER.model}", "teacher.base_url=http://[::]"])
    with ray_session(num_cpus=2):
        synthesize(Dataset.load(str(folder / "dataset")), str(folder / "out"), config)


def run_train(folder: Path) -> None:
    """Tokenize a training example of every user, both chains; nothing is trained."""
    from msrrec.training.loop import prepare_examples

    config = load_config(None, [])
    source = locate_base(config.model, config.prompt)
    dataset = Dataset.load(str(folder / "dataset"))
    prepare_examples(dataset, str(folder / "reasoning"), source, config)


def run_evaluate(folder: Path) -> None:
    """Evaluate both sides and their fusion."""
    config = load_config(None, ["inference.num_engines=2"])
    dataset, out = Dataset.load(str(folder / "dataset")), str(folder / "out")
    with ray_session(num_cpus=2):
        evaluate(dataset, "embedded", out, config, ("fused",), build=build_stand_in)


def run_recommend(folder: Path) -> None:
    """Offers to every user from the whole catalogue, and the page."""
    config = load_config(None, ["inference.num_engines=2"])
    dataset, out = Dataset.load(str(folder / "dataset")), str(folder / "out")
    with ray_session(num_cpus=2):
        recommend_everybody(
            dataset, str(folder / "index"), "embedded", out, config, build=build_stand_in
        )


def run_baseline(folder: Path) -> None:
    """Evaluate the most popular items."""
    dataset = Dataset.load(str(folder / "dataset"))
    evaluate_baseline(dataset, "popularity", str(folder / "out"), load_config(None, []))


def run_negatives(folder: Path) -> None:
    """The same among negatives that are drawn anew."""
    config = load_config(None, ["evaluate.negatives=popular"])
    evaluate_baseline(
        Dataset.load(str(folder / "dataset")), "popularity", str(folder / "out"), config
    )


def run_file(folder: Path) -> None:
    """Evaluate a file of choices."""
    given = read_predictions_file(str(folder / "choices.parquet"))
    dataset = Dataset.load(str(folder / "dataset"))
    evaluate_file(dataset, "elsewhere", given, str(folder / "out"), load_config(None, []))


def run_score(folder: Path) -> None:
    """METEOR of every chain of every variant."""
    places = (str(folder / "evaluation"), str(folder / "reasoning"))
    dataset = Dataset.load(str(folder / "dataset"))
    score_evaluation(dataset, *places, load_config(None, []), None)


def run_faithfulness(folder: Path) -> None:
    """Find the whole chains, and change those of the first two hundred."""
    config = load_config(None, ["evaluate.interventions=[filler]"])
    dataset = Dataset.load(str(folder / "dataset"))
    place = str(folder / "evaluation")
    measure_faithfulness(dataset, place, "embedded", config, build=build_first)


def run_report(folder: Path) -> None:
    """Table, paired tests and page of an evaluation."""
    write_report(load_results(str(folder / "evaluation")), str(folder / "out"))


def run_study(folder: Path) -> None:
    """The verdict on two arms of three seeds."""
    tell_hits([str(folder / "hits.parquet")], str(folder / "out"), ())


def _make_dataset(folder: Path, num_users: int) -> None:
    make_dataset(folder / "dataset", num_users)


def make_index(folder: Path, num_users: int) -> None:
    """A prepared dataset, and the index of its catalogue."""
    _make_dataset(folder, num_users)
    settings = load_config(None, ["retrieval.tuning_users=200"]).retrieval
    save_index(build_index(Dataset.load(str(folder / "dataset")), settings), str(folder / "index"))


@dataclass(frozen=True)
class Stage:
    """A stage to measure.

    Attributes:
        make: Makes the inputs for a number of users in a folder.
        run: Runs the stage on the inputs, and writes into ``out`` in the same folder.
    """

    make: Callable[[Path, int], None]
    run: Callable[[Path], None]


STAGES = {
    "prepare": Stage(make_interactions, run_prepare),
    "synthesize": Stage(_make_dataset, run_synthesize),
    "judge": Stage(make_journal, run_judge),
    "train": Stage(make_paths, run_train),
    "evaluate": Stage(_make_dataset, run_evaluate),
    "recommend": Stage(make_index, run_recommend),
    "baseline": Stage(_make_dataset, run_baseline),
    "negatives": Stage(_make_dataset, run_negatives),
    "file": Stage(make_file, run_file),
    "score": Stage(make_evaluation, run_score),
    "faithfulness": Stage(make_evaluation, run_faithfulness),
    "report": Stage(make_evaluation, run_report),
    "study": Stage(make_hits, run_study),
}
"""What can be measured, in the order of the pipeline."""
