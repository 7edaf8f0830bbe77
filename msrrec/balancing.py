"""Which engine gets the next message: the one that works on the fewest of this process's.

It stands here rather than in ``serve``, as Ray Serve also imports it by its name, in processes
whose working directory may hold another package of that name.
"""

import random
from collections import Counter, defaultdict, deque
from time import monotonic
from typing import Any

from ray.serve.request_router import (
    FIFOMixin,
    LocalityMixin,
    PendingRequest,
    ReplicaID,
    RequestRouter,
    RunningReplica,
)

_SENT_WITHIN_S = 0.05
"""Seconds after which a choice that no message followed is forgotten: Serve makes some in vain."""


class LeastBusy(FIFOMixin, LocalityMixin, RequestRouter):  # type: ignore[misc]
    """Prefers engines with fewer messages under way from this process; draws between equals.

    Serve's own choice trusts what a replica told when it took its latest message. Where many
    messages come at once, such reports are older than what was sent since, and an engine may get
    all of them while another one idles. Here reports decide between equals alone.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Called by Serve, in every process that has a handle of the deployment."""
        super().__init__(*args, **kwargs)
        self._under_way: Counter[ReplicaID] = Counter()
        self._chosen: defaultdict[ReplicaID, deque[float]] = defaultdict(deque)
        """When replicas were chosen for messages that are not sent yet."""

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Called by Serve: replicas in the order in which they are to be tried.

        Those of one list are compared by what they report. All are, if the first one's report is
        missing or says that it is full, so that it is asked while the others go on.
        """
        preferred = self.apply_locality_routing(pending_request)  # of the same zone, at first
        candidates = [one for one in candidate_replicas if one.replica_id in preferred]
        if not candidates:
            return []
        now = monotonic()
        self._forget(now)

        def rank(replica: RunningReplica) -> tuple[int, int, float]:
            name = replica.replica_id
            count = self._under_way[name] + len(self._chosen[name])
            return count, self.replica_queue_len_cache.get(name) or 0, random.random()

        ranked = sorted(candidates, key=rank)
        first = ranked[0]
        self._chosen[first.replica_id].append(now)
        reported = self.replica_queue_len_cache.get(first.replica_id)
        if reported is None or reported >= first.max_ongoing_requests:
            return [ranked]
        return [[replica] for replica in ranked]

    def _forget(self, now: float) -> None:
        """Drop choices that no message followed."""
        for name in list(self._chosen):
            chosen = self._chosen[name]
            while chosen and now - chosen[0] >= _SENT_WITHIN_S:
                chosen.popleft()
            if not chosen:
                del self._chosen[name]

    def on_send_request(self, replica_id: ReplicaID) -> None:
        """Called by Serve when a message is sent."""
        super().on_send_request(replica_id)
        self._under_way[replica_id] += 1
        if self._chosen[replica_id]:
            self._chosen[replica_id].popleft()

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Called by Serve when a message is answered, failed, or could not be sent."""
        super().on_request_completed(replica_id, internal_request_id)
        self._under_way[replica_id] -= 1
        if self._under_way[replica_id] <= 0:
            del self._under_way[replica_id]
