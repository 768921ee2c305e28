/* SPDX-License-Identifier: Apache-2.0
 *
 * read.c - what comes in: messages to the frames session, control frames, and back-pressure.
 *
 * A session that has as many unanswered frames as it may have is not refused but slowed down: the
 * machine pauses behind the frame that filled it, the unread tail of the read is kept, and the
 * stream stops reading, so that TCP pushes back.  When half of the answers have gone out, the tail
 * is fed again, and with its end reading is on.  Control frames behind unread data wait with it.
 *
 * So it goes for a session whose answers wait for a peer that does not take them (send.c counts
 * them; events have their own policies), until the queue has drained; and for all sessions while
 * the edge pauses.
 *
 * Answers come in the context of the edge or, for subscriptions, of the hub, and in the middle of
 * the session's work.  So an answer only puts the connection on the edge's list and casts
 * WS_MSG_READ_ON to the edge; reading goes on in that message.  The mailbox may refuse it, and the
 * hub's context may start no timer: so whoever waits looks again every WS_READ_ON_RETRY_NS.
 */
#include "protocols/ws/internal.h"

#include <postern/log.h>
#include <postern/metrics.h>

#include <stdio.h>
#include <stdlib.h>

#define MESSAGE_ALWAYS_BYTES (16u << 10) /* a message may grow to this while memory is short */

struct reading { /* what the parser's callbacks get */
    ptn_ctx *c;
    struct ws_conn *w;
};

/* ---- messages and control frames ------------------------------------------------------------ */

/* While it closes, a connection reads on: frames are thrown away, the peer's close is what counts.
 */
static bool must_wait(const struct ws_conn *w) {
    return w->state == WS_OPEN && (frames_is_full(&w->session) || w->holds != 0);
}

/* The payload is no JSON or msgpack value that we take; the connection survives.  Without memory
 * nobody has read its id, so no answer could name it: the connection ends. */
static void refuse_payload(ptn_ctx *c, struct ws_conn *w, int err, const ptn_codec_error *e) {
    char text[256];
    if (err != -PTN_EPROTO && err != -PTN_ETOOBIG) {
        ws__fail(w, WS_CLOSE_INTERNAL, PTN_CODE_OVERLOADED, WS_RETRY_AFTER_MS);
        return;
    }
    (void)snprintf(text, sizeof text, "%s (near byte %zu)",
                   e->what != NULL ? e->what : "the frame is malformed", e->offset);
    frames_send_error(c, &w->session, 0, (ptn_bytes){0}, PTN_CODE_INVALID_REQUEST, text);
}

/* JSON to msgpack, through the session, then forgotten. */
static void take_json(ptn_ctx *c, struct ws_conn *w, ptn_bytes payload,
                      const ptn_codec_limits *limits) {
    ptn_pack pack;
    ptn_codec_error e = {0};
    const ptn_str json = {(const char *)payload.p, payload.n};
    ptn_pack_init(&pack, payload.n + 16);
    const int err = ptn_json_to_msgpack(w->edge->json, json, limits, &pack, &e);
    if (err < 0) {
        ptn_pack_abort(&pack);
        refuse_payload(c, w, err, &e);
        return;
    }
    ptn_buf *b = ptn_pack_finish(&pack);
    if (b == NULL) {
        refuse_payload(c, w, -PTN_ENOMEM, &e);
        return;
    }
    frames_handle(c, &w->session, 0, ptn_buf_bytes(b));
    ptn_buf_unref(b);
}

static bool on_message(void *arg, enum ws_opcode opcode, ptn_bytes payload) {
    struct reading *r = arg;
    struct ws_conn *w = r->w;
    if (w->state != WS_OPEN)
        return w->state == WS_CLOSING; /* only the peer's close matters now */
    const ptn_codec_limits limits = {.bytes_max = w->parser.bytes_max,
                                     .depth_max = w->edge->limits.depth_max};
    ptn_count(PTN_C_RECEIVED_WS, 1);
    if (opcode == WS_OP_TEXT) {
        take_json(r->c, w, payload, &limits);
    } else {
        ptn_codec_error e = {0};
        const int err = ptn_msgpack_validate(payload, &limits, &e);
        if (err < 0)
            refuse_payload(r->c, w, err, &e);
        else
            frames_handle(r->c, &w->session, 0, payload);
    }
    w->parser.paused = must_wait(w);
    return w->state != WS_DONE;
}

static bool on_control(void *arg, enum ws_opcode opcode, ptn_bytes payload) {
    struct reading *r = arg;
    struct ws_conn *w = r->w;
    if (opcode == WS_OP_PING && w->state == WS_OPEN)
        ws__send_control(w, WS_OP_PONG, payload);
    if (opcode == WS_OP_CLOSE && w->state == WS_OPEN) /* the code goes back, without the reason */
        ws__send_control(w, WS_OP_CLOSE, (ptn_bytes){payload.p, payload.n >= 2 ? 2 : 0});
    if (opcode == WS_OP_CLOSE && w->state != WS_DONE)
        ws__finish(w);
    return w->state != WS_DONE;
}

static const ws_parser_ops parser_ops = {.on_message = on_message, .on_control = on_control};

static int problem_of(unsigned ws_code) {
    switch (ws_code) {
    case WS_CLOSE_TOO_BIG:
        return PTN_CODE_PAYLOAD_TOO_LARGE;
    case WS_CLOSE_UNSUPPORTED:
        return PTN_CODE_UNSUPPORTED_MEDIA_TYPE;
    case WS_CLOSE_INTERNAL:
        return PTN_CODE_OVERLOADED;
    default:
        return PTN_CODE_INVALID_REQUEST;
    }
}

/* ---- back-pressure -------------------------------------------------------------------------- */

static void backlog_unlink(struct ws_backlog *b) {
    if (b->pprev == NULL)
        return;
    *b->pprev = b->next;
    if (b->next != NULL)
        b->next->pprev = b->pprev;
    b->pprev = NULL;
}

void ws__backlog_done(struct ws_conn *w) {
    if (w->backlog != NULL)
        backlog_unlink(w->backlog);
    free(w->backlog);
    w->backlog = NULL;
}

static __attribute__((noinline)) void read_on(ptn_ctx *c, struct ws_conn *w) {
    struct ws_backlog *b = w->backlog;
    edge *e = w->edge;
    if (w->state == WS_OPEN && (!frames_has_room(&w->session) || w->holds != 0))
        return;
    if (b->pprev == NULL) {
        b->next = e->ws_ready;
        b->pprev = &e->ws_ready;
        if (b->next != NULL)
            b->next->pprev = &b->next;
        e->ws_ready = b;
    }
    /* A full mailbox refuses; the timer tries again. */
    if (!e->ws_read_on_sent)
        e->ws_read_on_sent = ptn_cast(c, e->self, WS_MSG_READ_ON, NULL) == 0;
}

void ws__read_on(ptn_ctx *c, struct ws_conn *w) {
    if (PTN_UNLIKELY(w->backlog != NULL))
        read_on(c, w);
}

/* Stops reading, with b as the tail that waits. */
static void wait_with(ptn_ctx *c, struct ws_conn *w, struct ws_backlog *b) {
    w->backlog = b;
    ptn_stream_read_enable(w->stream, false);
    if (w->timer.due > ptn_now(c) + WS_READ_ON_RETRY_NS)
        ws__timer_arm(c, w);
    ws__read_on(c, w); /* the answers may have come meanwhile */
}

/* Feeds the machine, and returns how many bytes it has used: fewer when the session is full. */
static size_t feed(ptn_ctx *c, struct ws_conn *w, const uint8_t *p, size_t n) {
    struct reading r = {c, w};
    size_t used;
    const unsigned code = ws_parser_feed(&w->parser, p, n, &parser_ops, &r, &used);
    if (code != 0) {
        PTN_LOG(PTN_LOG_DEBUG, "ws.refused", PTN_F_Z("peer", ptn_stream_peer(w->stream)),
                PTN_F_INT("close", code), PTN_F_Z("why", w->parser.why));
        ws__fail(w, code, problem_of(code), 0);
    }
    return used;
}

void ws__on_read(ptn_ctx *c, void *owner, const uint8_t *p, size_t n) {
    struct ws_conn *w = owner;
    PTN_ASSERT(w->backlog == NULL); /* reading was off */
    w->heard = true;
    size_t used = 0;
    if (!must_wait(w)) /* at birth, a token of the query may be on its way already */
        used = feed(c, w, p, n);
    if (w->parser.n_message > MESSAGE_ALWAYS_BYTES && edge_sheds(w->edge))
        ws__fail(w, WS_CLOSE_TRY_LATER, PTN_CODE_OVERLOADED, WS_RETRY_AFTER_MS);
    if (!must_wait(w))
        return;
    n -= used;
    struct ws_backlog *b = n <= WS_BACKLOG_BYTES_MAX ? malloc(sizeof *b + n) : NULL;
    if (b == NULL) {
        ws__fail(w, WS_CLOSE_INTERNAL, PTN_CODE_OVERLOADED, WS_RETRY_AFTER_MS);
        return;
    }
    *b = (struct ws_backlog){.conn = w, .n = n};
    if (n > 0)
        memcpy(b->bytes, p + used, n);
    wait_with(c, w, b);
}

/* Takes the tail up where it was left, and after it the stream. */
static void go_on(ptn_ctx *c, struct ws_conn *w) {
    struct ws_backlog *b = w->backlog;
    if (w->state == WS_DONE)
        return;        /* on_close frees */
    w->backlog = NULL; /* answers that come meanwhile are seen at the end */
    w->heard = true;   /* nobody has listened */
    b->at += feed(c, w, b->bytes + b->at, b->n - b->at);
    if (must_wait(w)) {
        wait_with(c, w, b);
        return;
    }
    free(b);
    if (w->state != WS_DONE)
        ptn_stream_read_enable(w->stream, true);
}

void ws_read_on(ptn_ctx *c, edge *e) {
    struct ws_backlog *b;
    e->ws_read_on_sent = false;
    while ((b = e->ws_ready) != NULL) {
        backlog_unlink(b);
        go_on(c, b->conn);
    }
}

void ws_pause_changed(ptn_ctx *c, edge *e) {
    for (struct ws_conn *w = e->ws_conns; w != NULL; w = w->next) {
        w->holds = (uint8_t)(e->paused ? w->holds | WS_HOLD_EDGE : w->holds & ~WS_HOLD_EDGE);
        if (!e->paused) {
            ws__read_on(c, w);
        } else if (w->state == WS_OPEN && w->backlog == NULL) {
            struct ws_backlog *b = malloc(sizeof *b);
            if (b == NULL)
                continue; /* its next read stops it */
            *b = (struct ws_backlog){.conn = w};
            wait_with(c, w, b);
        }
    }
}
