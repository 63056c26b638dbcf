//! Recorded runs and what the reporters make of them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use indicatif::{InMemoryTerm, ProgressDrawTarget};
use serde_json::json;

use super::*;
use crate::event::Summary;
use crate::hash::Digest;
use crate::pipeline::{StepName, ValueSource};
use crate::plan::{FileChanges, Key, PlannedStep, Reason, Verdict};
use crate::step::{Grant, Progress, StepError};

fn step(name: &str) -> StepName {
    name.parse().unwrap()
}

fn started() -> Event {
    Event::RunStarted {
        run: "1".into(),
        pipeline: "quickstart".parse().unwrap(),
        steps: 4,
        jobs: 2,
    }
}

fn decided(name: &str, verdict: Verdict) -> Event {
    Event::StepDecided {
        step: step(name),
        key: Key(Digest::of(name.as_bytes())),
        verdict,
    }
}

fn run(reasons: Vec<Reason>) -> Verdict {
    Verdict::Run { reasons }
}

fn learning_rate() -> Reason {
    Reason::Param {
        name: "learning_rate".into(),
        old: Some(json!(1e-4)),
        new: Some(json!(5e-5)),
        source: Some(ValueSource::CommandLine),
    }
}

fn step_started(name: &str, kind: &str) -> Event {
    Event::StepStarted {
        step: step(name),
        kind: kind.into(),
        key: Key(Digest::of(name.as_bytes())),
        attempt: 1,
        resources: Grant::default(),
        work: None,
    }
}

fn progressed(name: &str, done: u64, total: u64, message: &str) -> Event {
    Event::StepProgress {
        step: step(name),
        progress: Progress {
            done,
            total,
            message: message.into(),
        },
    }
}

fn finished(name: &str, seconds: f64) -> Event {
    let facts = [
        ("loss", json!(2.31468)),
        ("tokens", json!(51_200)),
        ("tokens_per_second", json!(5123.9)),
        ("device", json!("cpu")),
        ("long", json!("x".repeat(60))),
    ];
    Event::StepFinished {
        step: step(name),
        key: Key(Digest::of(name.as_bytes())),
        seconds,
        peak_memory: Some(200 << 20),
        facts: facts.map(|(k, v)| (k.to_owned(), v)).into(),
        unchanged: false,
        record: None,
    }
}

fn failed(name: &str) -> Event {
    Event::StepFailed {
        step: step(name),
        error: StepError {
            message: "failed to read data/rows.jsonl:3".into(),
            causes: vec!["the field 'messages' is missing".into()],
            hint: Some("set schema = \"text\" for plain text".into()),
        },
        log_tail: vec![
            "reading\r 10 %\r 20 %".into(),
            "\u{1b}[31mbroken\u{1b}[0m row".into(),
        ],
        log: Some("/project/cache/runs/1/import.log".into()),
    }
}

fn ended(ran: usize, failed: usize, skipped: usize) -> Event {
    Event::RunFinished {
        summary: Summary {
            ran,
            restored: 1,
            up_to_date: 1,
            failed,
            skipped,
            cancelled: 0,
        },
        seconds: 42.04,
    }
}

fn good_run() -> Vec<Event> {
    let fresh = Event::StepFinished {
        step: step("card"),
        key: Key(Digest::of(b"card")),
        seconds: 0.02,
        peak_memory: None,
        facts: BTreeMap::new(),
        unchanged: true,
        record: None,
    };
    vec![
        Event::Waiting {
            holder: "pid 7, building quickstart".into(),
        },
        started(),
        decided("import", Verdict::UpToDate),
        decided(
            "split",
            Verdict::Restore {
                reasons: vec![Reason::NeverBuilt],
            },
        ),
        Event::StepRestored {
            step: step("split"),
            key: Key(Digest::of(b"split")),
        },
        decided(
            "stage1",
            run(vec![learning_rate(), Reason::Forced, Reason::DidNotFinish]),
        ),
        step_started("stage1", "lora.train"),
        progressed("stage1", 10, 40, "loss 4.2"),
        progressed("stage1", 20, 40, "loss 3.1"),
        progressed("stage1", 30, 40, "loss 2.9"),
        finished("stage1", 12.34),
        Event::OutputSetAside {
            step: step("stage1"),
            path: "cache/out/quickstart/stage1/adapter".into(),
            kept: "cache/edited/1/adapter".into(),
        },
        decided("card", run(vec![Reason::NeverBuilt])),
        step_started("card", "release.card"),
        fresh,
        ended(2, 0, 0),
    ]
}

fn bad_run() -> Vec<Event> {
    vec![
        started(),
        decided("import", run(vec![Reason::NeverBuilt])),
        step_started("import", "data.import"),
        Event::Warning {
            message: "steps.import: the parameter 'x' has no effect".into(),
        },
        failed("import"),
        Event::StepSkipped {
            step: step("card"),
            because: step("import"),
        },
        Event::StepCancelled {
            step: step("never-begun"),
            changed: None,
        },
        decided("stage1", run(vec![Reason::NeverBuilt])),
        step_started("stage1", "lora.train"),
        Event::Stopping { grace: 10.0 },
        Event::StepCancelled {
            step: step("stage1"),
            changed: None,
        },
        ended(0, 1, 1),
    ]
}

/// A clock that goes on by `seconds` each time it is asked.
fn clock(seconds: u64) -> impl FnMut() -> Duration {
    let now = Cell::new(Duration::ZERO);
    move || now.replace(now.get() + Duration::from_secs(seconds))
}

fn words(verbose: bool) -> Words {
    Words::new(Palette::new(false), 80, verbose).relative_to("/project".into())
}

fn plain(events: &[Event], verbose: bool) -> String {
    let mut out = Vec::new();
    let mut plain = Plain::new(&mut out, words(verbose), clock(6));
    events.iter().for_each(|event| plain.event(event));
    drop(plain);
    String::from_utf8(out).unwrap()
}

#[test]
fn plain_lines_of_a_good_run() {
    insta::assert_snapshot!(plain(&good_run(), false), @"
    waiting for pid 7, building quickstart
    quickstart: 4 steps, 2 at a time
    ✓ split       restored
      stage1      lora.train: param learning_rate: 0.0001 → 0.00005 (comma…, +2 more
      stage1      20/40  50 %  loss 3.1
    ✓ stage1        12.3 s  loss 2.315  tokens per second 5124  tokens 51200 …
    warning: stage1: cache/out/quickstart/stage1/adapter was edited and is put back
      the edited version is now cache/edited/1/adapter
      card        release.card: never built
    ✓ card          0.02 s  unchanged
    quickstart: 4 steps: 2 ran, 1 restored, 1 up to date in 42.0 s
    ");
}

#[test]
fn plain_lines_with_all_details() {
    insta::assert_snapshot!(plain(&good_run(), true), @"
    waiting for pid 7, building quickstart
    quickstart: 4 steps, 2 at a time
      import      up to date
    ✓ split       restored
      stage1      lora.train: param learning_rate: 0.0001 → 0.00005 (comma…, +2 more
      stage1      20/40  50 %  loss 3.1
    ✓ stage1        12.3 s  200 MiB  loss 2.315  tokens per second 5124  tokens 51200  device cpu  long xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
    warning: stage1: cache/out/quickstart/stage1/adapter was edited and is put back
      the edited version is now cache/edited/1/adapter
      card        release.card: never built
    ✓ card          0.02 s  unchanged
    quickstart: 4 steps: 2 ran, 1 restored, 1 up to date in 42.0 s
    ");
}

#[test]
fn plain_lines_of_a_failure() {
    insta::assert_snapshot!(plain(&bad_run(), false), @r#"
    quickstart: 4 steps, 2 at a time
      import      data.import: never built
    warning: steps.import: the parameter 'x' has no effect
    ✗ import      failed
    error: failed to read data/rows.jsonl:3
      1: the field 'messages' is missing
    hint: set schema = "text" for plain text
    log: cache/runs/1/import.log, which ends with
      |  20 %
      | broken row
    - card        skipped: import failed
      stage1      lora.train: never built
    stopping: running steps have 10.0 s; Ctrl-C again kills them
    - stage1      stopped
    quickstart: 4 steps: 1 restored, 1 up to date, 1 failed, 1 skipped in 42.0 s
    "#);
}

#[test]
fn every_line_fits_in_80_columns() {
    for line in plain(&good_run(), false)
        .lines()
        .chain(plain(&bad_run(), false).lines())
    {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn plain_progress_is_told_every_ten_seconds_at_most() {
    let events: Vec<Event> = [started(), step_started("a", "k")]
        .into_iter()
        .chain((1..=25).map(|i| progressed("a", i, 25, "")))
        .collect();
    // The clock goes on by six seconds an event: every second one is told.
    assert_eq!(plain(&events, false).lines().count(), 2 + 12);
}

#[test]
fn a_failure_with_much_below_it_names_a_few() {
    let below = |i| Event::StepSkipped {
        step: step(&format!("s{i}")),
        because: step("import"),
    };
    let events: Vec<Event> = (0..1000).map(below).collect();
    assert_eq!(plain(&events, false).lines().count(), 10);
    assert_eq!(plain(&events, true).lines().count(), 1000);
}

#[test]
fn several_failures_are_named_again_at_the_end() {
    let text = plain(
        &[started(), failed("import"), failed("card"), ended(0, 2, 0)],
        false,
    );
    let last: Vec<&str> = text.lines().rev().take(2).collect();
    assert_eq!(last[1], "failed: import, card");
    assert!(last[0].starts_with("quickstart: 4 steps: "), "{}", last[0]);
}

#[test]
fn json_lines() {
    let mut out = Vec::new();
    let mut json = JsonLines::new(&mut out, || "2026-01-02T03:04:05.678901Z".parse().unwrap());
    let progress = progressed("stage1", 1, 2, "loss 4.2");
    for event in [
        started(),
        decided("stage1", run(vec![learning_rate()])),
        progress,
        failed("a"),
    ] {
        json.event(&event);
    }
    json.finish().unwrap();
    insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r#"
    {"time":"2026-01-02T03:04:05.678Z","event":"run-started","run":"1","pipeline":"quickstart","steps":4,"jobs":2}
    {"time":"2026-01-02T03:04:05.678Z","event":"step-decided","step":"stage1","key":"da677b861cbef86c53ab148f257249f3dd4f034dc3a5a5adbdf15e72dc42437d","verdict":{"verdict":"run","reasons":[{"reason":"param","name":"learning_rate","old":0.0001,"new":0.00005,"source":"command_line"}]}}
    {"time":"2026-01-02T03:04:05.678Z","event":"step-progress","step":"stage1","progress":{"done":1,"total":2,"message":"loss 4.2"}}
    {"time":"2026-01-02T03:04:05.678Z","event":"step-failed","step":"a","error":{"message":"failed to read data/rows.jsonl:3","causes":["the field 'messages' is missing"],"hint":"set schema = \"text\" for plain text"},"log_tail":["reading\r 10 %\r 20 %","\u001b[31mbroken\u001b[0m row"],"log":"/project/cache/runs/1/import.log"}
    "#);
}

#[test]
fn json_lines_are_read_back_as_events() {
    for event in good_run().into_iter().chain(bad_run()) {
        let mut out = Vec::new();
        JsonLines::new(&mut out, || jiff::Timestamp::UNIX_EPOCH).event(&event);
        assert_eq!(serde_json::from_slice::<Event>(&out).unwrap(), event);
    }
}

#[test]
fn a_full_disk_is_told_once_the_run_is_over() {
    struct Full(Rc<Cell<usize>>);
    impl io::Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            self.0.set(self.0.get() + 1);
            Err(io::Error::from(io::ErrorKind::StorageFull))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let tries = Rc::new(Cell::new(0));
    let mut json = JsonLines::new(Full(tries.clone()), || jiff::Timestamp::UNIX_EPOCH);
    bad_run().iter().for_each(|event| json.event(event));
    assert_eq!(
        json.finish().unwrap_err().kind(),
        io::ErrorKind::StorageFull
    );
    assert_eq!(tries.get(), 1);
}

fn bars(term: &InMemoryTerm) -> Bars {
    let target = ProgressDrawTarget::term_like(Box::new(term.clone()));
    Bars::on(target, words(false), None)
}

#[test]
fn bars_while_steps_run() {
    let term = InMemoryTerm::new(24, 80);
    let mut bars = bars(&term);
    good_run()[..8].iter().for_each(|event| bars.event(event));
    bars.event(&decided("card", run(vec![learning_rate(), Reason::Forced])));
    bars.event(&step_started("card", "release.card"));
    insta::assert_snapshot!(term.contents(), @"
    waiting for pid 7, building quickstart
    ✓ split       restored
    ⠉ stage1      [=>    ]  25 %  loss 4.2                                   0s left
    ⠁ card        release.card: param learning_rate: 0.0001 → 0.000…, +1 more     0s
    quickstart [============>           ] 2/4 steps  0s
    ");
    drop(bars);
    insta::assert_snapshot!(term.contents(), @"
    waiting for pid 7, building quickstart
    ✓ split       restored
    ");
}

#[test]
fn the_words_of_training_fit_beside_the_bar() {
    let term = InMemoryTerm::new(24, 80);
    let mut bars = bars(&term);
    bars.event(&step_started("stage1", "lora.train"));
    let message = "loss 2.310 lr 5.0e-5 grad 0.83 5.1k tok/s";
    bars.event(&Event::StepProgress {
        step: step("stage1"),
        progress: Progress {
            done: 1,
            total: 4,
            message: message.into(),
        },
    });
    assert!(term.contents().contains(message), "{}", term.contents());
}

#[test]
fn bars_leave_the_lines_of_what_happened() {
    let term = InMemoryTerm::new(30, 80);
    let mut screen = bars(&term);
    good_run().iter().for_each(|event| screen.event(event));
    insta::assert_snapshot!(term.contents(), @"
    waiting for pid 7, building quickstart
    ✓ split       restored
    ✓ stage1        12.3 s  loss 2.315  tokens per second 5124  tokens 51200 …
    warning: stage1: cache/out/quickstart/stage1/adapter was edited and is put back
      the edited version is now cache/edited/1/adapter
    ✓ card          0.02 s  unchanged
    quickstart: 4 steps: 2 ran, 1 restored, 1 up to date in 42.0 s
    ");
    let term = InMemoryTerm::new(30, 80);
    let mut screen = bars(&term);
    bad_run().iter().for_each(|event| screen.event(event));
    insta::assert_snapshot!(term.contents(), @r#"
    warning: steps.import: the parameter 'x' has no effect
    ✗ import      failed
    error: failed to read data/rows.jsonl:3
      1: the field 'messages' is missing
    hint: set schema = "text" for plain text
    log: cache/runs/1/import.log, which ends with
      |  20 %
      | broken row
    - card        skipped: import failed
    stopping: running steps have 10.0 s; Ctrl-C again kills them
    - stage1      stopped
    quickstart: 4 steps: 1 restored, 1 up to date, 1 failed, 1 skipped in 42.0 s
    "#);
}

#[test]
fn a_tee_hands_everything_to_all() {
    let (mut a, mut b) = (0, 0);
    let (mut first, mut second) = (|_: &Event| a += 1, |_: &Event| b += 1);
    let mut tee = Tee::new().with(&mut first).with(&mut second);
    good_run().iter().for_each(|event| tee.event(event));
    assert_eq!((a, b), (good_run().len(), good_run().len()));
}

fn planned(name: &str, kind: &str, verdict: Verdict) -> PlannedStep {
    PlannedStep {
        name: step(name),
        kind: kind.into(),
        key: None,
        verdict,
        millis: None,
        critical: false,
    }
}

/// Many steps of which little can be said.
fn large_plan() -> Vec<PlannedStep> {
    let many = |prefix: &str, n: usize, verdict: Verdict| {
        let step = |i| planned(&format!("{prefix}{i}"), "command", verdict.clone());
        (0..n).map(step).collect::<Vec<_>>()
    };
    let waits_for = vec![step("b0")];
    let error = Verdict::Error {
        causes: vec!["input 'rows': data/x does not exist".into()],
    };
    let by = step("e0");
    [
        many("a", 30, Verdict::UpToDate),
        many("b", 2, run(vec![Reason::NeverBuilt])),
        many("c", 1, run(vec![learning_rate()])),
        many("d", 9, Verdict::Maybe { waits_for }),
        many("e", 1, error),
        many("f", 4, Verdict::Blocked { by }),
    ]
    .concat()
}

#[test]
fn a_large_plan_is_folded() {
    let steps = large_plan();
    insta::assert_snapshot!(table(&steps, &Palette::new(false), 80, true), @"
    STEP      KIND      VERDICT     WHY
    a0 … a29  30 steps  up to date
    b0 … b1   2 steps   run         never built
    c0        command   run
        param learning_rate: 0.0001 → 0.00005 (command line)
    d0 … d8   9 steps   maybe
    e0        command   error       input 'rows': data/x does not exist
    f0 … f3   4 steps   blocked     e0 cannot run
    ");
    let whole = table(&steps, &Palette::new(false), 80, false);
    assert!(
        steps
            .iter()
            .all(|step| whole.contains(&format!("\n{} ", step.name)))
    );
}

#[test]
fn what_changed_in_a_folder() {
    let mut files = FileChanges::new();
    (0..128).for_each(|_| files.present());
    let digest = |text: &str| Some(Digest::of(text.as_bytes()));
    for path in ["a.json", "b.json", "c.json", "d.json"] {
        files.push(path.into(), digest("old"), digest("new"));
    }
    files.push("e.json".into(), None, digest("new"));
    let reason = Reason::Input {
        port: "data".into(),
        old: digest("old"),
        new: digest("new"),
        files: Some(files.finish(5)),
    };
    let step = planned("stage1", "lora.train", run(vec![learning_rate(), reason]));
    insta::assert_snapshot!(explain(&step, &Palette::new(false)), @"
    stage1 (lora.train): would run, because
      param learning_rate: 0.0001 → 0.00005 (command line)
      input data: 4 of 128 files changed, e.g. a.json, b.json, c.json (+1 added)
        a.json: 96a4257289f9 → b20ab0a020a4
        b.json: 96a4257289f9 → b20ab0a020a4
        c.json: 96a4257289f9 → b20ab0a020a4
        d.json: 96a4257289f9 → b20ab0a020a4
        e.json: added
    ");
}

#[test]
fn a_plan_as_a_table() {
    let input = Reason::Input {
        port: "train".into(),
        old: Some(Digest::of(b"old")),
        new: Some(Digest::of(b"new")),
        files: None,
    };
    let waits_for = vec![step("stage1"), step("split")];
    let steps = [
        planned("import", "findings.import", Verdict::UpToDate),
        planned(
            "split",
            "data.split",
            Verdict::Restore {
                reasons: vec![input.clone()],
            },
        ),
        planned("stage1", "lora.train", run(vec![learning_rate(), input])),
        planned("card", "release.card", Verdict::Maybe { waits_for }),
        planned(
            "tokenizer",
            "tokenizer.train",
            run(vec![Reason::NeverBuilt]),
        ),
    ];
    insta::assert_snapshot!(table(&steps, &Palette::new(false), 80, false), @"
    STEP       KIND             VERDICT     WHY
    import     findings.import  up to date
    split      data.split       restore     input train: 96a4257289f9 → b20ab0a020a4
    stage1     lora.train       run
        param learning_rate: 0.0001 → 0.00005 (command line)
        input train: 96a4257289f9 → b20ab0a020a4
    card       release.card     maybe       waits for stage1, split
    tokenizer  tokenizer.train  run         never built
    ");
    insta::assert_snapshot!(explain(&steps[2], &Palette::new(false)), @"
    stage1 (lora.train): would run, because
      param learning_rate: 0.0001 → 0.00005 (command line)
      input train: 96a4257289f9 → b20ab0a020a4
    ");
    insta::assert_snapshot!(explain(&steps[0], &Palette::new(false)), @"import (findings.import): up to date");
}
