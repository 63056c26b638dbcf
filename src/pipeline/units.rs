//! Amounts with units, as people write them: `8GiB`, `90s`, `2h 30min`.

use std::time::Duration;

/// The bytes of a text such as `8GiB`, `1.5 GB` or `4096`.
pub fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 9] = [
        ("", 1),
        ("b", 1),
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("tib", 1 << 40),
        ("kb", 1_000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
    ];
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let unit = unit.trim().to_ascii_lowercase();
    let factor = UNITS.iter().find(|(name, _)| *name == unit);
    match (number.parse::<f64>(), factor) {
        (Ok(number), Some((_, factor))) => Ok((number * *factor as f64).round() as u64),
        _ => Err("expected an amount such as 8GiB, 512MiB or 1.5GB".to_owned()),
    }
}

/// The time of a text such as `90s`, `2h 30min`, `500ms` or, in seconds, `10`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let expected = || "expected a time such as 90s, 10min or 2h 30min".to_owned();
    if let Ok(seconds) = text.trim().parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| expected());
    }
    let parsed: jiff::SignedDuration = text.trim().parse().map_err(|_| expected())?;
    Duration::try_from(parsed).map_err(|_| expected())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_of_bytes() {
        for (text, wanted) in [
            ("0", 0),
            ("4096", 4096),
            ("8GiB", 8 << 30),
            ("8 gib", 8 << 30),
            ("1.5GB", 1_500_000_000),
            ("512MiB", 512 << 20),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(bytes(text), Ok(wanted), "{text}");
        }
        for text in ["", "GiB", "-1", "8 GiBs", "1.2.3", "eight"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times() {
        for (text, millis) in [
            ("0", 0),
            ("10", 10_000),
            ("0.5", 500),
            ("90s", 90_000),
            ("500ms", 500),
            ("2h", 7_200_000),
            ("2h 30min", 9_000_000),
            ("1h30m", 5_400_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "-1", "-3s", "soon", "5 parsecs", "inf", "nan"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
