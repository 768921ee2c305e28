/* SPDX-License-Identifier: Apache-2.0
 *
 * timer.c - hierarchical timer wheel (1 ms ticks, 6 levels of 32) and the timers of actors.
 *
 * Start and stop are O(1) and allocate nothing: the node is the caller's.  Level l holds timers
 * that are 32^l ticks or more away; when time reaches the start of a slot of a higher level, its
 * timers move down. Whatever lies beyond the last level (12 days) waits in its last slot and is
 * placed again from there.
 *
 * Timers of actors fire at the start of a turn, in the context of their actor, with the protection
 * of a handler.  An expired timer is first collected on a list; its pprev keeps pointing into that
 * list, so that stopping it from another timer's callback still works.
 */
#include "runtime/internal.h"

#define WHEEL_MASK (PTN__WHEEL_SLOTS - 1)
#define WHEEL_SPAN (UINT64_C(1) << (PTN__WHEEL_BITS * PTN__WHEEL_LEVELS))
#define EXPIRE_MAX                                                                                 \
    1024u /* callbacks per turn, so that a burst of timers cannot hold up the sockets */

static void list_push(ptn_timer **head, ptn_timer *t) {
    t->next = *head;
    t->pprev = head;
    if (t->next != NULL)
        t->next->pprev = &t->next;
    *head = t;
}

static void list_remove(ptn_timer *t) {
    *t->pprev = t->next;
    if (t->next != NULL)
        t->next->pprev = t->pprev;
    t->next = NULL;
    t->pprev = NULL;
}

/* Never early: a time within a tick belongs to the tick's end. */
static uint64_t due_tick(ptn_time due) {
    return due / PTN_MS + (due % PTN_MS != 0);
}

void ptn__wheel_init(struct ptn__wheel *wh, ptn_time now) {
    memset(wh, 0, sizeof(*wh));
    wh->tick = now / PTN_MS;
}

/* tick_min: the current tick while it is being processed, else the next one. */
static void wheel_place(struct ptn__wheel *wh, ptn_timer *t, uint64_t tick_min) {
    uint64_t tick = due_tick(t->due);
    tick = tick < tick_min ? tick_min : tick;
    uint64_t delta = tick - wh->tick;
    if (delta >= WHEEL_SPAN) {
        delta = WHEEL_SPAN - 1;
        tick = wh->tick + delta;
    }
    unsigned level = 0;
    if (delta >= PTN__WHEEL_SLOTS)
        level = (unsigned)(63 - __builtin_clzll((unsigned long long)delta)) / PTN__WHEEL_BITS;
    unsigned i = (unsigned)(tick >> (level * PTN__WHEEL_BITS)) & WHEEL_MASK;
    list_push(&wh->slot[level][i], t);
    wh->used[level] |= 1u << i;
}

void ptn__wheel_add(struct ptn__wheel *wh, ptn_timer *t) {
    wheel_place(wh, t, wh->tick + 1);
}

/* Also for a timer on the list of expired ones: its pprev then points outside the wheel. */
void ptn__wheel_remove(struct ptn__wheel *wh, ptn_timer *t) {
    ptn_timer **head = t->pprev;
    bool only = t->next == NULL;
    list_remove(t);
    uintptr_t at = (uintptr_t)head, first = (uintptr_t)&wh->slot[0][0];
    if (only && at >= first && at < first + sizeof(wh->slot)) {
        size_t k = (at - first) / sizeof(wh->slot[0][0]);
        wh->used[k / PTN__WHEEL_SLOTS] &= ~(1u << (k % PTN__WHEEL_SLOTS));
    }
}

/* The next tick at which a slot fires or moves down; UINT64_MAX: the wheel is empty. */
static uint64_t next_tick(const struct ptn__wheel *wh) {
    uint64_t best = UINT64_MAX;
    for (unsigned l = 0; l < PTN__WHEEL_LEVELS; l++) {
        if (wh->used[l] == 0)
            continue;
        uint64_t cur = wh->tick >> (l * PTN__WHEEL_BITS);
        unsigned rot = (unsigned)(cur + 1) & WHEEL_MASK;
        uint32_t bits =
            rot == 0 ? wh->used[l] : (wh->used[l] >> rot | wh->used[l] << (PTN__WHEEL_SLOTS - rot));
        uint64_t tick = (cur + 1 + (unsigned)__builtin_ctz(bits)) << (l * PTN__WHEEL_BITS);
        best = tick < best ? tick : best;
    }
    return best;
}

ptn_time ptn__wheel_next(const struct ptn__wheel *wh) {
    uint64_t tick = next_tick(wh);
    return tick > UINT64_MAX / PTN_MS ? PTN_NEVER : tick * PTN_MS;
}

static void cascade(struct ptn__wheel *wh, unsigned level) {
    unsigned i = (unsigned)(wh->tick >> (level * PTN__WHEEL_BITS)) & WHEEL_MASK;
    ptn_timer *t = wh->slot[level][i];
    wh->slot[level][i] = NULL;
    wh->used[level] &= ~(1u << i);
    while (t != NULL) {
        ptn_timer *next = t->next;
        wheel_place(wh, t, wh->tick);
        t = next;
    }
}

ptn_timer *ptn__wheel_expire(struct ptn__wheel *wh, ptn_time now) {
    uint64_t now_tick = now / PTN_MS;
    uint64_t tick = next_tick(wh);
    if (tick > now_tick) {
        wh->tick = now_tick > wh->tick ? now_tick : wh->tick;
        return NULL;
    }
    wh->tick = tick;
    for (unsigned l = PTN__WHEEL_LEVELS - 1; l > 0; l--) {
        if ((tick & ((UINT64_C(1) << (l * PTN__WHEEL_BITS)) - 1)) == 0)
            cascade(wh, l);
    }
    unsigned i = (unsigned)tick & WHEEL_MASK;
    ptn_timer *due = wh->slot[0][i];
    wh->slot[0][i] = NULL;
    wh->used[0] &= ~(1u << i);
    return due;
}

/* ---- timers of actors --------------------------------------------------------------------- */

static void owner_unlink(ptn_timer *t) {
    if (t->owner_pprev == NULL)
        return;
    *t->owner_pprev = t->owner_next;
    if (t->owner_next != NULL)
        t->owner_next->owner_pprev = t->owner_pprev;
    t->owner_next = NULL;
    t->owner_pprev = NULL;
}

void ptn_timer_start(ptn_ctx *c, ptn_timer *t, ptn_time after, ptn_timer_cb cb, void *arg) {
    struct ptn__slot *s = c->slot;
    ptn_timer_stop(c, t);
    if (s->ending)
        return; /* the actor's timers have been stopped, and none may start again */
    t->due = after > PTN_NEVER - c->w->now ? PTN_NEVER : c->w->now + after;
    t->cb = cb;
    t->arg = arg;
    t->owner = s;
    ptn__wheel_add(&c->w->wheel, t);
    t->owner_next = s->timers;
    t->owner_pprev = &s->timers;
    if (t->owner_next != NULL)
        t->owner_next->owner_pprev = &t->owner_next;
    s->timers = t;
}

void ptn_timer_stop(ptn_ctx *c, ptn_timer *t) {
    if (t->pprev == NULL)
        return;
    ptn__wheel_remove(&c->w->wheel, t);
    owner_unlink(t);
}

void ptn__timers_stop_all(struct ptn__slot *s) {
    while (s->timers != NULL) {
        ptn_timer *t = s->timers;
        ptn__wheel_remove(&s->worker->wheel, t);
        owner_unlink(t);
    }
}

static void timer_fire(ptn_ctx *c, void *state, void *arg) {
    ptn_timer *t = arg;
    t->cb(c, state, t, t->arg);
}

bool ptn__timers_run(struct ptn__worker *w) {
    ptn_timer *due = NULL;
    unsigned fired = 0;
    while (fired < EXPIRE_MAX) {
        ptn_timer *list = ptn__wheel_expire(&w->wheel, w->now);
        if (list == NULL && next_tick(&w->wheel) > w->now / PTN_MS)
            return false;
        due = list;
        if (due != NULL)
            due->pprev = &due; /* callbacks may stop timers that are still on this list */
        while (due != NULL) {
            ptn_timer *t = due;
            struct ptn__slot *s = t->owner;
            list_remove(t);
            owner_unlink(t);
            (void)ptn__call(w, s->self, timer_fire, t);
            fired++;
        }
        if (PTN_BUGGIFY("timers.cut"))
            return true;
    }
    return true;
}
