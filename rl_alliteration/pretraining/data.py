"""Stories as a model reads them: the file, the tokenizer, the batches of each pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_alliteration.errors import UserError
from rl_alliteration.user_files import read_text

SEPARATOR = "<|endoftext|>"
"""Between stories in a file; as a token, id 0, it begins, ends and pads a text."""


def read_stories(path: str, flag: str) -> list[str]:
    """The stories of a file.

    Raises:
        UserError: it cannot be read, or has none.
    """
    stories = [story.strip() for story in read_text(path, flag).split(SEPARATOR)]
    stories = [story for story in stories if story]
    if not stories:
        raise UserError(f"{flag}: {path!r} has no story in it; give a text file with a line {SEPARATOR} between two")
    return stories


def train_tokenizer(stories: Sequence[str], vocabulary: int, context: int) -> Any:
    """Byte-level BPE, as transformers has it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(stories, trainer)
    ends = {"bos_token": SEPARATOR, "eos_token": SEPARATOR, "pad_token": SEPARATOR}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=context, **ends)


def encode(tokenizer: Any, stories: Sequence[str]) -> list[list[int]]:
    """Token ids of each story, its end token included."""
    return [[*encoding.ids, 0] for encoding in tokenizer.backend_tokenizer.encode_batch(list(stories))]


def rows_of_pass(
    stories: Sequence[list[int]], context: int, seed: int, number: int, rows: int | None = None
) -> NDArray[np.int64]:
    """The stories in the pass's own order as rows of tokens, (rows, context).

    Each row begins with a story, as sampled texts do, and is filled up with the beginning of the next ones; what
    does not fit is left out, in another pass it is something else. `rows`: as many as the first pass came to.
    """
    order = np.random.default_rng([seed, number]).permutation(len(stories))
    filled: list[list[int]] = []
    place = 0
    while place < len(order) if rows is None else len(filled) < rows:
        row: list[int] = []
        while len(row) < context:
            row += stories[order[place % len(order)]]
            place += 1
        filled.append(row[:context])
    return np.array(filled, dtype=np.int64)


class Batches:
    """The batches of all passes: the one of update n is a function of the stories, the settings and n."""

    def __init__(self, stories: Sequence[list[int]], *, context: int, batch: int, passes: int, seed: int) -> None:
        """`stories`: their token ids; `context`: tokens in a row; `batch`: rows in a batch."""
        self._stories = stories
        self._context, self._batch, self._seed = context, batch, seed
        self._order, self._number = rows_of_pass(stories, context, seed, 0), 0
        self._rows = len(self._order)
        self._per_pass = math.ceil(self._rows / batch)
        self.updates = passes * self._per_pass
        """Of all passes."""

    def pass_of(self, update: int) -> int:
        """The number of the pass, from 0, that an update belongs to."""
        return update // self._per_pass

    def of_update(self, update: int) -> NDArray[np.int64]:
        """Token ids, (batch, context); the last batch of a pass may have fewer rows."""
        if (number := self.pass_of(update)) != self._number:
            self._order = rows_of_pass(self._stories, self._context, self._seed, number, self._rows)
            self._number = number
        first = update % self._per_pass * self._batch
        return self._order[first : first + self._batch]
