// Device functions with structures, function pointers, printf, tables and a switch.
struct Pair { double first; int second; char tail[3]; };
struct __align__(16) Wide { float x, y, z, w; };

__constant__ float table[5] = {1.0f, -0.5f, 3.25f};
__constant__ double precise[2] = {0.1, 1e300};
__device__ int counters[4] = {1, -2, 3};
__device__ int* second_counter = &counters[1];
struct __attribute__((packed)) Packed { char tag; int* where; };
__device__ Packed packed = {7, &counters[2]};
__device__ const char message[] = "count %d\n";
__device__ int grid_values[2][3] = {{1}, {4, 5, 6}};
extern "C" __device__ int printf(const char*, ...);

__device__ __noinline__ Pair advance(Pair p, Wide w) { p.first += w.x * w.w; p.second ^= 5; p.tail[1] = 'x'; return p; }
__device__ __noinline__ float twice(float x) { return x + x; }
__device__ __noinline__ float third(float x) { return x / 3.0f; }
typedef float (*Unary)(float);
__device__ Unary choices[2] = {twice, third};

__device__ __noinline__ float select(int which, float x) {
    switch (which) {
        case 0: return x; case 1: return __sinf(x); case 2: return x * x; case 3: return sqrtf(x);
        case 4: return 1.0f / x; case 5: return x - 4.0f; case 6: return __log2f(x); default: return -x;
    }
}

extern "C" __global__ void __maxnreg__(96) calls(Wide w, Pair* pairs, float* out, int which, double d) {
    int local[8];
    for (int i = 0; i < 8; ++i) local[(i * which) & 7] = i;
    Pair p = advance(pairs[threadIdx.x], w);
    p.first += precise[which & 1] * d + (double)packed.tag;
    pairs[threadIdx.x] = p;
    float x = choices[which & 1](table[which]) + select(which, w.y);
    out[threadIdx.x] = x + local[which & 7] + grid_values[which & 1][which] + *second_counter;
    atomicAdd(&counters[0], __popc(__ballot_sync(~0u, x > 1.0f)));
    if (which == 77) printf(message, local[3]);
    if (which == 78) __trap();
}
