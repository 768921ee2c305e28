/* SPDX-License-Identifier: Apache-2.0
 *
 * sink.c - events: the connection as a sink of its worker's hub.
 *
 * These functions run in the hub's context.  They link frames and may end the stream; they start no
 * timer and ask nobody.
 */
#include "protocols/ws/internal.h"

#include <postern/metrics.h>

static void sink_subscribed(ptn_ctx *c, void *self, const ptn_subscribed *r) {
    struct ws_conn *w = self;
    if (w->stream != NULL) /* an orphan's calls went with its edge */
        frames_subscribed(c, &w->session, r);
}

/* How far the queue is filled: past an eighth of its bound what comes from the store waits, past a
 * quarter live events too.  The rest is for answers and control frames, which never wait. */
static enum ptn_sink_load load_of(struct ws_conn *w) {
    const size_t busy = w->out_bytes_max / 8;
    if (PTN_LIKELY(ptn_stream_queued(w->stream) <= busy) ||
        !ptn_stream_is_congested(w->stream, busy))
        return PTN_SINK_FREE;
    w->congested = true;
    return ptn_stream_queued(w->stream) > 2 * busy ? PTN_SINK_FULL : PTN_SINK_BUSY;
}

/* The hottest function of the broker: once per event and subscriber.  The first subscriber of a
 * form encodes the event for all of them. */
static inline enum ptn_sink_load deliver(struct ws_conn *w, ptn_event *e, unsigned form) {
    if (PTN_UNLIKELY(w->state != WS_OPEN))
        return PTN_SINK_FREE;
    if (PTN_UNLIKELY(e->forms[form] == NULL)) {
        if (!ws__event_encode(w, e, form)) {
            ws__fail(w, WS_CLOSE_INTERNAL, PTN_CODE_OVERLOADED, WS_RETRY_AFTER_MS);
            return PTN_SINK_FREE;
        }
    }
    if (PTN_UNLIKELY(ptn_stream_send(w->stream, e->forms[form]) != 0)) {
        ptn_count(PTN_C_DROPPED_SLOW_CONSUMER, 1);
        w->state = WS_DONE;
        return PTN_SINK_FREE;
    }
    ptn_count(PTN_C_DELIVERED_WS, 1);
    return load_of(w);
}

static enum ptn_sink_load sink_deliver(ptn_ctx *c, void *self, ptn_event *e) {
    struct ws_conn *w = self;
    (void)c;
    return deliver(w, e, w->form);
}

static enum ptn_sink_load sink_message(ptn_ctx *c, void *self, ptn_event *e) {
    struct ws_conn *w = self;
    (void)c;
    return deliver(w, e, w->form + PTN_FORM_WS_MESSAGE);
}

static void sink_gap(ptn_ctx *c, void *self, const ptn_gap *g) {
    struct ws_conn *w = self;
    if (w->stream != NULL)
        frames_gap(c, &w->session, g);
}

static bool sink_taken(void *self) {
    struct ws_conn *w = self;
    if (w->state != WS_OPEN || !ptn_stream_is_congested(w->stream, 0))
        return true;
    w->congested = true;
    return false;
}

void ws__on_drain(ptn_ctx *c, void *owner) {
    struct ws_conn *w = owner;
    w->owed = 0;
    w->holds &= (uint8_t)~WS_HOLD_ANSWERS;
    ws__read_on(c, w);
    if (!w->congested)
        return;
    w->congested = false;
    if (w->session.sink != PTN_SINK_NONE)
        ptn_hub_sink_writable(c, w->session.config->hub, w->session.sink);
}

/* The subscriptions are lost: the client must come back and subscribe again. */
static void sink_reset(ptn_ctx *c, void *self) {
    (void)c;
    ws__fail(self, WS_CLOSE_RESTART, PTN_CODE_DRAINING, WS_RETRY_AFTER_MS);
}

static const ptn_sink_ops sink_ops = {
    .subscribed = sink_subscribed,
    .deliver = sink_deliver,
    .message = sink_message,
    .gap = sink_gap,
    .taken = sink_taken,
    .reset = sink_reset,
};

int ws__sink_open(struct ws_conn *w) {
    return ptn_hub_sink_open(w->session.config->hub, &sink_ops, w,
                             frames_principal(&w->session).user, &w->session.sink);
}

void ws__sink_close(ptn_ctx *c, ptn_hub *hub, struct ws_conn *w) {
    if (w->session.sink == PTN_SINK_NONE)
        return;
    ptn_hub_sink_close(c, hub, w->session.sink);
    w->session.sink = PTN_SINK_NONE;
}
