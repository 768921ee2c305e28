/* SPDX-License-Identifier: Apache-2.0
 *
 * frame_test.c - frames: sizes, counts, and reuse through the free lists.
 */
#include <criterion/criterion.h>
#include <postern/stream.h>

#include "runtime/stream_internal.h"

Test(frame, has_room_for_what_was_asked_and_starts_empty) {
    static const size_t caps[] = {0, 1, 111, 112, 113, 1000, 65519, 65520, 65521, 1u << 20};
    for (size_t i = 0; i < PTN_ARRAY_LEN(caps); i++) {
        ptn_frame *f = ptn_frame_new(caps[i]);
        cr_assert_not_null(f);
        cr_assert_geq(f->cap, caps[i]);
        cr_assert_eq(f->len, 0);
        cr_assert_eq(f->refs, 1);
        memset(f->data, 0xa5, f->cap); /* all of it is ours */
        cr_assert_null(ptn_frame_unref(f));
    }
    ptn__frame_pool_done();
}

Test(frame, refuses_what_its_length_cannot_say) {
    cr_assert_null(ptn_frame_new((size_t)UINT32_MAX));
    cr_assert_null(ptn_frame_new(SIZE_MAX));
}

Test(frame, lives_until_the_last_reference) {
    ptn_frame *f = ptn_frame_new(10);
    cr_assert_eq(ptn_frame_ref(f), f);
    cr_assert_eq(f->refs, 2);
    ptn_frame_unref(f);
    cr_assert_eq(f->refs, 1);
    ptn_frame_unref(f);
    cr_assert_null(ptn_frame_unref(NULL));
    ptn__frame_pool_done();
}

#ifndef PTN_SANITIZE
Test(frame, comes_back_from_the_free_list_of_its_class) {
    ptn_frame *a = ptn_frame_new(100), *b = ptn_frame_new(3000);
    ptn_frame_unref(a);
    ptn_frame_unref(b);
    cr_assert_eq(ptn_frame_new(4000), b);
    cr_assert_eq(ptn_frame_new(1), a);
    ptn_frame_unref(a);
    ptn_frame_unref(b);
    ptn__frame_pool_done();
}
#endif

/* More than a list may keep: the rest goes back to the allocator (the sanitizer build sees a leak).
 */
Test(frame, lists_are_bounded) {
    ptn_frame *f[64];
    for (size_t i = 0; i < PTN_ARRAY_LEN(f); i++)
        cr_assert_not_null(f[i] = ptn_frame_new(60000));
    for (size_t i = 0; i < PTN_ARRAY_LEN(f); i++)
        ptn_frame_unref(f[i]);
    ptn__frame_pool_done();
}
