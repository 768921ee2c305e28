/* SPDX-License-Identifier: Apache-2.0
 *
 * hub_internal.h - what hub.c (subscriptions and delivery), hub_watch.c (patterns) and hub_sinks.c
 * (the table of sinks and the functions that other actors call) share.
 */
#ifndef POSTERN_ACTORS_HUB_INTERNAL_H
#define POSTERN_ACTORS_HUB_INTERNAL_H

#include "actors/hub_feed.h"
#include "actors/hub_flow.h"
#include "actors/hub_latest.h"

#define HUB_USER_BYTES_MAX 64
#define HUB_CONVERSATION "conversation." /* and its id: the topic */

struct hub_sink {
    ptn_hub *hub;
    const ptn_sink_ops *ops;
    void *self;
    uint32_t index, generation;
    struct hub_sub *subs;
    struct hub_feed *feed; /* NULL: none */
    uint64_t serial;       /* last event delivered, when several lists matched */
    struct hub_sink *dead_next;
    struct hub_sink *drained_next; /* of h->drained */
    uint32_t n_subs;               /* granted, without those of the feed alone */
    uint32_t n_fed;                /* those */
    uint32_t n_attaches;           /* being asked for */
    bool drained;
    uint8_t user_bytes;
    char user[];
};

struct hub_attach { /* a subscription that waits for owners to agree */
    struct hub_attach *next, **pprev;
    ptn_hub *hub;
    ptn_sink_id sink;
    uint64_t tag;
    struct hub_topic *topic; /* NULL: a pattern */
    uint32_t waiting;        /* owners that have not agreed to send everything */
    bool canceled, failed;
    bool since_given;
    uint8_t policy; /* enum ptn_policy */
    uint16_t every_ms;
    uint64_t since_offset;
    struct feed_item *item; /* not NULL: for the feed; nobody is told */
    uint8_t name_bytes;
    char name[PTN_TOPIC_BYTES_MAX];
};

/* The owners of one class and whether they are to send us everything. */
struct hub_watch {
    const ptn_addr *owners;
    bool on;
    uint64_t untold; /* bit per owner that refused to hear so; the timer tells them */
};
enum { WATCH_TOPICS, WATCH_CONVERSATIONS, WATCHES };

struct ptn_hub {
    ptn_hub_limits limits;
    const ptn_directory *directory;
    unsigned worker;
    struct hub_index index;
    struct hub_sink **sinks; /* by index; NULL: free */
    uint32_t *generations;
    uint32_t n_sinks, sinks_cap, free_hint;
    struct hub_sink *graveyard;
    struct hub_sink *drained; /* sinks that can take more */
    struct hub_flow *flows;
    struct hub_flow *line_first, *line_last; /* flows that wait for a page */
    uint32_t n_pages;                        /* being read */
    uint64_t held_bytes;
    ptn_timer page_timer;          /* tries failed reads again */
    struct hub_latest *latest_due; /* with an interval that has begun */
    ptn_timer latest_timer;
    ptn_time latest_at; /* when it is due */
    struct hub_attach *attaches;
    uint64_t serial;
    uint64_t born; /* conversation shards that have been heard of */
    struct hub_watch watch[WATCHES];
    ptn_timer watch_timer;
    struct hub_feeds feeds;
    int64_t subs_reported; /* what the gauge has of us */
};

static inline ptn_str hub_sink_user(const struct hub_sink *s) {
    return (ptn_str){s->user, s->user_bytes};
}

/* NULL: it has closed. */
struct hub_sink *hub_sink_of(const ptn_hub *h, ptn_sink_id id);
ptn_sink_id hub_sink_id(const struct hub_sink *s);
/* Frees the sinks in the graveyard and what they subscribe to. */
void hub_bury(ptn_hub *h);
void hub_attach_free(struct hub_attach *a);
/* Closes the sink and tells it to start over. */
void hub_reset_sink(ptn_ctx *c, ptn_hub *h, struct hub_sink *s);
/* Asks the topic's owner: attach_ended() gets its answer.  0 or why not; a is gone then. */
int hub_attach_topic(ptn_ctx *c, ptn_hub *h, struct hub_sink *s, struct hub_attach *a,
                     ptn_position since, uint64_t roles);
/* NULL: no memory, or too many. */
struct hub_attach *hub_attach_new(ptn_hub *h, struct hub_sink *s, uint64_t tag, ptn_str name,
                                  uint8_t policy);
/* The attach has ended; its sink, if it is still there, may ask for something else. */
void hub_attach_end(ptn_hub *h, struct hub_attach *a);
/* NULL: the sink does not subscribe there. */
struct hub_sub *hub_find_sub(const struct hub_sink *s, const struct hub_list *l);
/* The sink (fed: its feed) or the hub has as many subscriptions as it may. */
bool hub_is_full(const ptn_hub *h, const struct hub_sink *s, bool fed);
/* Adds the sink to a list unless it is there.  fed: for its feed, and then a subscription that the
 * client has asked for stays as it is.  NULL: no memory, or a bound is reached. */
struct hub_sub *hub_join(ptn_hub *h, struct hub_sink *s, struct hub_list *l, uint8_t policy,
                         bool fed);
/* Keeps the gauge true.  Subscriptions change in messages and in answers of owners. */
void hub_report_subscriptions(ptn_hub *h);
extern const char hub_canceled_text[];
/* What keeps the user from a topic or pattern; NULL: nothing here. */
const char *hub_forbidden(ptn_str topic, ptn_str user);
/* Ends a request for a subscription. */
void hub_refuse(ptn_ctx *c, struct hub_sink *s, uint64_t tag, ptn_str topic, int code,
                const char *message);
/* hub_join() has found no room, or there would be none: says which, and what to do about it.  fed:
 * for the feed, which is tried again when there was no memory. */
void hub_refuse_full(ptn_ctx *c, ptn_hub *h, struct hub_sink *s, uint64_t tag, ptn_str topic,
                     bool fed);
/* Handles a HUB_SUBSCRIBE that the feed has held back. */
void hub_take(ptn_ctx *c, ptn_hub *h, ptn_buf *b);
/* Patterns and gateways; a pattern is granted when all owners have agreed. */
void hub_subscribe_pattern(ptn_ctx *c, ptn_hub *h, struct hub_sink *s, uint64_t tag,
                           ptn_str pattern, uint8_t policy, uint16_t every_ms);
int hub_subscribe_all(ptn_ctx *c, ptn_hub *h, struct hub_sink *s, bool reserved);
/* Stops the flood when the last pattern or gateway has gone. */
void hub_unwatch(ptn_ctx *c, ptn_hub *h);
/* Tells one owner of class k, or all of them, what is wanted.  A refusal is not the end: the timer
 * tells it again. */
void hub_watch_tell(ptn_ctx *c, ptn_hub *h, unsigned k, unsigned owner);
void hub_watch_set(ptn_ctx *c, ptn_hub *h, unsigned k, bool on);
/* Everybody who listens to a pattern starts over. */
void hub_reset_patterns(ptn_ctx *c, ptn_hub *h);
/* What the fan-out and flows call: the sink, or its feed. */
static inline enum ptn_sink_load hub_sub_deliver(ptn_ctx *c, struct hub_sub *sub, ptn_event *e) {
    if (sub->cursor != NULL)
        return hub_cursor_deliver(c, sub->cursor, e);
    return sub->sink->ops->deliver(c, sub->sink->self, e);
}
static inline void hub_forms_release(ptn_event *e) {
    for (unsigned i = 0; i < PTN_FORM_COUNT; i++)
        e->forms[i] = ptn_frame_unref(e->forms[i]);
}
/* The fields of an EVENT payload; false: it is none. */
bool hub_event_read(ptn_buf *b, ptn_event *ret_e);
/* The fan-out calls the sink, its feed or what conflates for it, as events come. */
void hub_sub_live(struct hub_sub *sub);
/* Packs and casts; a refusal is returned. */
int hub_cast(ptn_ctx *c, ptn_addr to, uint32_t type, ptn_pack *w);

#endif
