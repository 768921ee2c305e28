/* SPDX-License-Identifier: Apache-2.0
 *
 * delivery_testing.h - the world of the delivery test: who is there, and what each of them knows.
 */
#ifndef POSTERN_ACTORS_DELIVERY_TESTING_H
#define POSTERN_ACTORS_DELIVERY_TESTING_H

#include "actors/conversation.h"
#include "actors/store.h"
#include "actors/store_testing.h"
#include "actors/topics.h"
#include "runtime/testing.h"

#include <postern/hub.h>
#include <sqlite3.h>

#define WORKERS 2
#define CLIENTS 12
#define PATTERN_CLIENTS 2 /* the last ones */
#define JUDGES WORKERS    /* behind them */
#define PUBLIC_TOPICS 3
#define CONVERSATIONS 2
#define TOPICS (PUBLIC_TOPICS + CONVERSATIONS)
#define EPOCHS 64
#define OFFSETS 8192
#define SENDS 8192
#define STORM_STEPS 400
#define LAST_CHANGE (STORM_STEPS - 20) /* of members: its outcome must show in the end */
#define CRASHES_MAX 6
#define DURABLE 2 /* this topic is stored, when there is a store */

static const char *const topic_name[TOPICS] = {"t.a", "t.b", "t.c",
                                               "conversation.01J0000000000000000000000A",
                                               "conversation.01J0000000000000000000000B"};

struct world;

enum listening { IDLE, ASKED, LIVE };

struct subscription {
    enum listening state;
    uint64_t tag;
    unsigned answers_due;
    bool leaving; /* unsubscribed: the hub has not heard of it yet, perhaps */
    char epoch[40];
    uint64_t at; /* last event seen */
    bool resuming;
    enum ptn_policy policy;
};

struct client {
    struct world *w;
    unsigned worker;
    const char *user;
    ptn_sink_id sink;
    bool open, closes_in_deliver;
    bool full; /* it does not read now */
    struct subscription sub[TOPICS];
    enum listening pattern;
    enum ptn_policy pattern_policy;
    uint64_t pattern_tag, pattern_due;
};

struct epoch { /* of one topic */
    char name[40];
    uint64_t hash[OFFSETS]; /* of the event at each offset; 0: not seen */
};

struct sent { /* a message that a client wanted to send, or an event of the durable topic */
    struct world *w;
    char id[PTN_ULID_LEN + 1]; /* of a message */
    char value[32];            /* of an event */
    unsigned topic;
    uint64_t acked_seq; /* or offset */
};

struct script { /* stands for the adapters of one worker */
    struct world *w;
    unsigned worker;
    ptn_timer timer;
};

struct world {
    struct rig rig;
    struct test_dir dir;
    uint64_t seed, rng;
    bool with_store;
    ptn_directory d;
    ptn_hub *hub[WORKERS];
    struct topic_rule rule;
    struct topics_config topics[WORKERS];
    conversation_config conversation[WORKERS];
    store *store;
    sqlite3 *locker; /* another process that writes */
    bool locked;
    struct script script[WORKERS];
    struct client client[CLIENTS + JUDGES];
    struct epoch *epochs; /* [TOPICS][EPOCHS] */
    struct sent *sent;
    unsigned n_sent, n_acked, n_events_acked, n_asks;
    uint64_t tags, values, delivered, resets, evictions, gaps;
    unsigned step, crashes;
};

#endif
