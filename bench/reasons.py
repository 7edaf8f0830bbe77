"""Are the reasons true, and do choices follow from them? Tables of several models' evaluations.

Every folder holds one evaluation, after ``msrrec score`` and ``msrrec faithfulness``; what was not
measured there is left out.

    python -m bench.reasons NAME=EVALUATION ...
"""

import argparse
from collections.abc import Sequence
from operator import attrgetter

from msrrec.evaluation.interventions import FaithfulnessResult
from msrrec.evaluation.results import EvaluationResult, ReasoningScores
from msrrec.report.load import Evaluated, load_result
from msrrec.report.markdown import interval, one_line, plain_p, table_line
from msrrec.report.views import ANCHORS, METRICS

CLAIMS = {
    "all steps": "complete",
    "cited titles exist": "grounded",
    "chain and answer differ": "contradicted",
    "true lists": "true_lists",
    "true labels": "true_labels",
    "candidates that a true label names": "named_labels",
    "true wants": "true_wants",
}
"""Columns of the table of claims, and the figure of ``ReasoningMetrics`` in each."""


def render(named: Sequence[tuple[str, Evaluated]]) -> str:
    """All tables as Markdown, a section for each model."""
    lines = ["# Reasons: are they true, and do choices follow from them?"]
    for name, found in named:
        lines += ["", f"## {one_line(name)}", "", *_claims(found.result)]
        lines += ["", *_scores(found.scores)] if found.scores else []
        lines += ["", *_interventions(found.faithfulness)] if found.faithfulness else []
    lines += ["", "Brackets: 95%; Wilson's of shares, bootstrap over users of means, uncorrected."]
    return "\n".join(lines) + "\n"


def _header(*names: str) -> list[str]:
    return [table_line(names), "|" + "---|" * len(names)]


def _claims(result: EvaluationResult) -> list[str]:
    chains = {v: r.reasoning for v, r in result.variants.items() if r.reasoning}
    shown = [name for name, key in CLAIMS.items() if any(map(attrgetter(key), chains.values()))]
    lines = _header("chain", "users", *shown)
    for variant, found in chains.items():
        shares = [interval(getattr(found, CLAIMS[name])) for name in shown]
        lines.append(table_line((variant, f"{found.num_users:,}", *shares)))
    return lines


def _scores(scores: ReasoningScores) -> list[str]:
    metrics = list(scores.measured_with)
    lines = _header("text", *(METRICS[metric] for metric in metrics))
    for variant, found in scores.variants.items():
        shares = (interval(found[m].all if m in found else None) for m in metrics)
        lines.append(table_line((variant, *shares)))
    for anchor, given in scores.anchors.items():
        shares = (interval(given[m].mean if m in given else None) for m in metrics)
        lines.append(table_line((ANCHORS[anchor], *shares)))
    return [
        *lines,
        "",
        f"Against the {scores.num_references:,} of {scores.num_users:,} users whose teacher path "
        f"is correct; {'; '.join(f'{METRICS[m]}: {t}' for m, t in scores.measured_with.items())}.",
    ]


def _interventions(found: FaithfulnessResult) -> list[str]:
    lines = _header(
        f"change of the {found.side} chain",
        "choices that change",
        "its control changes",
        "p (Holm)",
        "to what the mistake names",
        "HitRatio@1 then",
        "users",
    )
    for row in found.rows:
        cells = (
            one_line(row.label),
            interval(row.changed),
            interval(row.control_changed),
            "–" if row.p_adjusted is None else plain_p(row.p_adjusted),
            interval(row.followed),
            interval(row.hit_ratio),
            str(row.num_users),
        )
        lines.append(table_line(cells))
    return [
        *lines,
        "",
        f"{found.num_users:,} of the {found.num_whole:,} users with a whole chain and a valid "
        f"choice, of {found.num_evaluated:,}; HitRatio@1 after the unchanged chain "
        f"{interval(found.hit_ratio)}; temperature {found.temperature}, seed {found.seed}; "
        f"paraphrases: {found.paraphraser}.",
    ]


def name_and_folder(text: str) -> tuple[str, str]:
    """The two parts of an argument.

    Raises:
        argparse.ArgumentTypeError: If one is missing.
    """
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"found {text!r}; expected NAME=EVALUATION")
    return name, folder


def main() -> None:
    """Print the tables of the named evaluations."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("evaluations", nargs="+", type=name_and_folder, metavar="NAME=EVALUATION")
    args = parser.parse_args()
    print(render([(name, load_result(folder)) for name, folder in args.evaluations]), end="")


if __name__ == "__main__":
    main()
