/* SPDX-License-Identifier: Apache-2.0
 *
 * ws_pressure_test.c - clients that send faster than they are answered: they are slowed down, and
 * nothing else changes for them.
 */
#include "protocols/ws/test_world.h"

#define BURST_MAX (1u << 20)

/* n frames in one write: format has one %u, the frame's number. */
static void send_burst(int fd, unsigned n, const char *format, const char *last) {
    uint8_t *out = malloc(BURST_MAX);
    size_t at = 0;
    for (unsigned i = 0; i < n; i++) {
        char json[128];
        const int len = snprintf(json, sizeof json, format, i);
        cr_assert_lt(at + sizeof json + WS_HEAD_BYTES_MAX, BURST_MAX);
        at += frame_bytes(out + at, 0x81, json, (size_t)len);
    }
    if (last != NULL)
        at += frame_bytes(out + at, 0x89, last, strlen(last));
    cr_assert_eq(client_send(fd, out, at), 0);
    free(out);
}

static void expect_id(int fd, const char *format, unsigned id) {
    char part[64];
    snprintf(part, sizeof part, format, id);
    expect_text(fd, part);
}

static void unpark(struct world *w) {
    cr_assert_eq(ptn_port_send(w->rig.port, w->rig.directory.router[0], PTN_MSG_OK, NULL), 0);
}

#define PARKED "{\"method\":\"GET\",\"path\":\"/parked\",\"id\":%u}"

Test(ws_pressure, a_full_session_is_slowed_down) {
    struct world w = {0};
    struct message m;
    const unsigned n = 20, at_once = 4;
    w.config.limits.ws_requests_max = at_once;
    world_start(&w);
    int fd = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0), fence = ws_plain(&w);
    expect_text(fd, "welcome");
    send_burst(fd, n, PARKED, "behind them");
    for (unsigned seen = 0; seen < n;) {
        const unsigned due = seen + at_once;
        rig_wait(&w.rig, &w.rig.n_parked, due);
        send_text(fence, "{\"type\":\"ping\"}"); /* the worker has had its chance to read on */
        expect_text(fence, "pong");
        cr_assert_eq(w.rig.n_parked, due, "%u at once, and no more", at_once);
        unpark(&w);
        for (; seen < due; seen++)
            expect_id(fd, "\"id\":%u,\"status\":200", seen);
    }
    cr_assert(recv_frame(fd, &m));
    cr_assert_eq(m.opcode, WS_OP_PONG);
    cr_assert_str_eq((char *)m.p, "behind them");
    say_bye(fence);
    say_bye(fd);
    world_stop(&w);
}

Test(ws_pressure, ten_thousand_frames_in_one_write) {
    struct world w = {0};
    world_start(&w);
    int fd = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    expect_text(fd, "welcome");
    send_burst(fd, 10000, "{\"type\":\"publish\",\"topic\":\"t\",\"data\":1,\"id\":%u}", NULL);
    for (unsigned i = 0; i < 10000; i++)
        expect_id(fd, "{\"type\":\"ack\",\"id\":%u,", i);
    say_bye(fd);
    world_stop(&w);
}

/* The hub answers in its own context. */
Test(ws_pressure, subscriptions_make_room_too) {
    struct world w = {0};
    w.config.limits.ws_requests_max = 1;
    world_start(&w);
    int fd = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    expect_text(fd, "welcome");
    send_burst(fd, 10, "{\"type\":\"subscribe\",\"topic\":\"t%u\"}", NULL);
    for (unsigned i = 0; i < 10; i++)
        expect_id(fd, "\"type\":\"subscribed\",\"topic\":\"t%u\"", i);
    say_bye(fd);
    world_stop(&w);
}

Test(ws_pressure, frames_wait_for_the_token_ahead_of_them) {
    struct world w = {0};
    uint8_t early[2048];
    size_t n = 0;
    char json[64];
    world_start(&w);
    for (unsigned i = 0; i < 20; i++) {
        const int len =
            snprintf(json, sizeof json, "{\"type\":\"subscribe\",\"topic\":\"t%u\"}", i);
        n += frame_bytes(early + n, 0x81, json, (size_t)len);
    }
    int fd = ws_connect(&w, "/ws?token=slow", "", early, n);
    rig_wait(&w.rig, &w.rig.n_waiting, 1);
    cr_assert_eq(ptn_port_send(w.rig.port, w.rig.directory.auth[0], PTN_MSG_OK, NULL), 0);
    expect_text(fd, "welcome");
    for (unsigned i = 0; i < 20; i++)
        expect_id(fd, "\"type\":\"subscribed\",\"topic\":\"t%u\"", i);
    say_bye(fd);
    world_stop(&w);
}

Test(ws_pressure, an_unread_pong_is_not_missed) {
    struct world w = {0};
    struct message m;
    w.config.limits.ws_requests_max = 1;
    w.config.limits.ws_ping_ns = 50 * PTN_MS;
    w.config.limits.ws_pong_ns = 30 * PTN_MS;
    world_start(&w);
    int fd = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    expect_text(fd, "welcome");
    send_burst(fd, 1, PARKED, NULL);
    for (int i = 0; i < 4; i++) { /* pings go on, and nobody asks for the pong */
        cr_assert(recv_frame(fd, &m));
        cr_assert_eq(m.opcode, WS_OP_PING, "%s", (char *)m.p);
    }
    unpark(&w);
    do
        cr_assert(recv_frame(fd, &m));
    while (m.opcode == WS_OP_PING);
    cr_assert_not_null(strstr((char *)m.p, "\"status\":200"), "%s", (char *)m.p);
    do /* reading again, silence counts */
        cr_assert(recv_frame(fd, &m));
    while (m.opcode == WS_OP_PING);
    cr_assert_eq(m.opcode, WS_OP_CLOSE);
    cr_expect_eq(counter(PTN_C_CLOSED_NO_PONG), 1);
    close(fd);
    world_stop(&w);
}

Test(ws_pressure, a_full_session_still_ends) {
    struct world w = {0};
    w.config.limits.ws_requests_max = 1;
    world_start(&w);
    int fds[2];
    for (unsigned i = 0; i < 2; i++) {
        fds[i] = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
        expect_text(fds[i], "welcome");
        send_burst(fds[i], 3, PARKED, NULL);
        rig_wait(&w.rig, &w.rig.n_parked, i + 1);
    }
    close(fds[1]); /* a reset, for the kernel had unread bytes or not: nothing may leak */
    tell(&w, MSG_DRAIN_ALL, NULL);
    expect_text(fds[0],
                "drain"); /* it stays for its answer, which here never comes, and then goes */
    cr_expect_eq(w.rig.n_parked, 2, "what waits behind is not handled");
    world_stop(&w);
    struct message m;
    expect_text(fds[0], "draining"); /* the end of the actor is an answer, too */
    cr_assert_not(recv_frame(fds[0], &m));
    close(fds[0]);
}

Test(ws_pressure, a_crash_frees_what_waits) {
    struct world w = {0};
    struct message m;
    w.config.limits.ws_requests_max = 1;
    world_start(&w);
    int fd = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    expect_text(fd, "welcome");
    send_burst(fd, 3, PARKED, NULL);
    rig_wait(&w.rig, &w.rig.n_parked, 1);
    tell(&w, MSG_CRASH, NULL);
    cr_assert_not(recv_frame(fd, &m));
    close(fd);
    rig_wait(&w.rig, &w.n_inits, 2);
    /* Its feed is a subscription: the next connection closes what the crash left open. */
    fd = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    expect_text(fd, "welcome");
    close(fd);
    world_stop(&w);
}

/* While the edge pauses nothing is read, of old connections and of new ones; the frames come to
 * their turn afterwards. */
Test(ws_pressure, a_pause_of_the_edge_holds_everybody) {
    struct world w = {0};
    world_start(&w);
    int old = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    expect_text(old, "welcome");
    tell(&w, MSG_PAUSE, NULL);
    rig_wait(&w.rig, &w.n_pauses, 1);
    int fresh = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    expect_text(fresh, "welcome");
    const uint64_t received = counter(PTN_C_RECEIVED_WS);
    send_burst(old, 3, "{\"type\":\"ping\",\"id\":%u}", NULL);
    send_burst(fresh, 3, "{\"type\":\"ping\",\"id\":%u}", NULL);
    int probe = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    expect_text(probe, "welcome"); /* the worker has had its chance to read */
    cr_expect_eq(counter(PTN_C_RECEIVED_WS), received);
    tell(&w, MSG_PAUSE, NULL);
    for (unsigned i = 0; i < 3; i++) {
        expect_text(old, "pong");
        expect_text(fresh, "pong");
    }
    cr_expect_eq(counter(PTN_C_RECEIVED_WS), received + 6);
    say_bye(probe);
    say_bye(fresh);
    say_bye(old);
    world_stop(&w);
}

/* What lets it go on is refused; nothing else would, until the next ping is due. */
Test(ws_pressure, a_full_mailbox_holds_up_nobody_for_long) {
    struct world w = {0};
    w.config.limits.ws_ping_ns = 3600 * PTN_SEC;
    world_start(&w);
    int fd = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    expect_text(fd, "welcome");
    tell(&w, MSG_PAUSE, NULL);
    rig_wait(&w.rig, &w.n_pauses, 1);
    send_burst(fd, 3, "{\"type\":\"ping\",\"id\":%u}", NULL);
    tell(&w, MSG_CROWDED_PAUSE, NULL);
    for (unsigned i = 0; i < 3; i++)
        expect_text(fd, "pong");
    say_bye(fd);
    world_stop(&w);
}
