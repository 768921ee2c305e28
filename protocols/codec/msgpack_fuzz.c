/* SPDX-License-Identifier: Apache-2.0
 *
 * msgpack_fuzz.c - any bytes as msgpack: the reader stays inside them, the gate and the JSON writer
 * agree, and the JSON that comes out is JSON.  Also UTF-8 in pieces against UTF-8 as a whole.
 */
#include <stdlib.h>

#include <postern/codec.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(e) ((e) ? (void)0 : abort())

static const ptn_codec_limits limits = {.bytes_max = 1u << 20, .depth_max = 50};
static const ptn_codec_limits limits_json = {.bytes_max = 16u << 20, .depth_max = 1024};

/* Steps through value by value, descending into containers; every view must lie inside. */
static void read_all(ptn_bytes b) {
    ptn_unpack u = ptn_unpack_of(b);
    while (ptn_unpack_peek(&u) != PTN_KIND_END) {
        const uint8_t *before = u.p;
        bool flag;
        int64_t i;
        uint64_t un;
        double d;
        ptn_str s = {0};
        ptn_bytes bin = {0};
        uint32_t n = 0;
        bool took = ptn_unpack_nil(&u) || ptn_unpack_bool(&u, &flag) || ptn_unpack_int(&u, &i) ||
                    ptn_unpack_uint(&u, &un) || ptn_unpack_double(&u, &d) ||
                    ptn_unpack_str(&u, &s) || ptn_unpack_bin(&u, &bin) ||
                    ptn_unpack_array(&u, &n) || ptn_unpack_map(&u, &n) || ptn_unpack_any(&u, NULL);
        CHECK(took && u.p > before && u.p <= u.end && n <= (size_t)(u.end - u.p));
        CHECK(s.p == NULL || (const uint8_t *)s.p + s.n == u.p);
        CHECK(bin.p == NULL || bin.p + bin.n == u.p);
    }
}

static void lookups(ptn_bytes b) {
    ptn_bytes v;
    ptn_str s;
    int64_t i;
    if (ptn_map_get(b, "a", &v))
        CHECK(v.n > 0 && v.p > b.p && v.p + v.n <= b.p + b.n);
    (void)ptn_map_get_str(b, "a", &s);
    (void)ptn_map_get_int(b, "", &i);
}

static void utf8_in_pieces(ptn_bytes b) {
    size_t cut = b.n == 0 ? 0 : b.p[0] % (b.n + 1);
    uint32_t state = 0;
    bool in_pieces = ptn_utf8_feed(&state, b.p, cut) &&
                     ptn_utf8_feed(&state, b.p + cut, b.n - cut) && state == 0;
    CHECK(in_pieces == ptn_utf8_valid(b.p, b.n));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static ptn_json_parser *parser;
    static const uint8_t nothing[1];
    if (parser == NULL)
        parser = ptn_json_parser_new();
    CHECK(parser != NULL);
    if (size > limits.bytes_max)
        return 0;
    ptn_bytes b = {size == 0 ? nothing : data, size};
    ptn_codec_error error = {0};
    ptn_unpack u = ptn_unpack_of(b);
    bool is_whole = ptn_unpack_any(&u, NULL) && u.p == u.end;
    bool is_valid = ptn_msgpack_validate(b, &limits, &error) == 0;
    CHECK(!is_valid || is_whole);
    CHECK(is_valid || (error.what != NULL && error.offset <= size));
    read_all(b);
    lookups(b);
    utf8_in_pieces(b);

    ptn_out out = {0};
    bool is_json = ptn_msgpack_to_json(b, &out) == 0;
    CHECK(!is_valid || is_json);
    if (is_json) {
        ptn_pack w;
        ptn_pack_init(&w, size);
        int err = ptn_json_to_msgpack(parser, (ptn_str){(const char *)out.p, out.len}, &limits_json,
                                      &w, &error);
        /* NUL in a string, which the gate refuses, is the only JSON we write and do not read. */
        CHECK(err == 0 || (!is_valid && strstr(error.what, "NUL") != NULL));
        ptn_pack_abort(&w);
    }
    ptn_out_done(&out);
    return 0;
}
