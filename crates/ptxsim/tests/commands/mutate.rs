//! `ptxsim mutate`.

use serde_json::json;

use crate::case::{Case, PTX};

#[test]
fn a_barrier_that_is_needed_is_noticed() {
    let case = Case::new("reverse");
    let (status, found) = case.json("mutate", &[]);
    assert_eq!(status, 0, "{found}");
    assert_eq!(
        (&found["mutants"], &found["killed"], &found["survivors"]),
        (&json!(2), &json!(2), &json!([]))
    );
    let text = String::from_utf8(case.run("mutate", &[]).stdout).expect("UTF-8");
    assert!(text.starts_with("reverse: 2 mutants, 2 killed ("), "{text}");
}

#[test]
fn what_nothing_notices_survives() {
    let case = Case::new("reverse");
    // One barrier after another does nothing; one that is never reached neither.
    let needless = PTX
        .replacen("    bar.sync 0;\n", "    bar.sync 0;\n    bar.sync 0;\n", 1)
        .replacen(
            "    st.global.b32 [%rd5], %r2;\n    ret;\n",
            "    st.global.b32 [%rd5], %r2;\n    ret;\n    membar.gl;\n    ret;\n",
            1,
        );
    std::fs::write(case.path("k.ptx"), &needless).expect("a file");
    let (status, found) = case.json("mutate", &["--thorough"]);
    assert_eq!(
        (status, &found["mutants"], &found["killed"]),
        (1, &json!(5), &json!(0)),
        "{found}"
    );
    let survivor = &found["survivors"][0];
    let line = needless
        .lines()
        .position(|line| line == "    bar.sync 0;")
        .expect("the barrier")
        + 1;
    assert_eq!(
        (&survivor["ptx_line"], &survivor["change"]),
        (&json!(line), &json!("removed"))
    );
    assert_eq!(survivor["instruction"], "bar.sync 0;");
    let fence = &found["survivors"][4];
    assert_eq!(
        (&fence["instruction"], &fence["reached"]),
        (&json!("membar.gl;"), &json!(false))
    );
    let text = String::from_utf8(case.run("mutate", &[]).stdout).expect("UTF-8");
    assert!(
        text.contains("weakened to bar.warp.sync") && text.contains("removed; never executed"),
        "{text}"
    );
}

#[test]
fn a_kernel_with_a_fault_is_not_mutated() {
    let (status, found) = Case::new("race").json("mutate", &[]);
    assert_eq!((status, &found["ok"], &found["mutants"]), (1, &json!(false), &json!(0)));
    assert_eq!(found["reports"][0]["checker"], "racecheck");
}
