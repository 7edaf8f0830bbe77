"""MSR-Rec: multi-step reasoning for LLM sequential recommendation.

The names below are the public functions; importing this package loads no torch, Ray, vLLM or
transformers.
"""

from typing import TYPE_CHECKING

from msrrec.inference.fusion import Recommendation, SideOutput, fuse
from msrrec.inference.perplexity import perplexity
from msrrec.inference.recommender import Recommender
from msrrec.reasoning.parsing import Chain, ParseFailure, parse_chain
from msrrec.titles import match_title

if TYPE_CHECKING:
    import torch

__version__ = "0.1.0"

__all__ = [
    "Chain",
    "ParseFailure",
    "Recommendation",
    "Recommender",
    "SideOutput",
    "fuse",
    "match_title",
    "parse_chain",
    "perplexity",
    "weighted_loss",
]


def weighted_loss(
    logits: "torch.Tensor",
    labels: "torch.Tensor",
    segments: "torch.Tensor",
    alpha: float,
    beta: float,
) -> "torch.Tensor":
    """The training loss (paper, Eq. 1-2); see ``msrrec.training.loss.weighted_loss``."""
    from msrrec.training.loss import weighted_loss as loss  # torch, seconds to import

    return loss(logits, labels, segments, alpha, beta)
