/* SPDX-License-Identifier: Apache-2.0
 *
 * topics_internal.h - what the files of the topics actor share.
 *
 * An ordinary topic lives in memory.  A durable one (topics.durable in the configuration) lives in
 * the store: this actor assigns its offsets, the store appends exactly those, and an event goes to
 * subscribers when its commit has been answered.  Until the store has told where a durable topic
 * stands, what is asked of it waits (struct call).
 */
#ifndef POSTERN_ACTORS_TOPICS_INTERNAL_H
#define POSTERN_ACTORS_TOPICS_INTERNAL_H

#include "actors/hash_table.h"
#include "actors/topics.h"

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#define EPOCH_BYTES 16
#define EVENT_ID_BYTES 24 /* who, topic and key: 16; body: 7; level: 1 */

struct topics;

/* A message of somebody else's, now or later. */
struct call {
    ptn_addr from;
    uint32_t type;
    ptn_reply_to to; /* corr 0: nobody waits */
    ptn_buf *buf;
};

/* ---- topics_table.c: topics and their history in memory ------------------------------------- */

/* Topics that may be forgotten because nobody listens, and topics with a history to forget. */
enum topic_list { LIST_UNHEARD, LIST_HISTORY, LISTS };

struct topic_link {
    struct topic *next, *prev;
};

struct history { /* ring of sealed EVENT payloads, oldest at `first` */
    struct topic_link link;
    ptn_buf **events;
    uint32_t first, n, cap;
    uint64_t bytes;
};

struct topic {
    struct topic_link unheard;
    uint64_t hubs;           /* bit per worker whose hub is attached */
    uint64_t offset;         /* of the last event that went to the hubs */
    struct history *history; /* NULL: none */
    struct durable *durable; /* NULL: it lives in memory */
    uint32_t pins;           /* work in progress that must find it again */
    bool is_unheard;         /* on that list */
    uint8_t name_bytes;
    char epoch[EPOCH_BYTES];
    char name[];
};

static inline ptn_str topic_name(const struct topic *t) {
    return (ptn_str){t->name, t->name_bytes};
}
static inline ptn_str topic_epoch(const struct topic *t) {
    return (ptn_str){t->epoch, EPOCH_BYTES};
}

/* Events in its history. */
static inline uint32_t topic_remembers(const struct topic *t) {
    return t->history != NULL ? t->history->n : 0;
}

/* The topic, the most recently used now; made when absent.  NULL: every place is taken by a topic
 * in use. */
struct topic *topic_of(ptn_ctx *c, struct topics *s, ptn_str name);
struct topic *topic_find(struct topics *s, ptn_str name);
void topic_set_hub(struct topics *s, struct topic *t, unsigned worker, bool attached);
void topic_pin(struct topics *s, struct topic *t);
void topic_unpin(struct topics *s, struct topic *t);
/* Of all topics. */
void topics_free(struct topics *s);
/* Keeps a reference to b.  What does not fit the bounds pushes the oldest out. */
void history_add(struct topics *s, struct topic *t, ptn_buf *b);
void topic_make_epoch(ptn_ctx *c, char out[EPOCH_BYTES]);

/* ---- topics_ids.c: the same publication, sent twice ----------------------------------------- */

struct event_id { /* a publication that was sent with an id, not long ago */
    UT_hash_handle hh;
    struct event_id *next;         /* younger */
    uint8_t bytes[EVENT_ID_BYTES]; /* the first 16 are the key of the hash */
    uint64_t offset, subscribers;  /* of the answer; offset 0: still under way */
    ptn_time at;
    struct id_window *window;
    char epoch[EPOCH_BYTES];
};
struct id_window { /* starts zeroed */
    struct event_id *oldest, *youngest;
    uint32_t n;
};
enum event_id_state { ID_NEW, ID_KNOWN, ID_UNDER_WAY, ID_MISMATCH, ID_NO_MEMORY };

/* Looks the id up.  ID_NEW: it is under way now, until event_id_done() or event_id_forget(). */
enum event_id_state event_id_begin(ptn_ctx *c, struct topics *s, struct id_window *w,
                                   const uint8_t id[EVENT_ID_BYTES], struct event_id **ret_e);
/* The answer that it has had, for those who send it again. */
void event_id_done(struct topics *s, const uint8_t id[EVENT_ID_BYTES], ptn_str epoch,
                   uint64_t offset, uint64_t subscribers);
void event_id_forget(struct topics *s, const uint8_t id[EVENT_ID_BYTES]);
/* As read from the store. */
void event_id_restore(ptn_ctx *c, struct topics *s, struct id_window *w,
                      const uint8_t id[EVENT_ID_BYTES], ptn_str epoch, uint64_t offset);
/* Of a publication: a keyed hash, so that nobody can take somebody else's first.  Its last byte is
 * the level of durability, which the caller sets when it is known. */
#define EVENT_ID_LEVEL (EVENT_ID_BYTES - 1)
void event_id_make(const struct topics *s, ptn_str user, ptn_str topic, ptn_str key, ptn_bytes data,
                   uint8_t ret_id[EVENT_ID_BYTES]);
/* All of a window, which may go then. */
void event_ids_drop(struct topics *s, struct id_window *w);

/* ---- topics.c: publishing and subscribing --------------------------------------------------- */

struct publication { /* an answer that waits: for the store, then for the hubs to count */
    struct topics *shard;
    struct publication *next;
    ptn_reply_to reply;
    uint64_t offset, subscribers;
    uint32_t waiting;
    bool has_id, answered;
    bool called;               /* by PUBLISH, and is answered likewise */
    enum ptn_durability level; /* wanted, then reached */
    uint8_t id[EVENT_ID_BYTES];
    char epoch[EPOCH_BYTES];
};

struct topics {
    struct topics_config config;
    struct publication *idle;    /* finished ones, for reuse; arena memory */
    struct append *idle_appends; /* likewise */
    struct durable *gathering;   /* topics with events of this turn */
    struct hash_table by_name;
    struct topic *found;                      /* by the last look */
    struct topic *first[LISTS], *last[LISTS]; /* most recently used first */
    uint64_t watching;                        /* workers whose hub wants every event */
    uint64_t resync; /* workers whose hub refused an event: tell it to start over */
    ptn_timer resync_timer;
    uint64_t history_bytes;
    uint32_t n_waiting; /* calls that wait for durable topics to open */
    struct event_id *ids;
    struct id_window ids_in_memory; /* of all topics that are not durable */
    struct id_window *ids_fullest;  /* as far as the last additions show; or NULL */
    uint32_t n_ids;
    bool stopping;
};

/* The event to every hub that wants it; p counts its subscribers (NULL: nobody waits). */
void fan_out_event(ptn_ctx *c, struct topics *s, const struct topic *t, ptn_buf *event,
                   struct publication *p);
/* Answers 202. */
void publication_answer(ptn_ctx *c, struct publication *p);
/* Answers 202 and recycles, unless hubs are still counting. */
void publication_settle(ptn_ctx *c, struct publication *p);
void publication_recycle(struct publication *p);
/* Answers with a problem (as ptn_problem_pass()) and recycles. */
void publication_fail(ptn_ctx *c, struct publication *p, int err, const ptn_msg *reply);
/* EVENT */
ptn_buf *event_pack(const struct topic *t, uint64_t offset, ptn_bytes data);
/* Runs a call whose topic is open, or lives in memory. */
void call_run(ptn_ctx *c, struct topics *s, const struct call *m);
/* All hubs that listen to the topic start over. */
void topic_resync(ptn_ctx *c, struct topics *s, const struct topic *t);

/* ---- topics_durable.c ----------------------------------------------------------------------- */

/* The rule of a durable topic; NULL: it lives in memory. */
const struct topic_rule *durable_rule(const struct topics *s, ptn_str name);
/* Where the ids of a topic's publications are remembered. */
struct id_window *id_window_of(struct topics *s, struct topic *t);
/* False: the call waits until the topic is open, or has been refused. */
bool durable_ready(ptn_ctx *c, struct topics *s, struct topic *t, const struct call *m);
/* The store has removed everything up to base. */
void durable_trimmed(struct topic *t, uint64_t base);
/* An open topic: does the store have everything after this position? */
bool durable_covers(const struct topic *t, ptn_str epoch, uint64_t offset);
/* Appends, together with what else comes in this turn; p is consumed and answered when its level is
 * reached. */
void durable_publish(ptn_ctx *c, struct topics *s, struct topic *t, ptn_bytes data,
                     struct publication *p);
void durable_free(struct topics *s, struct topic *t);

#endif
