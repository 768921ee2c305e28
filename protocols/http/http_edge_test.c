/* SPDX-License-Identifier: Apache-2.0
 *
 * http_edge_test.c - the edge over real sockets: requests, answers, order, limits, tokens.
 */
#include "protocols/http/http_test_rig.h"

#include <time.h>

#define H "Host: a\r\n"

Test(http_edge, get_and_its_headers) {
    struct rig r = {0};
    struct reply p;
    rig_start(&r);
    once(&r, "GET /some/%20path?q=1 HTTP/1.1\r\n" H "\r\n", &p);
    cr_assert_eq(p.status, 200);
    cr_assert(strstr(p.body, "{\"success\":true,\"data\":{") == p.body, "%s", p.body);
    cr_assert(strstr(p.body, "\"method\":\"GET\",\"path\":\"/some/%20path\",\"query\":\"q=1\"") !=
              NULL);
    cr_assert(strstr(p.body, "\"user\":\"\"") != NULL);
    cr_assert(strstr(p.body, ",\"message\":null}") != NULL);
    cr_assert(head_has(&p, "Content-Type: application/json\r\n"));
    cr_assert(head_has(&p, "Cache-Control: no-store\r\n"));
    cr_assert(head_has(&p, "X-Content-Type-Options: nosniff\r\n"));
    cr_assert(head_has(&p, " GMT\r\n"));
    cr_assert(!head_has(&p, "Connection:"));
    /* the trace id of the answer is the one the actor saw */
    char trace[64] = "\"trace\":\"";
    memcpy(trace + 9, strstr(p.head, "Trace-Id: ") + 10, 32);
    trace[41] = 0;
    cr_assert(strstr(p.body, trace) != NULL);
    rig_stop(&r);
}

/* Whether the head has the date of one of the seconds [first, last]. */
static bool is_dated(const struct reply *p, time_t first, time_t last) {
    char line[64] = "Date: ";
    for (time_t t = first; t <= last; t++) {
        http_date((int64_t)t * 1000, line + 6);
        if (head_has(p, line))
            return true;
    }
    return false;
}

Test(http_edge, date_goes_with_the_clock) {
    struct rig r = {0};
    struct reply p;
    rig_start(&r);
    int fd = rig_connect(&r);
    time_t begin = time(NULL), now = begin;
    while (now < begin + 2) { /* past a whole second, wherever in one it began */
        say(fd, "GET /etag HTTP/1.1\r\n" H "\r\n");
        hear(fd, &p);
        time_t after = time(NULL);
        /* a second is passed by the clock of the turn, and time() by that of the last tick */
        cr_assert(is_dated(&p, now - 1, after + 1), "%s", p.head);
        now = after;
    }
    cr_assert(!is_dated(&p, begin, begin), "%s", p.head);
    close(fd);
    rig_stop(&r);
}

Test(http_edge, traceparent_is_taken_over) {
    struct rig r = {0};
    struct reply p;
    rig_start(&r);
    once(&r,
         "GET / HTTP/1.1\r\n" H
         "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n",
         &p);
    cr_assert(head_has(&p, "Trace-Id: 4bf92f3577b34da6a3ce929d0e0e4736\r\n"));
    cr_assert(strstr(p.body, "\"parent\":\"00f067aa0ba902b7\"") != NULL);
    once(&r, "GET / HTTP/1.1\r\n" H "traceparent: 00-junk\r\n\r\n", &p);
    cr_assert_eq(p.status, 200);
    cr_assert(strstr(p.body, "\"parent\":\"\"") != NULL);
    rig_stop(&r);
}

Test(http_edge, head_has_the_length_but_no_body) {
    struct rig r = {0};
    struct reply p;
    rig_start(&r);
    int fd = rig_connect(&r);
    say(fd, "HEAD /etag HTTP/1.1\r\n" H "\r\nGET /etag HTTP/1.1\r\n" H "\r\n");
    read_head(fd, &p);
    cr_assert(head_has(&p, "Content-Length: 6\r\n"));
    hear(fd, &p);
    cr_assert_str_eq(p.body, "tagged");
    close(fd);
    rig_stop(&r);
}

Test(http_edge, bodies_in_both_encodings) {
    struct rig r = {0};
    struct reply p;
    rig_start(&r);
    once(&r, "POST / HTTP/1.1\r\n" H "Content-Length: 9\r\n\r\n{\"a\":[1]}", &p);
    cr_assert(strstr(p.body, "\"body\":{\"a\":[1]}") != NULL, "%s", p.body);
    once(&r,
         "POST / HTTP/1.1\r\n" H
         "Transfer-Encoding: chunked\r\n\r\n2\r\n{\"\r\n5\r\na\":1}\r\n0\r\n\r\n",
         &p);
    cr_assert(strstr(p.body, "\"body\":{\"a\":1}") != NULL, "%s", p.body);
    once(&r,
         "POST / HTTP/1.1\r\n" H
         "Content-Type: application/msgpack\r\nAccept: application/msgpack\r\n"
         "Content-Length: 4\r\n\r\n\x81\xa1"
         "a\x01",
         &p);
    cr_assert(head_has(&p, "Content-Type: application/msgpack\r\n"));
    ptn_bytes all = {(const uint8_t *)p.body, p.body_bytes}, data, body;
    ptn_codec_error why;
    cr_assert_eq(ptn_msgpack_validate(all, NULL, &why), 0, "%s", why.what);
    cr_assert(ptn_map_get(all, "data", &data) && ptn_map_get(data, "body", &body));
    int64_t v = 0;
    cr_assert(ptn_map_get_int(body, "a", &v) && v == 1);
    once(&r, "POST / HTTP/1.1\r\n" H "Content-Type: application/json\r\nContent-Length: 0\r\n\r\n",
         &p);
    cr_assert(strstr(p.body, "\"body\":null") != NULL);
    rig_stop(&r);
}

Test(http_edge, bodies_that_are_refused_keep_the_connection) {
    struct rig r = {0};
    struct reply p;
    rig_start(&r);
    int fd = rig_connect(&r);
    say(fd, "POST / HTTP/1.1\r\n" H "Content-Length: 4\r\n\r\n{\"a\"");
    cr_assert_eq(hear(fd, &p)->status, 400);
    cr_assert(strstr(p.body, "\"code\":\"invalid_request\"") != NULL);
    cr_assert(strstr(p.body, "\"details\":{\"offset\":") != NULL, "%s", p.body);
    cr_assert(head_has(&p, "Content-Type: application/problem+json\r\n"));
    say(fd, "POST / HTTP/1.1\r\n" H "Content-Type: text/xml\r\nContent-Length: 1\r\n\r\nx");
    cr_assert_eq(hear(fd, &p)->status, 415);
    say(fd, "POST / HTTP/1.1\r\n" H
            "Content-Type: application/json; charset=latin1\r\nContent-Length: 1\r\n\r\n1");
    cr_assert_eq(hear(fd, &p)->status, 415);
    say(fd, "POST / HTTP/1.1\r\n" H "Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\n1");
    cr_assert_eq(hear(fd, &p)->status, 415);
    say(fd, "POST / HTTP/1.1\r\n" H
            "Content-Type: application/msgpack\r\nContent-Length: 2\r\n\r\n\x01\x02");
    cr_assert_eq(hear(fd, &p)->status, 400);
    say(fd, "POST / HTTP/1.1\r\n" H "Request-Timeout: soon\r\n\r\n");
    cr_assert_eq(hear(fd, &p)->status, 400);
    say(fd, "GET / HTTP/1.1\r\n" H "\r\n");
    cr_assert_eq(hear(fd, &p)->status, 200);
    close(fd);
    rig_stop(&r);
}

Test(http_edge, problems) {
    struct rig r = {0};
    struct reply p;
    rig_start(&r);
    once(&r, "GET /problem HTTP/1.1\r\n" H "\r\n", &p);
    cr_assert_eq(p.status, 422);
    cr_assert(
        strstr(p.body, "{\"success\":false,\"type\":\"urn:postern:error:validation_failed\"") ==
        p.body);
    cr_assert(
        strstr(p.body, "\"details\":{\"name\":\"too short\"},\"retryable\":false,\"traceId\":\"") !=
        NULL);
    once(&r, "GET /problem HTTP/1.1\r\n" H "Accept: application/msgpack\r\n\r\n", &p);
    ptn_bytes all = {(const uint8_t *)p.body, p.body_bytes};
    ptn_codec_error why;
    ptn_str code;
    cr_assert_eq(ptn_msgpack_validate(all, NULL, &why), 0, "%s", why.what);
    cr_assert(ptn_map_get_str(all, "code", &code) && ptn_str_eqz(code, "validation_failed"));
    cr_assert(head_has(&p, "Content-Type: application/msgpack\r\n"));
    once(&r, "GET /limited HTTP/1.1\r\n" H "\r\n", &p);
    cr_assert(p.status == 429 && head_has(&p, "Retry-After: 1\r\n"));
    once(&r, "GET /impossible HTTP/1.1\r\n" H "\r\n", &p);
    cr_assert_eq(p.status, 500);
    once(&r, "GET /never HTTP/1.1\r\n" H "Request-Timeout: 0.02\r\n\r\n", &p);
    cr_assert_eq(p.status, 504);
    cr_assert(strstr(p.body, "\"code\":\"timeout\"") != NULL);
    rig_stop(&r);
}

Test(http_edge, tokens) {
    struct rig r = {0};
    struct reply p;
    rig_start(&r);
    once(&r,
         "POST /x?y=1 HTTP/1.1\r\n" H
         "Authorization: Bearer good\r\nIdempotency-Key: k1\r\nContent-Length: 3\r\n\r\n\"b\"",
         &p);
    cr_assert_eq(p.status, 200);
    cr_assert(strstr(p.body, "\"path\":\"/x\",\"query\":\"y=1\",\"user\":\"u1\"") != NULL, "%s",
              p.body);
    cr_assert(strstr(p.body, "\"headers\":{\"idempotency-key\":\"k1\"},\"body\":\"b\"") != NULL,
              "%s", p.body);
    once(&r, "GET / HTTP/1.1\r\n" H "Authorization: Bearer bad\r\n\r\n", &p);
    cr_assert_eq(p.status, 401);
    cr_assert(
        head_has(&p, "WWW-Authenticate: Bearer realm=\"postern\", error=\"invalid_token\"\r\n"));
    once(&r, "GET / HTTP/1.1\r\n" H "Authorization: Bearer expired\r\n\r\n", &p);
    cr_assert(p.status == 401 && strstr(p.body, "token_expired") != NULL);
    once(&r, "GET / HTTP/1.1\r\n" H "Authorization: Basic Zm9v\r\n\r\n", &p);
    cr_assert_eq(p.status, 401);
    once(&r, "GET / HTTP/1.1\r\n" H "Authorization: Bearer \r\n\r\n", &p);
    cr_assert_eq(p.status, 401);
    once(&r, "GET /api/v1/health HTTP/1.1\r\n" H "Authorization: Bearer bad\r\n\r\n", &p);
    cr_assert_eq(p.status, 200);
    once(&r, "POST /health HTTP/1.1\r\n" H "Authorization: Bearer bad\r\n\r\n", &p);
    cr_assert_eq(p.status, 401);
    rig_stop(&r);
}

Test(http_edge, answers_keep_the_order_of_requests) {
    struct rig r = {0};
    struct reply p;
    rig_start(&r);
    int fd = rig_connect(&r);
    say(fd, "GET /slow HTTP/1.1\r\n" H "\r\nGET /release HTTP/1.1\r\n" H "\r\nPOST / HTTP/1.1\r\n" H
            "Content-Length: 1\r\n\r\n{GET /etag HTTP/1.1\r\n" H "\r\n");
    cr_assert_str_eq(hear(fd, &p)->body, "was slow");
    cr_assert_str_eq(hear(fd, &p)->body, "released");
    cr_assert_eq(hear(fd, &p)->status, 400);
    cr_assert_str_eq(hear(fd, &p)->body, "tagged");
    close(fd);
    rig_stop(&r);
}

Test(http_edge, a_full_pipeline_goes_on_later) {
    struct rig r = {.config.limits.pipeline_max = 3};
    struct reply p;
    rig_start(&r);
    int fd = rig_connect(&r);
    char text[64], path[32];
    for (int i = 0; i < 200; i++) {
        snprintf(text, sizeof text, "GET /%d HTTP/1.1\r\n" H "\r\n", i);
        say(fd, text);
    }
    for (int i = 0; i < 200; i++) {
        snprintf(path, sizeof path, "\"path\":\"/%d\"", i);
        cr_assert(strstr(hear(fd, &p)->body, path) != NULL, "%s, not %s", p.body, path);
    }
    close(fd);
    rig_stop(&r);
}

/* Bodies that wait for the verifier are bounded too: 200 of 60 bytes pass through room for 100. */
Test(http_edge, bodies_held_for_the_verifier_are_bounded) {
    struct rig r = {.config.limits = {.body_bytes_max = 100, .pipeline_max = 200}};
    struct reply p;
    rig_start(&r);
    int fd = rig_connect(&r);
    char text[256], body[64];
    for (int i = 0; i < 200; i++) {
        snprintf(body, sizeof body, "\"%058d\"", i);
        snprintf(text, sizeof text,
                 "POST / HTTP/1.1\r\n" H
                 "Authorization: Bearer good\r\nContent-Length: 60\r\n\r\n%s",
                 body);
        say(fd, text);
    }
    for (int i = 0; i < 200; i++) {
        snprintf(body, sizeof body, "%058d", i);
        cr_assert(strstr(hear(fd, &p)->body, body) != NULL, "%s, not %s", p.body, body);
    }
    close(fd);
    rig_stop(&r);
}

Test(http_edge, a_reader_that_lags_gets_everything) {
    struct rig r = {.config.limits.out_bytes_max = 64 << 10};
    rig_start(&r);
    int fd = client_connect_with(ptn_endpoint_address(r.ep), 8192);
    for (int i = 0; i < 8; i++)
        say(fd, "GET /big HTTP/1.1\r\n" H "\r\n");
    static char body[BIG_BYTES];
    struct reply p;
    for (int i = 0; i < 8; i++) {
        read_head(fd, &p);
        cr_assert_eq(p.status, 200);
        cr_assert_eq(client_recv(fd, body, sizeof body), sizeof body);
        cr_assert(body[0] == 'x' && body[sizeof body - 1] == 'x');
    }
    close(fd);
    rig_stop(&r);
}

Test(http_edge, connections_end_when_they_should) {
    struct rig r = {0};
    struct reply p;
    rig_start(&r);
    int fd = rig_connect(&r);
    say(fd, "GET / HTTP/1.1\r\n" H "Connection: close\r\n\r\nGET / HTTP/1.1\r\n" H "\r\n");
    cr_assert(head_has(hear(fd, &p), "Connection: close\r\n"));
    cr_assert(client_is_at_end(fd));
    close(fd);
    fd = rig_connect(&r);
    say(fd, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n");
    cr_assert(head_has(hear(fd, &p), "Connection: keep-alive\r\n"));
    cr_assert(head_has(hear(fd, &p), "Connection: close\r\n"));
    cr_assert(client_is_at_end(fd));
    close(fd);
    fd = rig_connect(&r);
    say(fd, "GET /slow HTTP/1.1\r\n" H "\r\nGET /release HTTP/1.1\r\n" H "\r\n");
    shutdown(fd, SHUT_WR); /* half-closed: the answers still come */
    cr_assert_eq(hear(fd, &p)->status, 200);
    cr_assert_eq(hear(fd, &p)->status, 200);
    cr_assert(client_is_at_end(fd));
    close(fd);
    rig_stop(&r);
}

Test(http_edge, refusals_come_in_order_and_end_the_connection) {
    struct rig r = {.config.limits = {.body_bytes_max = 100, .request_line_bytes_max = 64}};
    static const struct {
        unsigned status;
        const char *text, *code;
    } t[] = {
        {400, "GET / HTTP/1.1\r\n" H "Content-Length: +1\r\n\r\n", "invalid_request"},
        {413, "POST / HTTP/1.1\r\n" H "Content-Length: 101\r\n\r\n", "payload_too_large"},
        {414, "GET /aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
         "invalid_request"},
        {417, "POST / HTTP/1.1\r\n" H "Expect: x\r\nContent-Length: 1\r\n\r\n", "invalid_request"},
        {501, "FROB / HTTP/1.1\r\n" H "\r\n", "method_not_allowed"},
        {505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "invalid_request"},
    };
    struct reply p;
    rig_start(&r);
    for (size_t i = 0; i < PTN_ARRAY_LEN(t); i++) {
        int fd = rig_connect(&r);
        say(fd, "GET /slow HTTP/1.1\r\n" H "\r\nGET /release HTTP/1.1\r\n" H "\r\n");
        say(fd, t[i].text);
        cr_assert_eq(hear(fd, &p)->status, 200);
        cr_assert_eq(hear(fd, &p)->status, 200);
        cr_assert_eq(hear(fd, &p)->status, t[i].status, "%s", p.head);
        cr_assert(strstr(p.body, t[i].code) != NULL, "%s", p.body);
        cr_assert(head_has(&p, "Connection: close\r\n"));
        cr_assert(client_is_at_end(fd));
        close(fd);
    }
    rig_stop(&r);
}

Test(http_edge, expect_continue) {
    struct rig r = {.config.limits.body_bytes_max = 100};
    struct reply p;
    rig_start(&r);
    int fd = rig_connect(&r);
    say(fd, "POST / HTTP/1.1\r\n" H "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    read_head(fd, &p);
    cr_assert_eq(p.status, 100);
    say(fd, "42");
    cr_assert(strstr(hear(fd, &p)->body, "\"body\":42") != NULL);
    /* behind a slow answer, the invitation waits for its turn */
    say(fd, "GET /slow HTTP/1.1\r\n" H "\r\nPOST / HTTP/1.1\r\n" H
            "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    once(&r, "GET /release HTTP/1.1\r\n" H "\r\n", &p);
    cr_assert_str_eq(hear(fd, &p)->body, "was slow");
    read_head(fd, &p);
    cr_assert_eq(p.status, 100);
    say(fd, "43");
    cr_assert(strstr(hear(fd, &p)->body, "\"body\":43") != NULL);
    say(fd, "POST / HTTP/1.1\r\n" H "Expect: 100-continue\r\nContent-Length: 101\r\n\r\n");
    cr_assert_eq(hear(fd, &p)->status, 413);
    cr_assert(client_is_at_end(fd));
    close(fd);
    rig_stop(&r);
}

Test(http_edge, time_limits) {
    struct rig r = {.config.limits = {.first_byte_ns = 60 * PTN_MS,
                                      .headers_ns = 50 * PTN_MS,
                                      .body_ns = 40 * PTN_MS}};
    struct reply p;
    rig_start(&r);
    int idle = rig_connect(&r), head = rig_connect(&r), body = rig_connect(&r);
    say(head, "GET / HTTP/1.1\r\nHost:");
    say(body, "POST / HTTP/1.1\r\n" H "Content-Length: 5\r\n\r\n{");
    cr_assert_eq(hear(head, &p)->status, 408);
    cr_assert(head_has(&p, "Connection: close\r\n") && client_is_at_end(head));
    cr_assert_eq(hear(body, &p)->status, 408);
    cr_assert(client_is_at_end(body));
    cr_assert(client_is_at_end(idle), "closed without a word");
    /* answering resets the clock of the idle phase, and a request in flight has none */
    int busy = rig_connect(&r);
    say(busy, "GET /never HTTP/1.1\r\n" H "Request-Timeout: 0.2\r\n\r\n");
    cr_assert_eq(hear(busy, &p)->status, 504);
    cr_assert(client_is_at_end(busy));
    close(idle), close(head), close(body), close(busy);
    rig_stop(&r);
}

Test(http_edge, too_many_connections) {
    struct rig r = {.config.limits.connections_max = 2};
    struct reply p;
    rig_start(&r);
    int a = rig_connect(&r), b = rig_connect(&r);
    say(a, "GET / HTTP/1.1\r\n" H "\r\n");
    say(b, "GET / HTTP/1.1\r\n" H "\r\n");
    cr_assert_eq(hear(a, &p)->status, 200);
    cr_assert_eq(hear(b, &p)->status, 200);
    int over = rig_connect(&r);
    cr_assert_eq(hear(over, &p)->status, 503);
    cr_assert(head_has(&p, "Retry-After: 1\r\n") && strstr(p.body, "overloaded") != NULL);
    cr_assert(client_is_at_end(over));
    close(a), close(b), close(over);
    rig_stop(&r);
}

Test(http_edge, what_actors_may_say_in_headers) {
    struct rig r = {0};
    struct reply p;
    rig_start(&r);
    once(&r, "GET /evil HTTP/1.1\r\n" H "\r\n", &p);
    cr_assert(head_has(&p, "X-Good: yes\r\n") && head_has(&p, "Content-Length: 2\r\n"));
    cr_assert(!head_has(&p, "X-Evil") && !head_has(&p, "X B") &&
              !head_has(&p, "Content-Length: 1\r"));
    int fd = rig_connect(&r);
    say(fd, "GET /etag HTTP/1.1\r\n" H "If-None-Match: \"v0\"\r\n\r\n");
    cr_assert_eq(hear(fd, &p)->status, 200);
    cr_assert(head_has(&p, "Cache-Control: max-age=5\r\n") && !head_has(&p, "no-store"));
    say(fd, "GET /etag HTTP/1.1\r\n" H "If-None-Match: \"v0\", W/\"v1\"\r\n\r\n");
    cr_assert_eq(hear(fd, &p)->status, 304);
    cr_assert(head_has(&p, "etag: \"v1\"\r\n") && !head_has(&p, "Content-Length"));
    say(fd, "GET /none HTTP/1.1\r\n" H "\r\n");
    cr_assert_eq(hear(fd, &p)->status, 204);
    cr_assert(!head_has(&p, "Content-Length"));
    say(fd, "OPTIONS * HTTP/1.1\r\n" H "\r\n");
    cr_assert(hear(fd, &p)->status == 204 && head_has(&p, "Allow: GET, HEAD"));
    close(fd);
    rig_stop(&r);
}

Test(http_edge, a_peer_that_leaves_takes_its_requests_along) {
    struct rig r = {0};
    struct reply p;
    rig_start(&r);
    for (int i = 0; i < 20; i++) {
        int fd = rig_connect(&r);
        say(fd, "GET /slow HTTP/1.1\r\n" H "\r\nGET /never HTTP/1.1\r\n" H
                "Authorization: Bearer good\r\n\r\n");
        client_reset(fd);
    }
    once(&r, "GET / HTTP/1.1\r\n" H "\r\n", &p);
    cr_assert_eq(p.status, 200);
    rig_stop(&r);
}
