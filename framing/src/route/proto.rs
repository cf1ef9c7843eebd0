//! The header and the system messages as structs of prost (feature `prost`). The numbers of their
//! fields are fixed; new fields take new numbers.

use prost::Message;

/// The owned form of [`route::RouteHeader`](super::RouteHeader), which see.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RouteHeader {
    /// The number of the request; 0 = a message without an answer.
    #[prost(uint32, tag = "1")]
    pub msg_seq: u32,
    /// The service that it is for or from.
    #[prost(uint32, tag = "2")]
    pub service_id: u32,
    /// What the message is.
    #[prost(string, tag = "3")]
    pub msg_id: String,
    /// How the request went, in a reply.
    #[prost(uint32, tag = "4")]
    pub error_code: u32,
    /// The sender's NID.
    #[prost(string, tag = "5")]
    pub from: String,
    /// The stage that it is for.
    #[prost(int64, tag = "6")]
    pub stage_id: i64,
    /// The account that it is about.
    #[prost(int64, tag = "7")]
    pub account_id: i64,
    /// The session that it is about.
    #[prost(int64, tag = "8")]
    pub sid: i64,
    /// It answers the request `msg_seq`.
    #[prost(bool, tag = "9")]
    pub is_reply: bool,
    /// Length of the payload in bytes.
    #[prost(uint32, tag = "10")]
    pub payload_size: u32,
    /// It is for the framework.
    #[prost(bool, tag = "11")]
    pub is_system: bool,
    /// The requests that wait for this one.
    #[prost(message, repeated, tag = "20")]
    pub chain: Vec<ChainEntry>,
}

/// The owned form of [`route::ChainEntry`](super::ChainEntry), which see.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ChainEntry {
    /// The node that made the request.
    #[prost(string, tag = "1")]
    pub nid: String,
    /// The stage there.
    #[prost(int64, tag = "2")]
    pub stage: i64,
    /// The invocation of the stage's handler that made it.
    #[prost(uint64, tag = "3")]
    pub invocation: u64,
    /// Its number on that node.
    #[prost(uint64, tag = "4")]
    pub request: u64,
}

/// Asks for a stage to be created. If there is one of that id, the answer is error 8.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CreateStageReq {
    /// The type of the stage.
    #[prost(string, tag = "1")]
    pub stage_type: String,
    /// What `payload` is.
    #[prost(string, tag = "2")]
    pub payload_id: String,
    /// What the stage is created with.
    #[prost(bytes = "vec", tag = "3")]
    pub payload: Vec<u8>,
}

/// Answers [`CreateStageReq`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CreateStageRes {
    /// The stage was created.
    #[prost(bool, tag = "1")]
    pub result: bool,
    /// What `payload` is.
    #[prost(string, tag = "2")]
    pub payload_id: String,
    /// What the stage answered.
    #[prost(bytes = "vec", tag = "3")]
    pub payload: Vec<u8>,
}

/// Asks for a stage to be created unless there is one.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct GetOrCreateStageReq {
    /// The type of the stage.
    #[prost(string, tag = "1")]
    pub stage_type: String,
    /// What `create_payload` is.
    #[prost(string, tag = "2")]
    pub create_payload_id: String,
    /// What the stage is created with, if it is.
    #[prost(bytes = "vec", tag = "3")]
    pub create_payload: Vec<u8>,
}

/// Answers [`GetOrCreateStageReq`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct GetOrCreateStageRes {
    /// There is such a stage now.
    #[prost(bool, tag = "1")]
    pub result: bool,
    /// It was created just now.
    #[prost(bool, tag = "2")]
    pub is_created: bool,
    /// What `payload` is.
    #[prost(string, tag = "3")]
    pub payload_id: String,
    /// What the stage answered when it was created.
    #[prost(bytes = "vec", tag = "4")]
    pub payload: Vec<u8>,
}

impl From<CreateStageRes> for GetOrCreateStageRes {
    /// What was created anew is new.
    fn from(answer: CreateStageRes) -> Self {
        Self {
            result: answer.result,
            is_created: answer.result,
            payload_id: answer.payload_id,
            payload: answer.payload,
        }
    }
}

/// Asks for a stage to be destroyed.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct DestroyStageReq {}

/// Tells a stage that an actor's connection is gone.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct DisconnectNoticeMsg {}

/// Tells a stage that an actor's connection is back.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ReconnectMsg {}

/// A timer of a stage is due.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct TimerMsg {}
