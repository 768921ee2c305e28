/* SPDX-License-Identifier: Apache-2.0
 *
 * zmq_calls.c - requests: each is a frames session of its own from a bounded pool, and gets one
 * answer.
 *
 * A session's `send` may be called from inside frames_handle() or frames_authenticate(), so an
 * answered call goes back to the pool only at the end of the turn.  The peer is remembered as the
 * envelope to send back; when it has gone by then, the answer has nowhere to go and is dropped.
 */
#include "protocols/frames/internal.h"
#include "protocols/zmq/zmq_int.h"

#include <postern/metrics.h>

#define CALL_PENDING_MAX 4u /* a session serves one frame, and its token */

/* ---- refusals ------------------------------------------------------------------------------ */

static void refusal_send(ptn_ctx *c, void *self, uint64_t ticket, ptn_bytes frame) {
    (void)c, (void)ticket;
    zmq_gw_state *st = self;
    ptn_observe_request(PTN_PROTO_ZMQ, zmq_gw_frame_status(frame), 0);
    zmq_gw_answer(st, st->refusal.envelope, st->refusal.n_envelope, st->refusal.msgpack, frame,
                  st->refusal.id);
}

static const frames_ops refusal_ops = {.send = refusal_send};

static void refuse(ptn_ctx *c, zmq_gw_state *st, const ptn_bytes *envelope, size_t n_envelope,
                   bool msgpack, ptn_bytes id, int code, const char *message) {
    st->refusal.envelope = envelope;
    st->refusal.n_envelope = n_envelope;
    st->refusal.msgpack = msgpack;
    st->refusal.id = id;
    frames_send_error(c, &st->refusal.session, 0, id, code, message);
    st->refusal.envelope = NULL;
    st->refusal.n_envelope = 0;
    st->refusal.id = (ptn_bytes){NULL, 0};
}

/* ---- the envelope of a call ---------------------------------------------------------------- */

/* NULL: out of memory.  Parts are at most ZMQ_GW_IDENTITY_BYTES_MAX long: zmq_gw_shape_of() saw to
 * it. */
static ptn_buf *envelope_save(const ptn_bytes *parts, size_t n) {
    size_t total = 0;
    for (size_t i = 0; i < n; i++)
        total += 1 + parts[i].n;
    ptn_buf *b = ptn_buf_new(total);
    if (b == NULL)
        return NULL;
    uint8_t *p = ptn_buf_data(b, NULL);
    for (size_t i = 0; i < n; i++) {
        *p++ = (uint8_t)parts[i].n;
        if (parts[i].n > 0)
            memcpy(p, parts[i].p, parts[i].n);
        p += parts[i].n;
    }
    ptn_buf_seal(b, total);
    return b;
}

static size_t envelope_load(const ptn_buf *b, ptn_bytes parts[ZMQ_GW_ENVELOPE_MAX]) {
    ptn_bytes all = ptn_buf_bytes(b);
    size_t n = 0;
    for (size_t at = 0; at < all.n && n < ZMQ_GW_ENVELOPE_MAX; n++) {
        parts[n] = (ptn_bytes){all.p + at + 1, all.p[at]};
        at += 1u + all.p[at];
    }
    return n;
}

/* ---- calls --------------------------------------------------------------------------------- */

static ptn_bytes call_id(const zmq_gw_call *call) {
    return (ptn_bytes){call->id, call->n_id};
}

static void turn_end(ptn_ctx *c, void *state, void *arg) {
    (void)arg;
    zmq_gw_state *st = state;
    st->turn_end_asked = false;
    zmq_gw_calls_reap(c, st);
    /* Sending consumes libzmq's edge: whatever came in meanwhile is announced here or never. */
    if (zmq_gw_readable(st->gw->router))
        zmq_gw_kick(c, st->gw);
}

static void ask_turn_end(ptn_ctx *c, zmq_gw_state *st) {
    if (!st->turn_end_asked) {
        st->turn_end_asked = true;
        ptn_at_turn_end(c, turn_end, NULL);
    }
}

static void call_send(ptn_ctx *c, void *self, uint64_t ticket, ptn_bytes frame) {
    (void)ticket; /* one call, one ticket */
    zmq_gw_call *call = self;
    zmq_gw_state *st = call->state;
    if (call->answered)
        return;
    call->answered = true;
    ptn_bytes parts[ZMQ_GW_ENVELOPE_MAX];
    size_t n = envelope_load(call->envelope, parts);
    ptn_observe_request(PTN_PROTO_ZMQ, zmq_gw_frame_status(frame), ptn_now(c) - call->started);
    /* A refusal of the token knows nothing of the frame's id, nor does what is said for lack of
     * memory. */
    zmq_gw_answer(st, parts, n, call->msgpack, frame, call_id(call));
    call->next = st->answered;
    st->answered = call;
    ask_turn_end(c, st);
}

/* The token was good: the frame itself, which waited for it.  An `auth` frame comes by here too,
 * and has nothing more to do. */
static void call_authenticated(ptn_ctx *c, void *self) {
    zmq_gw_call *call = self;
    ptn_buf *frame = call->frame;
    if (frame == NULL || call->answered)
        return;
    call->frame = NULL;
    frames_handle(c, &call->session, 1, ptn_buf_bytes(frame));
    (void)ptn_buf_unref(frame);
}

static const frames_ops call_ops = {.send = call_send, .authenticated = call_authenticated};

/* NULL with *reterr_message: no room, in the pool or for this peer. */
static zmq_gw_call *call_new(ptn_ctx *c, zmq_gw_state *st, const ptn_bytes *envelope,
                             size_t n_envelope, const char **reterr_message) {
    uint32_t quota =
        (uint32_t)zmq_gw_hash(st->gw->seed, envelope[0].p, envelope[0].n) & (ZMQ_GW_QUOTAS - 1);
    if (st->quotas[quota] >= st->gw->limits.peer_requests_max) {
        *reterr_message =
            "too many requests of this peer are in flight: wait for answers, then retry";
        return NULL;
    }
    zmq_gw_call *call = st->free;
    ptn_buf *saved = call == NULL ? NULL : envelope_save(envelope, n_envelope);
    if (saved == NULL) {
        *reterr_message = "too many requests are in flight: retry later";
        return NULL;
    }
    st->free = call->next;
    st->n_in_flight++;
    st->quotas[quota]++;
    call->next = NULL;
    call->envelope = saved;
    call->started = ptn_now(c);
    call->quota = quota;
    call->answered = false;
    return call;
}

void zmq_gw_calls_reap(ptn_ctx *c, zmq_gw_state *st) {
    while (st->answered != NULL) {
        zmq_gw_call *call = st->answered;
        st->answered = call->next;
        frames_session_done(c, &call->session);
        call->envelope = ptn_buf_unref(call->envelope);
        call->frame = ptn_buf_unref(call->frame);
        st->quotas[call->quota]--;
        st->n_in_flight--;
        call->next = st->free;
        st->free = call;
    }
    if (st->n_in_flight > 0)
        return;
    if (st->drain_reply.corr != 0)
        (void)ptn_reply(c, st->drain_reply, PTN_MSG_OK, NULL);
    st->drain_reply.corr = 0;
    if (st->stopping)
        ptn_exit(c, 0);
}

void zmq_gw_calls_message(ptn_ctx *c, zmq_gw_state *st, const ptn_bytes *parts, size_t n) {
    ptn_count(PTN_C_RECEIVED_ZMQ, 1);
    ask_turn_end(c, st);
    const ptn_bytes no_id = {NULL, 0};
    zmq_gw_shape shape;
    zmq_gw_shape_of(parts, n, &shape);
    if (shape.code >= 0) {
        bool msgpack = zmq_gw_encoding_of(shape.body) == ZMQ_GW_MSGPACK;
        refuse(c, st, parts, shape.n_envelope, msgpack, no_id, shape.code, shape.message);
        return;
    }
    const ptn_codec_limits limits = {.bytes_max = st->gw->limits.message_bytes_max,
                                     .depth_max = st->gw->limits.depth_max};
    zmq_gw_request r;
    if (zmq_gw_request_decode(st->json, shape.body, &limits, &r) < 0) {
        refuse(c, st, parts, shape.n_envelope, r.msgpack, r.id, r.code, r.message);
        zmq_gw_request_done(&r);
        return;
    }
    const char *message = "the broker is shutting down: retry later";
    zmq_gw_call *call = NULL;
    if (!st->draining)
        call = call_new(c, st, parts, shape.n_envelope, &message);
    if (call == NULL) {
        int code = st->draining ? PTN_CODE_DRAINING : PTN_CODE_OVERLOADED;
        refuse(c, st, parts, shape.n_envelope, r.msgpack, r.id, code, message);
    } else {
        call->msgpack = r.msgpack;
        call->n_id = (uint8_t)(r.id.n <= sizeof(call->id) ? r.id.n : 0);
        if (call->n_id > 0)
            memcpy(call->id, r.id.p, call->n_id);
        frames_session_init(&call->session, &st->sessions, call);
        if (r.token.n == 0) {
            frames_handle(c, &call->session, 1, ptn_buf_bytes(r.frame));
        } else {
            call->frame = ptn_buf_ref(r.frame);
            frames_authenticate(c, &call->session, 1, r.token, (ptn_str){0}, false);
        }
    }
    zmq_gw_request_done(&r);
}

int zmq_gw_calls_init(ptn_ctx *c, zmq_gw_state *st) {
    uint32_t n = st->gw->limits.requests_max;
    st->calls = ptn_alloc(c, n * sizeof(*st->calls));
    if (st->calls == NULL)
        return -PTN_ENOMEM;
    for (uint32_t i = n; i-- > 0;) {
        st->calls[i].state = st;
        st->calls[i].next = st->free;
        st->free = &st->calls[i];
    }
    st->sessions = (frames_config){.ops = &call_ops,
                                   .directory = st->gw->directory,
                                   .worker = st->gw->worker,
                                   .protocol = PTN_PROTO_ZMQ,
                                   .one_answer = true,
                                   .pending_max = CALL_PENDING_MAX,
                                   .request_ns = st->gw->limits.request_ns,
                                   .request_ns_max = st->gw->limits.request_ns_max};
    st->refusals = st->sessions;
    st->refusals.ops = &refusal_ops;
    frames_session_init(&st->refusal.session, &st->refusals, st);
    return 0;
}

/* Tells the peer of a request whose answer will never be known.  Needs no context: also after a
 * crash. */
static void abandon(zmq_gw_state *st, const zmq_gw_call *call) {
    if (call->envelope == NULL || call->answered)
        return;
    ptn_bytes parts[ZMQ_GW_ENVELOPE_MAX];
    size_t n = envelope_load(call->envelope, parts);
    ptn_pack w;
    ptn_pack_init(&w, 256);
    ptn_pack_map(&w, 4);
    ptn_pack_key(&w, "type");
    ptn_pack_cstr(&w, "error");
    ptn_pack_key(&w, "code");
    ptn_pack_cstr(&w, ptn_code_info_of(PTN_CODE_INTERNAL)->code);
    ptn_pack_key(&w, "message");
    ptn_pack_cstr(
        &w, "the gateway stopped while the request was in flight; it may have been carried out");
    ptn_pack_key(&w, "retryable");
    ptn_pack_bool(&w, false);
    ptn_buf *b = ptn_pack_finish(&w);
    zmq_gw_answer(st, parts, n, call->msgpack, ptn_buf_bytes(b), call_id(call));
    (void)ptn_buf_unref(b);
}

void zmq_gw_calls_cancel(ptn_ctx *c, zmq_gw_state *st) {
    for (uint32_t i = 0; st->calls != NULL && i < st->gw->limits.requests_max; i++) {
        zmq_gw_call *call = &st->calls[i];
        abandon(st, call);
        call->answered = true;
        frames_session_done(c, &call->session);
    }
}

void zmq_gw_calls_done(void *state) {
    zmq_gw_state *st = state;
    for (uint32_t i = 0; st->calls != NULL && i < st->gw->limits.requests_max; i++) {
        zmq_gw_call *call = &st->calls[i];
        abandon(st, call);
        /* After a crash the runtime has dropped the asks without calling back; there is no context
         * to cancel them in, only their memory to return. */
        for (struct frames_call *f = call->session.calls; f != NULL; f = f->next)
            f->corr = 0;
        frames_session_done(NULL, &call->session);
        call->envelope = ptn_buf_unref(call->envelope);
        call->frame = ptn_buf_unref(call->frame);
    }
    ptn_json_parser_free(st->json);
    st->json = NULL;
    ptn_out_done(&st->text);
    ptn_out_done(&st->spare);
}
