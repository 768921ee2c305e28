/* SPDX-License-Identifier: Apache-2.0
 *
 * jwt_test.c - tokens made here verify; tokens tampered with in any way we know of do not.
 */
#include "actors/jwt.h"

#include <criterion/criterion.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>

#define NOW_MS INT64_C(1700000000000)
#define GOOD_HEADER "{\"alg\":\"HS256\",\"typ\":\"JWT\"}"
#define CLAIMS(rest)                                                                               \
    "{\"iss\":\"postern\",\"sub\":\"u1\",\"name\":\"ann\",\"roles\":[\"user\"]" rest "}"
#define TIMES ",\"iat\":1699999990,\"exp\":1700000060"

static const uint8_t key[32] = {1, 2, 3};
static const uint8_t other_key[32] = {9};

/* Any header and payload, properly signed. */
static void sign_raw(const uint8_t *k, const char *header, const char *payload, char *out,
                     size_t out_bytes) {
    uint8_t mac[32];
    unsigned mac_bytes;
    int at = base64url_encode((ptn_bytes){(const uint8_t *)header, strlen(header)}, out, out_bytes);
    cr_assert_geq(at, 0);
    out[at++] = '.';
    at += base64url_encode((ptn_bytes){(const uint8_t *)payload, strlen(payload)}, out + at,
                           out_bytes - (size_t)at);
    HMAC(EVP_sha256(), k, 32, (const uint8_t *)out, (size_t)at, mac, &mac_bytes);
    out[at++] = '.';
    cr_assert_eq(base64url_encode((ptn_bytes){mac, 32}, out + at, out_bytes - (size_t)at), 43);
}

static int verify(const char *token, struct jwt_claims *c) {
    ptn_json_parser *json = ptn_json_parser_new();
    int err = jwt_verify(json, key, sizeof key, ptn_str_of(token), NOW_MS, c);
    ptn_json_parser_free(json);
    return err;
}

static int verify_raw(const char *header, const char *payload) {
    char token[8192];
    struct jwt_claims c;
    sign_raw(key, header, payload, token, sizeof token);
    return verify(token, &c);
}

static void make(char *out, size_t n) {
    ptn_principal p = {.user = PTN_STR("01ARZ3NDEKTSV4RRFFQ69G5FAV"),
                       .name = PTN_STR("ann \"\xc3\xa9\""),
                       .session = PTN_STR("01ARZ3NDEKTSV4RRFFQ69G5FAW"),
                       .roles = PTN_ROLE_USER | PTN_ROLE_ADMIN};
    cr_assert_gt(
        jwt_sign(key, sizeof key, &p, PTN_STR("j1"), NOW_MS - 5000, NOW_MS + 60000, out, n), 0);
}

Test(jwt, what_was_signed_comes_back) {
    char token[1024];
    struct jwt_claims c;
    make(token, sizeof token);
    cr_assert_eq(verify(token, &c), 0);
    cr_expect(ptn_str_eqz(c.principal.user, "01ARZ3NDEKTSV4RRFFQ69G5FAV"));
    cr_expect(ptn_str_eqz(c.principal.name, "ann \"\xc3\xa9\""));
    cr_expect(ptn_str_eqz(c.principal.session, "01ARZ3NDEKTSV4RRFFQ69G5FAW"));
    cr_expect_eq(c.principal.roles, PTN_ROLE_USER | PTN_ROLE_ADMIN);
    cr_expect_eq(c.principal.expires_ms, NOW_MS + 60000);
    cr_expect_eq(c.issued_ms, NOW_MS - 5000);
}

Test(jwt, every_changed_character_is_noticed) {
    char token[1024];
    struct jwt_claims c;
    make(token, sizeof token);
    for (size_t i = 0; token[i] != '\0'; i++) {
        char before = token[i];
        token[i] = before == 'A' ? 'B' : 'A';
        cr_expect_eq(verify(token, &c), -PTN_EACCESS, "at %zu", i);
        token[i] = before;
    }
    cr_expect_eq(verify(token, &c), 0);
}

Test(jwt, every_cut_is_noticed) {
    char token[1024];
    struct jwt_claims c;
    make(token, sizeof token);
    for (size_t n = strlen(token); n-- > 0;) {
        token[n] = '\0';
        cr_expect_eq(verify(token, &c), -PTN_EACCESS, "cut at %zu", n);
    }
}

Test(jwt, headers_that_are_not_ours) {
    static const char *const headers[] = {
        "{\"alg\":\"none\",\"typ\":\"JWT\"}",
        "{\"alg\":\"None\",\"typ\":\"JWT\"}",
        "{\"alg\":\"HS512\",\"typ\":\"JWT\"}",
        "{\"alg\":\"RS256\",\"typ\":\"JWT\"}",
        "{\"alg\":\"hs256\",\"typ\":\"JWT\"}",
        "{\"alg\":\"HS256\"}",
        "{\"typ\":\"JWT\"}",
        "{\"alg\":\"HS256\",\"typ\":\"JWT\",\"crit\":[\"x\"]}",
        "{\"alg\":\"HS256\",\"typ\":\"JWT\",\"kid\":\"../../dev/null\"}",
        "{\"alg\":\"HS256\",\"typ\":\"at+jwt\"}",
        "{\"alg\":[\"HS256\"],\"typ\":\"JWT\"}",
        "{}",
        "[]",
        "\"HS256\"",
        "",
        "{\"alg\":\"HS256\",\"typ\":\"JWT\"",
    };
    cr_assert_eq(verify_raw(GOOD_HEADER, CLAIMS(TIMES)), 0);
    cr_expect_eq(verify_raw(" {\"typ\" : \"JWT\", \"alg\" : \"HS256\"} ", CLAIMS(TIMES)), 0);
    for (size_t i = 0; i < PTN_ARRAY_LEN(headers); i++)
        cr_expect_eq(verify_raw(headers[i], CLAIMS(TIMES)), -PTN_EACCESS, "%s", headers[i]);
}

Test(jwt, claims_that_are_not_good) {
    static const struct {
        const char *claims;
        int expected;
    } cases[] = {
        {CLAIMS(TIMES), 0},
        {CLAIMS(TIMES ",\"unknown\":{\"a\":1}"), 0},
        {CLAIMS(",\"iat\":1700000059,\"exp\":1700000100"), 0}, /* within the leeway */
        {CLAIMS(",\"iat\":1700000061,\"exp\":1700000100"), -PTN_EACCESS},
        {CLAIMS(",\"iat\":1699990000,\"exp\":1700000000"), -PTN_EDEADLINE},
        {CLAIMS(",\"iat\":1699990000,\"exp\":1699999999"), -PTN_EDEADLINE},
        {CLAIMS(",\"iat\":1699999990,\"exp\":1699999980"),
         -PTN_EACCESS}, /* ends before it begins */
        {CLAIMS(",\"iat\":1699999990"), -PTN_EACCESS},
        {CLAIMS(",\"exp\":1700000060"), -PTN_EACCESS},
        {CLAIMS(",\"iat\":1699999990,\"exp\":\"1700000060\""), -PTN_EACCESS},
        {CLAIMS(",\"iat\":1699999990,\"exp\":1700000060.5"), -PTN_EACCESS},
        {CLAIMS(",\"iat\":1699999990,\"exp\":-1"), -PTN_EACCESS},
        {CLAIMS(",\"iat\":1699999990,\"exp\":9223372036854775807"), -PTN_EACCESS},
        {CLAIMS(",\"iat\":1699999990,\"exp\":1e99"), -PTN_EACCESS},
        {CLAIMS(TIMES ",\"nbf\":1700000030"), 0},
        {CLAIMS(TIMES ",\"nbf\":1700000061"), -PTN_EACCESS},
        {CLAIMS(TIMES ",\"nbf\":null"), -PTN_EACCESS},
        {CLAIMS(TIMES ",\"sid\":\"\""), -PTN_EACCESS},
        {CLAIMS(TIMES ",\"sid\":7"), -PTN_EACCESS},
        {CLAIMS(TIMES ",\"sid\":null"), -PTN_EACCESS},
        {"{\"sub\":\"u1\",\"name\":\"ann\",\"roles\":[]" TIMES "}", -PTN_EACCESS},
        {"{\"iss\":\"other\",\"sub\":\"u1\",\"name\":\"ann\",\"roles\":[]" TIMES "}", -PTN_EACCESS},
        {"{\"iss\":\"postern\",\"name\":\"ann\",\"roles\":[]" TIMES "}", -PTN_EACCESS},
        {"{\"iss\":\"postern\",\"sub\":\"\",\"name\":\"ann\",\"roles\":[]" TIMES "}", -PTN_EACCESS},
        {"{\"iss\":\"postern\",\"sub\":\"u1\",\"name\":\"ann\"" TIMES "}", -PTN_EACCESS},
        {"{\"iss\":\"postern\",\"sub\":\"u1\",\"name\":\"ann\",\"roles\":\"admin\"" TIMES "}",
         -PTN_EACCESS},
        {"{\"iss\":\"postern\",\"sub\":\"u1\",\"name\":\"ann\",\"roles\":[1]" TIMES "}",
         -PTN_EACCESS},
        {"{\"iss\":\"postern\",\"sub\":\"u1\",\"name\":\"ann\",\"roles\":[\"future\"]" TIMES "}",
         0},
        {"[]", -PTN_EACCESS},
        {"null", -PTN_EACCESS},
        {"", -PTN_EACCESS},
        {CLAIMS(TIMES) "x", -PTN_EACCESS},
        {"[[[[[[[[[[]]]]]]]]]]", -PTN_EACCESS},
    };
    for (size_t i = 0; i < PTN_ARRAY_LEN(cases); i++)
        cr_expect_eq(verify_raw(GOOD_HEADER, cases[i].claims), cases[i].expected, "%s gives %d",
                     cases[i].claims, verify_raw(GOOD_HEADER, cases[i].claims));
}

Test(jwt, another_key_another_token) {
    char token[1024];
    struct jwt_claims c;
    sign_raw(other_key, GOOD_HEADER, CLAIMS(TIMES), token, sizeof token);
    cr_expect_eq(verify(token, &c), -PTN_EACCESS);
}

Test(jwt, bounds) {
    static char long_name[JWT_NAME_BYTES_MAX + 1], huge[JWT_BYTES_MAX + 2], small[64],
        fitting[2048];
    memset(long_name, 'n', sizeof long_name);
    memset(huge, 'a', sizeof huge - 1);
    ptn_principal p = {.user = PTN_STR("u1"), .name = PTN_STR("ann"), .roles = 1};
    struct jwt_claims c;
    cr_expect_eq(verify(huge, &c), -PTN_EACCESS);
    cr_expect_eq(jwt_sign(key, 31, &p, (ptn_str){0}, 0, 1, fitting, sizeof fitting), -PTN_EINVAL);
    int n = jwt_sign(key, 32, &p, (ptn_str){0}, NOW_MS, NOW_MS + 1, fitting, sizeof fitting);
    cr_assert_gt(n, 0);
    for (size_t room = 0; room <= (size_t)n; room++) {
        char *exact = malloc(room + 1);
        exact[room] = 'Z';
        cr_expect_eq(jwt_sign(key, 32, &p, (ptn_str){0}, NOW_MS, NOW_MS + 1, exact, room),
                     -PTN_ETOOBIG);
        cr_expect_eq(exact[room], 'Z');
        free(exact);
    }
    cr_expect_eq(jwt_sign(key, 32, &p, (ptn_str){0}, NOW_MS, NOW_MS + 1, small, sizeof small),
                 -PTN_ETOOBIG);
    p.name = (ptn_str){long_name, sizeof long_name};
    cr_expect_eq(jwt_sign(key, 32, &p, (ptn_str){0}, 0, 1, fitting, sizeof fitting), -PTN_EINVAL);
    p.name = PTN_STR("ann");
    p.user.n = 0;
    cr_expect_eq(jwt_sign(key, 32, &p, (ptn_str){0}, 0, 1, fitting, sizeof fitting), -PTN_EINVAL);
}

Test(base64url, round_trips_and_is_strict) {
    static const struct {
        const char *bytes, *text;
    } good[] = {
        {"", ""},           {"f", "Zg"},          {"fo", "Zm8"},          {"foo", "Zm9v"},
        {"foob", "Zm9vYg"}, {"fooba", "Zm9vYmE"}, {"foobar", "Zm9vYmFy"}, {"\xff\xfe\xfd", "__79"}};
    static const char *const bad[] = {"Z",    "Zg==", "Zh",    "Zm9", "Zm9v Yg",
                                      "Zm+v", "Zm/v", "Zm9vY", "Z\n"};
    uint8_t out[16];
    char text[32];
    for (size_t i = 0; i < PTN_ARRAY_LEN(good); i++) {
        ptn_bytes b = {(const uint8_t *)good[i].bytes, strlen(good[i].bytes)};
        cr_expect_eq(base64url_encode(b, text, sizeof text), (int)strlen(good[i].text));
        cr_expect_str_eq(text, good[i].text);
        cr_expect_eq(base64url_decode(ptn_str_of(good[i].text), out, sizeof out), (int)b.n);
        cr_expect_eq(memcmp(out, b.p, b.n), 0);
    }
    for (size_t i = 0; i < PTN_ARRAY_LEN(bad); i++)
        cr_expect_eq(base64url_decode(ptn_str_of(bad[i]), out, sizeof out), -PTN_EPROTO, "%s",
                     bad[i]);
    cr_expect_eq(base64url_decode(PTN_STR("Zm9vYmFy"), out, 5), -PTN_ETOOBIG);
    cr_expect_eq(base64url_encode((ptn_bytes){out, 3}, text, 4), -PTN_ETOOBIG);
}
