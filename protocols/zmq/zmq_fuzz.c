/* SPDX-License-Identifier: Apache-2.0
 *
 * zmq_fuzz.c - hostile multipart messages, subscriptions and addresses.
 *
 * Input: a sequence of [length, bytes] parts, as a peer would send them after the identity.  The
 * same bytes are then subscriptions for a small prefix set, checked against a naive one, and a
 * listener address.
 */
#include "protocols/zmq/zmq_int.h"

#include <stdlib.h>

#define PARTS_MAX 12u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_message(const ptn_bytes *parts, size_t n) {
    static ptn_json_parser *json;
    if (json == NULL)
        json = ptn_json_parser_new();
    PTN_ASSERT(json != NULL);
    zmq_gw_shape s;
    zmq_gw_shape_of(parts, n, &s);
    PTN_ASSERT(s.n_envelope >= 1 && s.n_envelope <= ZMQ_GW_ENVELOPE_MAX && s.n_envelope <= n);
    if (s.code >= 0) {
        PTN_ASSERT(s.message != NULL);
        return;
    }
    const ptn_codec_limits limits = {.bytes_max = 4096, .depth_max = 8};
    zmq_gw_request r;
    if (zmq_gw_request_decode(json, s.body, &limits, &r) < 0) {
        PTN_ASSERT(r.message != NULL && r.code >= 0 && r.code < PTN_CODE_COUNT);
        zmq_gw_request_done(&r);
        return;
    }
    ptn_codec_error e;
    PTN_ASSERT(ptn_msgpack_validate(ptn_buf_bytes(r.frame), NULL, &e) == 0);
    ptn_bytes value;
    if (r.token.n > 0)
        PTN_ASSERT(!ptn_map_get(ptn_buf_bytes(r.frame), "token", &value));
    (void)zmq_gw_frame_status(ptn_buf_bytes(r.frame));
    zmq_gw_request_done(&r);
}

static bool naive_match(const ptn_bytes *prefixes, const bool *on, size_t n, ptn_str topic) {
    for (size_t i = 0; i < n; i++) {
        if (on[i] && ptn_str_starts(topic, (ptn_str){(const char *)prefixes[i].p, prefixes[i].n}))
            return true;
    }
    return false;
}

static void fuzz_prefixes(const ptn_bytes *parts, size_t n, uint8_t removals) {
    zmq_gw_prefixes s;
    PTN_ASSERT(zmq_gw_prefixes_init(&s, 64, 99) == 0);
    bool on[PARTS_MAX] = {false};
    for (size_t i = 0; i < n; i++) {
        zmq_gw_prefixes_add(&s, parts[i]);
        on[i] = true;
    }
    for (size_t i = 0; i < n; i++) {
        if (((removals >> (i % 8)) & 1) == 0)
            continue;
        zmq_gw_prefixes_remove(&s, parts[i]);
        for (size_t j = 0; j < n; j++) {
            if (parts[j].n == parts[i].n &&
                (parts[i].n == 0 || memcmp(parts[j].p, parts[i].p, parts[i].n) == 0))
                on[j] = false;
        }
    }
    for (size_t i = 0; i < n; i++) {
        ptn_str topic = {(const char *)parts[i].p, parts[i].n};
        PTN_ASSERT(zmq_gw_prefixes_match(&s, topic) == naive_match(parts, on, n, topic));
    }
    zmq_gw_prefixes_done(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ptn_bytes parts[PARTS_MAX] = {{(const uint8_t *)"peer1", 5}};
    size_t n = 1;
    for (size_t at = 0; at < size && n < PARTS_MAX; n++) {
        size_t len = data[at++];
        if (len > size - at)
            len = size - at;
        parts[n] = (ptn_bytes){data + at, len};
        at += len;
    }
    fuzz_message(parts, n);
    if (size > 0) {
        fuzz_prefixes(parts, n, data[0]);
        const ptn_bytes whole[] = {parts[0], {NULL, 0}, {data, size}};
        fuzz_message(whole, PTN_ARRAY_LEN(whole));
    }
    char *address = malloc(size + 1);
    if (address != NULL) {
        memcpy(address, data, size);
        address[size] = '\0';
        zmq_gw_address a;
        const char *why = "";
        (void)zmq_gw_address_check(address, &a, &why);
        free(address);
    }
    return 0;
}
