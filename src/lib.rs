//! `retune` is `make` for open fine-tuning: a TOML pipeline in, a documented
//! LoRA release out, and only what changed is rebuilt.
//!
//! This page is the map of the crate. Data flows one way:
//!
//! ```text
//! pipeline → graph → plan → exec → record
//! ```
//!
//! A module may import only what the table in `tests/layering.rs` allows it.
//!
//! | module | owns |
//! |---|---|
//! | [`hash`] | digests and the canonical encoding; the only user of blake3 |
//! | [`files`] | atomic writes, locks, stat tuples, paths in errors |
//! | [`compare`] | how two versions of a file differ: tensors, JSON, rows, text, bytes |
//! | [`data`] | rows of any format, findings, templates, mixes; statistics, gates, scans, splits, contamination, differences |
//! | [`ml`] | kernels, one decoder for all families, LoRA, tokenizer, training, generation, adapters in other formats; the only user of candle |
//! | [`eval`] | generations, scores, intervals, comparisons |
//! | `hub` | pinned revisions from the Hub (feature `hub`) |
//! | [`release`] | charts, recipes, model cards, release folders |
//! | [`pipeline`] | TOML to a pipeline with spans, overrides, parameters and matrices |
//! | [`step`] | what a kind of step is: its trait, ports, context |
//! | [`graph`] | steps checked and wired, in an order to run them |
//! | [`store`] | objects, history and stat cache under `cache/` |
//! | [`plan`] | keys, the decision, reasons |
//! | [`event`] | what happens in a run, as plain data |
//! | [`exec`] | the scheduler and the one door through which steps run |
//! | [`record`] | provenance, the lock file, the logs of runs, what an audit found |
//! | [`report`] | bars, plain lines, JSON lines, profiles |
//! | [`diagram`] | layered drawings of pipelines, SVG and HTML |
//! | [`steps`] | one file per kind: glue from ports to domain code |
//! | [`watch`] | debounced file events |
//! | [`ops`] | one function per user action |
//! | [`cli`] | arguments, output, exit codes; one file per verb |
//!
//! # The engine as a crate
//!
//! A program with kinds of its own adds them to a registry, hands that to the
//! project it opens, and builds; `examples/own_kind.rs` does it in one file:
//!
//! 1. implement [`step::Step`] for a type: its parameters, ports and work;
//! 2. [`ops::registry`] has the built-in kinds, [`step::Registry::add`] adds one;
//! 3. [`ops::step_process`] comes first in `main`, because each step runs as a
//!    process of its own, which is the running program again;
//! 4. [`ops::Workspace::find`] opens the project,
//!    [`with_kinds`](ops::Workspace::with_kinds) gives it the registry, and
//!    [`ops::build`] and its neighbours do what the verbs of the command line do.
//!
//! [`cli::run`] with a registry is the whole command line with those kinds.
//!
//! To add a built-in kind: a file in `steps` with a parameter struct and an
//! implementation of [`step::Step`], one line in [`steps::register`], and the
//! work itself in a domain module.
//!
//! What is on disk, and the type that writes it:
//!
//! | file | type |
//! |---|---|
//! | `pipelines/NAME.toml` | the user; read into [`pipeline::Pipeline`] |
//! | `pipelines/NAME.lock` | [`record::Lock`] |
//! | `cache/objects/ab/cdef…` | [`store::LocalStore`]; a folder is a [`store::Listing`] |
//! | `cache/journal` | [`store::Note`]s by [`store::journal::Journal`] |
//! | `cache/stat` | [`store::StatCache`] |
//! | `cache/snapshots/NAME` | what a whole build came to, and [`store::Row`]s of all it looked at |
//! | `cache/graphs/NAME` | the checked [`graph::Graph`] of an unchanged file |
//! | `cache/work/RUN-N/` | [`exec::Job`] and [`exec::JobResult`] of a running step |
//! | `cache/work/RUN-N/guard`, `report.json` | what a held or traced program may touch, and what it touched beside |
//! | `cache/runs/RUN/events.jsonl` | [`record::RunLog`]; none of a run that did nothing |
//! | `cache/runs/RUN/STEP.log` | what a step printed |
//! | `cache/runs/RUN/STEP.failed/` | documents and metrics that a failed step had written |
//! | `cache/checkpoints/KEY/` | steps that can go on; for training [`ml::checkpoint::Checkpoints`] and [`ml::saved::Results`] |
//! | `cache/out/PIPELINE/STEP/` | the outputs, as users read them; for a cell of a matrix `STEP/CELL/` |
//! | `cache/damaged/DIGEST` | an object that was not what its name said, by [`ops::check`] |
//! | a record, an object | [`event::Execution`] and its environment, by [`record::ProvenanceRecorder`] |

pub mod cli;
pub mod compare;
pub mod data;
pub mod diagram;
pub mod eval;
pub mod event;
pub mod exec;
pub mod files;
pub mod graph;
pub mod hash;
#[cfg(feature = "hub")]
pub mod hub;
pub mod ml;
pub mod ops;
pub mod pipeline;
pub mod plan;
pub mod record;
pub mod release;
pub mod report;
pub mod step;
pub mod steps;
pub mod store;
pub mod watch;
