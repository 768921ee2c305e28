/* SPDX-License-Identifier: Apache-2.0
 *
 * actors.c - stress of everything above the mailbox, with real threads: asks, crashes, restarts,
 * lanes, monitors and short-lived actors on three workers.
 *
 * Clients ask servers on all workers.  A server answers at once, later, through a lane, by
 * forwarding, by crashing, or not at all.  Clients also spawn remote actors that end at once, and
 * watch them.  The invariants at the end: every ask ended exactly once and with an error that fits,
 * every DOWN came once, and all payloads are home.  Also run under ThreadSanitizer.
 */
#include <postern/runtime.h>

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define WORKERS 3u
#define SERVERS 6u
#define CLIENTS 6u
#define WINDOW 32u
#ifdef PTN_SANITIZE
#define ASKS 3000u /* per client */
#else
#define ASKS 20000u
#endif

enum { MSG_ECHO = PTN_MSG_USER, MSG_LATER, MSG_LANE, MSG_FORWARD, MSG_CRASH, MSG_SILENT };

struct stress {
    ptn_runtime *rt;
    ptn_lane *lane;
    ptn_addr servers[SERVERS];
    _Atomic(uint64_t) asked, ended, errors[32], downs, watched;
    _Atomic(uint32_t) wrong, clients_left;
};
static struct stress st;

static int exit_on_stopping(ptn_ctx *c, void *state, const ptn_msg *m) {
    (void)state;
    if (m->type == PTN_MSG_STOPPING)
        ptn_exit(c, 0);
    return 0;
}

/* ---- servers ------------------------------------------------------------------------------ */

struct server {
    ptn_reply_to later[64];
    ptn_buf *bufs[64];
    unsigned n;
    ptn_timer t;
};

static void answer(ptn_ctx *c, ptn_reply_to r, ptn_buf *take_payload) {
    if (ptn_reply(c, r, MSG_ECHO, take_payload) < 0)
        ptn_buf_unref(take_payload);
}

static void server_tick(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct server *s = state;
    (void)t;
    (void)arg;
    for (unsigned i = 0; i < s->n; i++)
        answer(c, s->later[i], s->bufs[i]);
    s->n = 0;
}

static void server_drop(void *arg) { /* the defer: crash or not, the payloads go home */
    struct server *s = arg;
    for (unsigned i = 0; i < s->n; i++)
        ptn_buf_unref(s->bufs[i]);
}

static int server_init(ptn_ctx *c, void *state, void *arg) {
    (void)arg;
    return ptn_defer(c, server_drop, state);
}

static int server_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct server *s = state;
    switch (m->type) {
    case MSG_ECHO:
        answer(c, ptn_reply_token(c, m), ptn_buf_ref(m->buf));
        return 0;
    case MSG_LATER:
        if (s->n == PTN_ARRAY_LEN(s->later))
            server_tick(c, s, &s->t, NULL);
        s->later[s->n] = ptn_reply_token(c, m);
        s->bufs[s->n++] = ptn_buf_ref(m->buf);
        if (!ptn_timer_is_armed(&s->t))
            ptn_timer_start(c, &s->t, PTN_MS, server_tick, NULL);
        return 0;
    case MSG_LANE:
        return ptn_lane_send(c, st.lane, m);
    case MSG_FORWARD: {
        uint8_t pick;
        ptn_random(c, &pick, 1);
        int err = ptn_forward(c, m, st.servers[pick % SERVERS], MSG_ECHO);
        return err < 0 ? ptn_reply_err(c, ptn_reply_token(c, m), err) : 0;
    }
    case MSG_CRASH:
        ptn_fail(c, PTN_EIO, "as asked");
    case MSG_SILENT:
        (void)ptn_reply_token(c, m);
        return 0;
    default:
        return exit_on_stopping(c, state, m);
    }
}

static const ptn_actor_ops server_ops = {.name = "server",
                                         .state_size = sizeof(struct server),
                                         .init = server_init,
                                         .handle = server_handle};

static void lane_run(ptn_lane *l, void *arg, ptn_lane_job **jobs, size_t n) {
    (void)arg;
    for (size_t i = 0; i < n; i++) {
        ptn_buf *b = ptn_buf_ref(jobs[i]->buf);
        if (ptn_lane_reply(l, jobs[i]->reply, MSG_ECHO, b) < 0)
            ptn_buf_unref(b);
    }
}

/* ---- clients ------------------------------------------------------------------------------ */

struct client {
    uint32_t asked, ended, out;
    uint64_t seed;
    uint8_t state[ASKS]; /* 1: asked, 2: ended */
    ptn_timer retry;
};

static int visitor_init(ptn_ctx *c, void *state, void *arg) {
    (void)state;
    (void)arg;
    ptn_exit(c, 0);
    return 0;
}
static const ptn_actor_ops visitor_ops = {
    .name = "visitor", .init = visitor_init, .handle = exit_on_stopping};

static uint64_t next_random(uint64_t *x) {
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

static uint32_t pick_kind(struct client *k) {
    uint64_t r = next_random(&k->seed) % 1000;
    return r < 500   ? MSG_ECHO
           : r < 650 ? MSG_LATER
           : r < 800 ? MSG_LANE
           : r < 990 ? MSG_FORWARD
           : r < 995 ? MSG_CRASH
                     : MSG_SILENT;
}

static void spawn_visitor(ptn_ctx *c, struct client *k) {
    const ptn_actor_opts o = {.worker = (int)(next_random(&k->seed) % WORKERS)};
    ptn_addr a;
    if (ptn_spawn(c, &visitor_ops, &o, NULL, &a) == 0 && ptn_monitor(c, a, NULL) == 0)
        atomic_fetch_add(&st.watched, 1);
}

static void client_more(ptn_ctx *c, struct client *k);

static void client_answered(ptn_ctx *c, void *state, int err, const ptn_msg *m, void *arg) {
    struct client *k = state;
    uint32_t i = (uint32_t)(uintptr_t)arg;
    uint32_t echoed = UINT32_MAX;
    if (m != NULL && m->len == sizeof(echoed))
        memcpy(&echoed, m->data, sizeof(echoed));
    if (k->state[i] != 1 || (err == 0 && echoed != i))
        atomic_fetch_add(&st.wrong, 1);
    k->state[i] = 2;
    k->ended++;
    k->out--;
    atomic_fetch_add(&st.errors[-err & 31], 1);
    atomic_fetch_add(&st.ended, 1);
    if (k->ended < ASKS)
        client_more(c, k);
    else if (atomic_fetch_sub(&st.clients_left, 1) == 1)
        ptn_runtime_stop(st.rt);
}

static void client_retry(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    (void)t;
    (void)arg;
    client_more(c, state);
}

static void client_more(ptn_ctx *c, struct client *k) {
    while (k->out < WINDOW && k->asked < ASKS) {
        uint32_t i = k->asked;
        ptn_buf *b = ptn_buf_copy(&i, sizeof(i));
        ptn_addr to = st.servers[next_random(&k->seed) % SERVERS];
        k->state[i] = 1;
        int err = ptn_ask(c, to, pick_kind(k), b, ptn_now(c) + 40 * PTN_MS, client_answered,
                          (void *)(uintptr_t)i, NULL);
        if (err < 0) { /* refused: try again in a while */
            ptn_buf_unref(b);
            k->state[i] = 0;
            ptn_timer_start(c, &k->retry, PTN_MS, client_retry, NULL);
            return;
        }
        k->asked++;
        k->out++;
        atomic_fetch_add(&st.asked, 1);
        if (i % 64 == 0)
            spawn_visitor(c, k);
    }
}

static int client_init(ptn_ctx *c, void *state, void *arg) {
    struct client *k = state;
    k->seed = 0x9e3779b97f4a7c15u * ((uint64_t)(uintptr_t)arg + 1);
    client_more(c, k);
    return 0;
}

static int client_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    if (m->type == PTN_MSG_DOWN)
        atomic_fetch_add(&st.downs, 1);
    return exit_on_stopping(c, state, m);
}

static const ptn_actor_ops client_ops = {.name = "client",
                                         .state_size = sizeof(struct client),
                                         .init = client_init,
                                         .handle = client_handle};

/* ---- the run ------------------------------------------------------------------------------ */

/* Supervises the servers with room for all the crashes they are asked for. */
static int boss_init(ptn_ctx *c, void *state, void *arg) {
    (void)state;
    (void)arg;
    static const char *const names[SERVERS] = {"s0", "s1", "s2", "s3", "s4", "s5"};
    ptn_child kids[SERVERS];
    for (unsigned i = 0; i < SERVERS; i++)
        kids[i] = (ptn_child){.ops = &server_ops,
                              .opts = {.register_as = names[i], .worker = (int)(i % WORKERS)}};
    const ptn_sup_opts o = {.restarts_max = 1000, .window_ns = 1};
    int err = ptn_supervise(c, &o, kids, SERVERS, NULL);
    for (unsigned i = 0; err == 0 && i < SERVERS; i++)
        err = ptn_whereis(st.rt, names[i], &st.servers[i]);
    for (unsigned i = 0; err == 0 && i < CLIENTS; i++) {
        const ptn_actor_opts at = {.worker = (int)(i % WORKERS)};
        err = ptn_spawn(c, &client_ops, &at, (void *)(uintptr_t)i, NULL);
    }
    return err;
}
static const ptn_actor_ops boss_ops = {
    .name = "boss", .init = boss_init, .handle = exit_on_stopping};

static bool check(void) {
    uint64_t live, pooled, asked = atomic_load(&st.asked), ended = atomic_load(&st.ended);
    ptn_buf_stats(&live, &pooled);
    (void)printf(
        "asks %llu: ok %llu, crashed %llu, deadline %llu, overload %llu; downs %llu of %llu\n",
        (unsigned long long)asked, (unsigned long long)atomic_load(&st.errors[0]),
        (unsigned long long)atomic_load(&st.errors[PTN_ECRASHED]),
        (unsigned long long)atomic_load(&st.errors[PTN_EDEADLINE]),
        (unsigned long long)atomic_load(&st.errors[PTN_EOVERLOAD]),
        (unsigned long long)atomic_load(&st.downs), (unsigned long long)atomic_load(&st.watched));
    uint64_t known = atomic_load(&st.errors[0]) + atomic_load(&st.errors[PTN_ECRASHED]) +
                     atomic_load(&st.errors[PTN_EDEADLINE]) +
                     atomic_load(&st.errors[PTN_EOVERLOAD]) + atomic_load(&st.errors[PTN_ENOACTOR]);
    return asked == ended && ended == (uint64_t)ASKS * CLIENTS && known == ended &&
           atomic_load(&st.wrong) == 0 && atomic_load(&st.errors[PTN_ECRASHED]) > 0 &&
           atomic_load(&st.errors[PTN_EDEADLINE]) > 0 &&
           atomic_load(&st.downs) <= atomic_load(&st.watched) &&
           atomic_load(&st.downs) * 10 >= atomic_load(&st.watched) * 9 && live == 0;
}

int main(void) {
    const ptn_runtime_opts o = {.workers = WORKERS};
    const ptn_lane_opts lane = {.name = "stress", .run = lane_run};
    atomic_store(&st.clients_left, CLIENTS);
    if (ptn_runtime_new(&o, &st.rt) < 0 || ptn_lane_open(st.rt, &lane, &st.lane) < 0 ||
        ptn_runtime_spawn(st.rt, &boss_ops, NULL, NULL, PTN_PERMANENT, NULL) < 0 ||
        ptn_runtime_run(st.rt) != 0) {
        (void)fprintf(stderr, "cannot run\n");
        return 1;
    }
    ptn_lane_close(st.lane);
    ptn_runtime_free(st.rt);
    bool ok = check();
    (void)printf("%s\n", ok ? "ok" : "FAILED");
    return ok ? 0 : 1;
}
