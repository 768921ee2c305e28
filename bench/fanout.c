/* SPDX-License-Identifier: Apache-2.0
 *
 * fanout.c - postern-fanout: CPU time of the server per delivery, one publisher to N WebSocket
 * subscribers, beside a bare epoll loop that only calls send().
 *
 * Closed loop: W messages are published in one write, and the next W when every subscriber has all
 * of them. Server and tool are pinned to one core each, so the figure is the server's own CPU time,
 * kernel side included.  The bare loop sends frames of the same size to the same number of sockets,
 * up to 64 of them gathered in one send(): what the kernel alone costs here.
 */
#include "bench/common_ws.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define READ_BYTES (256 * 1024)
#define BARE_GATHER 64   /* messages in one send() of the bare loop */
#define PER_ADDRESS 5000 /* connections from one source address */

struct options {
    unsigned subscribers, message_bytes, rounds, window;
    double seconds;
    bool json, msgpack, prose, deflate;
    const char *program;
};

struct reader { /* counts whole frames in a byte stream without storing them */
    uint8_t head[10];
    unsigned head_len;
    bool control;  /* the current frame is a ping, not a delivery */
    uint64_t left; /* payload bytes of the current frame still to come */
};

struct side { /* one server under test: its sockets and its process */
    pid_t pid;
    int *fds;
    struct reader *readers;
    unsigned n;
    int epoll;
    uint64_t wire_bytes, frames; /* deliveries, headers included */
    uint32_t seed;               /* of the prose */
    void (*publish)(struct side *s, unsigned w);
    struct bench_ws publisher;
    int control;
    struct options *o;
};

static uint8_t read_buffer[READ_BYTES];

/* ---- receiving ---------------------------------------------------------------------------- */

static uint64_t count_frames(struct side *s, unsigned at, const uint8_t *p, size_t n) {
    static const uint8_t pong[6] = {0x8a, 0x80};
    struct reader *r = &s->readers[at];
    uint64_t frames = 0;
    while (n > 0) {
        if (r->left > 0) {
            size_t take = n < r->left ? n : (size_t)r->left;
            r->left -= take;
            p += take;
            n -= take;
            frames += r->left == 0 && !r->control;
            continue;
        }
        r->head[r->head_len++] = *p++;
        n--;
        if (r->head_len < 2)
            continue;
        unsigned code = r->head[1] & 0x7f, need = code == 126 ? 4 : code == 127 ? 10 : 2;
        if (r->head_len < need)
            continue;
        uint64_t length = code;
        if (need > 2) {
            length = 0;
            for (unsigned i = 2; i < need; i++)
                length = length << 8 | r->head[i];
        }
        r->head_len = 0;
        r->left = length;
        r->control = (r->head[0] & 15) > 2;
        if (!r->control) {
            s->wire_bytes += length + need;
            s->frames++;
        } else if ((r->head[0] & 15) != 9 ||
                   send(s->fds[at], pong, sizeof pong, MSG_NOSIGNAL) < 0) {
            bench_die("the server closes subscriber %u", at);
        }
    }
    return frames;
}

/* Until `expected` frames have come over all sockets. */
static void receive(struct side *s, uint64_t expected) {
    struct epoll_event events[256];
    uint64_t got = 0;
    while (got < expected) {
        int n = epoll_wait(s->epoll, events, PTN_ARRAY_LEN(events), 10000);
        if (n <= 0)
            bench_die("%llu of %llu deliveries after 10 s", (unsigned long long)got,
                      (unsigned long long)expected);
        for (int i = 0; i < n; i++) {
            unsigned at = events[i].data.u32;
            ssize_t k = recv(s->fds[at], read_buffer, sizeof read_buffer, 0);
            if (k == 0 || (k < 0 && errno != EAGAIN))
                bench_die("subscriber %u was disconnected", at);
            if (k > 0)
                got += count_frames(s, at, read_buffer, (size_t)k);
        }
    }
    if (got != expected)
        bench_die("%llu deliveries, expected %llu", (unsigned long long)got,
                  (unsigned long long)expected);
}

static void side_init(struct side *s, unsigned n, struct options *o) {
    *s = (struct side){.n = n, .o = o, .control = -1};
    s->fds = calloc(n, sizeof *s->fds);
    s->readers = calloc(n, sizeof *s->readers);
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (s->fds == NULL || s->readers == NULL || s->epoll < 0)
        bench_die("cannot set up %u subscribers", n);
}

static void side_watch(struct side *s, unsigned at, int fd) {
    s->fds[at] = fd;
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = at};
    if (epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &e) < 0)
        bench_die("epoll_ctl: %s", strerror(errno));
}

/* Connections of this machine's loopback: spread over source addresses. */
static const char *source_of(unsigned i, char *buf, size_t bytes) {
    snprintf(buf, bytes, "127.0.0.%u", 2 + i / PER_ADDRESS);
    return buf;
}

/* ---- the bare loop ------------------------------------------------------------------------ */

/* Child: for every number w on the control socket, w frames to each socket. */
static _Noreturn void bare_server(int listener, int control, unsigned n, const uint8_t *frame,
                                  size_t frame_bytes) {
    int *fds = calloc(n, sizeof *fds), on = 1;
    uint8_t *batch = malloc(frame_bytes * BARE_GATHER);
    for (unsigned i = 0; i < n; i++) {
        fds[i] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    for (unsigned i = 0; i < BARE_GATHER; i++)
        memcpy(batch + i * frame_bytes, frame, frame_bytes);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN};
    epoll_ctl(epoll, EPOLL_CTL_ADD, control, &e);
    uint32_t w;
    while (epoll_wait(epoll, &e, 1, -1) == 1 &&
           recv(control, &w, sizeof w, MSG_WAITALL) == sizeof w)
        while (w > 0) {
            uint32_t now = w < BARE_GATHER ? w : BARE_GATHER;
            for (unsigned i = 0; i < n; i++)
                if (send(fds[i], batch, now * frame_bytes, MSG_NOSIGNAL) < 0)
                    _exit(1);
            w -= now;
        }
    _exit(0);
}

static void bare_publish(struct side *s, unsigned w) {
    uint32_t n = w;
    if (send(s->control, &n, sizeof n, MSG_NOSIGNAL) != sizeof n)
        bench_die("the bare loop has gone");
}

static void bare_start(struct side *s, struct options *o, size_t frame_bytes) {
    side_init(s, o->subscribers, o);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), pair[2];
    if (bind(listener, (struct sockaddr *)&a, sizeof a) < 0 || listen(listener, 4096) < 0 ||
        getsockname(listener, (struct sockaddr *)&a, &len) < 0 ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        bench_die("bare loop: %s", strerror(errno));
    uint8_t *frame = calloc(1, frame_bytes);
    size_t head = frame_bytes - 2 < 126 ? 2 : 4;
    frame[0] = 0x81;
    frame[1] = head == 2 ? (uint8_t)(frame_bytes - 2) : 126;
    if (head == 4) {
        frame[2] = (uint8_t)((frame_bytes - 4) >> 8);
        frame[3] = (uint8_t)(frame_bytes - 4);
    }
    s->pid = fork();
    if (s->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(pair[0]);
        bare_server(listener, pair[1], o->subscribers, frame, frame_bytes);
    }
    free(frame);
    close(pair[1]);
    s->control = pair[0];
    s->publish = bare_publish;
    char address[64], source[32];
    snprintf(address, sizeof address, "127.0.0.1:%u", ntohs(a.sin_port));
    for (unsigned i = 0; i < o->subscribers; i++)
        side_watch(s, i, bench_connect(address, source_of(i, source, sizeof source)));
    close(listener);
}

static void side_stop(struct side *s) {
    for (unsigned i = 0; i < s->n; i++)
        close(s->fds[i]);
    close(s->epoll);
    if (s->control >= 0) {
        close(s->control);
        waitpid(s->pid, NULL, 0);
    } else {
        bench_ws_close(&s->publisher);
    }
    free(s->fds);
    free(s->readers);
}

/* ---- postern ------------------------------------------------------------------------------ */

/* Words as common as in speech: the k-th of them one k-th as often as the first. */
static void prose(char *out, size_t n, uint32_t *seed) {
    static const char *const words[] = {
        "the",   "of",          "and",     "to",   "in",      "is",     "that",  "sensor",
        "it",    "was",         "for",     "on",   "value",   "are",    "with",  "as",
        "room",  "be",          "at",      "one",  "have",    "this",   "from",  "light",
        "by",    "temperature", "not",     "but",  "what",    "all",    "were",  "when",
        "door",  "there",       "can",     "an",   "kitchen", "which",  "their", "said",
        "if",    "do",          "will",    "each", "about",   "how",    "up",    "outside",
        "them",  "then",        "morning", "many", "some",    "so",     "these", "would",
        "other", "humidity",    "into",    "has",  "more",    "garden", "two",   "like"};
    for (size_t at = 0; at < n;) {
        *seed = *seed * 1664525u + 1013904223u;
        const uint32_t spread = (*seed >> 8) % (PTN_ARRAY_LEN(words) * 64);
        const char *word = words[spread / (1 + spread % 64) % PTN_ARRAY_LEN(words)];
        for (; *word != '\0' && at < n; word++)
            out[at++] = *word;
        if (at < n)
            out[at++] = ' ';
    }
}

static void postern_publish(struct side *s, unsigned w) {
    static char frame[65536];
    static const char head[] = "{\"type\":\"publish\",\"topic\":\"bench.fanout\",\"data\":\"";
    const size_t n = s->o->message_bytes;
    memcpy(frame, head, sizeof head - 1);
    memcpy(frame + sizeof head - 1 + n, "\"}", 2);
    memset(frame + sizeof head - 1, '0', n);
    for (unsigned i = 0; i < w; i++) {
        if (s->o->prose)
            prose(frame + sizeof head - 1, n, &s->seed);
        bench_ws_queue(&s->publisher, 1, frame, sizeof head - 1 + n + 2);
    }
    if (!bench_ws_flush(&s->publisher))
        bench_die("the broker does not read %u publishes in one write", w);
    /* The acks come on the publisher's connection; read them all, so that the window is honest. */
    for (unsigned acks = 0; acks < w;) {
        ptn_bytes m = bench_ws_wait(&s->publisher);
        if (memmem(m.p, m.n, "\"ack\"", 5) != NULL)
            acks++;
        else if (memmem(m.p, m.n, "\"error\"", 7) != NULL)
            bench_die("the broker refused: %.*s", (int)m.n, m.p);
    }
}

static void postern_start(struct side *s, struct bench_broker *b, struct options *o) {
    static const char subscribe[] = "{\"type\":\"subscribe\",\"topic\":\"bench.fanout\"}";
    static const char subscribe_msgpack[] = "\x82\xa4type\xa9subscribe\xa5topic\xac"
                                            "bench.fanout";
    side_init(s, o->subscribers, o);
    s->pid = b->pid;
    s->publish = postern_publish;
    bench_ws_open(&s->publisher, b->http, NULL, b->token, "postern.v1.json");
    char source[32];
    for (unsigned i = 0; i < o->subscribers; i++) {
        struct bench_ws w;
        bench_ws_open_offering(&w, b->http, source_of(i, source, sizeof source), b->token,
                               o->msgpack ? "postern.v1.msgpack" : "postern.v1.json",
                               o->deflate ? "permessage-deflate" : NULL);
        if (o->msgpack)
            bench_ws_send(&w, 2, subscribe_msgpack, sizeof subscribe_msgpack - 1);
        else
            bench_ws_send(&w, 1, subscribe, sizeof subscribe - 1);
        ptn_bytes m;
        do
            m = bench_ws_wait(&w);
        while (memmem(m.p, m.n, "subscribed", 10) == NULL);
        free(w.in); /* from here on only frames are counted */
        free(w.out);
        side_watch(s, i, w.fd);
    }
}

/* ---- measuring ---------------------------------------------------------------------------- */

/* Nanoseconds of server CPU per delivery. */
static double measure(struct side *s, unsigned w, double seconds) {
    s->publish(s, w);
    receive(s, (uint64_t)w * s->n);
    uint64_t cpu = bench_cpu_ns(s->pid), deliveries = 0;
    uint64_t end = bench_now_ns() + (uint64_t)(seconds * 1e9);
    while (bench_now_ns() < end) {
        s->publish(s, w);
        receive(s, (uint64_t)w * s->n);
        deliveries += (uint64_t)w * s->n;
    }
    return (double)(bench_cpu_ns(s->pid) - cpu) / (double)deliveries;
}

static void usage(FILE *f) {
    fputs("usage: postern-fanout [--subscribers N] [--bytes N] [--seconds S] [--rounds N] "
          "[--msgpack] [--prose] [--deflate] [--json] [--program PATH]\n"
          "--prose: words instead of zeros; --deflate: subscribers offer permessage-deflate\n",
          f);
}

static void parse(int argc, char **argv, struct options *o) {
    static const struct option longs[] = {{"subscribers", required_argument, NULL, 'n'},
                                          {"bytes", required_argument, NULL, 'b'},
                                          {"seconds", required_argument, NULL, 's'},
                                          {"rounds", required_argument, NULL, 'r'},
                                          {"msgpack", no_argument, NULL, 'm'},
                                          {"json", no_argument, NULL, 'j'},
                                          {"prose", no_argument, NULL, 't'},
                                          {"deflate", no_argument, NULL, 'd'},
                                          {"window", required_argument, NULL, 'w'},
                                          {"program", required_argument, NULL, 'p'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        switch (c) {
        case 'n':
            o->subscribers = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'b':
            o->message_bytes = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 's':
            o->seconds = strtod(optarg, NULL);
            break;
        case 'r':
            o->rounds = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'w':
            o->window = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'm':
            o->msgpack = true;
            break;
        case 'j':
            o->json = true;
            break;
        case 't':
            o->prose = true;
            break;
        case 'd':
            o->deflate = true;
            break;
        case 'p':
            o->program = optarg;
            break;
        default:
            usage(c == 'h' ? stdout : stderr);
            exit(c == 'h' ? 0 : 2);
        }
    }
    if (o->subscribers == 0 || o->subscribers > 9000 || o->message_bytes == 0 ||
        o->message_bytes > 60000 || o->rounds == 0 || o->rounds > 99 || o->seconds <= 0) {
        usage(stderr);
        exit(2);
    }
}

int main(int argc, char **argv) {
    static const unsigned windows[] = {1, 16, 256};
    struct options o = {.subscribers = 1000, .message_bytes = 128, .rounds = 5, .seconds = 1};
    parse(argc, argv, &o);
    struct bench_broker b;
    /* Above the answer to a subscription, which this client reads. */
    static const char *const set[] = {"workers=1", "limits.ws_requests=1024", "ws.deflate=160"};
    bench_broker_start(&b, o.program, set, o.deflate ? 3 : 2);
    bool pinned = bench_pin(b.pid, 0) && bench_pin(0, 1);
    struct side postern, bare;
    postern_start(&postern, &b, &o);
    uint64_t rss = bench_rss_bytes(b.pid);
    measure(&postern, 1, 0.1);
    const unsigned long long frame_bytes = postern.wire_bytes / postern.frames;
    bare_start(&bare, &o, (size_t)frame_bytes);
    bench_pin(bare.pid, 0);
    char machine[320];
    bench_machine(machine, sizeof machine);
    if (!o.json)
        printf("%s%s\n%u subscribers, %u-byte messages (%llu on the wire), CPU of the server per "
               "delivery, medians of %u\n%10s %12s %12s %8s\n",
               machine, pinned ? ", pinned" : "", o.subscribers, o.message_bytes, frame_bytes,
               o.rounds, "in flight", "postern us", "bare us", "ratio");
    for (size_t i = 0; i < PTN_ARRAY_LEN(windows); i++) {
        if (o.window != 0 && o.window != windows[i])
            continue;
        double ours[99], theirs[99];
        for (unsigned r = 0; r < o.rounds; r++) { /* interleaved: the machine drifts for both */
            ours[r] = measure(&postern, windows[i], o.seconds);
            theirs[r] = measure(&bare, windows[i], o.seconds);
        }
        double a = bench_median(ours, o.rounds) / 1000, c = bench_median(theirs, o.rounds) / 1000;
        if (o.json)
            printf("{\"in_flight\":%u,\"postern_us\":%.4f,\"bare_us\":%.4f,\"ratio\":%.3f}\n",
                   windows[i], a, c, a / c);
        else
            printf("%10u %12.3f %12.3f %8.2f\n", windows[i], a, c, a / c);
        fflush(stdout);
    }
    if (!o.json)
        printf("resident memory with all subscribers connected: %.1f MiB\n",
               (double)rss / (1 << 20));
    side_stop(&bare);
    side_stop(&postern);
    bench_broker_stop(&b);
    return 0;
}
