/* SPDX-License-Identifier: Apache-2.0
 *
 * hub_index.h - which sinks want which topics: a hash of exact topics and a trie of patterns.
 *
 * Pure data structure of one worker, no messages.  A topic keeps its subscribers in a dense array
 * of (function, self) pairs, so that a fan-out walks memory in order and follows no pointer of
 * ours.
 */
#ifndef POSTERN_ACTORS_HUB_INDEX_H
#define POSTERN_ACTORS_HUB_INDEX_H

#include <postern/hub.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#define HUB_EPOCH_BYTES_MAX 40

struct hub_sink;
struct hub_sub;

struct hub_flow;
struct hub_cursor;

struct hub_slot { /* what the fan-out loop reads */
    enum ptn_sink_load (*deliver)(ptn_ctx *c, void *self, ptn_event *e);
    void *self;
    struct hub_sub *sub;
};

struct hub_list {
    struct hub_slot *slots;
    uint32_t n, cap;
    struct hub_topic
        *topic; /* exactly one of these says whose list it is; both NULL: an all-list */
    struct hub_node *node;
};

struct hub_sub { /* one subscription of one sink */
    struct hub_list *list;
    uint32_t at;    /* index in list->slots */
    uint8_t policy; /* enum ptn_policy, never DEFAULT */
    struct hub_sink *sink;
    struct hub_flow *flow;     /* NULL: it gets events as they come */
    struct hub_cursor *cursor; /* NULL: not part of a feed */
    struct hub_sub *sink_next, **sink_pprev;
};

struct hub_topic { /* an exact topic with local subscribers, or asks for one in flight */
    UT_hash_handle hh;
    struct hub_list list;
    uint32_t pending; /* TOPIC_ATTACH asks in flight */
    bool stored;      /* its events can be read from the store */
    char epoch[HUB_EPOCH_BYTES_MAX];
    uint32_t epoch_bytes;
    uint64_t offset; /* of the last event; a jump means that events were lost on the way */
    ptn_addr owner;
    uint32_t name_bytes;
    char name[];
};

struct hub_node { /* one segment of a pattern */
    UT_hash_handle hh;
    struct hub_node *parent;
    struct hub_node *children; /* hash of literal segments */
    struct hub_node *star;     /* `*` */
    struct hub_list here;      /* patterns that end here */
    struct hub_list rest;      /* patterns that end with `**` below here */
    uint32_t segment_bytes;
    char *segment; /* stands right behind the node */
};

struct hub_index {
    struct hub_topic *topics;
    struct hub_node root;
    struct hub_list all_public, all_reserved; /* gateways that want everything */
    uint32_t n_topics, n_subs, n_pattern_subs;
};

/* The topic's entry; made when `make` is set.  NULL: absent, or no memory. */
struct hub_topic *hub_index_topic(struct hub_index *x, ptn_str topic, bool make);
/* Frees an entry that nobody uses any more; returns true when it did. */
bool hub_index_topic_release(struct hub_index *x, struct hub_topic *t);
/* The list of a valid pattern; made when `make` is set. */
struct hub_list *hub_index_pattern(struct hub_index *x, ptn_str pattern, bool make);

/* NULL: no memory. */
struct hub_sub *hub_sub_add(struct hub_index *x, struct hub_list *l, struct hub_sink *sink,
                            struct hub_sub **sink_list, const struct hub_slot *slot);
/* Frees the subscription, and pattern nodes it leaves empty; a topic entry stays for
 * hub_index_topic_release(). */
void hub_sub_remove(struct hub_index *x, struct hub_sub *s);

/* Calls visit for every non-empty pattern list that matches the topic. */
void hub_index_match(struct hub_index *x, ptn_str topic,
                     void (*visit)(struct hub_list *l, void *arg), void *arg);
/* Frees everything, subscriptions too. */
void hub_index_done(struct hub_index *x);

#endif
