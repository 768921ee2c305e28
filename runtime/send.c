/* SPDX-License-Identifier: Apache-2.0
 *
 * send.c - the sending half of messages: account, fill, push, schedule.
 *
 * The steady path takes an envelope from the thread's magazine, adds to the receiver's load,
 * exchanges the mailbox head and returns: no lock, no allocation, no system call.  A receiver that
 * was idle is put on the private run queue when the sender's worker owns it, else on that worker's
 * ready stack.
 */
#include "runtime/mbox.h"

#define LOAD_BYTES_MASK (PTN__LOAD_ONE - 1)

static inline struct ptn__sender sender_of(struct ptn__worker *w) {
    return (struct ptn__sender){.rt = w->rt, .w = w, .mag = &w->mag};
}

/* Reserves room for one message.  The bound is exact up to the number of concurrent senders. */
static int load_add(struct ptn__slot *s, size_t len) {
    uint64_t bytes_max = atomic_load_explicit(&s->bytes_max, memory_order_relaxed);
    if (PTN_UNLIKELY(len > bytes_max))
        return -PTN_ETOOBIG; /* would not fit into an empty mailbox either */
    uint64_t add = PTN__LOAD_ONE + len;
    /* relaxed: a counter; partner is the owner's fetch_sub at the end of a batch */
    uint64_t old = atomic_fetch_add_explicit(&s->mbox_load, add, memory_order_relaxed);
    if (PTN_LIKELY((old >> 40) < atomic_load_explicit(&s->msgs_max, memory_order_relaxed) &&
                   (old & LOAD_BYTES_MASK) + len <= bytes_max) &&
        !PTN_BUGGIFY("mailbox.full"))
        return 0;
    atomic_fetch_sub_explicit(&s->mbox_load, add, memory_order_relaxed);
    atomic_fetch_add_explicit(&s->refused, 1, memory_order_relaxed);
    return -PTN_EOVERLOAD;
}

static inline void post(struct ptn__worker *w, struct ptn__slot *s, struct ptn__env *e) {
    if (!ptn__mbox_push(s, e, e))
        return;
    if (w == s->worker)
        ptn__runq_push(w, s);
    else
        ptn__worker_schedule(s->worker, s);
}

static inline struct ptn__env *env_fill(struct ptn__env *e, const struct ptn__env *proto,
                                        ptn_buf *buf) {
    e->to = proto->to;
    e->from = proto->from;
    e->corr = proto->corr;
    e->deadline = proto->deadline;
    e->buf = buf;
    e->err = proto->err;
    e->type = proto->type;
    e->enq_us = proto->enq_us;
    e->kind = proto->kind;
    return e;
}

static inline int send_bounded(ptn_runtime *rt, struct ptn__worker *w, struct ptn__mag *mag,
                               const struct ptn__env *proto, ptn_buf *buf) {
    struct ptn__slot *s = ptn__slot_find(rt, proto->to);
    if (PTN_UNLIKELY(s == NULL))
        return -PTN_ENOACTOR;
    size_t len = ptn_buf_bytes(buf).n;
    int err = load_add(s, len);
    if (PTN_UNLIKELY(err < 0))
        return err;
    struct ptn__env *e = ptn__env_get(rt, mag);
    if (PTN_UNLIKELY(e == NULL)) {
        atomic_fetch_sub_explicit(&s->mbox_load, PTN__LOAD_ONE + len, memory_order_relaxed);
        return -PTN_ENOMEM;
    }
    post(w, s, env_fill(e, proto, buf));
    return 0;
}

int ptn__send(const struct ptn__sender *from, const struct ptn__env *proto, ptn_buf *take_payload) {
    return send_bounded(from->rt, from->w, from->mag, proto, take_payload);
}

int ptn__send_unbounded(const struct ptn__sender *from, const struct ptn__env *proto,
                        ptn_buf *take_payload) {
    struct ptn__slot *s = ptn__slot_find(from->rt, proto->to);
    if (s == NULL)
        return -PTN_ENOACTOR;
    struct ptn__env *e = ptn__env_get(from->rt, from->mag);
    if (e == NULL)
        return -PTN_ENOMEM;
    post(from->w, s, env_fill(e, proto, take_payload));
    return 0;
}

void ptn__send_control(struct ptn__worker *w, ptn_addr to, ptn_addr from, uint32_t type,
                       uint64_t corr, int err) {
    struct ptn__sender sender = sender_of(w);
    struct ptn__env e = {.to = to,
                         .from = from,
                         .corr = corr,
                         .deadline = PTN_NEVER,
                         .err = err,
                         .type = type,
                         .kind = PTN__ENV_CONTROL};
    int rc = ptn__send_unbounded(&sender, &e, NULL);
    PTN_ASSERT(rc != -PTN_ENOMEM); /* a supervisor that misses a message would wait forever */
}

void ptn__answer_err(struct ptn__worker *w, ptn_addr from, ptn_addr asker, uint64_t corr, int err) {
    if (corr == 0)
        return;
    struct ptn__sender sender = sender_of(w);
    struct ptn__env e = {.to = asker,
                         .from = from,
                         .corr = corr,
                         .deadline = PTN_NEVER,
                         .err = err,
                         .kind = PTN__ENV_REPLY};
    (void)ptn__send_unbounded(&sender, &e, NULL); /* without memory the asker's deadline decides */
}

/* ---- public ------------------------------------------------------------------------------- */

static inline uint32_t enq_us(const struct ptn__worker *w) {
    return (uint32_t)(w->clock >> 10);
}

int ptn_cast(ptn_ctx *c, ptn_addr to, uint32_t type, ptn_buf *take_payload) {
    struct ptn__worker *w = c->w;
    if (PTN_UNLIKELY(type < PTN_MSG_USER))
        return -PTN_EINVAL;
    struct ptn__env proto = {.to = to,
                             .from = c->slot->self,
                             .deadline = PTN_NEVER,
                             .type = type,
                             .enq_us = enq_us(w),
                             .kind = PTN__ENV_CAST};
    return send_bounded(w->rt, w, &w->mag, &proto, take_payload);
}

int ptn_publish(ptn_ctx *c, const ptn_addr *to, size_t n, uint32_t type, ptn_buf *take_payload,
                size_t *ret_refused) {
    struct ptn__worker *w = c->w;
    if (type < PTN_MSG_USER || n > UINT32_MAX / 4) {
        ptn_buf_unref(take_payload);
        return -PTN_EINVAL;
    }
    struct ptn__env proto = {.from = c->slot->self,
                             .deadline = PTN_NEVER,
                             .type = type,
                             .enq_us = enq_us(w),
                             .kind = PTN__ENV_CAST};
    size_t refused = 0;
    ptn_buf_refn(take_payload, (uint32_t)n);
    for (size_t i = 0; i < n; i++) {
        proto.to = to[i];
        if (send_bounded(w->rt, w, &w->mag, &proto, take_payload) < 0) {
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
    int err = send_bounded(w->rt, w, &w->mag, &proto, m->buf);
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
    struct ptn__sender sender = sender_of(c->w);
    struct ptn__env e = {.to = r.to,
                         .from = c->slot->self,
                         .corr = r.corr,
                         .deadline = PTN_NEVER,
                         .err = err,
                         .type = type,
                         .enq_us = enq_us(c->w),
                         .kind = PTN__ENV_REPLY};
    int rc = ptn__send_unbounded(&sender, &e, take_payload);
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
