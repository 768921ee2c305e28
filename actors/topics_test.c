/* SPDX-License-Identifier: Apache-2.0
 *
 * topics_test.c - what the owner of topics does about a hub that refuses; the rest of topics.c is
 * driven by hub_test.c and delivery_test.c.
 */
#include "actors/topics.h"
#include "runtime/testing.h"

#include <postern/buggify.h>
#include <postern/messages.h>

#include <criterion/criterion.h>

#define NOTES_MAX 16
#define STEP_NS (100 * PTN_MS) /* longer than a resync waits */

/* The only hub, and the publisher: one event a step. */
static struct scene {
    struct rig rig;
    ptn_directory d;
    struct topics_config config;
    ptn_timer timer;
    unsigned steps;
    ptn_time step_ns;
    char notes[NOTES_MAX + 1]; /* what the hub heard: the offset of an event, or R: start over */
    unsigned n_notes;
    const char *sends; /* of everybody, in order: '.' goes, 'x' meets a full mailbox */
} S;

static ptn_buf *packed_bool(bool on) {
    ptn_pack w;
    ptn_pack_init(&w, 8);
    ptn_pack_array(&w, 1);
    ptn_pack_bool(&w, on);
    return ptn_pack_finish(&w);
}

static ptn_buf *publication(void) {
    ptn_pack w;
    ptn_pack_init(&w, 32);
    ptn_pack_array(&w, 2);
    ptn_pack_cstr(&w, "t.1");
    ptn_pack_nil(&w);
    return ptn_pack_finish(&w);
}

static void step(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    (void)state, (void)arg;
    if (S.steps-- == 0) {
        ptn_runtime_stop(ptn_ctx_runtime(c));
        return;
    }
    ptn_buf *b = publication();
    cr_assert_eq(ptn_cast(c, S.d.topics[0], PTN_MSG_TOPIC_PUBLISH, b), 0);
    ptn_timer_start(c, t, S.steps == 0 ? STEP_NS : S.step_ns, step, NULL);
}

static int hub_init(ptn_ctx *c, void *state, void *arg) {
    (void)state, (void)arg;
    ptn_timer_start(c, &S.timer, S.step_ns, step, NULL);
    ptn_buf *b = packed_bool(true);
    int err = ptn_cast(c, S.d.topics[0], PTN_MSG_TOPIC_WATCH_ALL, b);
    if (err < 0)
        ptn_buf_unref(b);
    return err;
}

static int hub_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    uint32_t n;
    ptn_str topic, epoch;
    uint64_t offset = 0;
    (void)state;
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    if (m->type == PTN_MSG_STOPPING)
        ptn_exit(c, 0);
    else if (m->type == PTN_MSG_OWNER_RESTARTED && S.n_notes < NOTES_MAX)
        S.notes[S.n_notes++] = 'R';
    else if (m->type == PTN_MSG_EVENT && S.n_notes < NOTES_MAX && ptn_unpack_array(&u, &n) &&
             ptn_unpack_str(&u, &topic) && ptn_unpack_str(&u, &epoch) &&
             ptn_unpack_uint(&u, &offset))
        S.notes[S.n_notes++] = (char)('0' + offset);
    return 0;
}

static const ptn_actor_ops hub_ops = {.name = "hub", .init = hub_init, .handle = hub_handle};

#ifdef PTN_WITH_BUGGIFY
static bool refuse(void *arg, enum ptn_bug kind, const char *site) {
    (void)arg, (void)kind;
    if (strcmp(site, "mailbox.full") != 0)
        return false;
    while (*S.sends == ' ')
        S.sends++;
    return *S.sends != '\0' && *S.sends++ == 'x';
}

#endif

/* Events published one after the other; what the hub hears. */
static const char *hears(unsigned events, ptn_time step_ns, const char *sends) {
    memset(&S, 0, sizeof S);
    S.steps = events;
    S.step_ns = step_ns;
    S.sends = sends;
    rig_open(&S.rig, 1);
    S.d.workers = 1;
    S.config = (struct topics_config){.directory = &S.d};
    S.d.topics[0] = rig_spawn(&S.rig, &topics_actor, &S.config, 0, PTN_PERMANENT);
    S.d.hub[0] = rig_spawn(&S.rig, &hub_ops, NULL, 0, PTN_PERMANENT);
#ifdef PTN_WITH_BUGGIFY
    ptn__buggify = (struct ptn_buggify){.hook = refuse};
#endif
    cr_assert_eq(ptn_runtime_run(S.rig.rt), 0);
#ifdef PTN_WITH_BUGGIFY
    ptn__buggify = (struct ptn_buggify){0};
#endif
    rig_close(&S.rig);
    return S.notes;
}

Test(topics, a_hub_hears_every_event_in_order) {
    cr_expect_str_eq(hears(3, PTN_MS, ""), "R123");
}

#ifdef PTN_WITH_BUGGIFY
/* Sends: the owner's birth (R) and the watch, then for each event the publication, the event, and
 * what follows a refusal. */
Test(topics, a_hub_that_refused_is_told_before_it_hears_anything_newer) {
    cr_expect_str_eq(hears(3, PTN_MS, ".. .. .x. ..."), "R1R3");
    /* The news is refused, too: until the timer has brought it, nothing newer overtakes it. */
    cr_expect_str_eq(hears(3, PTN_MS, ".. .. .xx .x"), "R1R");
    cr_expect_str_eq(hears(4, 60 * PTN_MS, ".. .. .xx"), "R1R34");
}

#endif
