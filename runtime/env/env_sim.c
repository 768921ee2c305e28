/* SPDX-License-Identifier: Apache-2.0
 *
 * env_sim.c - the simulated environment: randomness, scheduler, clock, lanes, pool work, signals.
 *
 * Events wait in a heap ordered by (time, sequence).  Those whose time has come move to a flat list
 * from which the next is drawn, so the heap's order only says when, never which first.  A turn
 * takes virtual time only by looks at the clock, 50 to 100 ns each; a fault makes such a look find
 * more, which is how a turn runs out of its budget in the middle.
 */
#include "runtime/env/env_sim_internal.h"

#include <postern/buggify.h>
#include <stdlib.h>

#define STEPS_MAX_DEFAULT UINT64_C(20000000)
#define START_NS (1000 * PTN_SEC)
#define START_WALL_MS INT64_C(1750000000000)
#define LATE_NS_MAX (20 * PTN_MS)
#define SLOW_NS_MAX (2 * PTN_MS)
#define SIGNAL_NS_MEAN PTN_MS
#define CRASH_PPM 1000u
#define CRASH_PAUSE_NS PTN_SEC /* half of what a supervisor with default limits forgives */
#define STALL_PPM 2000u
#define STALL_NS_MAX (50 * PTN_MS)

static const char *const kind_names[] = {
#define XX(id, name) name,
    PTN__SIM_EVENT_MAP(XX)
#undef XX
};

/* ---- randomness ------------------------------------------------------------------------------ */

static uint64_t rotl(uint64_t x, unsigned k) {
    return x << k | x >> (64 - k);
}

/* splitmix64 spreads the seed, as the authors of xoshiro advise. */
void ptn_sim_rng_seed(ptn_sim_rng *r, uint64_t seed) {
    for (unsigned i = 0; i < 4; i++) {
        seed += UINT64_C(0x9e3779b97f4a7c15);
        uint64_t z = seed;
        z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
        r->s[i] = z ^ z >> 31;
    }
}

uint64_t ptn_sim_rng_next(ptn_sim_rng *r) {
    uint64_t *s = r->s, result = rotl(s[0] + s[3], 23) + s[0], t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return result;
}

uint64_t ptn_sim_rng_below(ptn_sim_rng *r, uint64_t n) {
    if (n <= 1)
        return 0;
    return ptn_sim_rng_next(r) % n; /* n is tiny beside 2^64: the bias does not matter here */
}

bool ptn_sim_rng_chance(ptn_sim_rng *r, uint32_t ppm) {
    return ppm != 0 && ptn_sim_rng_below(r, 1000000) < ppm;
}

/* The number of halvings is geometric, the place within the last one uniform: close enough. */
uint64_t ptn_sim_rng_exp(ptn_sim_rng *r, uint64_t mean) {
    uint64_t x = ptn_sim_rng_next(r);
    uint64_t halvings = (uint64_t)__builtin_ctzll(x | UINT64_C(1) << 40);
    uint64_t fraction = x >> 54; /* of 1024 */
    return mean * (halvings * 1024 + fraction) / 1536;
}

/* ---- faults ---------------------------------------------------------------------------------- */

void ptn_sim_faults_none(ptn_sim_faults *ret_f) {
    *ret_f = (ptn_sim_faults){.delay_min_ns = 20000,
                              .delay_mean_ns = 100000,
                              .window_bytes = 128u << 10,
                              .wake_mean_ns = 5000,
                              .lane_mean_ns = 200000,
                              .work_mean_ns = 20 * PTN_MS};
}

/* Absent with 2 in 3, otherwise up to max, small values more often than large ones. */
static uint32_t some_ppm(ptn_sim_rng *r, uint32_t max) {
    if (ptn_sim_rng_below(r, 3) != 0)
        return 0;
    uint64_t shift = ptn_sim_rng_below(r, 8);
    return (uint32_t)(1 + ptn_sim_rng_below(r, 1 + (max >> shift)));
}

void ptn_sim_faults_draw(ptn_sim_rng *r, ptn_sim_faults *f) {
    static const uint32_t windows[] = {512, 4096, 16384, 65536, 131072};
    static const ptn_time delays[] = {10000, 100000, PTN_MS, 20 * PTN_MS};
    ptn_sim_faults_none(f);
    f->delay_min_ns = delays[ptn_sim_rng_below(r, PTN_ARRAY_LEN(delays))];
    f->delay_mean_ns = delays[ptn_sim_rng_below(r, PTN_ARRAY_LEN(delays))];
    f->window_bytes = windows[ptn_sim_rng_below(r, PTN_ARRAY_LEN(windows))];
    f->tail_ppm = some_ppm(r, 20000);
    f->tail_ns = PTN_MS + ptn_sim_rng_below(r, 3 * PTN_SEC);
    f->split_ppm = some_ppm(r, 900000);
    f->byte_ppm = some_ppm(r, 200000);
    f->short_write_ppm = some_ppm(r, 500000);
    f->reset_ppm = some_ppm(r, 20000);
    f->refuse_ppm = some_ppm(r, 300000);
    f->wake_mean_ns = delays[ptn_sim_rng_below(r, PTN_ARRAY_LEN(delays) - 1)];
    f->spurious_ppm = some_ppm(r, 200000);
    f->late_ppm = some_ppm(r, 500000);
    f->slow_ppm = some_ppm(r, 100000);
    f->wall_step_ppm = some_ppm(r, 2000);
    f->wall_step_ms = (int64_t)ptn_sim_rng_below(r, 600000);
    f->lane_mean_ns = delays[ptn_sim_rng_below(r, PTN_ARRAY_LEN(delays))];
    f->lane_stall_ppm = some_ppm(r, 50000);
    f->lane_stall_ns = ptn_sim_rng_below(r, 15 * PTN_SEC);
    f->buggify_ppm = ptn_sim_rng_below(r, 2) == 0 ? 250000 : 0;
}

#ifdef PTN_WITH_BUGGIFY
/* Which sites are enabled depends on the seed and their names alone, so that a new site elsewhere
 * does not change that. */
static bool site_is_enabled(const struct ptn__sim *s, const char *site) {
    uint64_t h = s->opts.seed ^ UINT64_C(14695981039346656037); /* FNV-1a, then a finaliser */
    for (; *site != '\0'; site++)
        h = (h ^ (uint8_t)*site) * UINT64_C(1099511628211);
    h = (h ^ h >> 32) * UINT64_C(0x9e3779b97f4a7c15);
    return (h >> 32) % 1000000 < s->faults.buggify_ppm;
}

static bool buggify(void *arg, enum ptn_bug kind, const char *site) {
    struct ptn__sim *s = arg;
    bool fires = false;
    if (s->faults.buggify_ppm == 0 || !site_is_enabled(s, site))
        return false;
    switch (kind) {
    case PTN_BUG_TURN:
        fires = ptn_sim_rng_below(&s->misfortune, 4) == 0;
        break;
    case PTN_BUG_CRASH:
        fires = s->now >= s->crash_not_before && ptn_sim_rng_chance(&s->misfortune, CRASH_PPM);
        if (fires)
            s->crash_not_before = s->now + CRASH_PAUSE_NS;
        s->stats.crashes += fires;
        break;
    case PTN_BUG_STALL:
        fires = ptn_sim_rng_chance(&s->misfortune, STALL_PPM);
        if (fires)
            s->now += ptn_sim_rng_below(&s->misfortune, STALL_NS_MAX);
        break;
    }
    s->stats.buggified += fires;
    return fires;
}
#endif

/* ---- events ---------------------------------------------------------------------------------- */

void *ptn__sim_realloc(struct ptn__sim *s, void *p, size_t n) {
    s->in_env++;
    p = realloc(p, n);
    s->in_env--;
    PTN_ASSERT(p != NULL);
    return p;
}

void *ptn__sim_alloc(struct ptn__sim *s, size_t n) {
    return memset(ptn__sim_realloc(s, NULL, n), 0, n);
}

static struct ptn__sim_event *grow(struct ptn__sim *s, struct ptn__sim_event *a, size_t n,
                                   size_t *cap) {
    if (n < *cap)
        return a;
    *cap = *cap == 0 ? 256 : *cap * 2;
    return ptn__sim_realloc(s, a, *cap * sizeof *a);
}

static bool before(const struct ptn__sim_event *a, const struct ptn__sim_event *b) {
    return a->time != b->time ? a->time < b->time : a->seq < b->seq;
}

void ptn__sim_at(struct ptn__sim *s, ptn_time after, enum ptn__sim_kind kind, void *object,
                 uint64_t arg) {
    s->heap = grow(s, s->heap, s->n_heap, &s->heap_cap);
    struct ptn__sim_event e = {
        .time = s->now + after, .seq = s->seq++, .kind = kind, .object = object, .arg = arg};
    size_t i = s->n_heap++;
    while (i > 0 && before(&e, &s->heap[(i - 1) / 2])) {
        s->heap[i] = s->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    s->heap[i] = e;
}

static struct ptn__sim_event heap_pop(struct ptn__sim *s) {
    struct ptn__sim_event first = s->heap[0], last = s->heap[--s->n_heap];
    size_t i = 0;
    for (;;) {
        size_t k = 2 * i + 1;
        if (k >= s->n_heap)
            break;
        if (k + 1 < s->n_heap && before(&s->heap[k + 1], &s->heap[k]))
            k++;
        if (!before(&s->heap[k], &last))
            break;
        s->heap[i] = s->heap[k];
        i = k;
    }
    s->heap[i] = last;
    return first;
}

static void collect_due(struct ptn__sim *s) {
    while (s->n_heap > 0 && s->heap[0].time <= s->now) {
        s->due = grow(s, s->due, s->n_due, &s->due_cap);
        s->due[s->n_due++] = heap_pop(s);
    }
}

bool ptn__sim_on_worker(struct ptn__sim *s, unsigned worker) {
    struct ptn__sim_worker *w = &s->workers[worker];
    w->runnable = true;
    return !w->stopped;
}

/* ---- time and entropy ------------------------------------------------------------------------ */

static ptn_time sim_now(ptn_env *e) {
    struct ptn__sim *s = ptn__sim_of(e);
    s->now += 50 + ptn_sim_rng_below(&s->schedule, 51);
    if (ptn_sim_rng_chance(&s->schedule, s->faults.slow_ppm))
        s->now += ptn_sim_rng_below(&s->schedule, SLOW_NS_MAX);
    return s->now;
}

static int64_t sim_wall_ms(ptn_env *e) {
    const struct ptn__sim *s = ptn__sim_of(e);
    return START_WALL_MS + (int64_t)((s->now - START_NS) / PTN_MS) + s->wall_offset_ms;
}

static void sim_random(ptn_env *e, void *p, size_t n) {
    struct ptn__sim *s = ptn__sim_of(e);
    uint8_t *at = p;
    while (n > 0) {
        uint64_t x = ptn_sim_rng_next(&s->entropy);
        size_t part = n < sizeof x ? n : sizeof x;
        memcpy(at, &x, part);
        at += part;
        n -= part;
    }
}

/* ---- workers --------------------------------------------------------------------------------- */

/* Before run() there is nobody to wake: the first turn comes anyway. */
static void sim_wake(ptn_env *e, unsigned worker) {
    struct ptn__sim *s = ptn__sim_of(e);
    if (worker < s->n_workers)
        ptn__sim_at(s, ptn_sim_rng_exp(&s->schedule, s->faults.wake_mean_ns), PTN__SIM_WAKE,
                    &s->workers[worker], worker);
}

static void take_turn(struct ptn__sim *s, struct ptn__sim_worker *w) {
    ptn_time due = PTN_NEVER;
    s->stats.turns++;
    w->runnable = false;
    w->due = PTN_NEVER;
    enum ptn_turn next;
    PTN__SIM_UP(s, next = w->ops->turn(w->worker, &due));
    switch (next) {
    case PTN_TURN_MORE:
        w->runnable = true;
        break;
    case PTN_TURN_PARKED:
        w->due = due;
        if (due != PTN_NEVER && ptn_sim_rng_chance(&s->schedule, s->faults.late_ppm))
            w->due += ptn_sim_rng_below(&s->schedule, LATE_NS_MAX);
        break;
    case PTN_TURN_STOP:
        w->stopped = true;
        w->ops->stopped(w->worker);
        s->n_left--;
        break;
    }
}

/* ---- signals, pool work, lanes --------------------------------------------------------------- */

static bool fd_is_readable(struct ptn__sim *s, int fd) {
    return s->opts.fd_readable(s->opts.arg, fd);
}

static void watch_later(struct ptn__sim *s, ptn_env_watch *w) {
    if (w->scheduled || w->closed)
        return;
    w->scheduled = true;
    ptn__sim_at(s, ptn_sim_rng_exp(&s->schedule, s->faults.wake_mean_ns), PTN__SIM_WATCH, w, w->id);
}

static int sim_watch(ptn_env *e, unsigned worker, int fd, void (*cb)(void *owner), void *owner,
                     ptn_env_watch **ret_w) {
    struct ptn__sim *s = ptn__sim_of(e);
    if (s->opts.fd_readable == NULL)
        return -PTN_EIO;
    ptn_env_watch *w = ptn__sim_alloc(s, sizeof *w);
    *w = (ptn_env_watch){.next = s->watches,
                         .worker = worker,
                         .fd = fd,
                         .on_fd = cb,
                         .owner = owner,
                         .id = s->ids++};
    s->watches = w;
    if (fd_is_readable(s, fd))
        watch_later(s, w);
    *ret_w = w;
    return 0;
}

void ptn_sim_fd_ready(ptn_env *e, int fd) {
    struct ptn__sim *s = ptn__sim_of(e);
    for (ptn_env_watch *w = s->watches; w != NULL; w = w->next)
        if (w->signum == 0 && w->fd == fd)
            watch_later(s, w);
}

static void watch_event(struct ptn__sim *s, ptn_env_watch *w) {
    w->scheduled = false;
    if (w->closed || !fd_is_readable(s, w->fd) || !ptn__sim_on_worker(s, w->worker))
        return;
    PTN__SIM_UP(s, w->on_fd(w->owner));
    if (fd_is_readable(s, w->fd))
        watch_later(s, w);
}

static void sim_watch_close(ptn_env *e, ptn_env_watch *w) {
    (void)e;
    w->closed = true;
}

static int sim_signal_watch(ptn_env *e, unsigned worker, int signum,
                            void (*cb)(void *owner, int signum), void *owner,
                            ptn_env_watch **ret_w) {
    struct ptn__sim *s = ptn__sim_of(e);
    ptn_env_watch *w = ptn__sim_alloc(s, sizeof *w);
    *w = (ptn_env_watch){.next = s->watches,
                         .worker = worker,
                         .signum = signum,
                         .cb = cb,
                         .owner = owner,
                         .id = s->ids++};
    s->watches = w;
    *ret_w = w;
    return 0;
}

void ptn_sim_signal(ptn_env *e, int signum) {
    struct ptn__sim *s = ptn__sim_of(e);
    for (ptn_env_watch *w = s->watches; w != NULL; w = w->next)
        if (!w->closed && w->signum == signum)
            ptn__sim_at(s, ptn_sim_rng_exp(&s->schedule, SIGNAL_NS_MEAN), PTN__SIM_SIGNAL, w,
                        w->id);
}

static int sim_work(ptn_env *e, unsigned worker, void (*work)(void *arg), void (*done)(void *arg),
                    void *arg) {
    struct ptn__sim *s = ptn__sim_of(e);
    struct ptn__sim_job *j = ptn__sim_alloc(s, sizeof *j);
    *j = (struct ptn__sim_job){
        .next = s->jobs, .worker = worker, .work = work, .done = done, .arg = arg, .id = s->ids++};
    s->jobs = j;
    ptn__sim_at(s, ptn_sim_rng_exp(&s->schedule, s->faults.work_mean_ns), PTN__SIM_WORK, j, j->id);
    return 0;
}

static int sim_lane_open(ptn_env *e, const char *name, bool (*step)(void *arg), void *arg,
                         ptn_env_lane **ret_l) {
    struct ptn__sim *s = ptn__sim_of(e);
    (void)name;
    ptn_env_lane *l = ptn__sim_alloc(s, sizeof *l);
    *l = (ptn_env_lane){.next = s->lanes, .sim = s, .step = step, .arg = arg, .id = s->ids++};
    s->lanes = l;
    *ret_l = l;
    return 0;
}

static void sim_lane_wake(ptn_env_lane *l) {
    struct ptn__sim *s = l->sim;
    if (l->scheduled || l->closed)
        return;
    l->scheduled = true;
    ptn_time after = ptn_sim_rng_exp(&s->schedule, s->faults.lane_mean_ns);
    if (ptn_sim_rng_chance(&s->schedule, s->faults.lane_stall_ppm))
        after += s->faults.lane_stall_ns;
    ptn__sim_at(s, after, PTN__SIM_LANE, l, l->id);
}

/* Its work is done here and now, by the one thread there is. */
static void sim_lane_wait(ptn_env_lane *l, bool (*done)(void *arg), void *arg) {
    while (!done(arg))
        PTN_ASSERT(l->step(l->arg));
}

static void sim_lane_close(ptn_env_lane *l) {
    while (l->step(l->arg))
        continue;
    l->closed = true;
}

static void lane_event(ptn_env_lane *l) {
    l->scheduled = false;
    bool more = false;
    if (!l->closed)
        PTN__SIM_UP(l->sim, more = l->step(l->arg));
    if (more)
        sim_lane_wake(l);
}

/* ---- client timers --------------------------------------------------------------------------- */

void ptn_sim_timer_start(ptn_env *e, ptn_sim_timer *t, ptn_time after, void (*cb)(void *arg),
                         void *arg) {
    struct ptn__sim *s = ptn__sim_of(e);
    t->generation = ++s->timer_generation;
    t->cb = cb;
    t->arg = arg;
    ptn__sim_at(s, after, PTN__SIM_TIMER, t, t->generation);
}

void ptn_sim_timer_stop(ptn_sim_timer *t) {
    t->generation = 0;
}

static void timer_event(const struct ptn__sim_event *e) {
    ptn_sim_timer *t = e->object;
    if (t->generation != e->arg)
        return;
    t->generation = 0;
    t->cb(t->arg);
}

/* ---- the loop -------------------------------------------------------------------------------- */

static void handle_event(struct ptn__sim *s, const struct ptn__sim_event *e) {
    ptn_env_watch *watch = e->object;
    struct ptn__sim_job *job = e->object;
    switch (e->kind) {
    case PTN__SIM_WAKE:
        s->workers[e->arg].runnable = true;
        break;
    case PTN__SIM_TIMER:
        timer_event(e);
        break;
    case PTN__SIM_LANE:
        lane_event(e->object);
        break;
    case PTN__SIM_WORK:
        PTN__SIM_UP(s, job->work(job->arg));
        ptn__sim_at(s, ptn_sim_rng_exp(&s->schedule, s->faults.wake_mean_ns), PTN__SIM_WORK_DONE,
                    job, job->id);
        break;
    case PTN__SIM_WORK_DONE:
        if (ptn__sim_on_worker(s, job->worker))
            PTN__SIM_UP(s, job->done(job->arg));
        break;
    case PTN__SIM_WATCH:
        watch_event(s, watch);
        break;
    case PTN__SIM_SIGNAL:
        if (ptn__sim_on_worker(s, watch->worker) && !watch->closed)
            PTN__SIM_UP(s, watch->cb(watch->owner, watch->signum));
        break;
    default:
        ptn__sim_net_event(s, e);
        break;
    }
}

static uint64_t event_id(const struct ptn__sim_event *e) {
    switch (e->kind) {
    case PTN__SIM_WAKE:
    case PTN__SIM_TIMER:
    case PTN__SIM_LANE:
    case PTN__SIM_WORK:
    case PTN__SIM_WORK_DONE:
    case PTN__SIM_SIGNAL:
    case PTN__SIM_WATCH:
        return e->arg;
    default:
        return ptn__sim_net_id(e);
    }
}

static void note(struct ptn__sim *s, enum ptn__sim_kind kind, uint64_t id) {
    uint64_t words[] = {(uint64_t)kind, id, s->now};
    for (unsigned i = 0; i < PTN_ARRAY_LEN(words); i++)
        s->stats.hash = rotl(s->stats.hash ^ words[i], 23) * UINT64_C(0x9e3779b97f4a7c15);
    s->stats.steps++;
    if (s->opts.on_event == NULL)
        return;
    const ptn_sim_event e = {.step = s->stats.steps,
                             .now = s->now,
                             .kind = kind_names[kind],
                             .id = id,
                             .hash = s->stats.hash};
    s->opts.on_event(s->opts.arg, &e);
}

static void stuck(struct ptn__sim *s, const char *why) {
    if (s->opts.on_stuck != NULL)
        s->opts.on_stuck(s->opts.arg, why);
    PTN_ASSERT(false); /* on_stuck must not return */
}

/* Everything that may happen now, workers first; 0: the clock must move. */
static size_t count_choices(struct ptn__sim *s, unsigned ready[64], size_t *ret_ready) {
    size_t n = 0;
    for (unsigned i = 0; i < s->n_workers; i++) {
        const struct ptn__sim_worker *w = &s->workers[i];
        if (!w->stopped && (w->runnable || w->due <= s->now))
            ready[n++] = i;
    }
    *ret_ready = n;
    return n + s->n_due;
}

static void jump(struct ptn__sim *s) {
    ptn_time next = s->n_heap > 0 ? s->heap[0].time : PTN_NEVER;
    for (unsigned i = 0; i < s->n_workers; i++)
        if (!s->workers[i].stopped && s->workers[i].due < next)
            next = s->workers[i].due;
    if (next == PTN_NEVER)
        stuck(s, "all actors wait for ever");
    s->now = next;
}

/* Faults that belong to no event in particular. */
static void disturb(struct ptn__sim *s) {
    if (ptn_sim_rng_chance(&s->schedule, s->faults.spurious_ppm))
        sim_wake(&s->base, (unsigned)ptn_sim_rng_below(&s->schedule, s->n_workers));
    if (ptn_sim_rng_chance(&s->schedule, s->faults.wall_step_ppm))
        s->wall_offset_ms =
            (int64_t)ptn_sim_rng_below(&s->schedule, 1 + 2 * (uint64_t)s->faults.wall_step_ms) -
            s->faults.wall_step_ms;
}

static void step(struct ptn__sim *s) {
    unsigned ready[64];
    size_t n_ready, n;
    collect_due(s);
    n = count_choices(s, ready, &n_ready);
    if (n == 0) {
        jump(s);
        return;
    }
    size_t k = ptn_sim_rng_below(&s->schedule, n);
    if (k < n_ready) {
        take_turn(s, &s->workers[ready[k]]);
        note(s, PTN__SIM_TURN, ready[k]);
    } else {
        struct ptn__sim_event e = s->due[k - n_ready];
        s->due[k - n_ready] = s->due[--s->n_due];
        uint64_t id = event_id(&e);
        handle_event(s, &e);
        note(s, e.kind, id);
    }
    disturb(s);
    if (s->stats.steps > s->opts.steps_max)
        stuck(s, "too many steps");
}

static int sim_run(ptn_env *e, unsigned n, const ptn_env_worker_ops *ops, void *const *workers) {
    struct ptn__sim *s = ptn__sim_of(e);
    if (n == 0 || n > PTN_ARRAY_LEN(s->workers) || s->n_workers != 0)
        return -PTN_EINVAL;
    s->n_workers = s->n_left = n;
    for (unsigned i = 0; i < n; i++)
        s->workers[i] = (struct ptn__sim_worker){
            .ops = ops, .worker = workers[i], .due = PTN_NEVER, .runnable = true};
    for (unsigned i = 0; i < n; i++)
        ops->started(workers[i]);
    while (s->n_left > 0)
        step(s);
    return 0;
}

/* ---- birth and end --------------------------------------------------------------------------- */

#define FREE_LIST(type, head)                                                                      \
    for (type *p = (head), *next; p != NULL; p = next) {                                           \
        next = p->next;                                                                            \
        free(p);                                                                                   \
    }

static void sim_free(ptn_env *e) {
    struct ptn__sim *s = ptn__sim_of(e);
#ifdef PTN_WITH_BUGGIFY
    ptn__buggify = (struct ptn_buggify){0};
#endif
    ptn__sim_net_free(s);
    FREE_LIST(ptn_env_watch, s->watches)
    FREE_LIST(ptn_env_lane, s->lanes)
    FREE_LIST(struct ptn__sim_job, s->jobs)
    free(s->heap);
    free(s->due);
    free(s);
}

static const ptn_env_ops sim_ops = {
    .free = sim_free,
    .now = sim_now,
    .wall_ms = sim_wall_ms,
    .random = sim_random,
    .run = sim_run,
    .wake = sim_wake,
    .bind = ptn__sim_bind,
    .endpoint_free = ptn__sim_endpoint_free,
    .listen = ptn__sim_listen,
    .listener_close = ptn__sim_listener_close,
    .transport_open = ptn__sim_transport_open,
    .read_enable = ptn__sim_read_enable,
    .write = ptn__sim_write,
    .want_write = ptn__sim_want_write,
    .shut_write = ptn__sim_shut_write,
    .transport_close = ptn__sim_transport_close,
    .peer = ptn__sim_peer_name,
    .watch = sim_watch,
    .watch_close = sim_watch_close,
    .signal_watch = sim_signal_watch,
    .work = sim_work,
    .lane_open = sim_lane_open,
    .lane_wake = sim_lane_wake,
    .lane_wait = sim_lane_wait,
    .lane_close = sim_lane_close,
};

ptn_env *ptn_env_sim_new(const ptn_sim_opts *opts) {
    struct ptn__sim *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    s->base.ops = &sim_ops;
    s->opts = *opts;
    if (s->opts.steps_max == 0)
        s->opts.steps_max = STEPS_MAX_DEFAULT;
    s->faults = opts->faults;
    s->now = START_NS;
    ptn_sim_rng_seed(&s->schedule, opts->seed);
    ptn_sim_rng_seed(&s->entropy, ~opts->seed);
#ifdef PTN_WITH_BUGGIFY
    ptn_sim_rng_seed(&s->misfortune, opts->seed ^ UINT64_C(0xb099));
    ptn__buggify = (struct ptn_buggify){.hook = buggify, .arg = s};
#endif
    return &s->base;
}

void ptn_sim_stats_read(const ptn_env *e, ptn_sim_stats *ret_s) {
    *ret_s = ptn__sim_of(e)->stats;
}

bool ptn_sim_in_broker(const ptn_env *e) {
    const struct ptn__sim *s = ptn__sim_of(e);
    return s->in_broker > 0 && s->in_env == 0;
}

ptn_time ptn_sim_now(const ptn_env *e) {
    return ptn__sim_of(e)->now;
}

void ptn_sim_pass(ptn_env *e, ptn_time ns) {
    ptn__sim_of(e)->now += ns;
}

void ptn_sim_faults_set(ptn_env *e, const ptn_sim_faults *f) {
    struct ptn__sim *s = ptn__sim_of(e);
    s->faults = *f;
    if (f->wall_step_ppm == 0)
        s->wall_offset_ms = 0;
}
