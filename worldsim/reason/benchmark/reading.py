"""Which option is meant: by its letter or by its text, in a file or in a model's reply. Never by a part of it."""

import dataclasses
import re
import unicodedata
from collections.abc import Sequence

from worldsim.reason.rewards import parse

_LETTERED = re.compile(r"\(?(?P<letter>\w+)\s*[):.\]]\s*(?P<text>\S.*)", re.DOTALL)
"""A letter and what follows it: "(A) yes", "A. yes", "A: yes"."""
_AROUND = "()[].: "
"""What may stand around a letter."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """One option.

    Attributes:
        letter: Its letter, or whatever else the file numbers options with.
        text: Its wording.
    """

    letter: str
    text: str

    @property
    def plain_letter(self) -> str:
        """The letter as it is compared."""
        return plain(self.letter).strip(_AROUND)

    @property
    def plain_text(self) -> str:
        """The text as it is compared."""
        return plain(self.text)


def plain(text: str) -> str:
    """A text as it is compared: without case, form of characters, runs of blanks, brackets around it or a full stop."""
    found = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    found = found.removesuffix(".").rstrip()
    if found[:1] in ("(", "[") and found[-1:] in (")", "]"):
        found = found[1:-1].strip()
    return found


def named(said: str, options: Sequence[Choice], *, letters_first: bool) -> str | None:
    """Letter of the option that is named.

    Args:
        said: A letter ("B", "(b)", "B."), an option's whole text, or both ("B: no"), which must agree.
        options: What there is to choose from; their letters differ, and so do their texts.
        letters_first: What decides where one option's letter is another's text.

    Returns:
        The letter, or None where no option is named.
    """
    by_letter = {o.plain_letter: o.letter for o in options}
    by_text = {o.plain_text: o.letter for o in options}
    found = (by_letter.get(plain(said).strip(_AROUND)), by_text.get(plain(said)))
    first, second = found if letters_first else found[::-1]
    if first is not None or second is not None:
        return second if first is None else first
    both = _LETTERED.fullmatch(said.strip())
    if both is None:
        return None
    letter, text = by_letter.get(plain(both["letter"])), by_text.get(plain(both["text"]))
    return letter if letter == text else None


def read_reply(reply: str, options: Sequence[Choice], *, letters_first: bool) -> str | None:
    """Letter of the option that a reply ends with, as `named`; None where it is not one thought and one answer."""
    said = parse(reply)
    return None if said is None else named(said, options, letters_first=letters_first)
