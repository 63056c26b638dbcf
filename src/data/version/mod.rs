//! Versions as their ecosystems order them, and which fixed version to go to.

mod maven;
mod other;

use std::cmp::Ordering;
use std::str::FromStr;

/// Whose versions they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ecosystem {
    /// Maven's own order.
    Maven,
    /// Semantic Versioning 2.0: npm, crates.io and, with a `v` in front, Go.
    Semver,
    /// PEP 440.
    Python,
    /// Numbers as numbers, the usual pre-releases before the release.
    Other,
}

impl Ecosystem {
    /// By the names that OSV and Trivy give them.
    pub fn of(name: Option<&str>) -> Self {
        let name = name.unwrap_or("").to_ascii_lowercase();
        match name.split(':').next().unwrap_or("") {
            "maven" | "jar" | "pom" | "gradle" | "gradle-lockfile" | "sbt-lockfile" => {
                Ecosystem::Maven
            }
            "npm" | "yarn" | "pnpm" | "node-pkg" | "crates.io" | "cargo" | "rustbinary" | "go"
            | "gomod" | "gobinary" => Ecosystem::Semver,
            "pypi" | "pip" | "pipenv" | "poetry" | "uv" | "python-pkg" => Ecosystem::Python,
            _ => Ecosystem::Other,
        }
    }

    /// The order of two versions; where one is not what the ecosystem has, that
    /// of numbers and usual words.
    pub fn compare(self, a: &str, b: &str) -> Ordering {
        self.fitting(&[a, b]).order(a, b)
    }

    /// Whether a version comes before its release.
    pub fn is_prerelease(self, version: &str) -> bool {
        match self.fitting(&[version]) {
            Ecosystem::Maven => maven::is_prerelease(version),
            // A pseudo-version of Go is a commit, not a preview.
            Ecosystem::Semver => semantic(version)
                .is_some_and(|version| !version.pre.is_empty() && !is_pseudo(&version)),
            Ecosystem::Python => python(version).is_some_and(|version| version.any_prerelease()),
            Ecosystem::Other => other::is_prerelease(version),
        }
    }

    /// The rules that all of some versions keep to: one that does not would
    /// have another order beside each of its neighbours.
    fn fitting(self, versions: &[&str]) -> Self {
        let all = match self {
            Ecosystem::Maven | Ecosystem::Other => true,
            Ecosystem::Semver => versions.iter().all(|version| semantic(version).is_some()),
            Ecosystem::Python => versions.iter().all(|version| python(version).is_some()),
        };
        if all { self } else { Ecosystem::Other }
    }

    /// The order of versions that fit.
    fn order(self, a: &str, b: &str) -> Ordering {
        match self {
            Ecosystem::Maven => maven::compare(a, b),
            Ecosystem::Semver => semantic(a).cmp(&semantic(b)),
            Ecosystem::Python => python(a).cmp(&python(b)),
            Ecosystem::Other => other::compare(a, b),
        }
    }

    /// The fixed version to go to from `installed`: above it, on its
    /// `major.minor` branch where there is one, else on its `major`, else the
    /// lowest above; releases before pre-releases. None when all are below.
    pub fn upgrade(self, installed: &str, fixed: &[String]) -> Option<String> {
        let all: Vec<&str> = fixed
            .iter()
            .map(String::as_str)
            .chain([installed])
            .collect();
        let rules = self.fitting(&all);
        fixed
            .iter()
            .filter(|version| rules.order(version, installed) == Ordering::Greater)
            .min_by(|a, b| {
                rules
                    .is_prerelease(a)
                    .cmp(&rules.is_prerelease(b))
                    .then(shared_branch(installed, b).cmp(&shared_branch(installed, a)))
                    .then_with(|| rules.order(a, b))
            })
            .cloned()
    }
}

/// A semantic version, missing numbers as 0; what is built does not count.
fn semantic(text: &str) -> Option<semver::Version> {
    let text = text.trim().trim_start_matches(['v', 'V', '=']);
    let text = text.split('+').next()?;
    let (numbers, rest) = match text.split_once('-') {
        Some((numbers, rest)) => (numbers, format!("-{rest}")),
        None => (text, String::new()),
    };
    let missing = 3usize.checked_sub(numbers.split('.').count())?;
    semver::Version::parse(&format!("{numbers}{}{rest}", ".0".repeat(missing))).ok()
}

/// Go's name for a commit: `v0.0.0-20240102030405-abcdef123456`.
fn is_pseudo(version: &semver::Version) -> bool {
    let pre = version.pre.as_str();
    let mut parts = pre.rsplit('-');
    let hash = parts
        .next()
        .is_some_and(|part| part.len() == 12 && part.bytes().all(|b| b.is_ascii_hexdigit()));
    let time = parts.next().and_then(|part| part.rsplit('.').next());
    hash && time.is_some_and(|part| part.len() == 14 && part.bytes().all(|b| b.is_ascii_digit()))
}

fn python(text: &str) -> Option<pep440_rs::Version> {
    pep440_rs::Version::from_str(text.trim()).ok()
}

/// Leading numbers that two versions share, at most two: 2 for 4.1.106 and
/// 4.1.124; none across epochs (`1!2.0` of Python, `1:2.0` of Debian).
fn shared_branch(a: &str, b: &str) -> usize {
    let numbers = |text: &str| -> (String, [u64; 2]) {
        let text = text.trim().trim_start_matches(['v', 'V', '=']);
        let (epoch, rest) = text.split_once(['!', ':']).unwrap_or(("0", text));
        let mut parts = rest
            .split(['.', '-', '+'])
            .map_while(|part| part.parse().ok());
        (
            epoch.to_owned(),
            [parts.next().unwrap_or(0), parts.next().unwrap_or(0)],
        )
    };
    let ((epoch, a), (other, b)) = (numbers(a), numbers(b));
    match epoch == other {
        true => a.iter().zip(&b).take_while(|(x, y)| x == y).count(),
        false => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn choose(ecosystem: Ecosystem, installed: &str, fixed: &[&str]) -> Option<String> {
        let fixed: Vec<String> = fixed.iter().map(|v| (*v).to_owned()).collect();
        ecosystem.upgrade(installed, &fixed)
    }

    #[test]
    fn each_ecosystem_has_its_order() {
        for (name, low, high) in [
            ("Maven", "4.1.106.Final", "4.1.124.Final"),
            ("Maven", "1.0-RC1", "1.0"),
            ("npm", "1.0.0-beta.11", "1.0.0-rc.1"),
            ("npm", "1.0.0-alpha.9", "1.0.0-alpha.10"),
            ("npm", "1.0.0-rc.1", "1.0.0"),
            ("crates.io", "0.9.99", "0.10.0"),
            ("Go", "v1.9.0", "v1.10.0"),
            ("gomod", "v0.0.0-20230101000000-abcdefabcdef", "v0.0.1"),
            ("Go", "1.2.3", "2.0.0+incompatible"),
            ("PyPI", "1.0.dev1", "1.0a1"),
            ("PyPI", "1.0rc1", "1.0"),
            ("PyPI", "1.0", "1.0.post1"),
            ("PyPI", "2024.1", "1!1.0"),
            ("PyPI", "1.0", "1.0+local"),
            ("Ubuntu:22.04", "3.0.13-0ubuntu3.4", "3.0.13-0ubuntu3.5"),
        ] {
            let ecosystem = Ecosystem::of(Some(name));
            assert_eq!(
                ecosystem.compare(low, high),
                Ordering::Less,
                "{name} {low} {high}"
            );
            assert_eq!(
                ecosystem.compare(high, low),
                Ordering::Greater,
                "{name} {high} {low}"
            );
        }
        assert_eq!(
            Ecosystem::Semver.compare("1.0.0+a", "v1.0"),
            Ordering::Equal
        );
        assert!(!Ecosystem::Semver.is_prerelease("v0.0.0-20230101000000-abcdefabcdef"));
        assert!(
            Ecosystem::Python.is_prerelease("1.0rc1")
                && !Ecosystem::Python.is_prerelease("1.0.post1")
        );
    }

    #[test]
    fn the_same_branch_comes_first_and_nothing_goes_down() {
        let maven = Ecosystem::Maven;
        let netty = ["4.2.4.Final", "4.1.124.Final"];
        assert_eq!(
            choose(maven, "4.1.106.Final", &netty).as_deref(),
            Some("4.1.124.Final")
        );
        assert_eq!(
            choose(maven, "1.4.14", &["1.5.13", "1.3.15"]).as_deref(),
            Some("1.5.13")
        );
        assert_eq!(choose(maven, "2.0", &["1.9", "2.0"]), None);
        assert_eq!(
            choose(maven, "1.2.0", &["1.2.1-rc1", "1.3.0"]).as_deref(),
            Some("1.3.0")
        );
        assert_eq!(
            choose(maven, "1.2.0", &["3.0.0", "2.5.1"]).as_deref(),
            Some("2.5.1")
        );
        assert_eq!(
            choose(Ecosystem::Python, "2.31", &["3.0", "2.31.post1", "2.32rc1"]).as_deref(),
            Some("2.31.post1")
        );
    }

    proptest! {
        #[test]
        fn an_upgrade_is_never_below_and_stays_on_the_branch_if_it_can(
            installed in (0u8..4, 0u8..4, 0u8..4), fixed in prop::collection::vec((0u8..4, 0u8..4, 0u8..4), 0..6),
            which in 0usize..4,
        ) {
            let ecosystem = [Ecosystem::Maven, Ecosystem::Semver, Ecosystem::Python, Ecosystem::Other][which];
            let say = |(a, b, c): (u8, u8, u8)| format!("{a}.{b}.{c}");
            let versions: Vec<String> = fixed.iter().copied().map(say).collect();
            let chosen = ecosystem.upgrade(&say(installed), &versions);
            let above: Vec<_> = fixed.iter().copied().filter(|v| *v > installed).collect();
            let branch = |v: &(u8, u8, u8)| (v.0, v.1) == (installed.0, installed.1);
            let wanted = above.iter().copied().filter(branch).min()
                .or_else(|| above.iter().copied().filter(|v| v.0 == installed.0).min())
                .or_else(|| above.iter().copied().min());
            prop_assert_eq!(chosen, wanted.map(say));
        }
    }
}
