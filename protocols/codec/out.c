/* SPDX-License-Identifier: Apache-2.0
 *
 * out.c - a growable byte string for output, kept by its owner from message to message.
 *
 * Grows by doubling and never beyond PTN_BUF_BYTES_MAX, because no single message is larger; the
 * error is sticky until ptn_out_clear.  Zero-initialised is empty.  Owner only.
 */
#include <postern/codec.h>
#include <postern/memory.h>

#include <stdlib.h>

#define OUT_BYTES_MIN 256u

void ptn_out_done(ptn_out *o) {
    free(o->p);
    ptn_memory_charge(PTN_POOL_SCRATCH, -(int64_t)o->cap);
    *o = (ptn_out){0};
}

void ptn_out_clear(ptn_out *o) {
    o->len = 0;
    o->err = 0;
}

/* ptn_out_reserve() when what there is does not do. */
uint8_t *ptn__out_grow(ptn_out *o, size_t n) {
    if (o->err != 0)
        return NULL;
    if (n > PTN_BUF_BYTES_MAX - o->len) {
        o->err = -PTN_ETOOBIG;
        return NULL;
    }
    size_t cap = o->cap < OUT_BYTES_MIN ? OUT_BYTES_MIN : o->cap;
    while (cap < o->len + n)
        cap *= 2;
    if (cap > PTN_BUF_BYTES_MAX)
        cap = PTN_BUF_BYTES_MAX;
    uint8_t *p = realloc(o->p, cap);
    if (p == NULL) {
        o->err = -PTN_ENOMEM;
        return NULL;
    }
    ptn_memory_charge(PTN_POOL_SCRATCH, (int64_t)cap - (int64_t)o->cap);
    o->p = p;
    o->cap = cap;
    return p + o->len;
}
