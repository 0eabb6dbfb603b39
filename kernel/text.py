"""What a name may look like: text that shows as what it is."""

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

MOST_DECOMPOSED = 4
"""Characters that one in NFC may be made of, at most."""
MOST_MARKS = 30
"""As in Unicode's stream-safe text: no script needs as many."""
_ZERO_WIDTH_JOINER, _EMOJI_STYLE = "\u200d", "\ufe0f"
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories: controls, bidi marks and zero-width characters, half characters, line breaks."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def clean_name(text: str, longest: int = 128) -> str:
    """The text in NFC. Raises ValueError when it is blank, too long, or has characters that do not show."""
    name = _composed(text, longest)
    if not name.strip():
        raise ValueError("must not be blank")
    for at, character in enumerate(name):
        if unicodedata.category(character) in _HIDDEN and not _joins_emoji(name, at):
            raise ValueError(f"must not contain the character U+{ord(character):04X}")
    return name


def clean_text(text: str, longest: int) -> str:
    """Running text in NFC: line breaks, tabs and right-to-left marks may stand in it, controls may not."""
    clean = _composed(text, longest)
    for character in clean:
        if unicodedata.category(character) in {"Cc", "Cs"} and character not in "\n\r\t":
            raise ValueError(f"must not contain the character U+{ord(character):04X}")
    return clean


def _composed(text: str, longest: int) -> str:
    """In NFC, which puts the marks of a character in order, in the square of their number of steps."""
    if len(text) <= MOST_DECOMPOSED * longest:
        if not text.isascii():
            _check_marks(text)
        text = unicodedata.normalize("NFC", text)
    if len(text) > longest:
        raise ValueError(f"must have at most {longest} characters")
    return text


def _check_marks(text: str) -> None:
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks > MOST_MARKS:
            raise ValueError(f"must not have more than {MOST_MARKS} marks on one character")


def _joins_emoji(name: str, at: int) -> bool:
    """A joiner between two pictures makes one picture of them; elsewhere nobody sees it."""
    if name[at] != _ZERO_WIDTH_JOINER or not 0 < at < len(name) - 1:
        return False
    before, after = name[at - 1], name[at + 1]
    return (before == _EMOJI_STYLE or unicodedata.category(before) in {"So", "Sk"}) and (
        unicodedata.category(after) == "So"
    )


def cell(text: str) -> str:
    """The text for a cell of a CSV file: what a spreadsheet would take for a formula begins with `'`."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def refuse_null(value: object) -> object:
    """For fields that a partial update may leave out but not empty."""
    if value is None:
        raise ValueError("must not be null")
    return value


Name = Annotated[
    str, AfterValidator(clean_name), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 128})
]
