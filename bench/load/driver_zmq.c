/* SPDX-License-Identifier: Apache-2.0
 *
 * driver_zmq.c - libzmq without a broker's work (`postern-bare zmq`): a ROUTER that echoes, and
 * passes on what has a topic to an XPUB.
 */
#include "bench/load/wire.h"

#include <errno.h>
#include <unistd.h>
#include <zmq.h>

/* More than any window: a message over the mark would be dropped in silence by XPUB and SUB. */
#define HIGH_WATER 100000

static void *opened(const struct bench_target *t, int type, const char *address) {
    int linger = 0, mark = HIGH_WATER;
    void *s = zmq_socket(t->zmq, type);
    if (s == NULL || zmq_setsockopt(s, ZMQ_LINGER, &linger, sizeof linger) != 0 ||
        zmq_setsockopt(s, ZMQ_SNDHWM, &mark, sizeof mark) != 0 ||
        zmq_setsockopt(s, ZMQ_RCVHWM, &mark, sizeof mark) != 0 || zmq_connect(s, address) != 0)
        bench_die("zmq %s: %s", address, zmq_strerror(errno));
    return s;
}

static void open_dealer(struct bench_link *l, const struct bench_target *t, const char *source) {
    (void)source;
    l->zmq = opened(t, ZMQ_DEALER, t->address);
}

static void send_two(struct bench_link *l, const void *a, size_t a_bytes, const void *b, size_t n) {
    if (zmq_send(l->zmq, a, a_bytes, ZMQ_SNDMORE) < 0 || zmq_send(l->zmq, b, n, 0) < 0)
        bench_die("zmq_send: %s", zmq_strerror(errno));
}

/* Topic or delimiter, then the payload; a fence has an empty one. */
static enum bench_got next(struct bench_link *l, ptn_bytes *ret_payload) {
    static zmq_msg_t m; /* what the last view points into */
    static bool used;
    if (used)
        zmq_msg_close(&m);
    used = true;
    zmq_msg_init(&m);
    if (zmq_msg_recv(&m, l->zmq, ZMQ_DONTWAIT) < 0) {
        if (errno != EAGAIN && errno != EINTR)
            bench_die("zmq_recv: %s", zmq_strerror(errno));
        return BENCH_NOTHING;
    }
    bool is_answer = zmq_msg_size(&m) == 0;
    if (!zmq_msg_more(&m) || zmq_msg_recv(&m, l->zmq, 0) < 0 || zmq_msg_more(&m))
        bench_die("zmq: not a message of two frames");
    *ret_payload = (ptn_bytes){zmq_msg_data(&m), zmq_msg_size(&m)};
    return is_answer || ret_payload->n == 0 ? BENCH_ANSWER : BENCH_DELIVERY;
}

/* The server publishes every subscription it hears of: when that comes back, this one and those
 * before it are in force.  Only what is new at the server is heard of, hence a topic of its own. */
static void subscribe(struct bench_link *l, const char *topic) {
    static unsigned fences;
    if (l->user == NULL) {
        zmq_close(l->zmq);
        l->zmq = opened(l->target, ZMQ_SUB, l->target->events);
        l->user = l; /* a mark: the socket is a SUB now */
    }
    char fence[64];
    ptn_bytes payload;
    int n = snprintf(fence, sizeof fence, "fence.%d.%u", (int)getpid(), fences++);
    if (zmq_setsockopt(l->zmq, ZMQ_SUBSCRIBE, topic, strlen(topic)) != 0 ||
        zmq_setsockopt(l->zmq, ZMQ_SUBSCRIBE, fence, (size_t)n) != 0)
        bench_die("zmq subscribe: %s", zmq_strerror(errno));
    while (bench_link_wait(l, &payload) != BENCH_ANSWER)
        ;
    if (zmq_setsockopt(l->zmq, ZMQ_UNSUBSCRIBE, fence, (size_t)n) != 0)
        bench_die("zmq unsubscribe: %s", zmq_strerror(errno));
    /* The descriptor tells of a message only after the socket was found empty. */
    while (next(l, &payload) != BENCH_NOTHING)
        ;
}

static void publish(struct bench_link *l, const char *topic, const void *payload, size_t n) {
    send_two(l, topic, strlen(topic), payload, n);
}

static void request(struct bench_link *l, const void *payload, size_t n) {
    send_two(l, "", 0, payload, n); /* as REQ does */
}

const struct bench_driver bench_zmq = {
    .name = "zmq",
    .about = "libzmq alone: ROUTER echo, and ROUTER to XPUB",
    .can = BENCH_CAN_PUBSUB | BENCH_CAN_REQUEST,
    .open = open_dealer,
    .subscribe = subscribe,
    .publish = publish,
    .request = request,
    .next = next,
};
