/* SPDX-License-Identifier: Apache-2.0
 *
 * driver_nats.c - NATS core (docs.nats.io, client protocol), plain and inside of WebSocket: no
 * JetStream, no acknowledgement of a publish.
 */
#include "bench/load/wire.h"

static bool begins(const uint8_t *p, size_t n, const char *z) {
    size_t len = strlen(z);
    return n >= len && memcmp(p, z, len) == 0;
}

/* "MSG <subject> <sid> [reply] <bytes>": the number is the last word. */
static size_t payload_bytes(const uint8_t *line, size_t n) {
    size_t at = n;
    while (at > 0 && line[at - 1] >= '0' && line[at - 1] <= '9')
        at--;
    const uint8_t *digits = line + at;
    uint64_t bytes = 0;
    if (!wire_number(&digits, line + n + 1, '\r', &bytes) || bytes > WIRE_PAYLOAD_MAX)
        bench_die("nats: no size: %.*s", (int)n, (const char *)line);
    return (size_t)bytes;
}

enum wire_word nats_parse(ptn_bytes in, size_t *ret_used, ptn_bytes *ret_payload) {
    size_t look = in.n < WIRE_HEAD_MAX ? in.n : WIRE_HEAD_MAX;
    const uint8_t *end = memchr(in.p, '\n', look);
    if (end == NULL && look == WIRE_HEAD_MAX)
        bench_die("nats: a line without end");
    if (end == NULL || end == in.p)
        return WIRE_MORE;
    size_t line = (size_t)(end - in.p) - 1; /* without CRLF */
    *ret_used = line + 2;
    if (begins(in.p, line, "MSG ")) {
        size_t n = payload_bytes(in.p, line);
        if (in.n - line - 2 < n + 2)
            return WIRE_MORE;
        *ret_payload = (ptn_bytes){in.p + line + 2, n};
        *ret_used = line + 2 + n + 2;
        return WIRE_DELIVERY;
    }
    *ret_payload = (ptn_bytes){in.p, line};
    if (begins(in.p, line, "PONG"))
        return WIRE_ANSWER;
    if (begins(in.p, line, "PING"))
        return WIRE_PING;
    if (begins(in.p, line, "-ERR"))
        return WIRE_REFUSAL;
    return WIRE_SKIP; /* INFO, +OK */
}

/* ---- driver --------------------------------------------------------------------------------- */

static void login(struct bench_link *l) {
    /* verbose: false, or every publish would be answered +OK.  No echo is wanted either way: a link
     * subscribes or publishes. */
    static const char hello[] = "CONNECT {\"verbose\":false,\"pedantic\":false,\"echo\":false}\r\n"
                                "PING\r\n";
    wire_ask(l, hello, sizeof hello - 1);
}

static void open_plain(struct bench_link *l, const struct bench_target *t, const char *source) {
    l->io.fd = bench_connect(t->address, source);
    login(l);
}

static void open_ws(struct bench_link *l, const struct bench_target *t, const char *source) {
    l->io.fd = bench_connect(t->address, source);
    wire_upgrade(l, "/", NULL);
    login(l);
}

static void subscribe(struct bench_link *l, const char *topic) {
    char text[256];
    int n = snprintf(text, sizeof text, "SUB %.200s 1\r\nPING\r\n", topic);
    wire_ask(l, text, (size_t)n); /* in order: the PONG comes when the SUB is in force */
}

static void publish(struct bench_link *l, const char *topic, const void *payload, size_t n) {
    static struct wire_text t;
    t.n = 0;
    wire_putf(&t, "PUB %s %zu\r\n", topic, n);
    wire_put(&t, payload, n);
    wire_put(&t, "\r\n", 2);
    wire_queue(l, t.bytes, t.n);
}

/* The cheapest question: NATS has no echo of its own. */
static void request(struct bench_link *l, const void *payload, size_t n) {
    (void)payload, (void)n;
    wire_queue(l, "PING\r\n", 6);
}

static enum bench_got next(struct bench_link *l, ptn_bytes *ret_payload) {
    return wire_next(l, nats_parse, "PONG\r\n", ret_payload);
}

const struct bench_driver bench_nats = {
    .name = "nats",
    .about = "NATS core over TCP",
    .can = BENCH_CAN_PUBSUB | BENCH_CAN_REQUEST,
    .open = open_plain,
    .subscribe = subscribe,
    .publish = publish,
    .request = request,
    .next = next,
    .close = wire_close,
};

const struct bench_driver bench_nats_ws = {
    .name = "nats-ws",
    .about = "NATS core over WebSocket",
    .can = BENCH_CAN_PUBSUB | BENCH_CAN_REQUEST,
    .open = open_ws,
    .subscribe = subscribe,
    .publish = publish,
    .request = request,
    .next = next,
    .close = wire_close,
};
