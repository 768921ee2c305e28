/* SPDX-License-Identifier: Apache-2.0
 *
 * edge.h - what the http and ws machines of one worker share: the edge actor, its limits, its
 * scratch memory.
 *
 * One edge actor per worker and listener group owns the listeners and all their connections (http,
 * SSE, ws). A connection that is upgraded changes its machine (ptn_stream_open again), never its
 * actor.
 */
#ifndef POSTERN_PROTOCOLS_EDGE_H
#define POSTERN_PROTOCOLS_EDGE_H

#include "protocols/frames/frames.h"

#include <postern/codec.h>
#include <postern/hub.h>
#include <postern/memory.h>
#include <postern/messages.h>
#include <postern/metrics.h>
#include <postern/stream.h>

struct http_conn;
struct ws_conn;
struct ws_backlog;
struct ws_deflate;

typedef struct edge_limits {         /* 0: the default in the comment */
    uint32_t connections_max;        /* per worker, all protocols: 10,000 */
    uint32_t request_line_bytes_max; /* 8 KiB */
    uint32_t header_bytes_max;       /* all headers: 16 KiB */
    uint32_t headers_max;            /* count: 100 */
    uint32_t body_bytes_max;         /* http body: 1 MiB */
    uint32_t message_bytes_max;      /* one ws message: 1 MiB */
    uint32_t depth_max;              /* of JSON and msgpack: 32 */
    uint32_t pipeline_max;           /* requests in flight on one http connection: 32 */
    uint32_t ws_deflate_bytes_min;   /* smallest message that is compressed; 0: none, and no offer
                                        of permessage-deflate is taken */
    uint32_t ws_requests_max;        /* unanswered frames of one ws session: 64 */
    uint32_t out_bytes_max;          /* out-queue of one connection: 1 MiB */
    ptn_time first_byte_ns;          /* from accept or from the last response: 60 s (keep-alive) */
    ptn_time headers_ns;             /* from first byte to end of headers: 10 s */
    ptn_time body_ns;                /* from end of headers to end of body: 30 s */
    ptn_time request_ns;             /* default deadline of a request: 10 s */
    ptn_time request_ns_max;         /* longest that Request-Timeout may ask for: 60 s */
    ptn_time ws_auth_ns;             /* 5 s */
    ptn_time ws_ping_ns;             /* 25 s */
    ptn_time ws_pong_ns;             /* 10 s */
    ptn_time stall_ns;               /* 30 s */
} edge_limits;
/* Fills every 0 with its default. */
void edge_limits_defaults(edge_limits *l);

typedef struct edge_config { /* arg of the edge actor; outlives it */
    const ptn_directory *directory;
    ptn_hub *hub; /* of this worker */
    ptn_endpoint *const *endpoints;
    size_t n_endpoints;
    bool admin; /* listen.admin: probes and metrics are served, upgrades are not */
    edge_limits limits;
} edge_config;

typedef struct edge { /* state of the edge actor */
    const edge_config *config;
    edge_limits limits; /* the configured ones, defaults filled in */
    unsigned worker;
    ptn_json_parser *json;
    ptn_out text; /* scratch for encoding; cleared before each use, kept small */
    uint32_t n_connections;
    bool draining;
    bool paused; /* those whom every request passes are under pressure: nothing is read */
    struct http_conn *http_conns; /* all of them, doubly linked by their files */
    struct ws_conn *ws_conns;
    frames_config ws_sessions;   /* ops NULL: there was no WebSocket yet */
    ptn_addr self;               /* set with it */
    struct ws_backlog *ws_ready; /* connections that may read on */
    struct ws_deflate *deflate;  /* NULL: no connection has asked for it yet */
    bool ws_read_on_sent;        /* and the edge's message to itself that says so is on its way */
} edge;

extern const ptn_actor_ops edge_actor; /* protocols/http/edge.c; arg: edge_config */

/* While the memory budget is spent, an edge for clients begins no new work; counts the refusal. The
 * admin listener goes on: operators must see what happens. */
static inline bool edge_sheds(const edge *e) {
    if (PTN_LIKELY(!ptn_memory_pressure()) || e->config->admin)
        return false;
    ptn_count(PTN_C_SHED_MEMORY, 1);
    return true;
}

/* The REST envelope around a response or a problem, as JSON or msgpack, appended to o.  trace: 32
 * hex. */
void edge_encode_success(ptn_out *o, const ptn_response *r, bool msgpack);
void edge_encode_problem(ptn_out *o, int code, ptn_str message, ptn_bytes details,
                         const char *trace, bool msgpack);

#endif
