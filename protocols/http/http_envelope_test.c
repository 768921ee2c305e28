/* SPDX-License-Identifier: Apache-2.0
 *
 * http_envelope_test.c - the REST envelope, byte for byte, in both encodings.
 */
#include "protocols/http/http.h"

#include <criterion/criterion.h>

static const ptn_bytes none = {NULL, 0};

static ptn_bytes bytes(const char *p, size_t n) {
    return (ptn_bytes){(const uint8_t *)p, n};
}

static void expect_text(ptn_out *o, const char *text) {
    cr_assert_eq(o->err, 0);
    cr_assert_eq(o->len, strlen(text), "%.*s", (int)o->len, (const char *)o->p);
    cr_assert_eq(memcmp(o->p, text, o->len), 0, "%.*s", (int)o->len, (const char *)o->p);
    ptn_out_clear(o);
}

Test(http_envelope, success_json) {
    ptn_out o = {0};
    ptn_response r = {.status = 200,
                      .data = bytes("\x81\xa1"
                                    "a\x01",
                                    4)};
    edge_encode_success(&o, &r, false);
    expect_text(&o, "{\"success\":true,\"data\":{\"a\":1},\"message\":null}");
    r.page = bytes("\x82\xa4next\xa1x\xa4prev\xc0", 14);
    edge_encode_success(&o, &r, false);
    expect_text(&o, "{\"success\":true,\"data\":{\"a\":1},\"page\":{\"next\":\"x\",\"prev\":null},"
                    "\"message\":null}");
    r = (ptn_response){.status = 200};
    edge_encode_success(&o, &r, false);
    expect_text(&o, "{\"success\":true,\"data\":null,\"message\":null}");
    ptn_out_done(&o);
}

Test(http_envelope, success_msgpack_is_valid) {
    ptn_out o = {0};
    ptn_codec_error why;
    ptn_bytes v;
    bool b = false;
    ptn_response r = {.status = 200, .data = bytes("\x93\x01\x02\x03", 4)};
    edge_encode_success(&o, &r, true);
    cr_assert_eq(ptn_msgpack_validate((ptn_bytes){o.p, o.len}, NULL, &why), 0, "%s", why.what);
    cr_assert(ptn_map_get_bool((ptn_bytes){o.p, o.len}, "success", &b) && b);
    cr_assert(ptn_map_get((ptn_bytes){o.p, o.len}, "data", &v) && v.n == 4);
    cr_assert(!ptn_map_get((ptn_bytes){o.p, o.len}, "page", &v));
    ptn_out_done(&o);
}

Test(http_envelope, problem_json) {
    ptn_out o = {0};
    edge_encode_problem(&o, PTN_CODE_RATE_LIMITED, PTN_STR("Say \"when\"\n"), none,
                        "0123456789abcdef0123456789abcdef", false);
    expect_text(&o, "{\"success\":false,\"type\":\"urn:postern:error:rate_limited\","
                    "\"title\":\"Too many requests\",\"status\":429,\"code\":\"rate_limited\","
                    "\"message\":\"Say \\\"when\\\"\\n\",\"details\":{},\"retryable\":true,"
                    "\"traceId\":\"0123456789abcdef0123456789abcdef\"}");
    edge_encode_problem(&o, 9999, PTN_STR(""), none, NULL, false);
    expect_text(&o, "{\"success\":false,\"type\":\"urn:postern:error:internal\","
                    "\"title\":\"Internal error\",\"status\":500,\"code\":\"internal\","
                    "\"message\":\"\",\"details\":{},\"retryable\":false,\"traceId\":\"\"}");
    ptn_out_done(&o);
}

Test(http_envelope, a_status_of_http_alone_has_its_own_title) {
    ptn_out o = {0};
    struct http_problem p = {
        .status = 414, .code = PTN_CODE_INVALID_REQUEST, .message = PTN_STR("x")};
    http_encode_problem(&o, &p, "t", false);
    expect_text(&o, "{\"success\":false,\"type\":\"urn:postern:error:invalid_request\","
                    "\"title\":\"URI Too Long\",\"status\":414,\"code\":\"invalid_request\","
                    "\"message\":\"x\",\"details\":{},\"retryable\":false,\"traceId\":\"t\"}");
    ptn_out_done(&o);
}

/* Every code in both encodings says the same. */
Test(http_envelope, problems_agree) {
    char message[300];
    memset(message, 'm', sizeof message);
    for (int code = 0; code < PTN_CODE_COUNT; code++) {
        ptn_out json = {0}, pack = {0}, again = {0};
        ptn_codec_error why;
        ptn_str text = {message, sizeof message};
        ptn_bytes details = bytes("\x81\xa1k\xa1v", 5);
        edge_encode_problem(&json, code, text, details, "t", false);
        edge_encode_problem(&pack, code, text, details, "t", true);
        cr_assert_eq(ptn_msgpack_validate((ptn_bytes){pack.p, pack.len}, NULL, &why), 0, "%s",
                     why.what);
        cr_assert_eq(ptn_msgpack_to_json((ptn_bytes){pack.p, pack.len}, &again), 0);
        cr_assert_eq(again.len, json.len);
        cr_assert_eq(memcmp(again.p, json.p, json.len), 0);
        ptn_out_done(&json);
        ptn_out_done(&pack);
        ptn_out_done(&again);
    }
}
