/* SPDX-License-Identifier: Apache-2.0
 *
 * zmq_events.c - events of the hub to XPUB subscribers.
 *
 * The gateway is one sink of its worker's hub, open while somebody subscribes.  deliver() runs in
 * the hub's context and uses only what survives a restart of the actor.  A subscriber that does not
 * read is libzmq's to drop from (XPUB past its high-water mark); it sees the loss as a hole in
 * `offset`.
 */
#include "protocols/zmq/zmq_int.h"

#include <errno.h>
#include <postern/log.h>
#include <postern/metrics.h>
#include <zmq.h>

#define RETRY_NS (100 * PTN_MS)

/* ---- events out ---------------------------------------------------------------------------- */

static void look_again(ptn_ctx *c, void *state, void *arg) {
    (void)state; /* the hub's */
    zmq_gw *gw = arg;
    gw->events_dirty = false;
    for (int side = 0; side < ZMQ_GW_SIDES; side++) {
        if (gw->events[side].socket != NULL && zmq_gw_readable(gw->events[side].socket))
            zmq_gw_kick(c, gw);
    }
}

/* 0 and a message that holds the encoded event. */
static int body_make(ptn_event *e, zmq_msg_t *ret_msg) {
    ptn_pack w;
    ptn_pack_init(&w, e->topic.n + e->epoch.n + e->data.n + 64);
    frames_event_pack(&w, e);
    ptn_buf *b = ptn_pack_finish(&w);
    if (b == NULL)
        return -PTN_ENOMEM;
    return zmq_gw_message(b, ret_msg);
}

/* Sends [topic][body] with a reference of its own to the body. */
static bool event_send(void *socket, ptn_str topic, zmq_msg_t *body) {
    zmq_msg_t copy;
    if (zmq_msg_init(&copy) != 0 || zmq_msg_copy(&copy, body) != 0)
        return false;
    if (zmq_send(socket, topic.p, topic.n, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0 ||
        zmq_msg_send(&copy, socket, ZMQ_DONTWAIT) < 0) {
        (void)zmq_msg_close(&copy);
        return false;
    }
    return true;
}

static enum ptn_sink_load sink_deliver(ptn_ctx *c, void *self, ptn_event *e) {
    zmq_gw *gw = self;
    bool reserved = ptn_topic_is_reserved(e->topic);
    bool wanted[ZMQ_GW_SIDES];
    bool any = false;
    for (int side = 0; side < ZMQ_GW_SIDES; side++) {
        const zmq_gw_events *ev = &gw->events[side];
        wanted[side] = ev->socket != NULL && (side == ZMQ_GW_IPC || !reserved) &&
                       zmq_gw_prefixes_match(&ev->prefixes, e->topic);
        any = any || wanted[side];
    }
    if (!any)
        return PTN_SINK_FREE;
    zmq_msg_t body;
    if (body_make(e, &body) < 0) {
        ptn_count(PTN_C_DROPPED_ZMQ_PEER, 1);
        return PTN_SINK_FREE;
    }
    for (int side = 0; side < ZMQ_GW_SIDES; side++) {
        if (!wanted[side])
            continue;
        if (event_send(gw->events[side].socket, e->topic, &body))
            ptn_count(PTN_C_DELIVERED_ZMQ, 1);
        else
            ptn_count(PTN_C_DROPPED_ZMQ_PEER, 1);
    }
    (void)zmq_msg_close(&body);
    if (!gw->events_dirty) {
        gw->events_dirty = true;
        ptn_at_turn_end(c, look_again, gw);
    }
    return PTN_SINK_FREE; /* libzmq drops at its own high-water mark */
}

static void sink_subscribed(ptn_ctx *c, void *self, const ptn_subscribed *r) {
    zmq_gw *gw = self;
    (void)c;
    if (r->code < 0) {
        gw->interest = ZMQ_GW_ON;
        return;
    }
    PTN_LOG(PTN_LOG_WARN, "zmq.events_refused", PTN_F_Z("why", r->message));
    gw->interest = ZMQ_GW_REFUSED; /* the timer asks again: a kick may be refused as well */
}

static void sink_reset(ptn_ctx *c, void *self) {
    zmq_gw *gw = self;
    gw->sink = PTN_SINK_NONE; /* the hub closed it */
    gw->interest = ZMQ_GW_IDLE;
    gw->events_dirty = false; /* a turn-end callback of the hub died with it */
    zmq_gw_kick(c, gw);
}

static const ptn_sink_ops sink_ops = {
    .subscribed = sink_subscribed, .deliver = sink_deliver, .reset = sink_reset};

/* ---- subscriptions in ---------------------------------------------------------------------- */

static void retry(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    (void)t, (void)arg;
    zmq_gw_state *st = state;
    if (st->gw->interest == ZMQ_GW_REFUSED)
        st->gw->interest = ZMQ_GW_IDLE;
    zmq_gw_events_update(c, st);
}

static void subscribe(ptn_ctx *c, zmq_gw *gw) {
    if (gw->sink == PTN_SINK_NONE &&
        ptn_hub_sink_open(gw->hub, &sink_ops, gw, (ptn_str){0}, &gw->sink) < 0) {
        gw->sink = PTN_SINK_NONE;
        return;
    }
    gw->interest = ZMQ_GW_ASKED;
    bool reserved = gw->events[ZMQ_GW_IPC].socket != NULL;
    if (ptn_hub_subscribe_all(c, gw->hub, gw->sink, reserved) < 0)
        gw->interest = ZMQ_GW_IDLE;
}

void zmq_gw_events_update(ptn_ctx *c, zmq_gw_state *st) {
    zmq_gw *gw = st->gw;
    bool wanted = false;
    for (int side = 0; side < ZMQ_GW_SIDES; side++)
        wanted = wanted || (gw->events[side].socket != NULL &&
                            !zmq_gw_prefixes_is_empty(&gw->events[side].prefixes));
    if (!wanted) {
        ptn_timer_stop(c, &st->retry);
        if (gw->sink != PTN_SINK_NONE) {
            ptn_hub_sink_close(c, gw->hub, gw->sink);
            gw->sink = PTN_SINK_NONE;
        }
        gw->interest = ZMQ_GW_IDLE;
    } else {
        if (gw->interest == ZMQ_GW_IDLE)
            subscribe(c, gw);
        if (gw->interest != ZMQ_GW_ON && !ptn_timer_is_armed(&st->retry))
            ptn_timer_start(c, &st->retry, RETRY_NS, retry, NULL);
    }
}

/* One message of an XPUB socket: 1 or 0 and a prefix; whatever else a peer sends there means
 * nothing.  False: nothing left. */
static bool subscription_read(zmq_gw_events *ev) {
    zmq_msg_t m;
    if (zmq_msg_init(&m) != 0)
        return false;
    if (zmq_msg_recv(&m, ev->socket, ZMQ_DONTWAIT) < 0) {
        bool interrupted = zmq_errno() == EINTR;
        (void)zmq_msg_close(&m);
        return interrupted;
    }
    const uint8_t *p = zmq_msg_data(&m);
    size_t n = zmq_msg_size(&m);
    if (n > 0 && p[0] <= 1) {
        ptn_bytes prefix = {p + 1, n - 1};
        if (p[0] == 1)
            zmq_gw_prefixes_add(&ev->prefixes, prefix);
        else
            zmq_gw_prefixes_remove(&ev->prefixes, prefix);
    }
    (void)zmq_msg_close(&m);
    return true;
}

void zmq_gw_events_read(ptn_ctx *c, zmq_gw_state *st) {
    bool changed = false;
    for (int side = 0; side < ZMQ_GW_SIDES; side++) {
        zmq_gw_events *ev = &st->gw->events[side];
        if (ev->socket == NULL)
            continue;
        uint32_t n = 0;
        while (n < ZMQ_GW_TURN_MSGS && subscription_read(ev))
            n++;
        changed = changed || n > 0;
        if (n == ZMQ_GW_TURN_MSGS)
            zmq_gw_kick(c, st->gw);
    }
    if (changed || st->gw->interest == ZMQ_GW_IDLE || st->gw->interest == ZMQ_GW_REFUSED)
        zmq_gw_events_update(c, st);
}
