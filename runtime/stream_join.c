/* SPDX-License-Identifier: Apache-2.0
 *
 * stream_join.c - many small frames as one run of bytes.
 *
 * The kernel copies one long piece at the speed of memory, but starts each piece of a gathered
 * write anew, which costs more than the bytes of a small frame; and subscribers of one topic have
 * the same frames in their queues, in the same order.  So the frames are copied together once, and
 * every stream whose queue begins with them sends that copy.  docs/performance.md has the figures.
 *
 * The copy stays right because the frames in it are referenced, so that no other frame takes their
 * place, and shared, so that nobody writes to them: the private last frame of a stream is never
 * joined.
 */
#include "runtime/stream_internal.h"

#include <stdlib.h>

#define JOIN_BYTES (64u << 10)
#define JOIN_FRAMES_MAX 512u
#define JOIN_FRAME_BYTES 2048u /* a larger frame gains nothing */

struct ptn__join {
    uint32_t n;
    uint32_t bytes;
    bool full; /* a longer queue would not have been joined further */
    ptn_frame *frames[JOIN_FRAMES_MAX];
    uint8_t data[JOIN_BYTES];
};

static bool is_same(const struct ptn__join *j, const struct ptn__queue_view *q) {
    if (j->n == 0 || (j->full ? q->n < j->n : q->n != j->n))
        return false;
    for (uint32_t i = 0; i < j->n; i++)
        if (j->frames[i] != q->ring[(q->head + i) & q->mask])
            return false;
    return true;
}

static void join_clear(struct ptn__join *j) {
    for (uint32_t i = 0; i < j->n; i++)
        ptn_frame_unref(j->frames[i]);
    j->n = j->bytes = 0;
    j->full = false;
}

static void join_build(struct ptn__join *j, const struct ptn__queue_view *q) {
    join_clear(j);
    for (uint32_t i = 0; i < q->n; i++) {
        ptn_frame *f = q->ring[(q->head + i) & q->mask];
        j->full =
            j->n == JOIN_FRAMES_MAX || f->len > JOIN_FRAME_BYTES || f->len > JOIN_BYTES - j->bytes;
        if (j->full)
            return;
        memcpy(j->data + j->bytes, f->data, f->len);
        j->bytes += f->len;
        j->frames[j->n++] = ptn_frame_ref(f);
    }
}

uint32_t ptn__join(struct ptn__streams *st, const struct ptn__queue_view *q, ptn_iov *ret_v) {
    if (st->join == NULL) {
        st->join = malloc(sizeof *st->join);
        if (st->join == NULL)
            return 0;
        st->join->n = st->join->bytes = 0;
        st->join->full = false;
    }
    struct ptn__join *j = st->join;
    if (!is_same(j, q))
        join_build(j, q);
    *ret_v = (ptn_iov){.base = j->data, .len = j->bytes};
    return j->n;
}

void ptn__join_release(struct ptn__streams *st) {
    if (st->join != NULL)
        join_clear(st->join);
}

void ptn__join_done(struct ptn__streams *st) {
    ptn__join_release(st);
    free(st->join);
    st->join = NULL;
}
