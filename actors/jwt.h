/* SPDX-License-Identifier: Apache-2.0
 *
 * jwt.h - access tokens: JSON Web Tokens (RFC 7519) signed with HMAC-SHA-256 (RFC 7515, HS256).
 *
 * One algorithm, one header, one issuer.  What the token says about its own algorithm decides
 * nothing; it is only compared with what we sign ourselves (RFC 8725 section 3.1).  Pure functions,
 * any thread.
 */
#ifndef POSTERN_ACTORS_JWT_H
#define POSTERN_ACTORS_JWT_H

#include <postern/codec.h>
#include <postern/messages.h>

#define JWT_BYTES_MAX 4096           /* of a whole token */
#define JWT_KEY_BYTES_MIN 32         /* RFC 7518 section 3.2: at least the size of the hash */
#define JWT_LEEWAY_MS INT64_C(60000) /* clocks of issuer and verifier may differ by this much */
#define JWT_ID_BYTES_MAX 64
#define JWT_NAME_BYTES_MAX 64

/* What a good token says.  principal points into this struct: do not copy it. */
struct jwt_claims {
    ptn_principal principal; /* expires_ms is exp */
    int64_t issued_ms;       /* iat */
    char user[JWT_ID_BYTES_MAX], session[JWT_ID_BYTES_MAX], name[JWT_NAME_BYTES_MAX];
};

/* Writes a terminated token for p, valid until expires_ms (rounded up to a second).  jti may be
 * empty.  Returns its length, or -PTN_EINVAL (key too short, p anonymous or over the bounds),
 * -PTN_ETOOBIG (out is too small), -PTN_ENOMEM. */
int jwt_sign(const uint8_t *key, size_t key_bytes, const ptn_principal *p, ptn_str jti,
             int64_t issued_ms, int64_t expires_ms, char *out, size_t out_bytes);

/* 0; -PTN_EDEADLINE: ours, but expired; -PTN_EACCESS: not a token of ours, whatever the reason;
 * -PTN_ENOMEM. json belongs to the calling thread. */
int jwt_verify(ptn_json_parser *json, const uint8_t *key, size_t key_bytes, ptn_str token,
               int64_t now_ms, struct jwt_claims *ret_claims);

/* The check of everything but the signature: header and payload still in base64url.  For
 * jwt_verify() and its fuzzer. */
int jwt__check_signed(ptn_json_parser *json, ptn_str header, ptn_str payload, int64_t now_ms,
                      struct jwt_claims *ret_claims);

/* base64url without padding (RFC 4648 section 5).  encode: terminated; returns the length, or
 * -PTN_ETOOBIG. decode is strict: no padding, no blanks, no unused bits set; returns the number of
 * bytes, -PTN_EPROTO or -PTN_ETOOBIG. */
int base64url_encode(ptn_bytes b, char *out, size_t out_bytes);
int base64url_decode(ptn_str s, uint8_t *out, size_t out_bytes);

#endif
