//! Tells the program which compiler and which commit it was built from, for the records.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-changed=Cargo.lock");
    // A path that does not exist would have cargo rebuild every time.
    for path in [".git/HEAD", ".git/logs/HEAD"] {
        if std::path::Path::new(path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    tell("RETUNE_RUSTC", output(&rustc, &["--version"]));
    tell("RETUNE_COMMIT", output("git", &["rev-parse", "HEAD"]));
    let changes = output(
        "git",
        &[
            "status",
            "--porcelain",
            "--",
            "src",
            "build.rs",
            "Cargo.toml",
            "Cargo.lock",
        ],
    );
    tell(
        "RETUNE_DIRTY",
        changes.map(|text| (!text.is_empty()).to_string()),
    );
    tell("RETUNE_TARGET", std::env::var("TARGET").ok());
    tell("RETUNE_PROFILE", std::env::var("PROFILE").ok());
    fixed_address();
}

/// Links the program at a fixed address: 50,000 relocations less at every start, which were
/// a third of the time of `retune --version` and of a build that has nothing to do. Given up
/// is the random address of the program's own code; those of libraries, heap and stack stay.
fn fixed_address() {
    let target = |part: &str| std::env::var(format!("CARGO_CFG_TARGET_{part}")).ok();
    if target("OS").as_deref() == Some("linux") && target("ENV").as_deref() == Some("gnu") {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}

/// What cannot be told (no git, no repository) is left out, not made up.
fn tell(name: &str, value: Option<String>) {
    if let Some(value) = value {
        println!("cargo::rustc-env={name}={value}");
    }
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
