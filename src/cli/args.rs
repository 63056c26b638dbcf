//! The command line: verbs, options, and what their values must look like.

use std::path::PathBuf;
use std::time::Duration;

use crate::pipeline;

use clap::{ArgAction, ArgGroup, Args, Parser, Subcommand, ValueEnum};

use crate::pipeline::units;

/// What follows `--help`: what scripts rely on.
const AFTER_HELP: &str = "\
Exit codes:
  0    fine
  1    a step failed, or verify or audit found a difference
  2    something is stale (plan --check)
  3    the pipeline file is wrong
  4    wrong usage
  5    the system refused: files, the store, the network
  6    audit could not tell: something could not be compared
  130  interrupted

Results go to standard output, all else to standard error.";

/// make for open fine-tuning: rebuilds what changed and records how all came to be.
#[derive(Debug, Parser)]
#[command(
    name = "retune",
    version,
    after_help = AFTER_HELP,
    infer_long_args = false,
    subcommand_required = true,
    max_term_width = 80
)]
pub struct Cli {
    /// What holds for every verb.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of every verb.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every verb")]
pub struct Global {
    /// Work in this folder instead of the current one.
    #[arg(short = 'C', value_name = "DIR", global = true)]
    pub directory: Option<PathBuf>,
    /// The pipeline: NAME for pipelines/NAME.toml, or a file; may be left
    /// out when there is only one, or one named quickstart.
    #[arg(short, long, value_name = "NAME|FILE", global = true)]
    pub pipeline: Option<String>,
    /// Where the store is [default: cache in the project].
    #[arg(long, value_name = "DIR", global = true)]
    pub cache: Option<PathBuf>,
    /// Replace a value of the pipeline file; may be repeated.
    #[arg(
        long = "set",
        value_name = "PATH=VALUE",
        global = true,
        value_parser = assignment,
        long_help = "Replace a value of the pipeline file: steps.NAME.FIELD=VALUE, \
            params.NAME=VALUE or pipeline.seed=VALUE. steps.NAME[AXIS=VALUE].FIELD=VALUE does \
            it in some cells of a matrix. The value is TOML, or else plain text. May be repeated. RETUNE_STEPS__NAME__FIELD and RETUNE_PARAMS__NAME in \
            the environment do the same, and yield to this."
    )]
    pub set: Vec<(String, String)>,
    /// When to use colour.
    #[arg(long, value_enum, default_value_t, value_name = "WHEN", global = true)]
    pub color: Color,
    /// Tell of steps of which nothing is done, and all that steps measured.
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On terminals, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Bring steps up to date, rebuilding only what changed.
    Build(Build),
    /// Show what build would do, and why; nothing is run.
    Plan(Plan),
    /// Say why a step would run: every component that changed, old and new.
    Why(Why),
    /// Show the results of the cells of a matrix side by side.
    Table(Table),
    /// Show the steps and what they need of each other.
    Graph(Graph),
    /// Say what state everything is in.
    Status(Status),
    /// List what was done before.
    Runs(Runs),
    /// Print what a step printed when it last ran.
    Log(Log),
    /// Build, and build again whenever an input changes.
    Watch(Watch),
    /// Hash every output again and compare with the records and the lock.
    Verify(Verify),
    /// Rebuild in a clean folder and compare every digest.
    Audit(Audit),
    /// Show what is different between two runs, lock files or commits.
    Diff(Diff),
    /// Print how a step's current result came to be.
    Record(Record),
    /// Show what nothing in the store's folder is needed for any more, and delete it.
    Gc(Gc),
    /// Show what the store holds, or check it.
    Cache(Cache),
    /// Check the lock file, or make it anew after a merge.
    Lock(Lock),
    /// Let a model answer prompts.
    Generate(Generate),
    /// Talk to a model, turn by turn.
    Chat(Chat),
    /// Print the JSON Schema of pipeline files, for completion in editors.
    Schema,
    /// List the kinds of steps.
    Kinds(Kinds),
    /// Write the quick start into a folder.
    Init(Init),
}

/// Options of verbs that run steps.
#[derive(Debug, Default, Args)]
pub struct Run {
    /// The steps to bring up to date, with what they need [default: all].
    #[arg(value_name = "STEP")]
    pub targets: Vec<String>,
    /// How many steps may run at once [default: the number of cores].
    #[arg(short, long, value_name = "N", value_parser = jobs)]
    pub jobs: Option<usize>,
    /// After a failure go on with the steps that do not need it.
    #[arg(short, long)]
    pub keep_going: bool,
    /// Run this step even if it is up to date; may be repeated.
    #[arg(long, value_name = "STEP")]
    pub force: Vec<String>,
    /// Write every event as a line of JSON to this file (- for standard output).
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,
    /// Write a trace of the run to this file, for Perfetto or Chrome.
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
    /// How long steps may take to stop when interrupted.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub grace: Duration,
    /// Tell only of failures and warnings.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
}

/// What there is for steps to use, where it is not what the machine has.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "What steps may use")]
pub struct Machine {
    /// Processors [default: all, or as many as --jobs if that is more].
    #[arg(long, value_name = "N", value_parser = cpus)]
    pub cpus: Option<u32>,
    /// Memory to count with, such as 64GiB [default: the machine's].
    #[arg(long, value_name = "SIZE", value_parser = units::bytes)]
    pub memory: Option<u64>,
    /// GPUs, such as 0,1 [default: those that CUDA_VISIBLE_DEVICES names, or all].
    #[arg(long, value_name = "IDS", value_parser = gpus)]
    pub gpus: Option<Gpus>,
    /// Another size of a pool of the pipeline file; may be repeated.
    #[arg(long, value_name = "NAME=N", value_parser = pool)]
    pub pool: Vec<(String, u64)>,
}

/// The ids of GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpus(pub Vec<String>);

/// `build`.
#[derive(Debug, Args)]
pub struct Build {
    /// What to build and how.
    #[command(flatten)]
    pub run: Run,
    /// What may be handed out to steps.
    #[command(flatten)]
    pub machine: Machine,
}

/// `watch`.
#[derive(Debug, Args)]
pub struct Watch {
    /// What to build and how.
    #[command(flatten)]
    pub run: Run,
    /// What may be handed out to steps.
    #[command(flatten)]
    pub machine: Machine,
    /// What a change during a build does.
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    pub on_change: OnChange,
}

/// What to do when something changes during a build.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum OnChange {
    /// Stop running steps that became stale; the others finish, then build anew.
    #[default]
    Cancel,
    /// Finish the build, then build again.
    Queue,
}

/// `gc`.
#[derive(Debug, Args)]
pub struct Gc {
    /// Delete; without it only show what would go.
    #[arg(long, visible_alias = "yes")]
    pub delete: bool,
    /// How many of the newest runs keep their results and logs.
    #[arg(long, value_name = "N", default_value_t = KEEP_RUNS)]
    pub keep_runs: usize,
    /// Delete results, the oldest first, only until the objects take no more
    /// than this (10GiB, 500MB, …).
    #[arg(long, value_name = "SIZE", value_parser = units::bytes)]
    pub max_size: Option<u64>,
    /// Delete outputs, too, that were edited and set aside: nobody can make
    /// those again.
    #[arg(long)]
    pub edited: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// How many runs are kept when nobody says.
pub const KEEP_RUNS: usize = 10;

/// `cache`.
#[derive(Debug, Args)]
pub struct Cache {
    /// What to do.
    #[command(subcommand)]
    pub verb: CacheVerb,
}

/// What to do with the store.
#[derive(Debug, Subcommand)]
pub enum CacheVerb {
    /// Show how much the store holds of what, and what gc would free.
    Stats(CacheStats),
    /// Read every object again, and look whether all that results need is there.
    Verify(CacheVerify),
}

/// `cache stats`.
#[derive(Debug, Args)]
pub struct CacheStats {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `cache verify`.
#[derive(Debug, Args)]
pub struct CacheVerify {
    /// Mend what can be mended: from outputs in place, or by giving up results
    /// so that the next build makes them again.
    #[arg(long)]
    pub repair: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `lock`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["check", "repair", "merge"])))]
pub struct Lock {
    /// Exit with 2 if the file does not say what the pipeline and the store say.
    #[arg(long)]
    pub check: bool,
    /// Make the file anew from the pipeline, the store and what both sides of
    /// a merge conflict agree on.
    #[arg(long)]
    pub repair: bool,
    /// As git's merge driver: merge THEIRS into OURS, step by step.
    #[arg(long, num_args = 3, value_names = ["BASE", "OURS", "THEIRS"])]
    pub merge: Option<Vec<PathBuf>>,
    /// Print JSON.
    #[arg(long, conflicts_with = "merge")]
    pub json: bool,
}

/// `plan`.
#[derive(Debug, Args)]
pub struct Plan {
    /// The steps to look at, with what they need [default: all].
    #[arg(value_name = "STEP")]
    pub targets: Vec<String>,
    /// How many steps may run at once, for the estimate [default: the number of cores].
    #[arg(short, long, value_name = "N", value_parser = jobs)]
    pub jobs: Option<usize>,
    /// As if build were told to run this step; may be repeated.
    #[arg(long, value_name = "STEP")]
    pub force: Vec<String>,
    /// Exit with 2 when anything is not up to date.
    #[arg(long, action = ArgAction::SetTrue)]
    pub check: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `why`.
#[derive(Debug, Args)]
pub struct Why {
    /// The step.
    #[arg(value_name = "STEP")]
    pub step: String,
    /// Name every file that changed [default: the first 10 of each input].
    #[arg(long)]
    pub all: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `runs`.
#[derive(Debug, Args)]
pub struct Runs {
    /// How many to list, the last ones [default: 20].
    #[arg(short = 'n', long, value_name = "N", value_parser = jobs)]
    pub limit: Option<usize>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `log`.
#[derive(Debug, Args)]
pub struct Log {
    /// The step.
    #[arg(value_name = "STEP")]
    pub step: String,
    /// Of this run: its name or the beginning of it, last, or last~1
    /// [default: the last one in which the step ran].
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    /// Wait for what a running step prints, until it ends.
    #[arg(short, long, conflicts_with_all = ["run", "json"])]
    pub follow: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `table`.
#[derive(Debug, Args)]
pub struct Table {
    /// The steps [default: all that have a matrix].
    #[arg(value_name = "STEP")]
    pub steps: Vec<String>,
    /// Sort by this column: an axis, state, seconds, or something measured;
    /// -COLUMN for the largest first.
    #[arg(long, value_name = "COLUMN", allow_hyphen_values = true)]
    pub sort: Option<String>,
    /// Show only these of the measured columns.
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',')]
    pub columns: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Print CSV.
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
}

/// `graph`.
#[derive(Debug, Args)]
pub struct Graph {
    /// How to draw it.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
    /// Draw every step on its own; svg folds alike steps of large pipelines
    /// otherwise.
    #[arg(long)]
    pub all: bool,
}

/// How a graph is drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For Graphviz.
    Dot,
    /// For Markdown.
    Mermaid,
    /// A picture: states, times, the longest chain.
    Svg,
    /// The picture as a page with a table of all steps.
    Html,
}

/// `verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `audit`.
#[derive(Debug, Args)]
pub struct Audit {
    /// The steps to audit, and only those [default: all].
    #[arg(value_name = "STEP")]
    pub targets: Vec<String>,
    /// Compare with this lock file, folder (somebody's release) or project
    /// instead of the own records.
    #[arg(long, value_name = "FILE|DIR")]
    pub against: Option<PathBuf>,
    /// Compare the recorded results; do nothing again.
    #[arg(long, requires = "against")]
    pub no_rebuild: bool,
    /// Tell what commands read, write and connect to without declaring it;
    /// steps are done again where a build does them (Linux).
    #[arg(long, conflicts_with = "no_rebuild")]
    pub trace: bool,
    /// Write audit.html and audit.json into this folder.
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
    /// How much to make different from the build.
    #[arg(long, value_enum, default_value_t, value_name = "LEVEL")]
    pub noise: AuditNoise,
    /// How many steps may be done at once.
    #[arg(short, long, value_name = "N", value_parser = jobs)]
    pub jobs: Option<usize>,
    /// Write every event as a line of JSON to this file (- for standard output).
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,
    /// How long steps may take to stop when interrupted.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub grace: Duration,
    /// Tell only of failures and warnings.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// How much an audit makes different from the build.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum AuditNoise {
    /// Only the folder.
    None,
    /// All that steps are not promised to find fixed.
    #[default]
    Usual,
    /// Also the time zone and locale of commands, which a build fixes.
    All,
}

/// `diff`.
#[derive(Debug, Args)]
pub struct Diff {
    /// A run (its name, the beginning of it, last, last~1), a lock file, a
    /// project's folder, or a git revision.
    #[arg(value_name = "OLD")]
    pub old: String,
    /// Another one.
    #[arg(value_name = "NEW")]
    pub new: String,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `record`.
#[derive(Debug, Args)]
pub struct Record {
    /// The step.
    #[arg(value_name = "STEP")]
    pub step: String,
    /// Print the records as JSON, whole: an array with one for each cell.
    #[arg(long)]
    pub json: bool,
}

/// Options of verbs that let a model answer.
#[derive(Debug, Args)]
pub struct Talk {
    /// The model: a folder, @STEP, @STEP.OUTPUT, or hf://OWNER/NAME@REVISION.
    #[arg(
        short,
        long,
        value_name = "MODEL",
        long_help = "The model: a folder, @STEP or @STEP.OUTPUT for what a step made, or \
            hf://OWNER/NAME@REVISION. A step that makes an adapter stands for the adapter on the \
            base it was trained on; with --adapter @STEP the model may be left out."
    )]
    pub model: Option<String>,
    /// An adapter on the model, given in the same ways.
    #[arg(short, long, value_name = "ADAPTER")]
    pub adapter: Vec<String>,
    /// The tokenizer [default: the step's, or the one in the model's folder].
    #[arg(long, value_name = "TOKENIZER")]
    pub tokenizer: Option<String>,
    /// A system message that the conversation begins with.
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// The most tokens of an answer [default: the model's advice, or 512].
    #[arg(short = 'n', long, value_name = "N", value_parser = jobs)]
    pub max_new_tokens: Option<usize>,
    /// A text that ends an answer; may be repeated.
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub stop: Vec<String>,
    /// A token, or its id, that ends an answer; may be repeated.
    #[arg(long, value_name = "TOKEN")]
    pub stop_token: Vec<String>,
    /// How many threads compute [default: all cores].
    #[arg(long, value_name = "N", value_parser = jobs)]
    pub threads: Option<usize>,
    /// The date that chat templates are told [default: 2024-07-26].
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = day)]
    pub date: Option<jiff::civil::Date>,
    /// How the next token is chosen.
    #[command(flatten)]
    pub sampling: Sampling,
}

/// How the next token is chosen; what is not given is as the model's
/// `generation_config.json` advises, and else greedy.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "How the next token is chosen")]
pub struct Sampling {
    /// 0 for the likeliest token; else logits are divided by it.
    #[arg(short, long, value_name = "T")]
    pub temperature: Option<f64>,
    /// Draw from the K likeliest tokens; 0 for all.
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Draw from the likeliest tokens that reach this probability.
    #[arg(long, value_name = "P")]
    pub top_p: Option<f64>,
    /// Draw no token less likely than this share of the likeliest.
    #[arg(long, value_name = "P")]
    pub min_p: Option<f64>,
    /// Above 1, tokens that were there before become less likely.
    #[arg(long, value_name = "X")]
    pub repetition_penalty: Option<f64>,
    /// Seed of the draws [default: 0].
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub seed: u64,
}

/// `generate`.
#[derive(Debug, Args)]
pub struct Generate {
    /// What to answer [default: standard input].
    #[arg(value_name = "PROMPT", conflicts_with = "file")]
    pub prompt: Option<String>,
    /// Answer every line of this JSONL file (- for standard input).
    #[arg(
        short,
        long,
        value_name = "FILE",
        long_help = "Answer every line of this JSONL file (- for standard input): `messages` \
            (an answer at the end is left out), `prompt`, `instruction` and `input`, or `text`, \
            which is gone on from."
    )]
    pub file: Option<PathBuf>,
    /// Whom to ask and how.
    #[command(flatten)]
    pub talk: Talk,
    /// Go on from the prompt as it is, without the chat template.
    #[arg(long, conflicts_with = "system")]
    pub raw: bool,
    /// How many answers to each prompt.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub samples: u64,
    /// Print a line of JSON for each answer.
    #[arg(long)]
    pub json: bool,
    /// Tell nothing beside the answers.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
}

/// `chat`.
#[derive(Debug, Args)]
pub struct Chat {
    /// Whom to ask and how.
    #[command(flatten)]
    pub talk: Talk,
}

/// `kinds`.
#[derive(Debug, Args)]
pub struct Kinds {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `init`.
#[derive(Debug, Args)]
pub struct Init {
    /// Where to; made if it is not there [default: the current folder].
    #[arg(value_name = "DIR")]
    pub folder: Option<PathBuf>,
}

/// `PATH=VALUE`; the value may be empty and may hold further `=`, and so may
/// the brackets of a cell in the path.
fn assignment(text: &str) -> Result<(String, String), String> {
    let split = pipeline::assignment(text);
    match split {
        Some((path, value)) if !path.trim().is_empty() => {
            Ok((path.trim().to_owned(), value.to_owned()))
        }
        _ => Err("expected PATH=VALUE, such as steps.stage1.learning_rate=5e-5".to_owned()),
    }
}

fn jobs(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err("expected a whole number of at least 1".to_owned()),
    }
}

fn day(text: &str) -> Result<jiff::civil::Date, String> {
    let day = text.parse();
    day.map_err(|_| "expected a date such as 2024-07-26".to_owned())
}

fn cpus(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err("expected a whole number of at least 1".to_owned()),
    }
}

/// Ids with commas between; none for an empty text.
fn gpus(text: &str) -> Result<Gpus, String> {
    let ids: Vec<String> = text.split(',').map(|id| id.trim().to_owned()).collect();
    let distinct: std::collections::BTreeSet<&String> = ids.iter().collect();
    match ids.as_slice() {
        [only] if only.is_empty() => Ok(Gpus(Vec::new())),
        ids if ids.iter().any(String::is_empty) || distinct.len() < ids.len() => {
            Err("expected different ids with commas between, such as 0,1".to_owned())
        }
        _ => Ok(Gpus(ids)),
    }
}

fn pool(text: &str) -> Result<(String, u64), String> {
    let pair = text.split_once('=');
    let pair = pair.and_then(|(name, size)| Some((name.trim(), size.trim().parse().ok()?)));
    match pair {
        Some((name, size)) if !name.is_empty() => Ok((name.to_owned(), size)),
        _ => Err("expected NAME=N, such as disk=2".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok();
    // As a point of time it has to exist: ten years will do.
    seconds
        .filter(|seconds| *seconds <= 3e8)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "expected seconds, such as 10 or 0.5".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        let words = ["retune"].into_iter().chain(line.split_whitespace());
        Cli::try_parse_from(words)
    }

    fn refusal(line: &str) -> String {
        let text = parse(line).unwrap_err().to_string();
        text.lines().next().unwrap().to_owned()
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_of_build() {
        let cli = parse(
            "build stage1 card -j4 -k --force stage1 --force card --events e.jsonl \
             --grace 0.5 -q -C there -p mine --cache c --color never \
             --set steps.a.text=x=y --set params.b= --cpus 3 --memory 2GiB --gpus 0,1 \
             --pool disk=2 --pool net=1",
        )
        .unwrap();
        let Verb::Build(Build { run, machine }) = cli.verb else {
            panic!("{:?}", cli.verb);
        };
        assert_eq!(run.targets, ["stage1", "card"]);
        assert_eq!(run.force, ["stage1", "card"]);
        assert_eq!((run.jobs, run.keep_going, run.quiet), (Some(4), true, true));
        assert_eq!(run.events, Some("e.jsonl".into()));
        assert_eq!(run.grace, Duration::from_millis(500));
        assert_eq!((machine.cpus, machine.memory), (Some(3), Some(2 << 30)));
        assert_eq!(machine.gpus, Some(Gpus(vec!["0".into(), "1".into()])));
        assert_eq!(machine.pool, [("disk".into(), 2), ("net".into(), 1)]);
        assert_eq!(cli.global.directory, Some("there".into()));
        assert_eq!(cli.global.pipeline.as_deref(), Some("mine"));
        assert_eq!(cli.global.cache, Some("c".into()));
        assert_eq!(cli.global.color, Color::Never);
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            cli.global.set,
            [pair("steps.a.text", "x=y"), pair("params.b", "")]
        );
    }

    #[test]
    fn global_options_stand_before_the_verb_too() {
        let cli = parse("-C there --color always plan --check --json").unwrap();
        assert_eq!(cli.global.directory, Some("there".into()));
        assert_eq!(cli.global.color, Color::Always);
        assert!(matches!(
            cli.verb,
            Verb::Plan(Plan {
                check: true,
                json: true,
                ..
            })
        ));
    }

    #[test]
    fn every_other_verb() {
        for line in [
            "why stage1 --json",
            "table",
            "table stage1 --sort -loss --columns loss,steps --csv",
            "table stage1[rank=8] --json",
            "why stage1 --all",
            "status --json",
            "runs -n 3 --json",
            "log stage1 --run last~1",
            "log stage1 -f",
            "graph --format dot",
            "graph --format mermaid",
            "graph --format svg --all",
            "graph --format html",
            "watch stage1 -k",
            "watch --on-change queue",
            "gc --delete --keep-runs 3 --max-size 1.5GiB --edited --json",
            "gc --yes",
            "cache stats --json",
            "cache verify --repair --json",
            "lock --check --json",
            "lock --repair",
            "lock --merge base ours theirs",
            "verify --json",
            "audit stage1 --json -j 2",
            "audit --against p.lock --no-rebuild --report there --noise all",
            "schema",
            "record stage1 --json",
            "diff last~1 last --json",
            "generate -m @stage1 why",
            "generate --model there --adapter a --tokenizer t --file f.jsonl --json --samples 4",
            "generate -m there -t 0.7 --top-k 20 --top-p 0.9 --min-p 0.1 --seed 3 -n 9 --raw x",
            "generate -m there --stop a --stop b --stop-token <|end|> --threads 2 --system s x",
            "chat -m there -a one -a two --repetition-penalty 1.1 --date 2026-01-02",
            "kinds --json",
            "init",
            "init there",
        ] {
            parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }

    #[test]
    fn wrong_values_are_refused_with_what_is_expected() {
        insta::assert_snapshot!(refusal("build --jobs 0"), @"error: invalid value '0' for '--jobs <N>': expected a whole number of at least 1");
        insta::assert_snapshot!(refusal("build --grace -1"), @"error: unexpected argument '-1' found");
        insta::assert_snapshot!(refusal("build --grace soon"), @"error: invalid value 'soon' for '--grace <SECONDS>': expected seconds, such as 10 or 0.5");
        insta::assert_snapshot!(refusal("build --set learning_rate"), @"error: invalid value 'learning_rate' for '--set <PATH=VALUE>': expected PATH=VALUE, such as steps.stage1.learning_rate=5e-5");
        insta::assert_snapshot!(refusal("build --set =1"), @"error: invalid value '=1' for '--set <PATH=VALUE>': expected PATH=VALUE, such as steps.stage1.learning_rate=5e-5");
        insta::assert_snapshot!(refusal("graph --format png"), @"error: invalid value 'png' for '--format <FORMAT>'");
        insta::assert_snapshot!(refusal("gc --max-size much"), @"error: invalid value 'much' for '--max-size <SIZE>': expected an amount such as 8GiB, 512MiB or 1.5GB");
        insta::assert_snapshot!(refusal("chat --date soon"), @"error: invalid value 'soon' for '--date <YYYY-MM-DD>': expected a date such as 2024-07-26");
        insta::assert_snapshot!(refusal("generate --raw --system s x"), @"error: the argument '--raw' cannot be used with '--system <TEXT>'");
        insta::assert_snapshot!(refusal("lock"), @"error: the following required arguments were not provided:");
        insta::assert_snapshot!(refusal("biuld"), @"error: unrecognized subcommand 'biuld'");
        insta::assert_snapshot!(refusal("build -q -v"), @"error: the argument '--quiet' cannot be used with '--verbose'");
        insta::assert_snapshot!(refusal("audit --force x"), @"error: unexpected argument '--force' found");
        insta::assert_snapshot!(refusal("audit --no-rebuild"), @"error: the following required arguments were not provided:");
        insta::assert_snapshot!(refusal("why"), @"error: the following required arguments were not provided:");
    }
}
