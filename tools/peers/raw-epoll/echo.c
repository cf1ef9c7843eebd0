/* The practical limit: a byte echo on epoll that knows nothing about frames.
 *
 * Each thread has its own listener (SO_REUSEPORT), its own epoll and one 64 KiB buffer for all its
 * connections, which therefore stays in the second-level cache. What the socket took in is sent
 * back at once. A connection owns memory only while the kernel refuses bytes: the remainder, at
 * most one buffer, and until it is gone nothing more is read from that connection. */
#include "../common/peer.h"
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

enum {
    BUFFER_BYTES = 64 * 1024,
    EVENTS_PER_WAIT = 1024,
    READS_PER_EVENT = 16, /* 1 MiB; then the others have their turn */
};

struct connection {
    int fd;
    uint32_t pending_len; /* bytes of `pending` that are still to be sent, from pending_off */
    uint32_t pending_off;
    uint8_t *pending; /* NULL unless the last write was short */
};

struct shard {
    pthread_t thread;
    int index;
    int listener;
    int stop;  /* eventfd */
    int spare; /* given up for a moment to turn a connection away when descriptors run out */
    int epoll;
    const struct peer_options *options;
    uint64_t accepted, refused, reads, bytes;
    uint8_t buffer[BUFFER_BYTES];
};

static void watch(struct shard *s, int op, int fd, uint32_t events, void *tag) {
    struct epoll_event ev = {.events = events, .data.ptr = tag};
    if (epoll_ctl(s->epoll, op, fd, &ev) != 0)
        peer_fail(s->options->name, "epoll_ctl");
}

/* Edge-triggered, registered once for both directions: no epoll_ctl after this one, except when a
 * connection has used up its turn. */
enum { CONNECTION_EVENTS = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET };

static void accept_all(struct shard *s) {
    for (;;) {
        int fd = accept4(s->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE) && s->spare >= 0) {
            /* The listener is level-triggered: what is not accepted would come back for ever. */
            close(s->spare);
            close(accept4(s->listener, NULL, NULL, SOCK_CLOEXEC));
            s->spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
            s->refused++;
            continue;
        }
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (fd < 0)
            return;
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct connection *c = calloc(1, sizeof *c);
        if (!c)
            peer_fail(s->options->name, "out of memory");
        c->fd = fd;
        s->accepted++;
        watch(s, EPOLL_CTL_ADD, fd, CONNECTION_EVENTS, c);
    }
}

static void close_connection(struct connection *c) {
    close(c->fd);
    free(c->pending);
    free(c);
}

enum progress { DONE, BLOCKED, BROKEN };

/* Sends up to `len` bytes, as many as the socket takes now; `*sent` says how many those were. */
static enum progress send_now(int fd, const uint8_t *data, size_t len, size_t *sent) {
    *sent = 0;
    while (*sent < len) {
        ssize_t n = send(fd, data + *sent, len - *sent, MSG_NOSIGNAL);
        if (n >= 0)
            *sent += (size_t)n;
        else if (errno == EAGAIN)
            return BLOCKED;
        else if (errno != EINTR)
            return BROKEN;
    }
    return DONE;
}

static enum progress send_pending(struct connection *c) {
    size_t sent;
    enum progress p = send_now(c->fd, c->pending + c->pending_off, c->pending_len, &sent);
    c->pending_off += (uint32_t)sent;
    c->pending_len -= (uint32_t)sent;
    if (p == DONE) {
        free(c->pending);
        c->pending = NULL;
        c->pending_off = 0;
    }
    return p;
}

static void keep_pending(struct shard *s, struct connection *c, const uint8_t *data, size_t len) {
    c->pending = malloc(len);
    if (!c->pending)
        peer_fail(s->options->name, "out of memory");
    memcpy(c->pending, data, len);
    c->pending_len = (uint32_t)len;
}

static void serve(struct shard *s, struct connection *c, uint32_t events) {
    if (c->pending) {
        enum progress p = send_pending(c);
        if (p == BROKEN)
            close_connection(c);
        if (p != DONE)
            return;
    }
    /* A short read means that the socket is empty, and the next byte makes a new edge. Only the
     * end of the stream may already have been announced by this event: then read up to it. */
    bool to_the_end = (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
    for (int turn = 0; turn < READS_PER_EVENT; turn++) {
        ssize_t n = recv(c->fd, s->buffer, BUFFER_BYTES, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            close_connection(c);
            return;
        }
        s->reads++;
        s->bytes += (uint64_t)n;
        size_t sent;
        enum progress p = send_now(c->fd, s->buffer, (size_t)n, &sent);
        if (p == BROKEN) {
            close_connection(c);
            return;
        }
        if (p == BLOCKED) {
            keep_pending(s, c, s->buffer + sent, (size_t)n - sent);
            return;
        }
        if (n < BUFFER_BYTES && !to_the_end)
            return;
    }
    watch(s, EPOLL_CTL_MOD, c->fd, CONNECTION_EVENTS, c); /* raises the edge again if need be */
}

static void *run(void *arg) {
    struct shard *s = arg;
    peer_pin(s->options, s->index);
    struct epoll_event events[EVENTS_PER_WAIT];
    for (;;) {
        int n = epoll_wait(s->epoll, events, EVENTS_PER_WAIT, -1);
        if (n < 0 && errno != EINTR)
            peer_fail(s->options->name, "epoll_wait");
        for (int i = 0; i < n; i++) {
            void *tag = events[i].data.ptr;
            if (tag == &s->stop)
                return NULL; /* the process ends, and the kernel closes the connections */
            if (tag == &s->listener)
                accept_all(s);
            else
                serve(s, tag, events[i].events);
        }
    }
}

int main(int argc, char **argv) {
    struct peer_options o;
    sigset_t end;
    peer_parse(argc, argv, "peer-raw-epoll", PEER_TAKES_RAW, &o);
    peer_prepare(&end);
    struct shard *shards = calloc((size_t)o.shards, sizeof *shards);
    if (!shards)
        peer_fail(o.name, "out of memory");
    for (int i = 0; i < o.shards; i++) {
        struct shard *s = &shards[i];
        s->index = i;
        s->options = &o;
        s->listener = peer_listen(&o, i, shards[0].listener);
        s->spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
        s->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        s->epoll = epoll_create1(EPOLL_CLOEXEC);
        if (s->stop < 0 || s->epoll < 0)
            peer_fail(o.name, "epoll");
        watch(s, EPOLL_CTL_ADD, s->listener, EPOLLIN, &s->listener);
        watch(s, EPOLL_CTL_ADD, s->stop, EPOLLIN, &s->stop);
    }
    for (int i = 0; i < o.shards; i++)
        if ((errno = pthread_create(&shards[i].thread, NULL, run, &shards[i])) != 0)
            peer_fail(o.name, "thread");

    peer_wait_for_end(&o, &end);
    uint64_t accepted = 0, refused = 0, reads = 0, bytes = 0;
    for (int i = 0; i < o.shards; i++) {
        eventfd_write(shards[i].stop, 1);
        pthread_join(shards[i].thread, NULL);
        accepted += shards[i].accepted;
        refused += shards[i].refused;
        reads += shards[i].reads;
        bytes += shards[i].bytes;
    }
    fprintf(stderr, "%s: accepted=%llu refused=%llu reads=%llu bytes=%llu\n", o.name,
            (unsigned long long)accepted, (unsigned long long)refused, (unsigned long long)reads,
            (unsigned long long)bytes);
    return 0;
}
