// The framed echo over TLS 1.3: OpenSSL on standalone Asio, see framed.hpp.
//
// Not Asio's own ssl::stream, which reads and writes one record of 16 KiB at a time: here a read
// takes what the socket has, decrypts all whole records of it, and a write encrypts all there is,
// so that both cost one system call. OpenSSL takes its bytes from the buffer that was received into
// and appends to the one that is sent, which comes from the shard's pool.
#include "framed.hpp"

#include <openssl/err.h>
#include <openssl/ssl.h>

namespace {

constexpr std::size_t cipher_bytes = 32 * 1024;

class TlsStream {
public:
    TlsStream(Socket socket, SSL_CTX* context, BIO_METHOD* method)
        : socket_(std::move(socket)), ssl_(SSL_new(context)) {
        BIO* bio = BIO_new(method);
        BIO_set_data(bio, this);
        BIO_set_init(bio, 1);
        SSL_set_bio(ssl_, bio, bio);
        SSL_set_accept_state(ssl_);
        cipher_.reserve(cipher_bytes);
    }
    ~TlsStream() { SSL_free(ssl_); }
    TlsStream(const TlsStream&) = delete;
    TlsStream& operator=(const TlsStream&) = delete;

    Socket& lowest_layer() { return socket_; }

    template <class Handler>
    void async_begin(Handler handler) {
        const int result = SSL_accept(ssl_);
        const bool wants_more = SSL_get_error(ssl_, result) == SSL_ERROR_WANT_READ;
        if (result == 1 || wants_more || out_.size() != 0) {
            const auto then = result == 1 ? Then::done : wants_more ? Then::begin : Then::fail;
            if (out_.size() != 0) return flush(std::move(handler), then);
            if (result == 1) return finish(std::move(handler), error_code());
            return receive(std::move(handler), Then::begin);
        }
        finish(std::move(handler), asio::error::connection_aborted);
    }

    // Tells the peer that nothing more comes.
    template <class Handler>
    void async_end(Handler handler) {
        SSL_shutdown(ssl_);
        if (out_.size() == 0) return finish(std::move(handler), error_code());
        flush(std::move(handler), Then::done);
    }

    template <class Handler>
    void async_read_some(asio::mutable_buffer into, Handler handler) {
        into_ = into;
        decrypt(std::move(handler), false);
    }

    template <class Handler>
    void async_write_some(asio::const_buffer from, Handler handler) {
        if (SSL_write(ssl_, from.data(), static_cast<int>(from.size())) <= 0)
            return finish(std::move(handler), asio::error::connection_aborted);
        written_ = from.size();
        flush(std::move(handler), Then::written);
    }

    static BIO_METHOD* method() {
        BIO_METHOD* m = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "received and to be sent");
        BIO_meth_set_read(m, [](BIO* bio, char* into, int n) {
            return static_cast<TlsStream*>(BIO_get_data(bio))->give(bio, into, n);
        });
        BIO_meth_set_write(m, [](BIO* bio, const char* from, int n) {
            std::memcpy(static_cast<TlsStream*>(BIO_get_data(bio))->out_.extend(n), from, n);
            return n;
        });
        BIO_meth_set_ctrl(m, [](BIO*, int what, long, void*) -> long {
            return what == BIO_CTRL_FLUSH ? 1 : 0;
        });
        return m;
    }

private:
    // What follows a completion of the socket.
    enum class Then { begin, decrypt, written, done, fail };

    // A completion handler in the storage of the one that it leads to.
    template <class Handler>
    struct Step {
        using allocator_type = typename Handler::allocator_type;
        TlsStream* stream;
        Handler handler;
        Then then;
        bool flushing;
        allocator_type get_allocator() const { return handler.get_allocator(); }
        void operator()(error_code ec, std::size_t n = 0) {
            if (flushing) stream->flushed(std::move(handler), then, ec, n);
            else stream->received(std::move(handler), then, ec, n);
        }
    };

    // Calls the handler as if posted: not from within the function that was given it.
    template <class Handler>
    void finish(Handler handler, error_code ec, std::size_t n = 0) {
        struct Posted {
            using allocator_type = typename Handler::allocator_type;
            Handler handler;
            error_code ec;
            std::size_t n;
            allocator_type get_allocator() const { return handler.get_allocator(); }
            void operator()() { handler(ec, n); }
        };
        asio::post(socket_.get_executor(), Posted{std::move(handler), ec, n});
    }

    template <class Handler>
    void receive(Handler handler, Then then) {
        socket_.async_read_some(asio::buffer(cipher_.data(), cipher_.capacity()),
                                Step<Handler>{this, std::move(handler), then, false});
    }

    template <class Handler>
    void received(Handler handler, Then then, error_code ec, std::size_t n) {
        // An end without TLS having said so is none that one may trust.
        if (ec) return handler(asio::error::connection_aborted, 0);
        cipher_.set_size(n);
        taken_ = 0;
        if (then == Then::begin) async_begin(std::move(handler));
        else decrypt(std::move(handler), true);
    }

    // All that is there, then the handler, or more bytes; `inside` a completion of ours.
    template <class Handler>
    void decrypt(Handler handler, bool inside) {
        std::size_t n = 0;
        int result = 1;
        while (n < into_.size()) {
            result = SSL_read(ssl_, static_cast<char*>(into_.data()) + n,
                              static_cast<int>(into_.size() - n));
            if (result <= 0) break;
            n += static_cast<std::size_t>(result);
        }
        error_code ec;
        if (n == 0) {
            const int error = SSL_get_error(ssl_, result);
            if (error == SSL_ERROR_WANT_READ) return receive(std::move(handler), Then::decrypt);
            ERR_clear_error();
            ec = error == SSL_ERROR_ZERO_RETURN ? error_code(asio::error::eof)
                                                : error_code(asio::error::connection_aborted);
        }
        if (inside) handler(ec, n);
        else finish(std::move(handler), ec, n);
    }

    template <class Handler>
    void flush(Handler handler, Then then) {
        if (sending_.size() == 0) std::swap(out_, sending_);
        socket_.async_write_some(
            asio::buffer(sending_.data() + sent_, sending_.size() - sent_),
            Step<Handler>{this, std::move(handler), then, true});
    }

    template <class Handler>
    void flushed(Handler handler, Then then, error_code ec, std::size_t n) {
        if (ec) return handler(ec, 0);
        sent_ += n;
        if (sent_ == sending_.size()) {
            pool().give_back(sending_);
            sent_ = 0;
        }
        if (sending_.size() != 0 || (out_.size() != 0 && then == Then::written))
            return flush(std::move(handler), then);
        switch (then) {
            case Then::begin: return async_begin(std::move(handler));
            case Then::fail: return handler(asio::error::connection_aborted, 0);
            case Then::written: return handler(ec, written_);
            default: return handler(ec, 0);
        }
    }

    int give(BIO* bio, char* into, int n) {
        BIO_clear_retry_flags(bio);
        const std::size_t most = std::min<std::size_t>(n, cipher_.size() - taken_);
        if (most == 0) {
            BIO_set_retry_read(bio);
            return -1;
        }
        std::memcpy(into, cipher_.data() + taken_, most);
        taken_ += most;
        return static_cast<int>(most);
    }

    // One shard, one thread, one pool.
    static BytesPool& pool() {
        static thread_local BytesPool pool;
        return pool;
    }

    Socket socket_;
    SSL* ssl_;
    Bytes cipher_, out_, sending_;
    std::size_t taken_ = 0;  // of cipher_, by OpenSSL
    std::size_t sent_ = 0;
    std::size_t written_ = 0;  // plaintext of the write under way
    asio::mutable_buffer into_;
};

struct Tls {
    using Stream = TlsStream;

    struct Context {
        explicit Context(const peer_options& options)
            : ssl(SSL_CTX_new(TLS_server_method())), method(TlsStream::method()) {
            SSL_CTX_set_min_proto_version(ssl, TLS1_3_VERSION);
            if (SSL_CTX_use_certificate_chain_file(ssl, options.certificate) != 1)
                fail(options, "--cert");
            if (SSL_CTX_use_PrivateKey_file(ssl, options.key, SSL_FILETYPE_PEM) != 1)
                fail(options, "--key");
            SSL_CTX_set_mode(ssl, SSL_MODE_RELEASE_BUFFERS);  // an idle one holds none
            SSL_CTX_set_read_ahead(ssl, 1);  // header and body of a record by one look
            SSL_CTX_set_default_read_buffer_len(ssl, cipher_bytes);
        }

        SSL_CTX* ssl;
        BIO_METHOD* method;

    private:
        [[noreturn]] static void fail(const peer_options& options, const char* flag) {
            char text[256];
            ERR_error_string_n(ERR_get_error(), text, sizeof text);
            std::fprintf(stderr, "%s: %s: %s\n", options.name, flag, text);
            std::exit(1);
        }
    };

    static constexpr bool layered = true;
    static constexpr std::size_t receive_bytes = 48 * 1024;  // what one read can hold, and a tail

    static Stream stream(Socket socket, Context& context) {
        return Stream(std::move(socket), context.ssl, context.method);
    }
    template <class Handler>
    static void begin(Stream& stream, Handler handler) {
        stream.async_begin(std::move(handler));
    }
    template <class Handler>
    static void end(Stream& stream, Handler handler) {
        stream.async_end(std::move(handler));
    }
};

}  // namespace

int main(int argc, char** argv) {
    peer_options options;
    peer_parse(argc, argv, "peer-asio-tls", PEER_TAKES_CERTIFICATE, &options);
    serve<Tls>(options);
    return 0;
}
