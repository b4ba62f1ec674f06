"""Compiles the kernels of kernels.py with Triton, without a GPU, and writes one launch folder a case beside this file.

    .venv/bin/python gen_triton.py
"""
import json
import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent
os.environ["TRITON_CACHE_DIR"] = str(ROOT / ".triton")
os.environ["TRITON_DEFAULT_FP_FUSION"] = "1"

import ml_dtypes
import numpy as np
import triton
from safetensors.numpy import save
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import kernels

TYPES = {"bf16": ml_dtypes.bfloat16, "f32": np.float32}
TRITON = {"bf16": "bf16", "f32": "fp32"}
NAMES = {"bfloat16": "bf16", "float32": "f32"}


def compile_ptx(case: dict, arch: int, line_info: bool):
    """The compiled kernel."""
    fn = case["fn"]
    signature = {}
    for name, value in case["args"].items():
        signature[name] = "*" + TRITON[value[1]] if isinstance(value, tuple) else {int: "i32", float: "fp32"}[type(value)]
    signature |= dict.fromkeys(case["const"], "constexpr")
    # What Triton's own launcher would specialise on.
    aligned = [n for n, v in case["args"].items() if isinstance(v, tuple) or (isinstance(v, int) and v % 16 == 0)]
    attrs = {(fn.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    triton.knobs.compilation.disable_line_info = not line_info
    source = ASTSource(fn=fn, signature=signature, constexprs=case["const"], attrs=attrs)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=case["options"])


def argument(case: dict, value) -> dict:
    match value:
        case (name, _) if name in case["inputs"]:
            return {"tensor": f"inputs.safetensors#{name}"}
        case (name, _):
            want = case["reference"][name]
            return {"output": name, "dtype": NAMES[str(want.dtype)], "shape": list(want.shape)}
        case int():
            return {"i32": value}
        case float():
            return {"f32": value}


def launch_json(case: dict, compiled, ptx_name: str) -> str:
    meta = compiled.metadata
    # Triton appends pointers to its global scratch and its profiling scratch; these kernels use neither.
    assert meta.global_scratch_size == 0 and meta.profile_scratch_size == 0 and meta.num_ctas == 1
    args = [argument(case, value) for value in case["args"].values()] + [{"null": 0}, {"null": 0}]
    head = {"ptx": ptx_name, "entry": meta.name, "grid": case["grid"], "block": [32 * meta.num_warps, 1, 1],
            "dynamic_shared": meta.shared}
    reference = {"file": "reference.safetensors", "rel_l2": case["rel_l2"]}
    lines = ["{", "  " + json.dumps(head)[1:-1] + ",", '  "args": [']
    lines.append(",\n".join(f"    {json.dumps(arg)}" for arg in args))
    return "\n".join(lines + ["  ],", f'  "reference": {json.dumps(reference)}', "}"]) + "\n"


def emit(name: str, case: dict, arch: int, line_info: bool = False) -> None:
    compiled = compile_ptx(case, arch, line_info)
    # Neither .file nor the debug sections name a folder of this machine.
    ptx = re.sub(r'"/[^"]*/', '"', compiled.asm["ptx"]).split("\t.section")[0]
    folder = ROOT / f"{name}_sm{arch}"
    folder.mkdir(exist_ok=True)
    ptx_name = f"{case['fn'].__name__}.ptx"
    (folder / ptx_name).write_text(ptx)
    for file, tensors in ("inputs", case["inputs"]), ("reference", case["reference"]):
        packed = save({key: np.ascontiguousarray(value) for key, value in tensors.items()})
        (folder / f"{file}.safetensors").write_bytes(packed)
    (folder / "LAUNCH.json").write_text(launch_json(case, compiled, ptx_name))


def matmul(m, n, k, tile, warps, stages, kind, rel_l2):
    rng = np.random.default_rng(m * 1000 + n * 10 + k)
    a = rng.standard_normal((m, k)).astype(TYPES[kind])
    b = rng.standard_normal((k, n)).astype(TYPES[kind])
    c = (a.astype(np.float64) @ b.astype(np.float64)).astype(TYPES[kind])
    bm, bn, bk = tile
    return dict(fn=kernels.matmul, inputs={"a": a, "b": b}, reference={"c": c}, rel_l2=rel_l2,
                args={"a_ptr": ("a", kind), "b_ptr": ("b", kind), "c_ptr": ("c", kind), "M": m, "N": n, "K": k,
                      "stride_am": k, "stride_bk": n, "stride_cm": n},
                const=dict(BLOCK_M=bm, BLOCK_N=bn, BLOCK_K=bk, PRECISION="tf32"),
                options=dict(num_warps=warps, num_stages=stages), grid=[-(-m // bm), -(-n // bn), 1])


def softmax(rows, cols, stride, block, warps, programs):
    rng = np.random.default_rng(7)
    x = (3 * rng.standard_normal((rows, stride))).astype(np.float32)
    x[:, cols:] = 1e30  # never to be read
    e = np.exp(x[:, :cols].astype(np.float64) - x[:, :cols].max(1, keepdims=True))
    y = (e / e.sum(1, keepdims=True)).astype(np.float32)
    return dict(fn=kernels.softmax, inputs={"x": x}, reference={"y": y}, rel_l2=1e-5,
                args={"x_ptr": ("x", "f32"), "y_ptr": ("y", "f32"), "rows": rows, "cols": cols, "x_stride": stride, "y_stride": cols},
                const=dict(BLOCK=block, STAGES=1), options=dict(num_warps=warps, num_stages=3), grid=[programs, 1, 1])


def layer_norm(rows, cols, block, warps):
    rng = np.random.default_rng(11)
    x = (2 * rng.standard_normal((rows, cols)) + 0.5).astype(np.float32)
    w = (1 + 0.25 * rng.standard_normal(cols)).astype(np.float32)
    b = (0.5 * rng.standard_normal(cols)).astype(np.float32)
    eps = 1e-5
    xd = x.astype(np.float64)
    mean = xd.mean(1)
    rstd = 1 / np.sqrt(((xd - mean[:, None]) ** 2).mean(1) + eps)
    y = (xd - mean[:, None]) * rstd[:, None] * w.astype(np.float64) + b.astype(np.float64)
    reference = {name: value.astype(np.float32) for name, value in (("y", y), ("mean", mean), ("rstd", rstd))}
    return dict(fn=kernels.layer_norm, inputs={"x": x, "w": w, "b": b}, reference=reference, rel_l2=1e-5,
                args={name + "_ptr": (name, "f32") for name in ("x", "w", "b", "y", "mean", "rstd")}
                | {"stride": cols, "cols": cols, "eps": eps},
                const=dict(BLOCK=block), options=dict(num_warps=warps, num_stages=3), grid=[rows, 1, 1])


def attention(heads, seq, tile, warps, stages):
    rng = np.random.default_rng(heads * 1000 + seq)
    dim = 64
    q, k, v = ((1.5 * rng.standard_normal((heads, seq, dim))).astype(TYPES["bf16"]) for _ in range(3))
    scale_log2 = float(np.float32(dim ** -0.5 * np.log2(np.e)))
    s = np.einsum("hid,hjd->hij", q.astype(np.float64), k.astype(np.float64)) * scale_log2
    s = np.where(np.tri(seq, dtype=bool), s, -np.inf)
    top = s.max(-1, keepdims=True)
    p = np.exp2(s - top)
    total = p.sum(-1, keepdims=True)
    o = np.einsum("hij,hjd->hid", p / total, v.astype(np.float64))
    reference = {"o": o.astype(np.float32), "lse": (top + np.log2(total))[..., 0].astype(np.float32)}
    bm, bn = tile
    return dict(fn=kernels.attention, inputs={"q": q, "k": k, "v": v}, reference=reference, rel_l2=3e-3,
                args={"q_ptr": ("q", "bf16"), "k_ptr": ("k", "bf16"), "v_ptr": ("v", "bf16"), "o_ptr": ("o", "f32"),
                      "lse_ptr": ("lse", "f32"), "scale_log2": scale_log2, "stride_h": seq * dim, "stride_s": dim,
                      "seq": seq, "heads": heads},
                const=dict(BLOCK_M=bm, BLOCK_N=bn, D=dim, CAUSAL=True),
                options=dict(num_warps=warps, num_stages=stages), grid=[-(-seq // bm), heads, 1])


if __name__ == "__main__":
    for arch in 80, 120:
        emit("softmax", softmax(7, 301, 309, 512, 4, 3), arch)
    for arch in 80, 100, 120:
        emit("matmul_bf16", matmul(72, 80, 80, (32, 64, 32), 4, 3, "bf16", 3e-3), arch)
    emit("layer_norm_f32", layer_norm(6, 300, 128, 4), 80)
    emit("attention_small", attention(1, 50, (32, 32), 4, 2), 80)
    emit("softmax_lineinfo", softmax(7, 301, 309, 512, 4, 3), 80, line_info=True)
