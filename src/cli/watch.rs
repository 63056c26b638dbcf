//! `retune watch`: builds, and builds again whenever an input changes.

use super::args::{OnChange, Watch};
use super::exit::Exit;
use super::problem::{Failure, render_ops};
use super::{Session, build, signals};
use crate::ops::{self, Changed, Notice, WatchError, Watched};
use crate::report::count;

/// How many changed files are named.
const NAMED: usize = 5;

pub(super) fn run(session: &Session, args: &Watch) -> Result<Exit, Failure> {
    let workspace = session.workspace()?;
    let mut options = build::options(session, &args.run, true);
    options.limits = build::limits(&args.run, &args.machine);
    let on_change = match args.on_change {
        OnChange::Cancel => ops::OnChange::Cancel,
        OnChange::Queue => ops::OnChange::Queue,
    };
    let stop = signals::stop_on_signals().map_err(Failure::Signals)?;
    let output = session.output;
    let notice = |notice: Notice<'_>| match notice {
        Notice::Waiting(watched) => output.say(&waiting(watched)),
        Notice::Changed(changed) => output.say(&changed_line(changed)),
        Notice::Failed(error) => output.say(&render_ops(error, &output.err)),
        Notice::FallenBack(why) => output.say(&fallen_back(why)),
    };
    output.report(&args.run, |sink| {
        ops::watch(&workspace, &options, on_change, &stop, sink, notice)
    })??;
    Ok(Exit::Fine)
}

fn waiting(watched: &Watched) -> String {
    let mut parts = Vec::new();
    for (n, what) in [(watched.paths.len(), "path"), (watched.globs.len(), "glob")] {
        parts.extend((n > 0).then(|| count(n, what)));
    }
    format!("watching {}; Ctrl-C ends it\n", parts.join(" and "))
}

fn fallen_back(why: &WatchError) -> String {
    let mut causes = vec![why.to_string()];
    causes.extend(std::error::Error::source(why).map(|source| source.to_string()));
    let hint = why
        .hint()
        .map_or(String::new(), |hint| format!("hint: {hint}\n"));
    format!(
        "warning: {}: looking at the files instead\n{hint}",
        causes.join(": ")
    )
}

fn changed_line(changed: &Changed) -> String {
    if changed.rescan {
        return "\nchanges were lost: looking at everything again\n".to_owned();
    }
    let named: Vec<String> = changed
        .paths
        .iter()
        .take(NAMED)
        .map(|path| path.display().to_string())
        .collect();
    let more = match changed.paths.len().saturating_sub(NAMED) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    format!("\nchanged: {}{more}\n", named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_watched() {
        let watched = Watched {
            paths: ["a".into(), "b".into()].into(),
            ..Watched::default()
        };
        assert_eq!(waiting(&watched), "watching 2 paths; Ctrl-C ends it\n");
    }

    #[test]
    fn many_changes_are_named_in_part() {
        let changed = |n: usize| Changed {
            paths: (0..n).map(|i| format!("data/{i}").into()).collect(),
            rescan: false,
        };
        assert_eq!(changed_line(&changed(2)), "\nchanged: data/0, data/1\n");
        assert!(changed_line(&changed(7)).ends_with("data/4 and 2 more\n"));
        let lost = Changed {
            rescan: true,
            ..Changed::default()
        };
        assert!(changed_line(&lost).contains("lost"));
    }
}
