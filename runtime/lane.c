/* SPDX-License-Identifier: Apache-2.0
 *
 * lane.c - a serial executor with a thread of its own, for work that blocks (storage).
 *
 * Workers push jobs on a take-all stack; the lane takes the whole stack and reverses it, so jobs of
 * one actor keep their order, and since one thread sends all replies, so do the replies to one
 * actor. The pusher that found the stack empty wakes the lane; the environment remembers a wake
 * that comes while the lane is running.  A job lives in the memory of an envelope: the worker's
 * magazine gives it, the lane's magazine takes it back and sends replies from it; of a job that is
 * passed on, the last lane's.
 */
#include "runtime/bounds.h"
#include "runtime/mbox.h"

#include <stdlib.h>

#define BATCH_DEFAULT 1024u
#define BATCH_MAX 65536u
#define JOBS_DEFAULT 65536u
#define BYTES_DEFAULT ((size_t)64 << 20)

_Static_assert(sizeof(ptn_lane_job) <= sizeof(struct ptn__env), "a job fits into an envelope");

struct ptn_lane {
    struct ptn__foreign f;
    _Alignas(PTN_CACHELINE) _Atomic(ptn_lane_job *) stack;
    _Atomic(uint32_t) depth;
    _Atomic(size_t) bytes;
    _Alignas(PTN_CACHELINE) ptn_lane_opts opts;
    ptn_env_lane *env_lane;
    ptn_lane_job *pending; /* lane thread: taken, oldest first */
    ptn_lane_job **batch;
    const char *name;
    struct ptn__queue_delay delay;
    ptn_time batch_ns; /* what the last batch took */
};

static void lane_take(ptn_lane *l) {
    /* acquire: partner is the CAS (release) of every pusher on the stack */
    ptn_lane_job *j = atomic_exchange_explicit(&l->stack, NULL, memory_order_acquire);
    ptn_lane_job *fifo = NULL;
    while (j != NULL) {
        ptn_lane_job *next = j->next;
        j->next = fifo;
        fifo = j;
        j = next;
    }
    l->pending = fifo;
}

static bool job_expired(ptn_lane *l, const ptn_lane_job *job, ptn_time now) {
    if (job->reply.corr == 0 || job->reply.deadline > now)
        return false;
    ptn_count(PTN_C_DEADLINE_EXPIRED, 1);
    (void)ptn_lane_reply_err(l, job->reply, -PTN_EDEADLINE);
    return true;
}

bool ptn_lane_expired(ptn_lane *l, const ptn_lane_job *job) {
    return job_expired(l, job, ptn_lane_now(l));
}

/* Everybody waits for the batch in progress, whatever the disk: a queue stands when more than that
 * is before a job. */
static bool job_shed(ptn_lane *l, const ptn_lane_job *job, ptn_time now, uint32_t n_done) {
    if (l->delay.target == 0 || job->reply.corr == 0 || job->reply.deadline == PTN_NEVER)
        return false;
    uint32_t waited_us = (uint32_t)(now >> 10) - job->enq_us;
    ptn_time waited = waited_us < INT32_MAX ? (ptn_time)waited_us << 10 : 0;
    uint32_t waiting = atomic_load_explicit(&l->depth, memory_order_relaxed) - n_done;
    if (waited <= 2 * l->batch_ns)
        waited = 0;
    if (!ptn__queue_delay_sheds(&l->delay, now, waited, waiting))
        return false;
    ptn_count(PTN_C_SHED_DELAY, 1);
    (void)ptn_lane_reply_err(l, job->reply, -PTN_EOVERLOAD);
    return true;
}

static void jobs_free(ptn_lane *l, ptn_lane_job *jobs) {
    uint32_t n = 0;
    size_t bytes = 0;
    while (jobs != NULL) {
        ptn_lane_job *job = jobs;
        jobs = job->next;
        n++;
        bytes += ptn_buf_bytes(job->buf).n;
        ptn_buf_unref(job->buf);
        ptn__env_put(l->f.rt, &l->f.mag, (struct ptn__env *)(void *)job);
    }
    /* relaxed, bytes: a counter; partner is the fetch_add in ptn_lane_send().  release, depth:
     * whoever finds it 0 sees what the batch did. */
    atomic_fetch_sub_explicit(&l->bytes, bytes, memory_order_relaxed);
    atomic_fetch_sub_explicit(&l->depth, n, memory_order_release);
}

/* True: it had been empty, and its thread must be woken. */
static bool job_push(ptn_lane *l, ptn_lane_job *j) {
    ptn_lane_job *top = atomic_load_explicit(&l->stack, memory_order_relaxed); /* a first guess */
    do {
        j->next = top;
        /* release: partner is the exchange in lane_take() */
    } while (!atomic_compare_exchange_weak_explicit(&l->stack, &top, j, memory_order_release,
                                                    memory_order_relaxed));
    return top == NULL;
}

/* Lane thread.  One batch; false: nothing was waiting. */
static bool lane_step(void *arg) {
    ptn_lane *l = arg;
    if (l->pending == NULL)
        lane_take(l);
    ptn_lane_job *refused = NULL;
    size_t n = 0;
    uint32_t n_done = 0;
    size_t batch_max = PTN_BUGGIFY("lane.batch") ? 1 : l->opts.batch_max;
    ptn_time now = l->pending != NULL ? ptn_lane_now(l) : 0;
    while (l->pending != NULL && n < batch_max) {
        ptn_lane_job *job = l->pending;
        l->pending = job->next;
        n_done++;
        if (!job_expired(l, job, now) && !job_shed(l, job, now, n_done)) {
            l->batch[n++] = job;
        } else {
            job->next = refused;
            refused = job;
        }
    }
    if (n_done == 0)
        return false;
    if (n > 0) {
        l->opts.run(l, l->opts.arg, l->batch, n);
        l->batch_ns = ptn_lane_now(l) - now;
    }
    for (size_t i = 0; i < n; i++) {
        if (l->batch[i] == NULL) /* passed on */
            continue;
        l->batch[i]->next = refused;
        refused = l->batch[i];
    }
    jobs_free(l, refused);
    return true;
}

/* The thread of lane `to` takes it from here, and gives its envelope back. */
void ptn_lane_pass(ptn_lane *l, ptn_lane_job **take_job, ptn_lane *to, uint32_t type,
                   ptn_buf *take_payload) {
    ptn_lane_job *j = *take_job;
    *take_job = NULL;
    size_t old = ptn_buf_bytes(j->buf).n;
    ptn_buf_unref(j->buf);
    j->buf = take_payload;
    j->type = type;
    j->reply.deadline = PTN_NEVER;
    /* relaxed, all: see jobs_free() */
    atomic_fetch_add_explicit(&to->depth, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&to->bytes, ptn_buf_bytes(take_payload).n, memory_order_relaxed);
    atomic_fetch_sub_explicit(&l->bytes, old, memory_order_relaxed);
    atomic_fetch_sub_explicit(&l->depth, 1, memory_order_relaxed);
    if (job_push(to, j))
        l->f.rt->env->ops->lane_wake(to->env_lane);
}

void ptn_lane_wait(ptn_lane *of, bool (*done)(void *arg), void *arg) {
    if (!done(arg))
        of->f.rt->env->ops->lane_wait(of->env_lane, done, arg);
}

int ptn_lane_open(ptn_runtime *rt, const ptn_lane_opts *o, ptn_lane **ret_lane) {
    if (o == NULL || o->run == NULL || o->batch_max > BATCH_MAX)
        return -PTN_EINVAL;
    ptn_lane *l = aligned_alloc(PTN_CACHELINE, sizeof(*l));
    if (l == NULL)
        return -PTN_ENOMEM;
    memset(l, 0, sizeof(*l));
    l->opts = *o;
    l->name = o->name != NULL ? o->name : "lane";
    l->f.lane = l;
    l->delay.target = o->queue_delay_ns;
    if (l->opts.batch_max == 0)
        l->opts.batch_max = BATCH_DEFAULT;
    if (l->opts.jobs_max == 0)
        l->opts.jobs_max = JOBS_DEFAULT;
    if (l->opts.bytes_max == 0)
        l->opts.bytes_max = BYTES_DEFAULT;
    l->batch = calloc(l->opts.batch_max, sizeof(ptn_lane_job *));
    if (l->batch == NULL) {
        free(l);
        return -PTN_ENOMEM;
    }
    ptn__foreign_open(rt, &l->f);
    int err = rt->env->ops->lane_open(rt->env, l->name, lane_step, l, &l->env_lane);
    if (err < 0) {
        ptn__foreign_close(&l->f);
        free(l->batch);
        free(l);
        return err;
    }
    *ret_lane = l;
    return 0;
}

int ptn_lane_send(ptn_ctx *c, ptn_lane *l, const ptn_msg *m) {
    struct ptn__worker *w = c->w;
    /* relaxed, both: see jobs_free().  A single job fits whatever its size. */
    uint32_t old = atomic_fetch_add_explicit(&l->depth, 1, memory_order_relaxed);
    size_t old_bytes = atomic_fetch_add_explicit(&l->bytes, m->len, memory_order_relaxed);
    bool room = old < l->opts.jobs_max && (old == 0 || old_bytes + m->len <= l->opts.bytes_max) &&
                !PTN_BUGGIFY("lane.full");
    struct ptn__env *e = room ? ptn__env_get(w->rt, &w->far_mag) : NULL;
    if (e == NULL) {
        atomic_fetch_sub_explicit(&l->bytes, m->len, memory_order_relaxed);
        atomic_fetch_sub_explicit(&l->depth, 1, memory_order_relaxed);
        return room ? -PTN_ENOMEM : -PTN_EOVERLOAD;
    }
    ptn_lane_job *j = (ptn_lane_job *)(void *)e;
    *j = (ptn_lane_job){
        .type = m->type,
        .enq_us = (uint32_t)(w->clock >> 10),
        .reply = {.to = m->from, .corr = m->corr, .deadline = m->deadline},
        .buf = ptn_buf_ref(m->buf),
    };
    if (w->posts_waiting != 0)
        ptn__posts_flush(w); /* the lane's answer must not get there first */
    if (job_push(l, j))
        w->env->ops->lane_wake(l->env_lane);
    ptn__mark_answered(c, m->corr);
    ptn__token_remove(c->slot, m->corr);
    return 0;
}

int ptn_lane_reply(ptn_lane *l, ptn_reply_to r, uint32_t type, ptn_buf *take_payload) {
    if (r.corr == 0)
        return -PTN_EINVAL;
    struct ptn__env e = {
        .to = r.to, .corr = r.corr, .deadline = PTN_NEVER, .type = type, .kind = PTN__ENV_REPLY};
    return ptn__foreign_send(&l->f, &e, take_payload);
}

int ptn_lane_reply_err(ptn_lane *l, ptn_reply_to r, int err) {
    if (r.corr == 0 || err >= 0)
        return -PTN_EINVAL;
    struct ptn__env e = {
        .to = r.to, .corr = r.corr, .deadline = PTN_NEVER, .err = err, .kind = PTN__ENV_REPLY};
    return ptn__foreign_send(&l->f, &e, NULL);
}

size_t ptn_lane_depth(const ptn_lane *l) {
    return atomic_load_explicit(&l->depth, memory_order_acquire); /* see jobs_free() */
}

void ptn__lane_bounds(const ptn_lane *l, ptn__bound_fn visit) {
    visit(&(ptn__bound){l->name, "jobs", l->depth, l->opts.jobs_max});
    if (l->depth > 1) /* one fits whatever its size */
        visit(&(ptn__bound){l->name, "bytes", l->bytes, l->opts.bytes_max});
}

ptn_time ptn_lane_now(const ptn_lane *l) {
    return l->f.rt->env->ops->now(l->f.rt->env);
}

void ptn_lane_close(ptn_lane *l) {
    if (l == NULL)
        return;
    l->f.rt->env->ops->lane_close(l->env_lane);
    PTN_ASSERT(l->pending == NULL);
    ptn__foreign_close(&l->f);
    free(l->batch);
    free(l);
}
