/* SPDX-License-Identifier: Apache-2.0
 *
 * merge_patch_test.c - the examples of RFC 7396, and the bounds.
 */
#include "actors/merge_patch.h"

#include <criterion/criterion.h>
#include <postern/codec.h>

static ptn_buf *of_json(const char *json) {
    ptn_json_parser *p = ptn_json_parser_new();
    ptn_pack w;
    ptn_codec_error e = {0};
    ptn_pack_init(&w, 64);
    int err = ptn_json_to_msgpack(p, ptn_str_of(json), NULL, &w, &e);
    cr_assert_eq(err, 0, "%s: %s", json, e.what);
    ptn_json_parser_free(p);
    return ptn_pack_finish(&w);
}

static void expect_merge(const char *target, const char *patch, const char *result) {
    ptn_buf *t = of_json(target), *p = of_json(patch);
    ptn_pack w;
    ptn_out o = {0};
    ptn_pack_init(&w, 64);
    int err = merge_patch(ptn_buf_bytes(t), ptn_buf_bytes(p), &w);
    cr_expect_eq(err, 0, "%s + %s: %s", target, patch, ptn_err_name(err));
    ptn_buf *r = ptn_pack_finish(&w);
    cr_assert_not_null(r);
    cr_expect_eq(ptn_msgpack_validate(ptn_buf_bytes(r), NULL, NULL), 0);
    cr_assert_eq(ptn_msgpack_to_json(ptn_buf_bytes(r), &o), 0);
    cr_expect(ptn_str_eqz((ptn_str){(const char *)o.p, o.len}, result), "%s + %s = %.*s", target,
              patch, (int)o.len, (const char *)o.p);
    ptn_out_done(&o);
    ptn_buf_unref(t);
    ptn_buf_unref(p);
    ptn_buf_unref(r);
}

Test(merge_patch, examples_of_rfc_7396) {
    expect_merge("{\"a\":\"b\"}", "{\"a\":\"c\"}", "{\"a\":\"c\"}");
    expect_merge("{\"a\":\"b\"}", "{\"b\":\"c\"}", "{\"a\":\"b\",\"b\":\"c\"}");
    expect_merge("{\"a\":\"b\"}", "{\"a\":null}", "{}");
    expect_merge("{\"a\":\"b\",\"b\":\"c\"}", "{\"a\":null}", "{\"b\":\"c\"}");
    expect_merge("{\"a\":[\"b\"]}", "{\"a\":\"c\"}", "{\"a\":\"c\"}");
    expect_merge("{\"a\":\"c\"}", "{\"a\":[\"b\"]}", "{\"a\":[\"b\"]}");
    expect_merge("{\"a\":{\"b\":\"c\"}}", "{\"a\":{\"b\":\"d\",\"c\":null}}",
                 "{\"a\":{\"b\":\"d\"}}");
    expect_merge("{\"a\":[{\"b\":\"c\"}]}", "{\"a\":[1]}", "{\"a\":[1]}");
    expect_merge("{\"e\":null}", "{\"a\":1}", "{\"e\":null,\"a\":1}");
    expect_merge("{}", "{\"a\":{\"bb\":{\"ccc\":null}}}", "{\"a\":{\"bb\":{}}}");
}

Test(merge_patch, keeps_the_rest_of_nested_objects) {
    expect_merge("{\"a\":{\"x\":1,\"y\":{\"z\":2}},\"b\":3}", "{\"a\":{\"y\":{\"w\":4}}}",
                 "{\"a\":{\"x\":1,\"y\":{\"z\":2,\"w\":4}},\"b\":3}");
    expect_merge("{\"a\":1}", "{\"a\":{\"b\":null,\"c\":2}}", "{\"a\":{\"c\":2}}");
}

Test(merge_patch, an_empty_target_is_an_empty_object) {
    ptn_buf *p = of_json("{\"a\":1,\"b\":null}");
    ptn_pack w;
    ptn_pack_init(&w, 64);
    cr_expect_eq(merge_patch((ptn_bytes){NULL, 0}, ptn_buf_bytes(p), &w), 0);
    ptn_buf *r = ptn_pack_finish(&w);
    int64_t v = 0;
    cr_expect(ptn_map_get_int(ptn_buf_bytes(r), "a", &v) && v == 1);
    ptn_buf_unref(r);
    ptn_buf_unref(p);
}

/* {"k":{"k":..{}..}} with n objects inside the outer one. */
static int merge_depth(unsigned n) {
    ptn_pack p, w;
    ptn_pack_init(&p, 256);
    for (unsigned i = 0; i < n; i++) {
        ptn_pack_map(&p, 1);
        ptn_pack_cstr(&p, "k");
    }
    ptn_pack_map(&p, 0);
    ptn_buf *b = ptn_pack_finish(&p);
    ptn_pack_init(&w, 256);
    int err = merge_patch((ptn_bytes){NULL, 0}, ptn_buf_bytes(b), &w);
    ptn_pack_abort(&w);
    ptn_buf_unref(b);
    return err;
}

Test(merge_patch, depth_and_size_are_bounded) {
    cr_expect_eq(merge_depth(MERGE_PATCH_DEPTH_MAX - 1), 0);
    cr_expect_eq(merge_depth(MERGE_PATCH_DEPTH_MAX), -PTN_ETOOBIG);
    for (unsigned n = MERGE_PATCH_MEMBERS_MAX; n <= MERGE_PATCH_MEMBERS_MAX + 1; n++) {
        ptn_pack p, w;
        ptn_pack_init(&p, 256);
        ptn_pack_map(&p, n);
        for (unsigned i = 0; i < n; i++) {
            char key[2] = {(char)(' ' + i / 64), (char)(' ' + i % 64)};
            ptn_pack_str(&p, (ptn_str){key, 2});
            ptn_pack_int(&p, i);
        }
        ptn_buf *b = ptn_pack_finish(&p);
        ptn_pack_init(&w, 256);
        cr_expect_eq(merge_patch((ptn_bytes){NULL, 0}, ptn_buf_bytes(b), &w),
                     n > MERGE_PATCH_MEMBERS_MAX ? -PTN_ETOOBIG : 0);
        ptn_pack_abort(&w);
        ptn_buf_unref(b);
    }
}

Test(merge_patch, malformed_input_is_an_error) {
    static const uint8_t truncated[] = {0x81, 0xa1, 'a'}, number_key[] = {0x81, 0x01, 0x02},
                         array[] = {0x91, 0x01}, good[] = {0x80},
                         twice[] = {0x82, 0xa1, 'a', 0x01, 0xa1, 'a', 0x02};
    ptn_pack w;
    ptn_pack_init(&w, 64);
    cr_expect_eq(merge_patch((ptn_bytes){good, 1}, (ptn_bytes){truncated, 3}, &w), -PTN_EINVAL);
    cr_expect_eq(merge_patch((ptn_bytes){truncated, 3}, (ptn_bytes){good, 1}, &w), -PTN_EINVAL);
    cr_expect_eq(merge_patch((ptn_bytes){good, 1}, (ptn_bytes){number_key, 3}, &w), -PTN_EINVAL);
    cr_expect_eq(merge_patch((ptn_bytes){good, 1}, (ptn_bytes){array, 2}, &w), -PTN_EINVAL);
    cr_expect_eq(merge_patch((ptn_bytes){array, 2}, (ptn_bytes){good, 1}, &w), -PTN_EINVAL);
    ptn_pack_abort(&w);
    ptn_pack_init(&w, 64);
    cr_expect_eq(merge_patch((ptn_bytes){good, 1}, (ptn_bytes){twice, sizeof twice}, &w), 0);
    ptn_buf *r = ptn_pack_finish(&w);
    cr_expect_eq(ptn_msgpack_validate(ptn_buf_bytes(r), NULL, NULL), 0,
                 "a key that comes twice counts once");
    int64_t v = 0;
    cr_expect(ptn_map_get_int(ptn_buf_bytes(r), "a", &v) && v == 1);
    ptn_buf_unref(r);
}
