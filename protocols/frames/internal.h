/* SPDX-License-Identifier: Apache-2.0
 *
 * internal.h - what the files of protocols/frames/ share: calls in flight, and the frames that
 * answer them.
 *
 * A call is the memory of one incoming frame that waits for an actor or the hub.  It lives in a
 * pooled buffer, so the steady path does not allocate, and on its session's list until it is
 * answered or cancelled; pending_max of the session bounds it.
 *
 * An adapter may end its session inside ops->send (ZeroMQ does, after the one answer).  So every
 * path takes its call off the session first, sends last, and looks at s->closed before it touches
 * the session again.
 */
#ifndef POSTERN_PROTOCOLS_FRAMES_INTERNAL_H
#define POSTERN_PROTOCOLS_FRAMES_INTERNAL_H

#include "protocols/frames/frames.h"

#define FRAMES_ID_BYTES_MAX 128u                           /* of a client's `id` text */
#define FRAMES_ID_RAW_BYTES_MAX (FRAMES_ID_BYTES_MAX + 5u) /* with the longest msgpack header */
#define FRAMES_TOPICS_MAX 100u                             /* per subscribe or unsubscribe frame */
#define FRAMES_EPOCH_BYTES_MAX 64u
#define FRAMES_POSITIONS_MAX 100u /* per resume frame */
#define FRAMES_TOKEN_BYTES_MAX 4096u
#define FRAMES_PATH_BYTES_MAX 8192u
#define FRAMES_HEADER_BYTES_MAX 8192u /* of one forwarded header value */
#define FRAMES_TRACE_BYTES 16u
#define FRAMES_TRACE_HEX (2 * FRAMES_TRACE_BYTES)

enum frames_call_kind {
    FRAMES_CALL_AUTH,
    FRAMES_CALL_DRAIN, /* a ticket for the way out */
    FRAMES_CALL_SUBSCRIBE,
    FRAMES_CALL_REQUEST, /* answered by `response` */
    FRAMES_CALL_PUBLISH, /* answered by `ack` with a position */
    FRAMES_CALL_MESSAGE, /* answered by `ack` with the message */
};

struct frames_call {
    struct frames_call *next, **pprev; /* of the session */
    ptn_buf *memory;                   /* this call lives in it */
    frames_session *session;
    uint64_t ticket;
    uint64_t corr;    /* the ask; 0: none */
    ptn_time started; /* REQUEST, PUBLISH, MESSAGE: the turn that brought it */
    enum frames_call_kind kind;
    uint32_t n_waiting; /* SUBSCRIBE: topics without an answer */
    bool send_welcome;  /* AUTH */
    bool resumed;       /* AUTH: by a ticket */
    ptn_buf *positions; /* AUTH: what to subscribe to, a checked map; NULL: nothing */
    bool no_body;       /* REQUEST: the method was HEAD */
    uint8_t n_id;
    uint8_t n_device;            /* AUTH */
    uint32_t reconnect_after_ms; /* DRAIN */
    char device[PTN_DEVICE_BYTES_MAX];
    uint8_t id[FRAMES_ID_RAW_BYTES_MAX]; /* msgpack value */
    uint8_t trace[FRAMES_TRACE_BYTES];   /* PUBLISH: when it fails */
};

/* One incoming frame while it is handled. */
struct frames_in {
    uint64_t ticket;
    ptn_bytes frame;                   /* map */
    ptn_bytes id;                      /* msgpack value, n == 0: none */
    ptn_bytes topic, data, durability; /* likewise: what PUBLISH is made of, read on the way */
};

/* What an `error` frame says.  field and reason make the details {field: reason}, unless details is
 * set. */
struct frames_error {
    int code;
    ptn_str message;
    ptn_bytes details;
    const char *field;
    ptn_str reason;
    const uint8_t *trace; /* FRAMES_TRACE_BYTES, or NULL */
};

/* ---- calls (frames.c) ---- */

/* Takes a call from the pool and links it.  NULL: the client has been told `overloaded`. */
struct frames_call *frames__call_new(ptn_ctx *c, frames_session *s, const struct frames_in *in,
                                     enum frames_call_kind kind);
/* Takes it off its session; the memory stays valid until frames__call_free. */
void frames__call_unlink(struct frames_call *call);
void frames__call_free(struct frames_call *call);
static inline ptn_bytes frames__call_id(const struct frames_call *call) {
    return (ptn_bytes){call->id, call->n_id};
}

/* ---- answers (answer.c) ---- */

/* Begins a frame of n members beyond `type` and `id`. */
void frames__begin(ptn_pack *w, ptn_str type, ptn_bytes id, uint32_t n);
/* An `ack`, whose usual size needs no buffer: memory is there until it is sent. */
#define FRAMES_ACK_BYTES 1024u
void frames__begin_ack(ptn_pack *w, uint8_t memory[FRAMES_ACK_BYTES], ptn_bytes id, uint32_t n);
/* Finishes and sends; the session may have ended when it returns. */
void frames__send(ptn_ctx *c, frames_session *s, uint64_t ticket, ptn_pack *w);
void frames__error(ptn_ctx *c, frames_session *s, uint64_t ticket, ptn_bytes id,
                   const struct frames_error *e);
/* `error` validation_failed with details {field: reason}. */
void frames__invalid(ptn_ctx *c, frames_session *s, const struct frames_in *in, const char *field,
                     const char *reason);
/* What a reply that is not the hoped-for kind says; the views live as long as the reply. */
void frames__error_of_reply(int err, const ptn_msg *reply, struct frames_error *ret_e);
void frames__trace_hex(const uint8_t trace[FRAMES_TRACE_BYTES], char out[FRAMES_TRACE_HEX + 1]);
/* The `response` frame of a request: envelope around a response, or problem. */
void frames__send_response(ptn_ctx *c, frames_session *s, const struct frames_call *call,
                           const ptn_response *r);
void frames__send_problem(ptn_ctx *c, frames_session *s, const struct frames_call *call,
                          const struct frames_error *e);

/* ---- frame types ---- */

void frames__handle_subscribe(ptn_ctx *c, frames_session *s, const struct frames_in *in);
/* positions of a resume frame: {topic: {epoch, offset}}.  False: refused, and the client has been
 * told. */
bool frames__check_positions(ptn_ctx *c, frames_session *s, const struct frames_in *in,
                             ptn_bytes *ret_positions);
/* Subscribes to all of them; positions has been checked. */
void frames__subscribe_positions(ptn_ctx *c, frames_session *s, const struct frames_in *in,
                                 ptn_bytes positions);
void frames__handle_unsubscribe(ptn_ctx *c, frames_session *s, const struct frames_in *in);
void frames__handle_publish(ptn_ctx *c, frames_session *s, const struct frames_in *in);
void frames__handle_message(ptn_ctx *c, frames_session *s, const struct frames_in *in);
void frames__handle_request(ptn_ctx *c, frames_session *s, const struct frames_in *in);

#endif
