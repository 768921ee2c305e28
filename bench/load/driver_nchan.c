/* SPDX-License-Identifier: Apache-2.0
 *
 * driver_nchan.c - nginx with nchan: a publish is a POST to /pub/TOPIC, a subscriber is a WebSocket
 * on /sub/TOPIC.
 */
#include "bench/load/wire.h"

/* "Content-Length: 12\r\n" in a head; false: there is none. */
static bool body_bytes(const uint8_t *head, size_t n, uint64_t *ret_bytes) {
    static const char name[] = "\r\nContent-Length: ";
    const uint8_t *at = memmem(head, n, name, sizeof name - 1);
    if (at == NULL)
        return false;
    at += sizeof name - 1;
    return wire_number(&at, head + n, '\r', ret_bytes) && *ret_bytes <= WIRE_PAYLOAD_MAX;
}

/* An answer of HTTP/1.1 with a length. */
enum wire_word nchan_parse(ptn_bytes in, size_t *ret_used, ptn_bytes *ret_payload) {
    size_t look = in.n < WIRE_HEAD_MAX ? in.n : WIRE_HEAD_MAX;
    const uint8_t *end = memmem(in.p, look, "\r\n\r\n", 4);
    if (end == NULL && look == WIRE_HEAD_MAX)
        bench_die("nchan: a head without end");
    if (end == NULL)
        return WIRE_MORE;
    size_t head = (size_t)(end - in.p) + 4;
    uint64_t body = 0;
    if (head < 12 || memcmp(in.p, "HTTP/1.1 ", 9) != 0 || !body_bytes(in.p, head, &body))
        bench_die("nchan: not an answer with a length: %.*s", (int)head, (const char *)in.p);
    if (in.n - head < body)
        return WIRE_MORE;
    *ret_used = head + (size_t)body;
    *ret_payload = (ptn_bytes){in.p + head, (size_t)body};
    return in.p[9] == '2' ? WIRE_ANSWER : WIRE_REFUSAL;
}

/* ---- driver --------------------------------------------------------------------------------- */

/* Whether it publishes or subscribes shows later; wire_upgrade() marks those who subscribe. */
static void open_plain(struct bench_link *l, const struct bench_target *t, const char *source) {
    l->io.fd = bench_connect(t->address, source);
}

/* nchan answers 101 when the subscriber is in its channel. */
static void subscribe(struct bench_link *l, const char *topic) {
    char path[256];
    snprintf(path, sizeof path, "/sub/%.200s", topic);
    wire_upgrade(l, path, NULL);
}

static void publish(struct bench_link *l, const char *topic, const void *payload, size_t n) {
    static struct wire_text t;
    t.n = 0;
    wire_putf(&t, "POST /pub/%s HTTP/1.1\r\nHost: nchan\r\nContent-Length: %zu\r\n\r\n", topic, n);
    wire_put(&t, payload, n);
    bench_link_queue(l, t.bytes, t.n);
}

static enum bench_got next(struct bench_link *l, ptn_bytes *ret_payload) {
    if (l->user != NULL) /* every message is a frame of its own */
        return bench_link_ws_next(l, ret_payload) ? BENCH_DELIVERY : BENCH_NOTHING;
    return wire_next(l, nchan_parse, NULL, ret_payload);
}

const struct bench_driver bench_nchan = {
    .name = "nchan",
    .about = "nginx with nchan: POST to publish, WebSocket to subscribe",
    .can = BENCH_CAN_PUBSUB | BENCH_ANSWERS_PUBLISH,
    .open = open_plain,
    .subscribe = subscribe,
    .publish = publish,
    .next = next,
    .close = wire_close,
};
