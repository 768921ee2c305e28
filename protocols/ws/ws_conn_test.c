/* SPDX-License-Identifier: Apache-2.0
 *
 * ws_conn_test.c - life of a connection, from the upgrade to the close handshake.
 */
#include "protocols/ws/test_world.h"

/* ---- talking -------------------------------------------------------------------------------- */

Test(ws_conn, a_session) {
    struct world w = {0};
    struct message m;
    world_start(&w);
    int fd = ws_plain(&w);
    send_text(fd, "{\"type\":\"subscribe\",\"topic\":\"a\",\"id\":1}");
    expect_text(fd, "\"code\":\"unauthenticated\"");
    log_in(fd);
    send_text(fd, "{\"type\":\"ping\",\"timestamp\":5}");
    expect_text(fd, "{\"type\":\"pong\",\"timestamp\":5");
    send_raw(fd, 0x89, "beat", 4);
    cr_assert(recv_frame(fd, &m));
    cr_assert_eq(m.opcode, WS_OP_PONG);
    cr_assert_str_eq((char *)m.p, "beat");
    send_raw(fd, 0x8a, "unasked", 7);
    send_text(fd, "{\"method\":\"GET\",\"path\":\"/echo\",\"id\":2}");
    expect_text(fd, "\"id\":2,\"status\":200");
    say_bye(fd);
    cr_expect_eq(counter(PTN_C_RECEIVED_WS), 4);
    cr_expect_eq(counter(PTN_C_CONNECTIONS_ACCEPTED_WS), 1);
    world_stop(&w);
}

Test(ws_conn, every_byte_in_a_write_of_its_own) {
    struct world w = {0};
    uint8_t bytes[256];
    const char *text = "{\"type\":\"ping\",\"id\":\"drip\"}";
    world_start(&w);
    int fd = ws_plain(&w);
    size_t n = frame_bytes(bytes, 0x01, text, 10);
    n += frame_bytes(bytes + n, 0x89, "", 0);
    n += frame_bytes(bytes + n, 0x80, text + 10, strlen(text) - 10);
    for (size_t i = 0; i < n; i++)
        cr_assert_eq(client_send(fd, bytes + i, 1), 0);
    struct message m;
    cr_assert(recv_frame(fd, &m));
    cr_assert_eq(m.opcode, WS_OP_PONG);
    expect_text(fd, "\"id\":\"drip\"");
    say_bye(fd);
    world_stop(&w);
}

Test(ws_conn, bytes_behind_the_upgrade_count) {
    struct world w = {0};
    uint8_t early[256];
    world_start(&w);
    const char *auth = "{\"type\":\"auth\",\"token\":\"good\"}",
               *sub = "{\"type\":\"subscribe\",\"topic\":\"t\"}";
    size_t n = frame_bytes(early, 0x81, auth, strlen(auth));
    n += frame_bytes(early + n, 0x81, sub, strlen(sub));
    int fd = ws_connect(&w, "/ws", "", early, n);
    expect_text(fd, "welcome");
    expect_text(fd, "\"type\":\"subscribed\"");
    say_bye(fd);
    world_stop(&w);
}

Test(ws_conn, msgpack) {
    struct world w = {0};
    struct message m;
    ptn_str type;
    world_start(&w);
    int fd = ws_connect(
        &w, "/ws", "Authorization: Bearer good\r\nSec-WebSocket-Protocol: postern.v1.msgpack\r\n",
        "", 0);
    cr_assert(recv_frame(fd, &m));
    cr_assert_eq(m.opcode, WS_OP_BINARY);
    cr_assert(ptn_map_get_str((ptn_bytes){m.p, m.n}, "type", &type));
    cr_assert(ptn_str_eqz(type, "welcome"));
    ptn_buf *b = rig_msgpack("{\"type\":\"subscribe\",\"topic\":\"news\"}");
    send_raw(fd, 0x82, ptn_buf_bytes(b).p, ptn_buf_bytes(b).n);
    ptn_buf_unref(b);
    cr_assert(recv_frame(fd, &m));
    cr_assert(ptn_map_get_str((ptn_bytes){m.p, m.n}, "type", &type));
    cr_assert(ptn_str_eqz(type, "subscribed"));
    rig_event(&w.rig, "news", 1, "hi");
    cr_assert(recv_frame(fd, &m));
    cr_assert_eq(m.opcode, WS_OP_BINARY);
    cr_assert(ptn_map_get_str((ptn_bytes){m.p, m.n}, "data", &type));
    cr_assert(ptn_str_eqz(type, "hi"));
    send_raw(fd, 0x82, "\xc1", 1);
    cr_assert(recv_frame(fd, &m));
    cr_assert(ptn_map_get_str((ptn_bytes){m.p, m.n}, "code", &type));
    cr_assert(ptn_str_eqz(type, "invalid_request"), "and the connection survives");
    say_bye(fd);
    world_stop(&w);
}

Test(ws_conn, broken_json_is_survived) {
    struct world w = {0};
    static const char *const bad[] = {"{",          "",     "nonsense",
                                      "{\"a\":1}}", "[1,]", "{\"a\":\"\\u0000\"}"};
    char deep[200];
    world_start(&w);
    int fd = ws_plain(&w);
    for (size_t i = 0; i < PTN_ARRAY_LEN(bad); i++) {
        send_text(fd, bad[i]);
        expect_text(fd, "\"code\":\"invalid_request\"");
    }
    memset(deep, '[', 100);
    memset(deep + 100, ']', 100);
    send_raw(fd, 0x81, deep, sizeof deep);
    expect_text(fd, "\"code\":\"invalid_request\"");
    say_bye(fd);
    world_stop(&w);
}

/* ---- refusals ------------------------------------------------------------------------------- */

Test(ws_conn, refusals_have_their_codes) {
    struct world w = {0};
    static const uint8_t unmasked[] = {0x81, 0x01, 'a'};
    w.config.limits.message_bytes_max = 100;
    world_start(&w);
    int fd = ws_plain(&w);
    cr_assert_eq(client_send(fd, unmasked, sizeof unmasked), 0);
    expect_close(fd, 1002, "{\"code\":\"invalid_request\"}");
    fd = ws_plain(&w);
    send_raw(fd, 0x82, "a", 1);
    expect_close(fd, 1003, "unsupported_media_type");
    fd = ws_plain(&w);
    send_raw(fd, 0x81, "\xff", 1);
    expect_close(fd, 1007, "invalid_request");
    fd = ws_plain(&w);
    char big[101] = {0};
    send_raw(fd, 0x81, big, sizeof big);
    expect_close(fd, 1009, "payload_too_large");
    fd = ws_plain(&w);
    send_raw(fd, 0x88, "\x03\xed", 2);
    expect_close(fd, 1002, "invalid_request");
    fd = ws_connect(&w, "/ws", "Sec-WebSocket-Protocol: postern.v1.msgpack\r\n", "", 0);
    send_raw(fd, 0x81, "{}", 2);
    expect_close(fd, 1003, "unsupported_media_type");
    cr_expect_eq(counter(PTN_C_CLOSED_PROTOCOL_ERROR), 5);
    cr_expect_eq(counter(PTN_C_CLOSED_TOO_BIG), 1);
    world_stop(&w);
}

Test(ws_conn, close_without_a_code_is_answered_without_one) {
    struct world w = {0};
    struct message m;
    world_start(&w);
    int fd = ws_plain(&w);
    send_raw(fd, 0x88, "", 0);
    cr_assert(recv_frame(fd, &m));
    cr_assert_eq(m.opcode, WS_OP_CLOSE);
    cr_assert_eq(m.n, 0);
    cr_assert_not(recv_frame(fd, &m));
    close(fd);
    world_stop(&w);
}

/* ---- identity ------------------------------------------------------------------------------- */

Test(ws_conn, token_in_the_query) {
    struct world w = {0};
    world_start(&w);
    int fd = ws_connect(&w, "/ws?token=good", "", "", 0);
    expect_text(fd, "\"username\":\"ada\"");
    say_bye(fd);
    fd = ws_connect(&w, "/ws?token=bad", "", "", 0);
    expect_text(fd, "\"code\":\"unauthenticated\"");
    expect_close(fd, 4501, "{\"code\":\"unauthenticated\"}");
    fd = ws_connect(&w, "/ws?token=expired", "", "", 0);
    expect_text(fd, "\"code\":\"token_expired\"");
    expect_close(fd, 4501, "{\"code\":\"token_expired\"}");
    cr_expect_eq(counter(PTN_C_CLOSED_AUTH), 2);
    world_stop(&w);
}

Test(ws_conn, authentication_has_a_time_limit) {
    struct world w = {0};
    w.config.limits.ws_auth_ns = 50 * PTN_MS;
    world_start(&w);
    int fd = ws_plain(&w);
    expect_close(fd, 4401, "{\"code\":\"unauthenticated\"}");
    cr_expect_eq(counter(PTN_C_CLOSED_TIMEOUT), 1);
    world_stop(&w);
}

Test(ws_conn, a_token_expires) {
    struct world w = {0};
    world_start(&w);
    int fd = ws_connect(&w, "/ws?token=soon", "", "", 0);
    expect_text(fd, "welcome");
    expect_text(fd, "\"code\":\"token_expired\"");
    expect_close(fd, 4401, "{\"code\":\"token_expired\"}");
    cr_expect_eq(counter(PTN_C_CLOSED_AUTH), 1);
    world_stop(&w);
}

Test(ws_conn, a_new_token_extends_the_session) {
    struct world w = {0};
    struct message m;
    w.config.limits.ws_ping_ns = 2 * RIG_EXPIRES_SOON_MS * PTN_MS;
    world_start(&w);
    int fd = ws_connect(&w, "/ws?token=soon", "", "", 0);
    expect_text(fd, "welcome");
    log_in(fd);
    cr_assert(recv_frame(fd, &m)); /* the first ping comes after the first token's end */
    cr_assert_eq(m.opcode, WS_OP_PING);
    send_text(fd, "{\"method\":\"GET\",\"path\":\"/x\"}");
    expect_text(fd, "\"status\":200");
    say_bye(fd);
    world_stop(&w);
}

Test(ws_conn, a_revoked_session_is_closed) {
    struct world w = {0};
    world_start(&w);
    int fd = ws_plain(&w), other = ws_plain(&w);
    log_in(fd);
    tell(&w, MSG_REVOKE, "s2");
    tell(&w, MSG_REVOKE, "s1");
    expect_close(fd, 4501, "unauthenticated");
    send_text(other, "{\"type\":\"ping\"}");
    expect_text(other, "pong");
    say_bye(other);
    world_stop(&w);
}

/* ---- life ----------------------------------------------------------------------------------- */

Test(ws_conn, silence_is_found_out) {
    struct world w = {0};
    struct message m;
    w.config.limits.ws_ping_ns = 50 * PTN_MS;
    w.config.limits.ws_pong_ns = 30 * PTN_MS;
    world_start(&w);
    int fd = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    expect_text(fd, "\"heartbeatMs\":50");
    cr_assert(recv_frame(fd, &m));
    cr_assert_eq(m.opcode, WS_OP_PING);
    expect_close(fd, 1011, "{\"code\":\"timeout\",\"retryAfterMs\":1000}");
    cr_expect_eq(counter(PTN_C_CLOSED_NO_PONG), 1);
    world_stop(&w);
}

Test(ws_conn, pongs_and_frames_are_life) {
    struct world w = {0};
    struct message m;
    w.config.limits.ws_ping_ns = 200 * PTN_MS;
    w.config.limits.ws_pong_ns = PTN_SEC; /* passes once while the test runs */
    world_start(&w);
    int fd = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    expect_text(fd, "welcome");
    for (int i = 0; i < 7; i++) {
        do
            cr_assert(recv_frame(fd, &m) && m.opcode != WS_OP_CLOSE);
        while (m.opcode != WS_OP_PING);
        if (i % 2 == 0)
            send_raw(fd, 0x8a, m.p, m.n);
        else
            send_text(fd, "{\"type\":\"ping\"}");
    }
    cr_expect_eq(counter(PTN_C_CLOSED_NO_PONG), 0);
    close(fd);
    world_stop(&w);
}

Test(ws_conn, drain_says_goodbye) {
    struct world w = {0};
    world_start(&w);
    int fd = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    expect_text(fd, "welcome");
    tell(&w, MSG_DRAIN_ALL, NULL);
    expect_text(fd, "{\"type\":\"drain\",\"reconnectAfterMs\":1500,\"ticket\":\"ticket\"}");
    tell(&w, MSG_DRAIN_IDLE, NULL);
    expect_close(fd, 1012, "{\"code\":\"draining\",\"retryAfterMs\":1500}");
    world_stop(&w);
}

Test(ws_conn, drain_of_a_stranger_has_no_ticket) {
    struct world w = {0};
    world_start(&w);
    int fd = ws_connect(&w, "/ws", "", "", 0);
    tell(&w, MSG_DRAIN_ALL, NULL);
    expect_text(fd, "{\"type\":\"drain\",\"reconnectAfterMs\":1500,\"ticket\":null}");
    tell(&w, MSG_DRAIN_IDLE, NULL);
    expect_close(fd, 1012, "{\"code\":\"draining\",\"retryAfterMs\":1500}");
    world_stop(&w);
}

Test(ws_conn, a_peer_that_does_not_answer_our_close_is_left) {
    struct world w = {0};
    struct message m;
    world_start(&w);
    int fd = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    expect_text(fd, "welcome");
    tell(&w, MSG_DRAIN_ALL, NULL);
    expect_text(fd, "drain");
    tell(&w, MSG_DRAIN_IDLE, NULL);
    cr_assert(recv_frame(fd, &m));
    cr_assert_eq(m.opcode, WS_OP_CLOSE);
    send_text(fd, "{\"type\":\"ping\"}"); /* not answered any more */
    const struct timeval longer = {.tv_sec = 4 * (time_t)(WS_CLOSE_WAIT_NS / PTN_SEC)};
    cr_assert_eq(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &longer, sizeof longer), 0);
    cr_assert_not(recv_frame(fd, &m), "the end comes, after WS_CLOSE_WAIT_NS");
    close(fd);
    world_stop(&w);
}

/* ---- events --------------------------------------------------------------------------------- */

Test(ws_conn, one_event_for_many) {
    struct world w = {0};
    int fds[20];
    world_start(&w);
    for (size_t i = 0; i < PTN_ARRAY_LEN(fds); i++) {
        fds[i] = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
        expect_text(fds[i], "welcome");
        send_text(fds[i], "{\"type\":\"subscribe\",\"topic\":\"news\"}");
        expect_text(fds[i], "\"type\":\"subscribed\"");
    }
    for (uint64_t offset = 1; offset <= 3; offset++)
        rig_event(&w.rig, "news", offset, "hi");
    for (size_t i = 0; i < PTN_ARRAY_LEN(fds); i++) {
        expect_text(fds[i], "{\"type\":\"event\",\"topic\":\"news\",\"epoch\":\"e1\",\"offset\":1,"
                            "\"data\":\"hi\"}");
        expect_text(fds[i], "\"offset\":2");
        expect_text(fds[i], "\"offset\":3");
    }
    for (size_t i = 0; i < PTN_ARRAY_LEN(fds); i++)
        say_bye(fds[i]);
    cr_expect_eq(counter(PTN_C_DELIVERED_WS), 3 * PTN_ARRAY_LEN(fds));
    world_stop(&w);
}

Test(ws_conn, a_lost_event_sends_subscribers_back) {
    struct world w = {0};
    world_start(&w);
    int fd = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    expect_text(fd, "welcome");
    send_text(fd, "{\"type\":\"subscribe\",\"topic\":\"news\"}");
    expect_text(fd, "subscribed");
    rig_event(&w.rig, "news", 5, "1 to 4 are missing");
    expect_close(fd, 1012, "{\"code\":\"draining\",\"retryAfterMs\":1000}");
    world_stop(&w);
}

Test(ws_conn, who_does_not_read_is_cut_off_and_nobody_else) {
    struct world w = {0};
    struct message m;
    static char data[30001];
    w.config.limits.out_bytes_max = 100000;
    world_start(&w);
    int slow = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    int quick = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    expect_text(slow, "welcome");
    expect_text(quick, "welcome");
    send_text(slow, "{\"type\":\"subscribe\",\"topic\":\"news\"}");
    send_text(quick, "{\"type\":\"subscribe\",\"topic\":\"news\"}");
    expect_text(slow, "subscribed");
    expect_text(quick, "subscribed");
    memset(data, 'd', sizeof data - 1);
    uint64_t offset = 0;
    while (counter(PTN_C_CLOSED_SLOW_CONSUMER) == 0) {
        cr_assert_lt(++offset, 1000, "30 MB are in flight, and it is still connected");
        rig_event(&w.rig, "news", offset, data);
        cr_assert(recv_frame(quick, &m));
        cr_assert_eq(m.opcode, WS_OP_TEXT);
    }
    while (client_recv(slow, m.p, sizeof m.p) == sizeof m.p) /* what the kernel had, then the end */
        continue;
    close(slow);
    say_bye(quick);
    cr_expect_eq(counter(PTN_C_CLOSED_SLOW_CONSUMER), 1);
    world_stop(&w);
}

Test(ws_conn, a_crash_of_the_edge_leaves_nothing_dangling) {
    struct world w = {0};
    struct message m;
    world_start(&w);
    int fd = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    int idle = ws_plain(&w);
    expect_text(fd, "welcome");
    send_text(fd, "{\"type\":\"subscribe\",\"topic\":\"news\"}");
    expect_text(fd, "subscribed");
    send_text(fd, "{\"method\":\"GET\",\"path\":\"/never\"}");
    rig_wait(&w.rig, &w.rig.n_never, 1);
    tell(&w, MSG_CRASH, NULL);
    cr_assert_not(recv_frame(fd, &m));
    cr_assert_not(recv_frame(idle, &m));
    close(fd);
    close(idle);
    rig_wait(&w.rig, &w.n_inits, 2);
    rig_event(&w.rig, "news", 1, "for a sink whose edge is gone");
    fd = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    expect_text(fd, "welcome");
    send_text(fd, "{\"type\":\"subscribe\",\"topic\":\"more\"}");
    expect_text(fd, "subscribed");
    rig_event(&w.rig, "more", 1, "hi");
    expect_text(fd, "\"data\":\"hi\"");
    say_bye(fd);
    world_stop(&w);
}
