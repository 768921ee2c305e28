/* SPDX-License-Identifier: Apache-2.0
 *
 * env_sim_test.c - the simulated environment itself: the same seed takes the same course, another
 * seed another one, and streams keep what TCP keeps.
 */
#include "runtime/env/env_sim.h"

#include <postern/stream.h>

#include <criterion/criterion.h>
#include <stdlib.h>

#define BYTES 20000u

struct scene {
    ptn_env *env;
    ptn_runtime *rt;
    ptn_endpoint *ep;
    ptn_sim_peer *peer;
    size_t sent, echoed;
    bool ended, reset, stuck;
};

/* ---- an actor that sends back what it gets, and finishes after a FIN ------------------------- */

static void echo_read(ptn_ctx *c, void *owner, const uint8_t *p, size_t n) {
    (void)c;
    cr_assert_eq(ptn_stream_write(owner, p, n), 0);
}

static const ptn_stream_ops echo_ops = {.on_read = echo_read};

static void echo_accept(ptn_ctx *c, void *arg, ptn_stream *s) {
    (void)c, (void)arg;
    ptn_stream_open(s, &echo_ops, s);
}

static int echo_init(ptn_ctx *c, void *state, void *arg) {
    (void)state;
    return ptn_listen(c, ((struct scene *)arg)->ep, echo_accept, NULL, NULL);
}

static int echo_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    (void)state;
    if (m->type == PTN_MSG_STOPPING)
        ptn_exit(c, 0);
    return 0;
}

static const ptn_actor_ops echo_actor = {.name = "echo", .init = echo_init, .handle = echo_handle};

/* ---- a peer ---------------------------------------------------------------------------------- */

static uint8_t byte_at(size_t i) {
    return (uint8_t)(i * 31 + i / 251);
}

static void peer_open(void *owner) {
    struct scene *s = owner;
    uint8_t piece[1000];
    while (s->sent < BYTES) {
        for (size_t i = 0; i < sizeof piece; i++)
            piece[i] = byte_at(s->sent + i);
        cr_assert(ptn_sim_peer_write(s->peer, piece, sizeof piece));
        s->sent += sizeof piece;
    }
    ptn_sim_peer_shut(s->peer);
}

static void peer_bytes(void *owner, const uint8_t *p, size_t n) {
    struct scene *s = owner;
    for (size_t i = 0; i < n; i++)
        cr_assert_eq(p[i], byte_at(s->echoed + i), "byte %zu came back changed", s->echoed + i);
    s->echoed += n;
}

static void peer_end(void *owner) {
    struct scene *s = owner;
    s->ended = true;
    ptn_sim_peer_close(s->peer);
    ptn_runtime_stop(s->rt);
}

static void peer_reset(void *owner) {
    struct scene *s = owner;
    s->reset = true;
    ptn_runtime_stop(s->rt);
}

static const ptn_sim_peer_cbs peer_cbs = {
    .on_open = peer_open, .on_bytes = peer_bytes, .on_end = peer_end, .on_reset = peer_reset};

static uint64_t play(uint64_t seed, const ptn_sim_faults *faults, struct scene *s) {
    ptn_sim_opts opts = {.seed = seed, .faults = *faults};
    *s = (struct scene){.env = ptn_env_sim_new(&opts)};
    ptn_runtime_opts o = {.workers = 2, .env = s->env};
    cr_assert_eq(ptn_runtime_new(&o, &s->rt), 0);
    cr_assert_eq(ptn_endpoint_bind(s->rt, "sim:1", &s->ep, NULL), 0);
    cr_assert_eq(ptn_runtime_spawn(s->rt, &echo_actor, NULL, s, PTN_PERMANENT, &(ptn_addr){0}), 0);
    s->peer = ptn_sim_connect(s->env, "sim:1", &peer_cbs, s);
    cr_assert_not_null(s->peer);
    cr_assert_eq(ptn_runtime_run(s->rt), 0);
    ptn_sim_stats st;
    ptn_sim_stats_read(s->env, &st);
    cr_expect_eq(st.transports_open, 0);
    ptn_endpoint_free(s->ep);
    ptn_runtime_free(s->rt);
    s->env->ops->free(s->env);
    return st.hash;
}

Test(env_sim, echoes_every_byte_whatever_the_splits) {
    ptn_sim_faults f;
    struct scene s;
    ptn_sim_faults_none(&f);
    f.split_ppm = 800000;
    f.byte_ppm = 100000;
    f.short_write_ppm = 500000;
    f.window_bytes = 700;
    f.spurious_ppm = 100000;
    f.late_ppm = 300000;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        (void)play(seed, &f, &s);
        if (s.reset) /* connected before the listener was there */
            continue;
        cr_assert(s.ended);
        cr_assert_eq(s.echoed, BYTES, "seed %d: %zu bytes", (int)seed, s.echoed);
    }
}

Test(env_sim, same_seed_same_course) {
    ptn_sim_faults f;
    ptn_sim_rng r;
    struct scene s;
    unsigned distinct = 0;
    uint64_t last = 0;
    for (uint64_t seed = 1; seed <= 10; seed++) {
        ptn_sim_rng_seed(&r, seed);
        ptn_sim_faults_draw(&r, &f);
        uint64_t hash = play(seed, &f, &s);
        void *moved = malloc(1000 + seed * 100); /* addresses must not matter */
        cr_assert_eq(play(seed, &f, &s), hash, "seed %d", (int)seed);
        free(moved);
        distinct += hash != last;
        last = hash;
    }
    cr_assert_eq(distinct, 10);
}

Test(env_sim, a_reset_overtakes_and_is_told) {
    ptn_sim_faults f;
    struct scene s;
    unsigned resets = 0;
    ptn_sim_faults_none(&f);
    f.split_ppm = 1000000;
    f.reset_ppm = 100000;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        (void)play(seed, &f, &s);
        cr_assert(s.ended != s.reset);
        resets += s.reset;
    }
    cr_assert_gt(resets, 0);
}

/* ---- descriptors ----------------------------------------------------------------------------- */

static struct {
    ptn_env *env;
    unsigned level, calls;
    ptn_sim_timer timer;
} pond; /* readable while its level is above zero */

static bool pond_readable(void *arg, int fd) {
    (void)arg;
    return fd == 1000 && pond.level > 0;
}

static void pond_drink(ptn_ctx *c, void *state, void *arg) {
    (void)c, (void)state, (void)arg;
    cr_assert_gt(pond.level, 0, "called and not readable");
    pond.level--;
    pond.calls++;
}

static int pond_init(ptn_ctx *c, void *state, void *arg) {
    ptn_watch *w;
    (void)state, (void)arg;
    return ptn_watch_open(c, 1000, pond_drink, NULL, &w);
}

static const ptn_actor_ops pond_actor = {.name = "pond", .init = pond_init, .handle = echo_handle};

static void pond_end(void *arg) {
    ptn_runtime_stop(arg);
}

/* Announced, and empty before anybody has looked. */
static void pond_evaporates(void *arg) {
    cr_assert_eq(pond.calls, 5);
    pond.level = 1;
    ptn_sim_fd_ready(pond.env, 1000);
    pond.level = 0;
    ptn_sim_timer_start(pond.env, &pond.timer, PTN_SEC, pond_end, arg);
}

static void pond_fills(void *arg) {
    cr_assert_eq(pond.calls, 2, "it was readable when the watch began");
    pond.level = 3;
    ptn_sim_fd_ready(pond.env, 1000);
    ptn_sim_fd_ready(pond.env, 1000);
    ptn_sim_timer_start(pond.env, &pond.timer, PTN_SEC, pond_evaporates, arg);
}

Test(env_sim, a_watch_hears_as_long_as_its_descriptor_is_readable) {
    ptn_sim_opts opts = {.seed = 3, .fd_readable = pond_readable};
    ptn_sim_faults_none(&opts.faults);
    pond.env = ptn_env_sim_new(&opts);
    pond.level = 2;
    ptn_runtime *rt;
    ptn_runtime_opts o = {.workers = 1, .env = pond.env};
    cr_assert_eq(ptn_runtime_new(&o, &rt), 0);
    cr_assert_eq(ptn_runtime_spawn(rt, &pond_actor, NULL, NULL, PTN_PERMANENT, &(ptn_addr){0}), 0);
    ptn_sim_timer_start(pond.env, &pond.timer, PTN_SEC, pond_fills, rt);
    cr_assert_eq(ptn_runtime_run(rt), 0);
    cr_expect_eq(pond.calls, 5);
    ptn_runtime_free(rt);
    pond.env->ops->free(pond.env);
}

Test(env_sim, knows_its_addresses) {
    ptn_sim_faults f;
    ptn_sim_faults_none(&f);
    ptn_sim_opts opts = {.seed = 1, .faults = f};
    ptn_env *e = ptn_env_sim_new(&opts);
    cr_assert_not_null(e);
    cr_assert_null(ptn_sim_connect(e, "sim:1", &peer_cbs, NULL));
    ptn_env_endpoint *ep, *second;
    char address[32];
    const char *why;
    cr_assert_eq(e->ops->bind(e, "sim:1", 1, &ep, address, sizeof address, &why), 0);
    cr_assert_str_eq(address, "sim:1");
    cr_assert_eq(e->ops->bind(e, "sim:1", 1, &second, address, sizeof address, &why),
                 -PTN_EADDRINUSE);
    e->ops->free(e);
}

Test(env_sim, random_numbers_are_those_of_the_seed) {
    ptn_sim_rng a, b;
    ptn_sim_rng_seed(&a, 7);
    ptn_sim_rng_seed(&b, 7);
    uint64_t sum = 0;
    for (unsigned i = 0; i < 20000; i++) {
        cr_assert_eq(ptn_sim_rng_next(&a), ptn_sim_rng_next(&b));
        sum += ptn_sim_rng_exp(&a, 1000);
        (void)ptn_sim_rng_exp(&b, 1000);
        cr_assert_lt(ptn_sim_rng_below(&a, 10), 10);
        (void)ptn_sim_rng_below(&b, 10);
    }
    cr_assert_gt(sum / 20000, 800);
    cr_assert_lt(sum / 20000, 1200);
    cr_assert_not(ptn_sim_rng_chance(&a, 0));
    cr_assert(ptn_sim_rng_chance(&a, 1000000));
}
