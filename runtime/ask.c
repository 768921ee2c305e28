/* SPDX-License-Identifier: Apache-2.0
 *
 * ask.c - requests that wait for an answer, on both sides: the asker's table and the callee's
 * tokens.
 *
 * The table belongs to one actor and is touched by its worker alone.  Whatever comes first (reply,
 * deadline, cancel, end of the asker) takes the entry out; everything later misses and is counted
 * as a late reply.  Replies have room of their own: an actor may have as many asks outstanding as
 * its mailbox holds messages, and ptn_ask() refuses the next one, so a reply itself is never
 * refused.
 *
 * A correlation is worker:8 | counter:56, so it is unique in the process and can name a request in
 * the callee's token table.  Tokens are registered so that the callee's crash answers them at once.
 */
#include "runtime/mbox.h"

#include <stdlib.h>

#define ASK_DEFAULT_NS (30 * PTN_SEC) /* there is no infinite ask */
#define TOKENS_MAX 65536u             /* past it a crash is noticed at the deadline only */
#define POOL_MAX 4096u                /* of a worker's idle asks, and of its idle tokens */

struct ptn__ask {
    struct ptn__ask *next; /* free list */
    uint64_t corr;
    ptn_reply_cb cb;
    void *arg;
    ptn_time inherited; /* the deadline under which the ask was made */
    bool through;       /* see ptn_ask_through() */
    ptn_timer timer;
};

enum ask_kind { PLAIN, LASTING, THROUGH };

static struct ptn__ask *ask_get(struct ptn__worker *w) {
    struct ptn__ask *a = w->ask_free;
    if (a == NULL) {
        a = calloc(1, sizeof(*a));
        w->n_ask_made += a != NULL;
        return a;
    }
    w->ask_free = a->next;
    w->n_ask_free--;
    return a;
}

static void ask_put(struct ptn__worker *w, struct ptn__ask *a) {
    if (w->n_ask_free == POOL_MAX) {
        free(a);
        w->n_ask_made--;
        return;
    }
    a->next = w->ask_free;
    w->ask_free = a;
    w->n_ask_free++;
}

void ptn__ask_pool_done(struct ptn__worker *w) {
    /* none was lost on its way */
    PTN_DEBUG_ASSERT(w->n_ask_free == w->n_ask_made && w->n_token_free == w->n_token_made);
    while (w->ask_free != NULL) {
        struct ptn__ask *a = w->ask_free;
        w->ask_free = a->next;
        free(a);
    }
    w->n_ask_free = w->n_ask_made = 0;
    while (w->token_free != NULL) {
        struct ptn__token *t = w->token_free;
        w->token_free = t->next;
        free(t);
    }
    w->n_token_free = w->n_token_made = 0;
}

/* Takes the entry out; the caller then owns it. */
static struct ptn__ask *ask_take(struct ptn__slot *s, uint64_t corr) {
    struct ptn__ask *a = ptn__map_take(&s->cold->asks, corr);
    if (a != NULL && a->timer.pprev != NULL)
        ptn__wheel_remove(&s->worker->wheel, &a->timer);
    return a;
}

/* Ends an ask that is out of the table already. */
static void ask_end(ptn_ctx *c, struct ptn__ask *a, int err, const ptn_msg *reply) {
    ptn_reply_cb cb = a->cb;
    void *arg = a->arg;
    c->deadline = a->inherited;
    ask_put(c->w, a); /* first: cb may not return */
    cb(c, c->slot->state, err, reply, arg);
}

static void ask_expired(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    (void)state;
    (void)t;
    struct ptn__ask *a = ask_take(c->slot, ((struct ptn__ask *)arg)->corr);
    PTN_ASSERT(a == arg);
    ask_end(c, a, a->through ? -PTN_ECRASHED : -PTN_EDEADLINE, NULL);
}

static int ask(ptn_ctx *c, ptn_addr to, uint32_t type, ptn_buf *take_payload, ptn_time deadline,
               enum ask_kind kind, ptn_reply_cb cb, void *arg, uint64_t *ret_corr) {
    struct ptn__worker *w = c->w;
    struct ptn__slot *s = c->slot;
    if (type < PTN_MSG_USER || cb == NULL)
        return -PTN_EINVAL;
    if (s->ending)
        return -PTN_ESTOPPING;
    if (s->cold->asks.n >= atomic_load_explicit(&s->msgs_max, memory_order_relaxed))
        return -PTN_EOVERLOAD; /* no room for one more reply */
    if (deadline == PTN_NEVER)
        deadline = w->now + ASK_DEFAULT_NS;
    if (kind != LASTING && c->deadline < deadline)
        deadline = c->deadline;
    if (PTN_BUGGIFY("ask.deadline") && w->now + PTN_MS < deadline)
        deadline = w->now + PTN_MS; /* the answer and the deadline race */
    struct ptn__cold *k = ptn__cold_own(s);
    struct ptn__ask *a = k != NULL ? ask_get(w) : NULL;
    if (a == NULL)
        return -PTN_ENOMEM;
    uint64_t corr = (uint64_t)(w->index + 1) << 56 | ++w->corr_next;
    int err = ptn__map_put(&k->asks, corr, a);
    if (err == 0) {
        struct ptn__env e = {.to = to,
                             .from = s->self,
                             .corr = corr,
                             .deadline = kind == LASTING ? PTN_NEVER : deadline,
                             .type = type,
                             .enq_us = (uint32_t)(w->clock >> 10),
                             .kind = PTN__ENV_REQUEST};
        err = ptn__send(w, &e, take_payload);
        if (err < 0)
            (void)ptn__map_take(&k->asks, corr);
    }
    if (err < 0) {
        ask_put(w, a);
        return err;
    }
    bool through = kind == THROUGH;
    *a = (struct ptn__ask){.corr = corr,
                           .cb = cb,
                           .arg = arg,
                           .inherited = kind == PLAIN ? c->deadline : PTN_NEVER,
                           .through = through};
    a->timer = (ptn_timer){.due = deadline + (through ? PTN_ASK_THROUGH_NS : 0),
                           .cb = ask_expired,
                           .arg = a,
                           .owner = s};
    ptn__wheel_add(&w->wheel, &a->timer);
    if (ret_corr != NULL)
        *ret_corr = corr;
    return 0;
}

int ptn_ask(ptn_ctx *c, ptn_addr to, uint32_t type, ptn_buf *take_payload, ptn_time deadline,
            ptn_reply_cb cb, void *arg, uint64_t *ret_corr) {
    return ask(c, to, type, take_payload, deadline, PLAIN, cb, arg, ret_corr);
}

int ptn_ask_lasting(ptn_ctx *c, ptn_addr to, uint32_t type, ptn_buf *take_payload,
                    ptn_time deadline, ptn_reply_cb cb, void *arg, uint64_t *ret_corr) {
    return ask(c, to, type, take_payload, deadline, LASTING, cb, arg, ret_corr);
}

int ptn_ask_through(ptn_ctx *c, ptn_addr to, uint32_t type, ptn_buf *take_payload,
                    ptn_time deadline, ptn_reply_cb cb, void *arg, uint64_t *ret_corr) {
    return ask(c, to, type, take_payload, deadline, THROUGH, cb, arg, ret_corr);
}

int ptn_ask_cancel(ptn_ctx *c, uint64_t corr) {
    struct ptn__ask *a = ask_take(c->slot, corr);
    if (a == NULL)
        return -PTN_ENOTFOUND;
    ask_put(c->w, a);
    return 0;
}

void ptn__ask_reply(ptn_ctx *c, const struct ptn__env *e, ptn_buf *buf) {
    struct ptn__ask *a = ask_take(c->slot, e->corr);
    if (a == NULL) {
        ptn__count(&c->w->late_replies, 1);
        return;
    }
    ptn_bytes b = ptn_buf_bytes(buf);
    ptn_msg m = {.from = e->from,
                 .type = e->type,
                 .corr = e->corr,
                 .deadline = e->deadline,
                 .data = b.p,
                 .len = b.n,
                 .buf = b.n > 0 ? buf : NULL};
    ask_end(c, a, e->err, e->err == 0 ? &m : NULL);
}

static struct ptn__ask *ask_any(const struct ptn__slot *s) {
    const struct ptn__map *asks = &s->cold->asks;
    for (uint32_t i = 0; i < asks->cap; i++) {
        if (asks->keys[i] != 0)
            return asks->vals[i];
    }
    return NULL;
}

void ptn__asks_end(ptn_ctx *c) {
    PTN_ASSERT(c->slot->ending); /* no new asks, so this ends */
    for (struct ptn__ask *a = ask_any(c->slot); a != NULL; a = ask_any(c->slot))
        ask_end(c, ask_take(c->slot, a->corr), -PTN_ESTOPPING, NULL);
}

void ptn__asks_cancel(struct ptn__slot *s) {
    struct ptn__map *asks = &s->cold->asks;
    if (asks->cap == 0)
        return;
    for (uint32_t i = 0; i < asks->cap; i++) {
        if (asks->keys[i] == 0)
            continue;
        struct ptn__ask *a = asks->vals[i];
        if (a->timer.pprev != NULL)
            ptn__wheel_remove(&s->worker->wheel, &a->timer);
        ask_put(s->worker, a);
    }
    ptn__map_done(asks);
}

/* ---- tokens ------------------------------------------------------------------------------- */

static struct ptn__token *token_get(struct ptn__worker *w) {
    struct ptn__token *t = w->token_free;
    if (t == NULL) {
        t = malloc(sizeof(*t));
        w->n_token_made += t != NULL;
        return t;
    }
    w->token_free = t->next;
    w->n_token_free--;
    return t;
}

static void token_put(struct ptn__worker *w, struct ptn__token *t) {
    if (w->n_token_free == POOL_MAX) {
        free(t);
        w->n_token_made--;
        return;
    }
    t->next = w->token_free;
    w->token_free = t;
    w->n_token_free++;
}

/* Drops the tokens whose asker has stopped waiting. */
static void tokens_sweep(struct ptn__worker *w, struct ptn__cold *k) {
    struct ptn__map keep = {0};
    for (uint32_t i = 0; i < k->tokens.cap; i++) {
        if (k->tokens.keys[i] == 0)
            continue;
        struct ptn__token *t = k->tokens.vals[i];
        if (t->deadline < w->now || ptn__map_put(&keep, k->tokens.keys[i], t) < 0)
            token_put(w, t);
    }
    ptn__map_done(&k->tokens);
    k->tokens = keep;
    k->tokens_sweep_at = keep.n * 2 < 64 ? 64 : keep.n * 2;
}

ptn_reply_to ptn_reply_token(ptn_ctx *c, const ptn_msg *req) {
    struct ptn__slot *s = c->slot;
    ptn_reply_to r = {.to = req->from, .corr = req->corr, .deadline = req->deadline};
    if (req->corr == 0 || req->type < PTN_MSG_USER || s->ending ||
        ptn__map_get(&s->cold->tokens, req->corr) != NULL)
        return r;
    struct ptn__cold *k = ptn__cold_own(s);
    if (k == NULL)
        return r;
    if (k->tokens.n >= k->tokens_sweep_at)
        tokens_sweep(c->w, k);
    struct ptn__token *t = k->tokens.n < TOKENS_MAX ? token_get(c->w) : NULL;
    if (t != NULL) {
        *t = (struct ptn__token){.to = req->from, .deadline = req->deadline};
        if (ptn__map_put(&k->tokens, req->corr, t) < 0)
            token_put(c->w, t);
    }
    return r;
}

void ptn__token_remove(struct ptn__slot *s, uint64_t corr) {
    struct ptn__token *t = s->cold->tokens.n > 0 ? ptn__map_take(&s->cold->tokens, corr) : NULL;
    if (t != NULL)
        token_put(s->worker, t);
}

void ptn__tokens_answer(struct ptn__slot *s, int err) {
    struct ptn__cold *k = s->cold;
    if (k->tokens.cap == 0)
        return;
    for (uint32_t i = 0; i < k->tokens.cap; i++) {
        if (k->tokens.keys[i] == 0)
            continue;
        struct ptn__token *t = k->tokens.vals[i];
        if (err != 0 && t->deadline > s->worker->now) /* else its asker has stopped waiting */
            ptn__answer_err(s->worker, s->self, t->to, k->tokens.keys[i], err);
        token_put(s->worker, t);
    }
    ptn__map_done(&k->tokens);
    k->tokens_sweep_at = 0;
}
