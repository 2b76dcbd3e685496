"""The hash-filled weights of the flex-1 golden vectors (SPEC 13), and where the pack with them lies."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from flexavatar_cli.model import ModelConfig

MASK = (1 << 64) - 1


def hash_uniform(stream: int, shape: tuple[int, ...]) -> np.ndarray:
    """U(stream, k) of SPEC 13.1 in [-1, 1), float64, row-major in `shape`."""
    count = math.prod(shape)
    start = (stream << 32) + 1
    z = (np.arange(count, dtype=np.uint64) + np.uint64(start)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return ((z >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1).reshape(shape)


def hash_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Weights of SPEC 13.2 for the published names and their shapes."""
    line = np.array([1.0, 3.0, 3.0, 1.0])
    state = {}
    for index, name in enumerate(sorted(shapes)):
        shape = shapes[name]
        last = name.rsplit(".", 1)[-1]
        if last == "resample_filter":
            state[name] = torch.tensor(np.outer(line, line) / 64, dtype=torch.float32)
            continue
        if "_stylegan_upsampler" in name and name.endswith("affine.bias"):
            base, amp = 1.0, 0.3
        elif "_stylegan_upsampler" in name and last == "weight":
            base, amp = 0.0, math.sqrt(3)
        elif name.endswith("transformer.wpe.weight"):
            base, amp = 0.0, 0.5
        elif name.endswith(("_dataset_embedding.weight", "_head_token_embeddings")):
            base, amp = 0.0, 1.0
        elif name.endswith("out_layers.scaling.bias"):
            base, amp = -6.0, 0.5
        elif len(shape) >= 2:
            base, amp = 0.0, math.sqrt(3 / math.prod(shape[1:]))
        else:
            base, amp = (1.0, 0.2) if last == "weight" else (0.0, 0.1)
        state[name] = torch.from_numpy((base + amp * hash_uniform(index, shape)).astype(np.float32))
    return state


def published_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint in the published layout for `config` (SPEC 3, 5.4, 7)."""
    d, trunk, options = config.width, config.trunk, config.decoder
    tokens, head = config.grid**2, config.width // config.heads
    shapes: dict[str, tuple[int, ...]] = {
        "_conv_patchify.weight": (d, trunk.channels, trunk.patch, trunk.patch),
        "_transformer_encoder.transformer.wpe.weight": ((trunk.image_size // trunk.patch) ** 2, d),
        "_head_transformer._head_token_embeddings": (tokens, 1, d),
        "_head_transformer._dataset_embedding.weight": (options.sinks, d),
    }

    def linear(name: str, inputs: int, outputs: int) -> None:
        shapes.update({f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)})

    def norm(name: str) -> None:
        shapes.update({f"{name}.weight": (d,), f"{name}.bias": (d,)})

    for n in range(trunk.layers):
        block = f"_transformer_encoder.transformer.h.{n}"
        norm(f"{block}.ln_1")
        norm(f"{block}.ln_2")
        linear(f"{block}.attn.c_attn", d, 3 * d)
        linear(f"{block}.attn.c_proj", d, d)
        linear(f"{block}.mlp.c_fc", d, 4 * d)
        linear(f"{block}.mlp.c_proj", 4 * d, d)
    norm("_transformer_encoder.transformer.ln_f")
    linear("_feature_projection", d + trunk.feature_dim, d)
    linear("_head_transformer._query_point_embedder.mlp", 51, d)
    norm("_head_transformer._query_point_embedder.norm")
    stacks = (("_transformer", len(config.encoder)), ("_expression_transformer", len(options.blocks)))
    for stack, layers in stacks:
        prefix = f"_head_transformer.{stack}"
        linear(f"{prefix}.linear_cond_proj", d, d)
        norm(f"{prefix}.norm")
        for n in range(layers):
            block = f"{prefix}.layers.{n}"
            norm(f"{block}.norm1")
            norm(f"{block}.norm1_context")
            for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj"):
                linear(f"{block}.attn.{name}", d, d)
            for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
                shapes[f"{block}.attn.{name}.weight"] = (head,)
            streams = ["ff"]
            if n < layers - 1:
                linear(f"{block}.attn.to_add_out", d, d)
                streams.append("ff_context")
            for name in streams:
                linear(f"{block}.{name}.net.0.proj", d, 4 * d)
                linear(f"{block}.{name}.net.2", 4 * d, d)
    first, second = options.expression_hidden
    linear("_head_transformer._expression_mlp.0", options.expression_dim, first)
    linear("_head_transformer._expression_mlp.3", first, second)
    linear("_head_transformer._expression_mlp.6", second, options.expression_tokens * d)
    before, image = d, d
    for n, after in enumerate(config.upsampler.widths):
        block = f"_gaussian_decoder._stylegan_upsampler.blocks.{n}"
        image //= 4
        for name, inputs, outputs, kernel in (("conv0", before, after, 3), ("conv1", after, after, 3),
                                              ("torgb", after, image, 1)):  # fmt: skip
            shapes[f"{block}.{name}.weight"] = (outputs, inputs, kernel, kernel)
            shapes[f"{block}.{name}.bias"] = (outputs,)
            linear(f"{block}.{name}.affine", 512, inputs)
            if name != "torgb":
                shapes[f"{block}.{name}.resample_filter"] = (4, 4)
        before = after
    for name, outputs in (("shs", 3), ("scaling", 3), ("xyz", 3), ("opacity", 1), ("rotation", 4)):
        linear(f"_gaussian_decoder._mlp_decoder.out_layers.{name}", image, outputs)
    return shapes


@pytest.fixture(scope="session")
def hashed():
    """The function U(stream, shape) of SPEC 13.1."""
    return hash_uniform


@pytest.fixture(scope="session")
def hashed_state():
    """The function shapes -> weights of SPEC 13.2."""
    return hash_state


@pytest.fixture(scope="session")
def release_shapes():
    """The function config -> names and shapes of the published layout."""
    return published_shapes


@pytest.fixture(scope="session")
def flex1_pack() -> Path:
    """The folder with the flex-1 specification's data; skips where it is not present."""
    named = os.environ.get("FLEXAVATAR_SHARED")
    shared = Path(named) if named else Path(__file__).parents[3] / "shared"
    if not (shared / "flex1" / "golden").is_dir():
        pytest.skip("flex1: golden vectors not found (set FLEXAVATAR_SHARED)")
    return shared / "flex1"
