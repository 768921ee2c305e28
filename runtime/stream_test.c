/* SPDX-License-Identifier: Apache-2.0
 *
 * stream_test.c - streams on real sockets: bytes, frames, back-pressure, reading on and off.
 */
#include "runtime/stream_rig.h"

/* ---- bytes there and back ----------------------------------------------------------------- */

Test(stream, echo_over_tcp_and_unix, .timeout = 60) {
    struct client_unix un;
    cr_assert_eq(client_unix_open(&un), 0);
    const char *const where[] = {"127.0.0.1:0", un.address};
    for (size_t i = 0; i < 2; i++) {
        rig r = {.ops = &echo_ops};
        rig_start(&r, where[i]);
        int fd = rig_connect(&r);
        echo_round(fd, 1);
        echo_round(fd, 400000);
        close(fd);
        wait_for(&r, &r.closes, 1);
        cr_assert_eq(r.reasons[0], 0);
        cr_assert_eq(r.bytes, 400001);
        rig_stop(&r);
    }
    cr_assert_eq(client_unix_close(&un), 0);
}

Test(stream, workers_share_a_port, .timeout = 60) {
    rig r = {.ops = &echo_ops, .workers = 2};
    int fds[40];
    rig_start(&r, "127.0.0.1:0");
    for (size_t i = 0; i < PTN_ARRAY_LEN(fds); i++)
        fds[i] = rig_connect(&r);
    for (size_t i = 0; i < PTN_ARRAY_LEN(fds); i++)
        echo_round(fds[i], 100 + i);
    cr_assert_eq(r.accepts_of[0] + r.accepts_of[1], PTN_ARRAY_LEN(fds));
    /* the kernel spreads by hash: one of 2^39 runs sees all on one side */
    cr_assert_gt(r.accepts_of[0], 0);
    cr_assert_gt(r.accepts_of[1], 0);
    for (size_t i = 0; i < PTN_ARRAY_LEN(fds); i++)
        close(fds[i]);
    wait_for(&r, &r.closes, PTN_ARRAY_LEN(fds));
    rig_stop(&r);
}

Test(stream, a_unix_endpoint_is_served_by_worker_0, .timeout = 60) {
    struct client_unix un;
    rig r = {.ops = &echo_ops, .workers = 2};
    cr_assert_eq(client_unix_open(&un), 0);
    rig_start(&r, un.address);
    for (int i = 0; i < 4; i++) {
        int fd = rig_connect(&r);
        echo_round(fd, 10);
        close(fd);
    }
    cr_assert_eq(r.accepts_of[0], 4);
    rig_stop(&r);
    cr_assert_lt(client_connect(un.address), 0);
    cr_assert_eq(client_unix_close(&un), 0);
}

/* ---- back-pressure ------------------------------------------------------------------------ */

Test(stream, a_slow_reader_gets_everything_and_drain_is_told, .timeout = 60) {
    rig r = {.ops = &sink_ops,
             .poked = poke_send_big,
             .out_bytes_max = 16u << 20,
             .stall_ns = 30 * PTN_SEC};
    rig_start(&r, "127.0.0.1:0");
    int fd = rig_connect_slow(&r);
    wait_for(&r, &r.accepts, 1);
    rig_poke(&r);
    cr_assert_eq(r.sent, 0);
    wait_for_queued(&r, true);
    recv_big(fd);
    wait_for(&r, &r.drains, 1);
    wait_for_queued(&r, false);
    rig_poke(&r); /* and the same again on the same stream */
    wait_for_queued(&r, true);
    recv_big(fd);
    wait_for(&r, &r.drains, 2);
    close(fd);
    rig_stop(&r);
}

Test(stream, the_bound_closes_a_peer_that_does_not_read, .timeout = 60) {
    rig r = {.ops = &sink_ops, .poked = poke_send_big};
    ptn__stream_stats st;
    rig_start(&r, "127.0.0.1:0"); /* default bound: 1 MiB */
    int fd = rig_connect_slow(&r);
    wait_for(&r, &r.accepts, 1);
    for (int i = 0; i < 8 && r.sent == 0; i++)
        rig_poke(&r);
    cr_assert_eq(r.sent, -PTN_ESLOW);
    wait_for(&r, &r.closes, 1);
    cr_assert_eq(r.reasons[0], -PTN_ESLOW);
    ptn__stream_stats_read(r.rt, 0, &st);
    cr_assert_eq(st.slow_closes, 1);
    cr_assert_eq(st.streams_open, 0);
    close(fd);
    rig_stop(&r);
    cr_assert_eq(r.closes, 1);
}

/* Frames count at least 64 bytes each, so a queue of tiny ones is bounded as well. */
static void poke_send_tiny(rig *r, ptn_ctx *c) {
    (void)c;
    ptn_frame *f = frame_of(1, 'x');
    uint32_t n = 0;
    for (; r->sent == 0; n++)
        r->sent = ptn_stream_send(r->stream, f);
    cr_assert_leq(n, r->out_bytes_max / 64);
    cr_assert_lt(n, 1u << 20, "the bytes alone would have been allowed");
    cr_assert_eq(f->refs, 1, "closing gives the frames back");
    ptn_frame_unref(f);
}

static void poke_press(rig *r, ptn_ctx *c) {
    ptn_stream_limits(r->stream, 16u << 20, 30 * PTN_SEC);
    poke_send_big(r, c);
    r->out_bytes_max = (uint32_t)ptn_stream_queued(r->stream) + (1u << 20);
    ptn_stream_limits(r->stream, r->out_bytes_max, 30 * PTN_SEC);
    r->poked = poke_send_tiny;
}

Test(stream, tiny_frames_are_bounded_by_number, .timeout = 60) {
    rig r = {.ops = &sink_ops, .poked = poke_press};
    rig_start(&r, "127.0.0.1:0");
    int fd = rig_connect_slow(&r);
    wait_for(&r, &r.accepts, 1);
    rig_poke(&r);
    cr_assert_eq(r.sent, 0);
    wait_for_queued(&r, true);
    rig_poke(&r);
    cr_assert_eq(r.sent, -PTN_ESLOW);
    wait_for(&r, &r.closes, 1);
    close(fd);
    rig_stop(&r);
}

/* Until it waits past the mark; then more of it, past the bound of what is sent. */
static void write_past_bound(ptn_stream *s, ptn_frame *f) {
    int err = 0;
    ptn_stream_limits(s, 4 * BIG_FRAME, 30 * PTN_SEC);
    ptn_stream_mark(s, 2 * BIG_FRAME, 8 * BIG_FRAME);
    for (uint32_t i = 0; i < BIG_FRAMES && err == 0; i++) {
        cr_assert_leq(ptn_stream_queued(s), 2 * BIG_FRAME);
        err = ptn_stream_write(s, f->data, BIG_FRAME);
    }
    cr_assert_eq(err, 1);
    cr_assert_gt(ptn_stream_queued(s), 2 * BIG_FRAME);
    cr_assert_eq(ptn_stream_send(s, f), 0, "the mark says nothing to who sends");
    while (ptn_stream_queued(s) <= 7 * BIG_FRAME)
        cr_assert_eq(ptn_stream_write(s, f->data, BIG_FRAME), 1);
}

static void poke_mark(rig *r, ptn_ctx *c) {
    (void)c;
    ptn_frame *f = frame_of(BIG_FRAME, 'x');
    write_past_bound(r->stream, f);
    write_past_bound(r->other, f);
    cr_assert_eq(ptn_stream_send(r->stream, f), -PTN_ESLOW);
    cr_assert_eq(ptn_stream_write(r->other, f->data, BIG_FRAME), -PTN_ESLOW);
    ptn_frame_unref(f);
}

Test(stream, who_writes_is_told_at_the_mark_and_may_pass_the_bound, .timeout = 60) {
    rig r = {.ops = &sink_ops, .poked = poke_mark};
    rig_start(&r, "127.0.0.1:0");
    int a = rig_connect_slow(&r);
    wait_for(&r, &r.accepts, 1);
    int b = rig_connect_slow(&r);
    wait_for(&r, &r.accepts, 2);
    rig_poke(&r);
    wait_for(&r, &r.closes, 2);
    close(a);
    close(b);
    rig_stop(&r);
}

Test(stream, a_peer_that_stalls_is_closed, .timeout = 60) {
    rig r = {.ops = &sink_ops,
             .poked = poke_send_big,
             .out_bytes_max = 16u << 20,
             .stall_ns = 50 * PTN_MS};
    rig_start(&r, "127.0.0.1:0");
    int fd = rig_connect_slow(&r);
    wait_for(&r, &r.accepts, 1);
    rig_poke(&r);
    cr_assert_eq(r.sent, 0);
    wait_for(&r, &r.closes, 1);
    cr_assert_eq(r.reasons[0], -PTN_ESLOW);
    close(fd);
    rig_stop(&r);
}

/* ---- frames and copies -------------------------------------------------------------------- */

/* A shared frame is on two streams; a write behind it must not grow it. */
static void poke_mix(rig *r, ptn_ctx *c) {
    (void)c;
    ptn_frame *f = ptn_frame_new(100), *empty = ptn_frame_new(8);
    memcpy(f->data, "AAAA", 4);
    f->len = 4;
    cr_assert_eq(ptn_stream_send(r->stream, f), 0);
    cr_assert_eq(ptn_stream_write(r->stream, "bb", 2), 0);
    cr_assert_eq(ptn_stream_write(r->stream, "cc", 2), 0);
    cr_assert_eq(ptn_stream_send(r->stream, empty), 0);
    cr_assert_eq(empty->refs, 1, "an empty frame is not queued");
    cr_assert_eq(ptn_stream_write(r->stream, "", 0), 0);
    cr_assert_eq(ptn_stream_send(r->stream, f), 0);
    cr_assert_eq(ptn_stream_write(r->stream, "dd", 2), 0);
    cr_assert_eq(ptn_stream_send(r->other, f), 0);
    cr_assert_eq(f->len, 4);
    cr_assert_eq(f->refs, 4);
    cr_assert_eq(ptn_stream_queued(r->stream), 14);
    ptn_frame_unref(f);
    ptn_frame_unref(empty);
}

Test(stream, shared_frames_and_copies_keep_their_order, .timeout = 60) {
    rig r = {.ops = &sink_ops, .poked = poke_mix};
    char in[16] = {0};
    rig_start(&r, "127.0.0.1:0");
    int a = rig_connect(&r);
    wait_for(&r, &r.accepts, 1);
    int b = rig_connect(&r);
    wait_for(&r, &r.accepts, 2);
    rig_poke(&r);
    cr_assert_eq(client_recv(a, in, 14), 14);
    cr_assert_arr_eq(in, "AAAAbbccAAAAdd", 14);
    cr_assert_eq(client_recv(b, in, 4), 4);
    cr_assert_arr_eq(in, "AAAA", 4);
    rig_send(&r, MSG_EXIT); /* orderly end: both are told */
    wait_for(&r, &r.closes, 2);
    cr_assert_eq(r.reasons[0], 0);
    cr_assert(client_is_at_end(a));
    cr_assert(client_is_at_end(b)); /* nothing of a's */
    close(a);
    close(b);
    rig_stop(&r);
}

/* 300 frames are more than one gathered write takes; writes of every size come between. */
static void poke_many(rig *r, ptn_ctx *c) {
    (void)c;
    uint8_t part[700];
    for (uint32_t i = 0; i < 300; i++) {
        ptn_frame *f = frame_of(i + 1, (uint8_t)i);
        memset(part, (uint8_t)~i, sizeof part);
        cr_assert_eq(ptn_stream_send(r->stream, f), 0);
        cr_assert_eq(ptn_stream_write(r->stream, part, i), 0);
        cr_assert_eq(ptn_stream_write(r->stream, part, 2 * i), 0);
        ptn_frame_unref(f);
    }
}

Test(stream, hundreds_of_frames_in_one_turn, .timeout = 60) {
    rig r = {.ops = &sink_ops, .poked = poke_many};
    uint8_t in[1300], want[1300];
    rig_start(&r, "127.0.0.1:0");
    int fd = rig_connect(&r);
    wait_for(&r, &r.accepts, 1);
    rig_poke(&r);
    for (uint32_t i = 0; i < 300; i++) {
        size_t n = i + 1 + 3 * i;
        cr_assert_eq(client_recv(fd, in, n), n);
        memset(want, (uint8_t)i, i + 1);
        memset(want + i + 1, (uint8_t)~i, 3 * i);
        cr_assert_eq(memcmp(in, want, n), 0, "frame %u", i);
    }
    close(fd);
    wait_for(&r, &r.eofs, 1);
    rig_stop(&r);
}

/* ---- the machine's choices ---------------------------------------------------------------- */

static void upgraded_close(ptn_ctx *c, void *owner, int reason) {
    cr_assert_eq(owner, (void *)rig_of(c));
    note_close(c, owner, reason);
}

static void upgraded_read(ptn_ctx *c, void *owner, const uint8_t *p, size_t n) {
    cr_assert_eq(owner, (void *)rig_of(c));
    note_read(rig_of(c), p, n);
}

static void upgrade_read(ptn_ctx *c, void *owner, const uint8_t *p, size_t n) {
    static const ptn_stream_ops upgraded = {upgraded_read, NULL, NULL, upgraded_close};
    (void)p;
    (void)n;
    ptn_stream_open(owner, &upgraded, rig_of(c));
    ptn_stream_write(owner, "101", 3);
}

Test(stream, a_machine_may_hand_its_stream_to_another, .timeout = 60) {
    static const ptn_stream_ops ops = {upgrade_read, NULL, NULL, NULL};
    rig r = {.ops = &ops};
    char in[3];
    rig_start(&r, "127.0.0.1:0");
    int fd = rig_connect(&r);
    client_send(fd, "GET", 3);
    cr_assert_eq(client_recv(fd, in, 3), 3);
    client_send(fd, "frame", 5);
    wait_for(&r, &r.reads, 1);
    cr_assert_eq(r.bytes, 5);
    close(fd);
    wait_for(&r, &r.closes, 1);
    rig_stop(&r);
    cr_assert_eq(r.closes, 1);
}

static void paused_accepted(rig *r, ptn_ctx *c, ptn_stream *s) {
    (void)c;
    ptn_stream_open(s, r->ops, s);
    ptn_stream_read_enable(s, false);
}

static void poke_resume(rig *r, ptn_ctx *c) {
    (void)c;
    cr_assert_eq(r->reads, 0);
    cr_assert_eq(r->eofs, 0);
    ptn_stream_read_enable(r->stream, true);
}

Test(stream, reading_waits_until_it_is_enabled, .timeout = 60) {
    rig r = {.ops = &sink_ops, .accepted = paused_accepted, .poked = poke_resume};
    rig_start(&r, "127.0.0.1:0");
    int fd = rig_connect(&r);
    client_send(fd, "held back", 9);
    shutdown(fd, SHUT_WR);
    wait_for(&r, &r.accepts, 1);
    rig_poke(&r);
    wait_for(&r, &r.eofs, 1);
    cr_assert_eq(r.bytes, 9);
    cr_assert_arr_eq(r.first, "held back", 9);
    close(fd);
    rig_stop(&r);
}

static void refuse_accepted(rig *r, ptn_ctx *c, ptn_stream *s) {
    (void)r;
    (void)c;
    cr_assert_eq(strncmp(ptn_stream_peer(s), "127.0.0.1:", 10), 0);
    ptn_stream_close(s, 0); /* never opened: nobody is told */
}

Test(stream, a_connection_may_be_refused_at_once, .timeout = 60) {
    rig r = {.ops = &sink_ops, .accepted = refuse_accepted};
    rig_start(&r, "127.0.0.1:0");
    int fd = rig_connect(&r);
    cr_assert(client_is_at_end(fd));
    close(fd);
    rig_stop(&r);
    cr_assert_eq(r.closes, 0);
}

static int foreign_pipe[2];

static void foreign_event(ptn_ctx *c, void *state, void *arg) {
    char byte;
    cr_assert_eq(((struct actor *)state)->rig, arg);
    cr_assert_eq(read(foreign_pipe[0], &byte, 1), 1);
    count(rig_of(c), &rig_of(c)->reads);
}

static void poke_watch(rig *r, ptn_ctx *c) {
    cr_assert_eq(ptn_watch_open(c, foreign_pipe[0], foreign_event, r, NULL), 0);
}

Test(stream, a_watch_ends_with_its_actor_and_leaves_the_descriptor, .timeout = 60) {
    rig r = {.ops = &sink_ops, .poked = poke_watch};
    cr_assert_eq(pipe(foreign_pipe), 0);
    rig_start(&r, "127.0.0.1:0");
    rig_poke(&r);
    cr_assert_eq(write(foreign_pipe[1], "abc", 3), 3);
    wait_for(&r, &r.reads, 3);
    rig_send(&r, MSG_CRASH);
    wait_for(&r, &r.inits, 2);
    cr_assert_eq(write(foreign_pipe[1], "d", 1), 1);
    rig_stop(&r);
    cr_assert_eq(r.reads, 3);
    cr_assert_eq(close(foreign_pipe[0]), 0);
    close(foreign_pipe[1]);
}
