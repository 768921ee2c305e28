/* SPDX-License-Identifier: Apache-2.0
 *
 * zmq_int.h - what the files of the gateway share: the object that holds sockets, and the actor's
 * state.
 *
 * struct zmq_gw lives as long as the program's composition; struct zmq_gw_state as long as one
 * incarnation of the actor.  What a restart must not lose is in the former: sockets, and the
 * prefixes, which libzmq reports only once.
 */
#ifndef POSTERN_PROTOCOLS_ZMQ_INT_H
#define POSTERN_PROTOCOLS_ZMQ_INT_H

#include "protocols/frames/frames.h"
#include "protocols/zmq/zmq_gw.h"
#include "protocols/zmq/zmq_prefix.h"
#include "protocols/zmq/zmq_request.h"

struct zmq_msg_t; /* zmq.h */

#define ZMQ_GW_ADDRESS_BYTES 256u
/* Casts to the gateway itself: "your sockets may have input". */
#define ZMQ_GW_MSG_KICK ((uint32_t)PTN_MSG_TYPE_END + 1u)
#define ZMQ_GW_ID_BYTES_MAX 133u /* encoded: a text of 128 bytes */
#define ZMQ_GW_APOLOGY_BYTES 256u
#define ZMQ_GW_TURN_MSGS 256u /* taken from one socket before others get their turn */

/* Who may hear what is decided by the kind of socket: the file mode guards ipc, nothing guards a
 * loopback port. */
enum zmq_gw_side { ZMQ_GW_IPC, ZMQ_GW_TCP, ZMQ_GW_SIDES };

typedef struct zmq_gw_address { /* checked and in the form that libzmq binds */
    enum zmq_gw_side side;
    bool ipv6;
    char text[ZMQ_GW_ADDRESS_BYTES];
} zmq_gw_address;

/* 0, or -PTN_EINVAL with *reterr_why (static text). */
int zmq_gw_address_check(const char *where, zmq_gw_address *ret_address, const char **reterr_why);

/* A bound address, and which file it made: libzmq leaves socket files behind. */
typedef struct zmq_gw_listener {
    char address[ZMQ_GW_ADDRESS_BYTES]; /* the real one */
    uint64_t device, inode;             /* of the socket file; inode 0: none */
} zmq_gw_listener;

typedef struct zmq_gw_events {
    void *socket; /* XPUB; NULL: no address of this kind */
    zmq_gw_prefixes prefixes;
} zmq_gw_events;

enum zmq_gw_interest { ZMQ_GW_IDLE, ZMQ_GW_ASKED, ZMQ_GW_ON, ZMQ_GW_REFUSED };

struct zmq_gw {
    const ptn_directory *directory;
    ptn_hub *hub;
    unsigned worker;
    zmq_gw_limits limits;
    void *context;
    void *router; /* NULL: no request address */
    zmq_gw_events events[ZMQ_GW_SIDES];
    size_t n_requests, n_events;
    zmq_gw_listener request_listeners[ZMQ_GW_ADDRESSES_MAX];
    zmq_gw_listener event_listeners[ZMQ_GW_ADDRESSES_MAX];
    /* From here on: the worker's. */
    ptn_addr self;        /* of the actor */
    bool kicked;          /* a kick is in the mailbox */
    ptn_timer kick_timer; /* one was refused */
    bool events_dirty;    /* the end of this turn looks at the event sockets */
    ptn_sink_id sink;
    enum zmq_gw_interest interest; /* of the hub in us */
    uint64_t seed;
};

/* One request in flight. */
typedef struct zmq_gw_call {
    frames_session session;
    struct zmq_gw_state *state;
    struct zmq_gw_call *next; /* free, or answered and waiting for the end of the turn */
    ptn_buf *envelope;        /* [length, bytes] per part; NULL: not in use */
    ptn_buf *frame;           /* waits for the token's verification; NULL: handed on */
    ptn_time started;
    uint32_t quota;
    bool msgpack, answered;
    uint8_t n_id;
    uint8_t id[ZMQ_GW_ID_BYTES_MAX]; /* of the request, encoded */
} zmq_gw_call;

/* In-flight requests are counted per hash of the peer's identity; peers that collide share a count.
 */
#define ZMQ_GW_QUOTAS 1024u

typedef struct zmq_gw_refusal { /* answers what never became a call */
    frames_session session;
    const ptn_bytes *envelope;
    size_t n_envelope;
    ptn_bytes id;
    bool msgpack;
} zmq_gw_refusal;

typedef struct zmq_gw_state {
    zmq_gw *gw;
    frames_config sessions, refusals; /* of calls, and of what never became one */
    ptn_json_parser *json;
    ptn_out text;  /* scratch for JSON answers */
    ptn_out spare; /* for the one that says that there is no memory */
    zmq_gw_refusal refusal;
    zmq_gw_call *calls, *free, *answered;
    uint32_t n_in_flight;
    uint64_t pressure[3]; /* watches of router, auth and topics; 0: none */
    uint8_t pressed;      /* bit per watch; not 0: no request is read, and libzmq pushes back */
    bool turn_end_asked, draining, stopping;
    ptn_reply_to drain_reply; /* corr 0: nobody waits for the last answer */
    ptn_watch *watches[1 + ZMQ_GW_SIDES];
    ptn_timer retry; /* of the hub subscription */
    uint32_t quotas[ZMQ_GW_QUOTAS];
} zmq_gw_state;

/* Worker only, any actor of it: makes the gateway look at its sockets in a turn of its own. */
void zmq_gw_kick(ptn_ctx *c, zmq_gw *gw);
/* True when a socket has input; also takes note of everything that libzmq's threads reported. */
bool zmq_gw_readable(void *socket);

/* zmq_answer.c: sends [envelope..][body], encoding the msgpack map as the peer wants it.  id: of
 * the request, put in when the frame has none; n == 0: none.  frame.n == 0, or no memory to encode
 * it: the peer is told `overloaded`, with that id. */
void zmq_gw_answer(zmq_gw_state *st, const ptn_bytes *envelope, size_t n_envelope, bool msgpack,
                   ptn_bytes frame, ptn_bytes id);
/* A message with the bytes of take_b, which is used up in every case; large ones are not copied.
 * <0: no memory. */
int zmq_gw_message(ptn_buf *take_b, struct zmq_msg_t *ret_msg);
/* False: no memory. */
bool zmq_gw_answer_init(zmq_gw_state *st);

/* zmq_calls.c: the pool of requests in flight. */
int zmq_gw_calls_init(ptn_ctx *c, zmq_gw_state *st);
/* The end: what is in flight is answered with an error.  cancel for an orderly one, done always and
 * after it; done runs without a context, because a crash leaves none. */
void zmq_gw_calls_cancel(ptn_ctx *c, zmq_gw_state *st);
void zmq_gw_calls_done(void *state);
/* One whole message from a peer; n may exceed the ZMQ_GW_PARTS_MAX that parts holds. */
void zmq_gw_calls_message(ptn_ctx *c, zmq_gw_state *st, const ptn_bytes *parts, size_t n);
/* Gives answered calls back to the pool; at the end of a turn. */
void zmq_gw_calls_reap(ptn_ctx *c, zmq_gw_state *st);

/* zmq_events.c */
void zmq_gw_events_read(ptn_ctx *c, zmq_gw_state *st);
/* Opens or closes the sink to match the subscriptions. */
void zmq_gw_events_update(ptn_ctx *c, zmq_gw_state *st);

#endif
