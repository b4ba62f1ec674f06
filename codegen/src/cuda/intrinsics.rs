//! The intrinsic table: what each intrinsic is called in the source, and the device function that defines it.

use crate::thread::Intrinsic;
use mlafuse_tensor::DType;

/// The name by which the source calls an intrinsic.
pub(super) fn name(intrinsic: Intrinsic) -> String {
    use Intrinsic::*;
    match intrinsic {
        Exp2 => "exp2_approx".into(),
        Log2 => "log2f".into(),
        Rsqrt => "rsqrtf".into(),
        ShuffleXor => "shuffle_xor".into(),
        WarpSum => "warp_sum".into(),
        ToFloat(dtype) => format!("{dtype}_to_float"),
        FromFloat(dtype) => format!("float_to_{dtype}"),
        Pack2(dtype) => format!("pack2_{dtype}"),
        LoadSharedF32 => "load_shared_f32".into(),
        LoadShared16 => "load_shared_16".into(),
        StoreSharedF32 => "store_shared_f32".into(),
        StoreShared32 => "store_shared_32".into(),
        StoreShared16 => "store_shared_16".into(),
        LoadGlobalF32x2 => "load_global_f32x2".into(),
        StoreGlobalF32x2 => "store_global_f32x2".into(),
        StoreGlobal16x2 => "store_global_16x2".into(),
        StoreGlobal16x4 => "store_global_16x4".into(),
        CopyAsync(_, bytes) => format!("copy_async_{bytes}"),
        CopyCommit => "copy_commit".into(),
        CopyWait(n) => format!("copy_wait<{n}>"),
        LoadMatrix4 => "load_matrix4".into(),
        LoadMatrix4Transposed => "load_matrix4_transposed".into(),
        LoadMatrix2 => "load_matrix2".into(),
        LoadMatrix2Transposed => "load_matrix2_transposed".into(),
        Mma(dtype) => format!("mma_{dtype}"),
        Barrier => "__syncthreads".into(),
    }
}

/// The device function behind an intrinsic; empty for CUDA's own.
pub(super) fn definition(intrinsic: Intrinsic) -> String {
    use Intrinsic::*;
    match intrinsic {
        Log2 | Rsqrt | Barrier => String::new(),
        Exp2 => function(
            "float",
            "exp2_approx(float x)",
            r#"float r; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x)); return r;"#,
        ),
        ShuffleXor => function(
            "float",
            "shuffle_xor(float x, int mask)",
            "return __shfl_xor_sync(0xffffffffu, x, mask);",
        ),
        WarpSum => function(
            "int",
            "warp_sum(int x)",
            r#"int r; asm volatile("redux.sync.add.s32 %0, %1, 0xffffffff;" : "=r"(r) : "r"(x)); return r;"#,
        ),
        ToFloat(DType::BF16) => function("float", "bf16_to_float(u16 x)", "return __uint_as_float((u32)x << 16);"),
        ToFloat(DType::F16) => function(
            "float",
            "f16_to_float(u16 x)",
            r#"float r; asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(x)); return r;"#,
        ),
        ToFloat(dtype) => function(
            "float",
            &format!("{dtype}_to_float({} x)", element(dtype)),
            "return (float)x;",
        ),
        FromFloat(DType::BF16) => function(
            "u16",
            "float_to_bf16(float x)",
            r#"u16 r; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(x)); return r;"#,
        ),
        FromFloat(DType::F16) => function(
            "u16",
            "float_to_f16(float x)",
            r#"u16 r; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(x)); return r;"#,
        ),
        FromFloat(dtype) => function(
            element(dtype),
            &format!("float_to_{dtype}(float x)"),
            &format!("return ({})x;", element(dtype)),
        ),
        Pack2(dtype) => function(
            "u32",
            &format!("pack2_{dtype}(float low, float high)"),
            &format!(r#"u32 r; asm("cvt.rn.{dtype}x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low)); return r;"#),
        ),
        LoadSharedF32 => function(
            "float",
            "load_shared_f32(u32 at)",
            r#"float r; asm volatile("ld.shared.f32 %0, [%1];" : "=f"(r) : "r"(at) : "memory"); return r;"#,
        ),
        LoadShared16 => function(
            "u16",
            "load_shared_16(u32 at)",
            r#"u16 r; asm volatile("ld.shared.u16 %0, [%1];" : "=h"(r) : "r"(at) : "memory"); return r;"#,
        ),
        StoreSharedF32 => function(
            "void",
            "store_shared_f32(u32 at, float x)",
            r#"asm volatile("st.shared.f32 [%0], %1;" :: "r"(at), "f"(x) : "memory");"#,
        ),
        StoreShared32 => function(
            "void",
            "store_shared_32(u32 at, u32 x)",
            r#"asm volatile("st.shared.b32 [%0], %1;" :: "r"(at), "r"(x) : "memory");"#,
        ),
        StoreShared16 => function(
            "void",
            "store_shared_16(u32 at, u16 x)",
            r#"asm volatile("st.shared.b16 [%0], %1;" :: "r"(at), "h"(x) : "memory");"#,
        ),
        LoadGlobalF32x2 => function(
            "void",
            "load_global_f32x2(float* r, int at, const float* from, i64 index)",
            r#"asm volatile("ld.global.v2.f32 {%0, %1}, [%2];" : "=f"(r[at]), "=f"(r[at + 1]) : "l"(from + index));"#,
        ),
        // A store of CUDA's vector types may come out as two, each of half the sectors' bytes.
        StoreGlobalF32x2 => function(
            "void",
            "store_global_f32x2(float* to, i64 at, float low, float high)",
            r#"asm volatile("st.global.v2.f32 [%0], {%1, %2};" :: "l"(to + at), "f"(low), "f"(high) : "memory");"#,
        ),
        StoreGlobal16x2 => function(
            "void",
            "store_global_16x2(u16* to, i64 at, u32 x)",
            "*(u32*)(to + at) = x;",
        ),
        StoreGlobal16x4 => function(
            "void",
            "store_global_16x4(u16* to, i64 at, u32 low, u32 high)",
            r#"asm volatile("st.global.v2.b32 [%0], {%1, %2};" :: "l"(to + at), "r"(low), "r"(high) : "memory");"#,
        ),
        CopyAsync(_, bytes) => {
            // Only whole 16-byte copies may bypass L1.
            let cache = if bytes == 16 { "cg" } else { "ca" };
            let asm = format!(
                r#"asm volatile("cp.async.{cache}.shared.global [%0], [%1], {bytes}, %2;" :: "r"(to), "l"(from + at), "r"(there) : "memory");"#
            );
            format!(
                "template <typename T> {}",
                function(
                    "void",
                    &format!("copy_async_{bytes}(u32 to, const T* from, i64 at, int there)"),
                    &asm
                )
            )
        }
        CopyCommit => function(
            "void",
            "copy_commit()",
            r#"asm volatile("cp.async.commit_group;" ::: "memory");"#,
        ),
        CopyWait(_) => {
            let asm = r#"asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");"#;
            format!("template <int N> {}", function("void", "copy_wait()", asm))
        }
        LoadMatrix4 => load_matrix("load_matrix4", "x4", 4),
        LoadMatrix4Transposed => load_matrix("load_matrix4_transposed", "x4.trans", 4),
        LoadMatrix2 => load_matrix("load_matrix2", "x2", 2),
        LoadMatrix2Transposed => load_matrix("load_matrix2_transposed", "x2.trans", 2),
        Mma(dtype) => function(
            "void",
            &format!("mma_{dtype}(float* d, int d_at, const u32* a, int a_at, const u32* b, int b_at)"),
            &format!(
                r#"d += d_at; a += a_at; b += b_at;
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.{dtype}.{dtype}.f32 {{%0, %1, %2, %3}}, {{%4, %5, %6, %7}}, {{%8, %9}}, {{%0, %1, %2, %3}};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));"#
            ),
        ),
    }
}

/// The C type of an element in memory.
pub(super) fn element(dtype: DType) -> &'static str {
    match dtype {
        DType::BF16 | DType::F16 => "u16",
        DType::F32 => "float",
        DType::F64 => "double",
        DType::I32 => "int",
        DType::I64 => "i64",
    }
}

fn function(result: &str, signature: &str, body: &str) -> String {
    format!("static __device__ __forceinline__ {result} {signature} {{\n    {body}\n}}\n")
}

fn load_matrix(name: &str, form: &str, count: usize) -> String {
    let registers: Vec<String> = (0..count).map(|i| format!("%{i}")).collect();
    let outputs: Vec<String> = (0..count).map(|i| format!("\"=r\"(r[{i}])")).collect();
    let body = format!(
        r#"r += at;
    asm volatile("ldmatrix.sync.aligned.m8n8.{form}.shared.b16 {{{}}}, [%{count}];" : {} : "r"(row) : "memory");"#,
        registers.join(", "),
        outputs.join(", ")
    );
    function("void", &format!("{name}(u32* r, int at, u32 row)"), &body)
}
