"""Which call to make next, and when to stop; independent of Ray, HTTP and time.

Near a threshold, only as many calls are started as the acceptance rate so far makes likely to be
needed, so few completions are paid for in vain. Near a cap, only as many as certainly fit.
"""

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

CallId = tuple[str, int]
"""A call to a teacher: example id and 0-based attempt."""

CompletionStatus = Literal["valid", "unreadable", "settled"]
"""What a completion means for the plan.

``valid`` gives a path. ``unreadable`` could not be read, so another sample is drawn. ``settled``
was read and gives no path; it is final, because drawing samples until one names the target would
leak the target into the reasoning."""


@dataclass(frozen=True)
class Spending:
    """Calls, tokens and money, either spent or allowed."""

    calls: float = 0
    tokens: float = 0
    cost: float = 0

    def __add__(self, other: "Spending") -> "Spending":
        return Spending(
            self.calls + other.calls, self.tokens + other.tokens, self.cost + other.cost
        )


class Budget:
    """The caps, what has been spent, and the highest possible cost of one call.

    Attributes:
        spent: Spent so far, earlier runs included.
    """

    def __init__(self, caps: Spending, spent: Spending, worst: Spending) -> None:
        """Missing caps are infinite; ``worst`` is the highest possible cost of one call."""
        self.spent = spent
        self._caps, self._worst = caps, worst

    def room(self, in_flight: int) -> float:
        """Number of calls that certainly fit besides those in flight; infinite without caps."""
        return self._tightest()[0] - in_flight

    @property
    def left(self) -> Spending:
        """What is left below the caps."""
        caps, spent = self._caps, self.spent
        return Spending(
            caps.calls - spent.calls, caps.tokens - spent.tokens, caps.cost - spent.cost
        )

    @property
    def reached(self) -> str | None:
        """The cap that leaves no room for a call; None if there is room."""
        room, name = self._tightest()
        return name if room < 1 else None

    def _tightest(self) -> tuple[float, str]:
        rooms: list[tuple[float, str]] = []
        for name in ("calls", "tokens", "cost"):
            left, worst = getattr(self.left, name), getattr(self._worst, name)
            if worst:
                rooms.append((left if math.isinf(left) else math.floor(left / worst), name))
        return min(rooms)


def unlimited() -> Budget:
    """A budget without caps."""
    return Budget(Spending(math.inf, math.inf, math.inf), Spending(), Spending(1, 1, 1))


@dataclass(frozen=True)
class Quota:
    """A threshold for each group of examples, for example each user or each category.

    Attributes:
        name: Name of the setting.
        tau: Maximum number of valid paths per group.
        group_of: The group of each example id.
    """

    name: str
    tau: int
    group_of: Mapping[str, str]


class Plan:
    """The calls of one run: one for every open example, and retries of unreadable completions.

    Attributes:
        num_valid: Number of examples with a valid path.
        num_answers: Number of judged completions, earlier runs included.
        num_failed: Number of calls without a completion in this run.
        failed_in_a_row: Number of failed calls since the latest completion.
    """

    def __init__(
        self,
        example_ids: Iterable[str],
        attempts: int,
        tau: int | None,
        answered: Mapping[str, Mapping[int, CompletionStatus]],
        quotas: Sequence[Quota] = (),
        budget: Budget | None = None,
        *,
        repeats: bool = False,
    ) -> None:
        """Plan the remaining calls, given the completions so far.

        Args:
            example_ids: Example ids in the order of the calls.
            attempts: Maximum number of completions per example; only unreadable ones are retried.
            tau: Number of valid paths at which to stop; None for one call per example.
            answered: By example id and attempt, the status of the completion.
            quotas: Thresholds by group.
            budget: Caps; None for no caps.
            repeats: Whether to make all attempts for every example, whatever the completions are.
        """
        self.tau, self.attempts = tau, attempts
        self.budget = budget or unlimited()
        self._repeats = repeats
        self.num_valid = self.num_failed = self.failed_in_a_row = 0
        self.num_answers = sum(len(statuses) for statuses in answered.values())
        self._quotas = quotas
        self._valid_of: list[Counter[str]] = [Counter() for _ in quotas]
        self._flying_of: list[Counter[str]] = [Counter() for _ in quotas]
        self._flying: set[CallId] = set()
        self._held_back: dict[tuple[int, str], deque[CallId]] = {}
        open_calls: list[CallId] = []
        for example_id in example_ids:
            seen = answered.get(example_id, {})
            if repeats:
                open_calls += [(example_id, n) for n in range(attempts) if n not in seen]
            elif "valid" in seen.values():
                self._count_valid(example_id)
            elif "settled" not in seen.values():
                attempt = next((n for n in range(attempts) if n not in seen), attempts)
                open_calls.append((example_id, attempt))
        open_calls.sort(key=lambda call_id: call_id[1])  # stable: first attempts first, in order
        self._queue: deque[CallId] = deque(
            call_id for call_id in open_calls if call_id[1] < attempts
        )

    @property
    def in_flight(self) -> int:
        """Number of calls taken and not yet reported."""
        return len(self._flying)

    @property
    def num_queued(self) -> int:
        """Number of calls that will be made unless a threshold or cap stops them."""
        return len(self._queue) + sum(map(len, self._held_back.values()))

    @property
    def acceptance_rate(self) -> float:
        """Valid paths per completion so far, never 0."""
        return min(1.0, (self.num_valid + 1) / (self.num_answers + 1))

    @property
    def is_finished(self) -> bool:
        """Whether enough paths exist, or no call is left to make or to wait for."""
        if self.tau is not None and self.num_valid >= self.tau:
            return True
        if self._queue or self._held_back:
            return not self._flying and self.budget.reached is not None
        return all(self._is_closed(example_id) for example_id, _ in self._flying)

    @property
    def stopped_by(self) -> str | None:
        """The cap that prevented calls; None if no cap did."""
        is_enough = self.tau is not None and self.num_valid >= self.tau
        return self.budget.reached if self.num_queued and not is_enough else None

    def needed(self) -> dict[str, int]:
        """Number of valid paths missing to each threshold; for quotas the sum over the groups."""
        missing = {} if self.tau is None else {"tau": max(0, self.tau - self.num_valid)}
        for n, quota in enumerate(self._quotas):
            open_of = Counter(quota.group_of[example_id] for example_id, _ in self._queue)
            missing[quota.name] = sum(
                min(count, max(0, quota.tau - self._valid_of[n][group]))
                for group, count in open_of.items()
            )
        return missing

    def take(self, count: int, overdue: int = 0) -> list[CallId]:
        """At most ``count`` calls to make now.

        Args:
            count: Maximum number of calls.
            overdue: Number of calls in flight that should not be waited for.
        """
        if self.tau is not None:
            wanted = math.ceil((self.tau - self.num_valid) / self.acceptance_rate)
            count = min(count, wanted - (self.in_flight - overdue))
        room = self.budget.room(self.in_flight)
        count = count if room > count else int(room)
        taken: list[CallId] = []
        while self._queue and len(taken) < count:
            call_id = self._queue.popleft()
            if self._admits(call_id):
                taken.append(call_id)
                self._fly(call_id, 1)
        return taken

    def report(
        self, call_id: CallId, status: CompletionStatus | None, spending: Spending | None = None
    ) -> None:
        """Record the result of a call: status and cost of its completion, or None if it failed."""
        example_id, attempt = call_id
        self._fly(call_id, -1)
        if status is None:
            self.num_failed += 1
            self.failed_in_a_row += 1
            self._release(example_id)
            return
        self.failed_in_a_row = 0
        self.num_answers += 1
        self.budget.spent += spending or Spending()
        if status == "valid":
            self._count_valid(example_id)
        elif status == "unreadable" and attempt + 1 < self.attempts and not self._repeats:
            self._queue.append((example_id, attempt + 1))
        self._release(example_id)

    def give_back(self, call_id: CallId) -> None:
        """Repeat a call, before all others, whose actor died before its completion was written."""
        self._fly(call_id, -1)
        self._release(call_id[0])
        self._queue.appendleft(call_id)

    def _count_valid(self, example_id: str) -> None:
        self.num_valid += 1
        for quota, valid in zip(self._quotas, self._valid_of, strict=True):
            valid[quota.group_of[example_id]] += 1

    def _is_closed(self, example_id: str) -> bool:
        """Whether a group of this example has reached its threshold."""
        return any(
            valid[quota.group_of[example_id]] >= quota.tau
            for quota, valid in zip(self._quotas, self._valid_of, strict=True)
        )

    def _admits(self, call_id: CallId) -> bool:
        """Whether to make this call now; otherwise it is held back or, if not needed, dropped."""
        if self._is_closed(call_id[0]):
            return False
        for n, quota in enumerate(self._quotas):
            group = quota.group_of[call_id[0]]
            if self._room_of(n, group) < 1:
                self._held_back.setdefault((n, group), deque()).append(call_id)
                return False
        return True

    def _room_of(self, n: int, group: str) -> int:
        """Number of calls that a group probably needs besides those in flight."""
        wanted = (self._quotas[n].tau - self._valid_of[n][group]) / self.acceptance_rate
        return math.ceil(wanted) - self._flying_of[n][group]

    def _fly(self, call_id: CallId, change: int) -> None:
        """Count the start (1) or end (-1) of a call in each of its groups."""
        (self._flying.add if change > 0 else self._flying.discard)(call_id)
        for quota, flying in zip(self._quotas, self._flying_of, strict=True):
            flying[quota.group_of[call_id[0]]] += change

    def _release(self, example_id: str) -> None:
        """Queue the calls that were held back for this example's groups, as far as needed."""
        for n, quota in enumerate(self._quotas):
            key = (n, quota.group_of[example_id])
            waiting = self._held_back.get(key, deque())
            room = len(waiting) if self._is_closed(example_id) else max(0, self._room_of(*key))
            released = [waiting.popleft() for _ in range(min(room, len(waiting)))]
            self._queue.extendleft(reversed(released))
            if not waiting:
                self._held_back.pop(key, None)
