/* SPDX-License-Identifier: Apache-2.0
 *
 * driver_redis.c - SUBSCRIBE and PUBLISH of Redis in RESP2 (redis.io, protocol specification).
 */
#include "bench/load/wire.h"

/* "$<n>\r\n<bytes>\r\n" at *at.  False: not whole yet. */
static bool bulk(const uint8_t **at, const uint8_t *limit, ptn_bytes *ret_bytes) {
    const uint8_t *p = *at + 1;
    uint64_t n = 0;
    if (p >= limit)
        return false;
    if (**at != '$')
        bench_die("redis: '%c' instead of a bulk string", **at);
    if (!wire_number(&p, limit, '\r', &n) || p == limit)
        return false;
    if (n > WIRE_PAYLOAD_MAX)
        bench_die("redis: a string of %llu bytes", (unsigned long long)n);
    p++; /* \n */
    if ((size_t)(limit - p) < n + 2)
        return false;
    *ret_bytes = (ptn_bytes){p, (size_t)n};
    *at = p + n + 2;
    return true;
}

/* A push is "*3", its kind, its channel, and a payload, or the number of subscriptions. */
static enum wire_word push(ptn_bytes in, size_t *ret_used, ptn_bytes *ret_payload) {
    const uint8_t *p = in.p + 4, *limit = in.p + in.n;
    ptn_bytes kind, channel;
    if (in.n < 5)
        return WIRE_MORE;
    if (in.p[1] != '3' || in.p[2] != '\r')
        bench_die("redis: an array that is no push");
    if (!bulk(&p, limit, &kind) || !bulk(&p, limit, &channel))
        return WIRE_MORE;
    if (kind.n == 7 && memcmp(kind.p, "message", 7) == 0) {
        if (p == limit || !bulk(&p, limit, ret_payload))
            return WIRE_MORE;
        *ret_used = (size_t)(p - in.p);
        return WIRE_DELIVERY;
    }
    const uint8_t *end = memchr(p, '\n', (size_t)(limit - p));
    if (end == NULL)
        return WIRE_MORE;
    *ret_payload = channel;
    *ret_used = (size_t)(end + 1 - in.p);
    return WIRE_ANSWER;
}

enum wire_word redis_parse(ptn_bytes in, size_t *ret_used, ptn_bytes *ret_payload) {
    if (in.p[0] == '*')
        return push(in, ret_used, ret_payload);
    const uint8_t *p = in.p;
    if (in.p[0] == '$') {
        if (!bulk(&p, in.p + in.n, ret_payload))
            return WIRE_MORE;
        *ret_used = (size_t)(p - in.p);
        return WIRE_ANSWER;
    }
    size_t look = in.n < WIRE_HEAD_MAX ? in.n : WIRE_HEAD_MAX;
    const uint8_t *end = memchr(in.p, '\n', look);
    if (end == NULL && look == WIRE_HEAD_MAX)
        bench_die("redis: a line without end");
    if (end == NULL)
        return WIRE_MORE;
    *ret_used = (size_t)(end + 1 - in.p);
    *ret_payload = (ptn_bytes){in.p, *ret_used - 1};
    return in.p[0] == '-' ? WIRE_REFUSAL : WIRE_ANSWER;
}

/* ---- driver --------------------------------------------------------------------------------- */

static void open_plain(struct bench_link *l, const struct bench_target *t, const char *source) {
    l->io.fd = bench_connect(t->address, source);
    wire_ask(l, "PING\r\n", 6);
}

static void subscribe(struct bench_link *l, const char *topic) {
    char text[256];
    int n = snprintf(text, sizeof text, "SUBSCRIBE %.200s\r\n", topic);
    wire_ask(l, text, (size_t)n);
}

static void publish(struct bench_link *l, const char *topic, const void *payload, size_t n) {
    static struct wire_text t;
    t.n = 0;
    wire_putf(&t, "*3\r\n$7\r\nPUBLISH\r\n$%zu\r\n%s\r\n$%zu\r\n", strlen(topic), topic, n);
    wire_put(&t, payload, n);
    wire_put(&t, "\r\n", 2);
    wire_queue(l, t.bytes, t.n);
}

static void request(struct bench_link *l, const void *payload, size_t n) {
    static struct wire_text t;
    t.n = 0;
    wire_putf(&t, "*2\r\n$4\r\nECHO\r\n$%zu\r\n", n);
    wire_put(&t, payload, n);
    wire_put(&t, "\r\n", 2);
    wire_queue(l, t.bytes, t.n);
}

static enum bench_got next(struct bench_link *l, ptn_bytes *ret_payload) {
    return wire_next(l, redis_parse, NULL, ret_payload);
}

const struct bench_driver bench_redis = {
    .name = "redis",
    .about = "Redis SUBSCRIBE and PUBLISH; request: ECHO",
    .can = BENCH_CAN_PUBSUB | BENCH_CAN_REQUEST | BENCH_ANSWERS_PUBLISH,
    .open = open_plain,
    .subscribe = subscribe,
    .publish = publish,
    .request = request,
    .next = next,
    .close = wire_close,
};
