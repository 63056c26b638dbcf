//! From the references of the pipeline file to paths with content digests.

use std::fmt;
use std::path::{Path, PathBuf};

use globset::GlobBuilder;
use serde::{Deserialize, Serialize};

use crate::files::FileError;
use crate::graph::{HubRef, is_glob};
use crate::pipeline::StepName;
use crate::store::{Artifact, ContentError, StatCache};

/// One thing behind an input port, found and hashed.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedInput {
    /// The port.
    pub port: String,
    /// What the step can see of where it comes from: the label of a labelled
    /// port, the relative path of a source, empty for a step's output.
    pub label: String,
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub artifact: Artifact,
    /// Where it comes from.
    pub from: Provenance,
}

impl ResolvedInput {
    /// The file name that the step can see; empty for one that is not UTF-8.
    pub fn file(&self) -> &str {
        let name = self.path.file_name().and_then(|name| name.to_str());
        name.unwrap_or_default()
    }
}

/// Where an input comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provenance {
    /// A path relative to the project root.
    Path(String),
    /// A pinned reference to the Hub.
    Hub(String),
    /// Supplied by the engine.
    Engine(String),
    /// An output of another step.
    #[serde(untagged)]
    Step {
        /// The step.
        step: StepName,
        /// The output port.
        output: String,
    },
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Provenance::Path(text) | Provenance::Hub(text) | Provenance::Engine(text) => {
                f.write_str(text)
            }
            Provenance::Step { step, output } => write!(f, "@{step}.{output}"),
        }
    }
}

/// An input cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// Nothing is at the path.
    #[error("input '{port}': {path} does not exist")]
    Missing {
        /// The port.
        port: String,
        /// As the pipeline file writes it.
        path: String,
    },
    /// A glob that matches nothing.
    #[error("input '{port}': no file matches {glob}")]
    NoMatch {
        /// The port.
        port: String,
        /// As the pipeline file writes it.
        glob: String,
    },
    /// A glob that is not one.
    #[error("input '{port}': '{glob}' is not a glob")]
    BadGlob {
        /// The port.
        port: String,
        /// As the pipeline file writes it.
        glob: String,
        /// Why.
        #[source]
        source: globset::Error,
    },
    /// It is there but has no content digest.
    #[error("input '{port}' cannot be read")]
    Content {
        /// The port.
        port: String,
        /// Why.
        #[source]
        source: ContentError,
    },
    /// A folder could not be listed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The Hub did not give it.
    #[error("input '{port}': failed to fetch {reference}")]
    Hub {
        /// The port.
        port: String,
        /// The reference.
        reference: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The Hub's copy is not here, and a plan does not fetch.
    #[error("input '{port}': {reference} has not been fetched yet")]
    NotFetched {
        /// The port.
        port: String,
        /// The reference.
        reference: String,
    },
}

/// Where references to the Hub are looked up; a build fetches what is not
/// there, a plan does not.
pub trait Hub: Send + Sync {
    /// The local copy of a pinned reference, fetched if need be; none when it
    /// is not there and must not be fetched.
    fn locate(
        &self,
        reference: &HubRef,
    ) -> Result<Option<PathBuf>, Box<dyn std::error::Error + Send + Sync>>;
}

/// The files a source path stands for, relative to `root`, sorted by path.
/// Globs do not look into the folders `own`, which retune writes itself.
pub fn expand(
    root: &Path,
    own: &[PathBuf],
    port: &str,
    path: &str,
) -> Result<Vec<String>, InputError> {
    if !is_glob(path) {
        return Ok(vec![path.to_owned()]);
    }
    let glob = GlobBuilder::new(path)
        .literal_separator(true)
        .build()
        .map_err(|source| InputError::BadGlob {
            port: port.to_owned(),
            glob: path.to_owned(),
            source,
        })?
        .compile_matcher();
    let mut found = Vec::new();
    let base = glob_base(path);
    walk(root, own, &base, &mut |file| {
        if glob.is_match(file) {
            found.push(file.to_owned());
        }
    });
    found.sort();
    if found.is_empty() {
        return Err(InputError::NoMatch {
            port: port.to_owned(),
            glob: path.to_owned(),
        });
    }
    Ok(found)
}

/// The longest leading part of a glob that holds no pattern: the folder under
/// which its matches lie.
pub fn glob_base(glob: &str) -> String {
    let fixed: Vec<&str> = glob.split('/').take_while(|part| !is_glob(part)).collect();
    fixed.join("/")
}

/// Calls `found` with every file below `folder`, as paths relative to `root`.
/// What cannot be listed has no files: a glob over it then matches nothing.
fn walk(root: &Path, own: &[PathBuf], folder: &str, found: &mut dyn FnMut(&str)) {
    if own.iter().any(|own| own == Path::new(folder)) {
        return;
    }
    let Ok(entries) = std::fs::read_dir(root.join(folder)) else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let path = match folder {
            "" => name,
            folder => format!("{folder}/{name}"),
        };
        // Not through links: a link back up would never end.
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            walk(root, own, &path, found);
        } else {
            found(&path);
        }
    }
}

/// Finds and hashes a source path.
pub fn source(
    root: &Path,
    own: &[PathBuf],
    stats: &StatCache,
    port: &str,
    label: &str,
    path: &str,
) -> Result<Vec<ResolvedInput>, InputError> {
    let resolve = |relative: String| {
        let absolute = root.join(&relative);
        let artifact = stats.content(&absolute).map_err(|source| {
            if source.is_missing() && !absolute.exists() {
                InputError::Missing {
                    port: port.to_owned(),
                    path: relative.clone(),
                }
            } else {
                InputError::Content {
                    port: port.to_owned(),
                    source,
                }
            }
        })?;
        Ok(ResolvedInput {
            port: port.to_owned(),
            label: if label == path {
                relative.clone()
            } else {
                label.to_owned()
            },
            path: absolute,
            artifact,
            from: Provenance::Path(relative),
        })
    };
    expand(root, own, port, path)?
        .into_iter()
        .map(resolve)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn globs_match_sorted_and_not_across_folders() {
        let root = tempfile::tempdir().unwrap();
        for file in [
            "d/b.json",
            "d/a.json",
            "d/sub/c.json",
            "d/x.txt",
            "d/own/o.json",
        ] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        let own = [PathBuf::from("d/own")];
        let expand = |glob| expand(root.path(), &own, "p", glob);
        assert_eq!(expand("d/*.json").unwrap(), ["d/a.json", "d/b.json"]);
        assert_eq!(expand("d/**/*.json").unwrap().len(), 3);
        assert_eq!(expand("d/{a,b}.json").unwrap().len(), 2);
        assert_eq!(
            expand("d/*.csv").unwrap_err().to_string(),
            "input 'p': no file matches d/*.csv"
        );
        assert!(matches!(
            expand("d/[").unwrap_err(),
            InputError::BadGlob { .. }
        ));
    }

    #[test]
    fn provenance_is_one_plain_object() {
        let step = Provenance::Step {
            step: "split".parse().unwrap(),
            output: "train".into(),
        };
        let path = Provenance::Path("data/x".into());
        assert_eq!(
            serde_json::to_string(&(step, path)).unwrap(),
            r#"[{"step":"split","output":"train"},{"path":"data/x"}]"#
        );
    }
}
