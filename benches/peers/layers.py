"""A whole attention layer: transformers' own module with its cache."""

import importlib
import importlib.metadata

import torch
from safetensors.torch import load_file
from transformers.cache_utils import DynamicCache

# Tokens of the prompt that are computed at a time.
PIECE = 256


def transformers(spec):
    """DeepseekV2Attention or DeepseekV3Attention with scaled_dot_product_attention. The rope's angles are computed before."""
    fields = dict(spec["config"])
    kind = fields.pop("model_type")
    prefix = {"deepseek_v2": "DeepseekV2", "deepseek_v3": "DeepseekV3"}[kind]
    modeling = importlib.import_module(f"transformers.models.{kind}.modeling_{kind}")
    configuration = importlib.import_module(f"transformers.models.{kind}.configuration_{kind}")
    config = getattr(configuration, f"{prefix}Config")(**fields)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        attention = getattr(modeling, f"{prefix}Attention")(config, layer_idx=0).eval()
    rotary = getattr(modeling, f"{prefix}RotaryEmbedding")(config)
    tensors = load_file(spec["inputs"])
    weights = {name: value.clone() for name, value in tensors.items() if name.endswith((".weight", ".bias"))}
    attention.load_state_dict(weights, assign=True)
    hidden, prompt = tensors["hidden"], tensors.get("prompt")
    before = 0 if prompt is None else prompt.shape[1]

    def positions(first, count):
        return rotary(hidden, torch.arange(first, first + count)[None])

    def forward(hidden, angles, cache, mask=None):
        return attention(hidden_states=hidden, position_embeddings=angles, attention_mask=mask, cache=cache)[0]

    # The prompt piece by piece: the scores of all of it, for each head, would not fit the memory.
    cache = DynamicCache()
    for first in range(0, before, PIECE):
        piece = prompt[:, first : first + PIECE]
        last = first + piece.shape[1]
        seen = torch.arange(last) <= torch.arange(first, last)[:, None]
        forward(piece, positions(first, piece.shape[1]), cache, seen[None, None])
    angles = positions(before, hidden.shape[1])

    def decode():
        # Each repetition finds what was cached before the first.
        cache.crop(before - cache.get_seq_length())
        return forward(hidden, angles, cache)

    def prefill():
        return forward(hidden, angles, DynamicCache())

    version = importlib.metadata.version("transformers")
    return decode if before else prefill, f"transformers {version} under torch {torch.__version__}"
