/* SPDX-License-Identifier: Apache-2.0
 *
 * common_replay.h - the running part of postern-replay: what is on its way, and the loop that sends
 * and receives it over all three protocols.  replay.c sets it up and reports.
 */
#ifndef POSTERN_BENCH_COMMON_REPLAY_H
#define POSTERN_BENCH_COMMON_REPLAY_H

#include "bench/common_chat.h"
#include "bench/common_http.h"
#include "bench/common_proof.h"
#include "bench/common_ws.h"
#include "bench/load/load.h"

#include <postern/codec.h>

#define REPLAY_PROBES 16u /* conversations that only tell when the ZeroMQ subscription works */
#define REPLAY_WINDOW_MAX 1024u

enum replay_source { SOURCE_HTTP, SOURCE_SENDER, SOURCE_SUBSCRIBER, SOURCE_ZMQ };
enum replay_protocol { BY_REST, BY_WS, BY_ZMQ, PROTOCOLS };

struct replay_options {
    const char *path, *program, *workers, *svg;
    unsigned subscribers, window, rounds;
    size_t days;
    double speed; /* so many times as fast as it was written; 0: as fast as the window allows */
    bool json;
};

struct replay_person {
    char id[64];
    char token[1024];
    struct bench_ws ws; /* of those who send by WebSocket */
};

struct replay_subscriber {
    struct bench_ws ws;
    bool msgpack;
    uint32_t n_subscribed;
    bool fenced; /* the pong after the last message has come */
};

struct replay_conversation {
    char id[64];
    uint32_t index;
};

struct replay_flight { /* of one message */
    uint64_t due_ns;   /* at a speed; 0: when the window allows */
    uint64_t sent_ns;  /* what its latency counts from */
    uint64_t retry_ns; /* 0: none is due */
    uint32_t tries;
    bool acknowledged;
};

struct replay { /* of one round, but for the options and the chat */
    struct replay_options o;
    struct chat chat;
    struct bench_broker broker;
    struct replay_person *people; /* those of the chat, then the subscribers' accounts */
    size_t n_people;
    struct replay_conversation *conversations, *by_id;
    char probes[REPLAY_PROBES][64];
    bool probe_seen[REPLAY_PROBES];
    struct replay_flight *flights;
    uint32_t retries[REPLAY_WINDOW_MAX]; /* messages that wait to be sent again */
    size_t n_retries, n_retried;
    struct bench_http *http;
    struct replay_subscriber *subscribers;
    void *zmq, *dealer, *sub;
    int epoll;
    ptn_json_parser *json;
    ptn_out text;
    struct proof proof;
    struct histogram latency, lag;
    uint64_t full_ns; /* when the window was last seen full: what waits for it is not late */
    size_t next, n_acknowledged, n_deliveries, n_by[PROTOCOLS];
    size_t n_batch, n_batch_done; /* setup requests */
    void (*on_http)(struct replay *r, uint64_t tag, unsigned status, ptn_bytes body);
    bool running;
};

enum replay_protocol replay_protocol_of(uint32_t person);
void *replay_zeroed(size_t n, size_t bytes); /* dies without memory */
/* JSON text at the end of r->text. */
void replay_put(ptn_out *o, const char *z);
void replay_put_member(ptn_out *o, const char *before, ptn_str value);
ptn_str replay_out_str(const ptn_out *o);
/* A JSON text as msgpack; dies when it is none. */
ptn_buf *replay_decoded(struct replay *r, ptn_bytes json);
/* For qsort and bsearch over by_id. */
int replay_compare_conversations(const void *a, const void *b);

void replay_watch(struct replay *r, int fd, enum replay_source source, size_t index);
/* A POST on an idle connection; the answer goes to r->on_http. */
void replay_http_request(struct replay *r, const char *path, const char *token, ptn_str body,
                         uint64_t tag);
/* The on_http of the run. */
void replay_on_message_response(struct replay *r, uint64_t tag, unsigned status, ptn_bytes body);
void replay_read_subscriber(struct replay *r, uint32_t i);
/* A line on a terminal: what goes on. */
void replay_progress(const char *what, uint64_t n);
/* One turn of the loop: sends what the window allows while r->running, and receives. */
void replay_turn(struct replay *r, int timeout_ms);

#endif
