// A WebSocket echo on uWebSockets, as its own examples do it: one App and loop per thread.
//
// A read of up to 512 KiB is parsed in place; uWebSockets corks the socket meanwhile, so that up to
// 16 KiB of answers go out together. It has no way to stop reading for one connection, so one that
// does not read its answers is closed.
#include "../common/peer.h"

#include <App.h>

#include <future>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace {

constexpr unsigned queued_bytes_max = 1024 * 1024;

struct Counters {
    unsigned long long accepted = 0, messages = 0, bytes = 0, slow = 0;
};

struct Address {
    std::string host;
    int port;
};

Address address_of(const peer_options& options) {
    char host[64], port[16];
    if (getnameinfo(reinterpret_cast<const sockaddr*>(&options.addr), options.addr_len, host,
                    sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        peer_fail(options.name, "--listen");
    return {host, std::atoi(port)};
}

// Chooses the port if the command line leaves it open: uSockets lets others share only a port that
// it is told. The socket keeps the port until all shards listen; it does not listen itself. One
// shard shares its port with nobody, not even with that socket.
int reserve_port(peer_options& options) {
    const int fd = socket(options.addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;
    if (fd < 0) peer_fail(options.name, "socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (options.shards > 1) setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    auto* addr = reinterpret_cast<sockaddr*>(&options.addr);
    if (bind(fd, addr, options.addr_len) != 0) peer_fail(options.name, "bind");
    if (getsockname(fd, addr, &options.addr_len) != 0) peer_fail(options.name, "getsockname");
    if (options.shards > 1) return fd;
    close(fd);
    return -1;
}

class Shard {
public:
    // Returns once it listens.
    Shard(peer_options& options, int index) {
        std::promise<void> listening;
        auto listens = listening.get_future();
        thread_ = std::thread([this, &options, index, &listening] {
            peer_pin(&options, index);
            run(options, listening);
        });
        listens.wait();
    }

    Counters end() {
        loop_->defer([this] {
            us_listen_socket_close(0, listener_);
            app_->close();
        });
        thread_.join();
        return counters_;
    }

private:
    struct Nothing {};
    using Socket = uWS::WebSocket<false, true, Nothing>;

    void run(const peer_options& options, std::promise<void>& listening) {
        uWS::App app;
        app_ = &app;
        loop_ = uWS::Loop::get();
        app.ws<Nothing>("/*", {
            .compression = uWS::DISABLED,
            .maxPayloadLength = PEER_FRAME_MAX,
            .idleTimeout = 0,
            // Its own closeOnBackpressureLimit only shuts the reading side down, and what comes is
            // then still read until nothing is there: from one that sends fast enough, for ever.
            .maxBackpressure = queued_bytes_max,
            .sendPingsAutomatically = false,
            .open = [this](auto*) { counters_.accepted++; },
            .message =
                [this](auto* ws, std::string_view message, uWS::OpCode code) {
                    counters_.messages++;
                    counters_.bytes += message.size();
                    if (ws->send(message, code) == Socket::DROPPED) {
                        counters_.slow++;
                        ws->close();
                    }
                },
        });
        const Address at = address_of(options);
        const int how = options.shards > 1 ? LIBUS_LISTEN_DEFAULT : LIBUS_LISTEN_EXCLUSIVE_PORT;
        app.listen(at.host, at.port, how, [this](us_listen_socket_t* one) { listener_ = one; });
        if (!listener_) peer_fail(options.name, "listen");
        listening.set_value();
        app.run();
    }

    uWS::App* app_ = nullptr;
    uWS::Loop* loop_ = nullptr;
    us_listen_socket_t* listener_ = nullptr;
    Counters counters_;
    std::thread thread_;
};

}  // namespace

int main(int argc, char** argv) {
    peer_options options;
    sigset_t end;
    peer_parse(argc, argv, "peer-ws-uws", PEER_NO_FRAMING, &options);
    peer_prepare(&end);
    const int reserved = reserve_port(options);
    std::vector<std::unique_ptr<Shard>> shards;
    for (int i = 0; i < options.shards; i++) shards.push_back(std::make_unique<Shard>(options, i));
    if (reserved >= 0) close(reserved);

    peer_wait_for_end(&options, &end);
    Counters all;
    for (auto& shard : shards) {
        const Counters c = shard->end();
        all.accepted += c.accepted;
        all.messages += c.messages;
        all.bytes += c.bytes;
        all.slow += c.slow;
    }
    std::fprintf(stderr, "%s: accepted=%llu messages=%llu bytes=%llu slow=%llu\n", options.name,
                 all.accepted, all.messages, all.bytes, all.slow);
    return 0;
}
