/* SPDX-License-Identifier: Apache-2.0
 *
 * stream_end_test.c - every way a stream ends: by the peer, by its machine, with its actor.
 */
#include "runtime/stream_rig.h"

/* ---- ends --------------------------------------------------------------------------------- */

static void answer_eof(ptn_ctx *c, void *owner) {
    note_eof(c, owner);
    cr_assert_eq(ptn_stream_write(owner, "answer", 6), 0);
    ptn_stream_finish(owner);
    cr_assert_eq(ptn_stream_write(owner, "more", 4), -PTN_ECANCELED);
}

Test(stream_end, a_half_closed_peer_still_gets_its_answer, .timeout = 60) {
    static const ptn_stream_ops ops = {sink_read, answer_eof, NULL, note_close};
    rig r = {.ops = &ops};
    char in[6];
    rig_start(&r, "127.0.0.1:0");
    int fd = rig_connect(&r);
    client_send(fd, "question", 8);
    shutdown(fd, SHUT_WR);
    cr_assert_eq(client_recv(fd, in, 6), 6);
    cr_assert_arr_eq(in, "answer", 6);
    cr_assert(client_is_at_end(fd));
    wait_for(&r, &r.closes, 1);
    cr_assert_eq(r.reasons[0], 0);
    cr_assert_eq(r.bytes, 8);
    close(fd);
    rig_stop(&r);
}

Test(stream_end, without_on_eof_the_stream_flushes_and_closes, .timeout = 60) {
    rig r = {.ops = &echo_ops};
    char in[4];
    rig_start(&r, "127.0.0.1:0");
    int fd = rig_connect_slow(&r);
    client_send(fd, "last", 4);
    shutdown(fd, SHUT_WR);
    cr_assert_eq(client_recv(fd, in, 4), 4);
    cr_assert(client_is_at_end(fd));
    wait_for(&r, &r.closes, 1);
    cr_assert_eq(r.reasons[0], 0);
    close(fd);
    rig_stop(&r);
}

/* Refuses a request whose body is still on its way: without the linger, the reset that unread input
 * causes would take the answer away from the peer. */
static void refuse_read(ptn_ctx *c, void *owner, const uint8_t *p, size_t n) {
    rig *r = rig_of(c);
    note_read(r, p, n);
    ptn_stream_limits(owner, 16u << 20, 30 * PTN_SEC);
    poke_send_big(r, c);
    ptn_stream_finish(owner);
    ptn_stream_finish(owner);
}

Test(stream_end, finish_delivers_the_answer_although_input_keeps_coming, .timeout = 60) {
    static const ptn_stream_ops ops = {refuse_read, note_eof, NULL, note_close};
    rig r = {.ops = &ops};
    static char body[20000];
    rig_start(&r, "127.0.0.1:0");
    int fd = rig_connect_slow(&r);
    client_send(fd, body, 1);
    wait_for(&r, &r.reads, 1);
    client_send(fd, body, sizeof body);
    recv_big(fd);
    cr_assert(client_is_at_end(fd));
    client_send(fd, body, 1);
    shutdown(fd, SHUT_WR);
    wait_for(&r, &r.closes, 1);
    cr_assert_eq(r.reasons[0], 0);
    cr_assert_eq(r.reads, 1, "on_read is not called after finish");
    cr_assert_eq(r.eofs, 0);
    close(fd);
    rig_stop(&r);
}

Test(stream_end, a_peer_that_does_not_close_is_closed_after_the_linger, .timeout = 60) {
    static const ptn_stream_ops ops = {refuse_read, note_eof, NULL, note_close};
    rig r = {.ops = &ops};
    rig_start(&r, "127.0.0.1:0");
    int fd = rig_connect_slow(&r);
    client_send(fd, "x", 1);
    recv_big(fd);
    cr_assert(client_is_at_end(fd));
    wait_for(&r, &r.closes, 1);
    cr_assert_eq(r.reasons[0], 0);
    close(fd);
    rig_stop(&r);
}

static void closing_read(ptn_ctx *c, void *owner, const uint8_t *p, size_t n) {
    rig *r = rig_of(c);
    unsigned before = r->closes;
    ptn_stream_close(owner, -PTN_EPROTO);
    ptn_stream_close(owner, -PTN_EIO); /* the first reason counts */
    cr_assert_eq(r->closes, before, "on_close comes later");
    cr_assert_eq(ptn_stream_write(owner, p, n), -PTN_ECANCELED);
    ptn_stream_read_enable(owner, true);
    ptn_stream_finish(owner);
    cr_assert_eq(ptn_stream_queued(owner), 0);
    cr_assert_str_eq(ptn_stream_peer(owner), "closed");
    note_read(r, p, n);
}

Test(stream_end, closing_inside_a_callback_is_told_once_and_later, .timeout = 60) {
    static const ptn_stream_ops ops = {closing_read, note_eof, NULL, note_close};
    rig r = {.ops = &ops};
    rig_start(&r, "127.0.0.1:0");
    int fd = rig_connect(&r);
    client_send(fd, "x", 1);
    wait_for(&r, &r.closes, 1);
    cr_assert(client_is_at_end(fd));
    close(fd);
    rig_stop(&r);
    cr_assert_eq(r.closes, 1);
    cr_assert_eq(r.reasons[0], -PTN_EPROTO);
}

/* The close of one stream closes another: both are told. */
static void closing_close(ptn_ctx *c, void *owner, int reason) {
    rig *r = rig_of(c);
    note_close(c, owner, reason);
    if (owner == r->stream)
        ptn_stream_close(r->other, -PTN_ECANCELED);
}

static void poke_close(rig *r, ptn_ctx *c) {
    (void)c;
    ptn_stream_write(r->stream, "dropped", 7);
    ptn_stream_write(r->other, "dropped?", 8);
    ptn_stream_close(r->stream, 0);
}

Test(stream_end, on_close_may_close_another_stream, .timeout = 60) {
    static const ptn_stream_ops ops = {sink_read, note_eof, NULL, closing_close};
    rig r = {.ops = &ops, .poked = poke_close};
    rig_start(&r, "127.0.0.1:0");
    int a = rig_connect(&r);
    wait_for(&r, &r.accepts, 1);
    int b = rig_connect(&r);
    wait_for(&r, &r.accepts, 2);
    rig_poke(&r);
    wait_for(&r, &r.closes, 2);
    cr_assert_eq(r.reasons[0], 0);
    cr_assert_eq(r.reasons[1], -PTN_ECANCELED);
    cr_assert(client_is_at_end(a));
    close(a);
    close(b);
    rig_stop(&r);
}

Test(stream_end, a_reset_by_the_peer_is_an_error, .timeout = 60) {
    rig r = {.ops = &sink_ops};
    rig_start(&r, "127.0.0.1:0");
    int fd = rig_connect(&r);
    wait_for(&r, &r.accepts, 1);
    client_reset(fd);
    wait_for(&r, &r.closes, 1);
    cr_assert_eq(r.reasons[0], -PTN_EIO);
    rig_stop(&r);
}

/* ---- the actor's end ---------------------------------------------------------------------- */

static void crash_read(ptn_ctx *c, void *owner, const uint8_t *p, size_t n) {
    (void)owner;
    note_read(rig_of(c), p, n);
    if (p[0] == '!')
        ptn_fail(c, PTN_EPROTO, "asked to fail");
}

Test(stream_end, a_crash_closes_streams_silently_and_the_restart_listens_again, .timeout = 60) {
    static const ptn_stream_ops ops = {crash_read, note_eof, NULL, note_close};
    rig r = {.ops = &ops};
    rig_start(&r, "127.0.0.1:0");
    int a = rig_connect_slow(&r), b = rig_connect_slow(&r);
    wait_for(&r, &r.accepts, 2);
    client_send(a, "!", 1);
    cr_assert(client_is_at_end(a));
    cr_assert(client_is_at_end(b));
    wait_for(&r, &r.inits, 2);
    int again = rig_connect_slow(&r);
    client_send(again, "?", 1);
    wait_for(&r, &r.reads, 2);
    cr_assert_eq(r.closes, 0, "no actor code after a crash");
    rig_send(&r, MSG_CRASH); /* in a handler this time */
    cr_assert(client_is_at_end(again));
    wait_for(&r, &r.inits, 3);
    close(a);
    close(b);
    close(again);
    rig_stop(&r);
    cr_assert_eq(r.closes, 0);
}

static void poke_pressed_crash(rig *r, ptn_ctx *c) {
    poke_send_big(r, c);
    r->poked = NULL;
}

Test(stream_end, a_crash_while_pressed_takes_the_timer_with_it, .timeout = 60) {
    rig r = {.ops = &sink_ops,
             .poked = poke_pressed_crash,
             .out_bytes_max = 16u << 20,
             .stall_ns = 30 * PTN_SEC};
    rig_start(&r, "127.0.0.1:0");
    int fd = rig_connect_slow(&r);
    wait_for(&r, &r.accepts, 1);
    rig_poke(&r);
    wait_for_queued(&r, true);
    rig_send(&r, MSG_CRASH);
    wait_for(&r, &r.inits, 2);
    close(fd);
    rig_stop(&r);
    cr_assert_eq(r.closes, 0);
}

static void exit_read(ptn_ctx *c, void *owner, const uint8_t *p, size_t n) {
    note_read(rig_of(c), p, n);
    ptn_stream_write(owner, "bye", 3);
    ptn_exit(c, 0);
}

Test(stream_end, an_orderly_end_says_its_last_words, .timeout = 60) {
    static const ptn_stream_ops ops = {exit_read, note_eof, NULL, note_close};
    rig r = {.ops = &ops};
    char in[3];
    rig_start(&r, "127.0.0.1:0");
    int fd = rig_connect(&r);
    client_send(fd, "x", 1);
    cr_assert_eq(client_recv(fd, in, 3), 3);
    cr_assert_arr_eq(in, "bye", 3);
    wait_for(&r, &r.closes, 1);
    cr_assert_eq(r.reasons[0], 0);
    close(fd);
    rig_stop(&r);
}

Test(stream_end, stopping_the_runtime_closes_open_streams, .timeout = 60) {
    rig r = {.ops = &echo_ops, .workers = 2};
    int fds[8];
    rig_start(&r, "127.0.0.1:0");
    for (size_t i = 0; i < PTN_ARRAY_LEN(fds); i++) {
        fds[i] = rig_connect(&r);
        echo_round(fds[i], 1);
    }
    rig_stop(&r);
    cr_assert_eq(r.closes, PTN_ARRAY_LEN(fds));
    for (size_t i = 0; i < PTN_ARRAY_LEN(fds); i++) {
        cr_assert(client_is_at_end(fds[i]));
        close(fds[i]);
    }
}
