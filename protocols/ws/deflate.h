/* SPDX-License-Identifier: Apache-2.0
 *
 * deflate.h - compressed messages (RFC 7692, permessage-deflate) without context takeover.
 *
 * No message refers to an earlier one, so one pair of zlib streams serves all connections of a
 * worker, and what is compressed once suits every subscriber.  About 80 KiB, however many
 * connections there are.
 */
#ifndef POSTERN_PROTOCOLS_WS_DEFLATE_H
#define POSTERN_PROTOCOLS_WS_DEFLATE_H

#include <postern/buf.h>

/* What we compress with: 2^12 bytes of history, and as much again for hash and codes (memLevel 5).
 * A message of a few hundred bytes has no use for more, and most of the time that a larger memLevel
 * takes there is clearing its hash.  See docs/rationale.md. */
#define WS_DEFLATE_WINDOW_BITS 12u

typedef struct ws_deflate ws_deflate; /* of one worker */

/* NULL: no memory. */
ws_deflate *ws_deflate_new(void);
void ws_deflate_free(ws_deflate *d); /* accepts NULL */

/* The compressed form of a payload, in memory of d until the next call.  -PTN_ETOOBIG: it would not
 * be shorter. */
int ws_deflate_pack(ws_deflate *d, ptn_bytes payload, ptn_bytes *ret_packed);
/* The message that a client has compressed, at most bytes_max long, in a new sealed buffer.
 * -PTN_EPROTO: no DEFLATE data, or not whole; -PTN_ETOOBIG: found out while inflating, so a bomb
 * costs no more than a message; -PTN_ENOMEM. */
int ws_deflate_unpack(ws_deflate *d, ptn_bytes packed, uint32_t bytes_max, ptn_buf **ret_message);

#endif
