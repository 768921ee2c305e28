/* SPDX-License-Identifier: Apache-2.0
 *
 * idempotency_test.c - one key, one id, and nobody else's.
 */
#include "actors/idempotency.h"

#include <criterion/criterion.h>
#include <sodium.h>

static const uint8_t secret[IDEMPOTENCY_SECRET_BYTES] = {1}, other[IDEMPOTENCY_SECRET_BYTES] = {2};

static const char *id(const uint8_t *s, const char *user, const char *place, const char *key) {
    static char out[2][IDEMPOTENCY_ID_BYTES + 1];
    static unsigned turn;
    turn ^= 1;
    idempotency_id(s, ptn_str_of(user), ptn_str_of(place), ptn_str_of(key), out[turn]);
    return out[turn];
}

Test(idempotency, the_same_gives_the_same_and_anything_else_does_not) {
    cr_assert_geq(sodium_init(), 0);
    cr_expect(ptn_id_is_valid(ptn_str_of(id(secret, "u", "p", "k"))));
    cr_expect_str_eq(id(secret, "u", "p", "k"), id(secret, "u", "p", "k"));
    cr_expect_str_neq(id(secret, "u", "p", "k"), id(secret, "v", "p", "k"));
    cr_expect_str_neq(id(secret, "u", "p", "k"), id(secret, "u", "q", "k"));
    cr_expect_str_neq(id(secret, "u", "p", "k"), id(secret, "u", "p", "l"));
    cr_expect_str_neq(id(secret, "ab", "c", "k"), id(secret, "a", "bc", "k"), "parts have ends");
    cr_expect_str_neq(id(secret, "u", "p", "k"), id(other, "u", "p", "k"), "the secret counts");
}

static int key_of(size_t n, ptn_str *ret_key) {
    static char text[300];
    memset(text, 'k', sizeof text);
    ptn_pack w;
    ptn_pack_init(&w, 0);
    ptn_pack_map(&w, 1);
    ptn_pack_key(&w, "idempotency-key");
    ptn_pack_str(&w, (ptn_str){text, n});
    ptn_buf *b = ptn_pack_finish(&w);
    cr_assert_not_null(b);
    ptn_request r = {.headers = ptn_buf_bytes(b)};
    int found = idempotency_key(&r, ret_key);
    ptn_buf_unref(b);
    return found;
}

Test(idempotency, a_key_has_1_to_255_bytes) {
    ptn_str key = {0};
    cr_expect_eq(idempotency_key(&(ptn_request){0}, &key), 0);
    cr_expect_eq(key_of(0, &key), -PTN_EINVAL);
    cr_expect_eq(key_of(1, &key), 1);
    cr_expect_eq(key.n, 1);
    cr_expect_eq(key_of(255, &key), 1);
    cr_expect_eq(key_of(256, &key), -PTN_EINVAL);
}
