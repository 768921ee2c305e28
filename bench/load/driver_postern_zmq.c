/* SPDX-License-Identifier: Apache-2.0
 *
 * driver_postern_zmq.c - Postern over ZeroMQ, msgpack: a DEALER asks and publishes, a SUB hears.
 */
#include "bench/load/postern_frame.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include <zmq.h>

#define HIGH_WATER 100000
#define PROBES_MAX 1000u

struct wire { /* of a link */
    zmq_msg_t part;
    bool hears; /* a SUB */
};

static void *socket_to(struct bench_link *l, int type, const char *address) {
    int zero = 0, high = HIGH_WATER, patience_ms = 10000;
    void *s = zmq_socket(l->target->zmq, type);
    if (s == NULL || address == NULL || zmq_setsockopt(s, ZMQ_LINGER, &zero, sizeof zero) != 0 ||
        zmq_setsockopt(s, ZMQ_SNDHWM, &high, sizeof high) != 0 ||
        zmq_setsockopt(s, ZMQ_RCVHWM, &high, sizeof high) != 0 ||
        zmq_setsockopt(s, ZMQ_SNDTIMEO, &patience_ms, sizeof patience_ms) != 0 ||
        zmq_connect(s, address) != 0)
        bench_die("ZeroMQ, %s: %s", address != NULL ? address : "--events is missing",
                  zmq_strerror(zmq_errno()));
    return s;
}

static void zmq_link_open(struct bench_link *l, const struct bench_target *t, const char *source) {
    struct wire *w = calloc(1, sizeof *w);
    (void)source;
    if (w == NULL)
        bench_die("out of memory");
    (void)zmq_msg_init(&w->part);
    l->user = w;
    l->zmq = socket_to(l, ZMQ_DEALER, t->address);
}

static void zmq_link_close(struct bench_link *l) {
    struct wire *w = l->user;
    (void)zmq_msg_close(&w->part);
    free(w);
}

static void send_frame(struct bench_link *l, const uint8_t *frame, size_t n) {
    if (zmq_send(l->zmq, "", 0, ZMQ_SNDMORE) < 0 || zmq_send(l->zmq, frame, n, 0) < 0)
        bench_die("zmq_send: %s", zmq_strerror(zmq_errno()));
}

static void zmq_publish(struct bench_link *l, const char *topic, const void *payload, size_t n) {
    static uint8_t frame[BENCH_PAYLOAD_MAX + 3000];
    size_t bytes = bench_postern_frame(frame, "publish", topic, l->target->token,
                                       l->target->durable ? "synced" : NULL);
    bytes = bench_postern_data(frame, bytes, payload, n);
    send_frame(l, frame, bytes);
}

static void zmq_request(struct bench_link *l, const void *payload, size_t n) {
    (void)payload, (void)n;
    send_frame(l, (const uint8_t *)"\x81\xa4type\xa4ping", 11);
}

/* The last part of a message: an answer's or an event's body. */
static bool take(void *socket, zmq_msg_t *part) {
    int more = 1;
    for (int flags = ZMQ_DONTWAIT; more != 0; flags = 0) {
        if (zmq_msg_recv(part, socket, flags) < 0) {
            if (flags != 0 && (errno == EAGAIN || errno == EINTR))
                return false;
            bench_die("zmq_msg_recv: %s", zmq_strerror(zmq_errno()));
        }
        more = zmq_msg_more(part);
    }
    return true;
}

static enum bench_got zmq_next(struct bench_link *l, ptn_bytes *ret_payload) {
    struct wire *w = l->user;
    while (take(l->zmq, &w->part)) {
        ptn_bytes m = {zmq_msg_data(&w->part), zmq_msg_size(&w->part)};
        enum bench_got got = bench_postern_msgpack(l->target, m, ret_payload);
        if (got != BENCH_NOTHING)
            return got;
    }
    return BENCH_NOTHING;
}

/* A SUB is not told when its subscription is in force: subscriptions are taken in order, so
 * that of a probe comes behind it, and a probe that arrives says that both are. */
static void zmq_subscribe(struct bench_link *l, const char *topic) {
    struct wire *w = l->user;
    static unsigned probes;
    char probe[160];
    if (w->hears)
        bench_die("%s: a subscriber has one topic", l->driver->name);
    w->hears = true;
    void *dealer = l->zmq, *sub = socket_to(l, ZMQ_SUB, l->target->events);
    (void)snprintf(probe, sizeof probe, "%s.probe.%d.%06u", l->target->topic_prefix, (int)getpid(),
                   probes++);
    if (zmq_setsockopt(sub, ZMQ_SUBSCRIBE, topic, strlen(topic)) != 0 ||
        zmq_setsockopt(sub, ZMQ_SUBSCRIBE, probe, strlen(probe)) != 0)
        bench_die("ZMQ_SUBSCRIBE: %s", zmq_strerror(zmq_errno()));
    bool heard = false;
    for (unsigned i = 0; i < PROBES_MAX && !heard; i++) {
        ptn_bytes m;
        char stamp[BENCH_STAMP_BYTES];
        bench_stamp(stamp, 0, 0);
        zmq_publish(l, probe, stamp, sizeof stamp);
        if (bench_link_wait(l, &m) != BENCH_ANSWER)
            bench_die("%s: %.*s", probe, (int)(m.n < 300 ? m.n : 300), m.p);
        zmq_pollitem_t item = {.socket = sub, .events = ZMQ_POLLIN};
        heard = zmq_poll(&item, 1, i < 10 ? 1 : 10) == 1;
    }
    if (!heard)
        bench_die("%s hears nothing", l->target->events);
    (void)zmq_close(dealer);
    l->zmq = sub;
    zmq_pollitem_t item = {.socket = sub, .events = ZMQ_POLLIN};
    do /* also the probes that came late */
        while (take(sub, &w->part))
            ;
    while (zmq_poll(&item, 1, 5) == 1);
    if (zmq_setsockopt(sub, ZMQ_UNSUBSCRIBE, probe, strlen(probe)) != 0)
        bench_die("ZMQ_UNSUBSCRIBE: %s", zmq_strerror(zmq_errno()));
}

extern const struct bench_driver bench_postern_zmq;

const struct bench_driver bench_postern_zmq = {
    .name = "postern-zmq",
    .about = "Postern over ZeroMQ, msgpack frames",
    .can = BENCH_CAN_PUBSUB | BENCH_CAN_REQUEST | BENCH_CAN_DURABLE | BENCH_ANSWERS_PUBLISH |
           BENCH_IS_POSTERN,
    .open = zmq_link_open,
    .subscribe = zmq_subscribe,
    .publish = zmq_publish,
    .request = zmq_request,
    .next = zmq_next,
    .close = zmq_link_close,
};
