"""What callers send is strict: nothing unknown, nothing converted, and counted before it is looked at.

Pydantic keeps an error for each thing that is wrong, so a body of a million wrong things would cost seconds
and gigabytes to refuse: what is too many is refused as one.
"""

from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

MAX_UNKNOWN = 5
"""Unknown fields that are named one by one."""


class Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def countable(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > len(cls.model_fields) + MAX_UNKNOWN:
            raise ValueError(f"has {len(value)} fields, and there are only {len(cls.model_fields)}")
        return value


def at_most(longest: int, reason: str = "must have at most {longest} items, not {count}") -> BeforeValidator:
    """For lists and objects whose items can be wrong one by one."""

    def check(value: object) -> object:
        if isinstance(value, list | dict) and len(value) > longest:
            raise ValueError(reason.format(longest=longest, count=len(value)))
        return value

    return BeforeValidator(check)
