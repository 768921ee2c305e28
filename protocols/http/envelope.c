/* SPDX-License-Identifier: Apache-2.0
 *
 * envelope.c - the REST envelope: what stands around data and around errors (wire.md section 2).
 *
 * Values arrive as msgpack.  For msgpack clients they are copied as they are; for JSON clients they
 * are transcoded while the envelope is written, so that there is one pass and no tree.
 */
#include "protocols/http/http.h"

void http_out_uint(ptn_out *o, uint64_t v) {
    char text[20];
    size_t at = sizeof text;
    do {
        text[--at] = (char)('0' + v % 10);
        v /= 10;
    } while (v != 0);
    ptn_out_put(o, text + at, sizeof text - at);
}

void http_put_map(ptn_out *o, uint32_t n) {
    uint8_t b = (uint8_t)(0x80 | n);
    PTN_DEBUG_ASSERT(n <= 15);
    ptn_out_put(o, &b, 1);
}

void http_put_str(ptn_out *o, ptn_str s) {
    uint8_t head[5];
    size_t n = 1;
    if (s.n < 32) {
        head[0] = (uint8_t)(0xa0 | s.n);
    } else {
        head[0] = 0xdb;
        for (size_t i = 0; i < 4; i++)
            head[1 + i] = (uint8_t)(s.n >> (24 - 8 * i));
        n = 5;
    }
    ptn_out_put(o, head, n);
    ptn_out_put(o, s.p, s.n);
}

static void put_key(ptn_out *o, const char *z) {
    http_put_str(o, ptn_str_of(z));
}

static void put_byte(ptn_out *o, uint8_t b) {
    ptn_out_put(o, &b, 1);
}

static void put_value(ptn_out *o, ptn_bytes v) {
    if (v.n == 0)
        put_byte(o, 0xc0);
    else
        ptn_out_put(o, v.p, v.n);
}

static void json_value(ptn_out *o, ptn_bytes v, const char *otherwise) {
    if (v.n == 0)
        http_out_z(o, otherwise);
    else if (ptn_msgpack_to_json(v, o) != 0 && o->err == 0)
        o->err = -PTN_EPROTO; /* half a value is no answer */
}

void edge_encode_success(ptn_out *o, const ptn_response *r, bool msgpack) {
    if (msgpack) {
        http_put_map(o, r->page.n == 0 ? 3 : 4);
        put_key(o, "success");
        put_byte(o, 0xc3);
        put_key(o, "data");
        put_value(o, r->data);
        if (r->page.n != 0) {
            put_key(o, "page");
            put_value(o, r->page);
        }
        put_key(o, "message");
        put_byte(o, 0xc0);
        return;
    }
    http_out_z(o, "{\"success\":true,\"data\":");
    json_value(o, r->data, "null");
    if (r->page.n != 0) {
        http_out_z(o, ",\"page\":");
        json_value(o, r->page, "null");
    }
    http_out_z(o, ",\"message\":null}");
}

static void problem_msgpack(ptn_out *o, const struct http_problem *p, const ptn_code_info *info,
                            const char *title, unsigned status, const char *trace) {
    char type[96] = "urn:postern:error:";
    size_t prefix = strlen(type), n = strlen(info->code);
    n = n < sizeof type - prefix ? n : sizeof type - prefix;
    memcpy(type + prefix, info->code, n);
    http_put_map(o, 9);
    put_key(o, "success");
    put_byte(o, 0xc2);
    put_key(o, "type");
    http_put_str(o, (ptn_str){type, prefix + n});
    put_key(o, "title");
    put_key(o, title);
    put_key(o, "status");
    uint8_t number[3] = {0xcd, (uint8_t)(status >> 8), (uint8_t)status};
    ptn_out_put(o, number, 3);
    put_key(o, "code");
    put_key(o, info->code);
    put_key(o, "message");
    http_put_str(o, p->message);
    put_key(o, "details");
    if (p->details.n == 0)
        http_put_map(o, 0);
    else
        put_value(o, p->details);
    put_key(o, "retryable");
    put_byte(o, info->retryable ? 0xc3 : 0xc2);
    put_key(o, "traceId");
    put_key(o, trace == NULL ? "" : trace);
}

void http_encode_problem(ptn_out *o, const struct http_problem *p, const char *trace,
                         bool msgpack) {
    const ptn_code_info *info = ptn_code_info_of(p->code);
    unsigned status = p->status != 0 ? p->status : (unsigned)info->status;
    const char *title = status == (unsigned)info->status ? info->title : http_reason(status);
    if (msgpack) {
        problem_msgpack(o, p, info, title, status, trace);
        return;
    }
    http_out_z(o, "{\"success\":false,\"type\":\"urn:postern:error:");
    http_out_z(o, info->code);
    http_out_z(o, "\",\"title\":");
    ptn_json_string(o, ptn_str_of(title));
    http_out_z(o, ",\"status\":");
    http_out_uint(o, status);
    http_out_z(o, ",\"code\":\"");
    http_out_z(o, info->code);
    http_out_z(o, "\",\"message\":");
    ptn_json_string(o, p->message);
    http_out_z(o, ",\"details\":");
    json_value(o, p->details, "{}");
    http_out_z(o, info->retryable ? ",\"retryable\":true,\"traceId\":\""
                                  : ",\"retryable\":false,\"traceId\":\"");
    http_out_z(o, trace == NULL ? "" : trace);
    http_out_z(o, "\"}");
}

void edge_encode_problem(ptn_out *o, int code, ptn_str message, ptn_bytes details,
                         const char *trace, bool msgpack) {
    struct http_problem p = {.code = code, .message = message, .details = details};
    http_encode_problem(o, &p, trace, msgpack);
}
