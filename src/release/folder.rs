//! The release folder: files and folders under the paths their labels name, with a `MANIFEST.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::{self, FileError, PathContext};
use crate::hash::Digest;

/// The manifest's name in the release folder.
pub const MANIFEST: &str = "MANIFEST.json";
/// Version of the manifest. 1: the first.
pub const FORMAT: u32 = 1;

/// `MANIFEST.json`: every other file of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The files, sorted by path.
    pub files: Vec<ManifestFile>,
    /// Data that was not looked through for secrets and personal data, with
    /// the reason that its makers give.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unscanned: BTreeMap<String, String>,
}

/// One file of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Relative to the release folder, with `/`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Digest of its bytes.
    pub blake3: Digest,
}

/// A release could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// A label is no path inside of the release.
    #[error("the label '{0}' is not a plain relative path inside the release")]
    Label(String),
    /// Two things want the same path.
    #[error("'{0}' and '{1}' would be at the same place in the release")]
    Collision(String, String),
    /// A file name that other systems cannot hold.
    #[error("the file name {} is not UTF-8", .0.display())]
    Name(PathBuf),
    /// Neither a file nor a folder.
    #[error("{} is neither a file nor a folder", .0.display())]
    Kind(PathBuf),
}

/// Copies every `(label, path)` to `label` below the new folder `out`, and
/// writes the manifest. Nothing is copied unless every label is sound.
pub fn assemble(
    out: &Path,
    items: &[(String, PathBuf)],
    unscanned: &BTreeMap<String, String>,
) -> Result<Manifest, FolderError> {
    let mut sources = BTreeMap::new();
    for (label, path) in items {
        check_label(label)?;
        collect(path, label, &mut sources)?;
    }
    check_collisions(sources.keys())?;
    files::create_dir(out)?;
    let mut manifest = Manifest {
        format: FORMAT,
        files: Vec::with_capacity(sources.len()),
        unscanned: unscanned.clone(),
    };
    for (path, source) in sources {
        let target = out.join(&path);
        if let Some(folder) = target.parent() {
            files::create_dir(folder)?;
        }
        files::copy(&source, &target)?;
        let (blake3, size) = Digest::of_file(&target).on("read", &target)?;
        manifest.files.push(ManifestFile { path, size, blake3 });
    }
    let mut json = serde_json::to_string_pretty(&manifest)
        .map_err(std::io::Error::from)
        .on("encode", Path::new(MANIFEST))?;
    json.push('\n');
    files::write(&out.join(MANIFEST), json)?;
    Ok(manifest)
}

/// A label is one or more names joined by `/`: not absolute, no `.` or `..`,
/// nothing that another system reads as a separator, a drive or a control.
fn check_label(label: &str) -> Result<(), FolderError> {
    let bad = |c: char| c.is_control() || matches!(c, '\\' | ':');
    let plain = |name: &str| !matches!(name, "" | "." | "..") && !name.contains(bad);
    if label.split('/').all(plain) {
        Ok(())
    } else {
        Err(FolderError::Label(label.to_owned()))
    }
}

/// All files of `source` by the path they get below `path`.
fn collect(
    source: &Path,
    path: &str,
    sources: &mut BTreeMap<String, PathBuf>,
) -> Result<(), FolderError> {
    let meta = fs::metadata(source).on("read", source)?;
    if meta.is_file() {
        return match sources.insert(path.to_owned(), source.to_owned()) {
            Some(_) => Err(FolderError::Collision(path.to_owned(), path.to_owned())),
            None => Ok(()),
        };
    }
    if !meta.is_dir() {
        return Err(FolderError::Kind(source.to_owned()));
    }
    for entry in fs::read_dir(source).on("list", source)? {
        let entry = entry.on("list", source)?;
        let name = entry.file_name();
        let name = name
            .to_str()
            .ok_or_else(|| FolderError::Name(entry.path()))?;
        collect(&entry.path(), &format!("{path}/{name}"), sources)?;
    }
    Ok(())
}

/// Refuses a file where a folder must be, the manifest's own name, and names
/// that a case-insensitive file system takes for the same.
fn check_collisions<'a>(
    paths: impl Iterator<Item = &'a String> + Clone,
) -> Result<(), FolderError> {
    let mut seen = BTreeMap::from([(MANIFEST.to_lowercase(), MANIFEST)]);
    for path in paths.clone() {
        if let Some(other) = seen.insert(path.to_lowercase(), path) {
            return Err(FolderError::Collision(other.to_owned(), path.clone()));
        }
    }
    let folded: BTreeSet<&String> = seen.keys().collect();
    for path in paths {
        let lower = path.to_lowercase();
        let mut parents = lower
            .match_indices('/')
            .map(|(at, _)| lower[..at].to_owned());
        if let Some(file) = parents.find(|parent| folded.contains(parent)) {
            return Err(FolderError::Collision(seen[&file].to_owned(), path.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(folder: &Path, labels: &[&str]) -> Vec<(String, PathBuf)> {
        let source = folder.join("adapter");
        fs::create_dir_all(source.join("sub")).unwrap();
        fs::write(source.join("weights"), "w").unwrap();
        fs::write(source.join("sub/a"), "a").unwrap();
        let pair = |label: &&str| {
            let path = if label.ends_with(".md") {
                source.join("weights")
            } else {
                source.clone()
            };
            (label.to_string(), path)
        };
        labels.iter().map(pair).collect()
    }

    fn refused(labels: &[&str]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let fault = assemble(&out, &items(folder.path(), labels), &BTreeMap::new()).unwrap_err();
        assert!(!out.exists(), "nothing is written");
        fault.to_string()
    }

    #[test]
    fn a_release_is_the_labelled_files_and_their_manifest() {
        let folder = tempfile::tempdir().unwrap();
        let release = |name: &str, labels: &[&str]| {
            let out = folder.path().join(name);
            let manifest = assemble(&out, &items(folder.path(), labels), &BTreeMap::new()).unwrap();
            (manifest, fs::read_to_string(out.join(MANIFEST)).unwrap())
        };
        let (manifest, text) = release("one", &["stage1/adapter", "README.md"]);
        let paths: Vec<&str> = manifest.files.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "README.md",
                "stage1/adapter/sub/a",
                "stage1/adapter/weights"
            ]
        );
        assert_eq!(manifest.files[0].blake3, Digest::of(b"w"));
        assert_eq!(manifest.files[0].size, 1);
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest);
        assert_eq!(text, release("two", &["README.md", "stage1/adapter"]).1);
        let read = fs::read(folder.path().join("one/stage1/adapter/sub/a")).unwrap();
        assert_eq!(read, b"a");
    }

    #[test]
    fn labels_that_escape_are_refused() {
        for label in [
            "../x", "/x", "a/../x", "", "a//b", "./a", "a/", "a\\b", "c:x", "a\nb",
        ] {
            let fault = refused(&["ok", label]);
            assert!(
                fault.contains("not a plain relative path"),
                "{label}: {fault}"
            );
        }
    }

    #[test]
    fn collisions_are_refused() {
        for labels in [
            ["x.md", "x.md"],
            ["README.md", "readme.md"],
            ["x.md", "x.md/y"],
            ["X.md", "x.md/y"],
            ["a", "a"],
        ] {
            let fault = refused(&labels);
            assert!(fault.contains("at the same place"), "{labels:?}: {fault}");
        }
    }

    #[test]
    fn the_manifest_cannot_be_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let mut items = items(folder.path(), &["x.md"]);
        items[0].0 = "manifest.json".into();
        let fault = assemble(&folder.path().join("out"), &items, &BTreeMap::new()).unwrap_err();
        assert!(matches!(fault, FolderError::Collision(..)), "{fault}");
    }
}
