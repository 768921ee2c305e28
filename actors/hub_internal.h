/* SPDX-License-Identifier: Apache-2.0
 *
 * hub_internal.h - what hub.c (subscriptions and delivery) and hub_sinks.c (the table of sinks and
 * the functions that other actors call) share.
 */
#ifndef POSTERN_ACTORS_HUB_INTERNAL_H
#define POSTERN_ACTORS_HUB_INTERNAL_H

#include "actors/hub_flow.h"

#define HUB_USER_BYTES_MAX 64

struct hub_sink {
    const ptn_sink_ops *ops;
    void *self;
    uint32_t index, generation;
    struct hub_sub *subs;
    uint32_t n_subs;     /* granted */
    uint32_t n_attaches; /* being asked for */
    uint64_t serial;     /* last event delivered, when several lists matched */
    struct hub_sink *dead_next;
    struct hub_sink *drained_next; /* of h->drained */
    bool drained;
    uint8_t user_bytes;
    char user[HUB_USER_BYTES_MAX];
};

struct hub_attach { /* a subscription that waits for owners to agree */
    struct hub_attach *next, **pprev;
    ptn_hub *hub;
    ptn_sink_id sink;
    uint64_t tag;
    struct hub_topic *topic; /* NULL: a pattern */
    uint32_t waiting;        /* owners that have not agreed to send everything */
    bool canceled, failed;
    uint8_t policy; /* enum ptn_policy */
    uint64_t since_offset;
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
    ptn_timer page_timer; /* tries failed reads again */
    struct hub_attach *attaches;
    uint64_t serial;
    struct hub_watch watch[WATCHES];
    ptn_timer watch_timer;
    int64_t subs_reported; /* what the gauge has of us */
};

/* NULL: it has closed. */
struct hub_sink *hub_sink_of(const ptn_hub *h, ptn_sink_id id);
ptn_sink_id hub_sink_id(const struct hub_sink *s);
/* Frees the sinks in the graveyard and what they subscribe to. */
void hub_bury(ptn_hub *h);
void hub_attach_free(struct hub_attach *a);
/* Closes the sink and tells it to start over. */
void hub_reset_sink(ptn_ctx *c, ptn_hub *h, struct hub_sink *s);
/* Packs and casts; a refusal is returned. */
int hub_cast(ptn_ctx *c, ptn_addr to, uint32_t type, ptn_pack *w);

#endif
