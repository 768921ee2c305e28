/* SPDX-License-Identifier: Apache-2.0
 *
 * offline_queue_test.c - what becomes of acknowledgements that the store does not take; the rest of
 * offline_queue.c is driven by hub_feed_test.c.
 */
#include "actors/offline_queue.h"
#include "runtime/testing.h"

#include <postern/metrics.h>

#include <criterion/criterion.h>

static struct scene {
    struct rig rig;
    ptn_directory d;
    offline_queue_config config;
    ptn_timer timer;
    const char *devices; /* each acknowledges something */
    bool fails;
    unsigned asked;
} S;

/* What could not be sent is still ours. */
static void sent(int err, ptn_buf *b) {
    if (err < 0)
        ptn_buf_unref(b);
    cr_assert_eq(err, 0);
}

static int store_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    static const uint8_t none = 0x90;
    (void)state;
    if (m->type == PTN_MSG_STOPPING)
        ptn_exit(c, 0);
    if (m->type != PTN_MSG_STORE_FEED_ACK)
        return 0;
    S.asked++;
    if (S.fails) {
        ptn_problem_pass(c, ptn_reply_token(c, m), -PTN_EFULL, NULL);
        return 0;
    }
    ptn_buf *b = ptn_buf_copy(&none, 1);
    sent(ptn_reply(c, ptn_reply_token(c, m), PTN_MSG_STORE_FEED_ACKED, b), b);
    return 0;
}

static const ptn_actor_ops fake_store = {.name = "store", .handle = store_handle};

static void stop(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    (void)state, (void)t, (void)arg;
    ptn_runtime_stop(ptn_ctx_runtime(c));
}

static int script_init(ptn_ctx *c, void *state, void *arg) {
    (void)state, (void)arg;
    for (const char *p = S.devices; *p != '\0'; p++) {
        ptn_pack w;
        ptn_pack_init(&w, 64);
        ptn_pack_array(&w, 6);
        ptn_pack_cstr(&w, "ann");
        ptn_pack_str(&w, (ptn_str){p, 1});
        ptn_pack_cstr(&w, "c1");
        for (int i = 0; i < 3; i++)
            ptn_pack_uint(&w, 1);
        ptn_buf *b = ptn_pack_finish(&w);
        sent(ptn_cast(c, S.d.queue[0], PTN_MSG_QUEUE_ACK, b), b);
    }
    ptn_timer_start(c, &S.timer, 300 * PTN_MS, stop, NULL);
    return 0;
}

static int script_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    (void)state;
    if (m->type == PTN_MSG_STOPPING)
        ptn_exit(c, 0);
    return 0;
}

static const ptn_actor_ops script = {
    .name = "script", .init = script_init, .handle = script_handle};

static uint64_t counter(enum ptn_counter k) {
    ptn_metrics_snapshot s;
    ptn_metrics_sum(&s);
    return s.counter[k];
}

/* How many acknowledgements were lost. */
static uint64_t lost(const char *devices, bool fails) {
    const uint64_t before = counter(PTN_C_ACKS_LOST);
    memset(&S, 0, sizeof S);
    S.devices = devices;
    S.fails = fails;
    rig_open(&S.rig, 1);
    S.d.workers = 1;
    S.config = (offline_queue_config){.directory = &S.d};
    S.d.store = rig_spawn(&S.rig, &fake_store, NULL, 0, PTN_PERMANENT);
    S.d.queue[0] = rig_spawn(&S.rig, &offline_queue_actor, &S.config, 0, PTN_PERMANENT);
    (void)rig_spawn(&S.rig, &script, NULL, 0, PTN_PERMANENT);
    cr_assert_eq(ptn_runtime_run(S.rig.rt), 0);
    rig_close(&S.rig);
    return counter(PTN_C_ACKS_LOST) - before;
}

Test(offline_queue, acknowledgements_that_are_not_stored_are_counted) {
    cr_expect_eq(lost("abca", false), 0);
    cr_expect_eq(S.asked, 1, "the newest of each device, together");
    cr_expect_eq(lost("abca", true), 3);
}
