/* SPDX-License-Identifier: Apache-2.0
 *
 * zmq_request_test.c - tables for envelope shapes, encodings, tokens and statuses.
 */
#include "protocols/zmq/zmq_request.h"

#include <criterion/criterion.h>

static ptn_bytes bytes_of(const char *z) {
    return (ptn_bytes){(const uint8_t *)z, strlen(z)};
}

struct shape_case {
    const char *name;
    const char *parts[10]; /* NULL ends */
    size_t n_envelope;
    int code; /* -1: accepted */
    const char *body;
    const char *says; /* part of the message */
};

static const struct shape_case shape_cases[] = {
    {"REQ", {"id", "", "{}"}, 2, -1, "{}", NULL},
    {"DEALER without delimiter", {"id", "{}"}, 1, -1, "{}", NULL},
    {"REQ with an empty body", {"id", "", ""}, 2, -1, "", NULL},
    {"one proxy", {"id", "p1", "", "{}"}, 3, -1, "{}", NULL},
    {"four proxies", {"id", "p1", "p2", "p3", "p4", "", "{}"}, 6, -1, "{}", NULL},
    {"five proxies", {"id", "p1", "p2", "p3", "p4", "p5", "", "{}"}, 1, 0, NULL, "too many parts"},
    {"no body", {"id"}, 1, 0, NULL, "no body"},
    {"an empty part alone", {"id", ""}, 1, -1, "", NULL},
    {"two bodies", {"id", "", "{}", "{}"}, 2, 0, NULL, "too many parts"},
    {"two bodies, no delimiter", {"id", "{}", "{}"}, 1, 0, NULL, "too many parts"},
    {"trailing empty part", {"id", "{}", ""}, 1, 0, NULL, "too many parts"},
    {"seven parts after the delimiter",
     {"id", "", "1", "2", "3", "4", "5", "6", "7"},
     2,
     0,
     NULL,
     "too many parts"},
    {"Majordomo client", {"id", "", "MDPC02", "\1", "echo", "{}"}, 2, 0, NULL, "Majordomo"},
    {"Majordomo worker", {"id", "", "MDPW02", "\1", "echo"}, 2, 0, NULL, "Majordomo"},
    {"Majordomo without delimiter", {"id", "MDPC02", "\1", "echo", "{}"}, 1, 0, NULL, "Majordomo"},
    {"Majordomo header alone", {"id", "", "MDPW02"}, 2, 0, NULL, "Majordomo"},
};

Test(zmq_shape, table) {
    for (size_t i = 0; i < PTN_ARRAY_LEN(shape_cases); i++) {
        const struct shape_case *t = &shape_cases[i];
        ptn_bytes parts[ZMQ_GW_PARTS_MAX];
        size_t n = 0;
        for (; t->parts[n] != NULL; n++) {
            if (n < ZMQ_GW_PARTS_MAX)
                parts[n] = bytes_of(t->parts[n]);
        }
        zmq_gw_shape s;
        zmq_gw_shape_of(parts, n, &s);
        cr_expect_eq(s.n_envelope, t->n_envelope, "%s: envelope %zu", t->name, s.n_envelope);
        cr_expect_eq(s.code, t->code < 0 ? -1 : PTN_CODE_INVALID_REQUEST, "%s: code %d", t->name,
                     s.code);
        if (t->body != NULL)
            cr_expect(s.body.n == strlen(t->body) && memcmp(s.body.p, t->body, s.body.n) == 0,
                      "%s: body", t->name);
        if (t->says != NULL)
            cr_expect_not_null(strstr(s.message, t->says), "%s: %s", t->name, s.message);
    }
}

Test(zmq_shape, long_part_before_the_delimiter_is_no_identity) {
    static uint8_t big[256];
    const ptn_bytes parts[] = {bytes_of("id"), {big, sizeof(big)}, bytes_of(""), bytes_of("{}")};
    zmq_gw_shape s;
    zmq_gw_shape_of(parts, 4, &s);
    cr_expect_eq(s.code, PTN_CODE_INVALID_REQUEST);
    cr_expect_eq(s.n_envelope, 1);
    const ptn_bytes just_fits[] = {bytes_of("id"), {big, 255}, bytes_of(""), bytes_of("{}")};
    zmq_gw_shape_of(just_fits, 4, &s);
    cr_expect_eq(s.code, -1);
    cr_expect_eq(s.n_envelope, 3);
}

Test(zmq_encoding, every_first_byte) {
    for (unsigned b = 0; b < 256; b++) {
        uint8_t byte = (uint8_t)b;
        enum zmq_gw_encoding want = ZMQ_GW_GARBAGE;
        if ((b >= 0x80 && b <= 0x8f) || b == 0xde || b == 0xdf)
            want = ZMQ_GW_MSGPACK;
        else if ((b >= ' ' && b <= '~') || b == '\t' || b == '\n' || b == '\r')
            want = ZMQ_GW_JSON;
        cr_expect_eq(zmq_gw_encoding_of((ptn_bytes){&byte, 1}), want, "first byte %#x", b);
    }
    cr_expect_eq(zmq_gw_encoding_of((ptn_bytes){NULL, 0}), ZMQ_GW_GARBAGE);
}

struct decode_case {
    const char *name;
    const char *body;
    size_t n; /* 0: strlen */
    int code; /* -1: accepted */
    const char *token;
    const char *frame; /* as JSON */
};

#define BYTES(literal) (literal), sizeof(literal) - 1

static const struct decode_case decode_cases[] = {
    {"bare request", BYTES("{\"method\":\"GET\",\"path\":\"/health\"}"), -1, "",
     "{\"method\":\"GET\",\"path\":\"/health\"}"},
    {"leading blanks", BYTES(" \r\n\t{\"type\":\"ping\"}"), -1, "", "{\"type\":\"ping\"}"},
    {"token is taken out", BYTES("{\"type\":\"ping\",\"token\":\"abc\",\"id\":7}"), -1, "abc",
     "{\"type\":\"ping\",\"id\":7}"},
    {"token deeper down stays", BYTES("{\"body\":{\"token\":\"abc\"}}"), -1, "",
     "{\"body\":{\"token\":\"abc\"}}"},
    {"an auth frame keeps its token", BYTES("{\"type\":\"auth\",\"token\":\"abc\"}"), -1, "",
     "{\"type\":\"auth\",\"token\":\"abc\"}"},
    {"msgpack",
     BYTES("\x82\xa4type\xa4ping\xa5token\xa3"
           "abc"),
     -1, "abc", "{\"type\":\"ping\"}"},
    {"empty map", BYTES("\x80"), -1, "", "{}"},
    {"token is a number", BYTES("{\"token\":1}"), PTN_CODE_UNAUTHENTICATED, NULL, NULL},
    {"token is empty", BYTES("{\"token\":\"\"}"), PTN_CODE_UNAUTHENTICATED, NULL, NULL},
    {"two tokens",
     BYTES("\x82\xa5token\xa1"
           "a\xa5token\xa1"
           "b"),
     PTN_CODE_UNAUTHENTICATED, NULL, NULL},
    {"array", BYTES("[1,2]"), PTN_CODE_INVALID_REQUEST, NULL, NULL},
    {"string", BYTES("\"x\""), PTN_CODE_INVALID_REQUEST, NULL, NULL},
    {"number", BYTES("42"), PTN_CODE_INVALID_REQUEST, NULL, NULL},
    {"broken JSON", BYTES("{\"a\":"), PTN_CODE_INVALID_REQUEST, NULL, NULL},
    {"two JSON values", BYTES("{}{}"), PTN_CODE_INVALID_REQUEST, NULL, NULL},
    {"bad UTF-8 in JSON", BYTES("{\"a\":\"\xff\"}"), PTN_CODE_INVALID_REQUEST, NULL, NULL},
    {"bad UTF-8 in msgpack", BYTES("\x81\xa1\xff\xc0"), PTN_CODE_INVALID_REQUEST, NULL, NULL},
    {"truncated msgpack",
     BYTES("\x82\xa1"
           "a"),
     PTN_CODE_INVALID_REQUEST, NULL, NULL},
    {"msgpack with a tail", BYTES("\x80\x80"), PTN_CODE_INVALID_REQUEST, NULL, NULL},
    {"msgpack map of 4 billion", BYTES("\xdf\xff\xff\xff\xff"), PTN_CODE_INVALID_REQUEST, NULL,
     NULL},
    {"integer key", BYTES("\x81\x01\x02"), PTN_CODE_INVALID_REQUEST, NULL, NULL},
    {"garbage", BYTES("\x00\x01\x02"), PTN_CODE_INVALID_REQUEST, NULL, NULL},
    {"msgpack array", BYTES("\x91\xc0"), PTN_CODE_INVALID_REQUEST, NULL, NULL},
    {"byte order mark", BYTES("\xef\xbb\xbf{}"), PTN_CODE_INVALID_REQUEST, NULL, NULL},
    {"empty", BYTES(""), PTN_CODE_INVALID_REQUEST, NULL, NULL},
    {"larger than the limit",
     BYTES("{\"a\":\"0123456789012345678901234567890123456789012345678901234567890\"}"),
     PTN_CODE_PAYLOAD_TOO_LARGE, NULL, NULL},
};

Test(zmq_decode, table) {
    ptn_json_parser *json = ptn_json_parser_new();
    cr_assert_not_null(json);
    const ptn_codec_limits limits = {.bytes_max = 64, .depth_max = 4};
    for (size_t i = 0; i < PTN_ARRAY_LEN(decode_cases); i++) {
        const struct decode_case *t = &decode_cases[i];
        zmq_gw_request r;
        int err =
            zmq_gw_request_decode(json, (ptn_bytes){(const uint8_t *)t->body, t->n}, &limits, &r);
        cr_expect_eq(err == 0, t->code < 0, "%s: err %d", t->name, err);
        if (err < 0) {
            cr_expect_eq(r.code, t->code, "%s: code %d", t->name, r.code);
            cr_expect(r.message != NULL && r.message[0] != '\0', "%s: says why", t->name);
            cr_expect_null(r.frame, "%s: nothing to pass on", t->name);
            zmq_gw_request_done(&r);
            continue;
        }
        cr_expect(ptn_str_eqz(r.token, t->token), "%s: token", t->name);
        ptn_out o = {0};
        cr_assert_eq(ptn_msgpack_to_json(ptn_buf_bytes(r.frame), &o), 0);
        cr_expect(o.len == strlen(t->frame) && memcmp(o.p, t->frame, o.len) == 0, "%s: frame %.*s",
                  t->name, (int)o.len, (const char *)o.p);
        ptn_out_done(&o);
        zmq_gw_request_done(&r);
    }
    ptn_json_parser_free(json);
}

Test(zmq_decode, id_is_found_for_errors_that_come_later) {
    ptn_json_parser *json = ptn_json_parser_new();
    const ptn_codec_limits limits = {0};
    zmq_gw_request r;
    const char *body = "{\"id\":\"r-1\",\"token\":\"t\"}";
    cr_assert_eq(zmq_gw_request_decode(json, bytes_of(body), &limits, &r), 0);
    ptn_unpack u = ptn_unpack_of(r.id);
    ptn_str id;
    cr_assert(ptn_unpack_str(&u, &id));
    cr_expect(ptn_str_eqz(id, "r-1"));
    zmq_gw_request_done(&r);
    ptn_json_parser_free(json);
}

Test(zmq_decode, id_of_a_kind_nobody_understands_is_not_echoed) {
    ptn_json_parser *json = ptn_json_parser_new();
    const ptn_codec_limits limits = {0};
    zmq_gw_request r;
    cr_assert_eq(zmq_gw_request_decode(json, bytes_of("{\"id\":{\"a\":[1,2,3]}}"), &limits, &r), 0);
    cr_expect_eq(r.id.n, 0);
    zmq_gw_request_done(&r);
    cr_assert_lt(zmq_gw_request_decode(json, bytes_of("{\"id\":5,\"token\":7}"), &limits, &r), 0);
    cr_expect_gt(r.id.n, 0, "an error about the token still says which request");
    zmq_gw_request_done(&r);
    ptn_json_parser_free(json);
}

Test(zmq_decode, id_goes_into_an_error_that_has_none) {
    static const uint8_t error[] = "\x81\xa4type\xa5"
                                   "error";
    static const uint8_t seven[] = "\x07";
    ptn_bytes frame = {error, sizeof(error) - 1};
    ptn_buf *b = zmq_gw_frame_with_id(frame, (ptn_bytes){seven, 1});
    cr_assert_not_null(b);
    ptn_codec_error e;
    cr_expect_eq(ptn_msgpack_validate(ptn_buf_bytes(b), NULL, &e), 0);
    int64_t id = 0;
    ptn_str type;
    cr_expect(ptn_map_get_int(ptn_buf_bytes(b), "id", &id) && id == 7);
    cr_expect(ptn_map_get_str(ptn_buf_bytes(b), "type", &type) && ptn_str_eqz(type, "error"));
    cr_expect_null(zmq_gw_frame_with_id((ptn_bytes){seven, 1}, (ptn_bytes){seven, 1}), "no map");
    (void)ptn_buf_unref(b);
}

static unsigned status_of(const char *json_text) {
    ptn_json_parser *json = ptn_json_parser_new();
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_codec_error e;
    cr_assert_eq(ptn_json_to_msgpack(json, ptn_str_of(json_text), NULL, &w, &e), 0);
    ptn_buf *b = ptn_pack_finish(&w);
    unsigned status = zmq_gw_frame_status(ptn_buf_bytes(b));
    (void)ptn_buf_unref(b);
    ptn_json_parser_free(json);
    return status;
}

Test(zmq_status, of_outgoing_frames) {
    cr_expect_eq(status_of("{\"type\":\"pong\"}"), 200);
    cr_expect_eq(status_of("{\"type\":\"response\",\"status\":404}"), 404);
    cr_expect_eq(status_of("{\"type\":\"response\",\"status\":70000}"), 200);
    cr_expect_eq(status_of("{\"type\":\"error\",\"code\":\"overloaded\"}"), 503);
    cr_expect_eq(status_of("{\"type\":\"error\",\"code\":\"never heard of\"}"), 500);
    cr_expect_eq(status_of("{}"), 200);
    cr_expect_eq(zmq_gw_frame_status((ptn_bytes){NULL, 0}), 503);
}
