"""What sampling and scoring ask of a language model's code. B texts, T tokens, V vocabulary.

A model that has a description (`rl_alliteration.lm.architectures`) goes through `rl_alliteration.lm.decoder`, every
other one through transformers' code (`rl_alliteration.lm.generic`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

from torch import Tensor

Decoded = Callable[[Tensor], Tensor]
"""A group's forward pass by what decoding it has computed: the update then need not compute most of it again.

Called once, before the next group, with the tokens that were read, (B, T), it gives the logits after each, token by
token and in each text by text, (T · B, V): differentiable in the parameters, which must not have changed since. The
caller may write over them.
"""


class Forward(Protocol):
    """A way through a model: `logits` scores whole texts; `start`, `advance` and `finish` decode a group."""

    def logits(self, token_ids: Tensor) -> Tensor:
        """Logits after each token, (B, T) → (B, T, V), differentiable; the caller may write over them."""

    def logits_by_texts(self, token_ids: Tensor, most: int) -> Iterator[Tensor]:
        """`logits` of some texts after others, (B', T, V), of about `most` numbers at a time, if this way can."""

    def start(self, prompt_ids: Tensor, texts: int, max_length: int, *, record: bool = False) -> Tensor:
        """Read the prompt, (T,), for all texts; logits of the first token to sample, (B, V).

        `record`: have `finish` return a `Decoded`, if this way can.
        """

    def advance(self, tokens: Tensor) -> Tensor:
        """Append one token to each text, (B,); logits of the next, (B, V)."""

    def finish(self) -> Decoded | None:
        """The group is sampled: free what only sampling needs. None if nothing was recorded."""


@runtime_checkable
class DeviceForward(Forward, Protocol):
    """A way that can also decode without the host: then sampling on a GPU is one CUDA graph a token."""

    def advance_at(self, tokens: Tensor, position: Tensor) -> Tensor:
        """`advance` for tokens, (B,), at a position, (1,), on the device: the same operations at each position.

        After `start`, which for one shape of group must prepare the same memory each time.
        """
