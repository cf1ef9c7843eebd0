//! Long packets both ways, compressed ones, and the other byte order of the length, over real
//! sockets.

mod support;

use proscenium_play::PlayListener;
use support::hall::server;
use support::{AUTHENTICATE, Client, address_of, packet};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Bytes before the payload of an echo's request, and of its answer.
const REQUEST: usize = 1 + "Echo".len() + 2 + 8;
const ANSWER: usize = 1 + "EchoReply".len() + 2 + 8 + 2 + 4;

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 + n / 251) as u8).collect()
}

#[test]
fn packets_up_to_the_limit_go_both_ways() {
    let (server, _journal) = server(|builder| builder);
    let mut client = Client::join(&server, 1, "ann");
    for len in [0, 1, 511, 512, 513, 64 * KIB, MIB, 2 * MIB - ANSWER] {
        let payload = pattern(len);
        let answer = client.request("Echo", 3, &payload);
        assert_eq!((answer.error, answer.original_size), (0, 0));
        assert!(answer.payload == payload, "{len} bytes");
    }
    // What the server is sent may be longer than what it can answer with.
    let longest = pattern(2 * MIB - REQUEST);
    let answer = client.request("Echo", 4, &longest);
    assert_eq!(
        answer.short(),
        ("Echo", 4, 15, ""),
        "too long to be answered so"
    );
    assert_eq!(client.request("Seen", 5, "").text(), "10");
    client.send("Echo", 6, pattern(2 * MIB - REQUEST + 1));
    client.is_closed();
}

#[test]
fn the_limit_may_be_another() {
    let (server, _journal) = server(|builder| {
        builder.limits(|limits| limits.frame_max(8 * MIB).send_queue_max(16 * MIB))
    });
    let mut client = Client::join(&server, 1, "ann");
    let payload = pattern(8 * MIB - ANSWER);
    assert!(client.request("Echo", 3, &payload).payload == payload);
}

/// A known fault of others: a receive buffer that the longest packet does not fit into.
#[test]
fn packets_may_be_longer_than_what_is_received_at_once() {
    const AT_ONCE: usize = 4 * KIB;
    let (server, _journal) = server(|builder| {
        builder.limits(|limits| limits.receive_chunk(AT_ONCE).receive_chunks_max(4))
    });
    let mut client = Client::join(&server, 1, "ann");
    let around = |len: usize| [len - 1, len, len + 1];
    let lens = [
        around(AT_ONCE - REQUEST - 4),
        around(AT_ONCE),
        around(64 * KIB),
    ];
    for (seq, len) in (3..).zip(lens.concat().into_iter().chain([2 * MIB - ANSWER])) {
        // In front of it a short one, so that it begins somewhere in the buffer.
        let payload = pattern(len);
        let mut bytes = packet("Echo", 1, 1, b"short");
        bytes.extend(packet("Echo", seq, 1, &payload));
        for piece in bytes.chunks(AT_ONCE - 7) {
            client.write(piece);
        }
        assert_eq!(client.receive().text(), "short");
        let answer = client.receive();
        assert_eq!((answer.seq, answer.error), (seq, 0));
        assert!(answer.payload == payload, "{len} bytes");
    }
}

#[test]
fn the_length_may_be_big_endian() {
    let listener = PlayListener::tcp("127.0.0.1:0")
        .unwrap()
        .big_endian_length();
    let (server, _journal) = server(|builder| builder.listen(listener));
    let mut client = Client::to(address_of(&server, 1)).big_endian();
    assert_eq!(
        client.authenticate(1, "ann").short(),
        (AUTHENTICATE, 1, 0, "")
    );
    let answer = client.request("Echo", 0x0102, "all else is little-endian");
    assert_eq!(
        (answer.seq, answer.text()),
        (0x0102, "all else is little-endian")
    );
    // Both kinds of clients meet in one stage.
    let mut other = Client::join(&server, 1, "bob");
    other.send("Others", 0, "hello");
    assert_eq!(client.receive().text(), "hello");
}

/// What is in the container that .NET clients use, by hand.
fn unpickled(container: &[u8], original: usize) -> Vec<u8> {
    assert_eq!(container[0] & 7, 0, "version");
    let width = [0, 1, 2, 4][usize::from(container[0] >> 6)];
    let mut difference = [0; 8];
    difference[..width].copy_from_slice(&container[1..=width]);
    let rest = &container[1 + width..];
    assert_eq!(
        rest.len() + u64::from_le_bytes(difference) as usize,
        original
    );
    inflate(rest)
}

/// An LZ4 block, by its format's description.
fn inflate(mut block: &[u8]) -> Vec<u8> {
    fn length(block: &mut &[u8], nibble: u8) -> usize {
        let mut length = usize::from(nibble);
        if nibble == 15 {
            loop {
                let more = block[0];
                *block = &block[1..];
                length += usize::from(more);
                if more < 255 {
                    break;
                }
            }
        }
        length
    }
    let mut out = Vec::new();
    while let Some((&token, rest)) = block.split_first() {
        block = rest;
        let literals = length(&mut block, token >> 4);
        out.extend_from_slice(&block[..literals]);
        block = &block[literals..];
        if block.is_empty() {
            break;
        }
        let offset = usize::from(u16::from_le_bytes([block[0], block[1]]));
        block = &block[2..];
        for _ in 0..length(&mut block, token & 15) + 4 {
            out.push(out[out.len() - offset]);
        }
    }
    out
}

#[test]
fn payloads_are_compressed_where_the_listener_says_so_and_it_pays() {
    let listener = PlayListener::tcp("127.0.0.1:0").unwrap().compress();
    let (server, _journal) = server(|builder| builder.listen(listener));
    let mut client = Client::to(address_of(&server, 1));
    assert_eq!(client.authenticate(1, "ann").error, 0);
    for len in [513, 4 * KIB, 100 * KIB, MIB] {
        let payload: Vec<u8> = (0..len).map(|n| (n / 64) as u8).collect();
        let answer = client.request("Echo", 3, &payload);
        assert_eq!(answer.original_size as usize, len);
        assert!(answer.payload.len() * 10 < len * 9);
        assert!(unpickled(&answer.payload, len) == payload, "{len} bytes");
    }
    // Short ones, and those that do not get shorter, come as they are.
    let mut noise = 1_u64;
    let random: Vec<u8> = std::iter::repeat_with(|| {
        noise = noise
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (noise >> 56) as u8
    })
    .take(4 * KIB)
    .collect();
    for payload in [vec![7; 512], random] {
        let answer = client.request("Echo", 4, &payload);
        assert_eq!((answer.original_size, answer.payload), (0, payload));
    }
    // A client of the other listener is not sent any, not even the same broadcast.
    let mut plain = Client::join(&server, 1, "bob");
    client.send("All", 0, [7; 4000]);
    let (packed, plain) = (client.receive(), plain.receive());
    assert_eq!(unpickled(&packed.payload, 4000), [7; 4000]);
    assert_eq!((plain.original_size, &*plain.payload), (0, &[7; 4000][..]));
}
