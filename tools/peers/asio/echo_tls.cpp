// The framed echo over TLS 1.3: standalone Asio's ssl::stream over OpenSSL, see framed.hpp.
#include "framed.hpp"

#include <asio/ssl.hpp>

namespace {

struct Tls {
    // With the executor by its concrete type, as everywhere here.
    using Stream = asio::ssl::stream<Socket>;

    struct Context {
        explicit Context(const peer_options& options)
            : ssl(asio::ssl::context::tlsv13_server) {
            error_code ec;
            ssl.use_certificate_chain_file(options.certificate, ec);
            if (ec) fail(options, "--cert", ec);
            ssl.use_private_key_file(options.key, asio::ssl::context::pem, ec);
            if (ec) fail(options, "--key", ec);
            // OpenSSL's own buffers are freed while they are empty; Asio's are not.
            SSL_CTX_set_mode(ssl.native_handle(), SSL_MODE_RELEASE_BUFFERS);
        }

        asio::ssl::context ssl;

    private:
        [[noreturn]] static void fail(const peer_options& options, const char* flag,
                                      const error_code& ec) {
            std::fprintf(stderr, "%s: %s: %s\n", options.name, flag, ec.message().c_str());
            std::exit(1);
        }
    };

    static constexpr bool layered = true;
    // ssl::stream gives one record at a time, of at most 16 KiB; with a tail in front of it.
    static constexpr std::size_t receive_bytes = 32 * 1024;

    static Stream stream(Socket socket, Context& context) {
        return Stream(std::move(socket), context.ssl);
    }
    template <class Handler>
    static void begin(Stream& stream, Handler handler) {
        stream.async_handshake(asio::ssl::stream_base::server, std::move(handler));
    }
    template <class Handler>
    static void end(Stream& stream, Handler handler) {
        stream.async_shutdown(std::move(handler));
    }
};

}  // namespace

int main(int argc, char** argv) {
    peer_options options;
    peer_parse(argc, argv, "peer-asio-tls", PEER_TAKES_CERTIFICATE, &options);
    serve<Tls>(options);
    return 0;
}
