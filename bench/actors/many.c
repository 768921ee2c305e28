/* SPDX-License-Identifier: Apache-2.0
 *
 * many.c - postern-actors: many actors that want each other, or all the same one.
 */
#include "bench/actors/rig.h"

#define BIG 120u
#define CREATURES 100u
#define CLIENTS 20u
#define KEYS 4096u
#define WRITE_PERCENT 10u
#define MAKERS 40u /* producers, and as many consumers */
#define BUFFER 50u
#define COST 25u

/* ---- big: 120 actors ping each other at random, n pings each ----------------------------------
 */

enum { MSG_PING = MSG_PROGRAM, MSG_PONG };

struct big {
    const struct seat *seat;
    uint64_t n;
    uint32_t random;
};

/* Each has one ping on the way, so no mailbox ever holds more than 120 pings and a pong. */
static int big_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct big *s = state;
    const struct bench *b = s->seat->bench;
    if (m->type == MSG_PING)
        return ptn_cast(c, m->from, MSG_PONG, NULL);
    if (m->type == MSG_START)
        s->random = lehmer_seed(s->seat->index);
    else if (++s->n == b->n)
        return report(c, b, s->n);
    return ptn_cast(c, b->peers[lehmer(&s->random) % BIG], MSG_PING, NULL);
}

static const ptn_actor_ops big_ops = {
    .name = "big", .state_size = sizeof(struct big), .init = seat_init, .handle = big_handle};

static int big_start(ptn_ctx *c, struct bench *b) {
    b->starters = b->reports = BIG;
    b->sum = BIG * b->n;
    b->ops = 2 * b->sum;
    return spawn_peers(c, b, &big_ops, BIG, DEALT, BIG, 0);
}

/* ---- chameneos: 100 creatures meet in one mall, n meetings ------------------------------------
 */

enum { BLUE, RED, YELLOW, COLOURS };
/* The colour is part of the type, so nothing here has a payload. */
enum { MSG_MEET = MSG_PROGRAM, MSG_CHANGE = MSG_MEET + COLOURS, MSG_FADE = MSG_CHANGE + COLOURS };

struct mall {
    const struct seat *seat;
    uint64_t n;
    ptn_addr waiting;
};

static int mall_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct mall *s = state;
    if (s->n == s->seat->bench->n)
        return ptn_cast(c, m->from, MSG_FADE, NULL);
    if (s->waiting == PTN_ADDR_NONE) {
        s->waiting = m->from;
        return 0;
    }
    ptn_addr first = s->waiting;
    s->waiting = PTN_ADDR_NONE;
    s->n++;
    return ptn_forward(c, m, first, m->type); /* the first sees the second as the sender */
}

struct creature {
    const struct seat *seat;
    uint64_t meetings;
    uint32_t colour;
};

static uint32_t complement(uint32_t a, uint32_t b) {
    return a == b ? a : COLOURS - a - b;
}

static int creature_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct creature *s = state;
    const struct bench *b = s->seat->bench;
    int err = 0;
    if (m->type == MSG_FADE)
        return report(c, b, s->meetings);
    if (m->type == MSG_START) {
        s->colour = s->seat->index % COLOURS;
    } else if (m->type >= MSG_CHANGE) {
        s->colour = m->type - MSG_CHANGE;
        s->meetings++;
    } else {
        s->colour = complement(s->colour, m->type - MSG_MEET);
        s->meetings++;
        err = ptn_cast(c, m->from, MSG_CHANGE + s->colour, NULL);
    }
    return err < 0 ? err : ptn_cast(c, b->peers[0], MSG_MEET + s->colour, NULL);
}

static const ptn_actor_ops mall_ops = {
    .name = "mall", .state_size = sizeof(struct mall), .init = seat_init, .handle = mall_handle};
static const ptn_actor_ops creature_ops = {.name = "creature",
                                           .state_size = sizeof(struct creature),
                                           .init = seat_init,
                                           .handle = creature_handle};

static int chameneos_start(ptn_ctx *c, struct bench *b) {
    b->starter_first = 1;
    b->starters = b->reports = CREATURES;
    b->sum = 2 * b->n;
    b->ops = b->n;
    int err = spawn_peers(c, b, &mall_ops, 1, DEALT, CREATURES + 1, 0);
    return err < 0 ? err : spawn_peers(c, b, &creature_ops, CREATURES, DEALT, CREATURES + 1, 0);
}

/* ---- concdict: 20 actors ask one dictionary n times each, one ask in ten writes ---------------
 */

enum { MSG_READ = MSG_PROGRAM, MSG_WRITE, MSG_VALUE };

struct entry {
    uint32_t key, value;
};

#define TABLE (2 * KEYS)

struct dict {
    const struct seat *seat;
    struct entry table[TABLE]; /* key 0: free */
};

static struct entry *dict_find(struct dict *s, uint32_t key) {
    uint32_t i = key * 2654435761u % TABLE;
    while (s->table[i].key != 0 && s->table[i].key != key)
        i = (i + 1) % TABLE;
    return &s->table[i];
}

static int dict_init(ptn_ctx *c, void *state, void *arg) {
    for (uint32_t key = 1; key <= KEYS; key++)
        *dict_find(state, key) = (struct entry){key, key};
    return seat_init(c, state, arg);
}

/* Answers with the value before. */
static int dict_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct entry given;
    PTN_REQUIRE(c, m->len == sizeof(given));
    memcpy(&given, m->data, sizeof(given));
    struct entry *e = dict_find(state, given.key);
    PTN_REQUIRE(c, e->key == given.key);
    ptn_buf *before = ptn_buf_copy(&e->value, sizeof(e->value));
    PTN_REQUIRE(c, before != NULL);
    if (m->type == MSG_WRITE)
        e->value = given.value;
    ptn_reply_to to = {.to = m->from, .corr = m->corr, .deadline = m->deadline};
    int err = ptn_reply(c, to, MSG_VALUE, before);
    if (err < 0)
        ptn_buf_unref(before);
    return err;
}

struct client {
    const struct seat *seat;
    uint64_t n;
    uint32_t random, key;
};

static int client_next(ptn_ctx *c, struct client *s);

/* Every value ever written under a key is that key, modulo KEYS. */
static void client_answered(ptn_ctx *c, void *state, int err, const ptn_msg *m, void *arg) {
    struct client *s = state;
    uint32_t value;
    (void)arg;
    PTN_REQUIRE(c, err == 0 && m->len == sizeof(value));
    memcpy(&value, m->data, sizeof(value));
    PTN_REQUIRE(c, value % KEYS == s->key % KEYS);
    if (++s->n == s->seat->bench->n)
        err = report(c, s->seat->bench, s->n);
    else
        err = client_next(c, s);
    PTN_REQUIRE(c, err == 0);
}

static int client_next(ptn_ctx *c, struct client *s) {
    s->key = 1 + lehmer(&s->random) % KEYS;
    struct entry e = {.key = s->key};
    bool write = lehmer(&s->random) % 100 < WRITE_PERCENT;
    if (write)
        e.value = s->key + KEYS * (lehmer(&s->random) % 1000);
    ptn_buf *b = ptn_buf_copy(&e, sizeof(e));
    if (b == NULL)
        return -PTN_ENOMEM;
    int err = ptn_ask(c, s->seat->bench->peers[0], write ? MSG_WRITE : MSG_READ, b,
                      ptn_now(c) + 30 * PTN_SEC, client_answered, NULL, NULL);
    if (err < 0)
        ptn_buf_unref(b);
    return err;
}

static int client_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct client *s = state;
    (void)m;
    s->random = lehmer_seed(s->seat->index);
    return client_next(c, s);
}

static const ptn_actor_ops dict_ops = {
    .name = "dict", .state_size = sizeof(struct dict), .init = dict_init, .handle = dict_handle};
static const ptn_actor_ops client_ops = {.name = "client",
                                         .state_size = sizeof(struct client),
                                         .init = seat_init,
                                         .handle = client_handle};

static int concdict_start(ptn_ctx *c, struct bench *b) {
    b->starter_first = 1;
    b->starters = b->reports = CLIENTS;
    b->sum = b->ops = CLIENTS * b->n;
    int err = spawn_peers(c, b, &dict_ops, 1, DEALT, CLIENTS + 1, 0);
    return err < 0 ? err : spawn_peers(c, b, &client_ops, CLIENTS, DEALT, CLIENTS + 1, 0);
}

/* ---- bndbuffer: 40 producers, n items each, a buffer of 50, 40 consumers ----------------------
 */

enum { MSG_ITEM = MSG_PROGRAM, MSG_PRODUCE, MSG_FREE };

struct queue { /* of actors, each at most once */
    ptn_addr at[MAKERS];
    unsigned first, n;
};

static void queue_put(struct queue *q, ptn_addr a) {
    q->at[(q->first + q->n++) % MAKERS] = a;
}

static ptn_addr queue_take(struct queue *q) {
    ptn_addr a = q->at[q->first];
    q->first = (q->first + 1) % MAKERS;
    q->n--;
    return a;
}

struct manager {
    const struct seat *seat;
    uint64_t consumed;
    unsigned items; /* in the buffer */
    struct queue producers, consumers;
};

static int manager_item(ptn_ctx *c, struct manager *s, ptn_addr producer) {
    int err = 0;
    if (s->consumers.n > 0)
        err = ptn_cast(c, queue_take(&s->consumers), MSG_ITEM, NULL);
    else
        s->items++;
    PTN_REQUIRE(c, err == 0 && s->items <= BUFFER);
    /* Every producer may have an item in hand: that much room is kept. */
    if (s->items < BUFFER - MAKERS)
        return ptn_cast(c, producer, MSG_PRODUCE, NULL);
    queue_put(&s->producers, producer);
    return 0;
}

static int manager_free(ptn_ctx *c, struct manager *s, ptn_addr consumer) {
    const struct bench *b = s->seat->bench;
    if (++s->consumed == MAKERS * b->n)
        return report(c, b, s->consumed);
    if (s->items == 0) {
        queue_put(&s->consumers, consumer);
        return 0;
    }
    s->items--;
    int err = ptn_cast(c, consumer, MSG_ITEM, NULL);
    if (err == 0 && s->producers.n > 0)
        err = ptn_cast(c, queue_take(&s->producers), MSG_PRODUCE, NULL);
    return err;
}

static int manager_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct manager *s = state;
    if (m->type == MSG_ITEM)
        return manager_item(c, s, m->from);
    if (m->type == MSG_FREE)
        return manager_free(c, s, m->from);
    for (unsigned i = 0; i < MAKERS; i++) {
        queue_put(&s->consumers, s->seat->bench->peers[1 + MAKERS + i]);
        int err = ptn_cast(c, s->seat->bench->peers[1 + i], MSG_PRODUCE, NULL);
        if (err < 0)
            return err;
    }
    return 0;
}

struct maker {
    const struct seat *seat;
    uint64_t n;
    uint32_t random;
};

static void work(struct maker *s) {
    for (unsigned i = 0; i < COST * 100; i++)
        (void)lehmer(&s->random);
}

static int maker_init(ptn_ctx *c, void *state, void *arg) {
    struct maker *s = state;
    s->random = lehmer_seed(((const struct seat *)arg)->index);
    return seat_init(c, state, arg);
}

static int producer_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct maker *s = state;
    (void)m;
    if (s->n == s->seat->bench->n)
        return 0;
    work(s);
    s->n++;
    return ptn_cast(c, s->seat->bench->peers[0], MSG_ITEM, NULL);
}

static int consumer_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    (void)m;
    work(state);
    return ptn_cast(c, ((struct maker *)state)->seat->bench->peers[0], MSG_FREE, NULL);
}

static const ptn_actor_ops manager_ops = {.name = "manager",
                                          .state_size = sizeof(struct manager),
                                          .init = seat_init,
                                          .handle = manager_handle};
static const ptn_actor_ops producer_ops = {.name = "producer",
                                           .state_size = sizeof(struct maker),
                                           .init = maker_init,
                                           .handle = producer_handle};
static const ptn_actor_ops consumer_ops = {.name = "consumer",
                                           .state_size = sizeof(struct maker),
                                           .init = maker_init,
                                           .handle = consumer_handle};

static int bndbuffer_start(ptn_ctx *c, struct bench *b) {
    const unsigned all = 1 + 2 * MAKERS;
    b->starters = b->reports = 1;
    b->sum = b->ops = MAKERS * b->n;
    int err = spawn_peers(c, b, &manager_ops, 1, DEALT, all, 0);
    err = err < 0 ? err : spawn_peers(c, b, &producer_ops, MAKERS, DEALT, all, 0);
    return err < 0 ? err : spawn_peers(c, b, &consumer_ops, MAKERS, DEALT, all, 0);
}

const struct program programs_many[] = {
    {"big", big_start},
    {"chameneos", chameneos_start},
    {"concdict", concdict_start},
    {"bndbuffer", bndbuffer_start},
};
const size_t n_programs_many = PTN_ARRAY_LEN(programs_many);
