/* SPDX-License-Identifier: Apache-2.0
 *
 * zmq_gw.c - the gateway actor: watches libzmq's descriptors and takes input in bounded portions.
 *
 * ZMQ_FD tells only that something happened, once; what it was is in ZMQ_EVENTS, and asking,
 * sending and receiving all consume the announcement.  So after every use of a socket ZMQ_EVENTS is
 * read again, at the latest at the end of the turn, and what is left becomes a kick: a message to
 * the actor itself, behind whatever else the worker has to do.
 */
#include "protocols/zmq/zmq_int.h"

#include <postern/metrics.h>
#include <zmq.h>

#define KICK_RETRY_NS (5 * PTN_MS)

bool zmq_gw_readable(void *socket) {
    int events = 0;
    size_t len = sizeof(events);
    return zmq_getsockopt(socket, ZMQ_EVENTS, &events, &len) == 0 && (events & ZMQ_POLLIN) != 0;
}

static void kick_again(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    (void)state, (void)t;
    zmq_gw_kick(c, arg);
}

void zmq_gw_kick(ptn_ctx *c, zmq_gw *gw) {
    if (gw->kicked)
        return;
    int err = ptn_cast(c, gw->self, ZMQ_GW_MSG_KICK, NULL);
    gw->kicked = err == 0;
    /* Nobody else would look: the descriptor has said its word.  The timer is of whoever kicks, us
     * or the hub; when that ends, the next incarnation kicks. */
    if ((err == -PTN_EOVERLOAD || err == -PTN_ENOMEM) && !ptn_timer_is_armed(&gw->kick_timer))
        ptn_timer_start(c, &gw->kick_timer, KICK_RETRY_NS, kick_again, gw);
}

/* One whole message.  False: nothing to read.  libzmq hands out parts only when it has the last
 * one, so the loop ends; parts past the bound are read and dropped. */
static bool request_read(ptn_ctx *c, zmq_gw_state *st) {
    zmq_msg_t msgs[ZMQ_GW_PARTS_MAX];
    ptn_bytes parts[ZMQ_GW_PARTS_MAX];
    size_t n = 0;
    bool more = true;
    while (more) {
        zmq_msg_t extra;
        zmq_msg_t *m = n < ZMQ_GW_PARTS_MAX ? &msgs[n] : &extra;
        (void)zmq_msg_init(m);
        if (zmq_msg_recv(m, st->gw->router, ZMQ_DONTWAIT) < 0) {
            (void)zmq_msg_close(m);
            break;
        }
        more = zmq_msg_more(m) != 0;
        if (m == &extra)
            (void)zmq_msg_close(m);
        else
            parts[n] = (ptn_bytes){zmq_msg_data(m), zmq_msg_size(m)};
        n++;
    }
    if (n > 0 && !more)
        zmq_gw_calls_message(c, st, parts, n);
    size_t n_open = n < ZMQ_GW_PARTS_MAX ? n : ZMQ_GW_PARTS_MAX;
    for (size_t i = 0; i < n_open; i++)
        (void)zmq_msg_close(&msgs[i]);
    return n > 0;
}

static void requests_read(ptn_ctx *c, zmq_gw_state *st) {
    if (st->gw->router == NULL || st->pressed != 0)
        return;
    uint32_t n = 0;
    while (n < ZMQ_GW_TURN_MSGS && request_read(c, st))
        n++;
    if (n == ZMQ_GW_TURN_MSGS)
        zmq_gw_kick(c, st->gw);
}

static void router_ready(ptn_ctx *c, void *state, void *arg) {
    (void)arg;
    requests_read(c, state);
}

static void events_ready(ptn_ctx *c, void *state, void *arg) {
    (void)arg;
    zmq_gw_events_read(c, state);
}

/* Watches one socket; NULL is none. */
static int watch(ptn_ctx *c, void *socket, void (*cb)(ptn_ctx *c, void *state, void *arg),
                 ptn_watch **ret_w) {
    int fd = -1;
    size_t len = sizeof(fd);
    if (socket == NULL)
        return 0;
    if (zmq_getsockopt(socket, ZMQ_FD, &fd, &len) != 0)
        return -PTN_EIO;
    return ptn_watch_open(c, fd, cb, NULL, ret_w);
}

static int prefixes_once(ptn_ctx *c, zmq_gw *gw) {
    while (gw->seed == 0)
        ptn_random(c, &gw->seed, sizeof(gw->seed));
    for (int side = 0; side < ZMQ_GW_SIDES; side++) {
        zmq_gw_events *ev = &gw->events[side];
        if (ev->socket == NULL || ev->prefixes.buckets != NULL)
            continue;
        int err = zmq_gw_prefixes_init(&ev->prefixes, gw->limits.prefixes_max, gw->seed);
        if (err < 0)
            return err;
    }
    return 0;
}

/* As the other edges do: those whom every request passes must keep up. */
static int watch_pressure(ptn_ctx *c, zmq_gw_state *st) {
    const zmq_gw *gw = st->gw;
    const ptn_addr targets[] = {gw->directory->router[gw->worker], gw->directory->auth[gw->worker],
                                gw->directory->topics[gw->worker]};
    int err = 0;
    for (size_t i = 0; i < PTN_ARRAY_LEN(targets) && err == 0; i++)
        if (targets[i] != PTN_ADDR_NONE)
            err = ptn_pressure_watch(c, targets[i], &st->pressure[i]);
    return err;
}

static void pressure_changed(ptn_ctx *c, zmq_gw_state *st, const ptn_msg *m) {
    bool was = st->pressed != 0;
    for (size_t i = 0; i < PTN_ARRAY_LEN(st->pressure); i++) {
        uint8_t bit = (uint8_t)(1u << i);
        if (m->corr == st->pressure[i])
            st->pressed =
                (uint8_t)(m->type == PTN_MSG_PRESSURE ? st->pressed | bit : st->pressed & ~bit);
    }
    if (!was && st->pressed != 0)
        ptn_count(PTN_C_EDGE_PAUSES, 1);
    if (was && st->pressed == 0)
        zmq_gw_kick(c, st->gw);
}

static int gw_init(ptn_ctx *c, void *state, void *arg) {
    zmq_gw_state *st = state;
    zmq_gw *gw = arg;
    st->gw = gw;
    gw->self = ptn_self(c);
    gw->kicked = false;
    if (gw->sink != PTN_SINK_NONE) { /* of an incarnation that crashed */
        ptn_hub_sink_close(c, gw->hub, gw->sink);
        gw->sink = PTN_SINK_NONE;
        gw->interest = ZMQ_GW_IDLE;
    }
    int err = ptn_defer(c, zmq_gw_calls_done, st);
    if (err < 0)
        return err;
    st->json = ptn_json_parser_new();
    if (st->json == NULL || !zmq_gw_answer_init(st))
        return -PTN_ENOMEM;
    err = zmq_gw_calls_init(c, st);
    if (err == 0)
        err = prefixes_once(c, gw);
    if (err == 0)
        err = watch_pressure(c, st);
    if (err == 0)
        err = watch(c, gw->router, router_ready, &st->watches[0]);
    for (int side = 0; side < ZMQ_GW_SIDES && err == 0; side++)
        err = watch(c, gw->events[side].socket, events_ready, &st->watches[1 + side]);
    if (err == 0)
        zmq_gw_kick(c, gw); /* peers may have been there before us */
    return err;
}

static int gw_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    zmq_gw_state *st = state;
    switch (m->type) {
    case ZMQ_GW_MSG_KICK:
        st->gw->kicked = false;
        requests_read(c, st);
        zmq_gw_events_read(c, st);
        break;
    case PTN_MSG_PRESSURE:
    case PTN_MSG_RELIEF:
    case PTN_MSG_DOWN:
        pressure_changed(c, st, m);
        break;
    case PTN_MSG_DRAIN:
        /* New requests hear `draining`; what is in flight is answered. */
        st->draining = true;
        if (m->corr != 0)
            st->drain_reply = ptn_reply_token(c, m);
        zmq_gw_calls_reap(c, st);
        break;
    case PTN_MSG_STOPPING:
        st->draining = true;
        st->stopping = true;
        zmq_gw_calls_reap(c, st);
        break;
    default: /* SESSION_REVOKED: no session here outlives its request */
        break;
    }
    return 0;
}

static void gw_fini(ptn_ctx *c, void *state, int reason) {
    (void)reason;
    zmq_gw *gw = ((zmq_gw_state *)state)->gw;
    zmq_gw_calls_cancel(c, state);
    if (gw->sink != PTN_SINK_NONE) {
        ptn_hub_sink_close(c, gw->hub, gw->sink);
        gw->sink = PTN_SINK_NONE;
        gw->interest = ZMQ_GW_IDLE;
    }
}

const ptn_actor_ops zmq_gw_actor = {.name = "zmq",
                                    .state_size = sizeof(zmq_gw_state),
                                    .init = gw_init,
                                    .handle = gw_handle,
                                    .fini = gw_fini};
