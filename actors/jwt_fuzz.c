/* SPDX-License-Identifier: Apache-2.0
 *
 * jwt_fuzz.c - verification of hostile tokens: whole ones, and parts behind a good signature.
 *
 * The first byte chooses: 0 gives the rest to jwt_verify(); anything else splits it at the first
 * dot into header and payload, which is what a signature check would let through.
 */
#include "actors/jwt.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const uint8_t key[JWT_KEY_BYTES_MIN] = {1};
    static ptn_json_parser *json;
    struct jwt_claims claims;
    if (json == NULL)
        json = ptn_json_parser_new();
    if (size == 0 || json == NULL)
        return 0;
    ptn_str rest = {(const char *)data + 1, size - 1};
    if (data[0] == 0 || data[0] == '0') {
        int err = jwt_verify(json, key, sizeof key, rest, 1700000000000, &claims);
        PTN_ASSERT(err == -PTN_EACCESS || err == -PTN_EDEADLINE || err == 0);
        return 0;
    }
    const char *dot = rest.n == 0 ? NULL : memchr(rest.p, '.', rest.n);
    if (dot == NULL || rest.n > JWT_BYTES_MAX)
        return 0;
    ptn_str header = {rest.p, (size_t)(dot - rest.p)};
    ptn_str payload = {dot + 1, rest.n - header.n - 1};
    int err = jwt__check_signed(json, header, payload, 1700000000000, &claims);
    if (err == 0)
        PTN_ASSERT(claims.principal.user.n > 0 && claims.principal.user.n <= JWT_ID_BYTES_MAX &&
                   claims.principal.expires_ms > 1700000000000);
    uint8_t decoded[JWT_BYTES_MAX];
    char again[JWT_BYTES_MAX * 2];
    int n = base64url_decode(payload, decoded, sizeof decoded);
    if (n >= 0) { /* strict: one text per value */
        int m = base64url_encode((ptn_bytes){decoded, (size_t)n}, again, sizeof again);
        PTN_ASSERT(m == (int)payload.n && memcmp(again, payload.p, payload.n) == 0);
    }
    return 0;
}
