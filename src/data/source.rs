//! Files of data as they come: what is in them by their first bytes and their name, unpacked on the way.

use std::fs::File;
use std::io::{BufReader, Chain, Cursor, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::DataError;
use crate::files::{self, PathContext};

/// How a file writes its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    JsonLines,
    /// A list of JSON objects, or an object with such a list in a field.
    Json,
    /// Values between these bytes, names in the first line.
    Separated(u8),
    /// Apache Parquet.
    Parquet,
}

impl Format {
    /// The format that a file name stands for, without the ending of a packer.
    pub fn of_name(name: &str) -> Option<Self> {
        let lower = name.to_ascii_lowercase();
        let stem = [".gz", ".gzip", ".zst", ".zstd"]
            .iter()
            .find_map(|end| lower.strip_suffix(end))
            .unwrap_or(&lower);
        Some(match stem.rsplit_once('.')?.1 {
            "jsonl" | "ndjson" => Format::JsonLines,
            "json" => Format::Json,
            "csv" => Format::Separated(b','),
            "tsv" => Format::Separated(b'\t'),
            "parquet" => Format::Parquet,
            _ => return None,
        })
    }
}

/// One file of records, perhaps a member of an archive, perhaps packed.
pub struct Source {
    /// What it is called in errors and origins.
    pub label: String,
    /// How its records are written.
    pub format: Format,
    /// Its bytes, unpacked.
    pub bytes: Bytes,
}

/// The bytes of a source.
pub enum Bytes {
    /// A file as it is.
    File(File),
    /// What comes out of an unpacker.
    Stream(Box<dyn Read + Send>),
}

impl Bytes {
    /// To be read from the front.
    pub fn stream(self) -> Box<dyn Read + Send> {
        match self {
            Bytes::File(file) => Box::new(file),
            Bytes::Stream(stream) => stream,
        }
    }

    /// A file that can be read at any place; what is unpacked goes to a
    /// temporary file first.
    pub fn file(self, label: &str) -> Result<File, DataError> {
        match self {
            Bytes::File(file) => Ok(file),
            Bytes::Stream(mut stream) => {
                let label = Path::new(label);
                let mut file = tempfile::tempfile().on("unpack", label)?;
                std::io::copy(&mut stream, &mut file).on("unpack", label)?;
                file.rewind().on("unpack", label)?;
                Ok(file)
            }
        }
    }
}

/// What a name stands for that is in no known format.
fn unknown(label: &str) -> DataError {
    DataError::Invalid(format!(
        "{label} has no ending of a known format (.jsonl, .ndjson, .json, .csv, .tsv, .parquet, \
         each also .gz or .zst; .tar, .tar.gz, .tar.zst and .zip with such files); say what it is by `format`"
    ))
}

/// Hands every file of records in `path` to `each`, in a fixed order: the file
/// itself, the members of an archive in its order, or the files of a folder
/// sorted by path. `format` is what the pipeline file says it is. Returns what
/// was left out: files of folders and archives that have another ending.
pub fn each_source(
    label: &str,
    path: &Path,
    format: Option<Format>,
    each: &mut dyn FnMut(Source) -> Result<(), DataError>,
) -> Result<Vec<String>, DataError> {
    let mut left_out = Vec::new();
    if !path.is_dir() {
        one_file(label, path, format, true, each, &mut left_out)?;
        return Ok(left_out);
    }
    for file in files_below(path)? {
        let name = file
            .strip_prefix(path)
            .unwrap_or(&file)
            .display()
            .to_string();
        one_file(
            &format!("{label}/{name}"),
            &file,
            format,
            false,
            each,
            &mut left_out,
        )?;
    }
    Ok(left_out)
}

/// The files in a folder and below, sorted, but for hidden ones.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).on("read", &folder)? {
            let path = entry.on("read", &folder)?.path();
            let hidden = path
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            match (hidden, path.is_dir()) {
                (true, _) => {}
                (_, true) => folders.push(path),
                _ => found.push(path),
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What a file is packed as.
#[derive(Clone, Copy, PartialEq)]
enum Packing {
    None,
    Gzip,
    Zstd,
    Zip,
    Tar,
}

fn packing(head: &[u8]) -> Packing {
    match head {
        [0x1f, 0x8b, ..] => Packing::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Packing::Zstd,
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Packing::Zip,
        _ if head.get(257..262) == Some(b"ustar") => Packing::Tar,
        _ => Packing::None,
    }
}

/// A stream whose first bytes were read already.
type Whole<R> = Chain<Cursor<Vec<u8>>, R>;

/// Reads the first bytes; they come again with the rest.
fn head<R: Read>(mut from: R, label: &str) -> Result<(Vec<u8>, Whole<R>), DataError> {
    let mut head = Vec::new();
    (&mut from)
        .take(262)
        .read_to_end(&mut head)
        .on("read", Path::new(label))?;
    Ok((head.clone(), Cursor::new(head).chain(from)))
}

/// The format by what a file is called; an output of a step is called by its step.
fn named(label: &str, path: &Path) -> Option<Format> {
    Format::of_name(label).or_else(|| Format::of_name(path.file_name()?.to_str()?))
}

/// `asked` files are an error when their format is not known, others are left out.
fn one_file(
    label: &str,
    path: &Path,
    format: Option<Format>,
    asked: bool,
    each: &mut dyn FnMut(Source) -> Result<(), DataError>,
    left_out: &mut Vec<String>,
) -> Result<(), DataError> {
    let mut file = files::open(path)?;
    let (first, _) = head(&file, label)?;
    file.seek(SeekFrom::Start(0)).on("read", path)?;
    let stream: Box<dyn Read + Send> = match packing(&first) {
        Packing::Zip => return zip(label, file, format, each, left_out),
        Packing::Tar => return tar(label, Box::new(file), format, each, left_out),
        Packing::None => {
            let Some(format) = format.or_else(|| named(label, path)) else {
                return pass_over(label, asked, left_out);
            };
            return each(Source {
                label: label.to_owned(),
                format,
                bytes: Bytes::File(file),
            });
        }
        Packing::Gzip => Box::new(MultiGzDecoder::new(BufReader::new(file))),
        Packing::Zstd => Box::new(zstd::Decoder::new(file).on("unpack", path)?),
    };
    let (first, stream) = head(stream, label)?;
    if packing(&first) == Packing::Tar {
        return tar(label, Box::new(stream), format, each, left_out);
    }
    match format.or_else(|| named(label, path)) {
        None => pass_over(label, asked, left_out),
        Some(format) => each(Source {
            label: label.to_owned(),
            format,
            bytes: Bytes::Stream(Box::new(stream)),
        }),
    }
}

fn pass_over(label: &str, asked: bool, left_out: &mut Vec<String>) -> Result<(), DataError> {
    if asked {
        return Err(unknown(label));
    }
    left_out.push(label.to_owned());
    Ok(())
}

/// A member's name, if it names a place inside the archive.
fn inside(archive: &str, name: &str) -> Result<(), DataError> {
    let path = Path::new(name);
    let within = path
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if within && !name.contains('\\') && !name.is_empty() {
        return Ok(());
    }
    Err(DataError::Invalid(format!(
        "the archive {archive} has a member '{}' that names a place outside of it; \
         such an archive is broken or meant to do harm, and nothing of it was read further",
        name.escape_debug()
    )))
}

fn tar(
    label: &str,
    stream: Box<dyn Read + Send>,
    format: Option<Format>,
    each: &mut dyn FnMut(Source) -> Result<(), DataError>,
    left_out: &mut Vec<String>,
) -> Result<(), DataError> {
    let path = Path::new(label);
    let mut archive = tar::Archive::new(stream);
    for member in archive.entries().on("read the archive", path)? {
        let mut member = member.on("read the archive", path)?;
        if !member.header().entry_type().is_file() {
            continue;
        }
        let name = member
            .path()
            .on("read the archive", path)?
            .display()
            .to_string();
        inside(label, &name)?;
        // The archive's reader lives no longer than this turn; a member is
        // held on disk until it is read.
        let mut held = tempfile::tempfile().on("unpack", path)?;
        std::io::copy(&mut member, &mut held).on("unpack", path)?;
        held.rewind().on("unpack", path)?;
        member_of(label, &name, held, format, each, left_out)?;
    }
    Ok(())
}

fn zip(
    label: &str,
    file: File,
    format: Option<Format>,
    each: &mut dyn FnMut(Source) -> Result<(), DataError>,
    left_out: &mut Vec<String>,
) -> Result<(), DataError> {
    let path = Path::new(label);
    let broken = |e: zip::result::ZipError| {
        DataError::Invalid(format!("failed to read the archive {label}: {e}"))
    };
    let mut archive = zip::ZipArchive::new(BufReader::new(file)).map_err(broken)?;
    for at in 0..archive.len() {
        let mut member = archive.by_index(at).map_err(broken)?;
        let name = member.name().map_err(broken)?.into_owned();
        inside(label, &name)?;
        if member.is_dir() {
            continue;
        }
        let mut held = tempfile::tempfile().on("unpack", path)?;
        std::io::copy(&mut member, &mut held).on("unpack", path)?;
        held.rewind().on("unpack", path)?;
        member_of(label, &name, held, format, each, left_out)?;
    }
    Ok(())
}

/// A member of an archive, which may be packed itself.
fn member_of(
    archive: &str,
    name: &str,
    mut held: File,
    format: Option<Format>,
    each: &mut dyn FnMut(Source) -> Result<(), DataError>,
    left_out: &mut Vec<String>,
) -> Result<(), DataError> {
    let label = format!("{archive}!{name}");
    let Some(format) = Format::of_name(name).or(format) else {
        left_out.push(label);
        return Ok(());
    };
    let (first, _) = head(&held, &label)?;
    held.rewind().on("read", Path::new(&label))?;
    let bytes = match packing(&first) {
        Packing::Gzip => Bytes::Stream(Box::new(MultiGzDecoder::new(BufReader::new(held)))),
        Packing::Zstd => Bytes::Stream(Box::new(
            zstd::Decoder::new(held).on("unpack", Path::new(&label))?,
        )),
        _ => Bytes::File(held),
    };
    each(Source {
        label,
        format,
        bytes,
    })
}
