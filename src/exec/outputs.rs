//! From a work folder into the store, and from the store to where outputs belong.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::files::{self, FileError, PathContext};
use crate::graph::Node;
use crate::plan::Planner;
use crate::step::{OutPort, StepError};
use crate::store::{Artifact, ContentError, Output, Store, StoreError};

/// Takes every declared output of a finished job into the store.
pub fn collect(store: &dyn Store, ports: &[OutPort], out: &Path) -> Result<Vec<Output>, StepError> {
    let written = check_all_written(ports, out)?;
    ports
        .iter()
        .zip(&written)
        .map(|(port, meta)| {
            let path = out.join(&port.path);
            part(&path, meta)?;
            let artifact = store.take(&path).map_err(not_kept)?;
            Ok(Output {
                path: port.path.clone(),
                artifact,
            })
        })
        .collect()
}

/// Has every file at a path for itself: one with another name somewhere could
/// be written to by that name when it is the store's.
fn part(path: &Path, meta: &Metadata) -> Result<(), FileError> {
    if meta.is_dir() {
        for entry in fs::read_dir(path).on("list", path)? {
            let path = entry.on("list", path)?.path();
            part(&path, &fs::symlink_metadata(&path).on("read", &path)?)?;
        }
    } else if meta.is_file() && meta.nlink() > 1 {
        let mut copy = path.as_os_str().to_owned();
        copy.push(".retune-copy");
        let copy = Path::new(&copy);
        fs::copy(path, copy).on("copy", path)?;
        files::rename(copy, path)?;
    }
    Ok(())
}

fn not_kept(error: StoreError) -> StepError {
    let link = matches!(&error, StoreError::Content(ContentError::Special(_)));
    let error = StepError::from(error);
    if link {
        return error.hint("an output may hold files and folders only, no links or sockets");
    }
    error
}

/// Names every output that is missing or of the wrong shape, before any is taken.
fn check_all_written(ports: &[OutPort], out: &Path) -> Result<Vec<Metadata>, StepError> {
    let check = |port: &OutPort| match found(&out.join(&port.path)) {
        // What lies behind a link is somebody else's and must not be taken.
        Ok(_) if leads_away(out, &port.path) => Err(format!(
            "'{}' ({}) lies behind a symbolic link",
            port.name, port.path
        )),
        Err(_) => Err(format!("'{}' ({}) was not written", port.name, port.path)),
        Ok(meta) if meta.is_dir() && !port.ty.may_be_folder() => Err(format!(
            "'{}' ({}) is a folder, not a file",
            port.name, port.path
        )),
        Ok(meta) if meta.is_file() && !port.ty.may_be_file() => Err(format!(
            "'{}' ({}) is a file, not a folder",
            port.name, port.path
        )),
        Ok(meta) => Ok(meta),
    };
    let (mut written, mut faults) = (Vec::with_capacity(ports.len()), Vec::new());
    for port in ports {
        match check(port) {
            Ok(meta) => written.push(meta),
            Err(fault) => faults.push(fault),
        }
    }
    match faults.as_slice() {
        [] => Ok(written),
        faults => Err(StepError::new(format!(
            "output {}",
            faults.join("; output ")
        ))),
    }
}

/// What is at a path; that of a link which leads somewhere is its own.
fn found(path: &Path) -> std::io::Result<Metadata> {
    let meta = fs::symlink_metadata(path)?;
    match meta.is_symlink() {
        true => fs::metadata(path).map(|_| meta),
        false => Ok(meta),
    }
}

/// Whether a folder on the way to an output is a symbolic link.
fn leads_away(out: &Path, path: &str) -> bool {
    let folders = Path::new(path).ancestors().skip(1);
    folders
        .filter(|folder| !folder.as_os_str().is_empty())
        .any(|folder| out.join(folder).is_symlink())
}

/// An output that was not what the step had written and was moved away.
pub struct SetAside {
    /// Where it was, relative to the project.
    pub path: String,
    /// Where it is now, relative to the project.
    pub kept: String,
}

/// Where things are put in place.
pub struct Places<'a> {
    /// The project root.
    pub root: &'a Path,
    /// The store.
    pub store: &'a dyn Store,
}

impl Places<'_> {
    /// Puts the outputs of a step where they belong. What is there already and
    /// right is left alone; what is there and neither right nor from the
    /// step's last result (`previous`) is moved aside, never overwritten.
    pub fn put(
        &self,
        planner: &Planner<'_>,
        node: &Node,
        outputs: &[Output],
        previous: &[Output],
    ) -> Result<Vec<SetAside>, StoreError> {
        let folder = planner.output_folder(node);
        let mut moved = Vec::new();
        for (i, _) in planner.faults(node, outputs) {
            let output = &outputs[i];
            let path = folder.join(&output.path);
            if !self.is_ours(planner, node, output, previous) {
                moved.extend(self.set_aside(planner, node, &path)?);
            }
            self.store.place(&output.artifact, &path)?;
        }
        self.remove_dropped(planner, node, outputs, previous)?;
        Ok(moved)
    }

    /// Removes what the step's last result had and this one has not, unless
    /// somebody changed it.
    fn remove_dropped(
        &self,
        planner: &Planner<'_>,
        node: &Node,
        outputs: &[Output],
        previous: &[Output],
    ) -> Result<(), StoreError> {
        let inside = |old: &Output| {
            let old = Path::new(&old.path);
            let within = |new: &Path| new.starts_with(old) || old.starts_with(new);
            outputs.iter().any(|new| within(Path::new(&new.path)))
        };
        for old in previous.iter().filter(|old| !inside(old)) {
            if self.is_ours(planner, node, old, previous) {
                files::remove(&planner.output_folder(node).join(&old.path))?;
            }
        }
        Ok(())
    }

    /// Whether what is at the output's place is the step's last result.
    fn is_ours(
        &self,
        planner: &Planner<'_>,
        node: &Node,
        output: &Output,
        previous: &[Output],
    ) -> bool {
        let before: Vec<Output> = previous
            .iter()
            .filter(|old| old.path == output.path)
            .cloned()
            .collect();
        !before.is_empty() && planner.faults(node, &before).is_empty()
    }

    fn set_aside(
        &self,
        planner: &Planner<'_>,
        node: &Node,
        path: &Path,
    ) -> Result<Option<SetAside>, StoreError> {
        if fs::symlink_metadata(path).is_err() {
            return Ok(None);
        }
        let name = path.file_name().unwrap_or_default();
        let kept = free_name(&planner.aside_folder(node), name);
        if let Some(parent) = kept.parent() {
            files::create_dir(parent)?;
        }
        let kept = match files::rename(path, &kept) {
            Err(e) if e.kind() == std::io::ErrorKind::CrossesDevices => {
                let mut beside = name.to_owned();
                beside.push(".edited");
                let beside = free_name(path.parent().unwrap_or(Path::new(".")), &beside);
                files::rename(path, &beside)?;
                beside
            }
            moved => moved.map(|()| kept)?,
        };
        let shown = |path: &Path| files::relative(path, self.root).display().to_string();
        Ok(Some(SetAside {
            path: shown(path),
            kept: shown(&kept),
        }))
    }
}

/// `folder/name`, or with the first number behind it that is not taken.
fn free_name(folder: &Path, name: &std::ffi::OsStr) -> PathBuf {
    let first = folder.join(name);
    let numbered = (2..).map(|n| {
        let mut name = name.to_owned();
        name.push(format!(".{n}"));
        folder.join(name)
    });
    std::iter::once(first)
        .chain(numbered)
        .find(|path| fs::symlink_metadata(path).is_err())
        .expect("one of infinitely many names is free")
}

/// Whether two results are the same, output by output.
pub fn same_outputs(a: &[Output], b: &[Output]) -> bool {
    let key = |output: &Output| -> (String, Artifact) { (output.path.clone(), output.artifact) };
    a.len() == b.len() && a.iter().map(key).eq(b.iter().map(key))
}
