//! [`Outbox`]: what the stages of a shard send to other servers during a slice of events.
//!
//! A stage runs while the engine is busy with its shard, so nothing goes to the node link at once:
//! it is encoded here, header and payload one behind the other in one buffer, and handed over after
//! the stages have run; from other shards than the node's as one post for all of it.

use proscenium_engine::Context;
use proscenium_framing::packet::ErrorCode;
use proscenium_framing::route::{Chain, ChainEntry, RouteHeader};
use proscenium_nodelink::{
    Encoded, NodeHandle, NodeLink, PeerGauge, PeerId, ReplyTo, RequestOptions,
};
use proscenium_stages::StagePost;
use std::time::Duration;

use super::requests::Requests;
use crate::error::DeliverError;
use crate::packet::Payload;

/// A buffer that is greater is not kept for the next slice.
const KEPT_MAX: usize = 1 << 20;

/// What one entry of a chain takes at most, without the name: tag and length of the field and of
/// the name, three numbers with their tags, all at their longest.
const ENTRY_MAX: usize = 2 * (2 + 10) + 3 * (2 + 10);

#[derive(Debug)]
pub(crate) enum What {
    Send(PeerId),
    Request {
        peer: PeerId,
        number: u64,
        /// Of the table, when the slice is over.
        deadline: Option<Duration>,
    },
    Reply(ReplyTo),
}

#[derive(Debug)]
struct Entry {
    what: What,
    /// Where payload and header begin, and where the header ends.
    payload: usize,
    header: usize,
    end: usize,
}

/// See the module's page.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    entries: Vec<Entry>,
    bytes: Vec<u8>,
}

/// The requests that wait for one, for its header.
#[derive(Clone, Copy, Default)]
pub(crate) struct Waiting<'a> {
    /// Those of the request that is being handled, encoded.
    pub(crate) trail: &'a [u8],
    /// The stage that asks, and the number of the request.
    pub(crate) own: Option<(i64, u64)>,
}

impl Waiting<'_> {
    /// Appends the entries to what is a header so far.
    pub(crate) fn encode(&self, nid: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(self.trail);
        if let Some((stage, request)) = self.own {
            let entries = [ChainEntry {
                nid,
                stage,
                invocation: 0, // the request's number says it
                request,
            }];
            let own = RouteHeader {
                chain: Chain::new(&entries),
                ..RouteHeader::default()
            };
            let at = out.len();
            // Cut afterwards: to add the length up before takes as long as to write it.
            out.resize(at + nid.len() + ENTRY_MAX, 0);
            let written = own.encode(&mut out[at..]);
            debug_assert!(written.is_some());
            out.truncate(at + written.unwrap_or_default());
        }
    }
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Encodes a message. `gauge`: whose room it takes, unless it is a reply.
    pub(crate) fn push(
        &mut self,
        node: &NodeHandle,
        (what, gauge): (What, Option<&PeerGauge>),
        header: &RouteHeader<'_>,
        waiting: Waiting<'_>,
        payload: &(impl Payload + ?Sized),
        limit: usize,
    ) -> Result<(), (DeliverError, What)> {
        let at = self.bytes.len();
        let size = payload.size();
        if size > limit {
            let length = size;
            return Err((DeliverError::TooLong { length, limit }, what));
        }
        self.bytes.resize(at + size, 0);
        let len = payload.write(&mut self.bytes[at..]);
        self.bytes.truncate(at + len);
        if let Some(gauge) = gauge
            && let Err(error) = gauge.reserve(len)
        {
            self.bytes.truncate(at);
            return Err((error.into(), what));
        }
        let is_reply = matches!(what, What::Reply(_));
        node.encode_header(header, len, is_reply, &mut self.bytes);
        waiting.encode(node.nid(), &mut self.bytes);
        self.entries.push(Entry {
            what,
            payload: at,
            header: at + len,
            end: self.bytes.len(),
        });
        Ok(())
    }

    /// The slice is over: the deadlines of requests are those that their futures were given.
    pub(crate) fn close(&mut self, requests: &Requests) {
        for entry in &mut self.entries {
            if let What::Request {
                number, deadline, ..
            } = &mut entry.what
            {
                *deadline = requests.deadline(*number);
            }
        }
    }

    /// Hands everything to the node link. `failed` is told the number of a request that was not
    /// sent, and nothing of another message.
    pub(crate) fn flush(
        &mut self,
        node: &mut NodeLink,
        cx: &mut Context<'_, StagePost>,
        mut failed: impl FnMut(Option<u64>, ErrorCode),
    ) {
        let mut node = node.with(cx);
        for entry in self.entries.drain(..) {
            let message = Encoded {
                head: &self.bytes[entry.header..entry.end],
                payload: &self.bytes[entry.payload..entry.header],
            };
            let (sent, number) = match entry.what {
                What::Send(peer) => (node.send_encoded(peer, message), None),
                What::Reply(to) => (node.reply_encoded(to, message), None),
                What::Request {
                    peer,
                    number,
                    deadline,
                } => {
                    let options = RequestOptions { deadline };
                    let sent = node.request_encoded(peer, message, options, number);
                    (sent, Some(number))
                }
            };
            if let Err(error) = sent {
                failed(number, error.code());
            }
        }
        self.bytes.clear();
        if self.bytes.capacity() > KEPT_MAX {
            self.bytes = Vec::new();
        }
    }
}
