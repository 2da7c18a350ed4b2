"""GPT-2."""

from __future__ import annotations

from typing import Any

from rl_alliteration.lm.description import Block, Description, Parameters, Unsupported, activation


def gpt2(config: Any, parameters: Parameters) -> Description:
    """Learned positions; each product's weights are kept transposed."""
    if config.add_cross_attention:
        raise Unsupported("it has cross-attention")
    width, heads = config.hidden_size, config.num_attention_heads
    inner = config.n_inner or 4 * width
    epsilon = config.layer_norm_epsilon

    def block(index: int) -> Block:
        name = f"transformer.h.{index}"
        product = {"bias": True, "transposed": True}
        scale = (width // heads) ** -0.5 if config.scale_attn_weights else 1.0
        return Block(
            attention_norm=parameters.layer_norm(f"{name}.ln_1", width, epsilon),
            query_key_value=parameters.matrix(f"{name}.attn.c_attn", rows=(3 * width,), columns=width, **product),
            output=parameters.matrix(f"{name}.attn.c_proj", rows=(width,), columns=width, **product),
            feed_forward_norm=parameters.layer_norm(f"{name}.ln_2", width, epsilon),
            expand=parameters.matrix(f"{name}.mlp.c_fc", rows=(inner,), columns=width, **product),
            contract=parameters.matrix(f"{name}.mlp.c_proj", rows=(width,), columns=inner, **product),
            scale=scale / (index + 1) if config.scale_attn_by_inverse_layer_idx else scale,
        )

    return Description(
        embedding=parameters("transformer.wte.weight", config.vocab_size, width),
        positions=parameters("transformer.wpe.weight", config.max_position_embeddings, width),
        blocks=tuple(block(index) for index in range(config.num_hidden_layers)),
        norm=parameters.layer_norm("transformer.ln_f", width, epsilon),
        head=parameters.head("transformer.wte.weight", config),
        heads=heads,
        key_value_heads=heads,
        head_width=width // heads,
        activation=activation(config.activation_function),
    )
