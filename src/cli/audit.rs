//! `retune audit`: everything rebuilt in a clean folder, and the results compared.

use std::path::Path;
use std::sync::atomic::Ordering;

use super::args::{Audit, AuditNoise, Run};
use super::exit::Exit;
use super::problem::Failure;
use super::{Session, signals};
use crate::files;
use crate::ops::{self, AuditOptions, AuditReport, AuditVerdict, NoiseLevel, OpsError};
use crate::report::{audit_html, audit_sentence, audit_text, audit_verdict};

pub(super) fn run(session: &Session, args: &Audit) -> Result<Exit, Failure> {
    let workspace = session.workspace()?;
    let options = options(session, args);
    let stop = signals::stop_on_signals().map_err(Failure::Signals)?;
    let reporting = Run {
        events: args.events.clone(),
        quiet: args.quiet,
        ..Run::default()
    };
    let report = session.output.report(&reporting, |sink| {
        ops::audit(&workspace, &options, &stop, sink)
    })??;
    let output = &session.output;
    if args.json {
        output.print_json(&report)?;
    } else {
        output.print(&audit_text(&report, &output.out))?;
    }
    if let Some(folder) = &args.report {
        let folder = session.folder().join(folder);
        let page = write(&report, &folder).map_err(OpsError::File)?;
        output.say(&format!("report: {}\n", page.display()));
    }
    output.say(&format!("{}\n", audit_sentence(&report)));
    output.say(&format!("{}\n", audit_verdict(&report)));
    Ok(exit(&report, stop.load(Ordering::Relaxed)))
}

fn options(session: &Session, args: &Audit) -> AuditOptions {
    AuditOptions {
        targets: args.targets.clone(),
        jobs: args.jobs.unwrap_or(1),
        overrides: session.overrides(),
        grace: args.grace,
        noise: match args.noise {
            AuditNoise::None => NoiseLevel::None,
            AuditNoise::Usual => NoiseLevel::Usual,
            AuditNoise::All => NoiseLevel::All,
        },
        against: args
            .against
            .as_ref()
            .map(|path| session.folder().join(path)),
        rebuild: !args.no_rebuild,
        trace: args.trace,
    }
}

/// Writes the page and the JSON, and gives the page's path.
fn write(report: &AuditReport, folder: &Path) -> Result<std::path::PathBuf, files::FileError> {
    files::create_dir(folder)?;
    let json = serde_json::to_string_pretty(report).expect("plain data") + "\n";
    files::write_atomic(&folder.join("audit.json"), json.as_bytes())?;
    let page = folder.join("audit.html");
    files::write_atomic(&page, audit_html(report).as_bytes())?;
    Ok(page)
}

fn exit(report: &AuditReport, stopped: bool) -> Exit {
    match report.verdict {
        AuditVerdict::Differs => Exit::Failed,
        _ if stopped => Exit::Interrupted,
        AuditVerdict::Same => Exit::Fine,
        AuditVerdict::CouldNotTell => Exit::Unsure,
    }
}
