//! The kernel's hold: the rules as a Landlock domain that this thread and all it starts are in for good.

use std::path::Path;

use ::landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus,
    PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope,
};

use super::rules::Rules;

/// The oldest interface that refuses every undeclared read and write
/// (Linux 6.2: with it truncating a file, too).
const LEAST: ABI = ABI::V3;

/// The newest one that the tests have run on; what it has beyond [`LEAST`] is
/// taken where the kernel has it.
const NEWEST: ABI = ABI::V7;

/// Puts this thread under the rules. Says which interface the kernel has, or
/// why it cannot be done.
pub fn restrict(rules: &Rules) -> Result<u32, String> {
    let domain = ruleset(rules).map_err(|error| match kernel_abi() {
        0 => "this kernel has no Landlock".to_owned(),
        abi if abi < LEAST as u32 => format!(
            "this kernel's Landlock has interface {abi}, and {} is needed (Linux 6.2)",
            LEAST as u32
        ),
        _ => format!("Landlock refused the rules: {error}"),
    })?;
    let status = domain.restrict_self().map_err(|e| e.to_string())?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => Err("this kernel has no Landlock".to_owned()),
        (
            _,
            LandlockStatus::Available {
                effective_abi,
                kernel_abi,
            },
        ) => Ok(kernel_abi.map_or(effective_abi as u32, |abi| abi as u32)),
        _ => Err("this kernel has no Landlock".to_owned()),
    }
}

/// The interface that the kernel has; 0 for none.
pub fn kernel_abi() -> u32 {
    const VERSION: u32 = 1;
    // SAFETY: with this flag the call only answers; it takes no memory.
    #[expect(unsafe_code, reason = "no crate offers the question alone")]
    let abi = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0usize,
            VERSION,
        )
    };
    u32::try_from(abi).unwrap_or(0)
}

fn ruleset(rules: &Rules) -> Result<RulesetCreated, RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(LEAST))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::Signal)?;
    if !rules.network {
        ruleset = ruleset
            .handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp)?
            .scope(Scope::AbstractUnixSocket)?;
    }
    let mut domain = ruleset.create()?;
    let read = AccessFs::from_read(NEWEST);
    for path in rules.system.iter().chain(rules.read.iter()) {
        domain = allow(domain, path, read)?;
    }
    for path in rules.write.iter() {
        domain = allow(domain, path, AccessFs::from_all(NEWEST))?;
    }
    // Listing devices gives nothing away.
    allow(domain, Path::new("/dev"), AccessFs::ReadDir.into())
}

fn allow(
    domain: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    // What has gone meanwhile need not be allowed.
    let Ok(fd) = PathFd::new(path) else {
        return Ok(domain);
    };
    let access = match path.is_dir() {
        true => access,
        false => access & AccessFs::from_file(NEWEST),
    };
    domain.add_rule(PathBeneath::new(fd, access))
}
