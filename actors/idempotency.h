/* SPDX-License-Identifier: Apache-2.0
 *
 * idempotency.h - what an Idempotency-Key stands for.
 *
 * There is no table of answers.  A key stands for the id of the thing that its request makes: the
 * same user, place and key give the same id each time, so that whoever keeps the thing finds it
 * there already and gives the first result again, for as long as the thing is kept.  The hash is
 * keyed with a secret of the installation: whoever could compute somebody else's id would take it
 * first.
 */
#ifndef POSTERN_ACTORS_IDEMPOTENCY_H
#define POSTERN_ACTORS_IDEMPOTENCY_H

#include <postern/messages.h>

#define IDEMPOTENCY_SECRET_BYTES 32
#define IDEMPOTENCY_HASH_BYTES 16
#define IDEMPOTENCY_ID_BYTES 36 /* a UUID, version 8 (RFC 9562 section 5.8) */
#define IDEMPOTENCY_KEY_RULE "1 to 255 bytes"

/* 1: the request carries a key; 0: it does not; -PTN_EINVAL: it is none of IDEMPOTENCY_KEY_RULE. */
int idempotency_key(const ptn_request *r, ptn_str *ret_key);
/* place: what the key is for, such as a conversation's id. */
void idempotency_id(const uint8_t secret[IDEMPOTENCY_SECRET_BYTES], ptn_str user, ptn_str place,
                    ptn_str key, char out[IDEMPOTENCY_ID_BYTES + 1]);
/* Of any number of parts; where one ends and the next begins counts. */
void idempotency_hash(const uint8_t secret[IDEMPOTENCY_SECRET_BYTES], const ptn_str *parts,
                      size_t n, uint8_t out[IDEMPOTENCY_HASH_BYTES]);
/* For the same key with another body. */
#define IDEMPOTENCY_MISMATCH_TEXT                                                                  \
    "this id or Idempotency-Key was used with another body; use a new one"

#endif
