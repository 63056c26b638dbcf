//! kill -9 of the driver, of a worker, or of both at random moments, over and over: then the state is that of an undisturbed run.
//!
//! `RETUNE_KILLS` sets the number of rounds, `RETUNE_SEED` what happens in them.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::{Running, Space, results};

/// Programs and built-in kinds, files and folders, a diamond, steps that take
/// a moment and such that do not.
const PIPELINE: &str = r#"
[steps.rows]
uses = "data.import"
files = ["data/rows.jsonl"]
schema = "text"

[steps.stats]
uses = "data.stats"
datasets = { rows = "@rows" }

[steps.parts]
uses = "command"
run = "mkdir parts; cat ${inputs.a} > parts/a; sleep 0.03; cat ${inputs.b} > parts/b"
inputs = { a = "data/a.txt", b = "data/b.txt" }
outputs = { parts = "parts/" }

[steps.left]
uses = "command"
run = "sort ${inputs.parts}/* > left.txt; sleep 0.02; echo done >> left.txt"
inputs = { parts = "@parts" }
outputs = { left = "left.txt" }

[steps.right]
uses = "command"
run = "head -c 100000 /dev/zero | tr '\\0' x > right.txt; cat ${inputs.a} >> right.txt"
inputs = { a = "data/a.txt" }
outputs = { right = "right.txt" }

[steps.join]
uses = "command"
run = "cat ${inputs.left} ${inputs.right} | sort -u > join.txt; cat join.txt > copy.txt"
inputs = { left = "@left", right = "@right" }
outputs = { join = "join.txt", copy = "copy.txt" }

[steps.count]
uses = "command"
run = "sh -c 'sleep 0.01; wc -l' < ${inputs.join} > count.txt"
inputs = { join = "@join" }
outputs = { count = "count.txt" }

[steps.end]
uses = "command"
run = "cat ${inputs.count} ${inputs.stats} > end.txt"
inputs = { count = "@count", stats = "@stats" }
outputs = { end = "end.txt" }
"#;

/// A generator of its own (splitmix64), so that a round can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

fn number(name: &str, usual: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.map_or(usual, |n| n.parse().expect("a number"))
}

/// All processes below one, with their own first.
fn tree(root: u32) -> Vec<u32> {
    let mut parents: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name in brackets may hold anything.
        let parent = stat.rsplit(')').next().unwrap_or_default();
        let parent = parent
            .split_whitespace()
            .nth(1)
            .and_then(|p| p.parse().ok());
        if let (Some(pid), Some(parent)) = (pid, parent) {
            parents.entry(parent).or_default().push(pid);
        }
    }
    let mut tree = vec![root];
    let mut at = 0;
    while let Some(pid) = tree.get(at) {
        tree.extend(parents.get(pid).into_iter().flatten());
        at += 1;
    }
    tree
}

fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // It may be gone already.
    let _ = kill_process(pid.expect("a process"), Signal::KILL);
}

/// Kills the driver, one of the processes below it, or both.
fn strike(random: &mut Random, running: &Running) {
    let tree = tree(running.pid());
    let below = &tree[1..];
    let victim = match below.len() as u64 {
        0 => None,
        n => Some(below[random.below(n) as usize]),
    };
    match (random.below(3), victim) {
        (0, _) | (_, None) => kill(tree[0]),
        (1, Some(victim)) => kill(victim),
        (_, Some(victim)) => {
            kill(victim);
            kill(tree[0]);
        }
    }
}

fn edit(random: &mut Random, space: &Space) {
    let file = ["data/a.txt", "data/b.txt"][random.below(2) as usize];
    // Mostly content that was never there, so that there is something to do.
    match random.below(6) {
        0 => {}
        n => space.write(
            file,
            &format!(
                "{}\n",
                "line\n".repeat(n as usize * 3) + &random.below(1000).to_string()
            ),
        ),
    }
    if random.below(4) == 0 {
        let rows = 1 + random.below(3);
        let row = |n| format!("{{\"text\": \"row {n}\"}}\n");
        space.write("data/rows.jsonl", &(0..rows).map(row).collect::<String>());
    }
    if random.below(8) == 0 && space.exists("cache/out") {
        space.remove("cache/out");
    }
}

#[test]
fn killed_at_random_moments_it_ends_like_an_undisturbed_run() {
    let (rounds, seed) = (number("RETUNE_KILLS", 40), number("RETUNE_SEED", 1));
    let mut random = Random(seed);
    let space = Space::new(PIPELINE);
    space.write("data/a.txt", "a\n");
    space.write("data/b.txt", "b\n");
    space.write("data/rows.jsonl", "{\"text\": \"row\"}\n");
    // A kill falls anywhere in a build that does everything.
    let whole = Instant::now();
    space.built(&[]);
    let whole = whole.elapsed().as_micros() as u64;
    space.remove("cache");
    let (mut struck, mut through) = (0, 0);
    for round in 0..rounds {
        edit(&mut random, &space);
        let running = space.start(&["build", "-k"]);
        std::thread::sleep(Duration::from_micros(random.below(whole / 3)));
        strike(&mut random, &running);
        let run = running.end();
        match run.code {
            None => struck += 1,
            Some(0) => through += 1,
            // A killed worker.
            Some(code) => assert_eq!(code, 1, "round {round}: {run}"),
        }
        if round % 20 == 19 {
            // What is in the store is whole after every kill.
            let run = space.retune(&["verify"]);
            assert!(run.code.is_some_and(|code| code < 2), "{run}");
            assert!(!run.out.contains("damaged"), "round {round}: {run}");
        }
    }
    assert!(
        struck * 4 > rounds,
        "only {struck} of {rounds} builds were killed"
    );
    println!("{rounds} rounds, {struck} drivers killed, {through} builds came through");
    space.built(&[]);
    let verify = space.retune(&["verify"]);
    assert_eq!(verify.code, Some(0), "{verify}");
    let work = fs::read_dir(space.path("cache/work")).map_or(0, Iterator::count);
    assert_eq!(work, 0, "no work folder is left");
    let disturbed = results(&space);
    space.remove("cache");
    space.remove("pipelines/main.lock");
    space.built(&[]);
    assert_eq!(results(&space), disturbed);
}
