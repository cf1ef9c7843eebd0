/* A node of a mesh on libzmq: ROUTER to ROUTER, three frames for the application (target, route
 * header, payload), of which two travel. With --listen it answers requests and counts messages;
 * with --target it puts the load on that `proscenium load node` puts on, and prints the same
 * result as JSON. */
#include "../common/peer.h"

#include <time.h>
#include <zmq.h>

#define SERVER_NID "echo"
#define CLIENT_NID "load"
#define NAME "peer-node-zmq"

enum {
    HEADER_MAX = 64,        /* bytes of a route header that we write */
    WINDOW_MAX = 65535,     /* numbers of requests to foreign peers */
    SEND_BATCH = 256,       /* messages between two looks at the clock */
    SAMPLES_MAX = 1 << 22,  /* latencies that are kept */
    /* Shorter payloads are copied into the message, which is cheaper than counting references. */
    SHARE_MIN = 1024,
    MARK = 24,              /* bytes of what a mark is answered with; messages have others */
};

struct options {
    const char *listen, *target, *mode, *stack;
    long size, window, hwm;
    double warmup, measure, drain;
    bool bare;              /* no route header: the payload alone */
};

static volatile sig_atomic_t ended;

static void on_end(int signal) {
    (void)signal;
    ended = 1;
}

static uint64_t clock_ns(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t now_ns(void) {
    return clock_ns(CLOCK_MONOTONIC);
}

static void check(bool good, const char *what) {
    if (!good) {
        fprintf(stderr, NAME ": %s: %s\n", what, zmq_strerror(zmq_errno()));
        exit(1);
    }
}

/* ---- route headers (protobuf) ---- */

struct header {
    uint32_t seq;
    bool is_reply, is_mark;
};

static size_t put_varint(uint8_t *out, uint64_t value) {
    size_t n = 0;
    for (; value >= 0x80; value >>= 7)
        out[n++] = (uint8_t)(value | 0x80);
    out[n++] = (uint8_t)value;
    return n;
}

static size_t put_text(uint8_t *out, uint8_t tag, const char *text) {
    size_t len = strlen(text);
    out[0] = tag;
    out[1] = (uint8_t)len;
    memcpy(out + 2, text, len);
    return 2 + len;
}

/* Fields in the order of their numbers. What does not change is made once. */
struct template {
    uint8_t rest[HEADER_MAX];
    size_t rest_len;
};

static struct template template_of(const char *msg_id, const char *from, bool is_reply,
                                   size_t payload) {
    struct template t;
    size_t n = put_text(t.rest, 0x1a, msg_id);
    n += put_text(t.rest + n, 0x2a, from);
    if (is_reply) {
        t.rest[n++] = 0x48;
        t.rest[n++] = 1;
    }
    if (payload > 0) {
        t.rest[n++] = 0x50;
        n += put_varint(t.rest + n, payload);
    }
    t.rest_len = n;
    return t;
}

static void header_message(zmq_msg_t *msg, const struct template *t, uint32_t seq) {
    uint8_t number[8];
    size_t n = 0;
    if (seq) {
        number[n++] = 0x08;
        n += put_varint(number + n, seq);
    }
    check(zmq_msg_init_size(msg, n + t->rest_len) == 0, "zmq_msg_init_size");
    uint8_t *out = zmq_msg_data(msg);
    memcpy(out, number, n);
    memcpy(out + n, t->rest, t->rest_len);
}

static bool read_varint(const uint8_t **at, const uint8_t *end, uint64_t *value) {
    *value = 0;
    for (int shift = 0; *at < end && shift < 64; shift += 7) {
        uint8_t byte = *(*at)++;
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return true;
    }
    return false;
}

static bool parse_header(zmq_msg_t *msg, struct header *h) {
    const uint8_t *at = zmq_msg_data(msg), *end = at + zmq_msg_size(msg);
    memset(h, 0, sizeof *h);
    while (at < end) {
        uint64_t tag, value;
        if (!read_varint(&at, end, &tag) || !read_varint(&at, end, &value))
            return false;
        if ((tag & 7) == 2) {
            if (value > (uint64_t)(end - at))
                return false;
            if (tag == 0x1a)
                h->is_mark = value == 4 && memcmp(at, "Mark", 4) == 0;
            at += value;
        } else if ((tag & 7) != 0) {
            return false;
        } else if (tag == 0x08) {
            h->seq = (uint32_t)value;
        } else if (tag == 0x48) {
            h->is_reply = value != 0;
        }
    }
    return true;
}

/* ---- sockets ---- */

static void *router(void *context, const char *nid, const struct options *o) {
    void *socket = zmq_socket(context, ZMQ_ROUTER);
    check(socket != NULL, "zmq_socket");
    int on = 1, hwm = (int)o->hwm, linger = 0;
    check(zmq_setsockopt(socket, ZMQ_ROUTING_ID, nid, strlen(nid)) == 0 &&
              zmq_setsockopt(socket, ZMQ_ROUTER_HANDOVER, &on, sizeof on) == 0 &&
              zmq_setsockopt(socket, ZMQ_ROUTER_MANDATORY, &on, sizeof on) == 0 &&
              zmq_setsockopt(socket, ZMQ_SNDHWM, &hwm, sizeof hwm) == 0 &&
              zmq_setsockopt(socket, ZMQ_RCVHWM, &hwm, sizeof hwm) == 0 &&
              zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger) == 0,
          "zmq_setsockopt");
    return socket;
}

/* Waits until something can be read, a signal comes, or the time is over. */
static bool readable(void *socket, long timeout_ms) {
    zmq_pollitem_t item = {.socket = socket, .events = ZMQ_POLLIN};
    return zmq_poll(&item, 1, timeout_ms) > 0;
}

/* Takes the next message without waiting: who sent it, its header, its payload. */
static bool receive(void *socket, bool bare, zmq_msg_t *from, zmq_msg_t *head,
                    zmq_msg_t *payload) {
    if (zmq_msg_recv(from, socket, ZMQ_DONTWAIT) < 0) {
        check(zmq_errno() == EAGAIN || zmq_errno() == EINTR, "zmq_msg_recv");
        return false;
    }
    if (!bare)
        check(zmq_msg_recv(head, socket, 0) >= 0, "zmq_msg_recv: header");
    check(zmq_msg_recv(payload, socket, 0) >= 0, "zmq_msg_recv: payload");
    if (zmq_msg_more(payload)) {
        fprintf(stderr, NAME ": a message with more parts than it should have\n");
        exit(1);
    }
    return true;
}

/* ---- the side that answers ---- */

/* What a mark is answered with: messages so far, our clock, our CPU time. */
static void mark_message(zmq_msg_t *msg, uint64_t count) {
    uint64_t mark[3] = {count, now_ns(), clock_ns(CLOCK_PROCESS_CPUTIME_ID)};
    check(zmq_msg_init_size(msg, sizeof mark) == 0, "zmq_msg_init_size");
    memcpy(zmq_msg_data(msg), mark, sizeof mark);
}

/* Returns how many messages there were. */
static uint64_t answer(void *socket, const struct options *o) {
    zmq_msg_t from, head, payload;
    zmq_msg_init(&from);
    zmq_msg_init(&head);
    zmq_msg_init(&payload);
    struct template reply = template_of("Echo", SERVER_NID, true, 0);
    size_t reply_size = 0;
    uint64_t count = 0;
    struct header h = {0};
    while (!ended) {
        if (!receive(socket, o->bare, &from, &head, &payload)) {
            readable(socket, 100); /* a signal may come just before */
            continue;
        }
        const size_t size = zmq_msg_size(&payload);
        if (o->bare) {
            /* Without a header, the length says what it is: 0 a mark, `size` a send (mode send). */
            h.is_mark = size == 0;
            h.seq = size == 0 || strcmp(o->mode, "request") == 0;
        } else if (!parse_header(&head, &h)) {
            fprintf(stderr, NAME ": a header that is none\n");
            exit(1);
        }
        if (!h.is_mark)
            count++;
        if (h.seq == 0)
            continue; /* a send */
        if (h.is_mark) {
            zmq_msg_close(&payload);
            mark_message(&payload, count);
        }
        if (zmq_msg_send(&from, socket, ZMQ_SNDMORE) < 0) {
            check(zmq_errno() == EHOSTUNREACH || zmq_errno() == EINTR, "zmq_msg_send");
            continue; /* it has gone, or we are to end */
        }
        if (!o->bare) {
            const size_t length = h.is_mark ? MARK : size;
            if (length != reply_size) {
                reply = template_of("Echo", SERVER_NID, true, length);
                reply_size = length;
            }
            zmq_msg_close(&head);
            header_message(&head, &reply, h.seq);
            check(zmq_msg_send(&head, socket, ZMQ_SNDMORE) >= 0, "zmq_msg_send");
        }
        /* The received payload itself goes back: nothing is copied. */
        check(zmq_msg_send(&payload, socket, 0) >= 0, "zmq_msg_send");
    }
    zmq_msg_close(&from);
    zmq_msg_close(&head);
    zmq_msg_close(&payload);
    return count;
}

static void serve(void *context, const struct options *o) {
    void *socket = router(context, SERVER_NID, o);
    char endpoint[256];
    size_t len = sizeof endpoint;
    snprintf(endpoint, sizeof endpoint, "tcp://%s", o->listen);
    check(zmq_bind(socket, endpoint) == 0, "zmq_bind");
    check(zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, endpoint, &len) == 0, "zmq_getsockopt");
    printf("listening on %s\n", endpoint + strlen("tcp://"));
    fflush(stdout);
    fprintf(stderr, NAME ": %llu messages\n", (unsigned long long)answer(socket, o));
    zmq_close(socket);
}

/* ---- the side that puts the load on ---- */

struct client {
    void *socket;
    const struct options *o;
    zmq_msg_t payload;              /* what every message carries */
    struct template echo, mark;
    uint64_t *sent_at;              /* of each request of the window, by number - 1 */
    uint32_t *samples;              /* latencies in ns */
    size_t sampled;
    uint64_t sent, received, wrong;
    uint64_t marks[2][3];           /* what the two marks were answered with */
    int marked;
};

static void copy_payload(struct client *c, zmq_msg_t *msg) {
    size_t size = zmq_msg_size(&c->payload);
    if (size >= SHARE_MIN) {
        zmq_msg_init(msg);
        check(zmq_msg_copy(msg, &c->payload) == 0, "zmq_msg_copy");
    } else {
        check(zmq_msg_init_size(msg, size) == 0, "zmq_msg_init_size");
        memcpy(zmq_msg_data(msg), zmq_msg_data(&c->payload), size);
    }
}

/* Sends one message; false if the queue is full and `flags` say not to wait. */
static bool put(struct client *c, const struct template *t, uint32_t seq, int flags) {
    const bool is_mark = t == &c->mark;
    zmq_msg_t head, payload;
    while (zmq_send(c->socket, SERVER_NID, strlen(SERVER_NID), ZMQ_SNDMORE | flags) < 0) {
        if (zmq_errno() == EAGAIN && flags)
            return false;
        check(zmq_errno() == EINTR && !ended, "zmq_send");
    }
    if (!c->o->bare) {
        header_message(&head, t, seq);
        check(zmq_msg_send(&head, c->socket, ZMQ_SNDMORE) >= 0, "zmq_msg_send");
    }
    if (is_mark)
        zmq_msg_init(&payload);
    else
        copy_payload(c, &payload);
    check(zmq_msg_send(&payload, c->socket, 0) >= 0, "zmq_msg_send");
    return true;
}

/* Takes one message; false if there is none. `again`: a request whose number is free. */
static bool take(struct client *c, uint64_t now, bool sampling, uint32_t *again) {
    zmq_msg_t from, head, payload;
    zmq_msg_init(&from);
    zmq_msg_init(&head);
    zmq_msg_init(&payload);
    *again = 0;
    if (!receive(c->socket, c->o->bare, &from, &head, &payload))
        return false;
    struct header h = {.seq = 1, .is_reply = true}; /* of a message without one */
    const size_t size = zmq_msg_size(&payload);
    const bool good = c->o->bare || parse_header(&head, &h);
    if (good && size == MARK && (c->o->bare || h.seq == (uint32_t)c->o->window + 1)) {
        if (c->marked < 2)
            memcpy(c->marks[c->marked++], zmq_msg_data(&payload), MARK);
    } else if (!good || !h.is_reply || size != (size_t)c->o->size || h.seq == 0 ||
               h.seq > (uint32_t)c->o->window) {
        c->wrong++;
    } else {
        c->received++;
        if (sampling && c->sampled < SAMPLES_MAX && (!c->o->bare || c->o->window == 1))
            c->samples[c->sampled++] = (uint32_t)(now - c->sent_at[h.seq - 1]);
        *again = h.seq;
    }
    zmq_msg_close(&from);
    zmq_msg_close(&head);
    zmq_msg_close(&payload);
    return true;
}

static void send_mark(struct client *c) {
    put(c, &c->mark, (uint32_t)c->o->window + 1, 0);
}

/* Everything has been sent: waits for the marks, and for the answers to requests. */
static void drain(struct client *c, bool answers) {
    const uint64_t until = now_ns() + (uint64_t)(c->o->drain * 1e9);
    uint32_t again;
    while (!ended && (c->marked < 2 || (answers && c->received < c->sent))) {
        if (take(c, now_ns(), false, &again))
            continue;
        if (now_ns() > until)
            return;
        readable(c->socket, 10);
    }
}

static void load_sends(struct client *c, uint64_t begin) {
    const uint64_t warm = begin + (uint64_t)(c->o->warmup * 1e9);
    const uint64_t end = warm + (uint64_t)(c->o->measure * 1e9);
    bool marked = false;
    while (!ended) {
        const uint64_t now = now_ns();
        if (!marked && now >= warm) {
            send_mark(c);
            marked = true;
        }
        if (now >= end)
            break;
        for (int i = 0; i < SEND_BATCH; i++)
            put(c, &c->echo, 0, 0); /* waits while the queue is full */
        c->sent += SEND_BATCH;
    }
    send_mark(c);
    drain(c, false);
}

static uint64_t load_requests(struct client *c, uint64_t begin, double *seconds) {
    const uint64_t warm = begin + (uint64_t)(c->o->warmup * 1e9);
    const uint64_t end = warm + (uint64_t)(c->o->measure * 1e9);
    const bool each = c->o->window == 1;
    uint64_t from = 0, now = begin, counted = 0, at_warm = 0;
    uint32_t again;
    for (uint32_t seq = 1; seq <= (uint32_t)c->o->window; seq++) {
        c->sent_at[seq - 1] = now_ns();
        put(c, &c->echo, seq, 0);
        c->sent++;
    }
    while (!ended && now < end) {
        /* As many as are there; the clock is read for each only where it is what counts. */
        now = now_ns();
        if (!from && now >= warm) {
            from = now;
            at_warm = c->received;
            send_mark(c);
        }
        int taken = 0;
        while (taken < SEND_BATCH && take(c, each ? now_ns() : now, from != 0, &again)) {
            taken++;
            if (again) {
                c->sent_at[again - 1] = each ? now_ns() : now;
                put(c, &c->echo, again, 0);
                c->sent++;
            }
        }
        if (taken == 0)
            readable(c->socket, 10);
    }
    now = now_ns();
    counted = c->received - at_warm;
    *seconds = (double)(now - from) / 1e9;
    send_mark(c);
    drain(c, true);
    return counted;
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double percentile(const struct client *c, double share) {
    if (c->sampled == 0)
        return 0;
    size_t at = (size_t)(share * (double)c->sampled);
    return c->samples[at < c->sampled ? at : c->sampled - 1] / 1e3;
}

static void report(struct client *c, double throughput, double seconds, double cpu) {
    const struct options *o = c->o;
    qsort(c->samples, c->sampled, sizeof *c->samples, by_value);
    const bool is_send = strcmp(o->mode, "send") == 0;
    const uint64_t unanswered = is_send ? 0 : c->sent - c->received;
    char failures[256];
    int n = 0;
    failures[0] = 0;
    if (c->marked < 2)
        n += snprintf(failures + n, sizeof failures - (size_t)n, "\"a mark was not answered\"");
    if (unanswered)
        n += snprintf(failures + n, sizeof failures - (size_t)n, "%s\"%llu not answered\"",
                      n ? ", " : "", (unsigned long long)unanswered);
    if (c->wrong)
        n += snprintf(failures + n, sizeof failures - (size_t)n, "%s\"%llu wrong answers\"",
                      n ? ", " : "", (unsigned long long)c->wrong);
    const double wall = (double)(c->marks[1][1] - c->marks[0][1]);
    const double server = wall > 0 ? (double)(c->marks[1][2] - c->marks[0][2]) / wall : 0;
    printf("{\"mode\": \"%s\", \"size\": %ld, \"window\": %ld, \"hwm\": %ld, \"sent\": %llu, "
           "\"received\": %llu, \"throughput\": %.3f, \"seconds\": %.6f, \"p50\": %.3f, "
           "\"p99\": %.3f, \"p99_9\": %.3f, \"max\": %.3f, \"client_cpu_share\": %.4f, "
           "\"server_cpu_share\": %.4f, \"stack\": \"%s\", \"failures\": [%s]}\n",
           o->mode, o->size, o->window, o->hwm, (unsigned long long)c->sent,
           (unsigned long long)c->received, throughput, seconds, percentile(c, 0.5),
           percentile(c, 0.99), percentile(c, 0.999), percentile(c, 1.0), cpu, server, o->stack,
           failures);
}

static void load(void *context, const struct options *o) {
    struct client c = {.o = o};
    c.socket = router(context, CLIENT_NID, o);
    char endpoint[256];
    snprintf(endpoint, sizeof endpoint, "tcp://%s", o->target);
    check(zmq_connect(c.socket, endpoint) == 0, "zmq_connect");
    c.echo = template_of("Echo", CLIENT_NID, false, (size_t)o->size);
    c.mark = template_of("Mark", CLIENT_NID, false, 0);
    c.sent_at = calloc((size_t)o->window + 1, sizeof *c.sent_at);
    c.samples = malloc(SAMPLES_MAX * sizeof *c.samples);
    check(zmq_msg_init_size(&c.payload, (size_t)o->size) == 0, "zmq_msg_init_size");
    for (long i = 0; i < o->size; i++)
        ((uint8_t *)zmq_msg_data(&c.payload))[i] = (uint8_t)i;
    /* The identity of the server is known once the handshake is over. */
    const uint64_t until = now_ns() + 10000000000u;
    while (zmq_send(c.socket, SERVER_NID, strlen(SERVER_NID), ZMQ_SNDMORE) < 0) {
        check(zmq_errno() == EHOSTUNREACH && now_ns() < until && !ended, "no server " SERVER_NID);
        usleep(1000);
    }
    if (!o->bare) {
        zmq_msg_t head;
        header_message(&head, &c.mark, (uint32_t)o->window + 1);
        check(zmq_msg_send(&head, c.socket, ZMQ_SNDMORE) >= 0, "zmq_msg_send");
    }
    check(zmq_send(c.socket, "", 0, 0) == 0, "zmq_send");
    uint32_t again;
    while (c.marked < 1 && !ended)
        if (!take(&c, 0, false, &again))
            readable(c.socket, 10);
    c.marked = 0; /* that was only to be sure of each other */

    const uint64_t begin = now_ns(), cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    double throughput = 0, seconds = 0;
    if (strcmp(o->mode, "send") == 0) {
        load_sends(&c, begin);
        if (c.marked == 2) {
            seconds = (double)(c.marks[1][1] - c.marks[0][1]) / 1e9;
            throughput = (double)(c.marks[1][0] - c.marks[0][0]) / seconds;
        }
    } else {
        uint64_t counted = load_requests(&c, begin, &seconds);
        throughput = (double)counted / seconds;
    }
    const double share = (double)(clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu) /
                         (double)(now_ns() - begin);
    report(&c, throughput, seconds, share);
    zmq_close(c.socket);
}

/* ---- the command line ---- */

static void usage(const char *why, const char *what) {
    fprintf(stderr,
            NAME ": %s %s\nusage: " NAME " --listen ADDR | --target ADDR [--mode send|request] "
                 "[--size BYTES] [--window N] [--warmup S] [--measure S] [--drain S] [--hwm N] "
                 "[--stack NAME] [--bare]\n",
            why, what);
    exit(PEER_USAGE);
}

static bool seconds_of(const char *text, double *out) {
    char *end;
    *out = strtod(text, &end);
    return end != text && *end == 0 && *out >= 0 && *out < 1e6;
}

static struct options parse(int argc, char **argv) {
    struct options o = {.mode = "request", .stack = "libzmq", .size = 64, .window = 1000,
                        .hwm = 100000, .warmup = 1, .measure = 2, .drain = 10};
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i], *v;
        bool good = true;
        if ((v = peer_flag("--listen", argc, argv, &i)))
            good = *(o.listen = v) != 0;
        else if ((v = peer_flag("--target", argc, argv, &i)))
            good = *(o.target = v) != 0;
        else if ((v = peer_flag("--mode", argc, argv, &i)))
            good = strcmp(o.mode = v, "send") == 0 || strcmp(v, "request") == 0;
        else if ((v = peer_flag("--stack", argc, argv, &i)))
            good = *(o.stack = v) != 0 && !strpbrk(v, "\"\\");
        else if ((v = peer_flag("--size", argc, argv, &i)))
            good = peer_number(v, 1, PEER_FRAME_MAX, &o.size) && o.size != MARK;
        else if ((v = peer_flag("--window", argc, argv, &i)))
            good = peer_number(v, 1, WINDOW_MAX - 1, &o.window);
        else if ((v = peer_flag("--hwm", argc, argv, &i)))
            good = peer_number(v, 1, 1 << 30, &o.hwm);
        else if ((v = peer_flag("--warmup", argc, argv, &i)))
            good = seconds_of(v, &o.warmup);
        else if ((v = peer_flag("--measure", argc, argv, &i)))
            good = seconds_of(v, &o.measure);
        else if ((v = peer_flag("--drain", argc, argv, &i)))
            good = seconds_of(v, &o.drain);
        else if (strcmp(arg, "--bare") == 0)
            o.bare = true;
        else
            usage("unknown flag", arg);
        if (!good)
            usage("a wrong value for", arg);
    }
    if (!o.listen == !o.target)
        usage("one of these is needed:", "--listen, --target");
    return o;
}

int main(int argc, char **argv) {
    const struct options o = parse(argc, argv);
    struct sigaction action = {.sa_handler = on_end};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    void *context = zmq_ctx_new();
    check(context != NULL, "zmq_ctx_new");
    if (o.listen)
        serve(context, &o);
    else
        load(context, &o);
    zmq_ctx_term(context);
    return 0;
}
