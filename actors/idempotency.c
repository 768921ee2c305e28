/* SPDX-License-Identifier: Apache-2.0
 *
 * idempotency.c - keys, and the ids that they stand for.
 */
#include "actors/idempotency.h"

#include <sodium.h>

#define KEY_BYTES_MAX 255

_Static_assert(IDEMPOTENCY_HASH_BYTES == crypto_generichash_BYTES_MIN, "libsodium can make it");

int idempotency_key(const ptn_request *r, ptn_str *ret_key) {
    ptn_str key;
    if (r->headers.n == 0 || !ptn_map_get_str(r->headers, "idempotency-key", &key))
        return 0;
    if (key.n == 0 || key.n > KEY_BYTES_MAX)
        return -PTN_EINVAL;
    *ret_key = key;
    return 1;
}

void idempotency_hash(const uint8_t secret[IDEMPOTENCY_SECRET_BYTES], const ptn_str *parts,
                      size_t n, uint8_t out[IDEMPOTENCY_HASH_BYTES]) {
    crypto_generichash_state st;
    (void)crypto_generichash_init(&st, secret, IDEMPOTENCY_SECRET_BYTES, IDEMPOTENCY_HASH_BYTES);
    for (size_t i = 0; i < n; i++) {
        uint64_t bytes = parts[i].n;
        (void)crypto_generichash_update(&st, (const uint8_t *)&bytes, sizeof bytes);
        (void)crypto_generichash_update(&st, (const uint8_t *)parts[i].p, bytes);
    }
    (void)crypto_generichash_final(&st, out, IDEMPOTENCY_HASH_BYTES);
}

void idempotency_id(const uint8_t secret[IDEMPOTENCY_SECRET_BYTES], ptn_str user, ptn_str place,
                    ptn_str key, char out[IDEMPOTENCY_ID_BYTES + 1]) {
    static const char digits[] = "0123456789abcdef";
    uint8_t h[IDEMPOTENCY_HASH_BYTES];
    idempotency_hash(secret, (const ptn_str[]){user, place, key}, 3, h);
    h[6] = (uint8_t)((h[6] & 0x0f) | 0x80); /* version 8 */
    h[8] = (uint8_t)((h[8] & 0x3f) | 0x80); /* variant */
    for (size_t i = 0, at = 0; i < sizeof h; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            out[at++] = '-';
        out[at++] = digits[h[i] >> 4];
        out[at++] = digits[h[i] & 15];
    }
    out[IDEMPOTENCY_ID_BYTES] = '\0';
}
