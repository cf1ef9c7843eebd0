//! Durations and sizes as people write them, both ways.

use std::time::Duration;

/// Parses `3s`, `500ms`, `1.5s`, `2m`, `0`: a number and a unit (ns, us, ms, s, m, h).
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = "expected a number and a unit, such as 3s, 500ms or 2m";
    let (number, unit) = split_number(text).ok_or_else(|| format!("`{text}`: {expected}"))?;
    let nanos_per_unit = match unit {
        "ns" => 1.0,
        "us" | "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" | "min" => 60e9,
        "h" => 3600e9,
        "" if number == 0.0 => 1.0,
        "" => return Err(format!("`{text}` has no unit: {expected}")),
        other => {
            return Err(format!(
                "`{text}`: unknown unit `{other}` (ns, us, ms, s, m, h): {expected}"
            ));
        }
    };
    let nanos = number * nanos_per_unit;
    if nanos > 1e9 * 3600.0 * 24.0 * 365.0 {
        return Err(format!("`{text}` is more than a year: {expected}"));
    }
    Ok(Duration::from_nanos(nanos.round() as u64))
}

/// Parses `1024`, `64KiB`, `2MiB`, `10kB`: bytes, with an optional unit.
pub(crate) fn parse_bytes(text: &str) -> Result<usize, String> {
    let expected = "expected bytes, such as 1024, 64KiB or 2MiB";
    let (number, unit) = split_number(text).ok_or_else(|| format!("`{text}`: {expected}"))?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "kb" => 1e3,
        "m" | "mib" => 1024.0 * 1024.0,
        "mb" => 1e6,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "gb" => 1e9,
        other => return Err(format!("`{text}`: unknown unit `{other}`: {expected}")),
    };
    let bytes = number * factor;
    if bytes.fract() != 0.0 || bytes > (1u64 << 40) as f64 {
        return Err(format!(
            "`{text}` is not a whole number of bytes up to 1 TiB: {expected}"
        ));
    }
    Ok(bytes as usize)
}

/// Splits `64KiB` into 64 and `KiB`.
fn split_number(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let number: f64 = number.replace('_', "").parse().ok()?;
    Some((number, unit.trim()))
}

/// Prints a whole number with thousands separated: `2,310,442`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Prints bytes with a binary unit and one decimal: `2.8 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            let decimals = usize::from(unit != "B");
            return format!("{value:.decimals$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// Prints a latency given in microseconds with a fitting unit: `87 µs`, `1.20 ms`, `2.5 s`.
pub(crate) fn micros(micros: f64) -> String {
    if micros < 1e3 {
        format!("{micros:.0} µs")
    } else if micros < 1e6 {
        format!("{:.2} ms", micros / 1e3)
    } else {
        format!("{:.2} s", micros / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_parse() {
        for (text, nanos) in [
            ("3s", 3_000_000_000),
            ("500ms", 500_000_000),
            ("1.5s", 1_500_000_000),
            ("2m", 120_000_000_000),
            ("20us", 20_000),
            ("7 ns", 7),
            ("0", 0),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_nanos(nanos)),
                "{text}"
            );
        }
        for text in ["", "3", "s", "3 parsecs", "-1s", "1..5s", "400000h", "NaNs"] {
            let error = parse_duration(text).unwrap_err();
            assert!(error.contains("500ms"), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_parse() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("64KiB", 65_536),
            ("64k", 65_536),
            ("10kB", 10_000),
            ("2MiB", 2_097_152),
            ("0.5KiB", 512),
            ("1_000", 1000),
            ("1 GiB", 1 << 30),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "KiB", "1.5", "-4", "4 potatoes", "3000GiB"] {
            let error = parse_bytes(text).unwrap_err();
            assert!(error.contains("64KiB"), "{text}: {error}");
        }
    }

    #[test]
    fn numbers_print_for_people() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(12_345_678), "12,345,678");
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(3 << 40), "3.0 TiB");
        assert_eq!(micros(87.4), "87 µs");
        assert_eq!(micros(1_204.0), "1.20 ms");
        assert_eq!(micros(2_500_000.0), "2.50 s");
    }
}
