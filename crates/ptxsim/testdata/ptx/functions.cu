// Recursion, function pointers, printf, structures by value and local arrays, as NVRTC writes them.
extern "C" __device__ int printf(const char*, ...);
struct Point { int x; double y; short z[3]; };

__device__ __noinline__ unsigned factorial(unsigned n) { return n < 2 ? 1 : n * factorial(n - 1); }
__device__ __noinline__ unsigned fibonacci(unsigned n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
__device__ bool odd(unsigned n);
__device__ __noinline__ bool even(unsigned n) { return n == 0 || odd(n - 1); }
__device__ __noinline__ bool odd(unsigned n) { return n != 0 && even(n - 1); }
__device__ __noinline__ Point move(Point p, int by) { p.x += by; p.y *= 2; p.z[by & 1] = by; return p; }
__device__ __noinline__ int add(int a, int b) { return a + b; }
__device__ __noinline__ int subtract(int a, int b) { return a - b; }
__device__ __noinline__ int multiply(int a, int b) { return a * b; }
typedef int (*Binary)(int, int);
__device__ Binary table[3] = {add, subtract, multiply};

__device__ __noinline__ int depth(int* out, int n) {
    int own[4];
    for (int i = 0; i < 4; ++i) own[i] = n * 10 + i;
    if (n > 0) out[0] += depth(out, n - 1);
    return own[n & 3];
}

extern "C" __global__ void functions(int* out) {
    int t = threadIdx.x;
    int* row = out + 8 * t;
    row[0] = 0;
    row[1] = factorial(t % 11);
    row[2] = fibonacci(t % 9);
    row[3] = even(t) + 2 * odd(t);
    Point p = {t, 0.5 * t, {1, 2, 3}};
    p = move(p, t * 3);
    row[4] = p.x + (int)p.y + p.z[0] * 1000 + p.z[1] + p.z[2];
    row[5] = table[t % 3](t, 7);
    row[6] = depth(row, t % 6);
    if (t == 3) printf("thread %d\n", t);
    switch (t & 7) {
        case 0: row[7] = t; break; case 1: row[7] = t * t; break; case 2: row[7] = -t; break; case 3: row[7] = 3; break;
        case 4: row[7] = t ^ 21; break; case 5: row[7] = t << 3; break; case 6: row[7] = 77; break; default: row[7] = t / 3;
    }
}
