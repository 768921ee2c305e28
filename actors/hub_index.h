/* SPDX-License-Identifier: Apache-2.0
 *
 * hub_index.h - which sinks want which topics: a table of exact topics and a trie of patterns.
 *
 * Pure data structure of one worker, no messages.  A topic keeps its subscribers in a dense array
 * of (function, self) pairs, so that a fan-out walks memory in order and follows no pointer of
 * ours.  One subscriber needs no array.
 *
 * The trie is made of whole segments, and a node stands for as many as no other pattern parts: a
 * pattern of its own costs one node, however long it is.  Children are not kept by their parents
 * but all together in one table, under parent and first segment; `*` and `**` are segments like
 * any.  So a match looks at three places of that table per node at most.
 */
#ifndef POSTERN_ACTORS_HUB_INDEX_H
#define POSTERN_ACTORS_HUB_INDEX_H

#include "actors/hash_table.h"

#include <postern/hub.h>

#define HUB_EPOCH_BYTES_MAX 16

struct hub_sink;
struct hub_sub;

struct hub_flow;
struct hub_cursor;

struct hub_slot { /* what the fan-out loop reads */
    enum ptn_sink_load (*deliver)(ptn_ctx *c, void *self, ptn_event *e);
    void *self;
    struct hub_sub *sub;
};

enum hub_list_of { HUB_LIST_ALL, HUB_LIST_TOPIC, HUB_LIST_NODE };

struct hub_list { /* never moves */
    struct hub_slot *slots;
    uint32_t n;
    uint8_t cap_log2;
    uint8_t of;          /* enum hub_list_of: in what it stands */
    struct hub_slot one; /* the first of slots while there is room for no more */
};

struct hub_sub { /* one subscription of one sink */
    struct hub_list *list;
    uint32_t at;       /* index in list->slots */
    uint8_t policy;    /* enum ptn_policy, never DEFAULT */
    bool latest;       /* its slot is that of hub_latest.c, and has state there */
    uint16_t every_ms; /* at most one event of a topic in so long; 0: any number */
    struct hub_sink *sink;
    struct hub_flow *flow;     /* NULL: it gets events as they come */
    struct hub_cursor *cursor; /* NULL: not part of a feed */
    struct hub_sub *sink_next, **sink_pprev;
};

struct hub_topic { /* an exact topic with local subscribers, or asks for one in flight */
    struct hub_list list;
    uint64_t offset;  /* of the last event; a jump means that events were lost on the way */
    uint32_t pending; /* TOPIC_ATTACH asks in flight */
    bool stored;      /* its events can be read from the store */
    uint8_t epoch_bytes, name_bytes;
    char epoch[HUB_EPOCH_BYTES_MAX];
    char name[];
};

struct hub_node {            /* one or more segments of patterns */
    struct hub_node *parent; /* NULL: the root */
    struct hub_list list;    /* patterns that end here */
    uint32_t n_children;
    bool star, rest;     /* a child begins with `*`; one is `**` */
    uint8_t label_bytes; /* of the text right behind the node */
};

struct hub_index {
    struct hash_table topics, nodes;
    struct hub_node root;
    struct hub_list all_public, all_reserved; /* gateways that want everything */
    uint32_t n_subs, n_pattern_subs;
    uint8_t key[HASH_TABLE_KEY_BYTES]; /* of the hash; a secret, set while the index is empty */
};

static inline ptn_str hub_topic_name(const struct hub_topic *t) {
    return (ptn_str){t->name, t->name_bytes};
}
/* NULL: a pattern, or everything. */
static inline struct hub_topic *hub_list_topic(struct hub_list *l) {
    return l->of == HUB_LIST_TOPIC ? (struct hub_topic *)l : NULL;
}
_Static_assert(offsetof(struct hub_topic, list) == 0, "as hub_list_topic() has it");

/* The keyed hash of a name. */
static inline uint32_t hub_index_hash(const struct hub_index *x, ptn_str s) {
    return hash_table_name(x->key, s);
}
/* The topic's entry; made when `make` is set.  NULL: absent, or no memory. */
struct hub_topic *hub_index_topic(struct hub_index *x, ptn_str topic, bool make);
/* Frees an entry that nobody uses any more; returns true when it did. */
bool hub_index_topic_release(struct hub_index *x, struct hub_topic *t);
/* The k-th entry, k from 0; NULL: that place is free.  Until k == x->topics.cap. */
static inline struct hub_topic *hub_index_topic_at(const struct hub_index *x, uint32_t k) {
    return x->topics.entries[k].item;
}
/* The list of a valid pattern; made when `make` is set. */
struct hub_list *hub_index_pattern(struct hub_index *x, ptn_str pattern, bool make);
/* Frees the nodes of a pattern's list that nobody has come to use. */
void hub_index_pattern_release(struct hub_index *x, struct hub_list *l);

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
