/* SPDX-License-Identifier: Apache-2.0
 *
 * json_fuzz.c - any bytes as JSON: what is accepted is valid msgpack and survives the way to JSON
 * and back unchanged.
 *
 * Also holds two parsers against each other: json_diagnose.c must find a mistake exactly when
 * simdjson (with our walk) refuses.
 */
#include <stdlib.h>

#include <postern/codec.h>

#include "protocols/codec/json_diagnose.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(e) ((e) ? (void)0 : abort())

static const ptn_codec_limits limits = {.bytes_max = 1u << 20, .depth_max = 20};
static const ptn_codec_limits limits_back = {.bytes_max = 8u << 20, .depth_max = 20};

static ptn_buf *convert(ptn_json_parser *p, ptn_str json, const ptn_codec_limits *l) {
    ptn_pack w;
    ptn_codec_error error = {0};
    ptn_pack_init(&w, 1);
    if (ptn_json_to_msgpack(p, json, l, &w, &error) == 0)
        return ptn_pack_finish(&w);
    CHECK(error.what != NULL && error.offset <= json.n);
    ptn_pack_abort(&w);
    return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static ptn_json_parser *parser;
    if (parser == NULL)
        parser = ptn_json_parser_new();
    CHECK(parser != NULL);
    if (size > limits.bytes_max)
        return 0;
    ptn_str json = {(const char *)data, size};
    ptn_codec_error error;
    ptn_buf *first = convert(parser, json, &limits);
    CHECK(ptn__json_diagnose(json, limits.depth_max, &error) == (first == NULL));
    if (first == NULL)
        return 0;
    CHECK(ptn_msgpack_validate(ptn_buf_bytes(first), &limits_back, &error) == 0);
    ptn_out out = {0};
    CHECK(ptn_msgpack_to_json(ptn_buf_bytes(first), &out) == 0);
    ptn_buf *second = convert(parser, (ptn_str){(const char *)out.p, out.len}, &limits_back);
    CHECK(second != NULL);
    ptn_bytes a = ptn_buf_bytes(first), b = ptn_buf_bytes(second);
    CHECK(a.n == b.n && memcmp(a.p, b.p, a.n) == 0);
    ptn_out_done(&out);
    (void)ptn_buf_unref(first);
    (void)ptn_buf_unref(second);
    return 0;
}
