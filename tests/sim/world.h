/* SPDX-License-Identifier: Apache-2.0
 *
 * world.h - what outlives the broker: the plan of a run, what clients remember, and the ledger of
 * the oracles.
 *
 * A life of the broker is a process of its own, so that a kill is a real one.  The world is memory
 * that all lives of a run share; a killed broker loses everything else.  Fixed size, no pointers.
 */
#ifndef POSTERN_TESTS_SIM_WORLD_H
#define POSTERN_TESTS_SIM_WORLD_H

#include "disk.h"

#define USERS 4u
#define LOGINS_MAX 2u
#define LOGIN_USER USERS /* the first of those who log in; the others carry tokens */
#define HOST_USER (LOGIN_USER + LOGINS_MAX) /* says who belongs to ROOM_OPEN */
#define DEVICE_USER (HOST_USER + 1u)        /* the first of those with devices */
#define DEVICE_USERS 2u
#define DEVICES_MAX (2u * DEVICE_USERS) /* device i belongs to DEVICE_USER + i % DEVICE_USERS */
#define REPLICA_USER (DEVICE_USER + DEVICE_USERS)
#define PEOPLE (REPLICA_USER + 1u)
#define GUESTS_MAX                                                                                 \
    (LOGINS_MAX + 1u + DEVICES_MAX + 1u + LOGINS_MAX) /* numbered behind all other clients */
#define ITEMS_MAX 5u                                  /* of a list that is pushed */
#define CONVERSATIONS 3u
#define ROOM_OPEN CONVERSATIONS         /* of guests: members come and go */
#define ROOM_FIXED (CONVERSATIONS + 1u) /* ... and stay */
#define ROOMS (CONVERSATIONS + 2u)
#define TOPICS 4u
#define SUBJECTS (CONVERSATIONS + TOPICS) /* what a client may listen to */
#define CLIENTS_MAX 8u
#define ZMQ_CLIENTS_MAX 4u /* numbered behind the others */
#define SWARM_MAX 8u
#define SENT_MAX 4096u
#define SESSIONS_MAX 1024u
#define PLACES_MAX 32768u /* a power of two; topic events seen at all */
#define EPOCH_MAX 48u
#define LIVES_MAX 4u

#define DATABASE "postern.db" /* on the simulated disk */

#define EXIT_ORACLE 3 /* an oracle has spoken: world.failure says what */
#define EXIT_KILLED 4 /* the plan killed the broker */

struct sent { /* a chat message of ours */
    char id[27];
    uint8_t conversation, client;
    bool acked;
    uint32_t attempts, session, bytes;
    uint64_t seq; /* 0: not known yet */
};

struct position {
    char epoch[EPOCH_MAX]; /* empty: none */
    uint64_t offset;
};

struct place { /* one topic event, as the first who saw it saw it */
    uint64_t key;
    uint32_t session, n;
};

struct login {      /* what one who logs in knows */
    bool in;        /* it has tokens */
    bool doubt;     /* something that ends the session was sent */
    bool doubted;   /* ... before the logout that is under way */
    uint32_t tries; /* refreshes with the present token */
    uint32_t wrong; /* passwords tried */
    int64_t asked_wall_ms;
    ptn_time asked_at;
    char access[512], refresh[160];
    char spent[160]; /* the refresh token before; empty: none */
    char over[512];  /* an access token of a session whose end was acknowledged */
    ptn_time over_at;
    unsigned over_life;
    char over_session[160]; /* what its refresh tokens began with */
};

enum standing { OUT, JOINING, IN, LEAVING }; /* in ROOM_OPEN; the second and last: not answered */

struct membership { /* what the host knows of one with devices */
    enum standing is;
    uint32_t epoch;              /* counts what the host has asked for */
    uint32_t since;              /* n_sent when it was answered */
    ptn_time unsure_until;       /* something that has no answer may be done until then */
    uint32_t apart[SENT_MAX];    /* of a message: epoch plus one when it was sent, if OUT then */
    bool kept_from_it[SENT_MAX]; /* ... and acknowledged before it was asked back */
};

struct gap {
    unsigned room;
    uint64_t from, to;
};

struct device {                  /* by room minus ROOM_OPEN */
    bool got[2][SENT_MAX + 1];   /* by seq; or told that it never will */
    uint64_t first[2], acked[2]; /* first: that it got; of ROOM_OPEN since it joined */
    uint64_t fed[2];     /* up to where it was passed over at the latest: see device_fed() */
    uint32_t session[2]; /* that fed is of */
    uint32_t n_gaps;
    struct gap gaps[16];
};

struct item { /* something that was done offline */
    unsigned kind;
    uint32_t ref, n, attempts; /* ref: a message; n: its number */
    bool known;                /* an answer has said that it is done */
};

struct replica {
    char since[256]; /* the token; empty: none */
    bool got[SENT_MAX + 1], knows_room, in_round;
    uint64_t round_owes; /* of ROOM_FIXED: what somebody had seen before the round began */
    uint64_t preferences, preferences_pulled, preferences_version, title, title_pulled;
    uint32_t n_done, n_items;
    struct item items[ITEMS_MAX]; /* the list that is pushed until it is answered */
};

struct tally { /* how much a run has tested; never part of a verdict */
    uint64_t sessions, acks, refusals, events, resumed, not_recovered, publishes, answers, closed,
        seen, crashes, kills, power_losses, vanished, buggified, asks, downs, allocations_failed,
        disk_errors, disk_full, zmq_answers, zmq_events, zmq_holes, streamed, reads, logins,
        tokens_refused, delivered, passed, joined, removed, synced, pulled, rounds, shed_delay,
        shed_memory;
};

struct death {        /* of a life; all zero: it ends in order */
    uint64_t step;    /* at this event */
    uint64_t disk_op; /* in the middle of this operation of the disk */
    uint64_t sync;    /* when this commit, or so, is written and not durable */
    uint64_t seen;    /* when a client has just seen this message, however it came */
    bool power;       /* and what was not synced is lost */
};

struct plan { /* drawn from the seed */
    unsigned workers, clients;
    ptn_time busy_ns; /* with faults, half of it in each further life; then all must settle */
    struct death deaths[LIVES_MAX - 1];
    uint32_t hub_mailbox, owner_mailbox, router_mailbox; /* messages; 0: as in production */
    uint32_t memory_ppm, drought_ppm;      /* allocations of the broker's code that fail */
    uint32_t swarm, swarm_mailbox;         /* actors of swarm.c */
    uint32_t queue_delay_ns, memory_bytes; /* from when requests are refused; 0: never */
    uint32_t batch_max;                    /* messages in one transaction; 0: as in production */
    uint32_t out_bytes_max, topics_max, history_max, requests_max, pipeline_max;
    uint32_t pause_mean_ms, long_message_ppm, burst_ppm, leave_ppm, vanish_ppm;
    bool durable;         /* the last topic is kept by the store */
    uint32_t zmq_clients; /* 0: no gateway either */
    uint32_t zmq_hwm, zmq_requests_max, zmq_lazy_ppm, vandal_ppm;
    uint32_t logins, access_ttl_s;
#define FEED_FOR_EVER 1000000u /* of feed_deliveries_max: no message is passed over */
    uint32_t devices, feed_window, feed_deliveries_max, feed_redeliver_ms, device_acks_ppm;
    uint32_t replicas; /* one, or none */
    ptn_sim_faults faults;
    struct disk_faults disk;
    uint32_t cache_bytes, checkpoint_pages; /* of the store; 0: as in production */
    uint32_t jobs_max, job_bytes_max;       /* of its lanes; 0: as in production */
};

struct world {
    uint64_t seed;
    unsigned life;
    struct plan plan;
    char failure[512];
    uint64_t hash, steps;
    uint32_t n_sent, n_sessions;
    struct sent sent[SENT_MAX];
    uint32_t order[ROOMS][SENT_MAX + 1]; /* by seq: index into sent, plus one */
    uint64_t last_seq[ROOMS];
    struct place places[PLACES_MAX];
    uint32_t heard[CLIENTS_MAX + ZMQ_CLIENTS_MAX][TOPICS]
                  [SESSIONS_MAX]; /* last n of each publishing session */
    struct position remembered[CLIENTS_MAX][SUBJECTS];
    struct position published[TOPICS]; /* the last acknowledged event */
    struct login logins[LOGINS_MAX];
    struct membership members[DEVICE_USERS];
    struct device devices[DEVICES_MAX];
    uint64_t cursors[DEVICES_MAX][2]; /* what the store has said, by room minus ROOM_OPEN */
    struct replica replica;
    struct tally tally;
};

extern struct world *world;

/* Ends this life with a verdict.  The first words name the oracle. */
_Noreturn void oracle_failed(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
#define ORACLE(e, ...) ((e) ? (void)0 : oracle_failed(__VA_ARGS__))

void world_plan(uint64_t seed);
bool actors_may_fail(void);
/* Actors or the disk fail in this run: a good client may hear of an internal error. */
bool may_fail(void);
bool disk_may_be_full(void);
bool memory_may_fail(void);

/* Who is who: the same in every run.  is_member: at the beginning; only ROOM_OPEN changes. */
const char *user_id(unsigned user);
const char *user_name(unsigned user);
const char *conversation_id(unsigned conversation);
bool is_member(unsigned conversation, unsigned user);
/* "conversation.<id>" or "t.<n>"; and back: SUBJECTS when it is neither. */
const char *subject_name(unsigned subject);
unsigned subject_of(ptn_str topic);

/* ---- oracles --------------------------------------------------------------------------------- */

/* A stored message was seen, wherever: one order for everybody, each message once.  Map as on the
 * wire.  Returns its index in world->sent. */
uint32_t saw_message(unsigned conversation, uint64_t seq, ptn_bytes message);
/* The same, acknowledged to its sender: FIFO within the session that sent it. */
void saw_ack(unsigned conversation, ptn_bytes message, uint32_t expected, uint32_t session);
/* A topic event at its place: everybody sees the same there. */
void saw_place(unsigned topic, const char *epoch, uint64_t offset, uint32_t session, uint32_t n);

/* After the last life: the store has what was acknowledged, once, in the order that was seen. */
void check_store(void);

#endif
