//! System calls on sockets that neither std nor mio wraps the way the driver needs them.

use std::fs;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};

use crate::options::{Address, SocketOptions};

/// Receives into `buffer`. `Ok(0)` is the end of the stream.
pub(super) fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the pointer and length are those of `buffer`, which we borrow exclusively for
        // the call; the kernel writes at most that many bytes.
        let got =
            unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        match checked(got) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Sends the parts with one call, without raising `SIGPIPE`.
pub(super) fn send(fd: BorrowedFd<'_>, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    loop {
        let sent = match parts {
            // SAFETY: the pointer and length are those of a slice that we borrow for the call.
            [one] => unsafe {
                libc::send(
                    fd.as_raw_fd(),
                    one.as_ptr().cast(),
                    one.len(),
                    libc::MSG_NOSIGNAL,
                )
            },
            _ => {
                // SAFETY: an all-zero `msghdr` is a valid empty one.
                let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
                message.msg_iov = parts.as_ptr().cast_mut().cast();
                message.msg_iovlen = parts.len();
                // SAFETY: `IoSlice` is guaranteed to have the layout of `iovec`; the array and
                // the slices it points to are borrowed for the call, and only read.
                unsafe { libc::sendmsg(fd.as_raw_fd(), &message, libc::MSG_NOSIGNAL) }
            }
        };
        match checked(sent) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Accepts one connection, non-blocking and close-on-exec.
pub(super) fn accept(fd: BorrowedFd<'_>) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
    // SAFETY: an all-zero `sockaddr_storage` is valid.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the address and its length are ours, of the size given.
    let accepted = unsafe {
        libc::accept4(
            fd.as_raw_fd(),
            (&raw mut storage).cast(),
            &raw mut length,
            flags,
        )
    };
    if accepted < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(accepted) };
    Ok((socket, socket_address(&storage)))
}

fn socket_address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let mut address = MaybeUninit::<socket2::SockAddrStorage>::uninit();
    debug_assert!(size_of::<socket2::SockAddrStorage>() >= size_of::<libc::sockaddr_storage>());
    // SAFETY: both are `sockaddr_storage` in size and layout (socket2 wraps it transparently),
    // and the source is initialised.
    let address = unsafe {
        address
            .as_mut_ptr()
            .cast::<libc::sockaddr_storage>()
            .write(*storage);
        address.assume_init()
    };
    let length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: the storage holds an address that the kernel wrote.
    unsafe { SockAddr::new(address, length) }.as_socket()
}

fn checked(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Applies the options to a connected or connecting socket. Options that the socket's family
/// does not know are left out.
pub(super) fn configure(fd: BorrowedFd<'_>, options: &SocketOptions) -> io::Result<()> {
    let socket = SockRef::from(&fd);
    if let Some(bytes) = options.receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(bytes) = options.send_buffer {
        socket.set_send_buffer_size(bytes)?;
    }
    let is_tcp = matches!(socket.domain()?, Domain::IPV4 | Domain::IPV6);
    if is_tcp {
        socket.set_tcp_nodelay(options.nodelay)?;
        if let Some((idle, interval)) = options.keep_alive {
            let keep_alive = TcpKeepalive::new().with_time(idle).with_interval(interval);
            socket.set_tcp_keepalive(&keep_alive)?;
        }
    }
    Ok(())
}

/// Starts a non-blocking connect.
pub(super) fn connect(to: &Address, options: &SocketOptions) -> io::Result<OwnedFd> {
    let (domain, address) = match to {
        Address::Tcp(address) => (Domain::for_address(*address), SockAddr::from(*address)),
        Address::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
    };
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None)?;
    configure(socket.as_fd(), options)?;
    match socket.connect(&address) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// The error that a socket has pending, as connecting leaves it.
pub(super) fn take_error(fd: BorrowedFd<'_>) -> io::Result<Option<io::Error>> {
    SockRef::from(&fd).take_error()
}

/// Ends our side of the stream.
pub(super) fn finish(fd: BorrowedFd<'_>) {
    // A connection that is already broken says so at the next read.
    let _ = SockRef::from(&fd).shutdown(std::net::Shutdown::Write);
}

/// Makes closing the socket reset the connection.
pub(super) fn reset_on_close(fd: BorrowedFd<'_>) {
    // Without it the peer sees an orderly end; there is nothing better to do.
    let _ = SockRef::from(&fd).set_linger(Some(std::time::Duration::ZERO));
}

/// Binds and listens; `share` lets several shards listen at the same TCP address.
pub(crate) fn bind(address: &Address, backlog: u32, share: bool) -> io::Result<OwnedFd> {
    let explain = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen at {address}: {error}"))
    };
    let (domain, sock_addr) = match address {
        Address::Tcp(tcp) => (Domain::for_address(*tcp), SockAddr::from(*tcp)),
        Address::Unix(path) => {
            remove_stale(path).map_err(explain)?;
            (Domain::UNIX, SockAddr::unix(path).map_err(explain)?)
        }
    };
    let listen = || -> io::Result<OwnedFd> {
        let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None)?;
        if matches!(address, Address::Tcp(_)) {
            socket.set_reuse_address(true)?;
            if share {
                socket.set_reuse_port(true)?;
            }
        }
        socket.bind(&sock_addr)?;
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        Ok(socket.into())
    };
    listen().map_err(explain)
}

/// Removes a socket file that nobody listens on any more. Any other file is left alone: connecting
/// to it is refused as well.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        _ => return Ok(()), // not there, or not ours to remove: then bind says "address in use"
    }
    // Without blocking: a living server whose backlog is full would make us wait.
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Ok(()), // gone meanwhile, or alive: then bind says "address in use"
    }
}

/// Makes an inherited listening socket non-blocking and checks that it is one.
pub(crate) fn adopt_listener(fd: OwnedFd) -> io::Result<OwnedFd> {
    let socket = Socket::from(fd);
    if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
        let expected = "the inherited descriptor is not a listening stream socket";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, expected));
    }
    socket.set_nonblocking(true)?;
    socket.set_cloexec(true)?;
    Ok(socket.into())
}

/// Takes a listening socket that was passed over `exec`, and marks it close-on-exec.
///
/// What this process opened itself is left alone: `std` and this crate open every descriptor
/// close-on-exec, and one that has been taken is too, so that it cannot be taken twice.
pub(crate) fn take_passed_listener(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only looks at the number, which need not be open.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & libc::FD_CLOEXEC != 0 {
        let expected = "opened or taken by this process, expected one that was passed to it";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, expected));
    }
    // SAFETY: it is open, as just seen, and nobody in this process owns it: whoever started it left
    // it open over `exec` and named this process in LISTEN_PID; what was opened since is
    // close-on-exec.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    adopt_listener(fd)
}

/// The address that a socket is bound to.
pub(crate) fn local_address(fd: BorrowedFd<'_>) -> io::Result<Address> {
    let address = SockRef::from(&fd).local_addr()?;
    if let Some(tcp) = address.as_socket() {
        return Ok(Address::Tcp(tcp));
    }
    let path = address.as_pathname().map(Path::to_path_buf);
    Ok(Address::Unix(path.unwrap_or_default()))
}

/// Binds the calling thread to one CPU.
pub(crate) fn pin_thread(cpu: usize) -> io::Result<()> {
    // SAFETY: an all-zero `cpu_set_t` is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: `cpu` is within the set, as checked above; the set is ours.
    let result = unsafe {
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
