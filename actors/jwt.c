/* SPDX-License-Identifier: Apache-2.0
 *
 * jwt.c - signing and strict verification of access tokens.
 *
 * The signature is checked first and in constant time, so the JSON parser never sees bytes that we
 * did not sign.  The API used is the one that BoringSSL and OpenSSL 3 share.
 */
#include "actors/jwt.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#ifdef OPENSSL_IS_BORINGSSL
#include <openssl/mem.h>
typedef size_t hmac_key_size;
#else
typedef int hmac_key_size;
#endif

#include <stdio.h>

#define JWT_ISSUER "postern"
#define JWT_MAC_BYTES 32
#define JWT_MAC_CHARS 43 /* of the signature in base64url */
/* {"alg":"HS256","typ":"JWT"}: what jwt_sign() writes */
#define JWT_HEADER "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"
#define JWT_JSON_BYTES_MAX (JWT_BYTES_MAX * 3 / 4)
#define JWT_ROLES_MAX 16
#define JWT_SECONDS_MAX (INT64_C(1) << 53) /* exact in every JSON reader */

/* ---- base64url ----------------------------------------------------------------------------- */

static const char base64url_alphabet[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

int base64url_encode(ptn_bytes b, char *out, size_t out_bytes) {
    size_t chars = b.n / 3 * 4 + (b.n % 3 == 0 ? 0 : b.n % 3 + 1);
    if (b.n > PTN_BUF_BYTES_MAX || chars + 1 > out_bytes)
        return -PTN_ETOOBIG;
    uint32_t bits = 0;
    unsigned n_bits = 0;
    size_t at = 0;
    for (size_t i = 0; i < b.n; i++) {
        bits = bits << 8 | b.p[i];
        n_bits += 8;
        while (n_bits >= 6) {
            n_bits -= 6;
            out[at++] = base64url_alphabet[bits >> n_bits & 63];
        }
    }
    if (n_bits > 0)
        out[at++] = base64url_alphabet[bits << (6 - n_bits) & 63];
    out[at] = '\0';
    return (int)at;
}

/* The value of a digit, or -1. */
static int base64url_digit(char c) {
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '-' ? 62 : c == '_' ? 63 : -1;
}

int base64url_decode(ptn_str s, uint8_t *out, size_t out_bytes) {
    if (s.n % 4 == 1)
        return -PTN_EPROTO;
    if (s.n > PTN_BUF_BYTES_MAX || s.n / 4 * 3 + (s.n % 4 == 0 ? 0 : s.n % 4 - 1) > out_bytes)
        return -PTN_ETOOBIG;
    uint32_t bits = 0;
    unsigned n_bits = 0;
    size_t at = 0;
    for (size_t i = 0; i < s.n; i++) {
        int digit = base64url_digit(s.p[i]);
        if (digit < 0)
            return -PTN_EPROTO;
        bits = bits << 6 | (uint32_t)digit;
        n_bits += 6;
        if (n_bits >= 8) {
            n_bits -= 8;
            out[at++] = (uint8_t)(bits >> n_bits & 255);
        }
    }
    /* Unused bits must be zero, or one value would have several texts. */
    return (bits & ((1u << n_bits) - 1)) != 0 ? -PTN_EPROTO : (int)at;
}

/* ---- signing ------------------------------------------------------------------------------- */

static bool mac_of(const uint8_t *key, size_t key_bytes, const char *p, size_t n,
                   uint8_t mac[JWT_MAC_BYTES]) {
    uint8_t out[EVP_MAX_MD_SIZE];
    unsigned out_bytes = 0;
    if (key_bytes > INT32_MAX ||
        HMAC(EVP_sha256(), key, (hmac_key_size)key_bytes, (const uint8_t *)p, n, out, &out_bytes) ==
            NULL ||
        out_bytes != JWT_MAC_BYTES)
        return false;
    memcpy(mac, out, JWT_MAC_BYTES);
    return true;
}

static void put_member(ptn_out *o, const char *key, ptn_str value) {
    ptn_out_put(o, ",\"", 2);
    ptn_out_put(o, key, strlen(key));
    ptn_out_put(o, "\":", 2);
    ptn_json_string(o, value);
}

static void put_roles(ptn_out *o, uint32_t roles) {
    static const struct {
        const char *name;
        uint32_t bit;
    } names[] = {
#define XX(id, name, bit) {name, bit},
        PTN_ROLE_MAP(XX)
#undef XX
    };
    bool first = true;
    ptn_out_put(o, ",\"roles\":[", 10);
    for (size_t i = 0; i < PTN_ARRAY_LEN(names); i++)
        if ((roles & names[i].bit) != 0) {
            if (!first)
                ptn_out_put(o, ",", 1);
            first = false;
            ptn_json_string(o, ptn_str_of(names[i].name));
        }
    ptn_out_put(o, "]", 1);
}

static void put_claims(ptn_out *o, const ptn_principal *p, ptn_str jti, int64_t issued_ms,
                       int64_t expires_ms) {
    char times[96];
    int n = snprintf(times, sizeof times, ",\"iat\":%lld.%03d,\"exp\":%lld",
                     (long long)(issued_ms / 1000), (int)(issued_ms % 1000),
                     (long long)((expires_ms + 999) / 1000));
    ptn_out_put(o, "{\"iss\":\"" JWT_ISSUER "\"", sizeof "{\"iss\":\"" JWT_ISSUER "\"" - 1);
    put_member(o, "sub", p->user);
    put_member(o, "name", p->name);
    if (p->session.n > 0)
        put_member(o, "sid", p->session);
    if (jti.n > 0)
        put_member(o, "jti", jti);
    put_roles(o, p->roles);
    ptn_out_put(o, times, (size_t)n);
    ptn_out_put(o, "}", 1);
}

int jwt_sign(const uint8_t *key, size_t key_bytes, const ptn_principal *p, ptn_str jti,
             int64_t issued_ms, int64_t expires_ms, char *out, size_t out_bytes) {
    if (key_bytes < JWT_KEY_BYTES_MIN || p->user.n == 0 || p->user.n > JWT_ID_BYTES_MAX ||
        p->session.n > JWT_ID_BYTES_MAX || p->name.n > JWT_NAME_BYTES_MAX ||
        jti.n > JWT_ID_BYTES_MAX || issued_ms < 0 || expires_ms < issued_ms ||
        expires_ms / 1000 >= JWT_SECONDS_MAX)
        return -PTN_EINVAL;
    ptn_out claims = {0};
    put_claims(&claims, p, jti, issued_ms, expires_ms);
    int err = claims.err;
    size_t at = sizeof JWT_HEADER; /* the dot takes the place of the terminator */
    if (err == 0 && out_bytes <= at)
        err = -PTN_ETOOBIG;
    if (err == 0) {
        memcpy(out, JWT_HEADER ".", at);
        err = base64url_encode((ptn_bytes){claims.p, claims.len}, out + at, out_bytes - at);
    }
    ptn_out_done(&claims);
    if (err < 0)
        return err;
    at += (size_t)err;
    uint8_t mac[JWT_MAC_BYTES];
    if (!mac_of(key, key_bytes, out, at, mac))
        return -PTN_ENOMEM;
    if (at + 1 >= out_bytes)
        return -PTN_ETOOBIG;
    out[at++] = '.';
    err = base64url_encode((ptn_bytes){mac, sizeof mac}, out + at, out_bytes - at);
    return err < 0 ? err : (int)at + err;
}

/* ---- verification -------------------------------------------------------------------------- */

/* One base64url part to a msgpack value.  *ret_value is the caller's. */
static int part_to_value(ptn_json_parser *json, ptn_str part, ptn_buf **ret_value) {
    uint8_t text[JWT_JSON_BYTES_MAX];
    int n = base64url_decode(part, text, sizeof text);
    if (n < 0)
        return -PTN_EACCESS;
    static const ptn_codec_limits limits = {.bytes_max = JWT_JSON_BYTES_MAX, .depth_max = 4};
    ptn_codec_error why;
    ptn_pack w;
    ptn_pack_init(&w, (size_t)n + 64);
    int err =
        ptn_json_to_msgpack(json, (ptn_str){(const char *)text, (size_t)n}, &limits, &w, &why);
    if (err < 0) {
        ptn_pack_abort(&w);
        return err == -PTN_ENOMEM ? err : -PTN_EACCESS;
    }
    *ret_value = ptn_pack_finish(&w);
    return *ret_value == NULL ? -PTN_ENOMEM : 0;
}

/* Exactly {"alg": "HS256", "typ": "JWT"}, in any order and spelling of JSON; nothing beside, so no
 * `crit` or `jwk` either. */
static int header_check(ptn_json_parser *json, ptn_str header) {
    if (ptn_str_eq(header, PTN_STR(JWT_HEADER)))
        return 0;
    ptn_buf *value = NULL;
    int err = part_to_value(json, header, &value);
    if (err < 0)
        return err;
    ptn_bytes map = ptn_buf_bytes(value);
    ptn_unpack u = ptn_unpack_of(map);
    uint32_t n = 0;
    ptn_str alg, typ;
    bool good = ptn_unpack_map(&u, &n) && n == 2 && ptn_map_get_str(map, "alg", &alg) &&
                ptn_map_get_str(map, "typ", &typ) && ptn_str_eqz(alg, "HS256") &&
                ptn_str_eqz(typ, "JWT");
    ptn_buf_unref(value);
    return good ? 0 : -PTN_EACCESS;
}

/* False: absent, not a string, empty or too long.  Copies, because the parsed value goes. */
static bool claim_copy(ptn_bytes map, const char *key, char *room, size_t room_bytes,
                       ptn_str *ret_s) {
    ptn_str s;
    if (!ptn_map_get_str(map, key, &s) || s.n == 0 || s.n > room_bytes)
        return false;
    memcpy(room, s.p, s.n);
    *ret_s = (ptn_str){room, s.n};
    return true;
}

/* Roles this version does not know are ignored: a newer broker may have signed them. */
static bool claim_roles(ptn_bytes map, uint32_t *ret_roles) {
    ptn_bytes value;
    uint32_t n, roles = 0;
    if (!ptn_map_get(map, "roles", &value))
        return false;
    ptn_unpack u = ptn_unpack_of(value);
    if (!ptn_unpack_array(&u, &n) || n > JWT_ROLES_MAX)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        ptn_str name;
        if (!ptn_unpack_str(&u, &name))
            return false;
        roles |= ptn_role_of(name);
    }
    *ret_roles = roles;
    return true;
}

/* 1 found, 0 absent, <0 present but not a time. */
static int claim_time(ptn_bytes map, const char *key, int64_t *ret_ms) {
    ptn_bytes value;
    int64_t seconds;
    if (!ptn_map_get(map, key, &value))
        return 0;
    ptn_unpack u = ptn_unpack_of(value);
    if (!ptn_unpack_int(&u, &seconds) || seconds < 0 || seconds >= JWT_SECONDS_MAX)
        return -PTN_EACCESS;
    *ret_ms = seconds * 1000;
    return 1;
}

/* The same to the millisecond, because a changed password ends what was issued before it.  Tokens
 * of older versions say whole seconds. */
static int claim_issued(ptn_bytes map, int64_t *ret_ms) {
    ptn_bytes value;
    double seconds;
    if (!ptn_map_get(map, "iat", &value) || ptn_kind_of(value) != PTN_KIND_FLOAT)
        return claim_time(map, "iat", ret_ms);
    ptn_unpack u = ptn_unpack_of(value);
    if (!ptn_unpack_double(&u, &seconds) || !(seconds >= 0 && seconds < (double)JWT_SECONDS_MAX))
        return -PTN_EACCESS;
    *ret_ms = (int64_t)(seconds * 1000 + 0.5);
    return 1;
}

static int claims_check(ptn_bytes map, int64_t now_ms, struct jwt_claims *c) {
    ptn_str issuer;
    int64_t not_before_ms = 0;
    ptn_bytes ignored;
    ptn_principal *p = &c->principal;
    *p = (ptn_principal){0};
    if (!ptn_map_get_str(map, "iss", &issuer) || !ptn_str_eqz(issuer, JWT_ISSUER) ||
        !claim_copy(map, "sub", c->user, sizeof c->user, &p->user) ||
        !claim_copy(map, "name", c->name, sizeof c->name, &p->name) || !claim_roles(map, &p->roles))
        return -PTN_EACCESS;
    /* A session that is there must be usable: it is what revocation goes by. */
    if (ptn_map_get(map, "sid", &ignored) &&
        !claim_copy(map, "sid", c->session, sizeof c->session, &p->session))
        return -PTN_EACCESS;
    if (claim_time(map, "exp", &p->expires_ms) != 1 || claim_issued(map, &c->issued_ms) != 1 ||
        claim_time(map, "nbf", &not_before_ms) < 0 || c->issued_ms > now_ms + JWT_LEEWAY_MS ||
        not_before_ms > now_ms + JWT_LEEWAY_MS || p->expires_ms < c->issued_ms)
        return -PTN_EACCESS;
    return now_ms >= p->expires_ms ? -PTN_EDEADLINE : 0;
}

int jwt__check_signed(ptn_json_parser *json, ptn_str header, ptn_str payload, int64_t now_ms,
                      struct jwt_claims *ret_claims) {
    int err = header_check(json, header);
    if (err < 0)
        return err;
    ptn_buf *value = NULL;
    err = part_to_value(json, payload, &value);
    if (err < 0)
        return err;
    err = claims_check(ptn_buf_bytes(value), now_ms, ret_claims);
    ptn_buf_unref(value);
    return err;
}

int jwt_verify(ptn_json_parser *json, const uint8_t *key, size_t key_bytes, ptn_str token,
               int64_t now_ms, struct jwt_claims *ret_claims) {
    if (token.n == 0 || token.n > JWT_BYTES_MAX || key_bytes < JWT_KEY_BYTES_MIN)
        return -PTN_EACCESS;
    const char *end = token.p + token.n;
    const char *first = memchr(token.p, '.', token.n);
    const char *second = first == NULL ? NULL : memchr(first + 1, '.', (size_t)(end - first - 1));
    if (second == NULL || end - second - 1 != JWT_MAC_CHARS)
        return -PTN_EACCESS;
    uint8_t given[JWT_MAC_BYTES], ours[JWT_MAC_BYTES];
    if (base64url_decode((ptn_str){second + 1, JWT_MAC_CHARS}, given, sizeof given) !=
        JWT_MAC_BYTES)
        return -PTN_EACCESS;
    if (!mac_of(key, key_bytes, token.p, (size_t)(second - token.p), ours))
        return -PTN_ENOMEM;
    if (CRYPTO_memcmp(given, ours, sizeof ours) != 0)
        return -PTN_EACCESS;
    return jwt__check_signed(json, (ptn_str){token.p, (size_t)(first - token.p)},
                             (ptn_str){first + 1, (size_t)(second - first - 1)}, now_ms,
                             ret_claims);
}
