"""The Triton 3.9 source of softmax_sm80_triton.ptx, compiled without a GPU."""
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def softmax(x_ptr, y_ptr, n, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * stride + cols, mask=cols < n, other=-float("inf"))
    e = tl.exp(x - tl.max(x, axis=0))
    tl.store(y_ptr + row * stride + cols, e / tl.sum(e, axis=0), mask=cols < n)


signature = {"x_ptr": "*fp32", "y_ptr": "*fp32", "n": "i32", "stride": "i32", "BLOCK": "constexpr"}
source = ASTSource(fn=softmax, signature=signature, constexprs={"BLOCK": 64})
kernel = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": 1})
print(kernel.asm["ptx"], end="")
