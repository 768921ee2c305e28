/* SPDX-License-Identifier: Apache-2.0
 *
 * stream_join_test.c - frames joined for one stream, and for the next with the same frames.
 */
#include "runtime/stream_internal.h"

#include <criterion/criterion.h>

#define RING 1024u

static struct ptn__streams st;
static ptn_frame *ring[RING];

static void frames_make(uint32_t n, size_t len) {
    for (uint32_t i = 0; i < n; i++) {
        ring[i] = ptn_frame_new(len);
        cr_assert_not_null(ring[i]);
        memset(ring[i]->data, (int)('a' + i % 26), len);
        ring[i]->len = (uint32_t)len;
    }
}

static void frames_drop(uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        ring[i] = ptn_frame_unref(ring[i]);
}

static void end(uint32_t n) {
    ptn__join_done(&st);
    for (uint32_t i = 0; i < n; i++)
        cr_assert_eq(ring[i]->refs, 1, "frame %u is still held", i);
    frames_drop(n);
    ptn__frame_pool_done();
}

/* The joined piece must be what the frames say, from the first on. */
static uint32_t join(uint32_t head, uint32_t n, ptn_iov *ret_v) {
    struct ptn__queue_view q = {ring, head, RING - 1, n};
    uint32_t joined = ptn__join(&st, &q, ret_v);
    const uint8_t *p = ret_v->base;
    size_t at = 0;
    for (uint32_t i = 0; i < joined; i++) {
        const ptn_frame *f = ring[(head + i) & (RING - 1)];
        cr_assert_eq(memcmp(p + at, f->data, f->len), 0, "frame %u", i);
        at += f->len;
    }
    cr_assert_eq(at, ret_v->len);
    return joined;
}

Test(stream_join, the_same_frames_are_copied_once) {
    ptn_iov v;
    frames_make(3, 100);
    cr_assert_eq(join(0, 3, &v), 3);
    ((uint8_t *)(uintptr_t)ring[1]->data)[0] ^= 1; /* would show in a second copy */
    struct ptn__queue_view q = {ring, 0, RING - 1, 3};
    cr_assert_eq(ptn__join(&st, &q, &v), 3);
    cr_assert_eq(((const uint8_t *)v.base)[100], 'b');
    end(3);
}

Test(stream_join, other_frames_are_another_copy) {
    ptn_iov v;
    frames_make(5, 70);
    cr_assert_eq(join(0, 3, &v), 3);
    cr_assert_eq(join(0, 4, &v), 4, "the same and one more");
    cr_assert_eq(join(0, 3, &v), 3, "the same without the last");
    cr_assert_eq(join(1, 3, &v), 3, "the same length, another start");
    cr_assert_eq(ring[0]->refs, 1, "what is no longer joined is let go");
    ptn__join_release(&st);
    cr_assert_eq(ring[1]->refs, 1);
    cr_assert_eq(join(1, 3, &v), 3, "after the end of a turn");
    end(5);
}

Test(stream_join, a_ring_that_wraps) {
    ptn_iov v;
    frames_make(RING, 10);
    cr_assert_eq(join(RING - 2, 5, &v), 5);
    cr_assert_eq(v.len, 50);
    end(RING);
}

Test(stream_join, bounds) {
    ptn_iov v;
    frames_make(RING, 1);
    cr_assert_eq(join(0, RING, &v), 512, "frames");
    cr_assert_eq(join(0, 900, &v), 512, "another queue that begins the same");
    frames_drop(RING);
    frames_make(100, 2000);
    cr_assert_eq(join(0, 100, &v), 32, "bytes");
    frames_drop(100);
    frames_make(4, 100);
    ptn_frame_unref(ring[2]);
    ring[2] = ptn_frame_new(3000);
    ring[2]->len = 3000;
    cr_assert_eq(join(0, 4, &v), 2, "up to a large frame");
    cr_assert_eq(join(2, 2, &v), 0, "a large frame first");
    end(4);
}
