// What the framed echoes on standalone Asio share: all but what the bytes travel through.
//
// One io_context per thread with every lock of Asio turned off, executors by their concrete type,
// handlers in storage inside their session, no reference counts. A session reads into a buffer of
// its own, dispatches every frame of a read to a handler, which appends its answer to `main`; at
// the end of the read main and flush change places and one async_write_some is kept in flight
// until both are empty.
//
// A `Transport` says what the bytes travel through:
//   Stream         reads and writes as Asio's streams do, made of a socket and the Context
//   Context        what all streams of a shard share, made of the options
//   layered        true if a stream takes an operation to begin and one to end: begin, end
//   receive_bytes  what a session reads into at first
#pragma once

#include "../common/peer.h"

#define ASIO_STANDALONE 1
#define ASIO_NO_DEPRECATED 1
#include <asio.hpp>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <sys/eventfd.h>
#include <thread>
#include <utility>
#include <vector>

namespace {

using asio::error_code;
using tcp = asio::ip::tcp;
// Not the default any_io_executor: no virtual call and no allocation on the way of a completion.
using Executor = asio::io_context::executor_type;
using Socket = asio::basic_stream_socket<tcp, Executor>;
using Acceptor = asio::basic_socket_acceptor<tcp, Executor>;
using Timer = asio::basic_waitable_timer<std::chrono::steady_clock,
                                         asio::wait_traits<std::chrono::steady_clock>, Executor>;

constexpr std::size_t header_bytes = 4;
constexpr std::size_t queued_bytes_max = 1024 * 1024;  // more unsent bytes stop the reading
constexpr std::size_t send_bytes = 32 * 1024;          // a new send buffer
constexpr std::size_t pooled_bytes_max = 128 * 1024;   // a larger one is not kept for reuse
constexpr std::size_t pooled_count_max = 256;
constexpr auto accept_retry = std::chrono::milliseconds(50);

struct BigEndian {
    static std::uint32_t load(const std::byte* p) {
        std::uint32_t v;
        std::memcpy(&v, p, sizeof v);
        return std::endian::native == std::endian::little ? __builtin_bswap32(v) : v;
    }
    static void store(std::byte* p, std::uint32_t v) {
        if (std::endian::native == std::endian::little) v = __builtin_bswap32(v);
        std::memcpy(p, &v, sizeof v);
    }
};

struct LittleEndian {
    static std::uint32_t load(const std::byte* p) {
        std::uint32_t v;
        std::memcpy(&v, p, sizeof v);
        return std::endian::native == std::endian::little ? v : __builtin_bswap32(v);
    }
    static void store(std::byte* p, std::uint32_t v) {
        if (std::endian::native != std::endian::little) v = __builtin_bswap32(v);
        std::memcpy(p, &v, sizeof v);
    }
};

// Bytes without the zeroing of std::vector.
class Bytes {
public:
    Bytes() = default;
    Bytes(Bytes&& o) noexcept
        : data_(std::move(o.data_)),
          size_(std::exchange(o.size_, 0)),
          capacity_(std::exchange(o.capacity_, 0)) {}
    Bytes& operator=(Bytes&& o) noexcept {
        data_ = std::move(o.data_);
        size_ = std::exchange(o.size_, 0);
        capacity_ = std::exchange(o.capacity_, 0);
        return *this;
    }

    std::byte* data() { return data_.get(); }
    std::size_t size() const { return size_; }
    std::size_t capacity() const { return capacity_; }
    void clear() { size_ = 0; }
    void set_size(std::size_t n) { size_ = n; }

    // Room for `n` more bytes after the present ones; they count as present from now on.
    std::byte* extend(std::size_t n) {
        if (capacity_ - size_ < n) [[unlikely]]
            reserve(std::max({2 * capacity_, size_ + n, send_bytes}));
        std::byte* at = data_.get() + size_;
        size_ += n;
        return at;
    }

    void reserve(std::size_t capacity) {
        auto bigger = std::make_unique_for_overwrite<std::byte[]>(capacity);
        if (size_ != 0) std::memcpy(bigger.get(), data_.get(), size_);
        data_ = std::move(bigger);
        capacity_ = capacity;
    }

private:
    std::unique_ptr<std::byte[]> data_;
    std::size_t size_ = 0;
    std::size_t capacity_ = 0;
};

// The send buffers of a shard that no session has use for. Last in, first out: the next session
// gets the one that is still in the cache, and a session without unsent bytes holds none.
class BytesPool {
public:
    Bytes take() {
        if (free_.empty()) return Bytes();
        Bytes b = std::move(free_.back());
        free_.pop_back();
        return b;
    }

    void give_back(Bytes& b) {
        if (b.capacity() <= pooled_bytes_max && free_.size() < pooled_count_max) {
            b.clear();
            free_.push_back(std::move(b));
        }
        b = Bytes();
    }

private:
    std::vector<Bytes> free_;
};

constexpr std::size_t operation_bytes = 256;

// Storage for the one operation of a kind that a session has under way.
class OperationStorage {
public:
    void* allocate(std::size_t n) {
        if (used_ || n > sizeof storage_) return ::operator new(n);
        used_ = true;
        return storage_;
    }
    void deallocate(void* p) {
        if (p == storage_) used_ = false;
        else ::operator delete(p);
    }

private:
    alignas(std::max_align_t) std::byte storage_[operation_bytes];
    bool used_ = false;
};

template <class T>
struct OperationAllocator {
    using value_type = T;
    OperationStorage* storage;

    explicit OperationAllocator(OperationStorage* s) : storage(s) {}
    template <class U>
    OperationAllocator(const OperationAllocator<U>& o) : storage(o.storage) {}
    T* allocate(std::size_t n) { return static_cast<T*>(storage->allocate(n * sizeof(T))); }
    void deallocate(T* p, std::size_t) { storage->deallocate(p); }
    template <class U>
    bool operator==(const OperationAllocator<U>& o) const { return storage == o.storage; }
};

// A completion handler that calls one member of its owner and lives in the owner's storage.
template <class Owner, void (Owner::*method)(error_code, std::size_t)>
struct Completion {
    using allocator_type = OperationAllocator<void>;
    Owner* owner;
    OperationStorage* storage;
    allocator_type get_allocator() const { return allocator_type(storage); }
    void operator()(error_code ec, std::size_t n = 0) const { (owner->*method)(ec, n); }
};

struct Counters {
    std::uint64_t accepted = 0;
    std::uint64_t frames = 0;
    std::uint64_t bytes = 0;
    std::uint64_t oversized = 0;
};

template <class Order, class Transport>
class Session;

// What the sessions of a shard share.
template <class Order, class Transport>
struct Common {
    explicit Common(const peer_options& options) : context(options) {}

    typename Transport::Context context;
    Session<Order, Transport>* first = nullptr;  // of the list of all sessions
    BytesPool pool;
    Counters counters;
};

// Alive as long as one of its operations is, which is always: it either reads, or is stopped by
// back-pressure and then writes. The completion that finds it closed and idle deletes it.
template <class Order, class Transport>
class Session {
public:
    Session(Socket socket, Common<Order, Transport>& common)
        : stream_(Transport::stream(std::move(socket), common.context)),
          common_(common),
          next_(common.first) {
        if (next_) next_->previous_ = this;
        common_.first = this;
    }
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    void start() {
        if constexpr (Transport::layered) {
            reading_ = true;
            Transport::begin(stream_,
                             Completion<Session, &Session::on_begun>{this, &read_storage_});
        } else {
            on_begun(error_code(), 0);
        }
    }

    // Ends both operations; the last of their completions deletes the session.
    void close() {
        error_code ignored;
        stream_.lowest_layer().close(ignored);
    }

    Session* next() const { return next_; }

    // What a handler answers with. Goes out after the frames of this read are dispatched.
    void send(std::span<const std::byte> body) {
        if (main_.capacity() == 0) main_ = common_.pool.take();
        std::byte* at = main_.extend(header_bytes + body.size());
        Order::store(at, static_cast<std::uint32_t>(body.size()));
        if (!body.empty()) std::memcpy(at + header_bytes, body.data(), body.size());
    }

private:
    ~Session() {
        if (next_) next_->previous_ = previous_;
        (previous_ ? previous_->next_ : common_.first) = next_;
    }

    void on_begun(error_code ec, std::size_t) {
        reading_ = false;
        if (ec) return fail();
        received_.reserve(Transport::receive_bytes);
        read();
    }

    void read() {
        // Full means one frame longer than the buffer, of which this much has arrived.
        if (received_.size() == received_.capacity())
            received_.reserve(std::min<std::size_t>(2 * received_.capacity(),
                                                    header_bytes + PEER_FRAME_MAX));
        reading_ = true;
        stream_.async_read_some(asio::buffer(received_.data() + received_.size(),
                                             received_.capacity() - received_.size()),
                                Completion<Session, &Session::on_read>{this, &read_storage_});
    }

    void on_read(error_code ec, std::size_t n) {
        reading_ = false;
        if (ec == asio::error::eof) {  // the answers under way still belong to the peer
            ended_ = true;
            return writing_ ? void() : end();
        }
        if (ec) return fail();
        common_.counters.bytes += n;
        received_.set_size(received_.size() + n);
        if (!dispatch_frames()) {
            common_.counters.oversized++;
            return fail();
        }
        if (!writing_ && main_.size() != 0) write();
        if (queued() <= queued_bytes_max) read();
    }

    // Every complete frame to the handler, the tail to the front. False: a frame over the limit.
    bool dispatch_frames() {
        const std::byte* at = received_.data();
        std::size_t left = received_.size();
        while (left >= header_bytes) {
            const std::size_t body = Order::load(at);
            if (body > PEER_FRAME_MAX) return false;
            if (left - header_bytes < body) break;
            on_message(std::span(at + header_bytes, body));
            at += header_bytes + body;
            left -= header_bytes + body;
        }
        if (left != 0 && at != received_.data()) std::memmove(received_.data(), at, left);
        received_.set_size(left);
        return true;
    }

    void on_message(std::span<const std::byte> body) {
        common_.counters.frames++;
        send(body);
    }

    void write() {
        if (flush_.size() == 0) std::swap(main_, flush_);
        writing_ = true;
        stream_.async_write_some(asio::buffer(flush_.data() + flushed_, flush_.size() - flushed_),
                                 Completion<Session, &Session::on_write>{this, &write_storage_});
    }

    void on_write(error_code ec, std::size_t n) {
        writing_ = false;
        if (ec) return fail();
        flushed_ += n;
        if (flushed_ == flush_.size()) {
            common_.pool.give_back(flush_);
            flushed_ = 0;
        }
        if (queued() != 0) write();
        else if (ended_) return end();
        if (!reading_ && !ended_ && queued() <= queued_bytes_max) read();
    }

    std::size_t queued() const { return main_.size() + flush_.size() - flushed_; }

    // Everything is answered and nothing more will come.
    void end() {
        if constexpr (Transport::layered) {
            writing_ = true;
            Transport::end(stream_,
                           Completion<Session, &Session::on_end>{this, &write_storage_});
        } else {
            fail();
        }
    }

    void on_end(error_code, std::size_t) {
        writing_ = false;
        fail();
    }

    void fail() {
        close();
        ended_ = true;
        if (!reading_ && !writing_) delete this;
    }

    typename Transport::Stream stream_;
    bool reading_ = false;
    bool writing_ = false;
    bool ended_ = false;  // nothing more will be read
    std::size_t flushed_ = 0;
    Bytes received_, main_, flush_;
    Common<Order, Transport>& common_;
    Session* next_;
    Session* previous_ = nullptr;
    OperationStorage read_storage_, write_storage_;
};

template <class Order, class Transport>
class Shard {
public:
    Shard(peer_options& options, int index, int first_listener)
        // No lock anywhere: this io_context is touched by its own thread only. The main thread
        // ends it through an eventfd, not through a call.
        : context_(ASIO_CONCURRENCY_HINT_UNSAFE),
          acceptor_(context_),
          retry_(context_),
          stop_(context_),
          options_(options),
          index_(index),
          common_(options) {
        listener_ = peer_listen(&options, index, first_listener);
        const bool v6 = options.addr.ss_family == AF_INET6;
        acceptor_.assign(v6 ? tcp::v6() : tcp::v4(), listener_);
        stop_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (stop_fd_ < 0) peer_fail(options.name, "eventfd");
        stop_.assign(stop_fd_);
    }

    int listener() const { return listener_; }
    const Counters& counters() const { return common_.counters; }

    void run() {
        peer_pin(&options_, index_);
        accept();
        stop_.async_wait(asio::posix::descriptor_base::wait_read, [this](error_code) { end(); });
        context_.run();  // until nothing is left to do, see end()
    }

    void request_end() { eventfd_write(stop_fd_, 1); }

private:
    void accept() {
        acceptor_.async_accept([this](error_code ec, Socket socket) {
            if (ended_) return;
            if (ec) {  // out of descriptors, or of memory: not before some are free
                retry_.expires_after(accept_retry);
                retry_.async_wait([this](error_code) { if (!ended_) accept(); });
                return;
            }
            error_code ignored;
            socket.set_option(tcp::no_delay(true), ignored);
            common_.counters.accepted++;
            (new Session<Order, Transport>(std::move(socket), common_))->start();
            accept();
        });
    }

    void end() {
        ended_ = true;
        error_code ignored;
        acceptor_.close(ignored);
        retry_.cancel();
        for (auto* s = common_.first; s; s = s->next()) s->close();
    }

    asio::io_context context_;
    Acceptor acceptor_;
    Timer retry_;
    asio::posix::basic_stream_descriptor<Executor> stop_;
    peer_options& options_;
    int index_;
    int listener_ = -1;
    int stop_fd_ = -1;
    bool ended_ = false;
    Common<Order, Transport> common_;
};

template <class Order, class Transport>
void serve_in(peer_options& options, const sigset_t& end) {
    std::vector<std::unique_ptr<Shard<Order, Transport>>> shards;
    for (int i = 0; i < options.shards; i++)
        shards.push_back(std::make_unique<Shard<Order, Transport>>(
            options, i, shards.empty() ? -1 : shards.front()->listener()));
    std::vector<std::thread> threads;
    for (auto& shard : shards) threads.emplace_back([&shard] { shard->run(); });

    peer_wait_for_end(&options, &end);
    Counters all;
    for (std::size_t i = 0; i < shards.size(); i++) {
        shards[i]->request_end();
        threads[i].join();
        const Counters& c = shards[i]->counters();
        all.accepted += c.accepted;
        all.frames += c.frames;
        all.bytes += c.bytes;
        all.oversized += c.oversized;
    }
    std::fprintf(stderr, "%s: accepted=%llu frames=%llu bytes=%llu oversized=%llu\n", options.name,
                 static_cast<unsigned long long>(all.accepted),
                 static_cast<unsigned long long>(all.frames),
                 static_cast<unsigned long long>(all.bytes),
                 static_cast<unsigned long long>(all.oversized));
}

// Serves until the process is told to end.
template <class Transport>
void serve(peer_options& options) {
    sigset_t end;
    peer_prepare(&end);
    if (options.framing == PEER_LE32) serve_in<LittleEndian, Transport>(options, end);
    else serve_in<BigEndian, Transport>(options, end);
}

}  // namespace
