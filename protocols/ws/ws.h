/* SPDX-License-Identifier: Apache-2.0
 *
 * ws.h - WebSocket server (RFC 6455) on a stream that the http machine hands over.
 */
#ifndef POSTERN_PROTOCOLS_WS_H
#define POSTERN_PROTOCOLS_WS_H

#include "protocols/edge.h"

/* What the http machine found in the upgrade request; borrowed for the call. */
typedef struct ws_upgrade {
    ptn_str key;         /* Sec-WebSocket-Key */
    ptn_str version;     /* Sec-WebSocket-Version */
    ptn_str protocols;   /* Sec-WebSocket-Protocol, all values joined by ", "; n == 0: none */
    ptn_str extensions;  /* Sec-WebSocket-Extensions, likewise */
    ptn_str query_token; /* ?token=; n == 0: none.  Checked after the upgrade (close 4501) */
    ptn_str device;      /* ?device=; n == 0: none */
    ptn_str trace;       /* Trace-Id of the answer, hexadecimal; n == 0: none */
    const ptn_principal *principal; /* from a bearer token that auth has accepted; NULL: none */
} ws_upgrade;

/* Checks the request without answering: 0, or an HTTP status with a message: 426 for another
 * version, 400 for a bad key, an unknown subprotocol list, a device that cannot be one or a
 * malformed list of extensions. */
int ws_upgrade_check(const ws_upgrade *u, const char **reterr_message);
/* Writes the 101 response and takes the stream over; early are bytes that came after the request.
 * -PTN_ENOMEM: the stream still belongs to the caller.  The connection counts in
 * edge->n_connections until it ends. */
int ws_conn_open(ptn_ctx *c, edge *e, ptn_stream *s, const ws_upgrade *u, ptn_bytes early);

/* An edge casts this to itself; it is answered by ws_read_on(). */
#define WS_MSG_READ_ON ((uint32_t)PTN_MSG_TYPE_END + 1u)
/* Goes on with the connections that waited for answers and have got them. */
void ws_read_on(ptn_ctx *c, edge *e);

/* edge->paused has changed: nothing more is read, or reading goes on. */
void ws_pause_changed(ptn_ctx *c, edge *e);

/* Every ws connection of this edge gets a `drain` frame.  It closes, with 1012, once that is sent
 * and its requests are answered: ws_drain_idle() looks for those. */
void ws_drain_all(ptn_ctx *c, edge *e, uint32_t reconnect_after_ms);
void ws_drain_idle(ptn_ctx *c, edge *e, uint32_t reconnect_after_ms);
/* Those of one session, or (session empty) of one user without a session close, with 4501. */
void ws_session_revoked(ptn_ctx *c, edge *e, ptn_str session, ptn_str user);

#endif
