/* A bare client on epoll, for calibration only: what one thread can ask of an echo server. It
 * keeps `inflight` frames outstanding on each connection, counts what comes back and looks at
 * none of it. `proscenium load`, which verifies payloads and takes latencies, has to reach 0.95
 * of it.
 *
 * All connections share one receive buffer and one send pattern. However many frames a read
 * brought back, as many go out by one send. */
#include "../common/peer.h"
#include <sys/epoll.h>
#include <time.h>

enum {
    RECEIVE_BYTES = 64 * 1024,
    EVENTS_PER_WAIT = 1024,
    CONNECTING_MAX = 256,           /* connects under way at a time */
    PATTERN_BYTES = 1024 * 1024,    /* upper bound of one send, unless a frame is longer */
    STARTS_PER_TURN = 64,           /* windows opened between two looks at the sockets */
};

struct connection {
    int fd;
    uint32_t part;    /* bytes of an incomplete frame that have come back */
    uint64_t owed;    /* bytes due to be sent that the socket has not taken */
    uint32_t phase;   /* position in the frame at which the next byte sent stands */
    bool connected;
};

struct load {
    struct sockaddr_storage addr;
    socklen_t addr_len;
    long ccu, size, inflight;
    double warmup, measure;
    enum peer_framing framing;

    int epoll;
    struct connection *connections;
    uint8_t *pattern;
    size_t pattern_len, frame_len;
    uint64_t frames; /* that have come back */
    uint8_t receive[RECEIVE_BYTES];
};

static const char NAME[] = "load-raw-epoll";

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static bool seconds(const char *text, double *out) {
    char *end;
    *out = strtod(text, &end);
    return end != text && *end == 0 && *out >= 0 && *out < 1e6;
}

static void parse(int argc, char **argv, struct load *l) {
    const char *v, *wrong = NULL;
    l->ccu = 100, l->size = 1024, l->inflight = 30, l->warmup = 1, l->measure = 3;
    for (int i = 1; i < argc && !wrong; i++) {
        const char *arg = argv[i];
        bool good;
        if ((v = peer_flag("--target", argc, argv, &i)))
            good = peer_resolve(v, &l->addr, &l->addr_len);
        else if ((v = peer_flag("--ccu", argc, argv, &i)))
            good = peer_number(v, 1, 1000000, &l->ccu);
        else if ((v = peer_flag("--size", argc, argv, &i)))
            good = peer_number(v, 0, PEER_FRAME_MAX, &l->size);
        else if ((v = peer_flag("--inflight", argc, argv, &i)))
            good = peer_number(v, 1, 1000000, &l->inflight);
        else if ((v = peer_flag("--warmup", argc, argv, &i)))
            good = seconds(v, &l->warmup);
        else if ((v = peer_flag("--measure", argc, argv, &i)))
            good = seconds(v, &l->measure) && l->measure > 0;
        else if ((v = peer_flag("--framing", argc, argv, &i)))
            good = peer_parse_framing(v, false, &l->framing);
        else {
            fprintf(stderr, "%s: unknown flag %s\n", NAME, arg);
            wrong = arg;
            break;
        }
        if (!good) {
            fprintf(stderr, "%s: %s does not take \"%s\"\n", NAME, arg, v);
            wrong = arg;
        }
    }
    if (!wrong && l->addr_len == 0) {
        fprintf(stderr, "%s: --target is missing\n", NAME);
        wrong = "--target";
    }
    if (wrong) {
        fprintf(stderr,
                "usage: %s --target ADDR [--ccu N] [--size BYTES] [--inflight N]\n"
                "       [--warmup SECONDS] [--measure SECONDS] [--framing be32|le32]\n",
                NAME);
        exit(PEER_USAGE);
    }
}

/* As many identical frames as the largest batch has, and one more: a send may start in the middle
 * of a frame. */
static void make_pattern(struct load *l) {
    l->frame_len = 4 + (size_t)l->size;
    size_t frames = PATTERN_BYTES / l->frame_len;
    if (frames > (size_t)l->inflight)
        frames = (size_t)l->inflight;
    if (frames == 0)
        frames = 1;
    l->pattern_len = frames * l->frame_len;
    l->pattern = malloc(l->pattern_len + l->frame_len);
    if (!l->pattern)
        peer_fail(NAME, "out of memory");
    for (size_t f = 0; f <= frames; f++) {
        uint8_t *p = l->pattern + f * l->frame_len;
        for (int b = 0; b < 4; b++)
            p[b] = (uint8_t)(l->size >> (l->framing == PEER_LE32 ? 8 * b : 24 - 8 * b));
        for (long b = 0; b < l->size; b++)
            p[4 + b] = (uint8_t)(b * 31 + 7);
    }
}

static void start_connect(struct load *l, struct connection *c) {
    int on = 1;
    c->fd = socket(l->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        peer_fail(NAME, "socket (see ulimit -n)");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    /* Reset at the end instead of ten thousand ports waiting a minute for the next run. */
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    if (connect(c->fd, (struct sockaddr *)&l->addr, l->addr_len) != 0 && errno != EINPROGRESS)
        peer_fail(NAME, "connect");
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    if (epoll_ctl(l->epoll, EPOLL_CTL_ADD, c->fd, &ev) != 0)
        peer_fail(NAME, "epoll_ctl");
}

static void connect_all(struct load *l) {
    struct epoll_event events[EVENTS_PER_WAIT];
    long started = 0, connected = 0;
    while (connected < l->ccu) {
        while (started < l->ccu && started - connected < CONNECTING_MAX)
            start_connect(l, &l->connections[started++]);
        int n = epoll_wait(l->epoll, events, EVENTS_PER_WAIT, 10000);
        if (n == 0) {
            fprintf(stderr, "%s: no connect completed for 10 s (%ld of %ld)\n", NAME, connected,
                    l->ccu);
            exit(1);
        }
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            socklen_t len = sizeof errno;
            if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &errno, &len) != 0 || errno != 0)
                peer_fail(NAME, "connect");
            if (events[i].events & (EPOLLRDHUP | EPOLLHUP)) {
                fprintf(stderr, "%s: the server closed a connection\n", NAME);
                exit(1);
            }
            if (!c->connected && (events[i].events & EPOLLOUT)) {
                c->connected = true;
                connected++;
            }
        }
    }
}

static void send_owed(struct load *l, struct connection *c) {
    while (c->owed > 0) {
        size_t len = c->owed < l->pattern_len ? (size_t)c->owed : l->pattern_len;
        ssize_t n = send(c->fd, l->pattern + c->phase, len, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            return; /* the edge for EPOLLOUT brings us back */
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            peer_fail(NAME, "send");
        c->owed -= (uint64_t)n;
        c->phase = (uint32_t)((c->phase + (size_t)n) % l->frame_len);
    }
}

static void serve(struct load *l, struct connection *c, uint32_t events) {
    if (events & ~(uint32_t)EPOLLOUT) {
        /* A short read means that the socket is empty, unless the end was already announced. */
        bool to_the_end = (events & ~(uint32_t)(EPOLLIN | EPOLLOUT)) != 0;
        uint64_t got = c->part;
        for (;;) {
            ssize_t n = recv(c->fd, l->receive, RECEIVE_BYTES, 0);
            if (n < 0 && errno == EAGAIN)
                break;
            if (n < 0 && errno == EINTR)
                continue;
            if (n < 0)
                peer_fail(NAME, "recv");
            if (n == 0) {
                fprintf(stderr, "%s: the server closed a connection\n", NAME);
                exit(1);
            }
            got += (uint64_t)n;
            if (n < RECEIVE_BYTES && !to_the_end)
                break;
        }
        uint64_t frames = got / l->frame_len;
        c->part = (uint32_t)(got % l->frame_len);
        l->frames += frames;
        c->owed += frames * l->frame_len;
    }
    send_owed(l, c);
}

/* One look at the sockets. Returns the time after it. */
static double turn(struct load *l, int wait_ms) {
    struct epoll_event events[EVENTS_PER_WAIT];
    int n = epoll_wait(l->epoll, events, EVENTS_PER_WAIT, wait_ms);
    if (n < 0 && errno != EINTR)
        peer_fail(NAME, "epoll_wait");
    for (int i = 0; i < n; i++)
        serve(l, events[i].data.ptr, events[i].events);
    return now();
}

int main(int argc, char **argv) {
    static struct load load;
    struct load *l = &load;
    parse(argc, argv, l);
    sigset_t unused;
    peer_prepare(&unused);
    pthread_sigmask(SIG_UNBLOCK, &unused, NULL);
    make_pattern(l);
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->connections = calloc((size_t)l->ccu, sizeof *l->connections);
    if (l->epoll < 0 || !l->connections)
        peer_fail(NAME, "start");
    connect_all(l);

    for (long i = 0; i < l->ccu; i++) {
        l->connections[i].owed = (uint64_t)l->inflight * l->frame_len;
        send_owed(l, &l->connections[i]);
        if (i % STARTS_PER_TURN == STARTS_PER_TURN - 1)
            turn(l, 0);
    }
    double t = now();
    for (double end = t + l->warmup; t < end;)
        t = turn(l, 100);
    double start = t, cpu = cpu_seconds();
    uint64_t frames = l->frames;
    for (double end = start + l->measure; t < end;)
        t = turn(l, 100);
    frames = l->frames - frames;
    double lasted = t - start;
    printf("throughput %.0f\nframes %llu\ncpu_share %.3f\n", (double)frames / lasted,
           (unsigned long long)frames, (cpu_seconds() - cpu) / lasted);
    return 0;
}
