//! The checked-in header is the one that cbindgen makes of the source. With
//! `PROSCENIUM_WRITE_HEADER` set it is written first.

use std::fs;
use std::path::Path;

#[test]
fn the_header_is_up_to_date() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let made = cbindgen::generate(package).expect("a header");
    let mut text = Vec::new();
    made.write(&mut text);
    let text = String::from_utf8(text).expect("UTF-8");
    let path = package.join("include/proscenium_connector.h");
    if std::env::var_os("PROSCENIUM_WRITE_HEADER").is_some() {
        fs::write(&path, &text).expect("a writable header");
    }
    let checked_in = fs::read_to_string(&path).expect("a header");
    assert!(
        checked_in == text,
        "stale: PROSCENIUM_WRITE_HEADER=1 cargo test -p proscenium-connector-ffi --test header"
    );
}
