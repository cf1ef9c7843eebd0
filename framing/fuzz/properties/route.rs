//! What must hold for any bytes, run by the fuzz target, by the replay of its corpus and by
//! proptest. The input is a route header.

use proscenium_framing::route::RouteHeader;

/// Panics if the codec breaks a promise on this input.
pub(crate) fn check(input: &[u8]) {
    let Ok(header) = RouteHeader::decode(input) else {
        return;
    };
    assert!(header.chain.is_empty() == (header.chain.iter().count() == 0));
    let mut bytes = vec![0xA5; header.encoded_len() + 1];
    let len = bytes.len() - 1;
    assert_eq!(header.encode(&mut bytes), Some(len));
    assert_eq!(bytes[len], 0xA5, "nothing behind the end is written");
    assert_eq!(RouteHeader::decode(&bytes[..len]), Ok(header));
    if len > 0 {
        assert_eq!(header.encode(&mut bytes[..len - 1]), None);
    }
    #[cfg(feature = "prost")]
    as_prost(input, &header, &bytes[..len]);
}

/// The same bytes read by prost.
#[cfg(feature = "prost")]
fn as_prost(input: &[u8], header: &RouteHeader<'_>, encoded: &[u8]) {
    use proscenium_framing::route::proto;
    use prost::Message as _;

    let theirs = proto::RouteHeader::decode(input).expect("prost takes what we take");
    assert_eq!(theirs.encode_to_vec(), encoded);
    let chain: Vec<_> = theirs
        .chain
        .iter()
        .map(|entry| entry.nid.as_str())
        .collect();
    let ours: Vec<_> = header.chain.iter().map(|entry| entry.nid).collect();
    assert_eq!(ours, chain);
}
