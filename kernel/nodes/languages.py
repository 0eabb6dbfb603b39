"""The small languages that nodes are written in, as functions of a source and a value.

Nothing of the platform is imported here: the sandbox's child process runs these, and is to stay small.
Each raises `Refused` with one sentence for people, whatever went wrong.
"""

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import orjson

MAX_PROBLEMS = 50
FUEL = 5_000_000
"""Instructions of one template: ends endless loops before the time cap does."""


class Refused(Exception):
    """The source does not parse, or could not be evaluated on this value."""


def template_environment() -> Any:
    import minijinja

    environment = minijinja.Environment(
        undefined_behavior="strict", fuel=FUEL, keep_trailing_newline=True, finalizer=_as_text
    )
    environment.remove_global("debug")
    return environment


def _as_text(value: Any) -> Any:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def template_reason(exc: Any) -> str:
    reason = exc.detail or exc.message.partition(" (in ")[0]
    return f"line {exc.line or 1}: {reason}"


def render(source: str, context: Mapping[str, Any]) -> str:
    import minijinja

    try:
        text: str = template_environment().render_str(source, **context)
    except minijinja.TemplateError as exc:
        raise Refused(template_reason(exc)) from None
    return text


def evaluate(expression: str, context: Mapping[str, Any]) -> Any:
    import cel

    try:
        return run_cel(cel.compile(expression), context)
    except ValueError:
        raise Refused("the expression does not parse") from None


def run_cel(program: Any, context: Mapping[str, Any]) -> Any:
    try:
        return program.execute(dict(context))
    except KeyError as exc:
        raise Refused(f"there is no {exc}") from None
    except (TypeError, ValueError, RuntimeError, ArithmeticError, IndexError) as exc:
        raise Refused(str(exc).partition("\n")[0][:300]) from None


def search(expression: str, context: Mapping[str, Any]) -> Any:
    import jmespath
    from jmespath.exceptions import JMESPathError

    try:
        return jmespath.search(expression, context)
    except (JMESPathError, TypeError, ValueError, ArithmeticError) as exc:
        raise Refused(str(exc).partition("\n")[0][:300]) from None


def misfits(schema: dict[str, Any], value: Any) -> list[dict[str, Any]]:
    """Where a value does not fit a JSON Schema: `{path, reason}`. References lead nowhere outside the schema."""
    from jsonschema import Draft202012Validator
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    try:
        errors = list(
            islice(Draft202012Validator(schema, registry=Registry()).iter_errors(value), MAX_PROBLEMS)
        )
    except Unresolvable:
        raise Refused("the schema has a reference that leads nowhere") from None
    return [{"path": list(error.absolute_path), "reason": _unmet(error)} for error in errors]


def _unmet(error: Any) -> str:
    """What was asked for, in words of the schema alone: the value may be a secret."""
    match error.validator, error.validator_value:
        case "type", str(kind):
            reason = f"must be of type {kind}"
        case "type", kinds:
            reason = f"must be of type {' or '.join(kinds)}"
        case "required", _:
            reason = f"needs the property {error.message.removesuffix(' is a required property')}"
        case None, _:
            reason = "is not allowed here"
        case keyword, _:
            reason = f"does not satisfy {keyword}"
    return reason[:200]


LANGUAGES: Mapping[str, Callable[[Any, Any], Any]] = {
    "template": render,
    "cel": evaluate,
    "jmespath": search,
    "schema": misfits,
}
