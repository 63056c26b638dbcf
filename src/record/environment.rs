//! The environment of a run: machine, program and project, for the record; nothing of it enters a key.

use std::path::Path;
use std::process::Command;

use serde::Serialize;

use crate::hash::Digest;

/// Where and with what steps ran. What could not be found out is absent.
#[derive(Debug, Clone, Serialize)]
pub struct Environment {
    /// The machine.
    pub machine: Machine,
    /// This program.
    pub retune: Program,
    /// The project's repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<Project>,
}

/// The machine.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Operating system and release.
    pub os: String,
    /// Instruction set.
    pub architecture: &'static str,
    /// The processor's own name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// The processor's extensions that matter to numeric kernels.
    pub cpu_features: Vec<&'static str>,
    /// Processors that this process may use.
    pub cores: usize,
    /// Bytes of main memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Graphics processors, as their driver names them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<String>,
}

/// This program.
#[derive(Debug, Clone, Serialize)]
pub struct Program {
    /// Its version.
    pub version: &'static str,
    /// The commit it was built from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<&'static str>,
    /// Whether its sources differed from that commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dirty: Option<bool>,
    /// The compiler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compiler: Option<&'static str>,
    /// The target it was built for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<&'static str>,
    /// `debug` or `release`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<&'static str>,
    /// blake3 of the `Cargo.lock` that fixed its dependencies.
    pub dependencies: Digest,
}

/// The project's repository.
#[derive(Debug, Clone, Serialize)]
pub struct Project {
    /// The commit that is checked out.
    pub commit: String,
    /// Whether tracked files differ from it.
    pub dirty: bool,
}

const CARGO_LOCK: &[u8] = include_bytes!("../../Cargo.lock");

impl Environment {
    /// Looks around from the project root.
    pub fn capture(root: &Path) -> Self {
        Environment {
            machine: Machine::capture(),
            retune: Program::capture(),
            project: Project::capture(root),
        }
    }
}

impl Program {
    /// This program.
    pub fn capture() -> Self {
        Program {
            version: env!("CARGO_PKG_VERSION"),
            commit: option_env!("RETUNE_COMMIT"),
            dirty: option_env!("RETUNE_DIRTY").map(|dirty| dirty == "true"),
            compiler: option_env!("RETUNE_RUSTC"),
            target: option_env!("RETUNE_TARGET"),
            profile: option_env!("RETUNE_PROFILE"),
            dependencies: Digest::of(CARGO_LOCK),
        }
    }
}

impl Machine {
    fn capture() -> Self {
        let uname = rustix::system::uname();
        let part = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        Machine {
            os: format!("{} {}", part(uname.sysname()), part(uname.release())),
            architecture: std::env::consts::ARCH,
            cpu: field("/proc/cpuinfo", "model name"),
            cpu_features: cpu_features(),
            cores: crate::step::processors(),
            memory: memory(),
            gpus: gpus(),
        }
    }
}

/// The value behind the first `name : value` line of a file of the kernel's.
fn field(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory() -> Option<u64> {
    let text = field("/proc/meminfo", "MemTotal")?;
    let kib: u64 = text.strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

fn gpus() -> Vec<String> {
    let Ok(folders) = std::fs::read_dir("/proc/driver/nvidia/gpus") else {
        return Vec::new();
    };
    let mut models: Vec<String> = folders
        .flatten()
        .filter_map(|folder| field(folder.path().join("information").to_str()?, "Model"))
        .collect();
    models.sort();
    models
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<&'static str> {
    let mut found = Vec::new();
    macro_rules! detect {
        ($($name:tt),*) => { $(if is_x86_feature_detected!($name) { found.push($name); })* };
    }
    detect!(
        "sse4.2",
        "avx",
        "avx2",
        "fma",
        "f16c",
        "avx512f",
        "avx512vl",
        "avx512bf16",
        "avx512vnni"
    );
    found
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> Vec<&'static str> {
    if cfg!(target_feature = "neon") {
        vec!["neon"]
    } else {
        Vec::new()
    }
}

impl Project {
    fn capture(root: &Path) -> Option<Self> {
        // Most of what it takes to learn that there is none is starting git.
        let in_repository = root.ancestors().any(|folder| folder.join(".git").exists());
        if !in_repository && std::env::var_os("GIT_DIR").is_none() {
            return None;
        }
        let commit = git(root, &["rev-parse", "HEAD"])?;
        let changes = git(root, &["status", "--porcelain", "--untracked-files=no"])?;
        Some(Project {
            commit,
            dirty: !changes.is_empty(),
        })
    }
}

fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(root)
        .args(arguments)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
