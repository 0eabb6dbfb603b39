"""Edits that are bound to a state: what an `If-Match` is about."""

from collections.abc import Callable
from typing import Any

Hold = Callable[[dict[str, Any]], None]
"""Raises Conflict when a thing, as it is shown, is not what the caller means to change."""


def any_state(shown: dict[str, Any]) -> None:
    """Whatever it is."""
