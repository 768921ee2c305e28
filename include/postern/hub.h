/* SPDX-License-Identifier: Apache-2.0
 *
 * hub.h - how a connection receives events.  One hub per worker; a connection is a sink of its
 * worker's hub.
 *
 * A sink asks the hub by message (ptn_hub_subscribe packs and casts it) and the hub answers by
 * direct calls on the same worker, so that `subscribed`, replayed events and live events keep their
 * order and an event costs no envelope per subscriber.  Sink calls run in the hub's context: they
 * may link frames and close their stream, and must not ask.
 */
#ifndef POSTERN_HUB_H
#define POSTERN_HUB_H

#include <postern/messages.h>
#include <postern/stream.h>

/* Made by wiring, one per worker; survives a restart of the hub actor. */
typedef struct ptn_hub ptn_hub;

/* An encoded form of one event, made by the first sink that needs it and shared by the others. */
enum ptn_form {
    PTN_FORM_WS_JSON,
    PTN_FORM_WS_MSGPACK,
    PTN_FORM_WS_JSON_DEFLATED, /* the same two compressed, for clients that have agreed to it */
    PTN_FORM_WS_MSGPACK_DEFLATED,
    PTN_FORM_WS_JSON_MESSAGE, /* the same four for an event that comes as a `message` */
    PTN_FORM_WS_MSGPACK_MESSAGE,
    PTN_FORM_WS_JSON_MESSAGE_DEFLATED,
    PTN_FORM_WS_MSGPACK_MESSAGE_DEFLATED,
    PTN_FORM_SSE,
    PTN_FORM_ZMQ,
    PTN_FORM_COUNT
};
/* What a form is from another one. */
#define PTN_FORM_WS_DEFLATED (PTN_FORM_WS_JSON_DEFLATED - PTN_FORM_WS_JSON)
#define PTN_FORM_WS_MESSAGE (PTN_FORM_WS_JSON_MESSAGE - PTN_FORM_WS_JSON)

typedef struct ptn_event {
    ptn_str topic;
    ptn_str epoch;
    uint64_t offset;
    ptn_bytes data;                   /* msgpack value */
    ptn_buf *buf;                     /* the EVENT payload that holds it; NULL: from the store */
    ptn_str sender;                   /* the hub's: of a message; p NULL: not looked for yet */
    ptn_frame *forms[PTN_FORM_COUNT]; /* NULL until made; released by the hub after the fan-out */
} ptn_event;

typedef struct ptn_subscribed {
    /* the caller's, from ptn_hub_subscribe(); 0 with a code: a granted one has ended */
    uint64_t tag;
    ptn_str topic;
    int code; /* -1: subscribed; otherwise a ptn_code with message */
    const char *message;
    ptn_str epoch;
    uint64_t offset;
    bool recovered;
} ptn_subscribed;

/* How much a sink has in front of it, after it took an event.  One that said BUSY or FULL calls
 * ptn_hub_sink_writable() when it has drained. */
enum ptn_sink_load {
    PTN_SINK_FREE,
    PTN_SINK_BUSY, /* what comes from the store waits, so that live events keep a share */
    PTN_SINK_FULL, /* live events wait too: the subscription's policy decides */
};

/* What happens to events while their sink is FULL.  wire.md calls them by these names. */
#define PTN_POLICY_MAP(XX)                                                                         \
    XX(DEFAULT, "")                /* STORED where the events are stored, otherwise DISCONNECT */  \
    XX(DISCONNECT, "disconnect")   /* they queue on, and past its hard bound the sink closes */    \
    XX(DROP_OLDEST, "drop_oldest") /* the newest few are kept */                                   \
    XX(DROP_NEWEST, "drop_newest")                                                                 \
    XX(LATEST, "latest") /* conflation, from the first event on: hub_latest.h */                   \
    XX(STORED, "stored") /* nothing is kept: they are read from the store later, without loss */
enum ptn_policy {
#define XX(id, name) PTN_POLICY_##id,
    PTN_POLICY_MAP(XX)
#undef XX
        PTN_POLICY_COUNT
};
/* PTN_POLICY_COUNT: no such policy. */
enum ptn_policy ptn_policy_of(ptn_str name);

typedef struct ptn_gap { /* events that this subscription will not get: from..to, both included */
    ptn_str topic;
    uint64_t from, to;
    const char *reason; /* "slow_consumer", "expired", "max_deliveries", "overflow" */
} ptn_gap;

typedef struct ptn_sink_ops {
    /* Exactly once per ptn_hub_subscribe() or ptn_hub_subscribe_all() that returned 0, unless the
     * sink was closed before; and with tag 0, when the user may no longer have what was granted
     * (forbidden), or there is no room for a conversation of the feed (overloaded). */
    void (*subscribed)(ptn_ctx *c, void *self, const ptn_subscribed *r);
    enum ptn_sink_load (*deliver)(ptn_ctx *c, void *self, ptn_event *e);
    /* A message of the feed, the same otherwise.  NULL: this sink has no feed. */
    enum ptn_sink_load (*message)(ptn_ctx *c, void *self, ptn_event *e);
    void (*gap)(ptn_ctx *c, void *self, const ptn_gap *g);
    /* True: the transport has taken everything that was delivered.  False: it has not, and
     * ptn_hub_sink_writable() will be called when it has.  NULL: only deliver tells. */
    bool (*taken)(void *self);
    /* The hub lost its state: subscriptions are gone, the client must come back (ws: 1012). */
    void (*reset)(ptn_ctx *c, void *self);
} ptn_sink_ops;

typedef uint64_t ptn_sink_id; /* index and generation: stale ids are harmless */
#define PTN_SINK_NONE ((ptn_sink_id)0)

/* user: whose it is, up to 64 bytes; n == 0: nobody's.  Same worker as the hub, any actor.
 * -PTN_EOVERLOAD: the table of sinks is full; -PTN_ETOOBIG; -PTN_ENOMEM. */
int ptn_hub_sink_open(ptn_hub *h, const ptn_sink_ops *ops, void *self, ptn_str user,
                      ptn_sink_id *ret_id);
/* No call on this sink after it returns; its subscriptions go. */
void ptn_hub_sink_close(ptn_ctx *c, ptn_hub *h, ptn_sink_id id);
/* The sink was BUSY or FULL and has drained.  Any actor of the hub's worker; cheap to call twice.
 */
void ptn_hub_sink_writable(ptn_ctx *c, ptn_hub *h, ptn_sink_id id);

typedef struct ptn_position {
    ptn_str epoch; /* n == 0: no position given */
    uint64_t offset;
} ptn_position;

/* topic: a topic or a pattern.  The hub checks it and what the sink's user, with these roles, may
 * see.  -PTN_EOVERLOAD: the hub's mailbox is full.  every_ms: for LATEST, at most one event of a
 * topic in so long, up to 65,535; 0: as many as the sink takes.  Subscribing twice to one topic
 * moves the subscription (no duplicates). */
int ptn_hub_subscribe(ptn_ctx *c, ptn_hub *h, ptn_sink_id sink, uint64_t tag, ptn_str topic,
                      ptn_position since, enum ptn_policy policy, uint32_t every_ms,
                      uint32_t roles);
/* Everything, reserved topics too: for gateways with an authorization of their own (ZeroMQ on ipc).
 * With reserved == false: only public topics. */
int ptn_hub_subscribe_all(ptn_ctx *c, ptn_hub *h, ptn_sink_id sink, bool reserved);
int ptn_hub_unsubscribe(ptn_ctx *c, ptn_hub *h, ptn_sink_id sink, ptn_str topic);

/* Opens the sink's feed: what its user's device has not acknowledged, and then whatever comes, in
 * every conversation of the user, as `message`.  Subscribing to one of them turns it into events.
 * A second call does nothing.  -PTN_EOVERLOAD: the hub's mailbox is full. */
#define PTN_DEVICE_BYTES_MAX 64u
int ptn_hub_feed(ptn_ctx *c, ptn_hub *h, ptn_sink_id sink, ptn_str device, uint32_t roles);
/* The device has everything of the conversation up to seq.  Errors as above. */
int ptn_hub_ack(ptn_ctx *c, ptn_hub *h, ptn_sink_id sink, ptn_str conversation, uint64_t seq);

/* Composition root. */
typedef struct ptn_hub_limits {
    uint32_t sinks_max;              /* 0: 100,000 */
    uint32_t subscriptions_max;      /* of the whole hub; 0: 1,000,000 */
    uint32_t sink_subscriptions_max; /* of one sink; 0: 1,000 */
    uint32_t held_events_max;        /* kept for one slow subscription; 0: 256 */
    uint32_t held_bytes_max;         /* likewise, of their payloads; 0: 256 KiB */
    uint64_t held_total_bytes;       /* of the whole hub; 0: 16 MiB */
    uint32_t latest_turn_max;        /* events sent by ends of intervals in a turn; 0: 4,096 */
    uint32_t pages_max;              /* being read from the store at a time; 0: 8 */
    uint32_t feed_window;            /* messages of one conversation without an ack; 0: 256 */
    uint32_t feed_deliveries_max;    /* of one message, then it is passed; 0: 10 */
    ptn_time feed_redeliver_ns;      /* from the first delivery to the second; 0: 30 s */
} ptn_hub_limits;
ptn_hub *ptn_hub_new(const ptn_hub_limits *limits, const ptn_directory *d, unsigned worker);
void ptn_hub_free(ptn_hub *h);
extern const ptn_actor_ops ptn_hub_actor; /* arg: the ptn_hub */

/* Wherever the device's feed is open it goes on behind seq, as HUB_CURSOR says; reason: empty for
 * none.  A hub that is too busy to hear of it learns it with the device's next session. */
void ptn_hub_move_cursor(ptn_ctx *c, const ptn_directory *d, ptn_str conversation, ptn_str user,
                         ptn_str device, uint64_t seq, ptn_str reason);

#endif
