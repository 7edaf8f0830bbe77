"""The work of each stage: calls the library's functions with the contents of a ``Call``.

Heavy modules are imported only when their stage runs.
"""

from contextlib import nullcontext as no_ray
from typing import TYPE_CHECKING

from msrrec import storage
from msrrec.chat.keys import find_key
from msrrec.cluster import ray_session
from msrrec.data.dataset import Dataset
from msrrec.errors import ConfigError
from msrrec.nodes import check_readable
from msrrec.stage import Call, Summary, decisive_settings

if TYPE_CHECKING:
    from msrrec.data.sources import Inputs


def check_prepare(call: Call) -> None:
    """Refuse missing files and settings that the source would ignore.

    Raises:
        MsrRecError: If a file is missing or a setting would be ignored.
    """
    _find_inputs(call)


def prepare(call: Call) -> Summary:
    """Turn raw purchases into a dataset; Ray is started for large inputs."""
    from msrrec.data.prepare import prepare

    named = call.inputs.get("interactions"), call.inputs.get("items")
    is_large = _find_inputs(call).needs_ray
    with ray_session(*call.config.ray.session) if is_large else no_ray():
        return prepare(call.options["source"], *named, call.out, call.config.data)


def _find_inputs(call: Call) -> "Inputs":
    from msrrec.data.prepare import check

    named = call.inputs.get("interactions"), call.inputs.get("items")
    return check(call.options["source"], *named, call.out, call.config.data)


def check_index(call: Call) -> None:
    """Refuse missing files of further items, and an evaluation that trained no SASRec.

    Raises:
        DataError: If there are none.
    """
    from msrrec.retrieval.extra import find_extra_items

    if "extra_items" in call.inputs:
        find_extra_items(call.inputs["extra_items"])
    if "sasrec" in call.inputs:
        from msrrec.retrieval.folder import check_sasrec

        check_sasrec(_network(call.inputs["sasrec"]))


def extra_items_settings(call: Call) -> dict[str, object]:
    """The settings that say how the files of further items are read, if there are any."""
    names = ("item_columns", "separator", "encoding") if "extra_items" in call.inputs else ()
    return {f"data.{name}": decisive_settings(call.config, f"data.{name}") for name in names}


def index(call: Call) -> Summary:
    """Build an index over a dataset's catalogue and further items."""
    from msrrec.retrieval.build import build_index
    from msrrec.retrieval.extra import find_extra_items, read_extra_items
    from msrrec.retrieval.folder import save_index

    extra = []
    if path := call.inputs.get("extra_items"):
        is_large = find_extra_items(path).needs_ray
        with ray_session(*call.config.ray.session) if is_large else no_ray():
            extra = read_extra_items(path, call.config.data)
    sasrec = _network(call.inputs["sasrec"]) if "sasrec" in call.inputs else None
    built = build_index(_dataset(call), call.config.retrieval, extra, sasrec)
    save_index(built, call.out)
    return {"out": call.out, "num_extra_items": len(extra), **built.describe()}


def _network(evaluation: str) -> str:
    """The folder of the network that an evaluation of SASRec trained."""
    from msrrec.evaluation.write import NETWORK

    return storage.join(evaluation, NETWORK)


def check_synthesize(call: Call) -> None:
    """Refuse a dataset without examples, a cap on money without prices, and damaged weights.

    Raises:
        MsrRecError: If nothing could be asked, or a teacher's weights are missing or damaged.
    """
    from msrrec.models import locate_model
    from msrrec.synthesis.synthesize import estimate_run
    from msrrec.weights import check_source

    estimate_run(_dataset(call), call.out, call.config)
    for endpoint in call.config.teacher.endpoints:
        if endpoint.engine == "vllm":
            check_source(locate_model(endpoint.model))


def probe_synthesize(call: Call) -> None:
    """Refuse a teacher whose API key is missing, if calls are left to make.

    Raises:
        ConfigError: If it is.
    """
    from msrrec.synthesis.synthesize import estimate_run, require_keys

    try:
        require_keys(call.config.teacher, call.keys)
    except ConfigError:
        if estimate_run(_dataset(call), call.out, call.config)["calls"]:
            raise


def local_teacher_settings(call: Call) -> dict[str, object]:
    """The settings of inference, if a teacher's weights are loaded here."""
    is_local = any(endpoint.engine == "vllm" for endpoint in call.config.teacher.endpoints)
    return {"inference": decisive_settings(call.config, "inference")} if is_local else {}


def synthesize(call: Call) -> Summary:
    """Make reasoning paths for a dataset."""
    from msrrec.synthesis.synthesize import synthesize

    return synthesize(_dataset(call), call.out, call.config, call.keys)


def check_train(call: Call) -> None:
    """Refuse missing reasoning, and a base model that is missing or not whole.

    Raises:
        ConfigError: If reasoning is to be trained on and none is named.
        ModelError: If the settings name no model, or one whose files are damaged.
    """
    from msrrec.errors import ConfigError
    from msrrec.models import locate_base
    from msrrec.weights import check_source

    if call.config.train.arm != "none" and "reasoning" not in call.inputs:
        raise ConfigError(
            "--reasoning: missing; give the folder made by `msrrec synthesize`, "
            "or set train.arm=none to train without"
        )
    check_source(locate_base(call.config.model))


def probe_train(call: Call) -> None:
    """Refuse a base model whose tensors are not all there, or places of LoRA that are tied.

    Raises:
        ConfigError: If the places are tied.
        ModelError: If the model is not whole.
    """
    from msrrec.models import locate_base
    from msrrec.training.model import probe_for_training

    probe_for_training(locate_base(call.config.model), call.config.train.lora)


def facts_settings(call: Call) -> dict[str, object]:
    """What tells the arm ``facts`` from its models that learned facts in steps of their own."""
    return {"facts": "in the step of their purchase"} if call.config.train.arm == "facts" else {}


def train(call: Call) -> Summary:
    """Train a model on a dataset and its paths."""
    from msrrec.training.loop import train

    return train(_dataset(call), call.inputs.get("reasoning"), call.out, call.config)


def probe_evaluate(call: Call) -> None:
    """Refuse a model whose tokenizer, chat template or tensors are not whole.

    Raises:
        ModelError: If they are not.
    """
    from msrrec.loading import probe_for_inference
    from msrrec.models import locate_model

    source = locate_model(call.inputs["model"], call.config.model, call.config.prompt)
    probe_for_inference(source, call.config.inference)


def evaluate(call: Call) -> Summary:
    """Evaluate a model on the frozen examples."""
    from msrrec.evaluation.evaluate import evaluate

    check_readable(call.inputs["model"])
    return evaluate(
        _dataset(call),
        call.inputs["model"],
        call.out,
        call.config,
        call.options["variants"],
        name=call.options["name"],
    )


def check_evaluate(call: Call) -> None:
    """Refuse a missing or damaged model, or a gate's evaluation that is missing.

    Raises:
        ModelError: If the model is missing, or its files are damaged.
        DataError: If ``evaluate.gate`` names no evaluation on validation of this dataset, or
            ``evaluate.index`` no index.
    """
    from msrrec.evaluation.fusion_study import load_validation
    from msrrec.models import locate_model
    from msrrec.retrieval.folder import read_version
    from msrrec.weights import check_source

    check_source(locate_model(call.inputs["model"], call.config.model))
    if call.config.evaluate.gate:
        load_validation(call.config.evaluate.gate, _dataset(call))
    if call.config.evaluate.index:
        read_version(call.config.evaluate.index)


def baseline_settings(call: Call) -> dict[str, object]:
    """The settings that decide a baseline's result."""
    from msrrec.baselines import BASELINES

    entry, seed = BASELINES[call.options["system"]], call.config.inference.seed
    return {"seed": seed, "revision": entry.revision, **entry.decisive(call.config)}


def evaluate_baseline(call: Call) -> Summary:
    """Evaluate a baseline on the frozen examples."""
    from msrrec.evaluation.evaluate import evaluate_baseline

    return evaluate_baseline(_dataset(call), call.options["system"], call.out, call.config)


def score(call: Call) -> Summary:
    """Score an evaluation's reasoning against the teacher's."""
    from msrrec.evaluation.score import score_evaluation

    key = find_key(call.config.judge, call.keys)
    return score_evaluation(_dataset(call), call.out, call.inputs["references"], call.config, key)


def check_faithfulness(call: Call) -> None:
    """Refuse a missing or damaged model, and the offline teacher as paraphraser.

    Raises:
        ConfigError: If the teacher is to write paraphrases and none is configured.
        ModelError: If the model is missing, or its files are damaged.
    """
    from msrrec.models import locate_model
    from msrrec.weights import check_source

    teacher = call.config.teacher
    if _asks_teacher(call) and teacher.engine == "api" and teacher.base_url is None:
        raise ConfigError(
            "evaluate.paraphraser=teacher: no teacher is configured, and the offline one writes no "
            "paraphrases; expected teacher.base_url and teacher.model; give them, or leave "
            "evaluate.paraphraser at program"
        )
    check_source(locate_model(call.inputs["model"], call.config.model))


def paraphraser_settings(call: Call) -> dict[str, object]:
    """The settings that decide paraphrases; none where a program writes them."""
    if not _asks_teacher(call):
        return {}
    decisive = decisive_settings(call.config, "teacher")
    return {"evaluate.paraphraser": "teacher", "teacher": decisive}


def _asks_teacher(call: Call) -> bool:
    asked = call.config.evaluate
    return asked.paraphraser == "teacher" and "paraphrase" in asked.interventions


def faithfulness(call: Call) -> Summary:
    """Change the chains of an evaluation, and ask for its answers again."""
    from msrrec.evaluation.faithfulness import measure_faithfulness

    return measure_faithfulness(
        _dataset(call),
        call.out,
        call.inputs["model"],
        call.config,
        call.options["side"],
        keys=call.keys,
    )


def check_recommend(call: Call) -> None:
    """Refuse a missing or damaged model, an index of another dataset, and an empty list of users.

    Raises:
        ModelError: If the model is missing, or its files are damaged.
        DataError: If the index is missing or of another dataset, or no user is listed.
    """
    from msrrec.models import locate_model
    from msrrec.recommendations.candidates import read_users
    from msrrec.retrieval.folder import load_index
    from msrrec.weights import check_source

    check_source(locate_model(call.inputs["model"], call.config.model))
    index = load_index(call.inputs["index"])
    index.require_dataset(_dataset(call).fingerprint, call.inputs["dataset"])
    if path := call.inputs.get("users"):
        read_users(path)


def recommend(call: Call) -> Summary:
    """Recommend for every user of a dataset, or for those that a file lists."""
    from msrrec.recommendations.candidates import read_users
    from msrrec.recommendations.everybody import recommend_everybody

    for name in ("model", "index"):
        check_readable(call.inputs[name])
    listed = call.inputs.get("users")
    return recommend_everybody(
        _dataset(call),
        call.inputs["index"],
        call.inputs["model"],
        call.out,
        call.config,
        mode=call.options["mode"],
        users=read_users(listed) if listed else None,
    )


def check_sweep(call: Call) -> None:
    """Refuse what training would refuse.

    Raises:
        MsrRecError: If training could not begin.
    """
    check_train(call)


def sweep_score_settings(call: Call) -> dict[str, object]:
    """The settings of the scores, if the sweep scores the reasoning."""
    from msrrec.stage import SCORE

    if "references" not in call.inputs:
        return {}
    return {name: decisive_settings(call.config, name) for name in SCORE.sections}


def sweep(call: Call) -> Summary:
    """Train and evaluate at several weights of the losses."""
    from msrrec.pipeline.sweep import sweep

    return sweep(
        call.inputs["dataset"],
        call.inputs["reasoning"],
        call.out,
        call.config,
        call.options["variants"],
        references=call.inputs.get("references"),
        keys=call.keys,
    )


def _dataset(call: Call) -> Dataset:
    return Dataset.load(call.inputs["dataset"])
