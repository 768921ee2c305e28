/* SPDX-License-Identifier: Apache-2.0
 *
 * conversation_draft_test.c - what a message must be before a conversation takes it.
 */
#include "actors/conversation_internal.h"
#include "actors/domain_testing.h"

static struct faults check(ptn_buf *take_body, bool admin, struct draft *ret_d) {
    struct faults x;
    draft_read(ptn_buf_bytes(take_body), admin, INT64_C(1700000000000), ret_d, &x);
    ptn_buf_unref(take_body);
    return x;
}

static bool names(const struct faults *x, const char *field) {
    for (uint32_t i = 0; i < x->n; i++)
        if (strcmp(x->at[i].field, field) == 0)
            return true;
    return false;
}

Test(conversation_draft, every_bad_field_is_named) {
    struct draft d;
    struct faults x = check(texts("id", "x", "content", "", "type", "poem", "timestamp",
                                  "yesterday", "metadata", "text", NULL),
                            false, &d);
    cr_expect_eq(x.n, 5);
    cr_expect(names(&x, "id") && names(&x, "content") && names(&x, "type") &&
              names(&x, "timestamp") && names(&x, "metadata"));
    x = check(packed("s", "array"), false, &d);
    cr_expect(x.n == 1 && names(&x, "body"));
    x = check(texts("content", "x", "conversationId", "", NULL), false, &d);
    cr_expect(x.n == 1 && names(&x, "conversationId"), "an empty id is no default");
    x = check(texts("type", "text", NULL), false, &d);
    cr_expect(x.n == 1 && names(&x, "content"));
}

Test(conversation_draft, types_times_and_defaults) {
    struct draft d;
    ptn_buf *b = texts("content", "hello", "type", NULL, "id", NULL, "other", "ignored", NULL);
    struct faults x;
    draft_read(ptn_buf_bytes(b), false, INT64_C(1700000000000), &d, &x);
    cr_expect_eq(x.n, 0);
    cr_expect(ptn_str_eqz(d.type, "text"));
    cr_expect_eq(d.timestamp_ms, INT64_C(1700000000000));
    cr_expect_eq(d.id.n, 0);
    ptn_buf_unref(b);
    b = texts("content", "first", "type", NULL, "content", "", "type", "poem", NULL);
    draft_read(ptn_buf_bytes(b), false, INT64_C(1700000000000), &d, &x);
    cr_expect(x.n == 0 && ptn_str_eqz(d.content, "first"), "the first of each name");
    ptn_buf_unref(b);
    x = check(texts("content", "x", "type", "system", NULL), false, &d);
    cr_expect(x.n == 1 && names(&x, "type"), "only administrators");
    cr_expect_eq(check(texts("content", "x", "type", "system", NULL), true, &d).n, 0);
    cr_expect_eq(
        check(texts("content", "x", "timestamp", "2023-11-14T00:00:00.000Z", NULL), false, &d).n,
        0);
    cr_expect_eq(d.timestamp_ms, INT64_C(1699920000000));
    cr_expect_eq(
        check(texts("content", "x", "timestamp", "2023-11-16T00:00:00Z", NULL), false, &d).n, 1,
        "more than a day ahead");
    cr_expect_eq(
        check(texts("content", "x", "timestamp", "1969-12-31T23:59:59Z", NULL), false, &d).n, 1);
}

Test(conversation_draft, sizes) {
    struct draft d;
    char *big = calloc(1, MESSAGE_CONTENT_BYTES_MAX + 2);
    cr_assert_not_null(big);
    memset(big, 'x', MESSAGE_CONTENT_BYTES_MAX);
    cr_expect_eq(check(texts("content", big, NULL), false, &d).n, 0);
    big[MESSAGE_CONTENT_BYTES_MAX] = 'x';
    cr_expect_eq(check(texts("content", big, NULL), false, &d).n, 1);
    free(big);
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_pack_map(&w, 1);
    ptn_pack_key(&w, "content");
    ptn_pack_str(&w, PTN_STR("a\0b"));
    cr_expect_eq(check(ptn_pack_finish(&w), false, &d).n, 1, "NUL is refused");
}
