//! Where things are.

use std::env;
use std::path::{Path, PathBuf};

/// The workspace's folder.
pub(crate) fn root() -> PathBuf {
    // cargo tells where this package is: two folders below the workspace.
    let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let root = package
        .as_deref()
        .and_then(|package| package.ancestors().nth(2));
    let root = root.unwrap_or(Path::new("."));
    root.canonicalize().unwrap_or_else(|_| root.to_owned())
}

/// The folder for everything that is built.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// A path as seen from the workspace's folder.
pub(crate) fn relative(path: &Path) -> PathBuf {
    path.strip_prefix(root()).unwrap_or(path).to_owned()
}
