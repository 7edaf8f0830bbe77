"""What a service knows of its shop: the catalogue, and recommendations made ahead of time."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from msrrec.config import RecommendConfig
from msrrec.errors import DataError
from msrrec.recommendations.catalogue import describe_purchase
from msrrec.recommendations.rows import Offer, read_recommendations
from msrrec.retrieval.folder import load_index
from msrrec.retrieval.histories import Purchase
from msrrec.schema import Item
from msrrec.titles import clean_title
from serve.catalogue import LiveCatalogue
from serve.http_models import (
    Candidates,
    HttpError,
    ItemBody,
    Named,
    PurchasesBody,
    RecommendRequest,
    RecommendResponse,
    invalid,
)
from serve.purchases import ToldPurchases
from serve.stored import ChangedUser, StoredOffers
from serve.storing import keeping


@dataclass(frozen=True)
class ShopArgs:
    """Folders of what a service knows of its shop, as of ``AppArgs``; None for what it lacks."""

    index: str | None = None
    recommendations: str | None = None
    settings: RecommendConfig = field(default_factory=RecommendConfig)
    purchases: str | None = None
    copied_purchases: str | None = None
    changes: str | None = None


def check_shop(index: str | None, recommendations: str | None) -> None:
    """Refuse folders that hold something else, before engines start.

    Raises:
        DataError: If one does.
    """
    if index:
        load_index(index)
    if recommendations:
        next(read_recommendations(recommendations))


def open_shop(args: ShopArgs, max_candidates: int) -> "Shop":
    """The shop of a service."""
    catalogue = LiveCatalogue(args.index, args.settings, args.changes) if args.index else None
    stored = StoredOffers(args.recommendations) if args.recommendations else None
    told = None
    if stored is not None and args.purchases:
        told = ToldPurchases(stored, args.purchases, args.copied_purchases)
    return Shop(max_candidates, catalogue, stored, told)


class Shop:
    """Reads requests that name items or users."""

    def __init__(
        self,
        max_candidates: int,
        catalogue: LiveCatalogue | None = None,
        stored: StoredOffers | None = None,
        told: ToldPurchases | None = None,
    ) -> None:
        """Know what is given.

        Args:
            max_candidates: Maximum number of candidates of a request.
            catalogue: What requests without candidates search.
            stored: What users are answered who are named alone.
            told: Keeps their purchases; None keeps them in memory alone.
        """
        self._max_candidates = max_candidates
        self._catalogue, self._stored, self._told = catalogue, stored, told

    @property
    def index_version(self) -> str | None:
        """The version of the catalogue's index as of now."""
        return self._catalogue.index.version if self._catalogue else None

    @property
    def changes(self) -> str | None:
        """The folder of the changes of items; None without a catalogue."""
        return self._catalogue.changes if self._catalogue else None

    async def find_offers(self, body: RecommendRequest) -> list[Offer] | None:
        """What was recommended ahead of time to a user who is named alone; None if nothing is left.

        Raises:
            HttpError: 404 if the user is unknown.
        """
        if body.user_id is None or body.history is not None or body.candidates is not None:
            return None
        await self.follow()
        offers = self._stored.find(body.user_id) if self._stored else None
        if offers is None and self._history(body.user_id) is None:
            raise _unknown_user(body.user_id)
        return [one for one in offers or () if self._is_offered(one.item_id)]

    def _is_offered(self, item_id: str) -> bool:
        """Whether an item may be recommended; one that the catalogue does not know may be."""
        catalogue = self._catalogue.index.catalogue if self._catalogue else None
        code = catalogue.codes.get(item_id) if catalogue else None
        return catalogue is None or code is None or bool(catalogue.is_offered[code])

    async def follow(self) -> None:
        """Know of what other replicas were told of items and purchases, from now on."""
        if self._catalogue is not None:
            await self._catalogue.follow()
        if self._told is not None:
            await self._told.follow()

    async def catch_up(self) -> None:
        """Know of all purchases that other replicas were told of until now."""
        if self._told is not None:
            await self._told.catch_up()

    async def read(self, body: RecommendRequest) -> tuple[list[str], Candidates]:
        """The titles of a request's history, and its candidates.

        Raises:
            HttpError: 422 that names the field, or 404 for an unknown user.
        """
        await self.follow()
        purchases = self._read_history(body)
        history = [self._title(purchase) for purchase in purchases]
        if body.candidates is not None:
            return history, self._given(body.candidates)
        if self._catalogue is None:
            raise invalid(
                "candidates",
                "candidates: found none, and this service has no catalogue; expected at least two "
                "titles, or a service started with --index",
            )
        items = await self._catalogue.propose(purchases)
        titles = tuple(item.title for item in items)
        return history, Candidates(titles, tuple(item.item_id for item in items), retrieved=True)

    def _read_history(self, body: RecommendRequest) -> list[Purchase]:
        if (body.history is None) == (body.user_id is None):
            found = "neither" if body.history is None else "both"
            raise invalid("history", f"history, user_id: found {found}; expected one of them")
        if body.history is not None:
            return [self._read(one, f"history[{n}]") for n, one in enumerate(body.history)]
        assert body.user_id is not None
        history = self._history(body.user_id)
        if history is None:
            raise _unknown_user(body.user_id)
        return [self._read(self.name(one), "user_id") for one in history]

    def name(self, text: str) -> Named:
        """A purchase of a stored history: an id if the catalogue knows it, else a title."""
        is_known = self._catalogue is not None and text in self._catalogue.index.catalogue.codes
        return Named(id=text) if is_known else Named(title=text)

    def _read(self, named: Named, field: str) -> Purchase:
        """A purchase; an id that the catalogue lacks needs a title."""
        catalogue = self._catalogue.index.catalogue if self._catalogue else None
        if named.id is not None and catalogue is not None and named.id in catalogue.codes:
            return named.id
        if named.title is None:
            raise invalid(field, f"{field}: the catalogue has no item {named.id!r}; give its title")
        same = catalogue.find_title(named.title) if catalogue else []
        return same[0] if same else Item(named.id or "", named.title)

    def _title(self, purchase: Purchase) -> str:
        if isinstance(purchase, Item):
            return purchase.title
        assert self._catalogue is not None  # without one, every purchase has a title
        return describe_purchase(self._catalogue.index, purchase)

    def _given(self, candidates: Sequence[Named]) -> Candidates:
        if len(candidates) > self._max_candidates:
            raise invalid(
                "candidates",
                f"candidates: found {len(candidates)}; expected at most {self._max_candidates}",
            )
        titles = (
            self._title(self._read(named, f"candidates[{n}]"))
            if named.title is None
            else named.title
            for n, named in enumerate(candidates)
        )
        return Candidates(tuple(titles), tuple(named.id for named in candidates))

    def _history(self, user_id: str) -> tuple[str, ...] | None:
        return self._stored.history(user_id) if self._stored else None

    async def add_purchases(self, user_id: str, body: PurchasesBody) -> None:
        """Keep what a user bought.

        Raises:
            HttpError: 404 if the service holds no recommendations, 422 for a title without visible
                text, 503 if the storage refuses.
        """
        stored = self._require_stored()
        bought = [self._read(one, f"items[{n}]") for n, one in enumerate(body.items)]
        names = [clean_title(one.title) if isinstance(one, Item) else one for one in bought]
        if "" in names:
            field = f"items[{names.index('')}]"
            raise invalid(field, f"{field}: the title is blank; expected visible text")
        if self._told is None:
            stored.add_purchases(user_id, names)
            return
        with keeping("purchase"):
            await self._told.add(user_id, names)

    def history(self, user_id: str) -> tuple[str, ...]:
        """The latest purchases of a user, oldest first.

        Raises:
            HttpError: 404 if the service holds no recommendations.
        """
        return self._require_stored().history(user_id) or ()

    def _require_stored(self) -> StoredOffers:
        if self._stored is None:
            raise HttpError(
                404, "not_found", "this service holds no recommendations made ahead of time"
            )
        return self._stored

    def changed(self, user_id: str) -> ChangedUser | None:
        """What is known of a user since the recommendations were made."""
        return self._stored.changed(user_id) if self._stored else None

    async def take(self, user_id: str, changed: ChangedUser) -> None:
        """Know of a user's purchases, and keep what another replica recommended since."""
        await self.catch_up()
        if self._stored is not None and changed.offers is not None:
            self._stored.replace(user_id, changed.history, changed.offers)

    def keep(self, user_id: str, history: tuple[str, ...], answer: RecommendResponse) -> None:
        """Keep what was recommended anew."""
        assert self._stored is not None
        version = self.index_version or ""
        offers = [
            Offer(
                user_id,
                rank,
                one.id or "",
                one.item,
                one.score or 0.0,
                answer.side if rank == 1 else None,
                answer.reasoning if rank == 1 else None,
                answer.perplexity if rank == 1 else None,
                answer.model.version,
                version,
                history if rank == 1 else None,
                answer.confidence if rank == 1 else None,
            )
            for rank, one in enumerate(answer.ranking, 1)
        ]
        self._stored.replace(user_id, history, offers)

    async def put(self, item_id: str, body: ItemBody) -> str:
        """Offer an item, and return the index's version.

        Raises:
            HttpError: 404 without a catalogue, 422 for an item without visible text, 503 if the
                storage refuses.
        """
        catalogue = self._require_catalogue()
        # As prompts show it, so that a long one is not kept in full and read by every replica.
        item = Item(item_id, clean_title(body.title), tuple(body.categories), body.brand)
        try:
            await catalogue.put(item)
        except DataError as error:
            raise invalid("title", f"title: {error}") from error
        return catalogue.index.version

    async def delete(self, item_id: str) -> str:
        """Offer an item no more, and return the index's version.

        Raises:
            HttpError: 404 if the catalogue does not offer it, 503 if the storage refuses.
        """
        catalogue = self._require_catalogue()
        try:
            await catalogue.delete(item_id)
        except DataError as error:
            raise HttpError(404, "not_found", str(error), "id") from error
        return catalogue.index.version

    async def catch_up_items(self) -> str:
        """Know of all changes of items until now, and return the index's version.

        Raises:
            HttpError: 404 without a catalogue, 503 if the storage refuses.
        """
        catalogue = self._require_catalogue()
        with keeping("change"):
            await catalogue.catch_up()
        return catalogue.index.version

    def _require_catalogue(self) -> LiveCatalogue:
        if self._catalogue is None:
            raise HttpError(
                404, "not_found", "this service has no catalogue; start it with --index"
            )
        return self._catalogue


def _unknown_user(user_id: str) -> HttpError:
    message = f"user_id: no recommendations are held for {user_id[:80]!r}; send a history"
    return HttpError(404, "unknown_user", message, "user_id")
