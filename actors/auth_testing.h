/* SPDX-License-Identifier: Apache-2.0
 *
 * auth_testing.h - what is around the auth actor in its tests: a store over a real database, which
 * can be silent or late, and edges that write down which sessions they were told to close.
 */
#ifndef POSTERN_ACTORS_AUTH_TESTING_H
#define POSTERN_ACTORS_AUTH_TESTING_H

#include "actors/auth_internal.h"
#include "actors/store_testing.h"
#include "runtime/testing.h"

#include <criterion/criterion.h>

#define PASSWORD "correct horse battery"

struct fx;
typedef void (*step_fn)(ptn_ctx *c, struct fx *f);

struct fake_edge {
    unsigned n;
    char session[8][JWT_ID_BYTES_MAX + 1];
};

struct fx {
    struct rig rig;
    struct test_dir dir;
    store_db *db;
    ptn_directory d;
    auth_config config[2];
    uint8_t key[32];
    const step_fn *steps;
    unsigned at, outstanding;
    ptn_timer timer;
    struct fake_edge edge[2];
    bool store_silent;  /* takes requests and never answers */
    uint32_t late_type; /* the next one of these is done at once and answered later: */
    ptn_time late_ns;   /* 0: never */
    ptn_reply_to late_to;
    ptn_buf *late;
    uint32_t late_answer;
    ptn_timer late_timer;
    ptn_time patience_ns;   /* of the script; 0: enough */
    unsigned load_failures; /* how many loads of revocations still fail */
    unsigned loads;
    unsigned first_worker; /* where the script asks */
    ptn_time asked_at;
    /* the last answer, and counts over a burst */
    int err;
    uint32_t type;
    ptn_buf *answer;
    unsigned n_ok, n_overloaded, n_crashed, n_limited, n_refused;
    char access[1024], refresh[256], old_refresh[256], message[256];
};

/* ---- actors around ----------------------------------------------------------------------------
 */

static int remember_arg(ptn_ctx *c, void *state, void *arg) {
    (void)c;
    *(void **)state = arg;
    return 0;
}

static void store_reply(ptn_ctx *c, ptn_reply_to to, uint32_t type, ptn_buf *b) {
    if (ptn_reply(c, to, type, b) < 0)
        ptn_buf_unref(b);
}

static void store_late(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct fx *f = arg;
    (void)state, (void)t;
    store_reply(c, f->late_to, f->late_answer, f->late);
}

static int store_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct fx *f = *(struct fx **)state;
    uint32_t type;
    if (m->type == PTN_MSG_STOPPING) {
        ptn_exit(c, 0);
        return 0;
    }
    ptn_reply_to to = ptn_reply_token(c, m);
    if (m->type == PTN_MSG_STORE_SESSIONS_REVOKED) {
        f->loads++;
        if (f->load_failures > 0) {
            f->load_failures--;
            return ptn_reply_err(c, to, -PTN_EIO);
        }
    } else if (f->store_silent) {
        return 0;
    }
    ptn_buf *b = store_db_execute(f->db, m->type, ptn_msg_bytes(m), &type);
    if (m->type != f->late_type) {
        store_reply(c, to, type, b);
    } else if (f->late_ns == 0) {
        ptn_buf_unref(b);
    } else {
        f->late_type = 0;
        f->late_to = to;
        f->late_answer = type;
        f->late = b;
        ptn_timer_start(c, &f->late_timer, f->late_ns, store_late, f);
    }
    return 0;
}

static const ptn_actor_ops store_ops = {
    .name = "store", .state_size = sizeof(void *), .init = remember_arg, .handle = store_handle};

static int edge_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct fake_edge *e = *(struct fake_edge **)state;
    if (m->type == PTN_MSG_STOPPING) {
        ptn_exit(c, 0);
    } else if (m->type == PTN_MSG_SESSION_REVOKED && e->n < PTN_ARRAY_LEN(e->session)) {
        ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
        uint32_t n;
        ptn_str s;
        cr_assert(ptn_unpack_array(&u, &n) && ptn_unpack_str(&u, &s));
        (void)snprintf(e->session[e->n++], sizeof e->session[0], "%.*s", (int)s.n, s.p);
    }
    return 0;
}

static const ptn_actor_ops edge_ops = {
    .name = "edge", .state_size = sizeof(void *), .init = remember_arg, .handle = edge_handle};

#endif
