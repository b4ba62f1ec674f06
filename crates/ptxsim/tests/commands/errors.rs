//! What a launch file may not be: each message names the file, the field, what was found and what is allowed.

use std::fs;

use ptxsim::launch_file::LaunchFile;
use serde_json::{Value, json};

use crate::case::Case;

fn message(case: &Case) -> String {
    match LaunchFile::read(&case.path("LAUNCH.json")) {
        Ok(_) => panic!("no error"),
        Err(error) => error.to_string(),
    }
}

fn holds(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[test]
fn fields() {
    let cases: [(&str, Value, &[&str]); 25] = [
        (
            "colour",
            json!(1),
            &[
                "unknown field `colour`",
                "allowed: ptx, entry, grid, block, dynamic_shared, args, reference",
            ],
        ),
        ("ptx", json!(3), &["`ptx` is 3", "the path of a PTX file"]),
        ("ptx", json!("absent.ptx"), &["cannot read", "absent.ptx"]),
        ("ptx", json!("."), &["not a regular file"]),
        ("entry", json!(""), &["`entry` is \"\"", "the name of a kernel"]),
        (
            "entry",
            json!("matmul"),
            &["k.ptx", "no kernel `matmul`", "reverse, double"],
        ),
        (
            "grid",
            json!([1, 1]),
            &["`grid` is [1, 1]", "an array of three whole numbers from 1 on"],
        ),
        (
            "grid",
            json!([1, 0, 1]),
            &["`grid[1]` is 0", "a whole number from 1 to 4294967295"],
        ),
        ("block", json!([1, 1, 4294967296_u64]), &["`block[2]` is 4294967296"]),
        ("block", json!([1.5, 1, 1]), &["`block[0]` is 1.5"]),
        (
            "dynamic_shared",
            json!(-1),
            &["`dynamic_shared` is -1", "from 0 to 4294967295"],
        ),
        ("args", json!({}), &["`args` is {}", "an array of arguments"]),
        (
            "args",
            json!([]),
            &["`args` has 0 arguments", "kernel `reverse` has 2 parameters"],
        ),
        (
            "args",
            json!([{}, {}]),
            &[
                "`args[0]` is an object with []",
                "exactly one of tensor, inout, output, null",
            ],
        ),
        (
            "args",
            json!([{"null": 0}, {"i32": 1, "f32": 1}]),
            &["`args[1]` is an object with [", "exactly one of tensor, inout"],
        ),
        (
            "args",
            json!([{"null": 0}, {"tensr": "a"}]),
            &["unknown field `args[1].tensr`", "allowed: tensor, inout"],
        ),
        (
            "args",
            json!([{"tensor": "in.safetensors#x", "dtype": "f32"}, {"null": 0}]),
            &["unknown field `args[0].dtype`", "allowed: tensor"],
        ),
        (
            "reference",
            json!({"file": "want.safetensors"}),
            &["no field `reference.rel_l2`", "a number from 0 on"],
        ),
        (
            "reference",
            json!({"file": "want.safetensors", "rel_l2": -1}),
            &["`reference.rel_l2` is -1"],
        ),
        (
            "reference",
            json!({"file": "want.safetensors", "rel_l2": "x"}),
            &["`reference.rel_l2` is \"x\""],
        ),
        ("reference", json!({"rel_l2": 1}), &["no field `reference.file`"]),
        (
            "reference",
            json!({"file": "in.safetensors", "rel_l2": 1}),
            &["`reference.file` is", "some of the outputs: y"],
        ),
        (
            "reference",
            json!({"file": "gone.safetensors", "rel_l2": 1}),
            &["cannot read", "gone.safetensors"],
        ),
        (
            "reference",
            json!({"file": "k.ptx", "rel_l2": 1}),
            &["k.ptx is not a safetensors file"],
        ),
        (
            "reference",
            json!(null),
            &["`reference` is null", "an object with file, rel_l2"],
        ),
    ];
    for (field, value, parts) in cases {
        let case = Case::new("reverse");
        case.set(field, value);
        let message = message(&case);
        holds(&message, parts);
    }
}

#[test]
fn arguments() {
    let output = |dtype: &str, shape: Value| json!({"output": "y", "dtype": dtype, "shape": shape});
    let cases: Vec<(Value, &[&str])> = vec![
        (json!(5), &["`args[0]` is 5", "an object with tensor, inout, output"]),
        (
            json!({"tensor": "in.safetensors"}),
            &["`args[0].tensor` is \"in.safetensors\"", "\"in.safetensors#a\""],
        ),
        (json!({"tensor": "in.safetensors#"}), &["`args[0].tensor`"]),
        (json!({"tensor": "#x"}), &["`args[0].tensor`"]),
        (json!({"tensor": 1}), &["`args[0].tensor` is 1"]),
        (
            json!({"tensor": "in.safetensors#z"}),
            &["`args[0].tensor` is", "the name of a tensor of", "in.safetensors: x"],
        ),
        (
            json!({"tensor": "gone.safetensors#z"}),
            &["cannot read", "gone.safetensors"],
        ),
        (json!({"inout": "k.ptx#z"}), &["k.ptx is not a safetensors file"]),
        (
            json!({"output": "", "dtype": "f32", "shape": [1]}),
            &["`args[0].output` is \"\"", "the name of an output"],
        ),
        (
            json!({"output": "z", "shape": [1]}),
            &["no field `args[0].dtype`", "one of f64, f32, f16, bf16, f8_e4m3"],
        ),
        (json!({"output": "z", "dtype": "f32"}), &["no field `args[0].shape`"]),
        (
            output("float", json!([1])),
            &["`args[0].dtype` is \"float\"", "u8, bool"],
        ),
        (
            output("f32", json!(4)),
            &["`args[0].shape` is 4", "an array of whole numbers"],
        ),
        (output("f32", json!([1, -4])), &["`args[0].shape[1]` is -4"]),
        (
            output("f32", json!([1_u64 << 48, 1_u64 << 48])),
            &[
                "`args[0].shape` is [281474976710656, 281474976710656]",
                "fewer than 2^64 bytes",
            ],
        ),
        (
            output("f32", json!([1_u64 << 40])),
            &["`y` needs 4398046511104 bytes; a launch may have"],
        ),
        (
            json!({"i32": 1}),
            &["`args[0]` is i32 of 4 bytes", "8 bytes, as parameter `x` has"],
        ),
        (json!({"i8": 128}), &["`args[0].i8` is 128", "from -128 to 127"]),
        (json!({"u16": -1}), &["`args[0].u16` is -1", "from 0 to 65535"]),
        (
            json!({"u64": 1e30}),
            &["`args[0].u64` is 1e30", "to 18446744073709551615"],
        ),
        (json!({"i64": "5"}), &["`args[0].i64` is \"5\""]),
        (
            json!({"f32": true}),
            &["`args[0].f32` is true", "a number, \"inf\", \"-inf\" or \"nan\""],
        ),
        (
            json!({"f32": 1e39}),
            &["`args[0].f32` is 1e39", "within the range of f32"],
        ),
        (json!({"f16": 65520}), &["within the range of f16"]),
        (json!({"bf16": 3.4e38}), &["within the range of bf16"]),
        (json!({"null": "0"}), &["`args[0].null` is \"0\""]),
        (
            json!({"tensor_map": {"tensor": "in.safetensors#x", "box": [64], "swizzle": 128}}),
            &["`args[0].tensor_map` is not implemented yet"],
        ),
    ];
    for (arg, parts) in cases {
        let case = Case::new("reverse");
        case.set("args", json!([arg, {"null": 0}]));
        holds(&message(&case), parts);
    }
}

#[test]
fn outputs_have_names_of_their_own() {
    let inout = json!({"inout": "in.safetensors#x"});
    let output = |name: &str| json!({"output": name, "dtype": "f32", "shape": [1]});
    for (args, field) in [
        (json!([inout, inout]), "args[1].inout"),
        (json!([inout, output("x")]), "args[1].output"),
        (json!([output("y"), output("y")]), "args[1].output"),
        (json!([output("__metadata__"), output("y")]), "args[0].output"),
    ] {
        let case = Case::new("reverse");
        case.set("args", args);
        let field = format!("`{field}` is ");
        holds(
            &message(&case),
            &[&field, "a name that no other output and no `inout` has"],
        );
    }
}

#[test]
fn whole_files() {
    let good = r#"{"ptx":"k.ptx","entry":"reverse","grid":[1,1,1],"block":[64,1,1],"args":[{"null":0},{"null":0}]"#;
    let cases: Vec<(String, &[&str])> = vec![
        (String::new(), &["is not JSON as a launch file has it", "line 1"]),
        (good.to_owned(), &["EOF while parsing an object"]),
        (format!("{good}}} x"), &["trailing characters"]),
        (format!("{good},\"ptx\":\"k.ptx\"}}"), &["field \"ptx\" twice"]),
        ("[".repeat(1000), &["recursion limit exceeded"]),
        ("7".to_owned(), &["`the file` is 7", "an object with ptx, entry"]),
        ("{}".to_owned(), &["no field `args`"]),
        (
            good.replace("\"entry\":\"reverse\",", "") + "}",
            &["no field `entry`", "the name of a kernel"],
        ),
        (good.replace("\"grid\":[1,1,1],", "") + "}", &["no field `grid`"]),
    ];
    for (text, parts) in cases {
        let case = Case::new("reverse");
        case.text(&text);
        let message = message(&case);
        holds(&message, &["LAUNCH.json"]);
        holds(&message, parts);
    }
    let case = Case::new("reverse");
    fs::File::create(case.path("LAUNCH.json"))
        .and_then(|file| file.set_len(1 << 30))
        .expect("a file");
    holds(&message(&case), &["has 1073741824 bytes; at most 16777216 are read"]);
}

#[test]
fn ptx() {
    let head =
        ".version 8.8\n.target sm_80\n.address_size 64\n.visible .entry reverse(.param .u64 x, .param .u64 y) {\n";
    let cases: Vec<(Vec<u8>, &[&str])> = vec![
        (format!("{head}oops oops\n}}").into_bytes(), &["k.ptx:6:1: "]),
        (
            format!("{head}    oops.sync;\n}}").into_bytes(),
            &["k.ptx: line 5: ", "oops"],
        ),
        (vec![b'/', b'/', 0xff], &["k.ptx is not UTF-8 text: byte 2"]),
        (
            format!(
                ".version 8.8\n.target sm_80\n.address_size 64\n.global .b8 big[1000000000000];\n{}ret;}}",
                &head[44..]
            )
            .into_bytes(),
            &["k.ptx: line 4: `big`"],
        ),
    ];
    for (text, parts) in cases {
        let case = Case::new("reverse");
        fs::write(case.path("k.ptx"), text).expect("a file");
        holds(&message(&case), parts);
    }
}

#[test]
fn launches_that_no_gpu_takes() {
    for (field, value, part) in [
        ("block", json!([1025, 1, 1]), "block is [1025, 1, 1]"),
        ("grid", json!([1, 65536, 1]), "grid is [1, 65536, 1]"),
        ("dynamic_shared", json!(200_000), "200000 of dynamic shared memory"),
    ] {
        let case = Case::new("reverse");
        case.set(field, value);
        for command in ["run", "check", "mutate"] {
            let output = case.run(command, &[]);
            let message = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{message}");
            holds(&message, &["error: ", "LAUNCH.json", part]);
        }
    }
}
