/* SPDX-License-Identifier: Apache-2.0
 *
 * testing.h - what the unit tests of the runtime share: a runtime on the test environment, a trace,
 * and a scripted actor.
 *
 * A scripted actor is a function; most tests need no more than one init or one handler of their
 * own.
 */
#ifndef POSTERN_RUNTIME_TESTING_H
#define POSTERN_RUNTIME_TESTING_H

#include "runtime/env/env_test.h"
#include "runtime/mbox.h"

#include <stdio.h>

struct rig {
    struct env_test *env;
    ptn_runtime *rt;
    unsigned crashes, restarts, dead_letters, gave_up;
    int last_reason;
    char last_text[128];
};

static inline void rig_trace(const ptn_trace_event *e, void *arg) {
    struct rig *r = (struct rig *)arg;
    r->crashes += e->kind == PTN_TRACE_CRASH;
    r->restarts += e->kind == PTN_TRACE_RESTART;
    r->dead_letters += e->kind == PTN_TRACE_DEAD_LETTER;
    r->gave_up += e->kind == PTN_TRACE_GAVE_UP;
    if (e->kind == PTN_TRACE_CRASH) {
        r->last_reason = e->reason;
        (void)snprintf(r->last_text, sizeof(r->last_text), "%s", e->text);
    }
}

static inline void rig_open(struct rig *r, unsigned workers) {
    memset(r, 0, sizeof(*r));
    r->env = env_test_new();
    ptn_runtime_opts o = {.workers = workers, .env = &r->env->base};
    int err = ptn_runtime_new(&o, &r->rt);
    PTN_ASSERT(err == 0);
    ptn_runtime_on_trace(r->rt, rig_trace, r);
}

static inline void rig_close(struct rig *r) {
    ptn_runtime_free(r->rt);
    env_test_free(&r->env->base);
}

/* A permanent top-level actor on a worker. */
static inline ptn_addr rig_spawn(struct rig *r, const ptn_actor_ops *ops, void *arg, int worker,
                                 enum ptn_restart restart) {
    ptn_actor_opts o = {.worker = worker};
    ptn_addr a;
    int err = ptn_runtime_spawn(r->rt, ops, &o, arg, restart, &a);
    PTN_ASSERT(err == 0);
    return a;
}

static inline ptn_buf *buf_u64(uint64_t v) {
    ptn_buf *b = ptn_buf_copy(&v, sizeof(v));
    PTN_ASSERT(b != NULL);
    return b;
}

static inline uint64_t msg_u64(const ptn_msg *m) {
    uint64_t v = 0;
    if (m->len == sizeof(v))
        memcpy(&v, m->data, sizeof(v));
    return v;
}

/* Live payload bytes: 0 at the end of a test that leaks nothing. */
static inline uint64_t buf_live(void) {
    uint64_t live, pooled;
    ptn_buf_stats(&live, &pooled);
    return live;
}

#endif
