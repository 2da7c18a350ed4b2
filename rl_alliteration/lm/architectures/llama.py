"""Llama and those built like it: Mistral, Qwen2, Qwen3, SmolLM3, Gemma 3."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from rl_alliteration.lm.architectures.positions import rotary
from rl_alliteration.lm.description import Block, Description, Parameters, Rotary, Unsupported, activation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Like:
    """In what a family differs from Llama."""

    window: Callable[[Any, int], int | None] = lambda config, index: None
    """Of a layer."""
    turning: Callable[[Any], list[Rotary | None]] = lambda config: (
        [rotary(config, config.rope_parameters)] * config.num_hidden_layers
    )
    """Of each layer."""
    query_key_value_bias: Callable[[Any], bool] = lambda config: config.attention_bias
    output_bias: Callable[[Any], bool] = lambda config: config.attention_bias
    feed_forward_bias: Callable[[Any], bool] = lambda config: False
    norms_of_heads: bool = False
    """Queries and keys are normed before they turn."""
    norms_after: bool = False
    """What attention and the feed-forward network add is normed as well."""
    added_to_norms: float = 0.0
    """To the weights of norms."""
    scale: Callable[[Any], float] = lambda config: _head_width(config) ** -0.5
    embedding_scale: Callable[[Any], float] = lambda config: 1.0
    activation: Callable[[Any], str] = lambda config: config.hidden_act
    refused: Callable[[Any], str | None] = lambda config: None
    """What else of a configuration no description can say."""


def like_llama(like: Like) -> Callable[[Any, Parameters], Description]:
    """The function that describes a family."""

    def describe(config: Any, parameters: Parameters) -> Description:
        if (refused := like.refused(config)) is not None:
            raise Unsupported(refused)
        width, inner = config.hidden_size, config.intermediate_size
        heads, shared, head_width = config.num_attention_heads, config.num_key_value_heads, _head_width(config)
        turning = like.turning(config)

        def norm(name: str, size: int = width) -> Any:
            return parameters.rms_norm(name, size, config.rms_norm_eps, like.added_to_norms)

        def block(index: int) -> Block:
            name = f"model.layers.{index}"
            attention, feed_forward = f"{name}.self_attn", f"{name}.mlp"
            before = "pre_feedforward_layernorm" if like.norms_after else "post_attention_layernorm"
            bias = like.feed_forward_bias(config)
            return Block(
                attention_norm=norm(f"{name}.input_layernorm"),
                query_key_value=parameters.matrix(
                    *(f"{attention}.{part}_proj" for part in "qkv"),
                    rows=(heads * head_width, shared * head_width, shared * head_width),
                    columns=width,
                    bias=like.query_key_value_bias(config),
                ),
                query_norm=norm(f"{attention}.q_norm", head_width) if like.norms_of_heads else None,
                key_norm=norm(f"{attention}.k_norm", head_width) if like.norms_of_heads else None,
                rotary=turning[index],
                scale=like.scale(config),
                window=like.window(config, index),
                output=parameters.matrix(
                    f"{attention}.o_proj", rows=(width,), columns=heads * head_width, bias=like.output_bias(config)
                ),
                output_norm=norm(f"{name}.post_attention_layernorm") if like.norms_after else None,
                feed_forward_norm=norm(f"{name}.{before}"),
                expand=parameters.matrix(
                    f"{feed_forward}.gate_proj", f"{feed_forward}.up_proj", rows=(inner,) * 2, columns=width, bias=bias
                ),
                contract=parameters.matrix(f"{feed_forward}.down_proj", rows=(width,), columns=inner, bias=bias),
                contract_norm=norm(f"{name}.post_feedforward_layernorm") if like.norms_after else None,
            )

        return Description(
            embedding=parameters("model.embed_tokens.weight", config.vocab_size, width),
            embedding_scale=like.embedding_scale(config),
            blocks=tuple(block(index) for index in range(config.num_hidden_layers)),
            norm=norm("model.norm"),
            head=parameters.head("model.embed_tokens.weight", config),
            heads=heads,
            key_value_heads=shared,
            head_width=head_width,
            activation=activation(like.activation(config)),
            gated=True,
        )

    return describe


def _head_width(config: Any) -> int:
    width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return width


def _by_layer_type(config: Any, index: int) -> int | None:
    window: int | None = config.sliding_window
    return window if config.layer_types[index] == "sliding_attention" else None


def _turning_by_layer_type(config: Any) -> list[Rotary | None]:
    kinds = {kind: rotary(config, config.rope_parameters[kind], kind) for kind in set(config.layer_types)}
    return [kinds[kind] for kind in config.layer_types]


def _turning_but_for_some(config: Any) -> list[Rotary | None]:
    turning = rotary(config, config.rope_parameters)
    return [turning if turns else None for turns in config.no_rope_layers[: config.num_hidden_layers]]


def _refused_of_gemma(config: Any) -> str | None:
    for name in ("final_logit_softcapping", "attn_logit_softcapping", "use_bidirectional_attention"):
        if getattr(config, name):
            return f"it has {name} {getattr(config, name)}"
    return None


llama = like_llama(Like(feed_forward_bias=lambda config: config.mlp_bias))
mistral = like_llama(
    Like(
        window=lambda config, index: config.sliding_window,
        query_key_value_bias=lambda config: False,
        output_bias=lambda config: False,
    )
)
qwen2 = like_llama(
    Like(window=_by_layer_type, query_key_value_bias=lambda config: True, output_bias=lambda config: False)
)
qwen3 = like_llama(Like(window=_by_layer_type, norms_of_heads=True))
smollm3 = like_llama(
    Like(
        window=lambda config, index: _by_layer_type(config, index) if config.use_sliding_window else None,
        turning=_turning_but_for_some,
        feed_forward_bias=lambda config: config.mlp_bias,
    )
)
gemma3 = like_llama(
    Like(
        window=_by_layer_type,
        turning=_turning_by_layer_type,
        norms_of_heads=True,
        norms_after=True,
        added_to_norms=1.0,
        scale=lambda config: config.query_pre_attn_scalar**-0.5,
        embedding_scale=lambda config: torch.tensor(config.hidden_size**0.5, dtype=torch.float32).item(),
        activation=lambda config: config.hidden_activation,
        refused=_refused_of_gemma,
    )
)
