//! The exported functions.

use std::ffi::{CString, c_char, c_void};
use std::time::Duration;

use proscenium_connector::{
    Builder, ByteOrder, ConnectError, Connector, Delivery, Packet, Pending, Reconnect,
    RequestError, SendError, Transport,
};

use crate::boundary::{
    Callbacks, UserData, answer, c_string, guarded, into_pointer, last_error, message, reference,
    refused, required, set_last_error, shared, take_back, text, view, with_status,
};
use crate::{
    PscAnswer, PscCallbacks, PscConnector, PscOptions, PscPacket, PscStatus, PscTransport,
};

/// An answer that psc_request_wait gave away. Free it with psc_response_free.
pub struct PscResponse {
    packet: Packet,
    id: CString,
}

/// Sets every option to its default; host and port have none. Threads: any. Does nothing with
/// null.
///
/// # Safety
/// `options` is null or points to writable memory for a PscOptions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn psc_options_init(options: *mut PscOptions) {
    if options.is_null() {
        return;
    }
    let defaults = PscOptions {
        size: size_of::<PscOptions>(),
        host: std::ptr::null(),
        port: 0,
        transport: PscTransport::Tcp as i32,
        path: std::ptr::null(),
        trust_pem: std::ptr::null(),
        pin_sha256: std::ptr::null(),
        pin_public_key_sha256: std::ptr::null(),
        server_name: std::ptr::null(),
        client_certificate_pem: std::ptr::null(),
        client_key_pem: std::ptr::null(),
        length_big_endian: false,
        io_thread_callbacks: false,
        reconnect: false,
        reconnect_attempts: 0,
        reconnect_first_ms: 200,
        reconnect_max_ms: 30_000,
        heartbeat_ms: 10_000,
        dead_after_ms: 30_000,
        connect_timeout_ms: 30_000,
        request_timeout_ms: 30_000,
        packet_bytes_max: 2 * 1024 * 1024,
        send_queue_bytes_max: 4 * 1024 * 1024,
        event_queue_max: 10_000,
        event_queue_bytes_max: 16 * 1024 * 1024,
        requests_max: 1024,
    };
    // SAFETY: not null; the rest is the caller's promise. What was there is not looked at.
    unsafe { options.write(defaults) };
}

/// Makes a connector, not connected yet, and puts it into `*connector`; null is put there when it
/// cannot be made. Threads: any. Ownership: the connector is the caller's, to be freed with
/// psc_connector_free; options, callbacks and texts are copied.
///
/// # Safety
/// `options` points to options that psc_options_init has filled, whose texts end with a zero byte
/// and whose pins have 32 bytes. `callbacks` is null or points to callbacks whose functions have
/// the declared types. `connector` points to writable memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn psc_connector_new(
    options: *const PscOptions,
    callbacks: *const PscCallbacks,
    connector: *mut *mut PscConnector,
) -> PscStatus {
    with_status(|| {
        if connector.is_null() {
            set_last_error("nowhere to put the connector");
            return Err(PscStatus::InvalidArgument);
        }
        // SAFETY: not null; the rest is the caller's promise.
        unsafe { connector.write(std::ptr::null_mut()) };
        // SAFETY: the caller's promise.
        let options = unsafe { reference(options) }?;
        // SAFETY: likewise.
        let mut builder = unsafe { builder(options) }?;
        if !callbacks.is_null() {
            // SAFETY: likewise.
            let callbacks = Callbacks(*unsafe { reference(callbacks) }?);
            builder = builder.on_event(move |event| callbacks.call(&event));
        } else {
            builder = builder.on_event(drop); // somebody has to take them
        }
        let built = builder.build().map_err(|error| {
            set_last_error(&error.to_string());
            PscStatus::from(&error)
        })?;
        // SAFETY: as above.
        unsafe { connector.write(into_pointer(built)) };
        Ok(())
    })
}

/// The options as a builder.
///
/// # Safety
/// As `psc_connector_new` wants them.
unsafe fn builder(options: &PscOptions) -> Result<Builder, PscStatus> {
    let wrong = |what| {
        set_last_error(what);
        Err(PscStatus::InvalidArgument)
    };
    if options.size != size_of::<PscOptions>() {
        return wrong("size: options of another version, or not of psc_options_init");
    }
    // SAFETY: the caller's promise, for both texts.
    let (host, path) = unsafe { (required(options.host)?, text(options.path)?) };
    let transport = match options.transport {
        0 => Transport::Tcp,
        1 => Transport::Tls,
        2 => Transport::Ws,
        3 => Transport::Wss,
        _ => return wrong("transport: not one of PscTransport"),
    };
    let ms = |ms: u32| Duration::from_millis(ms.into());
    let mut builder = Connector::builder(host, options.port)
        .transport(transport)
        .length_order(match options.length_big_endian {
            true => ByteOrder::Big,
            false => ByteOrder::Little,
        })
        .delivery(match options.io_thread_callbacks {
            true => Delivery::IoThread,
            false => Delivery::Queue,
        })
        .heartbeat(ms(options.heartbeat_ms))
        .dead_after(ms(options.dead_after_ms))
        .connect_timeout(ms(options.connect_timeout_ms))
        .request_timeout(ms(options.request_timeout_ms))
        .packet_bytes_max(options.packet_bytes_max)
        .send_queue_bytes_max(options.send_queue_bytes_max)
        .event_queue_max(options.event_queue_max, options.event_queue_bytes_max)
        .requests_max(options.requests_max);
    if options.reconnect {
        builder = builder.reconnect(Reconnect {
            first: ms(options.reconnect_first_ms),
            max: ms(options.reconnect_max_ms),
            attempts: options.reconnect_attempts,
        });
    }
    if let Some(path) = path {
        builder = builder.path(path);
    }
    // SAFETY: the caller's promise.
    unsafe { trust(builder, options) }
}

/// The options of TLS.
///
/// # Safety
/// As `psc_connector_new` wants them.
unsafe fn trust(mut builder: Builder, options: &PscOptions) -> Result<Builder, PscStatus> {
    // SAFETY: the caller's promise, for all of these texts.
    let (pem, name, certificate, key) = unsafe {
        (
            text(options.trust_pem)?,
            text(options.server_name)?,
            text(options.client_certificate_pem)?,
            text(options.client_key_pem)?,
        )
    };
    if let Some(pem) = pem {
        builder = builder.trust_pem(pem);
    }
    if let Some(name) = name {
        builder = builder.server_name(name);
    }
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            builder = builder.client_certificate_pem(certificate, key);
        }
        (None, None) => {}
        _ => {
            set_last_error("client_certificate_pem and client_key_pem go together");
            return Err(PscStatus::InvalidArgument);
        }
    }
    if !options.pin_sha256.is_null() {
        // SAFETY: not null, so 32 bytes by the caller's promise.
        let pin = unsafe { options.pin_sha256.cast::<[u8; 32]>().read() };
        builder = builder.pin_sha256(pin);
    }
    if !options.pin_public_key_sha256.is_null() {
        // SAFETY: likewise.
        let pin = unsafe { options.pin_public_key_sha256.cast::<[u8; 32]>().read() };
        builder = builder.pin_public_key_sha256(pin);
    }
    Ok(builder)
}

/// Closes the connector and frees it. Answers that psc_request and psc_authenticate promised and
/// that did not come are called here, with 60201. When it returns no callback runs and none will,
/// unless it is called in one. What was sent before still goes out, for at most half a second,
/// which freeing the last connector waits for. Threads: any, but as the last call with this
/// connector; it may be called in a callback. Does nothing with null.
///
/// # Safety
/// `connector` is null or came from psc_connector_new and was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn psc_connector_free(connector: *mut PscConnector) {
    guarded((), || {
        // SAFETY: the caller's promise.
        if let Some(connector) = unsafe { take_back(connector) } {
            connector.close();
        }
    });
}

/// Begins to connect; on_connected or on_connect_failed tells how it went. Threads: any.
///
/// # Safety
/// `connector` came from psc_connector_new and was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn psc_connect(connector: *const PscConnector) -> PscStatus {
    with_status(|| {
        // SAFETY: the caller's promise.
        let connector = unsafe { shared(connector) }?;
        // How an attempt went is told by events, however soon it is known.
        match connector.connect().try_take() {
            Some(Err(error @ (ConnectError::AlreadyConnected | ConnectError::Cancelled))) => {
                set_last_error(&error.to_string());
                Err(PscStatus::from(&error))
            }
            _ => Ok(()),
        }
    })
}

/// Ends the connection, or the attempt to have one, and any reconnecting; on_disconnected tells.
/// Requests without an answer fail with 60201. Threads: any. Does nothing with null.
///
/// # Safety
/// `connector` is null or came from psc_connector_new and was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn psc_disconnect(connector: *const PscConnector) {
    guarded((), || {
        // SAFETY: the caller's promise.
        if let Ok(connector) = unsafe { shared(connector) } {
            connector.disconnect();
        }
    });
}

/// True while there is a connection. Threads: any. False with null.
///
/// # Safety
/// `connector` is null or came from psc_connector_new and was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn psc_is_connected(connector: *const PscConnector) -> bool {
    guarded(false, || {
        // SAFETY: the caller's promise.
        unsafe { shared(connector) }.is_ok_and(|connector| connector.is_connected())
    })
}

/// True while connected and authenticated. Threads: any. False with null.
///
/// # Safety
/// `connector` is null or came from psc_connector_new and was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn psc_is_authenticated(connector: *const PscConnector) -> bool {
    guarded(false, || {
        // SAFETY: the caller's promise.
        unsafe { shared(connector) }.is_ok_and(|connector| connector.is_authenticated())
    })
}

/// Runs the callbacks that are due, here and now, and returns how many. It never waits. Within a
/// callback it does nothing. Threads: any, one at a time runs callbacks, others wait for it.
///
/// # Safety
/// `connector` came from psc_connector_new and was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn psc_main_thread_action(connector: *const PscConnector) -> usize {
    guarded(0, || {
        // SAFETY: the caller's promise.
        let connector = unsafe { shared(connector) };
        connector.map_or(0, |connector| connector.main_thread_action())
    })
}

/// Sends a message without an answer. PSC_STATUS_OK says that it is in the queue. Threads: any.
/// Ownership: id and payload are copied.
///
/// # Safety
/// `connector` came from psc_connector_new and was not freed. `msg_id` ends with a zero byte.
/// `payload` points to `payload_len` bytes, or is null and `payload_len` 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn psc_send(
    connector: *const PscConnector,
    stage_id: i64,
    msg_id: *const c_char,
    payload: *const u8,
    payload_len: usize,
) -> PscStatus {
    // SAFETY: the caller's promises.
    unsafe {
        say(
            (connector, msg_id, payload, payload_len),
            |connector, msg_id, payload| connector.send(stage_id, msg_id, payload),
        )
    }
}

/// Sends a message and calls back with its answer. With PSC_STATUS_OK, `on_answer` is called
/// exactly once, at the latest in psc_connector_free; with anything else never. Threads: any.
/// Ownership: id and payload are copied; what `user_data` points to has to live until the call.
///
/// # Safety
/// As for psc_send. `on_answer` is null or a function of the declared type.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn psc_request(
    connector: *const PscConnector,
    stage_id: i64,
    msg_id: *const c_char,
    payload: *const u8,
    payload_len: usize,
    on_answer: PscAnswer,
    user_data: *mut c_void,
) -> PscStatus {
    let called = called(on_answer, user_data);
    // SAFETY: the caller's promises.
    unsafe {
        say(
            (connector, msg_id, payload, payload_len),
            |connector, msg_id, payload| connector.request_with(stage_id, msg_id, payload, called),
        )
    }
}

/// psc_request with a time-out of its own, in milliseconds, instead of that of the options.
/// Threads, ownership: as for psc_request.
///
/// # Safety
/// As for psc_request.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn psc_request_within(
    connector: *const PscConnector,
    timeout_ms: u32,
    stage_id: i64,
    msg_id: *const c_char,
    payload: *const u8,
    payload_len: usize,
    on_answer: PscAnswer,
    user_data: *mut c_void,
) -> PscStatus {
    let timeout = Duration::from_millis(timeout_ms.into());
    let called = called(on_answer, user_data);
    // SAFETY: the caller's promises.
    unsafe {
        say(
            (connector, msg_id, payload, payload_len),
            |connector, msg_id, payload| {
                connector.request_within_with(timeout, stage_id, msg_id, payload, called)
            },
        )
    }
}

/// Authenticates: a request that is allowed before, and has to come before, any other message.
/// `on_answer` is called as for psc_request; with code 0 the connection is authenticated, another
/// code keeps the connection, to try again. Threads, ownership: as for psc_request.
///
/// # Safety
/// As for psc_request.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn psc_authenticate(
    connector: *const PscConnector,
    stage_id: i64,
    msg_id: *const c_char,
    payload: *const u8,
    payload_len: usize,
    on_answer: PscAnswer,
    user_data: *mut c_void,
) -> PscStatus {
    let called = called(on_answer, user_data);
    // SAFETY: the caller's promises.
    unsafe {
        say(
            (connector, msg_id, payload, payload_len),
            |connector, msg_id, payload| {
                connector.authenticate_with(stage_id, msg_id, payload, called)
            },
        )
    }
}

/// Sends a message and waits for its answer, for at most the request timeout; no other callback
/// runs meanwhile on this thread. With PSC_STATUS_OK, `*code` is as for PscAnswer, and
/// `*response` is the answer, or null if none came. Threads: any, but PSC_STATUS_WOULD_DEADLOCK in
/// callbacks on the background thread. Ownership: id and payload are copied; the response is the
/// caller's, to be freed with psc_response_free.
///
/// # Safety
/// As for psc_send. `code` and `response` point to writable memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn psc_request_wait(
    connector: *const PscConnector,
    stage_id: i64,
    msg_id: *const c_char,
    payload: *const u8,
    payload_len: usize,
    code: *mut u16,
    response: *mut *mut PscResponse,
) -> PscStatus {
    // SAFETY: the caller's promises.
    unsafe {
        say_and_wait(
            (connector, msg_id, payload, payload_len),
            (code, response),
            |connector, msg_id, payload| connector.request(stage_id, msg_id, payload),
        )
    }
}

/// psc_request_wait with a time-out of its own, in milliseconds, instead of that of the options.
/// Threads, ownership: as for psc_request_wait.
///
/// # Safety
/// As for psc_request_wait.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn psc_request_wait_within(
    connector: *const PscConnector,
    timeout_ms: u32,
    stage_id: i64,
    msg_id: *const c_char,
    payload: *const u8,
    payload_len: usize,
    code: *mut u16,
    response: *mut *mut PscResponse,
) -> PscStatus {
    let timeout = Duration::from_millis(timeout_ms.into());
    // SAFETY: the caller's promises.
    unsafe {
        say_and_wait(
            (connector, msg_id, payload, payload_len),
            (code, response),
            |connector, msg_id, payload| {
                connector.request_within(timeout, stage_id, msg_id, payload)
            },
        )
    }
}

/// By whom a message is sent, its id, its payload and how long that is.
type Said = (*const PscConnector, *const c_char, *const u8, usize);

/// Hands a message over as `say` does.
///
/// # Safety
/// As for psc_send.
unsafe fn say(
    (connector, msg_id, payload, payload_len): Said,
    say: impl FnOnce(&Connector, &str, &[u8]) -> Result<(), SendError>,
) -> PscStatus {
    with_status(|| {
        // SAFETY: the caller's promises.
        let (connector, msg_id, payload) =
            unsafe { message(connector, msg_id, payload, payload_len) }?;
        say(&connector, msg_id, payload).map_err(refused)
    })
}

/// What calls C with an answer.
fn called(
    on_answer: PscAnswer,
    user_data: *mut c_void,
) -> impl FnOnce(Result<Packet, RequestError>) + Send + 'static {
    let user_data = UserData(user_data);
    move |result| answer(on_answer, user_data, &result)
}

/// Asks as `ask` does, waits, and puts code and answer where C wants them.
///
/// # Safety
/// As for psc_request_wait.
unsafe fn say_and_wait(
    (connector, msg_id, payload, payload_len): Said,
    (code, response): (*mut u16, *mut *mut PscResponse),
    ask: impl FnOnce(&Connector, &str, &[u8]) -> Pending<Result<Packet, RequestError>>,
) -> PscStatus {
    with_status(|| {
        if code.is_null() || response.is_null() {
            set_last_error("nowhere to put the answer");
            return Err(PscStatus::InvalidArgument);
        }
        // SAFETY: not null; the rest is the caller's promise.
        unsafe { response.write(std::ptr::null_mut()) };
        // SAFETY: the caller's promises.
        let (connector, msg_id, payload) =
            unsafe { message(connector, msg_id, payload, payload_len) }?;
        if Connector::is_on_io_thread() {
            set_last_error("waiting on the background thread");
            return Err(PscStatus::WouldDeadlock);
        }
        let (got, packet) = match ask(&connector, msg_id, payload).wait() {
            Ok(packet) => (0, Some(packet)),
            Err(RequestError::NotSent(error)) => return Err(refused(error)),
            Err(RequestError::Refused(packet)) => (packet.error.0, Some(packet)),
            Err(error) => (error.code().0, None),
        };
        // SAFETY: not null; the rest is the caller's promise.
        unsafe { code.write(got) };
        if let Some(packet) = packet {
            let given = Box::into_raw(Box::new(PscResponse {
                id: c_string(packet.msg_id.as_bytes()),
                packet,
            }));
            // SAFETY: likewise.
            unsafe { response.write(given) };
        }
        Ok(())
    })
}

/// Puts what the response has into `*packet`: pointers into the response, valid until
/// psc_response_free. Threads: any.
///
/// # Safety
/// `response` came from psc_request_wait and was not freed; `packet` points to writable memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn psc_response_packet(
    response: *const PscResponse,
    packet: *mut PscPacket,
) -> PscStatus {
    with_status(|| {
        // SAFETY: the caller's promise.
        let response = unsafe { reference(response) }?;
        if packet.is_null() {
            set_last_error("nowhere to put the packet");
            return Err(PscStatus::InvalidArgument);
        }
        // SAFETY: not null; the rest is the caller's promise.
        unsafe { packet.write(view(&response.id, &response.packet)) };
        Ok(())
    })
}

/// Frees a response. Threads: any. Does nothing with null.
///
/// # Safety
/// `response` is null or came from psc_request_wait and was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn psc_response_free(response: *mut PscResponse) {
    if !response.is_null() {
        // SAFETY: not null, so that it is a box that psc_request_wait gave away.
        drop(unsafe { Box::from_raw(response) });
    }
}

/// In words, what was wrong with the last call on this thread that returned another status than
/// PSC_STATUS_OK. Never null; empty if there was none. Threads: each has its own.
/// Ownership: ours; valid until the next call of any function here on this thread.
#[unsafe(no_mangle)]
pub extern "C" fn psc_last_error() -> *const c_char {
    last_error()
}
