/* SPDX-License-Identifier: Apache-2.0
 *
 * driver_raw.c - the limit of the machine: a loop around send() and one around recv()
 * (`postern-bare raw`), which know WebSocket frames and nothing else.
 *
 * What is published is the very frame that Postern would send to its subscribers, so that both
 * servers write the same bytes and the client reads them in the same way.
 */
#include "bench/load/wire.h"

static void open_ws(struct bench_link *l, const struct bench_target *t, const char *source) {
    l->io.fd = bench_connect(t->address, source);
    wire_upgrade(l, "/", NULL);
}

/* A text frame "subscribe" is answered with itself; a binary one goes to all who subscribed,
 * whatever the topic; other text is an echo. */
static void subscribe(struct bench_link *l, const char *topic) {
    ptn_bytes answer;
    (void)topic;
    bench_ws_queue(&l->io, 1, "subscribe", 9);
    (void)bench_link_flush(l);
    if (bench_link_wait(l, &answer) != BENCH_ANSWER)
        bench_die("raw: a delivery before the subscription");
}

static void publish(struct bench_link *l, const char *topic, const void *payload, size_t n) {
    static struct wire_text t;
    t.n = 0;
    wire_putf(&t,
              "{\"type\":\"event\",\"topic\":\"%s\",\"epoch\":\"0123456789abcdef\","
              "\"offset\":10000,\"data\":\"",
              topic);
    wire_put(&t, payload, n);
    wire_put(&t, "\"}", 2);
    bench_ws_queue(&l->io, 2, t.bytes, t.n);
}

static void request(struct bench_link *l, const void *payload, size_t n) {
    bench_ws_queue(&l->io, 1, payload, n);
}

static enum bench_got next(struct bench_link *l, ptn_bytes *ret_payload) {
    if (!bench_link_ws_next(l, ret_payload))
        return BENCH_NOTHING;
    size_t n = l->target->payload_bytes;
    if (ret_payload->n < n + 2 || ret_payload->p[0] != '{')
        return BENCH_ANSWER;
    *ret_payload = (ptn_bytes){ret_payload->p + ret_payload->n - 2 - n, n};
    return BENCH_DELIVERY;
}

const struct bench_driver bench_raw = {
    .name = "raw",
    .about = "a bare loop of send(), and of recv() and send() for requests",
    .can = BENCH_CAN_PUBSUB | BENCH_CAN_REQUEST,
    .open = open_ws,
    .subscribe = subscribe,
    .publish = publish,
    .request = request,
    .next = next,
    .close = wire_close,
};
