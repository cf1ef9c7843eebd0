//! Names of system errors, for the `errors_by_errno` column.

use std::collections::BTreeMap;
use std::io;

/// How often each error happened, by its name; in the order of the names.
pub(crate) type ErrorCounts = BTreeMap<String, u64>;

/// The name of a system error: `ECONNREFUSED`; for others the number or the kind.
pub(crate) fn name(error: &io::Error) -> String {
    let Some(code) = error.raw_os_error() else {
        return format!("{:?}", error.kind());
    };
    let known = match code {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EINTR => "EINTR",
        libc::EIO => "EIO",
        libc::EBADF => "EBADF",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EINVAL => "EINVAL",
        libc::ENFILE => "ENFILE",
        libc::EMFILE => "EMFILE",
        libc::EPIPE => "EPIPE",
        libc::EPROTO => "EPROTO",
        libc::EADDRINUSE => "EADDRINUSE",
        libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
        libc::ENETDOWN => "ENETDOWN",
        libc::ENETUNREACH => "ENETUNREACH",
        libc::ENETRESET => "ENETRESET",
        libc::ECONNABORTED => "ECONNABORTED",
        libc::ECONNRESET => "ECONNRESET",
        libc::ENOBUFS => "ENOBUFS",
        libc::ENOTCONN => "ENOTCONN",
        libc::ETIMEDOUT => "ETIMEDOUT",
        libc::ECONNREFUSED => "ECONNREFUSED",
        libc::EHOSTDOWN => "EHOSTDOWN",
        libc::EHOSTUNREACH => "EHOSTUNREACH",
        _ => return format!("errno_{code}"),
    };
    known.to_owned()
}

/// Adds one to the count of `name`.
pub(crate) fn count(counts: &mut ErrorCounts, name: String) {
    *counts.entry(name).or_default() += 1;
}

/// `ECONNREFUSED:5;ECONNRESET:1`; empty without errors.
pub(crate) fn joined(counts: &ErrorCounts) -> String {
    let each: Vec<String> = counts
        .iter()
        .map(|(name, n)| format!("{name}:{n}"))
        .collect();
    each.join(";")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_names_and_counts() {
        let mut counts = ErrorCounts::new();
        assert_eq!(joined(&counts), "");
        count(
            &mut counts,
            name(&io::Error::from_raw_os_error(libc::ECONNRESET)),
        );
        count(
            &mut counts,
            name(&io::Error::from_raw_os_error(libc::ECONNREFUSED)),
        );
        count(
            &mut counts,
            name(&io::Error::from_raw_os_error(libc::ECONNREFUSED)),
        );
        count(&mut counts, name(&io::Error::from_raw_os_error(4095)));
        count(
            &mut counts,
            name(&io::Error::from(io::ErrorKind::UnexpectedEof)),
        );
        let expected = "ECONNREFUSED:2;ECONNRESET:1;UnexpectedEof:1;errno_4095:1";
        assert_eq!(joined(&counts), expected);
    }
}
