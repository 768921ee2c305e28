/* SPDX-License-Identifier: Apache-2.0
 *
 * driver_postern_ws.c - Postern's frames over WebSocket, JSON and msgpack.
 *
 * `type` is the first member of every frame that comes, and `data` the last of an event: where both
 * stand follows from the size of the payload.
 */
#include "bench/load/postern_frame.h"

/* ---- JSON ---------------------------------------------------------------------------------- */

static void json_open(struct bench_link *l, const struct bench_target *t, const char *source) {
    bench_ws_open(&l->io, t->address, source, t->token, "postern.v1.json");
}

static void deflate_open(struct bench_link *l, const struct bench_target *t, const char *source) {
    bench_ws_open_offering(&l->io, t->address, source, t->token, "postern.v1.json",
                           "permessage-deflate");
}

static bool begins(ptn_bytes m, const char *z, size_t n) {
    return m.n > n && memcmp(m.p, z, n) == 0;
}
#define BEGINS(m, z) begins(m, z, sizeof(z) - 1)

static enum bench_got json_next(struct bench_link *l, ptn_bytes *ret_payload) {
    size_t n = l->target->payload_bytes;
    ptn_bytes m;
    while (bench_link_ws_next(l, &m)) {
        *ret_payload = m;
        if (BEGINS(m, "{\"type\":\"event\"") && m.n > n + 2) {
            *ret_payload = (ptn_bytes){m.p + m.n - 2 - n, n};
            return BENCH_DELIVERY;
        }
        if (BEGINS(m, "{\"type\":\"ack\"") || BEGINS(m, "{\"type\":\"pong\"") ||
            BEGINS(m, "{\"type\":\"subscribed\""))
            return BENCH_ANSWER;
        if (!BEGINS(m, "{\"type\":\"welcome\""))
            return BENCH_REFUSAL;
    }
    return BENCH_NOTHING;
}

static void answered(struct bench_link *l, const char *what) {
    ptn_bytes m;
    if (bench_link_wait(l, &m) != BENCH_ANSWER)
        bench_die("%s: %s: %.*s", l->driver->name, what, (int)(m.n < 300 ? m.n : 300), m.p);
}

static void json_subscribe(struct bench_link *l, const char *topic) {
    char text[400];
    int n = snprintf(text, sizeof text, "{\"type\":\"subscribe\",\"topic\":\"%s\"}", topic);
    bench_ws_queue(&l->io, 1, text, (size_t)n);
    answered(l, topic);
}

static void json_publish(struct bench_link *l, const char *topic, const void *payload, size_t n) {
    static char text[BENCH_PAYLOAD_MAX + 512];
    int head = snprintf(text, 512, "{\"type\":\"publish\",\"topic\":\"%s\",%s\"data\":\"", topic,
                        l->target->durable ? "\"durability\":\"synced\"," : "");
    memcpy(text + head, payload, n);
    memcpy(text + head + n, "\"}", 2);
    bench_ws_queue(&l->io, 1, text, (size_t)head + n + 2);
}

static void json_request(struct bench_link *l, const void *payload, size_t n) {
    (void)payload, (void)n;
    bench_ws_queue(&l->io, 1, "{\"type\":\"ping\"}", 15);
}

/* ---- msgpack ------------------------------------------------------------------------------- */

static void msgpack_open(struct bench_link *l, const struct bench_target *t, const char *source) {
    bench_ws_open(&l->io, t->address, source, t->token, "postern.v1.msgpack");
}

static enum bench_got msgpack_next(struct bench_link *l, ptn_bytes *ret_payload) {
    ptn_bytes m;
    while (bench_link_ws_next(l, &m)) {
        enum bench_got got = bench_postern_msgpack(l->target, m, ret_payload);
        if (got != BENCH_NOTHING)
            return got;
    }
    return BENCH_NOTHING;
}

static void msgpack_subscribe(struct bench_link *l, const char *topic) {
    uint8_t frame[400];
    size_t n = bench_postern_frame(frame, "subscribe", topic, NULL, NULL);
    bench_ws_queue(&l->io, 2, frame, n);
    answered(l, topic);
}

static void msgpack_publish(struct bench_link *l, const char *topic, const void *payload,
                            size_t n) {
    static uint8_t frame[BENCH_PAYLOAD_MAX + 512];
    size_t head =
        bench_postern_frame(frame, "publish", topic, NULL, l->target->durable ? "synced" : NULL);
    head = bench_postern_data(frame, head, payload, n);
    bench_ws_queue(&l->io, 2, frame, head);
}

static void msgpack_request(struct bench_link *l, const void *payload, size_t n) {
    (void)payload, (void)n;
    bench_ws_queue(&l->io, 2, "\x81\xa4type\xa4ping", 11);
}

/* -------------------------------------------------------------------------------------------- */

extern const struct bench_driver bench_postern_ws_json, bench_postern_ws_msgpack,
    bench_postern_ws_deflate;

const struct bench_driver bench_postern_ws_json = {
    .name = "postern-ws-json",
    .about = "Postern over WebSocket, JSON frames",
    .can = BENCH_CAN_PUBSUB | BENCH_CAN_REQUEST | BENCH_CAN_DURABLE | BENCH_ANSWERS_PUBLISH |
           BENCH_IS_POSTERN,
    .open = json_open,
    .subscribe = json_subscribe,
    .publish = json_publish,
    .request = json_request,
    .next = json_next,
};

const struct bench_driver bench_postern_ws_msgpack = {
    .name = "postern-ws-msgpack",
    .about = "Postern over WebSocket, msgpack frames",
    .can = BENCH_CAN_PUBSUB | BENCH_CAN_REQUEST | BENCH_CAN_DURABLE | BENCH_ANSWERS_PUBLISH |
           BENCH_IS_POSTERN,
    .open = msgpack_open,
    .subscribe = msgpack_subscribe,
    .publish = msgpack_publish,
    .request = msgpack_request,
    .next = msgpack_next,
};

const struct bench_driver bench_postern_ws_deflate = {
    .name = "postern-ws-deflate",
    .about = "Postern over WebSocket, JSON frames, compressed (permessage-deflate)",
    .can = BENCH_CAN_PUBSUB | BENCH_CAN_REQUEST | BENCH_CAN_DURABLE | BENCH_ANSWERS_PUBLISH |
           BENCH_IS_POSTERN,
    .open = deflate_open,
    .subscribe = json_subscribe,
    .publish = json_publish,
    .request = json_request,
    .next = json_next,
    .set = "ws.deflate=160",
};
