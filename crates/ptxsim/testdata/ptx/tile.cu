// One warp per tile: cp.async into shared memory, ldmatrix, mma, with waits written in scopes of their own.
typedef unsigned int u32;
typedef unsigned long long u64;
extern __shared__ __align__(128) unsigned char dynamic_memory[];

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void wait_for(u32 barrier, u32 parity) {
    asm volatile("{\n\t.reg .pred p;\n\twait:\n\tmbarrier.test_wait.parity.shared::cta.b64 p, [%0], %1;\n\t@p bra done;\n\tbra wait;\n\tdone:\n\t}"
                 :: "r"(barrier), "r"(parity) : "memory");
}

extern "C" __global__ void __launch_bounds__(128, 2)
tile(const unsigned short* __restrict__ a, const unsigned short* __restrict__ b, float* out, int n, float scale) {
    __shared__ __align__(8) u64 barrier;
    __shared__ float sums[32];
    u32 base = shared_address(dynamic_memory), lane = threadIdx.x & 31;
    if (threadIdx.x == 0) asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(shared_address(&barrier)), "r"(128));
    __syncthreads();
    float c[4] = {0, 0, 0, 0};
    for (int k = 0; k < n; ++k) {
        asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" :: "r"(base + threadIdx.x * 16), "l"(a + k * 1024 + threadIdx.x * 8), "r"(k < n - 1 ? 16 : 0));
        asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" :: "r"(base + 2048 + threadIdx.x * 16), "l"(b + k * 1024 + threadIdx.x * 8));
        asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" :: "r"(shared_address(&barrier)));
        wait_for(shared_address(&barrier), k & 1);
        u32 x[4], y[2];
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(base + lane * 16));
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];" : "=r"(y[0]), "=r"(y[1]) : "r"(base + 2048 + lane * 16));
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
        __syncthreads();
    }
    float m = c[0];
    for (int i = 16; i; i >>= 1) m = fmaxf(m, __shfl_xor_sync(~0u, m, i));
    if (lane == 0) sums[threadIdx.x >> 5] = m;
    __syncthreads();
    float4 value = {exp2f(c[0] * scale - sums[0]), c[1], c[2], __fdividef(c[3], m)};
    reinterpret_cast<float4*>(out)[threadIdx.x] = value;
}
