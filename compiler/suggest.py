"""Suggestions for a word that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

NEAR = 0.65  # of difflib's ratio: one wrong letter in three, and no chance likeness
MAX_WORD = 60  # longer words are no typing errors, and comparing them is slow


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """`` (did you mean 'x'?)``, or nothing where no known word is near."""
    known = sorted(set(words))
    if len(word) > MAX_WORD:
        return ""
    by_case = [each for each in known if each.lower() == word.lower() and each != word]
    near = by_case or get_close_matches(word, known, n=1, cutoff=NEAR)
    return f" (did you mean {near[0]!r}?)" if near and near[0] != word else ""
