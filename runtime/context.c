/* SPDX-License-Identifier: Apache-2.0
 *
 * context.c - what a handler can ask its context for: identity, time, memory, resources, failure.
 *
 * A ptn_ctx lives on the stack of one entry into an actor.  All of it: owner worker only.
 */
#include "runtime/internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define TURN_END_MAX 65536u /* callbacks waiting on one worker */
#define TURN_END_KEPT 16u   /* of them have memory always: who asks is often in the middle */

struct ptn__defer {
    struct ptn__defer *next;
    void (*fn)(void *arg);
    void *arg;
};

ptn_runtime *ptn_ctx_runtime(const ptn_ctx *c) {
    return c->w->rt;
}

unsigned ptn_worker(const ptn_ctx *c) {
    return c->w->index;
}

ptn_addr ptn_self(const ptn_ctx *c) {
    return c->slot->self;
}

void *ptn_self_state(const ptn_ctx *c) {
    return c->slot->state;
}

ptn_time ptn_now(const ptn_ctx *c) {
    return c->w->now;
}

ptn_time ptn_clock(const ptn_ctx *c) {
    return c->w->env->ops->now(c->w->env);
}

int64_t ptn_wall_ms(const ptn_ctx *c) {
    return c->w->env->ops->wall_ms(c->w->env);
}

void ptn_random(ptn_ctx *c, void *p, size_t n) {
    c->w->env->ops->random(c->w->env, p, n);
}

void *ptn_alloc(ptn_ctx *c, size_t n) {
    return ptn__arena_alloc(&c->slot->arena, n);
}

void *ptn_scratch(ptn_ctx *c, size_t n) {
    return ptn__arena_alloc(&c->w->scratch, n);
}

int ptn_defer(ptn_ctx *c, void (*fn)(void *arg), void *arg) {
    if (fn == NULL)
        return -PTN_EINVAL;
    struct ptn__cold *k = ptn__cold_own(c->slot);
    struct ptn__defer *d = k != NULL ? ptn__arena_alloc(&c->slot->arena, sizeof(*d)) : NULL;
    if (d == NULL)
        return -PTN_ENOMEM;
    *d = (struct ptn__defer){.next = k->defers, .fn = fn, .arg = arg};
    k->defers = d;
    return 0;
}

void ptn__defers_run(struct ptn__slot *s) {
    while (s->cold->defers != NULL) {
        struct ptn__defer *d = s->cold->defers;
        s->cold->defers = d->next;
        d->fn(d->arg);
    }
}

void ptn_exit(ptn_ctx *c, int reason) {
    ptn__exit_note(c->slot, reason);
}

_Noreturn void ptn_fail(ptn_ctx *c, int reason, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(c->w->fail_text, sizeof(c->w->fail_text), fmt, ap);
    va_end(ap);
    c->fail_reason = reason < 0 ? -reason : reason;
    _longjmp(c->jmp, 1);
}

/* ---- resources ---------------------------------------------------------------------------- */

int ptn__resource_add(ptn_ctx *c, struct ptn__resource *r) {
    struct ptn__cold *k = ptn__cold_own(c->slot);
    if (k == NULL)
        return -PTN_ENOMEM;
    r->next = k->resources;
    r->pprev = &k->resources;
    if (r->next != NULL)
        r->next->pprev = &r->next;
    k->resources = r;
    return 0;
}

void ptn__resource_remove(struct ptn__resource *r) {
    if (r->pprev == NULL)
        return;
    *r->pprev = r->next;
    if (r->next != NULL)
        r->next->pprev = r->pprev;
    r->next = NULL;
    r->pprev = NULL;
}

/* Newest first.  A close() that opens another resource does not escape: the list is run until it is
 * empty. */
void ptn__resources_close(struct ptn__slot *s, ptn_ctx *c, int reason) {
    while (s->cold->resources != NULL) {
        struct ptn__resource *r = s->cold->resources;
        ptn__resource_remove(r);
        r->close(r, c, reason);
    }
}

/* ---- end of turn -------------------------------------------------------------------------- */

int ptn__turn_ends_init(struct ptn__worker *w) {
    w->turn_end_tail = &w->turn_end_head;
    for (; w->n_turn_ends < TURN_END_KEPT; w->n_turn_ends++) {
        struct ptn__turn_end *t = malloc(sizeof(*t));
        if (t == NULL)
            return -PTN_ENOMEM;
        t->next = w->turn_end_free;
        w->turn_end_free = t;
    }
    return 0;
}

void ptn_at_turn_end(ptn_ctx *c, void (*cb)(ptn_ctx *c, void *state, void *arg), void *arg) {
    struct ptn__worker *w = c->w;
    struct ptn__turn_end *t = w->turn_end_free;
    if (t != NULL) {
        w->turn_end_free = t->next;
    } else if (w->n_turn_ends < TURN_END_MAX) {
        t = malloc(sizeof(*t));
        w->n_turn_ends += t != NULL;
    }
    if (t == NULL)
        ptn_fail(c, PTN_ENOMEM, "no room for another end-of-turn callback");
    *t = (struct ptn__turn_end){
        .owner = c->slot->self, .incarnation = c->slot->incarnation, .cb = cb, .arg = arg};
    *w->turn_end_tail = t;
    w->turn_end_tail = &t->next;
}

static void turn_end_call(ptn_ctx *c, void *state, void *arg) {
    const struct ptn__turn_end *t = arg;
    if (c->slot->incarnation == t->incarnation)
        t->cb(c, state, t->arg);
}

/* Runs what was registered before the call; what the callbacks register waits for the next turn. */
void ptn__turn_ends_run(struct ptn__worker *w) {
    struct ptn__turn_end *t = w->turn_end_head;
    w->turn_end_head = NULL;
    w->turn_end_tail = &w->turn_end_head;
    while (t != NULL) {
        struct ptn__turn_end *next = t->next;
        (void)ptn__call(w, t->owner, turn_end_call, t);
        t->next = w->turn_end_free;
        w->turn_end_free = t;
        t = next;
    }
}

void ptn__turn_ends_done(struct ptn__worker *w) {
    *w->turn_end_tail = w->turn_end_free;
    while (w->turn_end_head != NULL) {
        struct ptn__turn_end *t = w->turn_end_head;
        w->turn_end_head = t->next;
        free(t);
    }
    w->turn_end_free = NULL;
    w->turn_end_tail = &w->turn_end_head;
}
