"""Try one small case of every kind of input that is known to break software of this sort.

    python -m bench.inputs

Prints, for each of 31 kinds, what becomes of its case: ``right``; ``wrong``, which is silent;
``refused``, an error of one sentence where an answer was possible; or ``traceback``. Without a
network, Ray or a GPU; run it from a checkout, as cases are built with helpers of the tests.
"""

import contextlib
import io
import json
import logging
import math
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msrrec.config import DataConfig, EndpointConfig, JudgeConfig, LoraConfig, ModelConfig
from msrrec.errors import MsrRecError

CASES: list["Case"] = []
CANDIDATES = ("Red Lamp", "Blue Shoe", "Oak Table")


@dataclass(frozen=True)
class Case:
    """One kind of input: its row, its name, and a function that says whether it went right."""

    row: int
    kind: str
    run: Callable[[Path], bool]


def case(row: int, kind: str) -> Callable[[Callable[[Path], bool]], Callable[[Path], bool]]:
    """Put a function into the table."""

    def add(run: Callable[[Path], bool]) -> Callable[[Path], bool]:
        CASES.append(Case(row, kind, run))
        return run

    return add


def refuses(call: Callable[[], Any]) -> bool:
    """Whether a call ends in one sentence for the user; False if it returns."""
    try:
        call()
    except MsrRecError as error:
        return "\n" not in str(error)
    return False


# Purchases and items


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def prepare_table(folder: Path, events: str, items: str, **settings: Any) -> dict[str, Any]:
    from msrrec.data.prepare import prepare

    paths = [write(folder / "events.csv", events), write(folder / "items.csv", items)]
    config = DataConfig(**{"k_core": 1, "num_users": 0, **settings})
    return prepare("table", *paths, str(folder / "out"), config)


def read_table(path: str, **settings: Any) -> int:
    """Rows of a table of interactions."""
    from msrrec.data.loading import read_file
    from msrrec.data.sources import make_source

    return len(read_file(make_source("table", DataConfig(**settings)), path))


ITEMS = "item_id,title\n" + "".join(f"i{n},Title {n}\n" for n in range(12))
ROWS = [(f"u{u}", f"i{(u + n) % 12}", 1_400_000_000 + n) for u in range(8) for n in range(5)]
HEADER = "user_id,item_id,timestamp\n"
EVENTS = HEADER + "".join(f"{user},{item},{at}\n" for user, item, at in ROWS)


@case(1, "CSV with backslash-escaped quotes")
def backslashes(folder: Path) -> bool:
    lines = ['u0,i1,2,"a 6\\" lamp"', "u0,i2,3,fine", 'u0,i3,4,"an 8\\" lamp"']
    text = "user_id,item_id,timestamp,title\n" + "\n".join(lines) + "\n"
    return read_table(write(folder / "events.csv", text)) == 3


@case(2, "UTF-8, BOM and byte 0x85 in movies.dat")
def encodings(folder: Path) -> bool:
    from msrrec.data.loading import parse_part
    from msrrec.data.sources import make_source

    source, found = make_source("movielens", DataConfig()), []
    for name, content in {
        "utf8": "\ufeff2::Misérables, Les (1995)::Drama\n3::Å Vita (2000)::Drama\n".encode(),
        "cp1252": b"2::City\x85 Lights (1931)::Drama\n",
    }.items():
        (folder / name).mkdir()
        path = write(folder / name / "movies.dat", content)
        items = parse_part(source, source.read_records(path, None)).to_pylist()
        found += [(item["item_id"], item["title"]) for item in items]
    ids, titles = zip(*found, strict=True)
    return ids == ("2", "3", "2") and "Misérables" in titles[0] and "City… Lights" in titles[2]


@case(3, "seconds and milliseconds in one input")
def units(folder: Path) -> bool:
    mixed = EVENTS + "u0,i7,1400000009000\nu1,i9,1400000009000\n"
    return refuses(lambda: prepare_table(folder, mixed, ITEMS))


@case(4, "categories as pandas writes them; nan as title")
def pandas_lists(_: Path) -> bool:
    from msrrec.data.text import category_path, is_missing

    written = ["['Home & Kitchen', 'Fans']", "[['Home & Kitchen', 'Fans']]"]
    paths = [category_path(text) for text in (*written, "('Home & Kitchen', 'Fans')")]
    missing = all(is_missing(word) for word in ("nan", "None", None, math.nan))
    return missing and all(path == ["Home & Kitchen", "Fans"] for path in paths)


@case(5, "no bought item is in the items file")
def other_items(folder: Path) -> bool:
    other = "item_id,title\nx1,Other\nx2,Other 2\n"
    return all(
        refuses(lambda missing=missing: prepare_table(folder, EVENTS, other, missing_items=missing))
        for missing in ("error", "drop")
    )


@case(6, "movielens named by its file; header ending in a comma")
def named_by_file(folder: Path) -> bool:
    from msrrec.data.sources import make_source

    write(folder / "movies.csv", "movieId,title,genres\n1,Heat (1995),Drama\n")
    ratings = write(folder / "ratings.csv", "userId,movieId,rating,timestamp\n1,1,4.0,978300760\n")
    make_source("movielens", DataConfig()).find(ratings, None)
    return read_table(write(folder / "t.csv", "user_id,item_id,timestamp,\nu,i,1\n")) == 1


@case(7, "BOM before JSON lines, NaN, semicolons, latin-1, float times")
def spellings(folder: Path) -> bool:
    record = '{"user_id": "u", "item_id": "i", "timestamp": 1400000000, "price": NaN}\n'
    table = HEADER.replace(",", ";") + "é;i;1400000000.00\nv;j;1.4e+09\n"
    json_path = write(folder / "a.jsonl", b"\xef\xbb\xbf\n" + record.encode())
    csv_path = write(folder / "b.csv", table.encode("latin-1"))
    return (read_table(json_path), read_table(csv_path)) == (1, 2)


@case(8, "a shop's export: own column names, ISO times, empty e-mails")
def shop(folder: Path) -> bool:
    from msrrec.data.prepare import prepare
    from tests.support.shop import SHOP_SETTINGS, write_shop

    config = DataConfig(k_core=1, num_users=0, num_negatives=2, **SHOP_SETTINGS)
    manifest = prepare("table", *write_shop(folder), str(folder / "out"), config)
    return bool(manifest["num_users"] == 10 and manifest["dropped_events"]["missing_user"] == 1)


@case(9, "--out is a file")
def out_is_a_file(folder: Path) -> bool:
    from msrrec.stage import check_out

    return refuses(lambda: check_out(write(folder / "out", "a file")))


# Teachers and judges


def chain(title: str) -> str:
    from msrrec.reasoning.prompts import render_reasoning

    steps = (
        "Likes reading.",
        "A warm light.",
        "It suits.",
        title,
        f"{title}, as it fits.",
    )
    return str(render_reasoning("full", steps))


def judge_text(text: str, finish_reason: str = "stop", hidden: str | None = None) -> Any:
    from msrrec.synthesis.journal import JournalEntry, Sampling
    from msrrec.synthesis.pruning import judge

    sampling = Sampling("m", 0.6, 64)
    entry = JournalEntry("e", 0, "h", sampling, text, hidden, finish_reason, {}, "m", 0.1, 1, 0.0)
    return judge(entry, CANDIDATES, target=0)


@case(10, "a draft inside the thoughts, then another answer")
def drafts(_: Path) -> bool:
    draft, final = f"{chain('Blue Shoe')}\n", chain("Red Lamp")
    tags = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("◁think▷", "◁/think▷"))
    texts = [f"{first}{draft}{last}\n{final}" for first, last in tags]
    texts += [f"{draft}\nOn second thoughts:\n{final}"]
    return all(judge_text(text).index == 0 for text in texts)


@case(11, "a chain cut short, under any finish reason")
def cut_chains(_: Path) -> bool:
    cut = chain("Red Lamp").partition("[reasoning_end]")[0].rpartition("fits")[0]
    reasons = ("length", "MAX_TOKENS", "max_tokens", "abort", "model_length", "timeout")
    return all(judge_text(cut, reason).verdict == "truncated" for reason in reasons)


def failure(status: int, body: Any) -> str:
    """What an API's error means, in one word."""
    from msrrec.chat.failures import classify, read_error

    return str(classify(read_error(status, {}, json.dumps(body).encode())))


@case(12, "429 RESOURCE_EXHAUSTED, please retry in 1.2s")
def quota(_: Path) -> bool:
    message = "You exceeded your current quota. Please retry in 1.2s"
    error = {"error": {"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED"}}
    return all(failure(429, body) == "throttled" for body in (error, [error]))


@case(13, "403 for one prompt that was flagged")
def flagged(_: Path) -> bool:
    body = {"error": {"message": "Input was flagged by moderation"}}
    return failure(403, body) == "moderated"


@case(14, "a judge that returns HTML, null or nothing")
def broken_judge(folder: Path) -> bool:
    from fastapi import FastAPI, Response

    from msrrec.engines.loopback import serve_on_loopback
    from msrrec.metrics.judge import judge_pairs

    bodies = ["<html>busy</html>", "null", "[]", '{"choices": [{"message": null}]}', "[" * 200_000]
    app = FastAPI()

    @app.post("/{number}/chat/completions")
    async def chat(number: int) -> Response:
        return Response(bodies[number], media_type="application/json")

    with serve_on_loopback(app) as url:
        return all(
            refuses(
                lambda n=n: judge_pairs(
                    [("a", "b")],
                    JudgeConfig(base_url=f"{url}/{n}", max_retries=0, votes=1),
                    str(folder / str(n)),
                    None,
                )
            )
            for n in range(len(bodies))
        )


@case(15, "a judge's mark in a fence, as 85/100, as text")
def marks(_: Path) -> bool:
    from msrrec.metrics.judge import read_score

    texts = ['```json\n{"score": 85}\n```', "Score: 85/100", '{"score": "85"}', '{"score": 85.0}']
    texts += ['<think>Hm.</think>{"score": 85}', 'Here is my rating: {"score": 85}']
    return all(read_score(text) == 85 for text in texts)


@case(16, "models that refuse max_tokens or a temperature")
def parameters(_: Path) -> bool:
    import asyncio

    from fastapi import FastAPI, HTTPException, Request

    from msrrec.chat.client import ChatClient
    from msrrec.engines.loopback import serve_on_loopback

    app = FastAPI()

    @app.post("/chat/completions")
    async def chat(request: Request) -> dict[str, Any]:
        body = await request.json()
        refused = {"max_tokens", "temperature"} & body.keys()
        if refused or body.get("reasoning_effort") != "low":
            message = f"Unsupported parameter: '{min(refused, default='')}'"
            raise HTTPException(400, {"error": {"message": message}})
        return {"choices": [{"message": {"content": str(body["max_completion_tokens"])}}]}

    def ask(url: str, **settings: Any) -> str:
        client = ChatClient("teacher", EndpointConfig(base_url=url, **settings), None, 30.0)
        sent = {"max_tokens": 64, "temperature": 0.6}

        async def complete() -> str:
            try:
                return (await client.complete("Hello", sent)).text
            finally:
                await client.close()

        return asyncio.run(complete())

    settings = {
        "rename": {"max_tokens": "max_completion_tokens"},
        "omit": ("temperature",),
        "extra_body": {"reasoning_effort": "low"},
    }
    with serve_on_loopback(app) as url:
        return refuses(lambda: ask(url)) and ask(url, **settings) == "64"


# Titles and answers


@case(17, "a title that begins another title")
def nested_titles(_: Path) -> bool:
    from msrrec.reasoning.choice import parse_recommendation

    wars = ("Star Wars", "Star Wars: Episode IV - A New Hope (1977)", "Heat")
    kindle = ("Kindle", "Kindle Paperwhite Case", "Lamp")
    return (
        parse_recommendation("Star Wars: Episode IV – A New Hope fits.", wars) == 1
        and parse_recommendation("I recommend Halo 3: ODST.", ("Halo 3", "Halo 3: ODST")) == 1
        and parse_recommendation("The Kindle case is best.", kindle) != 0
    )


@case(18, "other dashes and primes; half a surrogate pair")
def dashes(_: Path) -> bool:
    from msrrec.titles import clean_title, match_title

    titles = ("Blu-ray Player", 'Screen 24" wide')
    dashed = [match_title(f"Blu{dash}ray Player", titles) for dash in "\u2010\u2011\u2013\u2212"]
    clean_title("Lamp \ud83d").encode()
    return dashed == [0] * 4 and match_title("Screen 24″ wide", titles) == 1


@case(19, "an answer read by one rule in every row, strict and lenient")
def reading_rules(_: Path) -> bool:
    from msrrec.comparison.teacher import read_choice
    from msrrec.engines.base import Generation
    from msrrec.inference.codec import read_generation
    from msrrec.reasoning.reading import read_lenient, read_strict
    from msrrec.synthesis.journal import JournalEntry, Sampling
    from tests.support.engine import CharTokenizer

    text = chain("x").partition("5. ")[0] + "5. I recommend the **Red Lamp** because it is warm."
    entry = JournalEntry("e", 0, "h", Sampling("m", 0.6, 64), text, None, "stop", {}, "m", 0, 1, 0)
    ids = tuple(map(ord, text.removeprefix("[reasoning_start]")))
    ours = read_generation(
        CharTokenizer(), "full", CANDIDATES, Generation(ids, (-0.1,) * len(ids), "stop")
    )
    strict = (read_strict(text, CANDIDATES), read_choice(entry, CANDIDATES), ours.index)
    lenient = (read_lenient(text, CANDIDATES), read_lenient(ours.text, CANDIDATES))
    return strict == (None, None, None) and lenient == (0, 0)


# Models


def save_model(folder: Path, *, tied: bool = False) -> Any:
    from tests.support.models import save_llama, source_of

    save_llama(str(folder), tied=tied)
    return source_of(str(folder))


@case(20, "LoRA on one of two tied matrices")
def tied_lora(folder: Path) -> bool:
    from msrrec.training.model import probe_for_training

    source = save_model(folder, tied=True)
    targets = (("lm_head",), ("embed_tokens",), ("q_proj", "lm_head"))
    return all(
        refuses(lambda t=t: probe_for_training(source, LoraConfig(targets=t))) for t in targets
    )


@case(21, "a chat template that asks for the date, fails or drops the message")
def templates(_: Path) -> bool:
    from msrrec.reasoning.template import TEMPLATE_DATE, pin_date, split_template
    from tests.support.models import make_tokenizer

    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ strftime_now('%Y-%m-%d') }} {{ messages[0].content }}"
    pin_date(tokenizer, TEMPLATE_DATE)
    dated = split_template(tokenizer)[0] == f"{TEMPLATE_DATE} "
    tokenizer.chat_template = "{{ bos_token }}"
    drops = refuses(lambda: split_template(tokenizer))
    tokenizer.chat_template = "{{ raise_exception('no system message') }}"
    return dated and drops and refuses(lambda: split_template(tokenizer))


@case(22, "a base without some tensors, or with another prefix")
def missing_tensors(folder: Path) -> bool:
    from msrrec.loading import load_causal
    from tests.support.models import rewrite_weights

    source = save_model(folder)
    rewrite_weights(source.path, lambda found: {k: v for k, v in found.items() if "head" not in k})
    headless = refuses(lambda: load_causal(source))
    rewrite_weights(source.path, lambda found: {f"student.{k}": v for k, v in found.items()})
    return headless and refuses(lambda: load_causal(source))


@case(23, "a shard that is an LFS pointer or cut")
def damaged_shards(folder: Path) -> bool:
    from msrrec.weights import check_folder
    from tests.support.models import LFS_POINTER, write_shards

    write_shards(folder)
    shard = folder / "model-00002-of-00002.safetensors"
    os.truncate(shard, shard.stat().st_size - 1)
    cut = refuses(lambda: check_folder(folder))
    shard.write_text(LFS_POINTER)
    return cut and refuses(lambda: check_folder(folder))


@case(24, "--model with a typing error, no network")
def typing_error(_: Path) -> bool:
    from msrrec.models import locate_base
    from msrrec.weights import check_source

    began = time.monotonic()
    source = locate_base(ModelConfig(name_or_path="typo/path"))
    return refuses(lambda: check_source(source)) and time.monotonic() - began < 15


@case(25, "NaN log-probabilities from an engine")
def nan_logprobs(_: Path) -> bool:
    from msrrec.engines.base import Generation
    from msrrec.inference.codec import read_generation
    from tests.support.engine import CharTokenizer

    ids = tuple(map(ord, "It fits.\n[reasoning_end]\nRed Lamp"))
    generation = Generation(ids, (math.nan,) * len(ids), "stop")
    side = read_generation(CharTokenizer(), "full", CANDIDATES, generation)
    return side.index is None


# Metrics and tables


def table_2(*names: str) -> Any:
    """The paper's Table 2 with MSR-Rec and baselines whose HitRatio@1 rises from name to name."""
    from msrrec.evaluation.systems import MSR_REC, identify_baseline
    from msrrec.report.paper import build_tables
    from tests.support.results import system_id, system_row

    own = system_row(system_id("ours", "trained", MSR_REC, "msrrec"), "fused", 0.5)
    systems = [identify_baseline(name) for name in names]
    rows = [system_row(system, system.id, 0.1 + n / 10) for n, system in enumerate(systems)]
    return build_tables([own, *rows])[0]


@case(26, "a system's untrained twin in the paper's row")
def paper_rows(_: Path) -> bool:
    table = table_2("tallrec-gen-untrained", "tallrec-gen")
    ours = {line.name: line.ours["a"][0].value for line in table.lines if line.ours}
    return ours.get("TALLRec (7B)") == 0.2 and len(ours) == 3


@case(27, "improvement over the best other where none was trained")
def gain(_: Path) -> bool:
    return set(table_2("random", "popularity").gains.values()) == {None}


@case(28, "MRR with ties against the target")
def ties(_: Path) -> bool:
    from msrrec.metrics.ranking import rank_metrics
    from msrrec.schema import Example

    examples = [Example(str(n), str(n), ("h",), "a", ("a", "b")) for n in range(4)]
    ranking = rank_metrics(examples, ["b"] * 4, scores=[(0.5, 0.5)] * 4).ranking
    return ranking is not None and abs(ranking.mrr.value - 0.75) < 1e-9


@case(29, "GPTScore of an empty text")
def empty_text(_: Path) -> bool:
    from msrrec.metrics.text import gptscore_logprob

    pairs = [("", "red lamps"), ("red lamps", "red lamps")]
    empty, right = gptscore_logprob(pairs, "embedded").values
    return empty is None or (right is not None and empty < right)


@case(30, "METEOR without nltk installed")
def without_nltk(_: Path) -> bool:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    return any(name.startswith("nltk") for name in project["dependencies"])


@case(31, "corrected p beside a detectable difference that ignores the correction")
def corrections(_: Path) -> bool:
    from msrrec.metrics.statistics import detectable_difference, holm
    from msrrec.page import format_p

    alone, among_ten = (detectable_difference(1500, 0.2, num_tests=n) for n in (1, 10))
    return (
        alone is not None
        and among_ten is not None
        and among_ten > alone
        and holm([0.001, 0.04]) == [0.002, 0.04]
        and format_p(0.0) == "p < 0.001"
    )


def outcome(one: Case) -> str:
    """What becomes of a case, in one word."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        try:
            return "right" if one.run(Path(folder)) else "wrong"
        except MsrRecError:
            return "refused"
        except Exception as error:
            return f"traceback ({type(error).__name__})"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what libraries write while a case runs."""
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def main() -> None:
    os.environ.setdefault("TQDM_DISABLE", "1")
    began, found = time.monotonic(), []
    for one in sorted(CASES, key=lambda one: one.row):
        found.append(outcome(one))
        print(f"{one.row:2}  {found[-1]:24}  {one.kind}", flush=True)
    counts = {word: sum(text.startswith(word) for text in found) for word in WORDS}
    print(", ".join(f"{count} {word}" for word, count in counts.items()), end="")
    print(f"; {len(found)} kinds in {time.monotonic() - began:.0f} s")
    sys.exit(counts["wrong"] + counts["traceback"] > 0)


WORDS = ("right", "wrong", "refused", "traceback")

if __name__ == "__main__":
    main()
