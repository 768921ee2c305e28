/* SPDX-License-Identifier: Apache-2.0
 *
 * env_sim_internal.h - what the files of the simulated environment share: events, workers, links.
 *
 * Nothing is freed before the environment: an event may stay in the heap after its object has gone
 * out of use, and finds that out by the object's own state.
 */
#ifndef POSTERN_RUNTIME_ENV_SIM_INTERNAL_H
#define POSTERN_RUNTIME_ENV_SIM_INTERNAL_H

#include "runtime/env/env_sim.h"

/* What may happen, and what a trace calls it. */
#define PTN__SIM_EVENT_MAP(XX)                                                                     \
    XX(TURN, "turn")                                                                               \
    XX(WAKE, "wake")                                                                               \
    XX(ARRIVE, "arrive")                                                                           \
    XX(READ, "read")                                                                               \
    XX(WRITABLE, "writable")                                                                       \
    XX(ACCEPT, "accept")                                                                           \
    XX(SERVER_ERROR, "server-error")                                                               \
    XX(PEER_RESET, "peer-reset")                                                                   \
    XX(TIMER, "timer")                                                                             \
    XX(LANE, "lane")                                                                               \
    XX(WORK, "work")                                                                               \
    XX(WORK_DONE, "work-done")                                                                     \
    XX(SIGNAL, "signal")                                                                           \
    XX(WATCH, "watch")

enum ptn__sim_kind {
#define XX(id, name) PTN__SIM_##id,
    PTN__SIM_EVENT_MAP(XX)
#undef XX
        PTN__SIM_KINDS
};

struct ptn__sim_event {
    ptn_time time;
    uint64_t seq; /* ties: first come */
    enum ptn__sim_kind kind;
    void *object;
    uint64_t arg;
};

struct ptn__sim_worker {
    const ptn_env_worker_ops *ops;
    void *worker;
    ptn_time due; /* when a parked worker wants its turn anyway; lateness included */
    bool runnable, stopped;
};

struct ptn_env_endpoint {
    struct ptn_env_endpoint *next;
    char address[64];
    ptn_env_listener *listeners[64]; /* by worker; NULL: does not accept */
};

struct ptn_env_listener {
    struct ptn_env_listener *next;
    ptn_env_endpoint *ep;
    unsigned worker;
    void (*on_accept)(void *owner, ptn_transport *t);
    void *owner;
};

/* One direction of a link: bytes in flight, bytes that have arrived, and perhaps a FIN. */
struct ptn__sim_pipe {
    struct ptn__sim_link *link;
    uint8_t *bytes;
    size_t start, len, cap;
    size_t arrived; /* of len */
    bool fin;       /* nothing is written any more */
    bool fin_arrived, fin_read;
    bool arriving, reading; /* an event is on its way */
    bool read_on;
    bool up; /* to the broker */
};

struct ptn_transport { /* the broker's end */
    struct ptn__sim_link *link;
    const ptn_transport_cbs *cbs;
    void *owner;
    unsigned worker;
    bool accepted, closed, failed, failing, want_write, writable_armed;
};

struct ptn_sim_peer { /* the client's end */
    struct ptn__sim_link *link;
    const ptn_sim_peer_cbs *cbs;
    void *owner;
    bool closed; /* no callback any more */
    bool resetting;
};

struct ptn__sim_link {
    struct ptn__sim *sim;
    struct ptn__sim_link *next;
    uint64_t id;
    ptn_env_endpoint *ep;
    struct ptn__sim_pipe up, down;
    ptn_transport server;
    ptn_sim_peer peer;
};

struct ptn_env_watch {
    struct ptn_env_watch *next;
    unsigned worker;
    int signum; /* 0: a descriptor */
    int fd;
    void (*cb)(void *owner, int signum);
    void (*on_fd)(void *owner);
    void *owner;
    uint64_t id;
    bool scheduled, closed;
};

struct ptn_env_lane {
    struct ptn_env_lane *next;
    struct ptn__sim *sim;
    bool (*step)(void *arg);
    void *arg;
    uint64_t id;
    bool scheduled, closed;
};

struct ptn__sim_job {
    struct ptn__sim_job *next;
    unsigned worker;
    void (*work)(void *arg);
    void (*done)(void *arg);
    void *arg;
    uint64_t id;
};

struct ptn__sim {
    ptn_env base;
    ptn_sim_opts opts;
    ptn_sim_faults faults;
    ptn_sim_rng schedule, entropy; /* apart: what actors draw does not move the schedule */
    ptn_sim_rng misfortune;        /* of PTN_BUGGIFY() sites */
    ptn_time crash_not_before;
    ptn_time now;
    int64_t wall_offset_ms;
    struct ptn__sim_event *heap;
    size_t n_heap, heap_cap;
    struct ptn__sim_event *due; /* their time has come, none before the others */
    size_t n_due, due_cap;
    uint64_t seq, ids, timer_generation;
    struct ptn__sim_worker workers[64];
    unsigned n_workers, n_left;
    unsigned in_broker, in_env; /* calls up into the runtime; allocations of our own below them */
    struct ptn__sim_link *links;
    ptn_env_endpoint *endpoints;
    ptn_env_listener *listeners;
    ptn_env_watch *watches;
    ptn_env_lane *lanes;
    struct ptn__sim_job *jobs;
    ptn_sim_stats stats;
};

static inline struct ptn__sim *ptn__sim_of(const ptn_env *e) {
    return (struct ptn__sim *)(uintptr_t)e;
}

/* A call from the environment into the runtime; ptn_sim_in_broker(). */
#define PTN__SIM_UP(s, call)                                                                       \
    do {                                                                                           \
        (s)->in_broker++;                                                                          \
        call;                                                                                      \
        (s)->in_broker--;                                                                          \
    } while (0)

void *ptn__sim_realloc(struct ptn__sim *s, void *p, size_t n); /* the same as ptn__sim_alloc() */
void *ptn__sim_alloc(struct ptn__sim *s,
                     size_t n); /* zeroed; a simulation without memory cannot go on */
void ptn__sim_at(struct ptn__sim *s, ptn_time after, enum ptn__sim_kind kind, void *object,
                 uint64_t arg);
/* A callback runs on this worker: a turn follows, as in a real loop.  False: it has stopped. */
bool ptn__sim_on_worker(struct ptn__sim *s, unsigned worker);

/* env_sim_net.c */
void ptn__sim_net_event(struct ptn__sim *s, const struct ptn__sim_event *e);
uint64_t ptn__sim_net_id(const struct ptn__sim_event *e);
void ptn__sim_net_free(struct ptn__sim *s);
int ptn__sim_bind(ptn_env *e, const char *where, unsigned n_workers, ptn_env_endpoint **ret_ep,
                  char *ret_addr, size_t ret_addr_bytes, const char **reterr_why);
void ptn__sim_endpoint_free(ptn_env *e, ptn_env_endpoint *ep);
int ptn__sim_listen(ptn_env *e, unsigned worker, ptn_env_endpoint *ep,
                    void (*on_accept)(void *owner, ptn_transport *t), void *owner,
                    ptn_env_listener **ret_l);
void ptn__sim_listener_close(ptn_env *e, ptn_env_listener *l);
void ptn__sim_transport_open(ptn_transport *t, const ptn_transport_cbs *cbs, void *owner);
void ptn__sim_read_enable(ptn_transport *t, bool on);
int64_t ptn__sim_write(ptn_transport *t, const ptn_iov *v, size_t n);
void ptn__sim_want_write(ptn_transport *t, bool on);
void ptn__sim_shut_write(ptn_transport *t);
void ptn__sim_transport_close(ptn_transport *t);
const char *ptn__sim_peer_name(const ptn_transport *t);

#endif
