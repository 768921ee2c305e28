/* SPDX-License-Identifier: Apache-2.0
 *
 * http_pause_test.c - an edge whose router or verifier is behind reads nothing, and loses nothing.
 */
#include "protocols/http/http_test_rig.h"

#include <semaphore.h>

#define H "Host: a\r\n"
#define MSG_LEVEL (PTN_MSG_TYPE_END + 2) /* payload: one byte, bit per watch */
#define MSG_FENCE (PTN_MSG_TYPE_END + 3)

static sem_t passed;

/* The levels come as the runtime would send them. */
static int level_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    const struct http_edge *e = state;
    if (m->type == MSG_LEVEL) {
        for (unsigned i = 0; i < PTN_ARRAY_LEN(e->watches); i++) {
            cr_assert_neq(e->watches[i], 0, "router, auth and topics are watched");
            ptn_msg level = {.type = m->data[0] >> i & 1 ? PTN_MSG_PRESSURE : PTN_MSG_RELIEF,
                             .corr = e->watches[i]};
            cr_assert_eq(edge_actor.handle(c, state, &level), 0);
        }
        return 0;
    }
    if (m->type == MSG_FENCE)
        sem_post(&passed);
    return edge_actor.handle(c, state, m);
}

static void set_level(struct rig *r, uint8_t bits) {
    ptn_buf *b = ptn_buf_copy(&bits, 1);
    cr_assert_eq(ptn_port_send(r->port, r->edge, MSG_LEVEL, b), 0);
}

/* Everything that was readable before has been looked at: the second message comes in a later turn
 * of the loop than the first. */
static void fence(struct rig *r) {
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(ptn_port_send(r->port, r->edge, MSG_FENCE, NULL), 0);
        sem_wait(&passed); /* the test's own time limit bounds this */
    }
}

static uint64_t counted(enum ptn_counter k) {
    ptn_metrics_snapshot s;
    ptn_metrics_sum(&s);
    return s.counter[k];
}

Test(http_pause, nothing_is_read_until_both_have_relief, .timeout = 60) {
    ptn_actor_ops ops = edge_actor;
    struct rig r = {.edge_ops = &ops};
    struct reply p;
    ops.handle = level_handle;
    cr_assert_eq(sem_init(&passed, 0, 0), 0);
    r.config.limits.headers_ns = 50 * PTN_MS; /* a pause must not be blamed on the peer */
    rig_start(&r);
    int open = rig_connect(&r), half = rig_connect(&r);
    say(open, "GET / HTTP/1.1\r\n" H "\r\n");
    cr_assert_eq(hear(open, &p)->status, 200);
    uint64_t pauses = counted(PTN_C_EDGE_PAUSES), received = counted(PTN_C_RECEIVED_HTTP);
    set_level(&r, 3);
    fence(&r);
    say(open, "GET /a HTTP/1.1\r\n" H "\r\nGET /b HTTP/1.1\r\n" H "\r\n");
    say(half, "GET /c HTTP/1.1\r\n");
    int late = rig_connect(&r);
    say(late, "GET /d HTTP/1.1\r\n" H "\r\n");
    fence(&r);
    set_level(&r, 2); /* the router has caught up, the verifier has not */
    fence(&r);
    cr_expect_eq(counted(PTN_C_RECEIVED_HTTP), received);
    cr_expect_eq(counted(PTN_C_EDGE_PAUSES), pauses + 1);
    usleep(60000); /* longer than headers_ns */
    fence(&r);
    set_level(&r, 0);
    cr_expect_eq(hear(open, &p)->status, 200);
    cr_expect_eq(hear(open, &p)->status, 200);
    cr_expect_eq(hear(late, &p)->status, 200);
    say(half, H "\r\n");
    cr_expect_eq(hear(half, &p)->status, 200);
    cr_expect_eq(counted(PTN_C_RECEIVED_HTTP), received + 4);
    close(open), close(half), close(late);
    rig_stop(&r);
}
