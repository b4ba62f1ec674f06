//! What cannot be decoded, and what cannot be launched.

use super::{Access, Contents, DecodeError, Kernel, LaunchConfig, LaunchError, Memory, Options, case, launch};

/// The error of a line in the middle of a kernel: it must name that line.
fn error(line: &str) -> String {
    let case = case(&format!("add.u32 %r1, %r1, 1;\n{line}\nadd.u32 %r1, %r1, 2;")).both("data", &[0; 4]);
    let error = case.decode_error();
    let expected = format!("line {}: ", case.line_of(line));
    error
        .strip_prefix(&expected)
        .unwrap_or_else(|| panic!("{error}: expected `{expected}`"))
        .to_owned()
}

#[test]
fn opcodes_that_are_unknown() {
    for opcode in [
        "wgmma.fence.sync.aligned",
        "frobnicate.b32 %r1, %r2",
        "ld.global.u32.odd %r1, [%a0]",
        "st.global [%a0], %r1",
        "atom.global.nand.b32 %r1, [%a0], %r1",
        "atom.global.add.b32 %r1, [%a0], %r1",
        "atom.global.inc.s32 %r1, [%a0], %r1",
        "bar.what 0",
        "shfl.bfly.b32 %r1, %r2, 1, 31",
        "vote.sync.most.pred %p1, %p2, -1",
        "redux.sync.add.f32 %r1, %r2, -1",
        "match.some.sync.b32 %r1, %r2, -1",
        "cp.async.bulk.commit_group",
        "mbarrier.arrive.expect_tx.shared.b64 _, [%r1], 16",
        "ldmatrix.sync.aligned.m8n8.x3.shared.b16 {%r1, %r2, %r3}, [%r4]",
        "ldmatrix.sync.aligned.m16n16.x1.shared.b8 {%r1, %r2}, [%r4]",
        "fence.everything",
        "isspacep.moon %p1, %a0",
    ] {
        let error = error(&format!("{opcode};"));
        let name = opcode.split(' ').next().unwrap();
        assert!(
            error.contains(&format!("`{name}`")) && error.contains("not implemented"),
            "{opcode}: {error}"
        );
    }
}

#[test]
fn operands_that_do_not_fit() {
    for (line, message) in [
        ("add.u32 %r1, %r2;", "`add.u32` takes 3 operands, found 2"),
        ("add.u32 %r1, %r2, %r3, %r4;", "takes 3 operands, found 4"),
        ("add.u32 %r1, %r2, %d3;", "`%d3` has 64 bits, expected 32"),
        ("add.u64 %r1, %d2, %d3;", "`%r1` has 32 bits, expected at least 64"),
        ("mov.u32 %p1, %r2;", "`%p1` is a predicate"),
        ("@%r1 add.u32 %r1, %r2, 3;", "no predicate `%r1`"),
        ("add.u32 %r1, %nobody, 3;", "no register `%nobody`"),
        ("add.u32 %r1, %r99, 3;", "no register `%r99`"),
        ("mov.u32 %tid.x, 3;", "cannot be written"),
        (
            "ld.global.v2.u32 {%r1, %r2, %r3}, [%a0];",
            "expected 2 registers, found 3",
        ),
        ("ld.global.v4.u32 %r1, [%a0];", "expected 4 registers, found 1"),
        ("ld.global.u64 %r1, [%a0];", "`%r1` has 32 bits, expected at least 64"),
        (
            "ld.global.v8.u64 {%d1, %d2, %d3, %d4, %d5, %d6, %d7, %d8}, [%a0];",
            "at most 32",
        ),
        ("st.global.u32 [%a0], %h1;", "`%h1` has 16 bits, expected at least 32"),
        ("st.global.u32 [%h1], %r1;", "`%h1` has 16 bits, an address 32 or 64"),
        ("st.global.u32 %a0, %r1;", "expected an address in brackets"),
        ("st.param.u32 [p0], %r1;", "cannot be stored to"),
        ("ld.shared.u32 %r1, [p0];", "lies in another space"),
        ("ld.global.u32 %r1, [nothing];", "no register `nothing`"),
        ("atom.global.cas.b32 %r1, [%a0], 3;", "a compare-and-swap two values"),
        (
            "atom.global.add.v2.f32 {%r1}, [%a0], {%r2, %r3};",
            "expected 2 registers, found 1",
        ),
        ("bra NOWHERE;", "no label `NOWHERE`"),
        ("brx.idx %r1, NOWHERE;", "no `.branchtargets` named `NOWHERE`"),
        ("bar.sync 0, 1, 2;", "a number and a count"),
        ("bar.arrive 1;", "a number and a count"),
        (
            "cp.async.ca.shared.global [%r1], [%a0], 12;",
            "a copy of 12 bytes, allowed are [4, 8, 16]",
        ),
        (
            "cp.async.cg.shared.global [%r1], [%a0], 8;",
            "a copy of 8 bytes, allowed are [16]",
        ),
        (
            "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1, %r2}, [%r4];",
            "expected 4 registers, found 2",
        ),
        (
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r1, %r2}, {%r1, %r2, %r3, %r4}, {%r1, %r2}, {%r1, %r2, %r3, %r4};",
            "expected [4, 4, 2, 4] registers",
        ),
        ("mov.b16 %h1, 70000;", "70000 does not fit"),
        ("call nobody, (%r1);", "`nobody` is not declared"),
        ("mov.u64 %d1, nobody;", "`nobody` is not declared"),
    ] {
        let error = error(line);
        assert!(error.contains(message), "{line} {error}: expected {message}");
    }
}

#[test]
fn functions_that_cannot_be_called() {
    let module = ".func (.param .b32 y) declared(.param .b32 x); .func (.param .b32 y) f(.param .b32 x, .param .b64 z) { st.param.b32 [y], 1; ret; }";
    let call = |call: &str| {
        case(&format!(".param .b32 a; .param .b32 b; .param .b64 c;\n{call}"))
            .module(module)
            .decode_error()
    };
    assert!(call("call (b), declared, (a);").contains("`declared` is declared but not defined in this file"));
    for wrong in [
        "call (b), f, (a);",
        "call f, (a, c);",
        "call (b), f, (a, b);",
        "call (c), f, (a, c);",
        "call (b), f, (a, c, a);",
    ] {
        let message = call(wrong);
        assert!(
            message.contains("the call's parameters are not those of `f`"),
            "{wrong} {message}"
        );
    }
}

#[test]
fn declarations_that_take_too_much() {
    for (line, message) in [
        (".reg .b64 %many<1000000>;", "words of registers"),
        (".local .b8 many[2000000];", "makes the frame larger"),
        (".shared .b8 many[200000000];", "passes what shared memory can have"),
        ("HERE: HERE: add.u32 %r1, %r1, 1;", "the label `HERE` stands twice"),
    ] {
        let error = error(line);
        assert!(error.contains(message), "{line} {error}");
    }
    let error = case("ld.global.u32 %r1, [many];")
        .module(".global .b8 many[8000000000];")
        .decode_error();
    assert!(
        error.starts_with("line 4: `many` makes the module's variables larger"),
        "{error}"
    );
}

#[test]
fn kernels_and_targets_that_are_not_there() {
    let module = crate::parse::parse(&case("").text()).unwrap();
    assert_eq!(Kernel::entries(&module), ["k"]);
    let error = Kernel::new(&module, "other").unwrap_err();
    assert_eq!(error.to_string(), "the PTX has no kernel `other`; it has k");
    let text = case("").text().replace("sm_100", "gfx90");
    if let Ok(module) = crate::parse::parse(&text) {
        assert!(matches!(Kernel::new(&module, "k"), Err(DecodeError::Target { .. })));
    }
}

fn try_launch(text: &str, config: LaunchConfig, arguments: &[Vec<u8>]) -> LaunchError {
    let kernel = Kernel::new(&crate::parse::parse(text).unwrap(), "k").unwrap();
    match launch(&kernel, config, arguments, &mut Memory::new(), &Options::default()) {
        Ok(_) => panic!("launched"),
        Err(error) => error,
    }
}

const ONE: LaunchConfig = LaunchConfig {
    grid: [1; 3],
    block: [32, 1, 1],
    dynamic_shared: 0,
};

fn kernel(target: &str, directives: &str, body: &str) -> String {
    format!(
        ".version 8.8\n.target {target}\n.address_size 64\n.visible .entry k(.param .u64 a, .param .align 4 .b8 b[12]) {directives} {{ {body} ret; }}"
    )
}

#[test]
fn arguments_that_do_not_fit() {
    let text = kernel("sm_80", "", "");
    let message = |arguments: &[Vec<u8>]| try_launch(&text, ONE, arguments).to_string();
    assert_eq!(message(&[vec![0; 8]]), "kernel k has 2 parameters, found 1 arguments");
    assert_eq!(
        message(&[vec![0; 8], vec![0; 8]]),
        "kernel k: argument 1 has 8 bytes, its parameter `b` 12"
    );
    assert_eq!(
        message(&[vec![0; 4], vec![0; 12]]),
        "kernel k: argument 0 has 4 bytes, its parameter `a` 8"
    );
}

#[test]
fn grids_and_blocks_that_no_gpu_takes() {
    let arguments = [vec![0; 8], vec![0; 12]];
    let refuse = |directives: &str, grid: [u32; 3], block: [u32; 3]| {
        let error = try_launch(
            &kernel("sm_80", directives, ""),
            LaunchConfig {
                grid,
                block,
                dynamic_shared: 0,
            },
            &arguments,
        );
        assert!(matches!(error, LaunchError::Shape { .. }), "{error}");
        error.to_string()
    };
    assert!(refuse("", [0, 1, 1], [1; 3]).contains("grid is [0, 1, 1]"));
    assert!(refuse("", [1, 65536, 1], [1; 3]).contains("65535"));
    assert!(refuse("", [1, 1, 65536], [1; 3]).contains("65535"));
    assert!(refuse("", [1 << 31, 1, 1], [1; 3]).contains("2147483647"));
    assert!(refuse("", [1; 3], [1025, 1, 1]).contains("1 to 1024 threads"));
    assert!(refuse("", [1; 3], [32, 33, 1]).contains("1 to 1024 threads"));
    assert!(refuse("", [1; 3], [1, 1, 65]).contains("at most 64 in the third"));
    assert!(refuse("", [1; 3], [u32::MAX, u32::MAX, 2]).contains("block is"));
    assert!(refuse("", [1; 3], [0, 1, 1]).contains("block is"));
    assert!(refuse(".maxntid 128", [1; 3], [129, 1, 1]).contains("`.maxntid` says at most [128, 1, 1]"));
    assert!(refuse(".reqntid 64, 2", [1; 3], [128, 1, 1]).contains("`.reqntid` says [64, 2, 1]"));
}

#[test]
fn shared_memory_that_the_target_does_not_have() {
    let arguments = [vec![0; 8], vec![0; 12]];
    for (target, most) in [
        ("sm_80", 163),
        ("sm_86", 99),
        ("sm_87", 163),
        ("sm_89", 99),
        ("sm_90a", 227),
        ("sm_100a", 227),
        ("sm_103", 227),
        ("sm_120", 99),
        ("sm_121a", 99),
    ] {
        let text = kernel(target, "", ".shared .align 16 .b8 tile[1024]; st.shared.u32 [tile], 1;");
        let config = |dynamic_shared| LaunchConfig { dynamic_shared, ..ONE };
        let error = try_launch(&text, config((most - 1) * 1024 + 1), &arguments);
        assert!(
            error.to_string().contains(&format!("has {} for a block", most * 1024)),
            "{error}"
        );
        let kernel = Kernel::new(&crate::parse::parse(&text).unwrap(), "k").unwrap();
        let outcome = launch(
            &kernel,
            config((most - 1) * 1024),
            &arguments,
            &mut Memory::new(),
            &Options::default(),
        )
        .unwrap();
        assert!(outcome.completed, "{target}");
    }
}

#[test]
fn memory_that_the_host_does_not_have() {
    let error = Memory::new()
        .allocate("huge", 1 << 60, Contents::Zeros, Access::ReadWrite)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot allocate 1152921504606846976 bytes for huge")
    );
    let mut memory = Memory::new();
    let address = memory
        .allocate("a", 10, Contents::Uninitialised, Access::ReadWrite)
        .unwrap();
    assert!(memory.write(address + 4, &[0; 7]).is_err() && memory.read(address - 1, &mut [0]).is_err());
    memory.write(address + 4, &[1, 2, 3]).unwrap();
    assert_eq!(
        (memory.is_written(address + 4, 3), memory.is_written(address + 4, 4)),
        (Ok(true), Ok(false))
    );
    assert!(memory.is_written(address, 11).is_err());
    assert!(memory.protect(address + 1, Access::ReadOnly).is_err());
}
