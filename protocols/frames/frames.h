/* SPDX-License-Identifier: Apache-2.0
 *
 * frames.h - the frame language of wire.md section 3, which WebSocket and ZeroMQ share.
 *
 * A session takes decoded frames (validated msgpack maps), turns them into actor messages, and
 * gives frames back through its ops; the adapter only encodes and transports.  Everything runs on
 * the adapter's worker in its actor's context.
 *
 * A ticket says which incoming frame an outgoing one answers: ZeroMQ needs it to find the peer,
 * WebSocket passes 0.  With `one_answer` set, every ticket gets exactly one frame (`ok` where
 * wire.md has no answer).
 */
#ifndef POSTERN_PROTOCOLS_FRAMES_H
#define POSTERN_PROTOCOLS_FRAMES_H

#include <postern/hub.h>
#include <postern/messages.h>

typedef struct frames_session frames_session;

typedef struct frames_ops {
    /* An encoded msgpack map for the client; borrowed.  Without `close` it may be of no bytes:
     * there was no memory for the answer, and the adapter has words of its own for that. */
    void (*send)(ptn_ctx *c, void *self, uint64_t ticket, ptn_bytes frame);
    /* The session is authenticated now (`welcome` has been sent).  May be NULL. */
    void (*authenticated)(ptn_ctx *c, void *self);
    /* Close the connection: a WebSocket close code and a problem code for the reason.  NULL:
     * ignore. */
    void (*close)(ptn_ctx *c, void *self, unsigned ws_code, int code);
    /* Opens session->sink, called before the first subscription.  NULL: the adapter has set it
     * already. */
    int (*open_sink)(ptn_ctx *c, void *self);
} frames_ops;

/* What all sessions of an adapter have in common; outlives them. */
typedef struct frames_config {
    const frames_ops *ops;
    const ptn_directory *directory;
    unsigned worker;
    enum ptn_protocol protocol;
    ptn_hub *hub; /* NULL: subscriptions are refused with a message that says what to use */
    bool one_answer;
    uint32_t pending_max; /* unanswered frames; past it: error `overloaded` */
    uint32_t heartbeat_ms;
    ptn_time request_ns, request_ns_max;
} frames_config;

struct frames_session { /* embed in a connection; fields are read-only to adapters */
    const frames_config *config;
    void *self;
    ptn_sink_id sink;
    ptn_buf *identity;         /* who the client is, for frames_principal(); NULL: anonymous */
    ptn_buf *device;           /* what an `auth` or `resume` without one means; NULL: no name */
    struct frames_call *calls; /* asks in flight */
    uint32_t n_pending;        /* unanswered frames */
    bool closed;
    bool authenticating; /* a token is being verified */
};

void frames_session_init(frames_session *s, const frames_config *config, void *self);
/* Cancels what is in flight; afterwards no op is called.  c NULL: the adapter's actor has crashed,
 * and its asks are gone already. */
void frames_session_done(ptn_ctx *c, frames_session *s);

/* Makes p, which may point into the old one, the session's identity.  -PTN_ETOOBIG: a field is too
 * long (never for principals that auth made); -PTN_ENOMEM. */
int frames_identify(frames_session *s, const ptn_principal *p);
/* Views that live as long as that identity. */
ptn_principal frames_principal(const frames_session *s);

/* What may name a device: at most PTN_DEVICE_BYTES_MAX bytes, no control characters. */
bool frames_device_is_valid(ptn_str device);
/* The device of a client that has said it before it authenticates; valid, copied, kept until the
 * session has an identity.  -PTN_ENOMEM. */
int frames_device_set(frames_session *s, ptn_str device);

/* device: of the client, which tells its feed from those of the user's other devices; valid; empty:
 * the device without a name.
 *
 * Verifies a token and sets the identity, then sends `welcome` (or `error` and close 4501). */
void frames_authenticate(ptn_ctx *c, frames_session *s, uint64_t ticket, ptn_str token,
                         ptn_str device, bool send_welcome);
/* The same for a principal that is known already (the upgrade carried the token). */
void frames_welcome(ptn_ctx *c, frames_session *s, uint64_t ticket, const ptn_principal *p,
                    ptn_str device);

/* An adapter that can slow its client down hands in no frame while the session is full, and goes on
 * when it has room again: at half of the bound, so that reading is not switched for each frame.
 * Then no frame is refused for its number, and none comes while the token ahead of it is verified.
 * Room appears only right before an op->send. */
static inline bool frames_is_full(const frames_session *s) {
    return s->authenticating || s->n_pending >= s->config->pending_max;
}
static inline bool frames_has_room(const frames_session *s) {
    return !s->authenticating && s->n_pending <= s->config->pending_max / 2;
}

/* One frame from the client.  frame is a validated msgpack value of any kind. */
void frames_handle(ptn_ctx *c, frames_session *s, uint64_t ticket, ptn_bytes frame);
/* The broker goes: `drain`, with a ticket for `resume` when the session has an identity.  Until it
 * is sent, the session counts one pending frame more. */
void frames_drain(ptn_ctx *c, frames_session *s, uint32_t reconnect_after_ms);
/* An `error` frame; id may be empty (raw msgpack value or n == 0). */
void frames_send_error(ptn_ctx *c, frames_session *s, uint64_t ticket, ptn_bytes id, int code,
                       const char *message);

/* Builds `event` {type, topic, epoch, offset, data} for the wire forms. */
void frames_event_pack(ptn_pack *w, const ptn_event *e);
/* Builds `message` {type, ...Message}; the Message's own type is `messageType`. */
void frames_message_pack(ptn_pack *w, const ptn_event *e);
/* Sends `gap`: called by the adapter's sink. */
void frames_gap(ptn_ctx *c, frames_session *s, const ptn_gap *g);
/* Sends `subscribed`, or `error` when r->code says so: called by the adapter's sink. */
void frames_subscribed(ptn_ctx *c, frames_session *s, const ptn_subscribed *r);

#endif
