/* SPDX-License-Identifier: Apache-2.0
 *
 * port.c - sending ends for threads the runtime does not own, and the gates that guard shutdown.
 *
 * A wake must not reach a loop that has been closed.  Threads of ours agree on that in worker.c;
 * foreign ones pass a gate: a counter of calls in progress whose top bit says "closed".  Shutdown
 * sets the bit and waits for the calls that are inside, which are short and never block.
 */
#include "runtime/mbox.h"

#include <sched.h>
#include <stdlib.h>

bool ptn__gate_enter(_Atomic(uint32_t) *gate) {
    /* seq_cst: see worker_started(); also pairs with the fetch_or in ptn__gate_shut() */
    if ((atomic_fetch_add(gate, 1) & PTN__GATE_CLOSED) == 0)
        return true;
    atomic_fetch_sub_explicit(gate, 1, memory_order_release);
    return false;
}

void ptn__gate_leave(_Atomic(uint32_t) *gate) {
    /* release: partner is the acquire load in ptn__gate_shut() */
    atomic_fetch_sub_explicit(gate, 1, memory_order_release);
}

void ptn__gate_shut(_Atomic(uint32_t) *gate) {
    atomic_fetch_or(gate, PTN__GATE_CLOSED);
    while (atomic_load_explicit(gate, memory_order_acquire) != PTN__GATE_CLOSED)
        (void)sched_yield();
}

void ptn__foreign_open(ptn_runtime *rt, struct ptn__foreign *f) {
    f->rt = rt;
    ptn__mag_init(&f->mag);
    (void)pthread_mutex_lock(&rt->foreign_lock);
    atomic_init(&f->gate, rt->foreign_shut ? PTN__GATE_CLOSED : 0);
    f->next = rt->foreign;
    f->pprev = &rt->foreign;
    if (f->next != NULL)
        f->next->pprev = &f->next;
    rt->foreign = f;
    (void)pthread_mutex_unlock(&rt->foreign_lock);
}

void ptn__foreign_close(struct ptn__foreign *f) {
    ptn_runtime *rt = f->rt;
    (void)pthread_mutex_lock(&rt->foreign_lock);
    *f->pprev = f->next;
    if (f->next != NULL)
        f->next->pprev = f->pprev;
    (void)pthread_mutex_unlock(&rt->foreign_lock);
    ptn__mag_done(rt, &f->mag);
}

void ptn__gates_shut(ptn_runtime *rt) {
    ptn__gate_shut(&rt->stop_gate);
    (void)pthread_mutex_lock(&rt->foreign_lock);
    rt->foreign_shut = true;
    for (struct ptn__foreign *f = rt->foreign; f != NULL; f = f->next)
        ptn__gate_shut(&f->gate);
    (void)pthread_mutex_unlock(&rt->foreign_lock);
}

/* One message from a foreign thread, which holds its own lock on f if it has to. */
int ptn__foreign_send(struct ptn__foreign *f, struct ptn__env *proto, ptn_buf *take_payload) {
    if (!ptn__gate_enter(&f->gate))
        return -PTN_ESTOPPING;
    proto->enq_us = (uint32_t)(f->rt->env->ops->now(f->rt->env) >> 10);
    int err = ptn__send_foreign(f->rt, &f->mag, proto, take_payload);
    ptn__gate_leave(&f->gate);
    return err;
}

/* ---- ports -------------------------------------------------------------------------------- */

struct ptn_port {
    struct ptn__foreign f;
    pthread_mutex_t lock; /* several threads may share a port: they share its magazine */
};

int ptn_port_open(ptn_runtime *rt, ptn_port **ret_port) {
    ptn_port *p = calloc(1, sizeof(*p));
    if (p == NULL || pthread_mutex_init(&p->lock, NULL) != 0) {
        free(p);
        return -PTN_ENOMEM;
    }
    ptn__foreign_open(rt, &p->f);
    *ret_port = p;
    return 0;
}

void ptn_port_close(ptn_port *p) {
    if (p == NULL)
        return;
    ptn__foreign_close(&p->f);
    (void)pthread_mutex_destroy(&p->lock);
    free(p);
}

static int port_post(ptn_port *p, struct ptn__env *proto, ptn_buf *take_payload) {
    (void)pthread_mutex_lock(&p->lock);
    int err = ptn__foreign_send(&p->f, proto, take_payload);
    (void)pthread_mutex_unlock(&p->lock);
    return err;
}

int ptn_port_send(ptn_port *p, ptn_addr to, uint32_t type, ptn_buf *take_payload) {
    if (type < PTN_MSG_USER)
        return -PTN_EINVAL;
    struct ptn__env e = {.to = to, .deadline = PTN_NEVER, .type = type, .kind = PTN__ENV_CAST};
    return port_post(p, &e, take_payload);
}

int ptn_port_reply(ptn_port *p, ptn_reply_to r, uint32_t type, ptn_buf *take_payload) {
    if (r.corr == 0)
        return -PTN_EINVAL;
    struct ptn__env e = {
        .to = r.to, .corr = r.corr, .deadline = PTN_NEVER, .type = type, .kind = PTN__ENV_REPLY};
    return port_post(p, &e, take_payload);
}

int ptn_port_reply_err(ptn_port *p, ptn_reply_to r, int err) {
    if (r.corr == 0 || err >= 0)
        return -PTN_EINVAL;
    struct ptn__env e = {
        .to = r.to, .corr = r.corr, .deadline = PTN_NEVER, .err = err, .kind = PTN__ENV_REPLY};
    return port_post(p, &e, NULL);
}
