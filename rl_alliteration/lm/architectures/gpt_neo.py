"""GPT-Neo, the architecture of TinyStories-33M and of the shipped models."""

from __future__ import annotations

from typing import Any

from rl_alliteration.lm.description import Block, Description, Parameters, activation


def gpt_neo(config: Any, parameters: Parameters) -> Description:
    """Learned positions, windows in every other layer, scores that are not scaled, tanh GELU."""
    width, heads = config.hidden_size, config.num_heads
    inner = config.intermediate_size or 4 * width
    epsilon = config.layer_norm_epsilon

    def block(index: int, kind: str) -> Block:
        name = f"transformer.h.{index}"
        attention = f"{name}.attn.attention"
        projections = [f"{attention}.{part}_proj" for part in "qkv"]
        norm = parameters.layer_norm(f"{name}.ln_1", width, epsilon)
        for part in "kvq":  # in transformers' order, in which the norm of a gradient has always been summed
            parameters(f"{attention}.{part}_proj.weight", width, width)
        return Block(
            attention_norm=norm,
            query_key_value=parameters.matrix(*projections, rows=(width,) * 3, columns=width),
            output=parameters.matrix(f"{attention}.out_proj", rows=(width,), columns=width, bias=True),
            feed_forward_norm=parameters.layer_norm(f"{name}.ln_2", width, epsilon),
            expand=parameters.matrix(f"{name}.mlp.c_fc", rows=(inner,), columns=width, bias=True),
            contract=parameters.matrix(f"{name}.mlp.c_proj", rows=(width,), columns=inner, bias=True),
            scale=1.0,
            window=config.window_size if kind == "local" else None,
        )

    return Description(
        embedding=parameters("transformer.wte.weight", config.vocab_size, width),
        positions=parameters("transformer.wpe.weight", config.max_position_embeddings, width),
        blocks=tuple(block(index, kind) for index, kind in enumerate(config.attention_layers)),
        norm=parameters.layer_norm("transformer.ln_f", width, epsilon),
        head=parameters.head("transformer.wte.weight", config),
        heads=heads,
        key_value_heads=heads,
        head_width=width // heads,
        activation=activation(config.activation_function),
    )
