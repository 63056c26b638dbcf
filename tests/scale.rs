//! Deep chains and wide fans: no recursion that overflows, nothing quadratic that is felt.
//!
//! `RETUNE_SCALE` is the depth of the chain, and a tenth of the width of the
//! fan: 10000 is the long run.

mod support;

use std::fmt::Write;

use support::Space;

fn scale() -> usize {
    let set = std::env::var("RETUNE_SCALE").ok();
    set.map_or(100, |n| n.parse().expect("a number"))
}

fn copy(text: &mut String, name: usize, from: &str) {
    let _ = write!(
        text,
        "[steps.s{name}]\nuses = 'command'\nrun = ['cp', '${{inputs.i}}', 'o{name}']\n\
         inputs = {{ i = '{from}' }}\noutputs = {{ o = 'o{name}' }}\n"
    );
}

#[test]
fn a_chain_of_any_depth() {
    let n = scale();
    let mut text = String::new();
    // From the end to the start, so that the order of the file is no help.
    for i in (1..n).rev() {
        copy(&mut text, i, &format!("@s{}", i - 1));
    }
    copy(&mut text, 0, "data/start");
    let space = Space::new(&text);
    space.write("data/start", "one");
    let run = space.built(&["-q"]);
    assert_eq!(run.total("ran"), n as u64);
    assert_eq!(
        space.read(&format!("cache/out/main/s{0}/o{0}", n - 1)),
        "one"
    );
    assert_eq!(space.built(&["-q"]).total("up_to_date"), n as u64);
    space.write("data/start", "two");
    let plan = space.retune(&["plan", "--check"]);
    assert_eq!(plan.code, Some(2), "{plan}");
    assert_eq!(space.built(&["-q"]).total("ran"), n as u64);
    space.write("data/start", "one");
    assert_eq!(space.built(&["-q"]).total("restored"), n as u64);
    for verb in [&["graph"][..], &["verify"], &["why", "s1"]] {
        let run = space.retune(verb);
        assert_eq!(run.code, Some(0), "{run}");
    }
}

#[test]
fn a_fan_of_any_width() {
    let n = 10 * scale();
    let mut text = String::new();
    for i in 0..n {
        copy(&mut text, i, "data/start");
    }
    let wires: Vec<String> = (0..n).map(|i| format!("i{i} = '@s{i}'")).collect();
    // The digest of all inputs, not their paths on a command line.
    let _ = write!(
        text,
        "[steps.all]\nuses = 'command'\nrun = ['touch', 'o']\noutputs = {{ o = 'o' }}\n\
         [steps.all.inputs]\n{}\n",
        wires.join("\n")
    );
    let space = Space::new(&text);
    space.write("data/start", "one");
    let run = space.built(&["-q"]);
    assert_eq!(run.total("ran"), n as u64 + 1);
    assert_eq!(space.built(&["-q"]).total("up_to_date"), n as u64 + 1);
    let plan = space.retune(&["plan", "--check"]);
    assert_eq!(plan.code, Some(0), "{plan}");
}
