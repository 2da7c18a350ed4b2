"""GPT-NeoX, the architecture of Pythia."""

from __future__ import annotations

from typing import Any

from rl_alliteration.lm.architectures.positions import rotary
from rl_alliteration.lm.description import Block, Description, Parameters, activation


def gpt_neox(config: Any, parameters: Parameters) -> Description:
    """Rotary positions of a part of each head; both halves of a layer read what goes into it."""
    width, heads, inner = config.hidden_size, config.num_attention_heads, config.intermediate_size
    epsilon, bias = config.layer_norm_eps, config.attention_bias
    turning = rotary(config, config.rope_parameters)

    def block(index: int) -> Block:
        name = f"gpt_neox.layers.{index}"
        attention = f"{name}.attention"
        return Block(
            attention_norm=parameters.layer_norm(f"{name}.input_layernorm", width, epsilon),
            query_key_value=parameters.matrix(
                f"{attention}.query_key_value", rows=(3 * width,), columns=width, bias=bias, by_head=heads
            ),
            output=parameters.matrix(f"{attention}.dense", rows=(width,), columns=width, bias=bias),
            feed_forward_norm=parameters.layer_norm(f"{name}.post_attention_layernorm", width, epsilon),
            expand=parameters.matrix(f"{name}.mlp.dense_h_to_4h", rows=(inner,), columns=width, bias=True),
            contract=parameters.matrix(f"{name}.mlp.dense_4h_to_h", rows=(width,), columns=inner, bias=True),
            scale=(width // heads) ** -0.5,
            rotary=turning,
        )

    return Description(
        embedding=parameters("gpt_neox.embed_in.weight", config.vocab_size, width),
        blocks=tuple(block(index) for index in range(config.num_hidden_layers)),
        norm=parameters.layer_norm("gpt_neox.final_layer_norm", width, epsilon),
        head=parameters.head("gpt_neox.embed_in.weight", config, "embed_out.weight", "lm_head.weight"),
        heads=heads,
        key_value_heads=heads,
        head_width=width // heads,
        activation=activation(config.hidden_act),
        parallel=config.use_parallel_residual,
    )
