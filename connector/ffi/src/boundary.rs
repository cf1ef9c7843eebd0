//! Between C's pointers and our types: everything unsafe of this crate but the exported functions'
//! own contracts.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use proscenium_connector::{Connector, Event, Packet, RequestError, SendError};

use crate::{PscAnswer, PscCallbacks, PscConnector, PscPacket, PscStatus};

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Keeps what `psc_last_error` gives on this thread.
pub(crate) fn set_last_error(text: &str) {
    let text = c_string(text.as_bytes());
    // Not there while the thread ends; then nobody asks.
    let _ = LAST_ERROR.try_with(|last| *last.borrow_mut() = text);
}

pub(crate) fn last_error() -> *const c_char {
    let text = LAST_ERROR.try_with(|last| last.borrow().as_ptr());
    text.unwrap_or(c"".as_ptr())
}

/// The text up to its first zero byte.
pub(crate) fn c_string(text: &[u8]) -> CString {
    let end = text.iter().position(|&byte| byte == 0);
    CString::new(&text[..end.unwrap_or(text.len())]).unwrap_or_default()
}

/// Runs what a function does. A panic ends here.
pub(crate) fn guarded<T>(if_panics: T, run: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        set_last_error(text.unwrap_or("a panic"));
        // Its drop could panic again.
        std::mem::forget(panic);
        if_panics
    })
}

/// Runs what a function with a status does.
pub(crate) fn with_status(run: impl FnOnce() -> Result<(), PscStatus>) -> PscStatus {
    guarded(PscStatus::Panic, || run().err().unwrap_or(PscStatus::Ok))
}

/// Why a message was not taken.
pub(crate) fn refused(error: SendError) -> PscStatus {
    set_last_error(&error.to_string());
    error.into()
}

fn invalid(what: &str) -> PscStatus {
    set_last_error(what);
    PscStatus::InvalidArgument
}

/// A text that is null or ends with a zero byte.
///
/// # Safety
/// `text` is null or points to a text with a zero byte at its end that nobody changes meanwhile.
pub(crate) unsafe fn text<'a>(text: *const c_char) -> Result<Option<&'a str>, PscStatus> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: not null; the rest is the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    let text = text.to_str().map_err(|_| invalid("a text is not UTF-8"))?;
    Ok(Some(text))
}

/// A text that must not be null.
///
/// # Safety
/// As for [`text`].
pub(crate) unsafe fn required<'a>(pointer: *const c_char) -> Result<&'a str, PscStatus> {
    // SAFETY: the caller's promise.
    let text = unsafe { text(pointer) }?;
    text.ok_or_else(|| invalid("a text is null"))
}

/// Bytes; null is allowed where there are none.
///
/// # Safety
/// `bytes` is null or points to `len` bytes that nobody changes meanwhile.
pub(crate) unsafe fn bytes<'a>(bytes: *const u8, len: usize) -> Result<&'a [u8], PscStatus> {
    if len == 0 {
        return Ok(&[]);
    }
    if bytes.is_null() {
        return Err(invalid("a payload is null"));
    }
    if isize::try_from(len).is_err() {
        return Err(invalid("a payload is too long"));
    }
    // SAFETY: not null, at most `isize::MAX`; the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(bytes, len) })
}

/// Something that a pointer points to.
///
/// # Safety
/// `pointer` is null or points to a valid `T` that nobody changes meanwhile.
pub(crate) unsafe fn reference<'a, T>(pointer: *const T) -> Result<&'a T, PscStatus> {
    // SAFETY: null is looked for; the rest is the caller's promise.
    unsafe { pointer.as_ref() }.ok_or_else(|| invalid("a pointer is null"))
}

/// Gives the connector away: its pointer owns one count of the `Arc`.
pub(crate) fn into_pointer(connector: Connector) -> *mut PscConnector {
    Arc::into_raw(Arc::new(PscConnector { connector })).cast_mut()
}

/// A count of its own, so that a connector that a callback frees lives until the call is over in
/// which the callback runs.
///
/// # Safety
/// `connector` is null or came from [`into_pointer`] and was not taken back.
pub(crate) unsafe fn shared(
    connector: *const PscConnector,
) -> Result<Arc<PscConnector>, PscStatus> {
    if connector.is_null() {
        return Err(invalid("the connector is null"));
    }
    // SAFETY: by the caller's promise the pointer is that of an `Arc` with a count of at least 1.
    unsafe {
        Arc::increment_strong_count(connector);
        Ok(Arc::from_raw(connector))
    }
}

/// A message as C gives it: its connector, its id, and its payload of `len` bytes.
///
/// # Safety
/// As for [`shared`], [`text`] and [`bytes`].
pub(crate) unsafe fn message<'a>(
    connector: *const PscConnector,
    msg_id: *const c_char,
    payload: *const u8,
    len: usize,
) -> Result<(Arc<PscConnector>, &'a str, &'a [u8]), PscStatus> {
    // SAFETY: the caller's promises.
    unsafe { Ok((shared(connector)?, required(msg_id)?, bytes(payload, len)?)) }
}

/// Takes back what [`into_pointer`] gave.
///
/// # Safety
/// As for [`shared`]; the pointer is void afterwards.
pub(crate) unsafe fn take_back(connector: *mut PscConnector) -> Option<Arc<PscConnector>> {
    if connector.is_null() {
        return None;
    }
    // SAFETY: by the caller's promise this is the count that `into_pointer` gave away.
    Some(unsafe { Arc::from_raw(connector.cast_const()) })
}

/// A packet as C sees it: pointers into `id` and `packet`, valid as long as those live.
pub(crate) fn view(id: &CStr, packet: &Packet) -> PscPacket {
    PscPacket {
        msg_id: id.as_ptr(),
        msg_id_len: id.count_bytes(),
        stage_id: packet.stage_id,
        error: packet.error.0,
        payload: packet.payload.as_ptr(),
        payload_len: packet.payload.len(),
    }
}

/// A pointer of the user's, which we carry between threads and never look at.
#[derive(Clone, Copy)]
pub(crate) struct UserData(pub(crate) *mut c_void);

// SAFETY: it is only handed back; that its callbacks may run on another thread is documented, and
// what it points to is the user's to protect.
unsafe impl Send for UserData {}

/// The user's callbacks for events.
#[derive(Clone, Copy)]
pub(crate) struct Callbacks(pub(crate) PscCallbacks);

// SAFETY: functions are shared freely; for `user_data` see `UserData`.
unsafe impl Send for Callbacks {}

impl Callbacks {
    /// Calls what the event is for.
    pub(crate) fn call(&self, event: &Event) {
        let callbacks = &self.0;
        let user_data = callbacks.user_data;
        match event {
            Event::Connected => {
                if let Some(call) = callbacks.on_connected {
                    // SAFETY: the user promised a function of this type, which gets its own data.
                    unsafe { call(user_data) };
                }
            }
            Event::ConnectFailed {
                error,
                reconnecting,
            } => tell(callbacks.on_connect_failed, user_data, error, *reconnecting),
            Event::Disconnected {
                reason,
                reconnecting,
            } => tell(callbacks.on_disconnected, user_data, reason, *reconnecting),
            Event::Received(packet) => lend(callbacks.on_received, user_data, packet),
            Event::Reauthenticated(packet) => lend(callbacks.on_reauthenticated, user_data, packet),
            _ => {} // an event that this interface does not know yet
        }
    }
}

fn tell(
    call: Option<unsafe extern "C" fn(*mut c_void, *const c_char, bool)>,
    user_data: *mut c_void,
    reason: &dyn std::fmt::Display,
    reconnecting: bool,
) {
    if let Some(call) = call {
        let reason = c_string(reason.to_string().as_bytes());
        // SAFETY: the user promised a function of this type; the text lives until it returns.
        unsafe { call(user_data, reason.as_ptr(), reconnecting) };
    }
}

fn lend(
    call: Option<unsafe extern "C" fn(*mut c_void, *const PscPacket)>,
    user_data: *mut c_void,
    packet: &Packet,
) {
    if let Some(call) = call {
        let id = c_string(packet.msg_id.as_bytes());
        // SAFETY: the user promised a function of this type; the packet lives until it returns.
        unsafe { call(user_data, &view(&id, packet)) };
    }
}

/// Calls back with an answer.
pub(crate) fn answer(call: PscAnswer, user_data: UserData, answer: &Result<Packet, RequestError>) {
    let Some(call) = call else { return };
    let (code, packet) = match answer {
        Ok(packet) => (0, Some(packet)),
        Err(RequestError::Refused(packet)) => (packet.error.0, Some(packet)),
        Err(error) => (error.code().0, None),
    };
    let id = packet.map(|packet| c_string(packet.msg_id.as_bytes()));
    let view = id
        .as_deref()
        .zip(packet)
        .map(|(id, packet)| view(id, packet));
    let view = view.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the user promised a function of this type; the packet lives until it returns.
    unsafe { call(user_data.0, code, view) };
}
