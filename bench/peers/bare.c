/* SPDX-License-Identifier: Apache-2.0
 *
 * bare.c - postern-bare: the least that a server on this machine can do, as a yardstick.
 *
 *   raw  one epoll loop with WebSocket frames around recv() and send(): an echo, and a publish to
 *        all subscribers, up to 64 frames of one read gathered in one send().
 *   zmq  one ROUTER and one XPUB of libzmq: an echo, and a publish.
 *
 * Prints one line, {"address": …, "events": …}, and serves until it is killed or its parent is
 * gone.  It trusts its clients: no limits, no checks but those that keep it in its memory.
 */
#include "bench/common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zmq.h>

#define CONNS_MAX 20000
#define GATHER 64 /* frames in one send() */
#define READ_BYTES (64 * 1024)
#define HIGH_WATER 100000 /* messages: nothing is dropped at the windows that are measured */

/* ---- raw ------------------------------------------------------------------------------------ */

struct conn {
    bool upgraded;
    uint32_t kept; /* bytes of a frame that is not whole yet, in `rest` */
    uint8_t *rest;
};

static struct conn conns[CONNS_MAX]; /* by descriptor */
static int subscribers[CONNS_MAX];
static unsigned n_subscribers;
static uint8_t in[READ_BYTES], out[READ_BYTES + 16 * GATHER];
static size_t out_bytes;
static unsigned out_frames;

static void send_all(int fd, const uint8_t *p, size_t n) {
    while (n > 0) { /* the socket blocks */
        ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
        if (k < 0)
            return; /* gone: its own event will say so */
        p += k;
        n -= (size_t)k;
    }
}

static void flush_publishes(void) {
    for (unsigned i = 0; i < n_subscribers && out_bytes > 0; i++)
        send_all(subscribers[i], out, out_bytes);
    out_bytes = out_frames = 0;
}

static size_t put_frame(uint8_t *to, unsigned opcode, const uint8_t *p, size_t n) {
    size_t head = 2;
    to[0] = (uint8_t)(0x80 | opcode);
    to[1] = (uint8_t)(n < 126 ? n : 126);
    if (n >= 126) {
        to[2] = (uint8_t)(n >> 8);
        to[3] = (uint8_t)n;
        head = 4;
    }
    memcpy(to + head, p, n);
    return head + n;
}

static void handle_frame(int fd, unsigned opcode, const uint8_t *p, size_t n) {
    uint8_t answer[128];
    if (opcode == 2) {
        if (out_frames == GATHER || out_bytes + n + 4 > sizeof out)
            flush_publishes();
        out_bytes += put_frame(out + out_bytes, 1, p, n);
        out_frames++;
    } else if (opcode == 1 && n == 9 && memcmp(p, "subscribe", 9) == 0) {
        subscribers[n_subscribers++] = fd;
        send_all(fd, answer, put_frame(answer, 1, p, n));
    } else if (opcode == 1) {
        static uint8_t echo[READ_BYTES + 4];
        send_all(fd, echo, put_frame(echo, 1, p, n));
    }
}

/* The frames in p[0..n), unmasked in place; returns how many bytes they took. */
static size_t handle_frames(int fd, uint8_t *p, size_t n) {
    size_t at = 0;
    while (n - at >= 6) {
        uint8_t *f = p + at;
        size_t length = f[1] & 0x7f, head = 6; /* clients mask: four bytes of key */
        if (length == 126) {
            length = (size_t)f[2] << 8 | f[3];
            head = 8;
        }
        if (length == 127 || head + length > READ_BYTES)
            bench_die("a frame of more than %d bytes", READ_BYTES);
        if (n - at < head + length)
            break;
        for (size_t i = 0; i < length; i++)
            f[head + i] ^= f[head - 4 + (i & 3)];
        handle_frame(fd, f[0] & 15, f + head, length);
        at += head + length;
    }
    return at;
}

/* A request ends with an empty line; its client sends nothing more before the answer. */
static size_t upgrade(int fd, size_t n) {
    static const char answer[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                                 "Connection: Upgrade\r\n"
                                 "Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n\r\n";
    if (memmem(in, n, "\r\n\r\n", 4) == NULL)
        return 0;
    conns[fd].upgraded = true;
    send_all(fd, (const uint8_t *)answer, sizeof answer - 1);
    return n;
}

static void drop(int fd) {
    for (unsigned i = 0; i < n_subscribers; i++)
        if (subscribers[i] == fd)
            subscribers[i--] = subscribers[--n_subscribers];
    free(conns[fd].rest);
    conns[fd] = (struct conn){0};
    close(fd);
}

static void readable(int fd) {
    struct conn *c = &conns[fd];
    if (c->kept > 0)
        memcpy(in, c->rest, c->kept);
    ssize_t got = recv(fd, in + c->kept, sizeof in - c->kept, MSG_DONTWAIT);
    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR))
            drop(fd);
        return;
    }
    size_t n = c->kept + (size_t)got;
    size_t used = c->upgraded ? handle_frames(fd, in, n) : upgrade(fd, n);
    flush_publishes();
    c->kept = (uint32_t)(n - used);
    if (c->kept == 0)
        return;
    if (c->rest == NULL && (c->rest = malloc(sizeof in)) == NULL)
        bench_die("out of memory");
    memcpy(c->rest, in + used, c->kept);
}

static void watch(int epoll, int fd) {
    struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e) < 0)
        bench_die("epoll_ctl: %s", strerror(errno));
}

static void run_raw(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int epoll = epoll_create1(EPOLL_CLOEXEC), on = 1;
    if (bind(listener, (struct sockaddr *)&a, len) < 0 || listen(listener, 4096) < 0 ||
        getsockname(listener, (struct sockaddr *)&a, &len) < 0 || epoll < 0)
        bench_die("raw: %s", strerror(errno));
    watch(epoll, listener);
    printf("{\"address\": \"127.0.0.1:%u\"}\n", ntohs(a.sin_port));
    fflush(stdout);
    for (struct epoll_event events[256];;) {
        int n = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.fd != listener) {
                readable(events[i].data.fd);
                continue;
            }
            for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0;) {
                if (fd >= CONNS_MAX)
                    bench_die("more than %d connections", CONNS_MAX);
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                watch(epoll, fd);
            }
        }
    }
}

/* ---- zmq ------------------------------------------------------------------------------------ */

static void *bound(void *context, int type, const char *address) {
    int mark = HIGH_WATER;
    void *s = zmq_socket(context, type);
    if (s == NULL || zmq_setsockopt(s, ZMQ_SNDHWM, &mark, sizeof mark) != 0 ||
        zmq_setsockopt(s, ZMQ_RCVHWM, &mark, sizeof mark) != 0 || zmq_bind(s, address) != 0)
        bench_die("zmq %s: %s", address, zmq_strerror(errno));
    return s;
}

static void must(int r) {
    if (r < 0)
        bench_die("zmq: %s", zmq_strerror(errno));
}

/* [client][topic][payload]: without a topic an echo, else a publish. */
static bool pass(void *router, void *events) {
    zmq_msg_t client, topic, payload;
    zmq_msg_init(&client);
    zmq_msg_init(&topic);
    zmq_msg_init(&payload);
    if (zmq_msg_recv(&client, router, ZMQ_DONTWAIT) < 0)
        return false;
    must(zmq_msg_recv(&topic, router, 0));
    must(zmq_msg_recv(&payload, router, 0));
    bool is_echo = zmq_msg_size(&topic) == 0;
    void *to = is_echo ? router : events;
    if (is_echo)
        must(zmq_msg_send(&client, router, ZMQ_SNDMORE));
    must(zmq_msg_send(&topic, to, ZMQ_SNDMORE));
    must(zmq_msg_send(&payload, to, 0));
    zmq_msg_close(&client);
    return true;
}

/* A subscription comes back as an empty message: its client knows that it is in force. */
static bool confirm(void *events) {
    uint8_t m[256];
    int n = zmq_recv(events, m, sizeof m, ZMQ_DONTWAIT);
    if (n < 0)
        return false;
    if (n > 1 && n <= (int)sizeof m && m[0] == 1) {
        must(zmq_send(events, m + 1, (size_t)n - 1, ZMQ_SNDMORE));
        must(zmq_send(events, "", 0, 0));
    }
    return true;
}

static void run_zmq(const char *dir) {
    char requests[256], deliveries[256];
    snprintf(requests, sizeof requests, "ipc://%s/bare.ipc", dir);
    snprintf(deliveries, sizeof deliveries, "ipc://%s/bare-events.ipc", dir);
    void *context = zmq_ctx_new();
    must(zmq_ctx_set(context, ZMQ_MAX_SOCKETS, 1024));
    void *router = bound(context, ZMQ_ROUTER, requests);
    void *events = bound(context, ZMQ_XPUB, deliveries);
    printf("{\"address\": \"%s\", \"events\": \"%s\"}\n", requests, deliveries);
    fflush(stdout);
    for (;;) {
        zmq_pollitem_t items[] = {{router, 0, ZMQ_POLLIN, 0}, {events, 0, ZMQ_POLLIN, 0}};
        if (zmq_poll(items, 2, -1) < 0 && errno != EINTR)
            bench_die("zmq_poll: %s", zmq_strerror(errno));
        while (confirm(events))
            ;
        while (pass(router, events))
            ;
    }
}

int main(int argc, char **argv) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (argc == 2 && strcmp(argv[1], "raw") == 0)
        run_raw();
    if (argc == 3 && strcmp(argv[1], "zmq") == 0)
        run_zmq(argv[2]);
    fputs("usage: postern-bare raw | zmq DIRECTORY\n", stderr);
    return 2;
}
