"""Suggestions for a word that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

NEAR = 0.65  # of difflib's ratio: one wrong letter in three, and no chance likeness
MAX_WORD = 60  # longer words are no typing errors, and comparing them is slow
JOINTS = ("-", "_", "/")  # between the parts of a name


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """`` (did you mean 'x'?)``, or nothing where no known word is near.

    Near are the same letters in other cases, then a name's first parts alone (``a100`` of ``a100-sxm-80gb``),
    then a slip of the keys.
    """
    if not word or len(word) > MAX_WORD:
        return ""
    known = sorted(set(words) - {word}, reverse=True)
    by_lower = {each.lower(): each for each in known}
    asked = word.lower()
    near = [asked] if asked in by_lower else _begun(asked, by_lower)
    near = near or get_close_matches(asked, sorted(by_lower), n=1, cutoff=NEAR)
    return f" (did you mean {by_lower[near[0]]!r}?)" if near else ""


def _begun(part: str, names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(tuple(part + j for j in JOINTS)))
