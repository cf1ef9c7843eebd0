//! What servers ask of each other's stages: the system messages, and their message ids.
//!
//! A system message is a [`RouteHeader`] whose `msg_id` is the
//! name of the message, whose `stage_id` is the stage that it is about, and whose `is_system` is
//! set; the payload is the message in protobuf. Ids that stand here are not the application's: a
//! server takes them for system messages, whether or not `is_system` is set.
//!
//! ```
//! use proscenium_play::system::{self, CreateStageReq, SystemMessage};
//!
//! let ask = CreateStageReq {
//!     stage_type: "Match".to_owned(),
//!     ..Default::default()
//! };
//! let header = ask.header(7);
//! assert_eq!((header.msg_id, header.stage_id), ("CreateStageReq", 7));
//! assert!(system::is_system_id(header.msg_id));
//! ```

use proscenium_nodelink::RouteHeader;

pub use proscenium_framing::route::proto::{
    CreateStageReq, CreateStageRes, DestroyStageReq, DisconnectNoticeMsg, GetOrCreateStageReq,
    GetOrCreateStageRes, ReconnectMsg, TimerMsg,
};

/// A message of the framework.
pub trait SystemMessage: prost::Message + Default {
    /// Its message id, which is its name.
    const ID: &'static str;

    /// The header with which it goes to a stage.
    fn header(&self, stage_id: i64) -> RouteHeader<'static> {
        RouteHeader {
            msg_id: Self::ID,
            stage_id,
            is_system: true,
            ..RouteHeader::default()
        }
    }
}

macro_rules! system_messages {
    ($($message:ident)*) => {
        $(
            impl SystemMessage for $message {
                const ID: &'static str = stringify!($message);
            }
        )*

        /// The ids of all system messages.
        pub const IDS: [&str; [$(stringify!($message)),*].len()] = [$(stringify!($message)),*];
    };
}

system_messages! {
    CreateStageReq CreateStageRes GetOrCreateStageReq GetOrCreateStageRes DestroyStageReq
    DisconnectNoticeMsg ReconnectMsg TimerMsg
}

/// True if that is the id of a system message.
pub fn is_system_id(msg_id: &str) -> bool {
    IDS.contains(&msg_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    /// The bytes are written by hand, after the numbers of the fields: 8 × number + wire type.
    fn is<M: SystemMessage + PartialEq + std::fmt::Debug>(message: &M, bytes: &[u8]) {
        assert_eq!(message.encode_to_vec(), bytes, "{}", M::ID);
        assert_eq!(M::decode(bytes).as_ref(), Ok(message), "{}", M::ID);
    }

    #[test]
    fn the_bytes_of_requests() {
        is(
            &CreateStageReq {
                stage_type: "Match".to_owned(),
                payload_id: "Map".to_owned(),
                payload: vec![0, 255],
            },
            b"\x0a\x05Match\x12\x03Map\x1a\x02\x00\xff",
        );
        is(
            &GetOrCreateStageReq {
                stage_type: "Match".to_owned(),
                create_payload_id: "Map".to_owned(),
                create_payload: b"north".to_vec(),
            },
            b"\x0a\x05Match\x12\x03Map\x1a\x05north",
        );
        is(&CreateStageReq::default(), b"");
        is(&DestroyStageReq {}, b"");
        is(&DisconnectNoticeMsg {}, b"");
        is(&ReconnectMsg {}, b"");
        is(&TimerMsg {}, b"");
    }

    #[test]
    fn the_bytes_of_answers() {
        is(
            &CreateStageRes {
                result: true,
                payload_id: "Hi".to_owned(),
                payload: b"x".to_vec(),
            },
            b"\x08\x01\x12\x02Hi\x1a\x01x",
        );
        is(
            &GetOrCreateStageRes {
                result: true,
                is_created: true,
                payload_id: "Hi".to_owned(),
                payload: b"x".to_vec(),
            },
            b"\x08\x01\x10\x01\x1a\x02Hi\x22\x01x",
        );
        is(
            &GetOrCreateStageRes {
                is_created: false,
                result: true,
                ..Default::default()
            },
            b"\x08\x01",
        );
    }

    #[test]
    fn ids_are_names() {
        assert_eq!(CreateStageReq::ID, "CreateStageReq");
        assert_eq!(GetOrCreateStageRes::ID, "GetOrCreateStageRes");
        assert_eq!(IDS.len(), 8);
        assert!(is_system_id("TimerMsg") && !is_system_id("Move"));
        let header = DestroyStageReq {}.header(-4);
        assert_eq!((header.msg_id, header.stage_id), ("DestroyStageReq", -4));
        assert!(header.is_system);
    }

    #[test]
    fn broken_bytes_are_an_error() {
        assert!(CreateStageReq::decode(&b"\x0a\x05Mat"[..]).is_err());
        assert!(CreateStageRes::decode(&b"\x0a\x01x"[..]).is_err());
    }
}
