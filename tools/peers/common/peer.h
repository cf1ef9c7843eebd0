/* What the C and C++ programs share: the command line, the listening sockets, pinning and the way
 * they start and stop. Nothing here runs while messages are being echoed. C11 and C++20. */
#ifndef PROSCENIUM_PEER_H
#define PROSCENIUM_PEER_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    PEER_BACKLOG = 4096,               /* connections waiting for accept */
    PEER_FRAME_MAX = 2 * 1024 * 1024,  /* bytes of a body; a longer one closes its connection */
    PEER_SHARDS_MAX = 64,
    PEER_USAGE = 2,                    /* exit code: the command line is wrong */
};

enum peer_framing { PEER_BE32, PEER_LE32, PEER_RAW };

/* How the flags of a peer differ from those of all. */
enum peer_flags { PEER_TAKES_RAW = 1, PEER_TAKES_CERTIFICATE = 2, PEER_NO_FRAMING = 4 };

struct peer_options {
    const char *name;              /* of the program, for messages */
    struct sockaddr_storage addr;  /* after the first peer_listen: with the real port */
    socklen_t addr_len;
    int shards;
    enum peer_framing framing;
    int pin[PEER_SHARDS_MAX];
    int pins;
    const char *certificate;       /* files in PEM format, with PEER_TAKES_CERTIFICATE */
    const char *key;
};

static inline void peer_fail(const char *name, const char *what) {
    fprintf(stderr, "%s: %s: %s\n", name, what, strerror(errno));
    exit(1);
}

static inline bool peer_resolve(const char *text, struct sockaddr_storage *addr,
                                socklen_t *addr_len) {
    char host[256];
    const char *colon = strrchr(text, ':');
    if (!colon || (size_t)(colon - text) >= sizeof host)
        return false;
    size_t host_len = (size_t)(colon - text);
    memcpy(host, text, host_len);
    host[host_len] = 0;
    char *start = host;
    if (host_len >= 2 && host[0] == '[' && host[host_len - 1] == ']') {
        host[host_len - 1] = 0;
        start++;
    }
    struct addrinfo hints, *found = NULL;
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV | AI_PASSIVE;
    if (getaddrinfo(*start ? start : NULL, colon + 1, &hints, &found) != 0)
        return false;
    memcpy(addr, found->ai_addr, found->ai_addrlen);
    *addr_len = found->ai_addrlen;
    freeaddrinfo(found);
    return true;
}

/* A whole decimal number within [min, max]. */
static inline bool peer_number(const char *text, long min, long max, long *out) {
    char *end;
    errno = 0;
    *out = strtol(text, &end, 10);
    return errno == 0 && end != text && *end == 0 && *out >= min && *out <= max;
}

/* Steps over one `--flag value` or `--flag=value`. Returns the flag's value if `arg` is `flag`,
 * NULL if it is another flag. A missing value comes back as "". */
static inline const char *peer_flag(const char *flag, int argc, char **argv, int *i) {
    size_t len = strlen(flag);
    if (strncmp(argv[*i], flag, len) != 0)
        return NULL;
    if (argv[*i][len] == '=')
        return argv[*i] + len + 1;
    if (argv[*i][len] != 0)
        return NULL;
    return *i + 1 < argc ? argv[++*i] : "";
}

static inline bool peer_parse_pins(const char *text, struct peer_options *o) {
    char copy[512];
    if (strlen(text) >= sizeof copy)
        return false;
    strcpy(copy, text);
    char *save = NULL;
    for (char *t = strtok_r(copy, ",", &save); t; t = strtok_r(NULL, ",", &save)) {
        long cpu;
        if (o->pins == PEER_SHARDS_MAX || !peer_number(t, 0, CPU_SETSIZE - 1, &cpu))
            return false;
        o->pin[o->pins++] = (int)cpu;
    }
    return o->pins > 0;
}

static inline bool peer_parse_framing(const char *text, bool raw_too, enum peer_framing *out) {
    if (strcmp(text, "be32") == 0)
        *out = PEER_BE32;
    else if (strcmp(text, "le32") == 0)
        *out = PEER_LE32;
    else if (raw_too && strcmp(text, "raw") == 0)
        *out = PEER_RAW;
    else
        return false;
    return true;
}

/* Reads the flags every peer takes. A wrong command line ends the process with PEER_USAGE. */
static inline void peer_parse(int argc, char **argv, const char *name, int flags,
                              struct peer_options *o) {
    const bool raw = flags & PEER_TAKES_RAW, certificate = flags & PEER_TAKES_CERTIFICATE;
    const bool framing = !(flags & PEER_NO_FRAMING);
    const char *wrong = NULL, *v;
    memset(o, 0, sizeof *o);
    o->name = name;
    o->shards = 1;
    for (int i = 1; i < argc && !wrong; i++) {
        const char *arg = argv[i];
        long n = 0;
        bool good;
        if ((v = peer_flag("--listen", argc, argv, &i))) {
            good = peer_resolve(v, &o->addr, &o->addr_len);
        } else if ((v = peer_flag("--shards", argc, argv, &i))) {
            good = peer_number(v, 1, PEER_SHARDS_MAX, &n);
            o->shards = (int)n;
        } else if (framing && (v = peer_flag("--framing", argc, argv, &i))) {
            good = peer_parse_framing(v, raw, &o->framing);
        } else if ((v = peer_flag("--pin", argc, argv, &i))) {
            good = peer_parse_pins(v, o);
        } else if (certificate && (v = peer_flag("--cert", argc, argv, &i))) {
            good = *v != 0;
            o->certificate = v;
        } else if (certificate && (v = peer_flag("--key", argc, argv, &i))) {
            good = *v != 0;
            o->key = v;
        } else {
            fprintf(stderr, "%s: unknown flag %s\n", name, arg);
            wrong = arg;
            break;
        }
        if (!good) {
            fprintf(stderr, "%s: %s does not take \"%s\"\n", name, arg, v);
            wrong = arg;
        }
    }
    if (!wrong) {
        wrong = o->addr_len == 0                ? "--listen"
                : certificate && !o->certificate ? "--cert"
                : certificate && !o->key         ? "--key"
                                                 : NULL;
        if (wrong)
            fprintf(stderr, "%s: %s is missing\n", name, wrong);
    }
    if (wrong) {
        fprintf(stderr,
                "usage: %s --listen ADDR%s [--shards N]%s [--pin CPU[,CPU]]\n", name,
                certificate ? " --cert PEM --key PEM" : "",
                raw ? " [--framing be32|le32|raw]" : framing ? " [--framing be32|le32]" : "");
        exit(PEER_USAGE);
    }
}

/* A non-blocking listening socket for the shard `index`; `first` is the one of shard 0. With more
 * than one shard each gets its own through SO_REUSEPORT, so that accepts are spread by the kernel;
 * where that option is missing they share the first. One shard alone leaves the option out: a
 * second server on the same port must fail, not take half of the connections. */
static inline int peer_listen(struct peer_options *o, int index, int first) {
    int on = 1;
    int fd = socket(o->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        peer_fail(o->name, "socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (o->shards > 1 && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) != 0 &&
        index > 0) {
        close(fd);
        fd = fcntl(first, F_DUPFD_CLOEXEC, 0);
        if (fd < 0)
            peer_fail(o->name, "dup");
        return fd;
    }
    if (bind(fd, (struct sockaddr *)&o->addr, o->addr_len) != 0)
        peer_fail(o->name, "bind");
    if (listen(fd, PEER_BACKLOG) != 0)
        peer_fail(o->name, "listen");
    o->addr_len = sizeof o->addr;
    if (getsockname(fd, (struct sockaddr *)&o->addr, &o->addr_len) != 0)
        peer_fail(o->name, "getsockname");
    return fd;
}

/* Pins the calling thread, the one of shard `index`, if the command line asked for it. */
static inline void peer_pin(const struct peer_options *o, int index) {
    if (o->pins == 0)
        return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(o->pin[index % o->pins], &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0)
        peer_fail(o->name, "--pin");
}

/* To be called before any thread starts: the threads inherit the blocked signals, so that only
 * peer_wait_for_end sees them. Descriptors up to the hard limit. */
static inline void peer_prepare(sigset_t *end) {
    sigemptyset(end);
    sigaddset(end, SIGTERM);
    sigaddset(end, SIGINT);
    pthread_sigmask(SIG_BLOCK, end, NULL);
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

/* Says that the server is ready and returns once it has been told to stop. */
static inline void peer_wait_for_end(const struct peer_options *o, const sigset_t *end) {
    char host[64], port[16];
    if (getnameinfo((const struct sockaddr *)&o->addr, o->addr_len, host, sizeof host, port,
                    sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        fprintf(stderr, "%s: the bound address cannot be shown\n", o->name);
        exit(1);
    }
    bool v6 = o->addr.ss_family == AF_INET6;
    printf("listening on %s%s%s:%s\n", v6 ? "[" : "", host, v6 ? "]" : "", port);
    fflush(stdout);
    int got;
    sigwait(end, &got);
}

#endif
