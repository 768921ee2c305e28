/* SPDX-License-Identifier: Apache-2.0
 *
 * send_test.c - the room that a post takes ahead at a receiver on another worker.
 */
#include "runtime/testing.h"

#include <criterion/criterion.h>

static int no_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    (void)c;
    (void)state;
    (void)m;
    return 0;
}

static const ptn_actor_ops far_ops = {.name = "far", .handle = no_handle};

/* Two workers that never run: the one is the sender, and all that it sends stays on its way. */
struct far_rig {
    struct rig r;
    struct ptn__worker *w;
    ptn_addr a, b;
};

static void far_open(struct far_rig *f, uint32_t msgs_max) {
    rig_open(&f->r, 2);
    ptn_actor_opts o = {.worker = 1, .mbox_msgs_max = msgs_max, .mbox_bytes_max = 4096};
    f->w = f->r.rt->workers[0];
    cr_assert_eq(ptn_runtime_spawn(f->r.rt, &far_ops, &o, NULL, PTN_PERMANENT, &f->a), 0);
    cr_assert_eq(ptn_runtime_spawn(f->r.rt, &far_ops, &o, NULL, PTN_PERMANENT, &f->b), 0);
    ptn__posts_flush(f->w); /* how they came to be */
}

static int far_send(struct far_rig *f, ptn_addr to, size_t len) {
    static const uint8_t bytes[4097];
    struct ptn__env e = {.to = to, .type = PTN_MSG_USER, .kind = PTN__ENV_CAST};
    ptn_buf *payload = len == 0 ? NULL : ptn_buf_copy(bytes, len);
    int err = ptn__send(f->w, &e, payload);
    if (err < 0)
        ptn_buf_unref(payload);
    return err;
}

static void load_is(struct far_rig *f, ptn_addr a, unsigned msgs, unsigned bytes) {
    uint64_t load = ptn__load(ptn__slot_at(f->r.rt, a));
    cr_expect_eq(load >> 40, msgs, "%u messages, not %u", (unsigned)(load >> 40), msgs);
    cr_expect_eq(load & PTN__LOAD_BYTES, bytes, "%u bytes", (unsigned)load);
}

Test(send, room_is_taken_for_a_post_and_what_is_left_given_back) {
    struct far_rig f;
    far_open(&f, 200);
    for (unsigned i = 0; i < 3; i++)
        cr_assert_eq(far_send(&f, f.a, 5), 0);
    load_is(&f, f.a, PTN__POST_MAX, PTN__POST_MAX * 5);
    ptn__posts_flush(f.w);
    load_is(&f, f.a, 3, 15);
    for (unsigned i = 0; i < PTN__POST_MAX + 2; i++)
        cr_assert_eq(far_send(&f, f.a, 0), 0);
    load_is(&f, f.a, 3 + 2 * PTN__POST_MAX, 15);
    ptn__posts_flush(f.w);
    load_is(&f, f.a, 3 + PTN__POST_MAX + 2, 15);
    rig_close(&f.r);
    cr_expect_eq(buf_live(), 0);
}

Test(send, a_bound_is_exact_whatever_was_taken_ahead) {
    struct far_rig f;
    far_open(&f, 100);
    unsigned n = 0;
    while (far_send(&f, f.a, 0) == 0)
        n++;
    cr_expect_eq(n, 100);
    cr_expect_eq(far_send(&f, f.a, 0), -PTN_EOVERLOAD);
    load_is(&f, f.a, 100, 0);
    ptn__posts_flush(f.w);
    load_is(&f, f.a, 100, 0);
    for (n = 0; far_send(&f, f.b, 100) == 0; n++)
        ;
    cr_expect_eq(n, 40, "by bytes");
    ptn__posts_flush(f.w);
    load_is(&f, f.b, 40, 4000);
    cr_expect_eq(far_send(&f, f.b, 4097), -PTN_ETOOBIG);
    rig_close(&f.r);
    cr_expect_eq(buf_live(), 0);
}

Test(send, a_small_mailbox_gives_no_room_ahead) {
    struct far_rig f;
    far_open(&f, PTN__POST_MAX);
    for (unsigned i = 0; i < 3; i++)
        cr_assert_eq(far_send(&f, f.a, 0), 0);
    load_is(&f, f.a, 3, 0);
    rig_close(&f.r);
}

Test(send, room_goes_back_when_the_receiver_or_the_size_changes) {
    struct far_rig f;
    far_open(&f, 200);
    cr_assert_eq(far_send(&f, f.a, 1), 0);
    cr_assert_eq(far_send(&f, f.a, 1), 0);
    cr_assert_eq(far_send(&f, f.b, 1), 0);
    load_is(&f, f.a, 2, 2);
    load_is(&f, f.b, 1, 1);
    cr_assert_eq(far_send(&f, f.a, 1), 0);
    cr_assert_eq(far_send(&f, f.a, 1), 0);
    cr_assert_eq(far_send(&f, f.a, 1000), 0);
    load_is(&f, f.a, 5, 1004);
    ptn__posts_flush(f.w);
    load_is(&f, f.a, 5, 1004);
    load_is(&f, f.b, 1, 1);
    rig_close(&f.r);
    cr_expect_eq(buf_live(), 0);
}
