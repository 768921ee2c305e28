/* SPDX-License-Identifier: Apache-2.0
 *
 * control.c - what signals do (wire.md section 4): TERM and INT drain and stop, a second one stops
 * at once; HUP reads the configuration again; USR1 writes the state of every actor to the log.
 *
 * Draining: readiness flips first, then the edges stop accepting, finish what is in flight and say
 * goodbye; the runtime stops when the last connection has gone or their time is over.  What is left
 * of `drain` belongs to the actors (wiring.c), so that the whole ends within it.
 */
#include "broker/control.h"

#include <postern/log.h>
#include <signal.h>

struct control {
    const struct control_config *config;
    size_t waiting; /* for so many edges to have nobody left */
    bool stopping;
};

/* An edge has nobody left, or the time is over. */
static void drained(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct control *s = state;
    (void)reply, (void)arg;
    if (err == -PTN_EDEADLINE)
        PTN_LOG(PTN_LOG_WARN, "drain.cut_short",
                PTN_F_Z("why", "clients are still connected at the end of `drain`"));
    if (--s->waiting > 0)
        return;
    PTN_LOG(PTN_LOG_INFO, "broker.stopping", PTN_F_INT("reason", err));
    ptn_runtime_stop(ptn_ctx_runtime(c));
}

static void drain(ptn_ctx *c, struct control *s, int signum) {
    if (s->stopping) { /* the second one: at once */
        ptn_runtime_stop(ptn_ctx_runtime(c));
        ptn_runtime_stop(ptn_ctx_runtime(c));
        return;
    }
    s->stopping = true;
    atomic_store_explicit(s->config->draining, true, memory_order_relaxed);
    PTN_LOG(PTN_LOG_INFO, "broker.draining", PTN_F_INT("signal", signum));
    ptn_time until = ptn_now(c) + s->config->connections_ns;
    for (size_t i = 0; i < s->config->n_edges; i++)
        s->waiting +=
            ptn_ask(c, s->config->edges[i], PTN_MSG_DRAIN, NULL, until, drained, NULL, NULL) == 0;
    if (s->waiting == 0)
        ptn_runtime_stop(ptn_ctx_runtime(c));
}

/* What can change while the broker runs: the log level.  The rest needs a restart, and the log says
 * what is waiting for one. */
static void reload(const struct control *s) {
    struct postern_config next;
    struct config_error why;
    if (s->config->sources == NULL)
        return;
    if (config_load(s->config->sources, &next, &why) < 0) {
        PTN_LOG(PTN_LOG_ERROR, "config.rejected", PTN_F_Z("why", why.text),
                PTN_F_Z("effect", "the old configuration stays"));
        return;
    }
    ptn_log_set_level(next.log.level);
    struct postern_config now = *s->config->running; /* borrows its lists */
    now.log.level = next.log.level;
    char changes[CONFIG_CHANGES_BYTES];
    config_changes(&now, &next, changes, sizeof changes);
    config_done(&next);
    PTN_LOG(PTN_LOG_INFO, "config.reloaded", PTN_F_Z("applied", "log.level"),
            PTN_F_Z("at_next_start", changes[0] != '\0' ? changes : "nothing"));
}

static void dump_actor(const ptn_actor_stats *a, void *arg) {
    (void)arg;
    PTN_LOG(PTN_LOG_INFO, "dump.actor", PTN_F_Z("actor", a->name), PTN_F_INT("address", a->addr),
            PTN_F_INT("waiting", a->mbox_msgs), PTN_F_INT("waiting_bytes", a->mbox_bytes),
            PTN_F_INT("handled", a->handled), PTN_F_INT("refused", a->refused),
            PTN_F_INT("restarts", a->restarts));
}

static void dump(ptn_ctx *c) {
    ptn_runtime *rt = ptn_ctx_runtime(c);
    for (unsigned i = 0; i < ptn_runtime_workers(rt); i++) {
        ptn_worker_stats w;
        ptn_worker_stats_read(rt, i, &w);
        PTN_LOG(PTN_LOG_INFO, "dump.worker", PTN_F_INT("worker", i), PTN_F_INT("turns", w.turns),
                PTN_F_INT("messages", w.messages), PTN_F_INT("parks", w.parks),
                PTN_F_INT("dead_letters", w.dead_letters),
                PTN_F_INT("late_replies", w.late_replies));
    }
    ptn_actors_visit(rt, dump_actor, NULL);
}

static int control_init(ptn_ctx *c, void *state, void *arg) {
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1};
    const struct control_config *config = arg;
    ((struct control *)state)->config = config;
    for (size_t i = 0; i < PTN_ARRAY_LEN(signals); i++) {
        int r = ptn_signal_watch(c, signals[i]);
        if (r < 0)
            return r;
    }
    /* The edges of this worker were spawned before us, so they listen by now. */
    if (config->ready != NULL)
        config->ready(config->ready_arg);
    return 0;
}

static int control_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct control *s = state;
    if (m->type == PTN_MSG_STOPPING) {
        ptn_exit(c, 0);
    } else if (m->type == PTN_MSG_SIGNAL && m->corr == SIGHUP) {
        reload(s);
    } else if (m->type == PTN_MSG_SIGNAL && m->corr == SIGUSR1) {
        dump(c);
    } else if (m->type == PTN_MSG_SIGNAL) {
        drain(c, s, (int)m->corr);
    }
    return 0;
}

const ptn_actor_ops control_actor = {.name = "control",
                                     .state_size = sizeof(struct control),
                                     .init = control_init,
                                     .handle = control_handle};
