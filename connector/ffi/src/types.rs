//! What crosses the boundary.

use std::ffi::{c_char, c_void};

use std::ops::Deref;

use proscenium_connector::{BuildError, ConnectError, Connector, SendError};

/// A connection to a Play server, or the wish for one.
pub struct PscConnector {
    pub(crate) connector: Connector,
}

impl Deref for PscConnector {
    type Target = Connector;

    fn deref(&self) -> &Connector {
        &self.connector
    }
}

/// How a call went.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PscStatus {
    /// Done, or begun.
    Ok = 0,
    /// A pointer that must not be null is, a text is not UTF-8, or a size is too large.
    InvalidArgument = -1,
    /// The options contradict each other, a certificate cannot be used, or the system refused the
    /// background thread; see psc_last_error.
    InvalidOptions = -2,
    /// There is a connection, or an attempt under way.
    AlreadyConnected = -3,
    /// The send queue is full, or as many requests as allowed wait. Try again later.
    Full = -4,
    /// The packet would be longer than the server takes.
    TooLong = -5,
    /// The message id has not 1 to 128 bytes.
    IdLength = -6,
    /// Waiting is not possible in a callback on the background thread: it would wait for itself.
    WouldDeadlock = -7,
    /// A defect in this library; see psc_last_error.
    Panic = -8,
    /// There is no connection.
    Disconnected = 60201,
    /// The connection has not authenticated.
    Unauthenticated = 60203,
}

impl From<SendError> for PscStatus {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Disconnected => Self::Disconnected,
            SendError::Unauthenticated => Self::Unauthenticated,
            SendError::TooLong { .. } => Self::TooLong,
            SendError::IdLength { .. } => Self::IdLength,
            _ => Self::Full,
        }
    }
}

impl From<&ConnectError> for PscStatus {
    fn from(error: &ConnectError) -> Self {
        match error {
            ConnectError::AlreadyConnected => Self::AlreadyConnected,
            _ => Self::Disconnected,
        }
    }
}

impl From<&BuildError> for PscStatus {
    fn from(_: &BuildError) -> Self {
        Self::InvalidOptions
    }
}

/// What carries the packets.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PscTransport {
    /// TCP.
    Tcp = 0,
    /// TLS 1.3 on TCP.
    Tls = 1,
    /// WebSocket on TCP.
    Ws = 2,
    /// WebSocket on TLS 1.3.
    Wss = 3,
}

/// The options of a connector. Fill it with psc_options_init, then change what is wanted.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PscOptions {
    /// Bytes of this structure, as psc_options_init sets it.
    pub size: usize,
    /// Name or address of the server, UTF-8. Has to be set.
    pub host: *const c_char,
    /// Port of the server. Has to be set.
    pub port: u16,
    /// A value of PscTransport. TCP.
    pub transport: i32,
    /// Path that a WebSocket asks for, or null for "/ws".
    pub path: *const c_char,
    /// Certificates of authorities (PEM) that are trusted besides the public ones, or null.
    pub trust_pem: *const c_char,
    /// 32 bytes, the SHA-256 of the one server certificate (DER) that is trusted, or null. The
    /// authorities and the name then do not count.
    pub pin_sha256: *const u8,
    /// Likewise, of the certificate's public key (SubjectPublicKeyInfo, DER), which outlives
    /// renewals, or null.
    pub pin_public_key_sha256: *const u8,
    /// The name that the server's certificate has to have, or null for the host.
    pub server_name: *const c_char,
    /// The certificate (PEM, with those that issued it behind it) that is shown to a server that
    /// asks for one, or null. Together with client_key_pem.
    pub client_certificate_pem: *const c_char,
    /// The private key of that certificate (PEM), or null.
    pub client_key_pem: *const c_char,
    /// True if the length of a packet is big-endian. False.
    pub length_big_endian: bool,
    /// True to run callbacks on the background thread, at once. False.
    pub io_thread_callbacks: bool,
    /// True to connect and authenticate again when a connection was lost. False.
    pub reconnect: bool,
    /// Attempts to reconnect after each loss, 0 for no end. 0.
    pub reconnect_attempts: u32,
    /// Delay before the first attempt to reconnect, in milliseconds; it doubles. 200.
    pub reconnect_first_ms: u32,
    /// The greatest delay between attempts, in milliseconds. 30000.
    pub reconnect_max_ms: u32,
    /// Interval of heartbeats, in milliseconds; 0 for none. 10000.
    pub heartbeat_ms: u32,
    /// Silence after which the server is dead, in milliseconds; 0 for never. 30000.
    pub dead_after_ms: u32,
    /// How long connecting may take, in milliseconds. 30000.
    pub connect_timeout_ms: u32,
    /// How long a request waits for its answer, in milliseconds. 30000.
    pub request_timeout_ms: u32,
    /// The longest packet in either direction, in bytes. 2 MiB.
    pub packet_bytes_max: usize,
    /// Bytes that may wait to be sent. 4 MiB.
    pub send_queue_bytes_max: usize,
    /// Events that may wait for psc_main_thread_action; then nothing is read. 10000.
    pub event_queue_max: usize,
    /// Bytes of such events. 16 MiB.
    pub event_queue_bytes_max: usize,
    /// Requests that may wait for their answers, at most 65535. 1024.
    pub requests_max: usize,
}

/// A packet from the server. Valid, with all that it points to, until the callback returns that
/// was given it (or until psc_response_free).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PscPacket {
    /// What the message is: UTF-8, with a zero byte behind it.
    pub msg_id: *const c_char,
    /// Bytes of the message id, without the zero byte.
    pub msg_id_len: usize,
    /// The stage that it comes from.
    pub stage_id: i64,
    /// 0, or the server's error code.
    pub error: u16,
    /// The message itself. Not null.
    pub payload: *const u8,
    /// Bytes of the payload; may be 0.
    pub payload_len: usize,
}

/// What is called for events. Any of the functions may be null.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PscCallbacks {
    /// Given to each of the functions; never looked at. What it points to has to live until
    /// psc_connector_free has returned.
    pub user_data: *mut c_void,
    /// There is a connection. It has to authenticate, which after reconnecting happens by itself.
    pub on_connected: Option<unsafe extern "C" fn(user_data: *mut c_void)>,
    /// An attempt to connect failed. With `reconnecting` a further one follows.
    pub on_connect_failed: Option<
        unsafe extern "C" fn(user_data: *mut c_void, reason: *const c_char, reconnecting: bool),
    >,
    /// After reconnecting the server took the credentials again; this is its answer.
    pub on_reauthenticated:
        Option<unsafe extern "C" fn(user_data: *mut c_void, packet: *const PscPacket)>,
    /// The server sent something that is not the answer to a request.
    pub on_received: Option<unsafe extern "C" fn(user_data: *mut c_void, packet: *const PscPacket)>,
    /// The connection ended. With `reconnecting` attempts to have a new one follow.
    pub on_disconnected: Option<
        unsafe extern "C" fn(user_data: *mut c_void, reason: *const c_char, reconnecting: bool),
    >,
}

/// Called with the answer to a request: `code` 0 and a packet; the server's error code and a
/// packet; or 60201 (disconnected) or 60202 (request timeout) and null.
pub type PscAnswer =
    Option<unsafe extern "C" fn(user_data: *mut c_void, code: u16, packet: *const PscPacket)>;
