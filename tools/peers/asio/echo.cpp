// A framed echo on standalone Asio, as well as we know how to write one: see framed.hpp.
#include "framed.hpp"

namespace {

struct Plain {
    using Stream = Socket;
    struct Context {
        explicit Context(const peer_options&) {}
    };
    static constexpr bool layered = false;
    static constexpr std::size_t receive_bytes = 64 * 1024;

    static Stream stream(Socket socket, Context&) { return socket; }
};

}  // namespace

int main(int argc, char** argv) {
    peer_options options;
    peer_parse(argc, argv, "peer-asio", 0, &options);
    serve<Plain>(options);
    return 0;
}
