//! What differs between a stored output and another attempt at it, in words.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::store::{Artifact, Listing, Shape, StatCache, Store};

/// How many differing files of a folder are named.
const NAMED: usize = 5;

/// Describes how what is at `path` differs from `expected`, one line each;
/// empty when it does not.
pub fn differences(
    store: &dyn Store,
    stats: &StatCache,
    expected: &Artifact,
    name: &str,
    path: &Path,
) -> Vec<String> {
    let found = match stats.content(path) {
        Ok(found) => found,
        Err(error) if error.is_missing() => return vec![format!("{name}: not written")],
        Err(error) => return vec![format!("{name}: {error}")],
    };
    if found.digest == expected.digest && found.shape == expected.shape {
        return Vec::new();
    }
    if found.shape != expected.shape {
        return vec![format!(
            "{name}: was a {:?}, is a {:?}",
            expected.shape, found.shape
        )];
    }
    match expected.shape {
        Shape::Folder => folder(store, stats, expected, name, path),
        Shape::File | Shape::Executable => vec![file(store, expected, &found, name, path)],
    }
}

fn folder(
    store: &dyn Store,
    stats: &StatCache,
    expected: &Artifact,
    name: &str,
    path: &Path,
) -> Vec<String> {
    let stored = store.get(&expected.digest).ok();
    let listing = stored.and_then(|bytes| Listing::from_bytes(&bytes, expected.digest).ok());
    let (Some(listing), Ok(now)) = (listing, stats.listing(path)) else {
        return vec![format!("{name}: differs, and its listing cannot be read")];
    };
    let mut lines = Vec::new();
    for entry in &listing.entries {
        let file = std::ffi::OsStr::from_bytes(&entry.name);
        let name = format!("{name}/{}", file.to_string_lossy());
        lines.extend(differences(
            store,
            stats,
            &entry.artifact,
            &name,
            &path.join(file),
        ));
    }
    for entry in &now.entries {
        if !listing.entries.iter().any(|old| old.name == entry.name) {
            let file = String::from_utf8_lossy(&entry.name);
            lines.push(format!("{name}/{file}: new"));
        }
    }
    let more = lines.len().saturating_sub(NAMED);
    if more > 0 {
        lines.truncate(NAMED);
        lines.push(format!("{name}: {more} more differ"));
    }
    lines
}

fn file(
    store: &dyn Store,
    expected: &Artifact,
    found: &Artifact,
    name: &str,
    path: &Path,
) -> String {
    let digests = format!("{} → {}", expected.digest.short(), found.digest.short());
    let (Ok(old), Ok(new)) = (store.get(&expected.digest), fs::read(path)) else {
        return format!("{name}: {digests}");
    };
    format!("{name}: {digests}, {}", first_difference(&old, &new))
}

/// Where two texts or byte strings begin to differ.
fn first_difference(old: &[u8], new: &[u8]) -> String {
    let at = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    match (std::str::from_utf8(old), std::str::from_utf8(new)) {
        (Ok(old_text), Ok(new_text)) => {
            let line = old[..at].iter().filter(|b| **b == b'\n').count();
            let show = |text: &str| match text.lines().nth(line) {
                Some(text) => format!("'{}'", shorten(text)),
                None => "nothing".to_owned(),
            };
            format!(
                "first at line {}: {} → {}",
                line + 1,
                show(old_text),
                show(new_text)
            )
        }
        _ => format!("first at byte {at} of {} and {}", old.len(), new.len()),
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LocalStore;

    #[test]
    fn differences_are_named_down_to_the_line() {
        let space = tempfile::tempdir().unwrap();
        let (store, _) = LocalStore::open(&space.path().join("cache")).unwrap();
        let make = |name: &str, loss: &str, extra: bool| {
            let folder = space.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("log"), format!("step 1\nloss {loss}\n")).unwrap();
            fs::write(folder.join("same"), "same").unwrap();
            if extra {
                fs::write(folder.join("extra"), "x").unwrap();
            }
            folder
        };
        let artifact = store.take(&make("a", "0.5", false)).unwrap();
        let again = make("b", "0.6", true);
        let stats = StatCache::empty();
        let lines = differences(&store, &stats, &artifact, "model", &again);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[0].ends_with("first at line 2: 'loss 0.5' → 'loss 0.6'"),
            "{lines:?}"
        );
        assert_eq!(lines[1], "model/extra: new");
        fs::remove_file(again.join("extra")).unwrap();
        fs::write(again.join("log"), "step 1\nloss 0.5\n").unwrap();
        assert!(differences(&store, &stats, &artifact, "model", &again).is_empty());
    }
}
