/* SPDX-License-Identifier: Apache-2.0
 *
 * ws_pressure_test.c - clients that send faster than they are answered: they are slowed down, and
 * nothing else changes for them.
 */
#include "protocols/ws/test_world.h"
#include "runtime/stream_stats.h"

#include <sched.h>
#include <sys/socket.h>

#define BURST_MAX (2u << 20)

/* n frames as bytes: format has one %u, the frame's number. */
static size_t burst_bytes(uint8_t *out, unsigned n, unsigned b0, const char *format) {
    size_t at = 0;
    for (unsigned i = 0; i < n; i++) {
        char payload[128];
        const int len = snprintf(payload, sizeof payload, format, i);
        cr_assert_lt(at + sizeof payload + WS_HEAD_BYTES_MAX, BURST_MAX);
        at += frame_bytes(out + at, b0, payload, (size_t)len);
    }
    return at;
}

/* In one write. */
static void send_burst(int fd, unsigned n, const char *format, const char *last) {
    uint8_t *out = malloc(BURST_MAX);
    size_t at = burst_bytes(out, n, 0x81, format);
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

/* ---- answers that the client does not take -------------------------------------------------- */

#define MANY 20000u
#define PUBLISH "{\"type\":\"publish\",\"topic\":\"t\",\"data\":1,\"id\":%u}"

static int ws_narrow(struct world *w) {
    int fd = ws_upgrade_on(client_connect_with(ptn_endpoint_address(w->ep), 4096), "/ws",
                           "Authorization: Bearer good\r\n", "", 0);
    expect_text(fd, "welcome");
    return fd;
}

static int ws_wide(struct world *w) {
    int fd = ws_connect(w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    expect_text(fd, "welcome");
    return fd;
}

/* A client that writes before it reads: its writing blocks, so it has a thread of its own. */
struct writer {
    pthread_t thread;
    int fd;
    int err; /* of its writing; set when it has ended */
    size_t n;
    uint8_t bytes[BURST_MAX];
};

static void *writer_run(void *arg) {
    struct writer *wr = arg;
    wr->err = client_send(wr->fd, wr->bytes, wr->n);
    return NULL;
}

static struct writer *writer_new(unsigned b0, const char *format) {
    struct writer *wr = malloc(sizeof *wr);
    cr_assert_not_null(wr);
    wr->n = burst_bytes(wr->bytes, MANY, b0, format);
    return wr;
}

/* On a connection that takes little before it is read. */
static int writer_start(struct world *w, struct writer *wr) {
    wr->fd = ws_narrow(w);
    cr_assert_eq(pthread_create(&wr->thread, NULL, writer_run, wr), 0);
    return wr->fd;
}

/* The result of its writing. */
static int writer_end(struct writer *wr) {
    cr_assert_eq(pthread_join(wr->thread, NULL), 0);
    const int err = wr->err;
    free(wr);
    return err;
}

static void wait_counter(enum ptn_counter k, uint64_t value) {
    const time_t until = time(NULL) + RIG_WAIT_S;
    while (counter(k) < value) {
        cr_assert_leq(time(NULL), until, "counter %u stays at %llu", (unsigned)k,
                      (unsigned long long)counter(k));
        sched_yield();
    }
}

static void fence(int fd) {
    send_text(fd, "{\"type\":\"ping\"}");
    expect_text(fd, "pong");
}

Test(ws_pressure, who_does_not_take_answers_is_read_no_further) {
    struct world w = {0};
    struct writer *wr = writer_new(0x81, PUBLISH);
    w.config.limits.out_bytes_max = 64u << 10;
    w.config.limits.ws_ping_ns = 3600 * PTN_SEC;
    world_start(&w);
    int other = ws_wide(&w), fd = writer_start(&w, wr);
    wait_counter(PTN_C_WS_HELD, 1);
    fence(other); /* what was in flight has been answered */
    const uint64_t received = counter(PTN_C_RECEIVED_WS);
    for (int i = 0; i < 3; i++)
        fence(other);
    cr_expect_eq(counter(PTN_C_RECEIVED_WS), received + 3, "nothing more is read");
    cr_expect_leq(ptn__streams_queued_bytes(w.rig.rt), w.config.limits.out_bytes_max);
    for (unsigned i = 0; i < MANY; i++)
        expect_id(fd, "{\"type\":\"ack\",\"id\":%u,", i);
    cr_expect_eq(writer_end(wr), 0);
    cr_expect_eq(counter(PTN_C_CLOSED_SLOW_CONSUMER), 0);
    say_bye(other);
    say_bye(fd);
    world_stop(&w);
}

Test(ws_pressure, nor_who_does_not_take_pongs) {
    struct world w = {0};
    struct message m;
    char want[32];
    struct writer *wr = writer_new(0x89, "%050u");
    w.config.limits.out_bytes_max = 64u << 10;
    w.config.limits.ws_ping_ns = 3600 * PTN_SEC;
    world_start(&w);
    int other = ws_wide(&w), fd = writer_start(&w, wr);
    wait_counter(PTN_C_WS_HELD, 1);
    fence(other);
    cr_expect_leq(ptn__streams_queued_bytes(w.rig.rt), w.config.limits.out_bytes_max);
    for (unsigned i = 0; i < MANY; i++) {
        cr_assert(recv_frame(fd, &m));
        cr_assert_eq(m.opcode, WS_OP_PONG);
        snprintf(want, sizeof want, "%020u", i);
        cr_assert_str_eq((char *)m.p + 30, want);
    }
    cr_expect_eq(writer_end(wr), 0);
    say_bye(other);
    say_bye(fd);
    world_stop(&w);
}

/* It is not dead for its pongs, which nobody reads; the stall limit ends it. */
Test(ws_pressure, who_never_reads_is_cut_by_the_stall_limit) {
    struct world w = {0};
    struct writer *wr = writer_new(0x81, PUBLISH);
    w.config.limits.out_bytes_max = 64u << 10;
    w.config.limits.ws_ping_ns = 500 * PTN_MS;
    w.config.limits.ws_pong_ns = 500 * PTN_MS;
    w.config.limits.stall_ns = 2 * PTN_SEC;
    world_start(&w);
    int fd = writer_start(&w, wr);
    wait_counter(PTN_C_CLOSED_SLOW_CONSUMER, 1);
    cr_expect_geq(counter(PTN_C_WS_HELD), 1);
    cr_expect_eq(counter(PTN_C_CLOSED_NO_PONG), 0);
    cr_expect_lt(counter(PTN_C_RECEIVED_WS), MANY);
    (void)writer_end(wr);
    close(fd);
    world_stop(&w);
}

#define LARGE "{\"method\":\"GET\",\"path\":\"/parked/large\",\"id\":%u}"
#define N_LARGE 16u

/* Sixteen answers of half an out-queue each, asked for before the first has come. */
static int ask_for_large(struct world *w) {
    w->config.limits.out_bytes_max = 2 * RIG_LARGE_BYTES;
    world_start(w);
    int fd = ws_narrow(w);
    send_burst(fd, N_LARGE, LARGE, NULL);
    rig_wait(&w->rig, &w->rig.n_parked, N_LARGE);
    return fd;
}

Test(ws_pressure, answers_in_flight_end_no_connection) {
    struct world w = {0};
    int fd = ask_for_large(&w);
    unpark(&w);
    wait_counter(PTN_C_WS_HELD, 1);
    for (unsigned i = 0; i < N_LARGE; i++)
        expect_id(fd, "\"id\":%u,\"status\":200", i);
    cr_expect_eq(counter(PTN_C_CLOSED_SLOW_CONSUMER), 0);
    say_bye(fd);
    world_stop(&w);
}

Test(ws_pressure, but_while_memory_is_short_they_do) {
    struct world w = {0};
    int fd = ask_for_large(&w);
    ptn_memory_limit(1);
    unpark(&w);
    wait_counter(PTN_C_CLOSED_SLOW_CONSUMER, 1);
    ptn_memory_limit(0);
    close(fd);
    world_stop(&w);
}

/* Events have their own policies: who does not take them may still say that it wants no more. */
Test(ws_pressure, events_hold_nobody_back) {
    struct world w = {0};
    static char data[48u << 10];
    memset(data, 'x', sizeof data - 1);
    world_start(&w);
    int other = ws_wide(&w), fd = ws_narrow(&w);
    send_text(fd, "{\"type\":\"subscribe\",\"topic\":\"t\"}");
    expect_text(fd, "\"type\":\"subscribed\"");
    for (uint64_t offset = 1; ptn__streams_queued_bytes(w.rig.rt) < 500u << 10; offset++) {
        rig_event(&w.rig, "t", offset, data);
        fence(other); /* it has been delivered */
    }
    const uint64_t received = counter(PTN_C_RECEIVED_WS);
    send_text(fd, "{\"type\":\"unsubscribe\",\"topic\":\"t\"}");
    wait_counter(PTN_C_RECEIVED_WS, received + 1);
    send_text(fd, "{\"type\":\"ping\"}");
    wait_counter(PTN_C_RECEIVED_WS, received + 2);
    cr_expect_eq(counter(PTN_C_WS_HELD), 0);
    cr_expect_eq(counter(PTN_C_CLOSED_SLOW_CONSUMER), 0);
    say_bye(other);
    close(fd);
    world_stop(&w);
}
