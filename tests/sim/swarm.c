/* SPDX-License-Identifier: Apache-2.0
 *
 * swarm.c - actors that cast, publish, ask, cancel, forward, monitor and spawn at random, and the
 * oracles over what comes of it.
 *
 * What an actor knows dies with it, so the ledger is outside, in this file.  The promises
 * (runtime.h): per pair, messages arrive in the order in which they were sent and at most once; an
 * ask ends exactly once, by its deadline, and never after it was cancelled; an accepted message is
 * lost only in the hands of an actor that fails; DOWN comes once per monitor, behind everything
 * that the actor has sent.
 */
#include "swarm.h"

#include <stdio.h>

#define ASKS_MAX 16384u
#define WATCHES_MAX 2048u
#define CHILDREN_MAX 512u
#define CHILDREN_ALIVE_MAX 24u
#define LATER_MAX 8u
#define TICK_NS PTN_MS
#define LATE_NS_MAX (5 * PTN_SEC) /* while clocks and timers are made to be late */
#define CALM_NS PTN_SEC           /* after the last fault, everything that it delayed has come */

enum {
    SWARM_CAST = 0x5000,
    SWARM_ASK,
    SWARM_ANSWER,
    SWARM_END,  /* to a child: say your last words, and go */
    SWARM_FAIL, /* to a child: fail */
    SWARM_LAST_WORDS,
};

/* What the callee does about an ask. */
enum how { NOW, LATER, REFUSE, NEVER, FORWARD, TWICE, ASK_ANOTHER, HOWS };

struct letter { /* every payload */
    uint64_t n; /* grows with everything the sender sends */
    uint32_t from, to, ask;
    enum how how;
};
#define TO_MANY UINT32_MAX

enum state { OPEN, ENDED, CANCELED };

struct ask {
    enum state state;
    uint32_t owner;
    ptn_time deadline, patience; /* behind the deadline */
    uint64_t corr;
    ptn_reply_to on_behalf_of; /* corr 0: nobody */
    uint32_t outer;            /* their ask */
};

struct watch {
    enum state state;
    uint32_t owner, child;
    uint64_t ref;
};

struct child {
    ptn_addr addr;
    uint32_t owner, owner_life;
    bool told, said, heard; /* to end; its last words; which its owner has heard */
};

struct later {
    ptn_timer timer;
    ptn_reply_to to;
    uint32_t ask;
};

struct member { /* an actor's state */
    uint32_t index;
    ptn_timer timer;
    struct later later[LATER_MAX];
};

static struct {
    uint32_t n;
    ptn_addr addr[SWARM_MAX];
    ptn_sim_rng rng;
    ptn_time pause_ns, calm_at;
    bool settling;
    bool punctual; /* nothing makes clocks and timers late in this run */
    uint32_t life[SWARM_MAX];
    uint64_t sent[SWARM_MAX], heard[SWARM_MAX][SWARM_MAX]; /* [by][from] */
    uint64_t accepted, received, crashes;
    struct ask asks[ASKS_MAX];
    struct watch watches[WATCHES_MAX];
    struct child children[CHILDREN_MAX];
    uint32_t n_asks, n_watches, n_children, asks_open, watches_open, n_alive;
} S;

static uint32_t below(uint32_t n) {
    return (uint32_t)ptn_sim_rng_below(&S.rng, n);
}

static ptn_buf *pack(const struct letter *l) {
    uint8_t text[512] = {0};
    memcpy(text, l, sizeof *l);
    return ptn_buf_copy(text, sizeof *l + below(sizeof text - sizeof *l));
}

static struct letter open_letter(const ptn_msg *m) {
    struct letter l;
    ORACLE(m->len >= sizeof l, "swarm: a letter of %zu bytes", m->len);
    memcpy(&l, m->data, sizeof l);
    return l;
}

static struct letter letter_to(const struct member *me, uint32_t to) {
    return (struct letter){.n = ++S.sent[me->index], .from = me->index, .to = to};
}

/* ---- answers --------------------------------------------------------------------------------- */

static void answer(ptn_ctx *c, ptn_reply_to to, uint32_t ask) {
    struct letter l = {.ask = ask};
    ptn_buf *b = pack(&l);
    if (b == NULL || ptn_reply(c, to, SWARM_ANSWER, b) < 0)
        ptn_buf_unref(b);
}

static void answer_due(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct later *l = arg;
    (void)state, (void)t;
    ptn_reply_to to = l->to;
    l->to.corr = 0;
    answer(c, to, l->ask);
}

static void answer_later(ptn_ctx *c, struct member *me, ptn_reply_to to, uint32_t ask) {
    for (unsigned i = 0; i < LATER_MAX; i++) {
        struct later *l = &me->later[i];
        if (l->to.corr != 0)
            continue;
        l->to = to;
        l->ask = ask;
        ptn_timer_start(c, &l->timer, below(60) * PTN_MS, answer_due, l);
        return;
    }
    answer(c, to, ask);
}

/* ---- asks ------------------------------------------------------------------------------------ */

static void ask_ended(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct ask *a = arg;
    uint32_t id = (uint32_t)(a - S.asks);
    const struct member *me = state;
    ptn_time now = ptn_now(c);
    ORACLE(a->state == OPEN, "ask: ask %u ends with %s %s", id, ptn_err_name(err),
           a->state == ENDED ? "a second time" : "after it was cancelled");
    ORACLE(a->owner == me->index, "ask: ask %u of actor %u ends at %u", id, a->owner, me->index);
    a->state = ENDED;
    S.asks_open--;
    world->tally.asks++;
    if (err == 0)
        ORACLE(reply->type == SWARM_ANSWER && open_letter(reply).ask == id,
               "ask: ask %u gets somebody else's answer", id);
    else
        ORACLE(err == -PTN_EDEADLINE || err == -PTN_ECRASHED || err == -PTN_ENOACTOR ||
                   err == -PTN_ESTOPPING || err == -PTN_EACCESS,
               "ask: ask %u ends with %s", id, ptn_err_name(err));
    ORACLE(err != -PTN_EDEADLINE || now >= a->deadline || actors_may_fail(),
           "ask: ask %u expires %llu ns early", id, (unsigned long long)(a->deadline - now));
    /* Rounded up to a tick, and one tick more for the turn. */
    bool exact = S.punctual || (S.settling && now > S.calm_at);
    ptn_time late = exact ? 2 * TICK_NS : LATE_NS_MAX;
    ORACLE(now <= a->deadline + a->patience + late, "ask: ask %u ends %llu ns behind its deadline",
           id, (unsigned long long)(now - a->deadline));
    if (a->on_behalf_of.corr != 0)
        answer(c, a->on_behalf_of, a->outer);
}

/* inherited: the deadline of the message in hand.  NULL: the ledger is full, or it was refused. */
static struct ask *send_ask(ptn_ctx *c, struct member *me, ptn_time inherited, enum how how) {
    static const ptn_time patience[] = {PTN_MS, 20 * PTN_MS, 300 * PTN_MS, 2 * PTN_SEC};
    if (S.n_asks == ASKS_MAX)
        return NULL;
    uint32_t id = S.n_asks, to = below(S.n);
    struct ask *a = &S.asks[id];
    ptn_time deadline = ptn_now(c) + below((uint32_t)patience[below(4)]);
    if (below(50) == 0)
        deadline = PTN_NEVER;
    uint32_t kind = below(32);
    int (*ask)(ptn_ctx *, ptn_addr, uint32_t, ptn_buf *, ptn_time, ptn_reply_cb, void *,
               uint64_t *) = kind < 8                             ? ptn_ask_lasting
                             : kind == 8 && deadline != PTN_NEVER ? ptn_ask_through
                                                                  : ptn_ask;
    *a = (struct ask){.owner = me->index,
                      .deadline = deadline == PTN_NEVER ? ptn_now(c) + 30 * PTN_SEC : deadline,
                      .patience = ask == ptn_ask_through ? PTN_ASK_THROUGH_NS : 0};
    if (inherited < a->deadline && ask != ptn_ask_lasting)
        a->deadline = inherited;
    struct letter l = letter_to(me, to);
    l.ask = id;
    l.how = how;
    ptn_buf *b = pack(&l);
    if (b == NULL || ask(c, S.addr[to], SWARM_ASK, b, deadline, ask_ended, a, &a->corr) < 0) {
        ptn_buf_unref(b);
        return NULL;
    }
    S.n_asks++;
    S.asks_open++;
    return a;
}

static void cancel_one(ptn_ctx *c, const struct member *me) {
    uint32_t first = S.n_asks > 64 ? S.n_asks - 64 : 0;
    for (uint32_t i = first; i < S.n_asks; i++) {
        struct ask *a = &S.asks[i];
        if (a->owner != me->index || a->corr == 0)
            continue;
        int err = ptn_ask_cancel(c, a->corr);
        ORACLE((err == 0) == (a->state == OPEN), "ask: cancelling ask %u, which %s, gives %s", i,
               a->state == OPEN ? "is open" : "has ended", ptn_err_name(err));
        S.asks_open -= a->state == OPEN;
        a->state = a->state == OPEN ? CANCELED : a->state;
        return;
    }
}

static void on_ask(ptn_ctx *c, struct member *me, const ptn_msg *m, const struct letter *l) {
    ptn_reply_to to = ptn_reply_token(c, m);
    struct ask *inner;
    switch (l->to == me->index ? l->how : NOW) { /* forwarded: to the end of it */
    case LATER:
        answer_later(c, me, to, l->ask);
        return;
    case REFUSE:
        (void)ptn_reply_err(c, to, -PTN_EACCESS);
        return;
    case NEVER:
        return;
    case FORWARD:
        if (ptn_forward(c, m, S.addr[(me->index + 1 + below(S.n - 1)) % S.n], SWARM_ASK) == 0)
            return;
        break;
    case TWICE:
        answer(c, to, l->ask);
        break;
    case ASK_ANOTHER:
        inner = send_ask(c, me, m->deadline, NOW);
        if (inner != NULL) {
            inner->on_behalf_of = to;
            inner->outer = l->ask;
            return;
        }
        break;
    case NOW:
    case HOWS:
        break;
    }
    answer(c, to, l->ask);
}

/* ---- children and monitors ------------------------------------------------------------------- */

static int child_init(ptn_ctx *c, void *state, void *arg) {
    (void)c;
    *(struct child **)state = arg;
    return 0;
}

static int child_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct child *k = *(struct child **)state;
    if (m->type == SWARM_FAIL)
        ptn_fail(c, PTN_ECANCELED, "buggify: a child that was told to");
    if (m->type != SWARM_END)
        return 0;
    struct letter l = {.from = (uint32_t)(k - S.children)};
    ptn_buf *b = pack(&l);
    k->owner_life = S.life[k->owner];
    k->said = b != NULL && ptn_cast(c, S.addr[k->owner], SWARM_LAST_WORDS, b) == 0;
    if (!k->said)
        ptn_buf_unref(b);
    ptn_exit(c, 0);
    return 0;
}

static const ptn_actor_ops child_ops = {
    .name = "child", .state_size = sizeof(void *), .init = child_init, .handle = child_handle};

static void watch(ptn_ctx *c, const struct member *me, uint32_t child) {
    if (S.n_watches == WATCHES_MAX)
        return;
    struct watch *w = &S.watches[S.n_watches];
    *w = (struct watch){.owner = me->index, .child = child};
    if (ptn_monitor(c, S.children[child].addr, &w->ref) < 0)
        return;
    S.n_watches++;
    S.watches_open++;
}

static void bear(ptn_ctx *c, const struct member *me) {
    if (S.n_children == CHILDREN_MAX || S.n_alive == CHILDREN_ALIVE_MAX)
        return;
    struct child *k = &S.children[S.n_children];
    *k = (struct child){.owner = me->index};
    ptn_actor_opts o = {.worker = (int)below(world->plan.workers)};
    if (ptn_spawn(c, &child_ops, &o, k, &k->addr) < 0)
        return;
    S.n_alive++;
    watch(c, me, S.n_children++);
}

/* Children that were not told yet; a refusal is tried again on the next tick. */
static void tell_children(ptn_ctx *c, const struct member *me) {
    for (uint32_t i = 0; i < S.n_children; i++) {
        struct child *k = &S.children[i];
        if (k->owner != me->index || k->told || (!S.settling && below(8) != 0))
            continue;
        int err = ptn_cast(c, k->addr, below(3) == 0 ? SWARM_FAIL : SWARM_END, NULL);
        k->told = err == 0 || err == -PTN_ENOACTOR;
        S.n_alive -= k->told;
    }
}

static void unwatch_one(ptn_ctx *c, const struct member *me) {
    for (uint32_t i = 0; i < S.n_watches; i++) {
        struct watch *w = &S.watches[i];
        if (w->owner != me->index || w->state != OPEN)
            continue;
        int err = ptn_demonitor(c, w->ref);
        ORACLE(err == 0, "down: a monitor without DOWN cannot be taken back: %s",
               ptn_err_name(err));
        w->state = CANCELED;
        S.watches_open--;
        return;
    }
}

static void on_down(const struct member *me, const ptn_msg *m) {
    for (uint32_t i = 0; i < S.n_watches; i++) {
        struct watch *w = &S.watches[i];
        if (w->owner != me->index || w->ref != m->corr)
            continue;
        const struct child *k = &S.children[w->child];
        ORACLE(w->state == OPEN, "down: monitor %u hears DOWN %s", i,
               w->state == ENDED ? "again" : "after it was taken back");
        ORACLE(m->from == k->addr, "down: monitor %u hears of another actor", i);
        /* Who cannot remember a monitor for lack of memory says DOWN at once. */
        ORACLE(memory_may_fail() || k->owner != me->index || !k->said || k->heard ||
                   k->owner_life != S.life[me->index],
               "fifo: DOWN of child %u overtakes its last words", w->child);
        w->state = ENDED;
        S.watches_open--;
        world->tally.downs++;
        return;
    }
    oracle_failed("down: actor %u hears DOWN for nothing it watches", me->index);
}

/* ---- members --------------------------------------------------------------------------------- */

static void cast_one(ptn_ctx *c, const struct member *me) {
    uint32_t to = below(S.n);
    struct letter l = letter_to(me, to);
    ptn_buf *b = pack(&l);
    if (b != NULL && ptn_cast(c, S.addr[to], SWARM_CAST, b) == 0)
        S.accepted++;
    else
        ptn_buf_unref(b);
}

static void publish_one(ptn_ctx *c, const struct member *me) {
    struct letter l = letter_to(me, TO_MANY);
    uint32_t first = below(S.n);
    size_t refused = 0, n = S.n - first;
    ptn_buf *b = pack(&l);
    if (b != NULL && ptn_publish(c, &S.addr[first], n, SWARM_CAST, b, &refused) == 0)
        S.accepted += n - refused;
}

static void act(ptn_ctx *c, struct member *me) {
    switch (below(10)) {
    case 0:
        publish_one(c, me);
        break;
    case 1:
        cancel_one(c, me);
        break;
    case 2:
        bear(c, me);
        break;
    case 3:
        if (S.n_children > 0)
            watch(c, me, below(S.n_children));
        break;
    case 4:
        unwatch_one(c, me);
        break;
    case 5:
    case 6:
    case 7:
        (void)send_ask(c, me, PTN_NEVER, (enum how)below(HOWS));
        break;
    default:
        for (unsigned n = 1 + below(8); n > 0; n--)
            cast_one(c, me);
        break;
    }
}

static void tick(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct member *me = state;
    (void)arg;
    if (S.settling && S.calm_at == PTN_NEVER)
        S.calm_at = ptn_now(c) + CALM_NS;
    for (unsigned n = 1 + below(3); n > 0 && !S.settling; n--)
        act(c, me);
    tell_children(c, me);
    ptn_timer_start(c, t, 1 + ptn_sim_rng_exp(&S.rng, S.pause_ns), tick, NULL);
}

/* What the last incarnation had open is nobody's now. */
static void forget(uint32_t index) {
    for (uint32_t i = 0; i < S.n_asks; i++)
        if (S.asks[i].owner == index && S.asks[i].state == OPEN) {
            S.asks[i].state = CANCELED;
            S.asks_open--;
        }
    for (uint32_t i = 0; i < S.n_watches; i++)
        if (S.watches[i].owner == index && S.watches[i].state == OPEN) {
            S.watches[i].state = CANCELED;
            S.watches_open--;
        }
}

static int member_init(ptn_ctx *c, void *state, void *arg) {
    struct member *me = state;
    me->index = (uint32_t)((ptn_addr *)arg - S.addr);
    S.life[me->index]++;
    forget(me->index);
    ptn_timer_start(c, &me->timer, ptn_sim_rng_exp(&S.rng, S.pause_ns), tick, NULL);
    return 0;
}

static int member_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct member *me = state;
    if (m->type == PTN_MSG_STOPPING) {
        ptn_exit(c, 0);
        return 0;
    }
    if (m->type == PTN_MSG_DOWN) {
        on_down(me, m);
        return 0;
    }
    struct letter l = open_letter(m);
    if (m->type == SWARM_LAST_WORDS) {
        S.children[l.from].heard = true;
        return 0;
    }
    if (l.to == me->index || l.to == TO_MANY) { /* a forwarded one took another path */
        uint64_t *last = &S.heard[me->index][l.from];
        ORACLE(l.n > *last, "fifo: actor %u hears letter %llu of actor %u after letter %llu",
               me->index, (unsigned long long)l.n, l.from, (unsigned long long)*last);
        *last = l.n;
    }
    if (m->type == SWARM_ASK)
        on_ask(c, me, m, &l);
    else
        S.received++;
    return 0;
}

static const ptn_actor_ops member_ops = {.name = "swarm",
                                         .state_size = sizeof(struct member),
                                         .init = member_init,
                                         .handle = member_handle};

/* ---- from outside ---------------------------------------------------------------------------- */

static bool is_punctual(void) {
    const ptn_sim_faults *f = &world->plan.faults;
    return f->late_ppm == 0 && f->slow_ppm == 0 && f->buggify_ppm == 0 &&
           world->plan.disk.slow_ppm == 0;
}

void swarm_spawn(ptn_runtime *rt, uint64_t seed) {
    ptn_sim_rng_seed(&S.rng, seed ^ UINT64_C(0x53a23));
    S.n = world->plan.swarm;
    S.pause_ns = (2 + below(60)) * PTN_MS;
    S.calm_at = PTN_NEVER;
    S.punctual = is_punctual();
    for (uint32_t i = 0; i < S.n; i++) {
        ptn_actor_opts o = {.worker = (int)(i % world->plan.workers),
                            .mbox_msgs_max = world->plan.swarm_mailbox};
        int err = ptn_runtime_spawn(rt, &member_ops, &o, &S.addr[i], PTN_PERMANENT, &S.addr[i]);
        PTN_ASSERT(err == 0);
    }
}

void swarm_settle(void) {
    S.settling = true;
}

void swarm_saw_crash(ptn_addr actor) {
    for (uint32_t i = 0; i < S.n; i++)
        S.crashes += S.addr[i] == actor;
}

const char *swarm_waits_for(void) {
    if (S.asks_open > 0)
        return "asks of the swarm";
    if (S.accepted > S.received + S.crashes)
        return "letters that the runtime has accepted";
    for (uint32_t i = 0; i < S.n_children; i++)
        if (!S.children[i].told)
            return "children that were not told to end";
    if (S.watches_open > 0)
        return "DOWN of actors that have ended";
    ORACLE(S.received <= S.accepted, "at most once: %llu letters were sent, %llu have arrived",
           (unsigned long long)S.accepted, (unsigned long long)S.received);
    return NULL;
}
