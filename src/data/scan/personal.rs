//! Personal data: addresses, numbers and names of people's folders, each held to what makes it one.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

/// A kind of personal data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Personal {
    /// An e-mail address, but for those of documentation.
    Email,
    /// A telephone number, in E.164 or as people write it.
    Phone,
    /// An IPv4 or IPv6 address that is routed in public.
    Ip,
    /// The number of a payment card whose check digit is right (Luhn, ISO/IEC 7812).
    Card,
    /// An account number whose check digits are right (ISO 13616).
    Iban,
    /// The path of a person's home directory.
    Home,
}

impl Personal {
    /// All kinds, in the order in which one that overlaps another wins.
    pub const ALL: [Personal; 6] = [
        Personal::Email,
        Personal::Iban,
        Personal::Card,
        Personal::Home,
        Personal::Ip,
        Personal::Phone,
    ];

    /// The name in pipeline files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Personal::Email => "email",
            Personal::Phone => "phone",
            Personal::Ip => "ip",
            Personal::Card => "card",
            Personal::Iban => "iban",
            Personal::Home => "home",
        }
    }

    /// The bytes of `text` that are personal data of this kind.
    pub fn find(self, text: &str) -> Vec<Range<usize>> {
        let pattern = match self {
            Personal::Email => &EMAIL,
            Personal::Phone => &PHONE,
            Personal::Ip => &IP,
            Personal::Card => &CARD,
            Personal::Iban => &IBAN,
            Personal::Home => &HOME,
        };
        let mut found = Vec::new();
        for captures in pattern
            .iter()
            .flat_map(|pattern| pattern.captures_iter(text))
        {
            let Some(held) = captures.get(1).or_else(|| captures.get(0)) else {
                continue;
            };
            let mut range = held.range();
            if self == Personal::Iban {
                range.end = range.start + iban_end(held.as_str());
            }
            let before = text[..range.start].chars().next_back();
            let after = text[range.end..].chars().next();
            if self.is_one(&text[range.clone()], before, after) {
                found.push(range);
            }
        }
        found
    }

    fn is_one(self, held: &str, before: Option<char>, after: Option<char>) -> bool {
        let apart = |c: Option<char>, also: &str| {
            c.is_none_or(|c| !c.is_alphanumeric() && !also.contains(c))
        };
        match self {
            Personal::Email => is_email(held),
            Personal::Phone => apart(before, "+-./_=") && apart(after, "-_/=") && is_phone(held),
            Personal::Ip => apart(before, ".:-_/") && apart(after, "-_") && is_public(held),
            Personal::Card => apart(before, "-.+_/") && apart(after, "-_/") && is_card(held),
            Personal::Iban => apart(before, "_-") && apart(after, "_-") && is_iban(held),
            Personal::Home => is_name(held),
        }
    }
}

macro_rules! pattern {
    ($name:ident, $regex:expr) => {
        static $name: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new($regex).ok());
    };
}

pattern!(
    EMAIL,
    r"(?i)\b([a-z0-9][a-z0-9._%+-]{0,63}@(?:[a-z0-9-]{1,63}\.){1,8}[a-z]{2,24})\b"
);
pattern!(
    PHONE,
    r"(\+[1-9][0-9](?:[ ().-]{0,2}[0-9]){6,13}|(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[-.])[2-9][0-9]{2}[-.][0-9]{4}|0[1-9][0-9]{1,4}[ /-][0-9]{3,4}[ -]?[0-9]{2,5})"
);
pattern!(
    IP,
    r"((?:[0-9]{1,3}\.){3}[0-9]{1,3}(?:\.[0-9]+)*|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7})"
);
pattern!(CARD, r"([0-9](?:[ -]?[0-9]){12,18})");
pattern!(
    IBAN,
    r"([A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?)"
);
pattern!(
    HOME,
    r"(?:/home/|/Users/|[A-Za-z]:\\+Users\\+)([A-Za-z0-9][A-Za-z0-9._-]{0,31})"
);

/// Not one of the names that are kept for documentation (RFC 2606, RFC 6761),
/// of machines, or of a file.
fn is_email(held: &str) -> bool {
    let lower = held.to_ascii_lowercase();
    let Some((name, domain)) = lower.split_once('@') else {
        return false;
    };
    let top = domain.rsplit('.').next().unwrap_or("");
    let kept = ["example.com", "example.org", "example.net"];
    let documented = kept
        .iter()
        .any(|kept| domain == *kept || domain.ends_with(&format!(".{kept}")))
        || ["example", "test", "invalid", "localhost", "local"].contains(&top);
    let file = [
        "png", "jpg", "jpeg", "gif", "svg", "js", "ts", "css", "py", "md", "json",
    ]
    .contains(&top);
    let machine = ["noreply", "no-reply", "donotreply", "git"].contains(&name);
    !(documented || file || machine || name.contains(".."))
}

fn digits(held: &str) -> Vec<u32> {
    held.chars().filter_map(|c| c.to_digit(10)).collect()
}

/// Between 7 and 15 digits (E.164), not one that films use (555-0100 to 555-0199).
fn is_phone(held: &str) -> bool {
    let all = digits(held);
    let film = all.windows(5).any(|run| run == [5, 5, 5, 0, 1]);
    let same = all.iter().skip(1).all(|digit| *digit == all[1]);
    (7..=15).contains(&all.len()) && !film && !same
}

/// Routed in public: not of a private network, a host itself or documentation.
fn is_public(held: &str) -> bool {
    if let Ok(four) = held.parse::<Ipv4Addr>() {
        let [a, b, ..] = four.octets();
        let shared = a == 100 && (64..128).contains(&b);
        let kept = four.is_private()
            || four.is_loopback()
            || four.is_link_local()
            || four.is_documentation()
            || four.is_multicast()
            || four.is_unspecified()
            || four.is_broadcast();
        return !(kept || shared || a == 0 || a >= 240);
    }
    match held.parse::<Ipv6Addr>() {
        Ok(six) => {
            let [first, second, ..] = six.segments();
            // 2000::/3 is what is given out; 2001:db8::/32 is for documentation.
            (0x2000..0x4000).contains(&first) && !(first == 0x2001 && second == 0xdb8)
        }
        Err(_) => false,
    }
}

fn is_card(held: &str) -> bool {
    let all = digits(held);
    let head = |n: usize| all[..n].iter().fold(0, |sum, digit| sum * 10 + digit);
    let fits = matches!(
        (all.len(), head(1), head(2), head(4)),
        (13 | 16 | 19, 4, ..)
            | (16, _, 51..=55 | 35, _)
            | (16, _, _, 2221..=2720)
            | (15, _, 34 | 37, _)
            | (16..=19, _, 62 | 65, _)
            | (16..=19, _, _, 6011)
            | (14, _, 30 | 36 | 38 | 39, _)
    );
    let same = all.iter().all(|digit| *digit == all[0]);
    fits && !same && luhn(&all)
}

/// ISO/IEC 7812-1, annex B.
fn luhn(all: &[u32]) -> bool {
    let doubled = |(i, digit): (usize, &u32)| match i % 2 {
        0 => *digit,
        _ if *digit > 4 => digit * 2 - 9,
        _ => digit * 2,
    };
    all.iter().rev().enumerate().map(doubled).sum::<u32>() % 10 == 0
}

/// Lengths by country (the SWIFT registry of IBAN formats).
const IBAN_LENGTHS: &[(&str, usize)] = &[
    ("AD", 24),
    ("AE", 23),
    ("AL", 28),
    ("AT", 20),
    ("AZ", 28),
    ("BA", 20),
    ("BE", 16),
    ("BG", 22),
    ("BH", 22),
    ("BR", 29),
    ("BY", 28),
    ("CH", 21),
    ("CR", 22),
    ("CY", 28),
    ("CZ", 24),
    ("DE", 22),
    ("DK", 18),
    ("DO", 28),
    ("EE", 20),
    ("EG", 29),
    ("ES", 24),
    ("FI", 18),
    ("FO", 18),
    ("FR", 27),
    ("GB", 22),
    ("GE", 22),
    ("GI", 23),
    ("GL", 18),
    ("GR", 27),
    ("GT", 28),
    ("HR", 21),
    ("HU", 28),
    ("IE", 22),
    ("IL", 23),
    ("IQ", 23),
    ("IS", 26),
    ("IT", 27),
    ("JO", 30),
    ("KW", 30),
    ("KZ", 20),
    ("LB", 28),
    ("LC", 32),
    ("LI", 21),
    ("LT", 20),
    ("LU", 20),
    ("LV", 21),
    ("LY", 25),
    ("MC", 27),
    ("MD", 24),
    ("ME", 22),
    ("MK", 19),
    ("MR", 27),
    ("MT", 31),
    ("MU", 30),
    ("NL", 18),
    ("NO", 15),
    ("PK", 24),
    ("PL", 28),
    ("PS", 29),
    ("PT", 25),
    ("QA", 29),
    ("RO", 24),
    ("RS", 22),
    ("SA", 24),
    ("SC", 31),
    ("SE", 24),
    ("SI", 19),
    ("SK", 24),
    ("SM", 27),
    ("ST", 25),
    ("SV", 28),
    ("TL", 23),
    ("TN", 24),
    ("TR", 26),
    ("UA", 29),
    ("VA", 22),
    ("VG", 24),
    ("XK", 20),
];

/// Where an account number of its country would end: what stands behind it may
/// look like more of it.
fn iban_end(held: &str) -> usize {
    let length = IBAN_LENGTHS.iter().find(|(name, _)| held.starts_with(name));
    let Some((_, length)) = length else {
        return held.len();
    };
    let mut signs = held.char_indices().filter(|(_, c)| *c != ' ');
    signs
        .nth(length - 1)
        .map_or(held.len(), |(at, c)| at + c.len_utf8())
}

/// The length of its country, and 1 modulo 97 (ISO 7064).
fn is_iban(held: &str) -> bool {
    let all: Vec<char> = held.chars().filter(|c| *c != ' ').collect();
    let country: String = all[..2].iter().collect();
    let length = IBAN_LENGTHS.iter().find(|(name, _)| *name == country);
    if length.is_none_or(|(_, length)| *length != all.len()) {
        return false;
    }
    let turned = all[4..].iter().chain(&all[..4]);
    let rest = turned.fold(0u32, |rest, c| match c.to_digit(36) {
        Some(n) if n < 10 => (rest * 10 + n) % 97,
        Some(n) => (rest * 100 + n) % 97,
        None => rest,
    });
    rest == 1
}

/// A person's name, not one that stands for anybody or for a machine's account.
fn is_name(held: &str) -> bool {
    const NOBODY: &[&str] = &[
        "user",
        "users",
        "username",
        "user_name",
        "your_username",
        "yourname",
        "your_name",
        "name",
        "me",
        "you",
        "runner",
        "root",
        "admin",
        "administrator",
        "ubuntu",
        "debian",
        "vagrant",
        "docker",
        "node",
        "app",
        "shared",
        "public",
        "default",
        "guest",
        "example",
        "test",
        "jovyan",
        "circleci",
        "jenkins",
        "travis",
        "build",
        "ec2-user",
        "opc",
        "git",
        "www-data",
    ];
    !NOBODY.contains(&held.to_ascii_lowercase().trim_end_matches(['.', '-', '_']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(kind: Personal, text: &str) -> Vec<&str> {
        kind.find(text)
            .into_iter()
            .map(|range| &text[range])
            .collect()
    }

    #[test]
    fn what_is_personal_is_found() {
        for (kind, text, held) in [
            (
                Personal::Email,
                "write to Ann.Lee+x@mail.corp-site.co.uk, now",
                "Ann.Lee+x@mail.corp-site.co.uk",
            ),
            (
                Personal::Phone,
                "call +49 (30) 1234-5678.",
                "+49 (30) 1234-5678",
            ),
            (Personal::Phone, "call (212) 736-5000", "(212) 736-5000"),
            (Personal::Phone, "Tel. 030/8976543", "030/8976543"),
            (Personal::Ip, "from 8.8.4.4 to", "8.8.4.4"),
            (
                Personal::Ip,
                "host 2a00:1450:4001:82b::200e up",
                "2a00:1450:4001:82b::200e",
            ),
            (
                Personal::Card,
                "card 4539 1488 0343 6467 ok",
                "4539 1488 0343 6467",
            ),
            (Personal::Card, "amex 378282246310005", "378282246310005"),
            (
                Personal::Iban,
                "to DE89 3704 0044 0532 0130 00 PLEASE",
                "DE89 3704 0044 0532 0130 00",
            ),
            (
                Personal::Iban,
                "GB82WEST12345698765432",
                "GB82WEST12345698765432",
            ),
            (Personal::Home, "open /home/alice/x.py", "alice"),
            (Personal::Home, r"C:\Users\Bob.Smith\Desktop", "Bob.Smith"),
            (Personal::Home, r#""C:\\Users\\carol\\x""#, "carol"),
        ] {
            assert_eq!(found(kind, text), [held], "{text}");
        }
    }

    #[test]
    fn what_only_looks_so_is_not() {
        for (kind, text) in [
            (
                Personal::Email,
                "a@example.com, git@github.com, x@host.local, icon@2x.png",
            ),
            (
                Personal::Phone,
                "2024-01-15 10:00, 1234567890, 555-0123, (415) 555-0100, v1.234.5678",
            ),
            (Personal::Phone, "id 0x1234-5678, range 100-200-3000x"),
            (
                Personal::Ip,
                "10.0.0.1 192.168.1.1 127.0.0.1 203.0.113.9 1.2.3.4.5 999.1.1.1 v1.2.3.4",
            ),
            (Personal::Ip, "12:30:45 ::1 fe80::1 2001:db8::1 std::vec"),
            (
                Personal::Card,
                "4539 1488 0343 6468, 1234567890123456, 0000000000000000, 20240115103000123",
            ),
            (
                Personal::Iban,
                "DE89370400440532013001, AB12 3456 7890 1234",
            ),
            (
                Personal::Home,
                "/home/user/x /home/runner/work /Users/Shared/y C:\\Users\\Public",
            ),
        ] {
            assert!(
                found(kind, text).is_empty(),
                "{text}: {:?}",
                found(kind, text)
            );
        }
    }
}
