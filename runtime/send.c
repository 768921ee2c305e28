/* SPDX-License-Identifier: Apache-2.0
 *
 * send.c - the sending half of messages: account, fill, hand over.
 *
 * The steady path takes an envelope from the thread's magazine, adds to the receiver's load and
 * appends to its inbox, or, for another worker, to the post that leaves at the end of the batch: no
 * lock, no allocation, no system call; between actors of one worker no locked instruction either,
 * and to another worker one per post, where that is for one receiver.
 */
#include "runtime/mbox.h"

/* ---- bounds ------------------------------------------------------------------------------- */

static __attribute__((noinline)) int refuse(struct ptn__slot *s, size_t len, uint64_t bytes_max) {
    if (len > bytes_max)
        return -PTN_ETOOBIG; /* would not fit into an empty mailbox either */
    atomic_fetch_add_explicit(&s->refused, 1, memory_order_relaxed);
    return -PTN_EOVERLOAD;
}

/* Owner of s.  Reserves room for one message; what came from other threads counts, too.  over: what
 * is bounded, PTN__LOAD_OVER or, when len is 0, PTN__LOAD_OVER_MSGS. */
static inline bool near_reserve(struct ptn__slot *s, size_t len, uint64_t over) {
    uint64_t level =
        atomic_load_explicit(&s->near_level, memory_order_relaxed) + PTN__LOAD_ONE + len;
    if (PTN_UNLIKELY((level & over) != 0))
        return false;
    if (PTN_UNLIKELY(s->notes & PTN__NOTE_FAR) && /* relaxed: a counter */
        ((level + atomic_load_explicit(&s->far_load, memory_order_relaxed)) & over) != 0)
        return false;
    atomic_store_explicit(&s->near_level, level, memory_order_relaxed);
    return true;
}

/* There was no room.  There is some if s is in a batch, and sends to itself. */
static __attribute__((noinline)) int near_reserve_again(struct ptn__worker *w, struct ptn__slot *s,
                                                        size_t len, bool fault) {
    for (ptn_ctx *c = atomic_load_explicit(&w->ctx, memory_order_relaxed); c != NULL; c = c->outer)
        if (c->slot == s)
            ptn__batch_settle(c);
    return !fault && near_reserve(s, len, PTN__LOAD_OVER)
               ? 0
               : refuse(s, len, atomic_load_explicit(&s->bytes_max, memory_order_relaxed));
}

/* Would what lies in s be within its bounds with this load from other threads? */
static inline bool far_fits(const struct ptn__slot *s, uint64_t load) {
    load += atomic_load_explicit(&s->near_seen, memory_order_relaxed);
    return (load >> 40) <= atomic_load_explicit(&s->msgs_max, memory_order_relaxed) &&
           (load & PTN__LOAD_BYTES) <= atomic_load_explicit(&s->bytes_max, memory_order_relaxed);
}

/* Another thread.  Takes room of s, exactly up to the number of concurrent senders and what came
 * from the owner's thread as that last showed it.  False: there is not so much, or less than leave
 * would be left. */
static inline bool far_take(struct ptn__slot *s, uint64_t add, uint64_t leave) {
    /* relaxed: counters; partner is the owner's fetch_sub at the end of a batch */
    uint64_t load = atomic_fetch_add_explicit(&s->far_load, add, memory_order_relaxed);
    if (PTN_LIKELY(far_fits(s, load + add + leave)))
        return true;
    atomic_fetch_sub_explicit(&s->far_load, add, memory_order_relaxed);
    return false;
}

/* The second message in a row to one receiver takes room for as many as the post still holds: the
 * line that is shared with the receiver then moves once per post, not once per message.  As much
 * has to be left, so that hardly anybody is refused for what will be given back. */
static bool far_take_ahead(struct ptn__post *p, struct ptn__slot *s, uint64_t one) {
    uint64_t add = one * (PTN__POST_MAX - p->n);
    ptn__post_room_back(p);
    uint64_t load = atomic_load_explicit(&s->far_load, memory_order_relaxed);
    if (!far_fits(s, load + 2 * add) || !far_take(s, add, add))
        return false;
    p->room = add - one;
    return true;
}

/* The post is that of the sender's worker; NULL: a foreign thread. */
static inline bool far_room(struct ptn__post *p, struct ptn__slot *s, uint64_t one) {
    if (p == NULL)
        return far_take(s, one, 0);
    if (PTN_UNLIKELY(p->slot != s)) {
        ptn__post_room_back(p);
        p->slot = s;
        return far_take(s, one, 0);
    }
    if (PTN_LIKELY(p->room >= PTN__LOAD_ONE &&
                   (p->room & PTN__LOAD_BYTES) >= (one & PTN__LOAD_BYTES))) {
        p->room -= one;
        return true;
    }
    return far_take_ahead(p, s, one) || far_take(s, one, 0);
}

static inline int far_reserve(struct ptn__post *p, struct ptn__slot *s, size_t len) {
    uint64_t one = PTN__LOAD_ONE + len;
    if (PTN_LIKELY(far_room(p, s, one))) {
        if (!PTN_BUGGIFY("mailbox.full"))
            return 0;
        atomic_fetch_sub_explicit(&s->far_load, one, memory_order_relaxed);
    }
    return refuse(s, len, atomic_load_explicit(&s->bytes_max, memory_order_relaxed));
}

/* ---- the path ----------------------------------------------------------------------------- */

#define INLINE static inline __attribute__((always_inline))

INLINE struct ptn__env *env_fill(struct ptn__env *e, const struct ptn__env *proto, ptn_buf *buf,
                                 bool far) {
    e->to = proto->to;
    e->from = proto->from;
    e->corr = proto->corr;
    e->deadline = proto->deadline;
    e->buf = buf;
    e->err = proto->err;
    e->type = proto->type;
    e->enq_us = proto->enq_us;
    e->how = proto->how;
    e->far = far;
    e->payload = buf != NULL;
    return e;
}

INLINE struct ptn__env *envelope_for(ptn_runtime *rt, struct ptn__mag *m, enum ptn__env_kind kind) {
    struct ptn__env *e = ptn__env_get(rt, m);
    if (PTN_UNLIKELY(e == NULL) && kind >= PTN__ENV_REPLY)
        e = ptn__env_get_reserved(rt, kind);
    return e;
}

/* A monitor goes to an actor that has ended, too: what that one said last may still be on its way,
 * and DOWN has to come behind it, so it has to come from there. */
static __attribute__((noinline)) bool watches_the_dead(const ptn_runtime *rt,
                                                       const struct ptn__env *proto) {
    const struct ptn__slot *s = ptn__slot_at(rt, proto->to);
    uint32_t gen = (uint32_t)proto->to;
    /* relaxed: the owner compares env->to; and who was never there has said nothing */
    return proto->kind == PTN__ENV_CONTROL && proto->type == PTN__CTL_MONITOR && s != NULL &&
           (gen & 1) == 1 && atomic_load_explicit(&s->gen, memory_order_relaxed) > gen;
}

/* From another thread than the receiver's.  w NULL: a foreign one. */
static int send_far(ptn_runtime *rt, struct ptn__worker *w, struct ptn__mag *mag,
                    const struct ptn__env *proto, ptn_buf *buf) {
    struct ptn__slot *s = ptn__slot_find(rt, proto->to);
    if (PTN_UNLIKELY(s == NULL) && !watches_the_dead(rt, proto))
        return -PTN_ENOACTOR;
    unsigned to = (unsigned)(proto->to >> 56);
    struct ptn__post *post = w != NULL ? &w->posts[to] : NULL;
    bool bounded = proto->kind <= PTN__ENV_REQUEST;
    size_t len = ptn__payload_len(buf);
    if (bounded) {
        int err = far_reserve(post, s, len);
        if (PTN_UNLIKELY(err < 0))
            return err;
    }
    struct ptn__env *e = envelope_for(rt, mag, proto->kind);
    if (PTN_UNLIKELY(e == NULL)) {
        if (bounded)
            atomic_fetch_sub_explicit(&s->far_load, PTN__LOAD_ONE + len, memory_order_relaxed);
        if (post != NULL)
            ptn__post_room_back(post); /* if it is empty, no flush will */
        return -PTN_ENOMEM;
    }
    env_fill(e, proto, buf, /* far= */ true);
    if (w != NULL) {
        ptn__post_add(w, to, e);
        return 0;
    }
    e->next = NULL;
    if (!ptn__worker_push(rt->workers[to], e, e, /* late= */ 0))
        ptn__env_discard(rt, mag, e); /* nobody lives there any more */
    return 0;
}

/* Of this worker, and not here.  Gone, or created by another worker a moment ago: then its ADOPT
 * waits on our ready stack, and the message goes there, behind it. */
static __attribute__((noinline)) int
send_unborn(struct ptn__worker *w, const struct ptn__env *proto, ptn_buf *take_payload) {
    if (ptn__slot_find(w->rt, proto->to) == NULL)
        return -PTN_ENOACTOR;
    return send_far(w->rt, NULL, &w->mag, proto, take_payload);
}

int ptn__send(struct ptn__worker *w, const struct ptn__env *proto, ptn_buf *take_payload) {
    struct ptn__slot *s = ptn__slot_here(w, proto->to);
    if (s == NULL)
        return (unsigned)(proto->to >> 56) == w->index
                   ? send_unborn(w, proto, take_payload)
                   : send_far(w->rt, w, &w->far_mag, proto, take_payload);
    bool bounded = proto->kind <= PTN__ENV_REQUEST;
    size_t len = bounded ? ptn__payload_len(take_payload) : 0;
    bool fault = bounded && PTN_BUGGIFY("mailbox.full");
    if (bounded && (fault || !near_reserve(s, len, PTN__LOAD_OVER))) {
        int err = near_reserve_again(w, s, len, fault);
        if (err < 0)
            return err;
    }
    struct ptn__env *e = envelope_for(w->rt, &w->mag, proto->kind);
    if (PTN_UNLIKELY(e == NULL)) {
        if (bounded)
            ptn__near_add(s, -(PTN__LOAD_ONE + len));
        return -PTN_ENOMEM;
    }
    ptn__inbox_push(w, s, env_fill(e, proto, take_payload, /* far= */ false));
    return 0;
}

int ptn__send_foreign(ptn_runtime *rt, struct ptn__mag *m, const struct ptn__env *proto,
                      ptn_buf *take_payload) {
    return send_far(rt, NULL, m, proto, take_payload);
}

int ptn__send_control(struct ptn__worker *w, ptn_addr to, ptn_addr from, uint32_t type,
                      uint64_t corr, int err) {
    struct ptn__env e = {.to = to,
                         .from = from,
                         .corr = corr,
                         .deadline = PTN_NEVER,
                         .err = err,
                         .type = type,
                         .kind = PTN__ENV_CONTROL};
    int rc = ptn__send(w, &e, NULL);
    PTN_ASSERT(rc != -PTN_ENOMEM); /* a supervisor that misses a message would wait forever */
    return rc;
}

void ptn__answer_err(struct ptn__worker *w, ptn_addr from, ptn_addr asker, uint64_t corr, int err) {
    if (corr == 0)
        return;
    struct ptn__env e = {.to = asker,
                         .from = from,
                         .corr = corr,
                         .deadline = PTN_NEVER,
                         .err = err,
                         .kind = PTN__ENV_REPLY};
    (void)ptn__send(w, &e, NULL); /* without any memory the asker's deadline decides */
}

/* ---- public ------------------------------------------------------------------------------- */

static inline uint32_t enq_us(const struct ptn__worker *w) {
    return (uint32_t)(w->clock >> 10);
}

INLINE struct ptn__env cast_proto(const ptn_ctx *c, ptn_addr to, uint32_t type) {
    return (struct ptn__env){.to = to,
                             .from = c->slot->self,
                             .deadline = PTN_NEVER,
                             .type = type,
                             .enq_us = enq_us(c->w),
                             .kind = PTN__ENV_CAST};
}

static __attribute__((noinline)) int cast_slow(ptn_ctx *c, ptn_addr to, uint32_t type,
                                               ptn_buf *take_payload) {
    if (type < PTN_MSG_USER)
        return -PTN_EINVAL;
    struct ptn__env proto = cast_proto(c, to, type);
    return ptn__send(c->w, &proto, take_payload);
}

/* ptn__send() written out for what is sent most, so that it calls nothing: the compiler keeps all
 * of it in registers, and fills in no more than a cast has.  Whatever is not as usual, a full
 * mailbox included, is done again there. */
INLINE int cast(ptn_ctx *c, ptn_addr to, uint32_t type, ptn_buf *take_payload, bool payload) {
    struct ptn__worker *w = c->w;
    size_t len = payload ? take_payload->len : 0;
    struct ptn__slot *s = ptn__slot_here(w, to);
    struct ptn__env *e = ptn__env_at_hand(&w->mag);
    if (PTN_UNLIKELY(s == NULL || type < PTN_MSG_USER || e == NULL))
        return cast_slow(c, to, type, take_payload);
    if (PTN_BUGGIFY("mailbox.full"))
        return near_reserve_again(w, s, len, /* fault= */ true);
    if (PTN_UNLIKELY(!near_reserve(s, len, payload ? PTN__LOAD_OVER : PTN__LOAD_OVER_MSGS)))
        return cast_slow(c, to, type, take_payload);
    (void)ptn__env_take(&w->mag, e);
    e->to = to;
    e->from = c->slot->self;
    e->buf = take_payload;
    e->type = type;
    e->enq_us = enq_us(w);
    e->how = PTN__ENV_CAST;
    e->payload = payload;
    ptn__inbox_push(w, s, e);
    return 0;
}

static __attribute__((noinline)) int cast_payload(ptn_ctx *c, ptn_addr to, uint32_t type,
                                                  ptn_buf *take_payload) {
    return cast(c, to, type, take_payload, /* payload= */ true);
}

int ptn_cast(ptn_ctx *c, ptn_addr to, uint32_t type, ptn_buf *take_payload) {
    if (take_payload != NULL)
        return cast_payload(c, to, type, take_payload);
    return cast(c, to, type, NULL, /* payload= */ false);
}

int ptn_publish(ptn_ctx *c, const ptn_addr *to, size_t n, uint32_t type, ptn_buf *take_payload,
                size_t *ret_refused) {
    struct ptn__worker *w = c->w;
    if (type < PTN_MSG_USER || n > UINT32_MAX / 4) {
        ptn_buf_unref(take_payload);
        return -PTN_EINVAL;
    }
    struct ptn__env proto = cast_proto(c, PTN_ADDR_NONE, type);
    size_t refused = 0;
    ptn_buf_refn(take_payload, (uint32_t)n);
    for (size_t i = 0; i < n; i++) {
        proto.to = to[i];
        if (ptn__send(w, &proto, take_payload) < 0) {
            ptn_buf_unref(take_payload);
            refused++;
        }
    }
    ptn_buf_unref(take_payload);
    if (ret_refused != NULL)
        *ret_refused = refused;
    return 0;
}

void ptn__mark_answered(ptn_ctx *c, uint64_t corr) {
    if (c->cur != NULL && c->cur->kind == PTN__ENV_REQUEST && c->cur->corr == corr)
        c->answered = true;
}

int ptn_forward(ptn_ctx *c, const ptn_msg *m, ptn_addr to, uint32_t type) {
    struct ptn__worker *w = c->w;
    if (type < PTN_MSG_USER || m->type < PTN_MSG_USER)
        return -PTN_EINVAL;
    struct ptn__env proto = {.to = to,
                             .from = m->from,
                             .corr = m->corr,
                             .deadline = m->deadline,
                             .type = type,
                             .enq_us = enq_us(w),
                             .kind = m->corr != 0 ? PTN__ENV_REQUEST : PTN__ENV_CAST};
    ptn_buf_ref(m->buf);
    int err = ptn__send(w, &proto, m->buf);
    if (err < 0)
        ptn_buf_unref(m->buf);
    if (err == 0) {
        ptn__mark_answered(c, m->corr);
        ptn__token_remove(c->slot, m->corr); /* whoever has it now answers */
    }
    return err;
}

static int reply_send(ptn_ctx *c, ptn_reply_to r, uint32_t type, int err, ptn_buf *take_payload) {
    if (r.corr == 0)
        return -PTN_EINVAL; /* it was a cast: nobody waits */
    struct ptn__env e = {.to = r.to,
                         .from = c->slot->self,
                         .corr = r.corr,
                         .deadline = PTN_NEVER,
                         .err = err,
                         .type = type,
                         .enq_us = enq_us(c->w),
                         .kind = PTN__ENV_REPLY};
    int rc = ptn__send(c->w, &e, take_payload);
    if (rc == -PTN_ENOMEM)
        return rc;
    ptn__mark_answered(c, r.corr);
    ptn__token_remove(c->slot, r.corr);
    return rc;
}

int ptn_reply(ptn_ctx *c, ptn_reply_to r, uint32_t type, ptn_buf *take_payload) {
    return reply_send(c, r, type, 0, take_payload);
}

int ptn_reply_err(ptn_ctx *c, ptn_reply_to r, int err) {
    return err < 0 ? reply_send(c, r, 0, err, NULL) : -PTN_EINVAL;
}
