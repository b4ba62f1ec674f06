//! Each kind of fault is found, and the tensor core's fragments fit each other.

use super::*;
use half::bf16;
use mlafuse_codegen::thread::{Expr, Intrinsic, Param, ParamTy, Stmt, Ty};
use mlafuse_tensor::DType;

const F32: ParamTy = ParamTy::Pointer {
    dtype: DType::F32,
    written: true,
};
const BF16: ParamTy = ParamTy::Pointer {
    dtype: DType::BF16,
    written: false,
};

fn program(params: &[(&str, ParamTy)], threads: usize, body: Vec<Stmt>) -> ThreadProgram {
    let params = params
        .iter()
        .map(|&(name, ty)| Param { name: name.into(), ty })
        .collect();
    ThreadProgram {
        name: "kernel".into(),
        doc: vec![],
        params,
        threads,
        shared_bytes: 1024,
        body,
    }
}

fn run(program: &ThreadProgram, memory: &mut Memory, arrival: Arrival) -> Result<Stats, String> {
    let args: Vec<Arg> = (0..program.params.len()).map(Arg::Buffer).collect();
    launch(program, [1; 3], &args, memory, arrival).map_err(|fault| fault.to_string())
}

#[track_caller]
fn faults(params: &[(&str, ParamTy)], body: Vec<Stmt>, words: &str) {
    let mut memory = Memory {
        buffers: vec![DeviceBuffer::empty(256); params.len()],
    };
    let fault = run(&program(params, 64, body), &mut memory, Arrival::Lazy).unwrap_err();
    assert!(fault.contains(words), "{fault}");
}

fn act(intrinsic: Intrinsic, args: impl Into<Vec<Expr>>) -> Stmt {
    Stmt::Do {
        intrinsic,
        args: args.into(),
    }
}

fn bind(ty: Ty, name: &str, value: Expr) -> Stmt {
    Stmt::Let {
        ty,
        name: name.into(),
        value,
    }
}

/// Address of the four bytes that belong to a thread.
fn own(thread: Expr) -> Expr {
    Expr::Shared + thread * 4
}

fn leave() -> Stmt {
    act(Intrinsic::StoreSharedF32, [own(Expr::Thread), Expr::Float(1.0)])
}

fn take(from: Expr) -> Stmt {
    bind(Ty::F32, "taken", Expr::call(Intrinsic::LoadSharedF32, [own(from)]))
}

#[test]
fn a_barrier_is_needed_between_warps_only() {
    let other_warp = || Expr::Thread.xor(Expr::Int(32));
    faults(
        &[],
        vec![leave(), take(other_warp())],
        "race: thread 0 reads shared byte 128, written by warp 1",
    );
    let same_warp = program(&[], 64, vec![leave(), take(Expr::Thread.xor(Expr::Int(1)))]);
    let barrier = program(&[], 64, vec![leave(), act(Intrinsic::Barrier, []), take(other_warp())]);
    for program in [same_warp, barrier] {
        run(&program, &mut Memory::default(), Arrival::Lazy).unwrap();
    }
    let read_then_written = vec![leave(), act(Intrinsic::Barrier, []), take(other_warp()), leave()];
    faults(
        &[],
        read_then_written,
        "race: thread 0 writes shared byte 0: warps 0b10 read it",
    );
    faults(
        &[],
        vec![act(Intrinsic::StoreSharedF32, [Expr::Shared, Expr::Float(1.0)])],
        "at the same time",
    );
}

#[test]
fn memory_without_a_value_is_not_read() {
    faults(&[], vec![take(Expr::Thread)], "which nobody has written");
    let load = |at: Expr| bind(Ty::F32, "x", Expr::Global("x".into(), Box::new(at)));
    faults(
        &[("x", F32)],
        vec![load(Expr::Thread)],
        "reads byte 0, which nobody has written",
    );
    faults(
        &[("x", F32)],
        vec![load(Expr::Thread + 64)],
        "bytes 256..+4 of a buffer of 256",
    );
    faults(&[("x", F32)], vec![load(Expr::Int(0) - Expr::Thread)], "reads byte 0");
    let register = vec![
        Stmt::Array {
            ty: Ty::F32,
            name: "r".into(),
            len: 1,
        },
        bind(Ty::F32, "x", Expr::register("r", Expr::Int(0))),
    ];
    faults(&[], register, "reads a register that it has not set");
}

#[test]
fn writes_are_where_they_may_be() {
    let store = |at: Expr| Stmt::StoreGlobal {
        pointer: "x".into(),
        index: at,
        value: Expr::Float(1.0),
    };
    faults(&[("x", F32)], vec![store(Expr::Thread + 1)], "bytes 256..+4");
    faults(
        &[("x", F32)],
        vec![store(Expr::Thread / 2)],
        "has written in the same launch",
    );
    let read_only = ParamTy::Pointer {
        dtype: DType::F32,
        written: false,
    };
    faults(&[("x", read_only)], vec![store(Expr::Thread)], "declared as only read");
    faults(
        &[],
        vec![act(
            Intrinsic::StoreSharedF32,
            [Expr::Shared + Expr::Thread * 4 + 2, Expr::Float(0.0)],
        )],
        "not a multiple",
    );
    faults(
        &[],
        vec![act(
            Intrinsic::StoreSharedF32,
            [own(Expr::Thread + 256), Expr::Float(0.0)],
        )],
        "shared bytes 1024",
    );
}

#[test]
fn threads_stay_together_where_they_must() {
    let only_first = |body| Stmt::If {
        cond: Expr::Thread.lt(Expr::Int(1)),
        body,
    };
    faults(
        &[],
        vec![only_first(vec![act(Intrinsic::Barrier, [])])],
        "not every thread",
    );
    faults(
        &[],
        vec![only_first(vec![Stmt::Return]), act(Intrinsic::Barrier, [])],
        "not every thread",
    );
    let shuffle = bind(
        Ty::F32,
        "x",
        Expr::call(Intrinsic::ShuffleXor, [Expr::Float(1.0), Expr::Int(1)]),
    );
    faults(&[], vec![only_first(vec![shuffle])], "operation of whole warps");
    let sum = bind(Ty::I32, "x", Expr::call(Intrinsic::WarpSum, [Expr::Int(1)]));
    faults(&[], vec![only_first(vec![sum])], "operation of whole warps");
    let turns = Stmt::For {
        var: "i".into(),
        start: Expr::Int(0),
        end: Expr::Thread,
        unroll: 1,
        body: vec![],
    };
    faults(&[], vec![turns], "a loop's end is 0 in one thread and 1 in another");
    faults(
        &[],
        vec![bind(Ty::I32, "x", Expr::Thread * (1 << 30))],
        "does not fit i32",
    );
}

/// Each thread copies two bf16 of which the second is not there, then waits until `left` groups are under way.
fn copied(left: u8, between: Vec<Stmt>) -> ThreadProgram {
    let copy = act(
        Intrinsic::CopyAsync(DType::BF16, 4),
        [own(Expr::Thread), Expr::name("x"), Expr::Thread * 2, Expr::Int(2)],
    );
    let mut body = vec![copy, act(Intrinsic::CopyCommit, []), act(Intrinsic::CopyWait(left), [])];
    body.extend(between);
    let word = Expr::call(Intrinsic::LoadSharedF32, [own(Expr::Thread.xor(Expr::Int(32)))]);
    body.push(Stmt::StoreGlobal {
        pointer: "out".into(),
        index: Expr::Thread,
        value: word,
    });
    program(&[("x", BF16), ("out", F32)], 64, body)
}

#[test]
fn copies_are_used_after_wait_and_barrier() {
    let mut x = DeviceBuffer::empty(256);
    (0..64).for_each(|i| x.put(i * 4, &bf16::from_f32(i as f32).to_le_bytes()));
    let memory = Memory {
        buffers: vec![x, DeviceBuffer::empty(256)],
    };
    let barrier = || vec![act(Intrinsic::Barrier, [])];
    for arrival in [Arrival::Lazy, Arrival::Eager] {
        let unwaited = run(&copied(1, barrier()), &mut memory.clone(), arrival).unwrap_err();
        assert!(unwaited.contains("a copy of thread 32 may be writing it"), "{unwaited}");
        let no_barrier = run(&copied(0, vec![]), &mut memory.clone(), arrival).unwrap_err();
        assert!(no_barrier.contains("race"), "{no_barrier}");
        let mut memory = memory.clone();
        run(&copied(0, barrier()), &mut memory, arrival).unwrap();
        for thread in 0..64usize {
            let expected = bf16::from_f32((thread ^ 32) as f32).to_le_bytes();
            assert_eq!(
                memory.buffers[1].bytes[thread * 4..][..4],
                [expected[0], expected[1], 0, 0]
            );
        }
    }
    let mut left = copied(0, barrier());
    left.body.retain(|stmt| {
        !matches!(
            stmt,
            Stmt::Do {
                intrinsic: Intrinsic::CopyWait(_),
                ..
            } | Stmt::StoreGlobal { .. }
        )
    });
    let fault = run(&left, &mut memory.clone(), Arrival::Lazy).unwrap_err();
    assert!(fault.contains("never waited for"), "{fault}");
}

/// out \[16, 8\] = a \[16, 16\] · b, b \[16, 8\] row by row (`transposed`) or column by column.
fn one_product(transposed: bool) -> ThreadProgram {
    let lane = || Expr::Thread;
    let array = |ty, name: &str, len| Stmt::Array {
        ty,
        name: name.into(),
        len,
    };
    let to_shared = |name: &str, at: usize, count: i32| {
        let place = lane() * count;
        let element = Expr::Global(name.into(), Box::new(place.clone() + Expr::name("i")));
        let store = act(
            Intrinsic::StoreShared16,
            [Expr::Shared + at + (place + Expr::name("i")) * 2, element],
        );
        Stmt::For {
            var: "i".into(),
            start: Expr::Int(0),
            end: count.into(),
            unroll: 1,
            body: vec![store],
        }
    };
    // Rows of 32 bytes of a: lanes 0..16 name the left halves, 16..32 the right ones.
    let a_row = Expr::Shared + lane().bit_and(15) * 32 + lane().shift_right(4) * 16;
    // b as [k, n] has rows of 16 bytes; as [n, k] of 32, whose halves are the two matrices.
    let (load_b, b_row) = match transposed {
        true => (Intrinsic::LoadMatrix2Transposed, lane().bit_and(15) * 16),
        false => (
            Intrinsic::LoadMatrix2,
            lane().bit_and(7) * 32 + lane().shift_right(3).bit_and(1) * 16,
        ),
    };
    let regs = |name: &str| Expr::Array(name.into());
    let mut body = vec![to_shared("a", 0, 8), to_shared("b", 512, 4), array(Ty::F32, "c", 4)];
    body.extend((0..4).map(|i| Stmt::Set {
        name: "c".into(),
        at: Expr::Int(i),
        value: Expr::Float(0.5),
    }));
    body.extend([
        array(Ty::U32, "a_regs", 4),
        array(Ty::U32, "b_regs", 2),
        act(Intrinsic::LoadMatrix4, [regs("a_regs"), Expr::Int(0), a_row]),
        act(load_b, [regs("b_regs"), Expr::Int(0), Expr::Shared + 512 + b_row]),
        act(
            Intrinsic::Mma(DType::BF16),
            [
                regs("c"),
                Expr::Int(0),
                regs("a_regs"),
                Expr::Int(0),
                regs("b_regs"),
                Expr::Int(0),
            ],
        ),
    ]);
    body.extend((0..4).map(|i| {
        let (row, col) = (
            lane().shift_right(2) + (i / 2 * 8) as i32,
            lane().bit_and(3) * 2 + (i % 2) as i32,
        );
        Stmt::StoreGlobal {
            pointer: "out".into(),
            index: row * 8 + col,
            value: Expr::register("c", Expr::Int(i)),
        }
    }));
    program(&[("a", BF16), ("b", BF16), ("out", F32)], 32, body)
}

#[test]
fn a_product_of_matrices_is_one() {
    let value = |i: usize| ((i * 7 + 3) % 11) as f32 - 5.0;
    let holding = |count: usize, shift: usize| {
        DeviceBuffer::holding(
            (0..count)
                .flat_map(|i| bf16::from_f32(value(i + shift)).to_le_bytes())
                .collect(),
        )
    };
    for transposed in [false, true] {
        let mut memory = Memory {
            buffers: vec![holding(256, 0), holding(128, 5), DeviceBuffer::empty(512)],
        };
        let stats = run(&one_product(transposed), &mut memory, Arrival::Lazy).unwrap();
        assert_eq!((stats.products, stats.matrix_phases), (1, 6));
        for (row, col) in (0..16).flat_map(|row| (0..8).map(move |col| (row, col))) {
            let b = |k: usize| value(5 + if transposed { k * 8 + col } else { col * 16 + k });
            let expected: f32 = 0.5 + (0..16).map(|k| value(row * 16 + k) * b(k)).sum::<f32>();
            let bytes = &memory.buffers[2].bytes[(row * 8 + col) * 4..][..4];
            assert_eq!(
                bytes,
                expected.to_le_bytes(),
                "row {row}, column {col}, transposed {transposed}"
            );
        }
    }
}

#[test]
fn conversions_round_to_nearest_even() {
    let store = |value: f32, at: i32| Stmt::StoreGlobal {
        pointer: "x".into(),
        index: Expr::Thread * 2 + at,
        value: Expr::call(Intrinsic::FromFloat(DType::BF16), [Expr::Float(value)]),
    };
    let bf16_out = ParamTy::Pointer {
        dtype: DType::BF16,
        written: true,
    };
    // Halfway between two bf16: down to the even one, up to the even one.
    let body = vec![store(1.0 + 2f32.powi(-8), 0), store(1.0 + 3.0 * 2f32.powi(-8), 1)];
    let mut memory = Memory {
        buffers: vec![DeviceBuffer::empty(128)],
    };
    run(&program(&[("x", bf16_out)], 32, body), &mut memory, Arrival::Lazy).unwrap();
    let expected = [bf16::from_f32(1.0), bf16::from_f32(1.0 + 2f32.powi(-6))]
        .map(bf16::to_le_bytes)
        .concat();
    assert_eq!(memory.buffers[0].bytes[..4], expected[..]);
}
