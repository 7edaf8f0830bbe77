"""The cost of a call to a model behind an API."""


def token_cost(
    prompt_tokens: float,
    completion_tokens: float,
    prompt_price: float | None,
    completion_price: float | None,
) -> float | None:
    """The cost of a call by its tokens; None if a price is unknown.

    Args:
        prompt_tokens: At least 0.
        completion_tokens: At least 0.
        prompt_price: Price per million prompt tokens, in any currency.
        completion_price: Price per million completion tokens, in the same currency.
    """
    if prompt_price is None or completion_price is None:
        return None
    return (prompt_tokens * prompt_price + completion_tokens * completion_price) / 1e6
