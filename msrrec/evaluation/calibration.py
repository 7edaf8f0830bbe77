"""Whether the probability of a recommended item is the share of users for whom it is right."""

from array import array
from collections.abc import Sequence

import numpy as np

from msrrec.evaluation.results import CalibrationResult
from msrrec.inference.fusion import Recommendation
from msrrec.inference.ranking import log_probabilities, mean_probabilities
from msrrec.metrics.calibration import expected_calibration_error, fit_temperature, temper
from msrrec.schema import Example


class CalibrationTally:
    """The candidates' probabilities of one variant, 8 bytes a candidate."""

    def __init__(self) -> None:
        self._values, self._lengths = array("d"), array("q")
        self._targets, self._chosen = array("q"), array("q")

    def add(self, examples: Sequence[Example], decisions: Sequence[Recommendation]) -> None:
        """Add users; those without a recommendation or likelihoods are left out.

        One whose target is no candidate, as retrieval missed it, is a recommendation that is wrong.
        """
        for example, decision in zip(examples, decisions, strict=True):
            found = mean_probabilities(decision)
            if not found or decision.index is None:
                continue
            self._values.extend(found)
            self._lengths.append(len(found))
            self._targets.append(example.target_slot)
            self._chosen.append(decision.index)

    def result(self, temperature: float | None, *, is_validation: bool) -> CalibrationResult | None:
        """The error before and after a temperature; None without users.

        Args:
            temperature: What validation taught; None where it taught nothing.
            is_validation: Whether these users may choose the temperature themselves.
        """
        if not self._lengths:
            return None
        ends = np.cumsum(self._lengths)[:-1]
        logprobs = [
            log_probabilities(row.tolist()) for row in np.split(np.asarray(self._values), ends)
        ]
        found = [n for n, target in enumerate(self._targets) if target >= 0]
        is_chosen_here = temperature is None and is_validation and bool(found)
        if is_chosen_here:
            targets = [self._targets[n] for n in found]
            temperature = fit_temperature([logprobs[n] for n in found], targets)
        return CalibrationResult(
            num_users=len(self._lengths),
            mean_confidence=float(np.mean(self._confidences(logprobs, 1.0))),
            error=self._error(logprobs, 1.0),
            temperature=temperature,
            is_chosen_here=is_chosen_here,
            tempered_error=None if temperature is None else self._error(logprobs, temperature),
        )

    def _confidences(self, logprobs: Sequence[Sequence[float]], temperature: float) -> list[float]:
        rows = zip(logprobs, self._chosen, strict=True)
        return [temper(row, temperature)[chosen] for row, chosen in rows]

    def _error(self, logprobs: Sequence[Sequence[float]], temperature: float) -> float:
        hits = np.asarray(self._chosen) == np.asarray(self._targets)
        return expected_calibration_error(self._confidences(logprobs, temperature), hits)
