/* SPDX-License-Identifier: Apache-2.0
 *
 * http_edge_life_test.c - connections that become something else, and edges that end: event
 * streams, upgrades, drain, stop, crash.
 */
#include "protocols/http/http_test_rig.h"

#include <semaphore.h>

#define H "Host: a\r\n"
#define AUTH "Authorization: Bearer good\r\n"
#define UPGRADE                                                                                    \
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"                   \
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

static int open_stream(struct rig *r, const char *extra, char *buf, size_t cap) {
    int fd = rig_connect(r);
    say(fd, "GET /stream HTTP/1.1\r\n" H AUTH);
    say(fd, extra);
    say(fd, "\r\n");
    read_until(fd, "\r\n", buf, cap);
    cr_assert_not_null(strstr(buf, " 200 "), "%s", buf); /* a refusal has no such end */
    const size_t n = strlen(buf);
    read_until(fd, "\"recovered\":", buf + n, cap - n);
    return fd;
}

Test(http_life, event_stream) {
    struct rig r = {0};
    struct reply p;
    char buf[4096];
    rig_start(&r);
    int fd = open_stream(&r, "", buf, sizeof buf);
    cr_assert(strstr(buf, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n") == buf);
    cr_assert(strstr(buf, "Connection: close\r\n") != NULL);
    cr_assert(strstr(buf, "\r\n\r\n: subscribed\n\nevent: subscribed\nid: E:7\ndata: "
                          "{\"topic\":\"news\",\"epoch\":\"E\",\"offset\":7,") != NULL,
              "%s", buf);
    read_until(fd, "\n\n", buf, sizeof buf);
    cr_assert_str_eq(buf, "false}\n\n");
    once(&r, "POST /emit HTTP/1.1\r\n" H "\r\n", &p);
    read_until(fd, "\n\n", buf, sizeof buf);
    cr_assert_str_eq(buf,
                     "id: E:8\ndata: {\"topic\":\"news\",\"epoch\":\"E\",\"offset\":8,\"data\":"
                     "\"fresh\\nline\"}\n\n");
    close(fd);
    rig_stop(&r);
}

Test(http_life, event_stream_resumes) {
    struct rig r = {0};
    struct reply p;
    char buf[4096];
    rig_start(&r);
    int fd = open_stream(&r, "Last-Event-ID: E:5\r\n", buf, sizeof buf);
    cr_assert(strstr(buf, "id: E:7") == NULL, "an id ahead of the replay would skip it");
    read_until(fd, "id: E:7\n", buf, sizeof buf);
    cr_assert(strstr(buf, "true}\n\n") == buf);
    cr_assert(strstr(buf, "id: E:6\n") != NULL);
    close(fd);
    once(&r, "GET /stream HTTP/1.1\r\n" H AUTH "Last-Event-ID: junk\r\n\r\n", &p);
    cr_assert_eq(p.status, 400);
    fd = rig_connect(&r);
    say(fd, "GET /stream?lastEventId=E%3A5 HTTP/1.1\r\n" H AUTH "\r\n");
    read_until(fd, "\"recovered\":true", buf, sizeof buf);
    close(fd);
    rig_stop(&r);
}

Test(http_life, event_stream_refused_is_a_plain_problem) {
    struct rig r = {0};
    struct reply p;
    rig_start(&r);
    int fd = rig_connect(&r);
    say(fd, "GET /slow HTTP/1.1\r\n" H "\r\nGET /forbidden HTTP/1.1\r\n" H AUTH "\r\n");
    once(&r, "GET /release HTTP/1.1\r\n" H "\r\n", &p);
    cr_assert_str_eq(hear(fd, &p)->body, "was slow");
    cr_assert_eq(hear(fd, &p)->status, 403);
    cr_assert(strstr(p.body, "\"code\":\"forbidden\"") != NULL);
    cr_assert(client_is_at_end(fd));
    close(fd);
    fd = rig_connect(&r);
    say(fd, "HEAD /stream HTTP/1.1\r\n" H AUTH "\r\n");
    read_head(fd, &p);
    cr_assert(head_has(&p, "Content-Type: text/event-stream\r\n"));
    close(fd);
    rig_stop(&r);
}

Test(http_life, event_stream_ends_with_its_session) {
    struct rig r = {0};
    char buf[4096];
    rig_start(&r);
    int fd = open_stream(&r, "", buf, sizeof buf);
    ptn_pack w;
    ptn_pack_init(&w, 16);
    ptn_pack_array(&w, 2);
    ptn_pack_cstr(&w, "s1");
    ptn_pack_nil(&w);
    ptn_buf *b = ptn_pack_finish(&w);
    cr_assert_eq(ptn_port_send(r.port, r.edge, PTN_MSG_SESSION_REVOKED, b), 0);
    read_until(fd, "event: revoked\n", buf, sizeof buf);
    while (client_recv(fd, buf, 1) == 1)
        ;
    cr_assert(client_is_at_end(fd));
    close(fd);
    rig_stop(&r);
}

/* One whole frame from a server: unmasked, short. */
static void read_frame(int fd, char *payload, size_t cap) {
    uint8_t head[2], ext[2];
    cr_assert_eq(client_recv(fd, head, 2), 2);
    size_t n = head[1] & 0x7f;
    if (n == 126) {
        cr_assert_eq(client_recv(fd, ext, 2), 2);
        n = (size_t)ext[0] << 8 | ext[1];
    }
    cr_assert(n < cap);
    cr_assert_eq(client_recv(fd, payload, n), n);
    payload[n] = 0;
}

Test(http_life, upgrade) {
    /* a ping frame {"type":"ping"} under a zero mask, sent together with the request */
    static const char early[] = "\x81\x8f\0\0\0\0{\"type\":\"ping\"}";
    struct rig r = {0};
    struct reply p;
    char text[1024], frame[1024];
    rig_start(&r);
    int fd = rig_connect(&r);
    int n = snprintf(text, sizeof text,
                     "GET /slow HTTP/1.1\r\n" H "\r\nGET /api/v1/ws HTTP/1.1\r\n" H AUTH UPGRADE
                     "\r\n");
    memcpy(text + n, early, sizeof early - 1);
    cr_assert_eq(client_send(fd, text, (size_t)n + sizeof early - 1), 0);
    once(&r, "GET /release HTTP/1.1\r\n" H "\r\n", &p);
    cr_assert_str_eq(hear(fd, &p)->body, "was slow");
    read_head(fd, &p);
    cr_assert_eq(p.status, 101);
    cr_assert(head_has(&p, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    read_frame(fd, frame, sizeof frame);
    cr_assert(strstr(frame, "\"welcome\"") != NULL, "%s", frame);
    read_frame(fd, frame, sizeof frame);
    cr_assert(strstr(frame, "\"pong\"") != NULL, "%s", frame);
    close(fd);
    rig_stop(&r);
}

Test(http_life, upgrades_that_are_refused) {
    struct rig r = {0};
    struct reply p;
    rig_start(&r);
    once(&r, "GET /ws HTTP/1.1\r\n" H "\r\n", &p);
    cr_assert_eq(p.status, 426);
    cr_assert(head_has(&p, "Upgrade: websocket\r\n"));
    once(&r, "GET /ws HTTP/1.1\r\n" H "Authorization: Bearer bad\r\n" UPGRADE "\r\n", &p);
    cr_assert_eq(p.status, 401);
    once(&r,
         "GET /ws HTTP/1.1\r\n" H "Connection: Upgrade\r\nUpgrade: websocket\r\n"
         "Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
         &p);
    cr_assert(p.status == 426 && head_has(&p, "Sec-WebSocket-Version: 13\r\n"));
    once(&r, "GET /ws HTTP/1.1\r\n" H "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", &p);
    cr_assert(p.status == 400 || p.status == 426);
    /* elsewhere the offer is declined and the request answered */
    once(&r, "GET /x HTTP/1.1\r\n" H UPGRADE "\r\n", &p);
    cr_assert_eq(p.status, 200);
    rig_stop(&r);
}

Test(http_life, the_admin_listener_has_no_upgrade) {
    struct rig r = {.config.admin = true};
    struct reply p;
    rig_start(&r);
    once(&r, "GET /ws HTTP/1.1\r\n" H UPGRADE "\r\n", &p);
    cr_assert_eq(p.status, 200);
    cr_assert(strstr(p.body, "\"path\":\"/ws\"") != NULL);
    rig_stop(&r);
}

Test(http_life, drain) {
    struct rig r = {0};
    struct reply p;
    char buf[4096];
    rig_start(&r);
    int sse = open_stream(&r, "", buf, sizeof buf);
    int idle = rig_connect(&r), busy = rig_connect(&r), partial = rig_connect(&r);
    say(idle, "GET / HTTP/1.1\r\n" H "\r\n");
    cr_assert_eq(hear(idle, &p)->status, 200);
    say(partial, "GET / HTTP/1.1\r\n" H "\r\nGET / HTTP/1.1\r\n");
    cr_assert_eq(hear(partial, &p)->status, 200);
    say(busy, "GET /etag HTTP/1.1\r\n" H "\r\nGET /slow HTTP/1.1\r\n" H "\r\n");
    cr_assert_str_eq(hear(busy, &p)->body, "tagged");
    cr_assert_eq(ptn_port_send(r.port, r.edge, PTN_MSG_DRAIN, NULL), 0);
    cr_assert(client_is_at_end(idle));
    read_until(sse, "event: drain\n", buf, sizeof buf);
    int refused = client_connect(ptn_endpoint_address(r.ep));
    cr_assert(refused < 0 || client_is_at_end(refused), "the listener is closed");
    /* what was under way is finished, with a goodbye */
    say(partial, H "\r\n");
    cr_assert(head_has(hear(partial, &p), "Connection: close\r\n"));
    cr_assert(client_is_at_end(partial));
    say(busy, "GET /release HTTP/1.1\r\n" H "\r\n");
    cr_assert_str_eq(hear(busy, &p)->body, "was slow");
    cr_assert_eq(hear(busy, &p)->status, 200);
    cr_assert(head_has(&p, "Connection: close\r\n"));
    cr_assert(client_is_at_end(busy));
    close(sse), close(idle), close(busy), close(partial);
    if (refused >= 0)
        close(refused);
    rig_stop(&r);
}

Test(http_life, stop_waits_for_nobody_who_is_idle) {
    struct rig r = {0};
    struct reply p;
    char buf[4096];
    rig_start(&r);
    int sse = open_stream(&r, "", buf, sizeof buf), idle = rig_connect(&r), ws = rig_connect(&r);
    say(idle, "GET / HTTP/1.1\r\n" H "\r\n");
    cr_assert_eq(hear(idle, &p)->status, 200);
    say(ws, "GET /ws HTTP/1.1\r\n" H AUTH UPGRADE "\r\n");
    read_head(ws, &p);
    cr_assert_eq(p.status, 101);
    close(ws);
    rig_stop(&r); /* bounded by the runtime's drain deadline; a killed edge would fail the run */
    cr_assert(client_is_at_end(idle));
    close(sse), close(idle);
}

#define MSG_CRASH (PTN_MSG_TYPE_END + 1)
#define MSG_ALIVE (PTN_MSG_TYPE_END + 2)

static sem_t alive;

static int crashing_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    if (m->type == MSG_CRASH)
        ptn_fail(c, PTN_EPROTO, "a test asked for it");
    if (m->type == MSG_ALIVE)
        sem_post(&alive);
    return edge_actor.handle(c, state, m);
}

/* A crash costs the connections and nothing else: the next incarnation listens again, and what the
 * hub still knows of the old one is found out at the next event. */
Test(http_life, crash, .timeout = 60) {
    ptn_actor_ops ops = edge_actor;
    struct rig r = {.edge_ops = &ops};
    struct reply p;
    char buf[4096];
    ops.handle = crashing_handle;
    cr_assert_eq(sem_init(&alive, 0, 0), 0);
    rig_start(&r);
    int sse = open_stream(&r, "", buf, sizeof buf), idle = rig_connect(&r), busy = rig_connect(&r);
    say(idle, "GET / HTTP/1.1\r\n" H "\r\nPOST / HTTP/1.1\r\n" H "Content-Length: 9\r\n\r\nx");
    cr_assert_eq(hear(idle, &p)->status, 200);
    say(busy, "GET /etag HTTP/1.1\r\n" H "\r\nGET /slow HTTP/1.1\r\n" H AUTH "\r\n");
    cr_assert_eq(hear(busy, &p)->status, 200);
    cr_assert_eq(ptn_port_send(r.port, r.edge, MSG_CRASH, NULL), 0);
    cr_assert_eq(ptn_port_send(r.port, r.edge, MSG_ALIVE, NULL), 0);
    sem_wait(&alive); /* the next incarnation; the test's own time limit bounds this */
    read_until(sse, "false}\n\n", buf, sizeof buf);
    cr_assert(client_is_at_end(sse) && client_is_at_end(idle) && client_is_at_end(busy));
    close(sse), close(idle), close(busy);
    once(&r, "POST /emit HTTP/1.1\r\n" H "\r\n", &p);
    cr_assert_eq(p.status, 202);
    sse = open_stream(&r, "", buf, sizeof buf);
    once(&r, "POST /emit HTTP/1.1\r\n" H "\r\n", &p);
    read_until(sse, "id: E:8\n", buf, sizeof buf);
    close(sse);
    rig_stop(&r);
}
