//! The quick start: its pipeline and data are part of the program and can be written anywhere.

use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};

use crate::files::{self, FileError};

static PIPELINE: &[u8] = include_bytes!("../../pipelines/quickstart.toml");
static DATA: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/data/quickstart");
static CACHE: &[u8] = include_bytes!("../../cache/README.md");
static GITIGNORE: &[u8] = b"/cache/*\n!/cache/README.md\n/release/\n";

/// What [`init`] did; paths are relative to the folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// What is new.
    pub written: Vec<PathBuf>,
    /// What was there already and may differ from project to project.
    pub kept: Vec<PathBuf>,
}

/// The quick start could not be written.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Nothing was written because files would have been overwritten.
    #[error("failed to write the quick start: {} already exists{}", .first.display(), others(*.more))]
    Exists {
        /// The first of them.
        first: PathBuf,
        /// How many more there are.
        more: usize,
    },
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl InitError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            InitError::Exists { .. } => Some("name another folder: retune init DIR"),
            InitError::File(_) => None,
        }
    }
}

fn others(more: usize) -> String {
    match more {
        0 => String::new(),
        n => format!(", and {n} more"),
    }
}

/// Writes the quick start into `folder`, which is made if it is not there.
///
/// Overwrites nothing: if a file of the pipeline or its data exists, it fails
/// before anything is written; a `.gitignore` and what is in `cache/` is kept.
pub fn init(folder: &Path) -> Result<Written, InitError> {
    let mut files: Vec<(PathBuf, &[u8])> = vec![("pipelines/quickstart.toml".into(), PIPELINE)];
    collect(&DATA, &mut files);
    let exists = |path: &Path| folder.join(path).symlink_metadata().is_ok();
    let mut there = files.iter().filter(|(path, _)| exists(path));
    if let Some((first, _)) = there.next() {
        let more = there.count();
        let first = folder.join(first);
        return Err(InitError::Exists { first, more });
    }
    let mut kept = Vec::new();
    for (path, bytes) in [(".gitignore", GITIGNORE), ("cache/README.md", CACHE)] {
        match exists(Path::new(path)) {
            true => kept.push(path.into()),
            false => files.push((path.into(), bytes)),
        }
    }
    for (path, bytes) in &files {
        files::write_atomic(&folder.join(path), bytes)?;
    }
    let written = files.into_iter().map(|(path, _)| path).collect();
    Ok(Written { written, kept })
}

fn collect(folder: &Dir<'static>, files: &mut Vec<(PathBuf, &[u8])>) {
    let root = Path::new("data/quickstart");
    let mut found: Vec<_> = folder.files().collect();
    found.sort_by_key(|file| file.path());
    files.extend(
        found
            .iter()
            .map(|file| (root.join(file.path()), file.contents())),
    );
    let mut folders: Vec<_> = folder.dirs().collect();
    folders.sort_by_key(|folder| folder.path());
    folders.iter().for_each(|folder| collect(folder, files));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn an_empty_folder_gets_everything() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("new/project");
        let done = init(&root).unwrap();
        assert!(done.kept.is_empty());
        assert!(done.written.contains(&"pipelines/quickstart.toml".into()));
        assert!(done.written.contains(&"cache/README.md".into()));
        for path in &done.written {
            assert!(root.join(path).is_file(), "{}", path.display());
        }
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        for path in done.written.iter().filter(|path| path.starts_with("data")) {
            let same =
                fs::read(root.join(path)).unwrap() == fs::read(repository.join(path)).unwrap();
            assert!(same, "{}", path.display());
        }
    }

    #[test]
    fn nothing_is_overwritten_and_nothing_half_written() {
        let folder = tempfile::tempdir().unwrap();
        let mine = folder.path().join("pipelines/quickstart.toml");
        files::write_atomic(&mine, b"mine").unwrap();
        let error = init(folder.path()).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("quickstart.toml already exists"),
            "{error}"
        );
        assert_eq!(fs::read(&mine).unwrap(), b"mine");
        assert!(!folder.path().join("data").exists());
        assert!(!folder.path().join(".gitignore").exists());
    }

    #[test]
    fn a_gitignore_of_ones_own_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".gitignore"), "mine").unwrap();
        let done = init(folder.path()).unwrap();
        assert_eq!(done.kept, [PathBuf::from(".gitignore")]);
        assert_eq!(fs::read(folder.path().join(".gitignore")).unwrap(), b"mine");
    }

    #[test]
    fn a_second_init_tells_how_much_is_in_its_way() {
        let folder = tempfile::tempdir().unwrap();
        init(folder.path()).unwrap();
        let error = init(folder.path()).unwrap_err();
        assert!(matches!(error, InitError::Exists { .. }));
        assert!(error.hint().is_some());
    }
}
