/* SPDX-License-Identifier: Apache-2.0
 *
 * internal.h - what the files of protocols/ws/ share: the connection.
 *
 * A connection is a parser, a frames session, one timer and a stream.  It belongs to the edge actor
 * of its worker; the hub of the same worker calls its sink.  Owner worker only, all of it.
 *
 * The timer belongs to the edge.  In the hub's context (sink calls) nothing may start it: what
 * closes from there finishes the stream at once instead of waiting for the peer.
 */
#ifndef POSTERN_PROTOCOLS_WS_INTERNAL_H
#define POSTERN_PROTOCOLS_WS_INTERNAL_H

#include "protocols/frames/frames.h"
#include "protocols/ws/parser.h"
#include "protocols/ws/ws.h"

#define WS_CLOSE_WAIT_NS (5 * PTN_SEC)   /* for the peer's answer to our close */
#define WS_READ_ON_RETRY_NS PTN_SEC      /* when the edge's mailbox was full */
#define WS_SCRATCH_BYTES_MAX (64u << 10) /* what edge->text may keep between uses */
#define WS_BACKLOG_BYTES_MAX (64u << 10) /* a stream never reads more at once */
#define WS_CLOSE_REASON_BYTES_MAX 123u   /* RFC 6455 section 5.5 */
#define WS_RETRY_AFTER_MS 1000u          /* told to clients that may come back */

/* Answers that the peer does not take hold back its reading (read.c): those behind a quarter of the
 * out-queue are owed, and more than another quarter is too much. */
#define WS_OWED_MARK(out_bytes_max) ((out_bytes_max) / 4)
#define WS_OWED_MAX(out_bytes_max) ((out_bytes_max) / 4)

/* Why nothing is read, beside a session that is full. */
enum ws_hold {
    WS_HOLD_EDGE = 1,    /* the edge pauses */
    WS_HOLD_ANSWERS = 2, /* answers wait for the peer */
};

enum ws_state {
    WS_OPEN,    /* frames go both ways */
    WS_CLOSING, /* our close is sent; waiting for the peer's */
    WS_DONE,    /* the stream is finishing or closed; nothing more is read or sent */
};

struct ws_conn {
    ptn_stream *stream; /* NULL: the edge actor has crashed, only the hub still knows us */
    uint8_t state;
    uint8_t form;   /* enum ptn_form of its events */
    uint8_t opcode; /* of what it sends and takes */
    bool heard;     /* bytes have come since the last ping */
    bool authenticated;
    bool congested; /* the hub waits for on_drain */
    uint8_t holds;  /* enum ws_hold */
    uint32_t out_bytes_max;
    uint32_t owed; /* bytes of answers that had to wait, since the queue was empty */
    union {
        edge *edge;
        ptn_hub *hub; /* an orphan's: the hub that knows it */
    };
    struct ws_conn *next, **pprev; /* of the edge; of the orphans: next only */
    struct ws_backlog *backlog;    /* not NULL: reading is off until answers have come */
    ptn_timer timer; /* due at the earliest of these, PTN_NEVER where it does not apply: */
    /* The end, unless something comes first: authentication, then (the token's end) another token,
     * and while it closes the peer's close. */
    ptn_time end_due;
    ptn_time ping_due, pong_due;
    frames_session session;
    ws_parser parser;
};
_Static_assert(sizeof(struct ws_conn) <= 288, "an idle connection stays small");

/* The unread tail of a read, while the session is full.  At most one of them per connection, and at
 * most as long as one read. */
struct ws_backlog {
    struct ws_conn *conn;
    struct ws_backlog *next, **pprev; /* of edge->ws_ready; pprev NULL: not there */
    size_t at, n;
    uint8_t bytes[];
};

/* ---- extension.c ---- */

enum ws_deflate_answer {
    WS_DEFLATE_OFF,     /* not offered, or no offer that we can take */
    WS_DEFLATE_ON,      /* taken */
    WS_DEFLATE_ON_BITS, /* taken, and the answer names our window because the offer named one */
};
/* What we answer to the client's list of extensions.  False: it is malformed. */
bool ws__extensions(ptn_str list, enum ws_deflate_answer *ret_answer);

/* ---- upgrade.c ---- */

enum ws_subprotocol { WS_SUB_NONE, WS_SUB_JSON, WS_SUB_MSGPACK, WS_SUB_UNKNOWN };
/* The first of the client's list that we know; UNKNOWN: a list, and none of it. */
enum ws_subprotocol ws__negotiate(ptn_str list);
/* Sec-WebSocket-Accept for a key, terminated. */
#define WS_ACCEPT_LEN 28
void ws__accept_key(ptn_str key, char out[WS_ACCEPT_LEN + 1]);
/* Writes the 101 response to the stream. */
int ws__write_101(ptn_stream *s, const ws_upgrade *u, enum ws_subprotocol sub,
                  enum ws_deflate_answer deflate);

/* ---- send.c ---- */

/* Sends an encoded msgpack map in the connection's own form. */
void ws__send(struct ws_conn *w, ptn_bytes frame);
void ws__send_control(struct ws_conn *w, enum ws_opcode opcode, ptn_bytes payload);
/* A close frame with {"code":.., "retryAfterMs":..?}; retry_after_ms 0: left out. */
void ws__send_close(struct ws_conn *w, unsigned ws_code, int code, uint32_t retry_after_ms);
/* Makes e->forms[form], and what it is made of, shared by all connections that need it.  False: no
 * memory. */
bool ws__event_encode(struct ws_conn *w, ptn_event *e, unsigned form);

/* ---- read.c ---- */

void ws__on_read(ptn_ctx *c, void *owner, const uint8_t *p, size_t n);
/* Lets a connection read on that waits for answers, if it may: in a message of its edge's own,
 * since the hub answers subscriptions in its context.  Any context of this worker. */
void ws__read_on(ptn_ctx *c, struct ws_conn *w);
void ws__backlog_done(struct ws_conn *w);

/* ---- sink.c ---- */

int ws__sink_open(struct ws_conn *w);
void ws__sink_close(ptn_ctx *c, ptn_hub *hub, struct ws_conn *w);
/* The stream's on_drain: reading and the hub go on. */
void ws__on_drain(ptn_ctx *c, void *owner);

/* ---- conn.c ---- */

/* Closes with a handshake: sends our close, then waits for the peer's, bounded.  Edge's context. */
void ws__close(ptn_ctx *c, struct ws_conn *w, unsigned ws_code, int code, uint32_t retry_after_ms);
/* Closes at once: sends our close and finishes the stream.  Any context of this worker. */
void ws__fail(struct ws_conn *w, unsigned ws_code, int code, uint32_t retry_after_ms);
/* Nothing more is read; what is queued still goes out.  Any context of this worker. */
void ws__finish(struct ws_conn *w);
/* For what comes next: a close, a token's end, a ping, another try to read on.  Edge's context. */
void ws__timer_arm(ptn_ctx *c, struct ws_conn *w);

#endif
