"""Recommending from a whole catalogue: an index proposes, the model chooses and ranks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from msrrec.config import InferenceConfig, PromptConfig, RecommendConfig
from msrrec.errors import DataError
from msrrec.inference.describe import describe
from msrrec.inference.fusion import Recommendation
from msrrec.inference.ranking import RankedCandidate, rank_candidates
from msrrec.inference.recommender import Recommender, RequestMode
from msrrec.retrieval.folder import load_index
from msrrec.retrieval.histories import Purchase
from msrrec.retrieval.index import Index
from msrrec.schema import Item
from msrrec.stage import Summary


@dataclass(frozen=True)
class CatalogueRecommendation:
    """The best items of a catalogue for one history.

    Attributes:
        candidates: The items that the index proposed.
        ranking: The best of them, see ``rank_candidates``; their indices count ``candidates``.
        decision: The model's choice among them.
    """

    candidates: tuple[Item, ...]
    ranking: tuple[RankedCandidate, ...]
    decision: Recommendation

    @property
    def items(self) -> tuple[Item, ...]:
        """The best items, the recommended one first."""
        return tuple(self.candidates[one.index] for one in self.ranking)

    def describe(self) -> Summary:
        """As the command line prints it: of one among candidates, with the items' ids."""
        found = describe([item.title for item in self.candidates], self.decision)
        ranking = [
            {"item": item.title, "id": item.item_id, "score": one.score}
            for item, one in zip(self.items, self.ranking, strict=True)
        ]
        return {**found, "ranking": ranking, "retrieved": len(self.candidates)}


class CatalogueRecommender:
    """Recommends the best items of an index's catalogue.

    Attributes:
        index: May be replaced while others recommend, such as by one with further items.
    """

    def __init__(self, recommender: Recommender, index: Index, settings: RecommendConfig) -> None:
        """Put a recommender on an index.

        Args:
            recommender: It measures the candidates' likelihoods
                (``inference.candidate_logprobs``).
            index: What proposes candidates.
            settings: How many candidates, and how many items are returned.
        """
        self.recommender, self.index, self.settings = recommender, index, settings

    @classmethod
    def from_pretrained(
        cls,
        model_dir: str,
        index_dir: str,
        inference: InferenceConfig | None = None,
        settings: RecommendConfig | None = None,
        form: PromptConfig | None = None,
    ) -> "CatalogueRecommender":
        """A recommender on vLLM, and an index made by ``msrrec index``.

        Raises:
            ModelError: If the model is missing or not one.
            DataError: If the index is missing or not one.
        """
        index = load_index(index_dir)
        always = {"constrained": True, "candidate_logprobs": True}
        chosen = (inference or InferenceConfig()).model_copy(update=always)
        recommender = Recommender.from_pretrained(model_dir, chosen, form)
        return cls(recommender, index, settings or RecommendConfig())

    def recommend(
        self,
        history: Sequence[str],
        *,
        top_k: int | None = None,
        domain: str | None = None,
        mode: RequestMode = "fused",
    ) -> CatalogueRecommendation:
        """The best items for a history.

        Args:
            history: Item ids or titles, oldest first, at least one. A title that the catalogue
                lacks counts by its words.
            top_k: Number of items; None for the settings'.
            domain: As for ``Recommender.recommend``.
            mode: Likewise.

        Raises:
            DataError: If the history is empty, or the catalogue has fewer than two items that the
                customer lacks.
        """
        index = self.index
        purchases = find_purchases(index, history)
        candidates = propose(index, purchases, self.settings.num_candidates)
        titles = [describe_purchase(index, purchase) for purchase in purchases]
        shown = [item.title for item in candidates]
        decision = self.recommender.recommend(titles, shown, domain=domain, mode=mode)
        ranking = rank_candidates(decision)[: top_k or self.settings.top_k]
        return CatalogueRecommendation(candidates, ranking, decision)


def propose(index: Index, purchases: Sequence[Purchase], count: int) -> tuple[Item, ...]:
    """The items that an index proposes for a history.

    Raises:
        DataError: If there are fewer than two.
    """
    if not purchases:
        raise DataError("history: found no purchases; expected at least one, oldest first")
    (found,) = index.search([purchases], count)
    catalogue = index.catalogue
    items = tuple(catalogue.items[catalogue.codes[one.item_id]] for one in found)
    if len(items) < 2:
        raise DataError(
            f"the index offers {len(items)} items that this customer lacks; expected at least two, "
            "so give it more items, or build it with retrieval.repeats=true"
        )
    return items


def find_purchases(index: Index, history: Iterable[str]) -> list[Purchase]:
    """Purchases from texts, each an item id or a title of the catalogue, or any other title.

    Raises:
        DataError: If a text is blank.
    """
    found: list[Purchase] = []
    for n, text in enumerate(history):
        if not text.strip():
            raise DataError(f"history[{n}]: is blank; expected an item id or a title")
        named = [text] if text in index.catalogue.codes else index.catalogue.find_title(text)
        found.append(named[0] if named else Item("", text))
    return found


def describe_purchase(index: Index, purchase: Purchase) -> str:
    """The title of a purchase."""
    if isinstance(purchase, Item):
        return purchase.title
    return index.catalogue.items[index.catalogue.codes[purchase]].title
