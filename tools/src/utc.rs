//! Points in time as people read them.

/// `2026-03-01 09:05:07 UTC`, from seconds since 1970.
pub(crate) fn readable(unix_seconds: u64) -> String {
    let (year, month, day) = date(unix_seconds / 86_400);
    let (hour, minute, second) = clock(unix_seconds);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// `20260301T090507Z`: the same as a file name that sorts.
pub(crate) fn file_name(unix_seconds: u64) -> String {
    let (year, month, day) = date(unix_seconds / 86_400);
    let (hour, minute, second) = clock(unix_seconds);
    format!("{year}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

fn clock(unix_seconds: u64) -> (u64, u64, u64) {
    let second = unix_seconds % 86_400;
    (second / 3600, second / 60 % 60, second % 60)
}

/// The Gregorian date of a day counted from 1970-01-01, by going through years and months.
fn date(mut day: u64) -> (u64, usize, u64) {
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    loop {
        let days = 365 + u64::from(leap(year));
        if day < days {
            break;
        }
        day -= days;
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= months[month] {
        day -= months[month];
        month += 1;
    }
    (year, month + 1, day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_have_their_names() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_000_000_000, "2001-09-09 01:46:40 UTC"),
            (1_735_689_599, "2024-12-31 23:59:59 UTC"),
        ] {
            assert_eq!(readable(seconds), text);
        }
        assert_eq!(file_name(1_000_000_000), "20010909T014640Z");
    }
}
