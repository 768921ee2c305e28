/* SPDX-License-Identifier: Apache-2.0
 *
 * link.c - what all drivers share: reading, writing, lines, WebSocket frames, stamps.
 *
 * One link at a time reads into one common buffer (the borrower); what it leaves there, the
 * beginning of a message, goes back to its own buffer before the next link reads.
 */
#include "bench/load/driver.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <zmq.h>

#define COMMON_BYTES (256u * 1024u)
#define DISCARD_BYTES (1u << 30)
#define OUT_BYTES_MAX (256u << 20) /* a server that has stopped reading for good */
#define WAIT_MS 10000

static uint8_t common[COMMON_BYTES];
static struct bench_link *borrower;
static uint64_t received;

uint64_t bench_link_received(void) {
    return received;
}

static uint8_t *grown(uint8_t *p, size_t *cap, size_t need) {
    size_t bytes = *cap == 0 ? 256 : *cap;
    while (bytes < need)
        bytes *= 2;
    if (bytes == *cap)
        return p;
    p = realloc(p, bytes);
    if (p == NULL)
        bench_die("out of memory");
    *cap = bytes;
    return p;
}

static void settle(void) {
    struct bench_link *l = borrower;
    if (l == NULL)
        return;
    borrower = NULL;
    size_t left = l->io.in_len - l->io.in_pos;
    if (left > 0) {
        l->own = grown(l->own, &l->own_cap, left);
        memcpy(l->own, l->io.in + l->io.in_pos, left);
    }
    l->io.in = l->own;
    l->io.in_cap = l->own_cap;
    l->io.in_pos = 0;
    l->io.in_len = left;
}

/* ---- reading and writing ------------------------------------------------------------------- */

bool bench_link_read(struct bench_link *l) {
    if (l->zmq != NULL)
        return true; /* next() asks the socket */
    if (l->closed)
        return false;
    struct bench_ws *w = &l->io;
    settle();
    size_t left = w->in_len - w->in_pos;
    if (left >= sizeof common)
        bench_die("%s: a message of more than %zu bytes", l->driver->name, sizeof common);
    ssize_t n = recv(w->fd, common + left, sizeof common - left, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n <= 0) {
        l->closed = true;
        return false;
    }
    received += (size_t)n;
    l->received += (size_t)n;
    if (left > 0)
        memcpy(common, w->in + w->in_pos, left);
    l->own = w->in;
    l->own_cap = w->in_cap;
    w->in = common;
    w->in_cap = sizeof common;
    w->in_pos = 0;
    w->in_len = left + (size_t)n;
    borrower = l;
    return true;
}

bool bench_link_discard(struct bench_link *l) {
    ssize_t n = recv(l->io.fd, NULL, DISCARD_BYTES, MSG_TRUNC);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    l->closed |= n <= 0;
    if (n <= 0)
        return false;
    received += (size_t)n;
    l->received += (size_t)n;
    return true;
}

bool bench_link_flush(struct bench_link *l) {
    struct bench_ws *w = &l->io;
    size_t done = 0;
    if (l->zmq != NULL || w->out_len == 0)
        return true;
    while (done < w->out_len && !l->closed) {
        ssize_t n = send(w->fd, w->out + done, w->out_len - done, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN)
            l->closed = true;
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    if (l->closed)
        done = w->out_len;
    if (done > 0 && done < w->out_len)
        memmove(w->out, w->out + done, w->out_len - done);
    w->out_len -= done;
    if (w->out_len > OUT_BYTES_MAX)
        bench_die("%s: the server has stopped reading", l->driver->name);
    return w->out_len == 0;
}

void bench_link_queue(struct bench_link *l, const void *p, size_t n) {
    struct bench_ws *w = &l->io;
    w->out = grown(w->out, &w->out_cap, w->out_len + n);
    memcpy(w->out + w->out_len, p, n);
    w->out_len += n;
}

int bench_link_fd(const struct bench_link *l) {
    int fd = l->io.fd;
    size_t bytes = sizeof fd;
    if (l->zmq != NULL && zmq_getsockopt(l->zmq, ZMQ_FD, &fd, &bytes) != 0)
        bench_die("ZMQ_FD: %s", zmq_strerror(zmq_errno()));
    return fd;
}

enum bench_got bench_link_wait(struct bench_link *l, ptn_bytes *ret_payload) {
    uint64_t end = bench_now_ns() + WAIT_MS * (uint64_t)1000000;
    for (;;) {
        enum bench_got got = l->driver->next(l, ret_payload);
        if (got != BENCH_NOTHING)
            return got;
        bool whole = bench_link_flush(l);
        zmq_pollitem_t item = {.socket = l->zmq, .fd = l->io.fd, .events = ZMQ_POLLIN};
        (void)zmq_poll(&item, 1, whole ? 100 : 1);
        (void)bench_link_read(l);
        if (l->closed)
            bench_die("%s: the server closed the connection", l->driver->name);
        if (bench_now_ns() > end)
            bench_die("%s: the server did not answer within 10 s", l->driver->name);
    }
}

/* ---- opening and closing ------------------------------------------------------------------- */

void bench_link_open(struct bench_link *l, const struct bench_driver *d,
                     const struct bench_target *t, const char *source) {
    *l = (struct bench_link){.driver = d, .target = t, .io = {.fd = -1}};
    d->open(l, t, source);
}

void bench_link_close(struct bench_link *l) {
    if (borrower == l)
        settle();
    if (l->driver != NULL && l->driver->close != NULL)
        l->driver->close(l);
    if (l->zmq != NULL)
        (void)zmq_close(l->zmq);
    if (l->io.fd >= 0)
        bench_ws_close(&l->io);
    *l = (struct bench_link){.io = {.fd = -1}, .closed = true};
}

/* ---- what is in the bytes ------------------------------------------------------------------ */

ptn_bytes bench_link_line(struct bench_link *l) {
    struct bench_ws *w = &l->io;
    const uint8_t *p = w->in + w->in_pos;
    const uint8_t *end = w->in_len > w->in_pos ? memchr(p, '\n', w->in_len - w->in_pos) : NULL;
    if (end == NULL)
        return (ptn_bytes){NULL, 0};
    w->in_pos += (size_t)(end - p) + 1;
    return (ptn_bytes){p, (size_t)(end - p) - (end > p && end[-1] == '\r')};
}

bool bench_link_ws_next(struct bench_link *l, ptn_bytes *ret_message) {
    struct bench_ws *w = &l->io;
    for (;;) {
        const uint8_t *p = w->in + w->in_pos;
        size_t have = w->in_len - w->in_pos, head = 2;
        if (have < 2)
            return false;
        uint64_t n = p[1] & 0x7f;
        if (n >= 126) {
            head = n == 126 ? 4 : 10;
            if (have < head)
                return false;
            n = 0;
            for (size_t i = 2; i < head; i++)
                n = n << 8 | p[i];
        }
        if (have - head < n)
            return false;
        w->in_pos += head + n;
        unsigned opcode = p[0] & 15;
        if (opcode <= 2) {
            *ret_message = (ptn_bytes){p + head, n};
            if ((p[0] & 0x40) != 0) /* RFC 7692: compressed */
                *ret_message = bench_inflated(*ret_message);
            return true;
        }
        if (opcode == 8)
            l->closed = true;
        if (opcode != 9)
            continue;
        bench_ws_queue(w, 10, p + head, n);
        (void)bench_link_flush(l);
    }
}

/* ---- stamps -------------------------------------------------------------------------------- */

static void put_hex(char *p, unsigned digits, uint64_t v) {
    for (; digits > 0; v >>= 4)
        p[--digits] = "0123456789abcdef"[v & 15];
}

void bench_stamp(char *payload, uint64_t at_ns, uint32_t sequence) {
    put_hex(payload, 16, at_ns);
    put_hex(payload + 16, 8, sequence);
}

/* Without a branch per digit; true: all were digits of ours. */
static bool get_hex(const uint8_t *p, unsigned digits, uint64_t *ret_v) {
    uint64_t v = 0;
    bool good = true;
    for (unsigned i = 0; i < digits; i++) {
        unsigned letter = p[i] >> 6, digit = (p[i] & 15u) + 9 * letter;
        good &= "0123456789abcdef"[digit & 15] == p[i];
        v = v << 4 | (digit & 15);
    }
    *ret_v = v;
    return good;
}

bool bench_stamp_read(ptn_bytes payload, uint64_t *ret_at_ns, uint32_t *ret_sequence) {
    uint64_t sequence;
    if (payload.n < BENCH_STAMP_BYTES || !get_hex(payload.p, 16, ret_at_ns) ||
        !get_hex(payload.p + 16, 8, &sequence))
        return false;
    *ret_sequence = (uint32_t)sequence;
    return true;
}
