//! `retune cache`: how much the store holds of what, and whether it is sound.

use std::sync::atomic::Ordering;

use super::args::{Cache, CacheStats, CacheVerb, CacheVerify, KEEP_RUNS};
use super::exit::Exit;
use super::problem::Failure;
use super::{Session, signals};
use crate::ops::{self, CheckOptions, CheckReport, Damage, Group, Mended};
use crate::report::{Palette, bytes, count};

/// How many kinds or steps are shown.
const SHOWN: usize = 10;

pub(super) fn run(session: &Session, args: &Cache) -> Result<Exit, Failure> {
    match &args.verb {
        CacheVerb::Stats(args) => stats(session, args),
        CacheVerb::Verify(args) => verify(session, args),
    }
}

fn stats(session: &Session, args: &CacheStats) -> Result<Exit, Failure> {
    let workspace = session.project()?;
    let now = jiff::Timestamp::now().as_millisecond() as u64;
    let stats = ops::stats(&workspace, &session.overrides(), KEEP_RUNS, now)?;
    match args.json {
        true => session.output.print_json(&stats)?,
        false => session.output.print(&stats_text(&stats))?,
    }
    Ok(Exit::Fine)
}

fn stats_text(stats: &ops::CacheStats) -> String {
    let mut text = String::new();
    let mut line = |what: &str, size: u64, note: String| {
        text.push_str(format!("{what:<10}{:>11}  {note}", bytes(size)).trim_end());
        text.push('\n');
    };
    line("objects", stats.bytes, count(stats.objects, "object"));
    line(
        "results",
        stats.unshared_bytes,
        format!(
            "{}, if none shared anything",
            count(stats.results, "result")
        ),
    );
    let note = format!("outputs, {} of it copies of objects", bytes(stats.copies));
    line("in place", stats.in_place, note);
    line("garbage", stats.garbage, "`retune gc` would free".into());
    let note = format!(
        "{}, {} when compacted",
        count(stats.journal_notes, "record"),
        stats.journal_needed
    );
    line("journal", stats.journal_bytes, note);
    line("caches", stats.caches, "to be faster".into());
    line("logs", stats.logs, String::new());
    line("edited", stats.edited, "outputs that were set aside".into());
    for (title, groups) in [
        ("KIND", &stats.kinds),
        ("STEP", &stats.steps),
        ("AGE", &stats.ages),
    ] {
        text.push_str(&table(title, groups));
    }
    text
}

fn table(title: &str, groups: &[Group]) -> String {
    if groups.is_empty() {
        return String::new();
    }
    let shown = &groups[..groups.len().min(SHOWN)];
    let width = shown.iter().map(|group| group.name.chars().count()).max();
    let width = width.unwrap_or(0).max(title.len());
    let mut text = format!("\n{title:<width$}  RESULTS        SIZE\n");
    for group in shown {
        let size = bytes(group.bytes);
        let line = format!("{:<width$}  {:>7}  {size:>10}\n", group.name, group.results);
        text.push_str(&line);
    }
    if groups.len() > SHOWN {
        text.push_str(&format!("and {} more\n", groups.len() - SHOWN));
    }
    text
}

fn verify(session: &Session, args: &CacheVerify) -> Result<Exit, Failure> {
    let workspace = session.project()?;
    let options = CheckOptions {
        repair: args.repair,
        overrides: session.overrides(),
    };
    let stop = signals::stop_on_signals().map_err(Failure::Signals)?;
    let report = ops::check(&workspace, &options, &stop, &mut session.tell_of_waiting())?;
    let Some(report) = report else {
        return Ok(Exit::Interrupted);
    };
    let output = &session.output;
    match args.json {
        true => output.print_json(&report)?,
        false => output.print(&damage_text(&report, &output.out))?,
    }
    output.say(&verdict(&report));
    Ok(if stop.load(Ordering::Relaxed) && report.stopped {
        Exit::Interrupted
    } else if report.is_unsound() {
        Exit::Failed
    } else {
        Exit::Fine
    })
}

fn damage_text(report: &CheckReport, palette: &Palette) -> String {
    let (good, bad) = (palette.good, palette.bad);
    let mut text = String::new();
    for damage in &report.damage {
        let mark = match damage.mended {
            Some(_) => format!("{good}✓{good:#}"),
            None => format!("{bad}✗{bad:#}"),
        };
        text.push_str(&format!("{mark} {}\n    {}\n", damage.digest, what(damage)));
        for by in &damage.needed_by {
            text.push_str(&format!("    needed by {by}\n"));
        }
    }
    text
}

fn what(damage: &Damage) -> String {
    let fault = match damage.found {
        Some(found) => format!("is {found}"),
        None => "is missing".to_owned(),
    };
    let done = match damage.mended {
        None => return fault,
        Some(Mended::Retaken) => "taken again from a copy in place",
        Some(Mended::GivenUp) => "given up: the next build makes it again",
        Some(Mended::MovedAside) => "moved to cache/damaged: nothing needs it",
    };
    format!("{fault}; {done}")
}

fn verdict(report: &CheckReport) -> String {
    let read = format!(
        "{} ({}) and {} checked",
        count(report.objects, "object"),
        bytes(report.bytes),
        count(report.results, "result")
    );
    let open = report
        .damage
        .iter()
        .filter(|damage| damage.mended.is_none());
    let (open, all) = (open.count(), report.damage.len());
    let found = match (all, open) {
        (0, _) => "all sound".to_owned(),
        (all, 0) => format!("{} mended", count(all, "fault")),
        (_, open) if report.repaired => format!(
            "{} not to be mended: records and logs come only from running a step again (`retune build --force STEP`)",
            count(open, "fault")
        ),
        (_, open) => format!(
            "{}; `retune cache verify --repair` mends what can be mended",
            count(open, "fault")
        ),
    };
    let stopped = if report.stopped {
        "stopped early; "
    } else {
        ""
    };
    format!("{stopped}{read}: {found}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Digest;

    #[test]
    fn a_store_in_numbers() {
        let group = |name: &str, results, bytes| Group {
            name: name.into(),
            results,
            bytes,
        };
        let stats = ops::CacheStats {
            objects: 120,
            bytes: 5 << 20,
            unshared_bytes: 9 << 20,
            results: 40,
            kinds: vec![group("lora.train", 2, 4 << 20), group("command", 38, 1000)],
            steps: Vec::new(),
            ages: vec![group("today", 40, 5 << 20)],
            in_place: 7 << 20,
            copies: 6 << 20,
            garbage: 2048,
            journal_bytes: 8000,
            journal_notes: 90,
            journal_needed: 60,
            caches: 3000,
            logs: 17,
            edited: 0,
        };
        insta::assert_snapshot!(stats_text(&stats), @"
        objects       5.0 MiB  120 objects
        results       9.0 MiB  40 results, if none shared anything
        in place      7.0 MiB  outputs, 6.0 MiB of it copies of objects
        garbage       2.0 KiB  `retune gc` would free
        journal       7.8 KiB  90 records, 60 when compacted
        caches        2.9 KiB  to be faster
        logs             17 B
        edited            0 B  outputs that were set aside

        KIND        RESULTS        SIZE
        lora.train        2     4.0 MiB
        command          38      1000 B

        AGE    RESULTS        SIZE
        today       40     5.0 MiB
        ");
    }

    #[test]
    fn faults_and_what_was_done_about_them() {
        let damage = |text: &[u8], found, mended| Damage {
            digest: Digest::of(text),
            found,
            needed_by: vec!["main/stage1 adapter".into()],
            mended,
        };
        let mut report = CheckReport {
            objects: 2,
            bytes: 10,
            results: 1,
            damage: vec![
                damage(b"a", Some(Digest::of(b"b")), Some(Mended::Retaken)),
                damage(b"c", None, None),
            ],
            ..CheckReport::default()
        };
        insta::assert_snapshot!(damage_text(&report, &Palette::new(false)), @"
        ✓ 17762fddd969a453925d65717ac3eea21320b66b54342fde15128d6caf21215f
            is 10e5cf3d3c8a4f9f3468c8cc58eea84892a22fdadbc1acb22410190044c1d553; taken again from a copy in place
            needed by main/stage1 adapter
        ✗ ea7aa1fc9efdbe106dbb70369a75e9671fa29d52bd55536711bf197477b8f021
            is missing
            needed by main/stage1 adapter
        ");
        assert!(verdict(&report).contains("1 fault; `retune cache verify --repair`"));
        report.damage.clear();
        assert_eq!(
            verdict(&report),
            "2 objects (10 B) and 1 result checked: all sound\n"
        );
    }
}
