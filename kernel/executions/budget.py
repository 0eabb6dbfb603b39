"""What one execution may still spend: output tokens and USD, shared by nodes that run at once.

USD are those of model calls and of the machines that nodes run on, compared in whole millionths as costs are shown.
"""

from dataclasses import dataclass, field

from kernel.errors import RateLimitError
from kernel.metering.tariff import micro, usd


@dataclass(slots=True)
class Budget:
    """`None` is no limit. What a call may use is set aside until it ends, so that calls side by side
    cannot pass the limit together.

    cap: millionths of a USD that budgets of the workspace left when the execution was accepted; cap_tokens: what was
    left then of the day's tokens, input and output.
    """

    max_tokens: int | None
    max_cost: float | None
    cap: int | None = None
    cap_tokens: int | None = None
    tokens_spent: int = 0
    """Output; what the day's tokens are bounded by counts the input too."""
    all_tokens_spent: int = 0
    cost_spent: float = 0.0
    _tokens_held: dict[str, int] = field(default_factory=dict)
    _all_tokens_held: dict[str, int] = field(default_factory=dict)
    _cost_held: dict[str, float] = field(default_factory=dict)

    @property
    def limit(self) -> float | None:
        """The lower of the two bounds."""
        bounds = [self.max_cost] if self.max_cost is not None else []
        return min(bounds + ([usd(self.cap)] if self.cap is not None else []), default=None)

    def share_tokens(self, node_id: str, sharers: int) -> int | None:
        """Sets aside this call's share of the tokens that are left, which may be none."""
        if self.max_tokens is None:
            return None
        return _share(self._tokens_held, node_id, sharers, self.max_tokens - self.tokens_spent)

    def hold_tokens(self, node_id: str, sharers: int) -> int | None:
        """The same. Raises RateLimitError when nothing is left."""
        share = self.share_tokens(node_id, sharers)
        if share is not None and share < 1:
            raise RateLimitError(
                f"The execution has used its {self.max_tokens} output tokens",
                {"limit": "tokens", "max": self.max_tokens},
                retryable=False,
            )
        return share

    def share_day_tokens(self, node_id: str, sharers: int) -> int | None:
        """Sets aside this call's share, for input and output, of what is left of the day's tokens."""
        if self.cap_tokens is None:
            return None
        return _share(self._all_tokens_held, node_id, sharers, self.cap_tokens - self.all_tokens_spent)

    def hold_day_tokens(self, node_id: str, sharers: int, most_input: int) -> int | None:
        """The same; what it leaves for output beside that much input. Raises RateLimitError when that is nothing."""
        share = self.share_day_tokens(node_id, sharers)
        if share is None:
            return None
        if share - most_input < 1:
            raise RateLimitError(
                f"The next call could pass the {self.cap_tokens} tokens that were left of this UTC day's",
                {"limit": "tokens", "max": self.cap_tokens},
                retryable=False,
            )
        return share - most_input

    def share_cost(self, node_id: str, sharers: int) -> float | None:
        """Sets aside this call's share of the USD that are left."""
        if (most := self.limit) is None:
            return None
        held = sum(cost for node, cost in self._cost_held.items() if node != node_id)
        waiting = max(1, sharers - len(self._cost_held.keys() - {node_id}))
        self._cost_held[node_id] = share = max(0.0, most - self.cost_spent - held) / waiting
        return share

    def hold_cost(self, node_id: str, worst: float | None) -> None:
        """Sets aside what the call can cost at most. Raises RateLimitError if that could pass the limit."""
        if (most := self.limit) is None:
            return
        if worst is None:
            raise self._over("the model's price is unknown, so it cannot be kept")
        held = sum(cost for node, cost in self._cost_held.items() if node != node_id)
        if micro(self.cost_spent + held + worst) > micro(most):
            raise self._over(
                f"the next call could pass it (spent {self.cost_spent:.6f}, call up to {worst:.6f})"
            )
        self._cost_held[node_id] = worst

    def spend(self, cost: float, input_tokens: int = 0, output_tokens: int = 0) -> None:
        """A call was billed, or a machine was used."""
        self.tokens_spent += output_tokens
        self.all_tokens_spent += input_tokens + output_tokens
        self.cost_spent += cost

    def release(self, node_id: str) -> None:
        """An attempt has ended: what it set aside and did not spend is free again."""
        self._tokens_held.pop(node_id, None)
        self._all_tokens_held.pop(node_id, None)
        self._cost_held.pop(node_id, None)

    def _over(self, reason: str) -> RateLimitError:
        bound = f"max_cost of {self.max_cost} USD"
        if self.limit != self.max_cost:
            bound = f"share of a budget with a hard stop, the {self.limit} USD that were left of it,"
        return RateLimitError(
            f"The execution's {bound} stops it: {reason}",
            {"limit": "budget", "max": self.limit},
            retryable=False,
        )


def _share(held: dict[str, int], node_id: str, sharers: int, left: int) -> int:
    """Of what is left, an equal part for each node that has set nothing aside; it is set aside."""
    others = held.keys() - {node_id}
    free = max(0, left - sum(held[node] for node in others))
    held[node_id] = share = -(-free // max(1, sharers - len(others)))
    return share
