/* SPDX-License-Identifier: Apache-2.0
 *
 * wire.c - a wire over a plain socket or inside of WebSocket frames.
 *
 * A server may cut its bytes into frames anywhere.  Whole words are parsed where they lie; only a
 * word that goes on in the next frame is copied, to the link's carry.
 */
#include "bench/load/wire.h"

#include <stdarg.h>
#include <stdlib.h>

struct unwrap {     /* of a link over WebSocket */
    ptn_bytes left; /* of the frame, or of the carry, that is being parsed */
    uint8_t *carry;
    size_t cap;
};

bool wire_number(const uint8_t **at, const uint8_t *limit, char end, uint64_t *ret_value) {
    const uint8_t *p = *at;
    uint64_t v = 0;
    while (p < limit && *p >= '0' && *p <= '9' && v < UINT64_C(1) << 59)
        v = v * 10 + (uint64_t)(*p++ - '0');
    if (p == *at || p == limit || *p != (uint8_t)end)
        return false;
    *at = p + 1;
    *ret_value = v;
    return true;
}

void wire_put(struct wire_text *t, const void *p, size_t n) {
    if (n > sizeof t->bytes - t->n)
        bench_die("a message of more than %u bytes", BENCH_PAYLOAD_MAX);
    memcpy(t->bytes + t->n, p, n);
    t->n += n;
}

void wire_putf(struct wire_text *t, const char *fmt, ...) {
    char text[WIRE_HEAD_MAX];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof text)
        bench_die("a head of more than %u bytes", WIRE_HEAD_MAX);
    wire_put(t, text, (size_t)n);
}

/* ---- links ---------------------------------------------------------------------------------- */

void wire_upgrade(struct bench_link *l, const char *path, const char *subprotocol) {
    struct wire_text t = {.n = 0};
    wire_putf(&t,
              "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
              "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
              "%s%s%s\r\n",
              path, l->target->address, subprotocol != NULL ? "Sec-WebSocket-Protocol: " : "",
              subprotocol != NULL ? subprotocol : "", subprotocol != NULL ? "\r\n" : "");
    bench_ws_upgrade(&l->io, (const char *)t.bytes, t.n);
    l->user = calloc(1, sizeof(struct unwrap));
    if (l->user == NULL)
        bench_die("out of memory");
}

void wire_queue(struct bench_link *l, const void *p, size_t n) {
    if (l->user != NULL)
        bench_ws_queue(&l->io, 2, p, n);
    else
        bench_link_queue(l, p, n);
}

void wire_ask(struct bench_link *l, const void *p, size_t n) {
    ptn_bytes answer = {NULL, 0};
    wire_queue(l, p, n);
    (void)bench_link_flush(l);
    enum bench_got got = bench_link_wait(l, &answer);
    if (got != BENCH_ANSWER)
        bench_die("%s: instead of an answer: %.*s", l->driver->name,
                  (int)(answer.n < 200 ? answer.n : 200),
                  answer.p != NULL ? (const char *)answer.p : "");
}

void wire_close(struct bench_link *l) {
    struct unwrap *u = l->user;
    if (u != NULL)
        free(u->carry);
    free(u);
    l->user = NULL;
}

static void reserve(struct unwrap *u, size_t need) {
    if (need <= u->cap)
        return;
    u->cap = 2 * need;
    u->carry = realloc(u->carry, u->cap);
    if (u->carry == NULL)
        bench_die("out of memory");
}

/* Takes the next frame up; behind what was left of the last one.  False: there is none. */
static bool next_frame(struct bench_link *l, struct unwrap *u) {
    ptn_bytes frame;
    if (!bench_link_ws_next(l, &frame))
        return false;
    if (u->left.n == 0) {
        u->left = frame;
        return true;
    }
    if (u->left.n + frame.n > WIRE_PAYLOAD_MAX + WIRE_HEAD_MAX)
        bench_die("%s: a word of more than %u bytes", l->driver->name,
                  WIRE_PAYLOAD_MAX + WIRE_HEAD_MAX);
    memmove(u->carry, u->left.p, u->left.n); /* keep() has put it into the carry */
    reserve(u, u->left.n + frame.n);
    memcpy(u->carry + u->left.n, frame.p, frame.n);
    u->left = (ptn_bytes){u->carry, u->left.n + frame.n};
    return true;
}

/* What is left of a frame when more must be read: the reader's buffer will be another's. */
static void keep(struct unwrap *u) {
    if (u->left.n == 0 || (u->left.p >= u->carry && u->left.p < u->carry + u->cap))
        return;
    reserve(u, u->left.n);
    memcpy(u->carry, u->left.p, u->left.n);
    u->left.p = u->carry;
}

/* The bytes at hand; a parser looks at them and says how many it took. */
static ptn_bytes at_hand(const struct bench_link *l) {
    const struct unwrap *u = l->user;
    if (u != NULL)
        return u->left;
    return (ptn_bytes){l->io.in + l->io.in_pos, l->io.in_len - l->io.in_pos};
}

static void take(struct bench_link *l, size_t n) {
    struct unwrap *u = l->user;
    if (u != NULL)
        u->left = (ptn_bytes){u->left.p + n, u->left.n - n};
    else
        l->io.in_pos += n;
}

enum bench_got wire_next(struct bench_link *l, wire_parse *parse, const char *pong,
                         ptn_bytes *ret_payload) {
    for (;;) {
        size_t used = 0;
        ptn_bytes in = at_hand(l);
        enum wire_word word = in.n > 0 ? parse(in, &used, ret_payload) : WIRE_MORE;
        switch (word) {
        case WIRE_MORE:
            if (l->user == NULL)
                return BENCH_NOTHING;
            keep(l->user);
            if (!next_frame(l, l->user))
                return BENCH_NOTHING;
            continue;
        case WIRE_PING:
            wire_queue(l, pong, strlen(pong));
            bench_link_flush(l);
            break;
        case WIRE_DELIVERY:
            take(l, used);
            return BENCH_DELIVERY;
        case WIRE_ANSWER:
            take(l, used);
            return BENCH_ANSWER;
        case WIRE_REFUSAL:
            take(l, used);
            return BENCH_REFUSAL;
        case WIRE_SKIP:
            break;
        }
        take(l, used);
    }
}
