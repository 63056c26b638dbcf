//! Typed ports: what a step reads and writes, so that a wrong wiring is refused before anything runs.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What lies behind a port.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum PortType {
    /// Scanner findings, one JSON object a line.
    Findings,
    /// Rows for training or evaluation, one JSON object a line.
    Dataset,
    /// Model outputs on a dataset, one JSON object a line.
    Generations,
    /// A folder with `config.json` and `model.safetensors`.
    Model,
    /// A folder with `adapter_config.json` and `adapter_model.safetensors`.
    Adapter,
    /// A folder with `tokenizer.json` and `tokenizer_config.json`.
    Tokenizer,
    /// One JSON object of measured values.
    Metrics,
    /// What a training run logged, one JSON object a line.
    Log,
    /// A file for people: Markdown, HTML, SVG.
    Document,
    /// Any folder.
    Folder,
    /// Any file.
    File,
    /// A file or a folder of whatever content.
    Any,
}

impl PortType {
    /// Whether an output of type `self` may be wired to an input of type `wanted`.
    pub fn fits(self, wanted: PortType) -> bool {
        match wanted {
            PortType::Any => true,
            PortType::Folder => self == PortType::Any || self.is_folder(),
            PortType::File => self == PortType::Any || !self.is_folder(),
            wanted => {
                self == wanted
                    || self == PortType::Any
                    || self
                        == if wanted.is_folder() {
                            PortType::Folder
                        } else {
                            PortType::File
                        }
            }
        }
    }

    /// Whether a file may stand behind a port of this type.
    pub fn may_be_file(self) -> bool {
        !self.is_folder()
    }

    /// Whether a folder may stand behind a port of this type.
    pub fn may_be_folder(self) -> bool {
        self.is_folder() || self == PortType::Any
    }

    fn is_folder(self) -> bool {
        matches!(
            self,
            PortType::Model | PortType::Adapter | PortType::Tokenizer | PortType::Folder
        )
    }

    /// The name users read and, for `command` outputs, write.
    pub fn name(self) -> &'static str {
        match self {
            PortType::Findings => "findings",
            PortType::Dataset => "dataset",
            PortType::Generations => "generations",
            PortType::Model => "model",
            PortType::Adapter => "adapter",
            PortType::Tokenizer => "tokenizer",
            PortType::Metrics => "metrics",
            PortType::Log => "log",
            PortType::Document => "document",
            PortType::Folder => "folder",
            PortType::File => "file",
            PortType::Any => "any",
        }
    }
}

impl fmt::Display for PortType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How many things an input port takes, and how the pipeline file writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arity {
    /// Exactly one: `train = "@split.train"`.
    One,
    /// None or one.
    Optional,
    /// One or more, in order: `reports = ["a.sarif", "@scan"]`. A glob yields
    /// its matches sorted by path.
    Many,
    /// Any number, each with a label: `adapters = { stage1 = "@stage1" }`.
    Labelled,
    /// Supplied by the engine and not written in the pipeline file: a JSON
    /// file with the kind, effective parameters, and input and output digests
    /// of every step upstream of this one, in build order.
    Lineage,
}

/// An input port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InPort {
    /// The field of the pipeline file that fills it.
    pub name: &'static str,
    /// What it takes.
    pub ty: PortType,
    /// How many it takes.
    pub arity: Arity,
    /// One sentence for the schema.
    pub about: &'static str,
}

impl InPort {
    /// A port that takes exactly one thing.
    pub fn one(name: &'static str, ty: PortType, about: &'static str) -> Self {
        Self::new(name, ty, Arity::One, about)
    }

    /// A port that may be left out.
    pub fn optional(name: &'static str, ty: PortType, about: &'static str) -> Self {
        Self::new(name, ty, Arity::Optional, about)
    }

    /// A port that takes one or more things, in order.
    pub fn many(name: &'static str, ty: PortType, about: &'static str) -> Self {
        Self::new(name, ty, Arity::Many, about)
    }

    /// A port that takes any number of things, each with a label.
    pub fn labelled(name: &'static str, ty: PortType, about: &'static str) -> Self {
        Self::new(name, ty, Arity::Labelled, about)
    }

    /// The port through which the engine tells how the inputs came to be.
    pub fn lineage() -> Self {
        let about = "how every input came to be, supplied by the engine";
        Self::new("lineage", PortType::Metrics, Arity::Lineage, about)
    }

    fn new(name: &'static str, ty: PortType, arity: Arity, about: &'static str) -> Self {
        InPort {
            name,
            ty,
            arity,
            about,
        }
    }
}

/// An output port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutPort {
    /// What `@step.NAME` refers to.
    pub name: String,
    /// What it holds.
    pub ty: PortType,
    /// Where it lies, relative to the step's output folder.
    pub path: String,
}

impl OutPort {
    /// An output `name` at `path` in the step's output folder.
    pub fn new(name: &str, ty: PortType, path: &str) -> Self {
        OutPort {
            name: name.to_owned(),
            ty,
            path: path.to_owned(),
        }
    }
}

/// Whether a step's result may stand in for running it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purity {
    /// A function of its key: cached, restored, audited.
    Pure,
    /// Acts on the world (an upload): runs when its key is new, never from
    /// watch and never in an audit; its output is the receipt.
    External,
}

#[cfg(test)]
mod tests {
    use super::PortType::*;

    #[test]
    fn wiring_rules() {
        assert!(Adapter.fits(Adapter));
        assert!(Adapter.fits(Folder));
        assert!(Adapter.fits(Any));
        assert!(Dataset.fits(File));
        assert!(Folder.fits(Model), "a command's folder may be a model");
        assert!(File.fits(Dataset), "a command's file may be a dataset");
        assert!(!Model.fits(Adapter));
        assert!(!Dataset.fits(Folder));
        assert!(!Metrics.fits(Dataset));
    }
}
