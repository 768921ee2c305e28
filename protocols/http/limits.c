/* SPDX-License-Identifier: Apache-2.0
 *
 * limits.c - the defaults of edge_limits, in one place.
 */
#include "protocols/edge.h"

static void default_u32(uint32_t *v, uint32_t d) {
    if (*v == 0)
        *v = d;
}

static void default_time(ptn_time *v, ptn_time d) {
    if (*v == 0)
        *v = d;
}

void edge_limits_defaults(edge_limits *l) {
    default_u32(&l->connections_max, 10000);
    default_u32(&l->request_line_bytes_max, 8u << 10);
    default_u32(&l->header_bytes_max, 16u << 10);
    default_u32(&l->headers_max, 100);
    default_u32(&l->body_bytes_max, 1u << 20);
    default_u32(&l->message_bytes_max, 1u << 20);
    default_u32(&l->depth_max, 32);
    default_u32(&l->pipeline_max, 32);
    default_u32(&l->ws_requests_max, 64);
    default_u32(&l->out_bytes_max, 1u << 20);
    default_time(&l->first_byte_ns, 60 * PTN_SEC);
    default_time(&l->headers_ns, 10 * PTN_SEC);
    default_time(&l->body_ns, 30 * PTN_SEC);
    default_time(&l->request_ns, 10 * PTN_SEC);
    default_time(&l->request_ns_max, 60 * PTN_SEC);
    default_time(&l->ws_auth_ns, 5 * PTN_SEC);
    default_time(&l->ws_ping_ns, 25 * PTN_SEC);
    default_time(&l->ws_pong_ns, 10 * PTN_SEC);
    default_time(&l->stall_ns, 30 * PTN_SEC);
}
