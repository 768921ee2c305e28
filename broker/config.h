/* SPDX-License-Identifier: Apache-2.0
 *
 * config.h - every setting of the broker: one table from which the struct, the YAML schema, the
 * environment, the flags and `postern default-config` are made, so that they cannot drift apart.
 *
 * Precedence: flags > environment > file > defaults.  Main thread only; the result is read-only
 * afterwards.
 */
#ifndef POSTERN_BROKER_CONFIG_H
#define POSTERN_BROKER_CONFIG_H

#include <postern/log.h>
#include <postern/runtime.h>

#include <stdio.h>

#include "protocols/edge.h"

enum config_log_format { CONFIG_LOG_AUTO, CONFIG_LOG_TEXT, CONFIG_LOG_JSON };

#define CONFIG_LIST_MAX 16u
struct config_list {
    char **items;
    size_t n;
};

/* key, field, kind, default, min, max, help.  Kinds: HTTP and ZMQ (lists of addresses), RULES
 * (list of config_rule_parse() texts), PATH,
 * COUNT, SIZE, DURATION, LEVEL, FORMAT.  min and max are ns for durations, bytes for sizes and
 * unused for the others.  In addresses `<data>` at the start of a path stands for the data
 * directory. */
/* clang-format off */
#define CONFIG_TOP_MAP(XX, S)                                                                              \
    XX(S, data, data, PATH, "./data", 0, 0, "Directory of the database, the keys and the local sockets; mode 0700.") \
    XX(S, workers, workers, COUNT, "0", 0, PTN_WORKERS_MAX, "Worker threads; 0: as many as the cgroup and the affinity mask allow.") \
    XX(S, drain, drain_ns, DURATION, "5s", 0, 3600 * PTN_SEC, "How long a shutdown waits for work in progress.") \
    XX(S, watchdog, watchdog_ns, DURATION, "5s", 0, 3600 * PTN_SEC, "CPU time of one handler after which the process ends itself, to be started again; one that waits as long fails /livez; 0: never.")

#define CONFIG_LISTEN_MAP(XX, S)                                                                           \
    XX(S, http, http, HTTP, "127.0.0.1:8771", 0, 0, "REST, WebSocket and SSE: HOST:PORT or unix:/PATH, one or a list; port 0 asks the system.") \
    XX(S, admin, admin, HTTP, "127.0.0.1:8772", 0, 0, "Probes, metrics and administration.  Not for the open network.") \
    XX(S, zmq, zmq, ZMQ, "ipc://<data>/postern.ipc", 0, 0, "ZeroMQ requests: ipc://PATH, or tcp:// on a loopback address.") \
    XX(S, zmq_events, zmq_events, ZMQ, "ipc://<data>/postern-events.ipc", 0, 0, "ZeroMQ events, for SUB sockets.")

#define CONFIG_LOG_MAP(XX, S)                                                                              \
    XX(S, level, level, LEVEL, "info", 0, 0, "error, warn, info or debug.")                                \
    XX(S, format, format, FORMAT, "auto", 0, 0, "auto (text on a terminal, JSON otherwise), text or json.")

#define CONFIG_LIMITS_MAP(XX, S)                                                                           \
    XX(S, memory, memory_bytes, SIZE, "0", 0, UINT64_C(1) << 42, "Messages, output, requests and caches together, 32MiB or more; past it new work is refused.  0: half of what the cgroup or the host has.") \
    XX(S, connections, connections, COUNT, "10000", 1, 1000000, "Open connections of one worker, all protocols.") \
    XX(S, request_line, request_line_bytes, SIZE, "8KiB", 256, 65536, "Longest HTTP request line.")        \
    XX(S, header_bytes, header_bytes, SIZE, "16KiB", 1024, 1 << 20, "All headers of one request together.") \
    XX(S, headers, headers, COUNT, "100", 8, 1000, "Number of headers of one request.")                    \
    XX(S, body, body_bytes, SIZE, "1MiB", 1024, 32 << 20, "Largest HTTP request body.")                    \
    XX(S, message, message_bytes, SIZE, "1MiB", 1024, 32 << 20, "Largest WebSocket message.")              \
    XX(S, depth, depth, COUNT, "32", 4, 64, "Nested arrays and objects in JSON and msgpack.")              \
    XX(S, pipeline, pipeline, COUNT, "32", 1, 1024, "Requests in flight on one HTTP connection.")          \
    XX(S, ws_requests, ws_requests, COUNT, "64", 1, 1024, "Unanswered frames of one WebSocket session.")   \
    XX(S, subscriptions, subscriptions, COUNT, "1000", 16, 100000, "Subscriptions of one connection.")     \
    XX(S, subscriptions_total, subscriptions_total, COUNT, "1000000", 16, 10000000, "Subscriptions of all connections of one worker, about 200 bytes each.") \
    XX(S, out_queue, out_queue_bytes, SIZE, "1MiB", 65536, 64 << 20, "Output waiting for one connection.  Answers: past it, or half of it on WebSocket, no more requests are read; events: past it the client is cut off.") \
    XX(S, keep_alive, keep_alive_ns, DURATION, "60s", PTN_SEC, 3600 * PTN_SEC, "Silence on an HTTP connection before it is closed.") \
    XX(S, headers_timeout, headers_timeout_ns, DURATION, "10s", 100 * PTN_MS, 600 * PTN_SEC, "From the first byte of a request to the end of its headers.") \
    XX(S, body_timeout, body_timeout_ns, DURATION, "30s", 100 * PTN_MS, 3600 * PTN_SEC, "From the end of the headers to the end of the body.") \
    XX(S, request_timeout, request_timeout_ns, DURATION, "10s", 10 * PTN_MS, 600 * PTN_SEC, "Deadline of a request that does not ask for one.") \
    XX(S, request_timeout_max, request_timeout_max_ns, DURATION, "60s", 10 * PTN_MS, 3600 * PTN_SEC, "Longest deadline that Request-Timeout may ask for.") \
    XX(S, queue_delay, queue_delay_ns, DURATION, "50ms", 0, 60 * PTN_SEC, "When requests have waited longer than this for 20 times as long, those that have are refused.  0s: never.") \
    XX(S, ws_auth, ws_auth_ns, DURATION, "5s", 100 * PTN_MS, 600 * PTN_SEC, "Time for the first auth frame of a WebSocket.") \
    XX(S, ws_ping, ws_ping_ns, DURATION, "25s", 100 * PTN_MS, 3600 * PTN_SEC, "Interval of WebSocket pings.") \
    XX(S, ws_pong, ws_pong_ns, DURATION, "10s", 100 * PTN_MS, 600 * PTN_SEC, "Time for the pong before the connection is closed.") \
    XX(S, stall, stall_ns, DURATION, "30s", 100 * PTN_MS, 3600 * PTN_SEC, "Time without progress of waiting output before the connection is closed.")

#define CONFIG_WS_MAP(XX, S)                                                                               \
    XX(S, deflate, deflate_bytes, SIZE, "0", 0, 32 << 20, "Smallest message that is compressed for clients that offer permessage-deflate; 256 is a good value for slow links.  0: none, and no offer is taken.")

#define CONFIG_AUTH_MAP(XX, S)                                                                             \
    XX(S, access_ttl, access_ttl_ns, DURATION, "15m", PTN_SEC, 86400 * PTN_SEC, "Life of an access token.") \
    XX(S, refresh_ttl, refresh_ttl_ns, DURATION, "30d", PTN_SEC, UINT64_C(31622400) * PTN_SEC, "Life of a refresh token, counted anew at each refresh.")

#define CONFIG_STORE_MAP(XX, S)                                                                            \
    XX(S, scrub, scrub_bytes, SIZE, "4MiB", 0, UINT64_C(1) << 40, "How much of the database is read per second, while nobody waits for it, in search of damage after an end that was not clean.  0: none.")

#define CONFIG_TOPICS_MAP(XX, S)                                                                           \
    XX(S, durable, durable, RULES, "", 0, 0, "Topics that are stored: PATTERN [age=30d] [bytes=1GiB] [events=1000000], one or a list; the first that matches counts.") \
    XX(S, ids, ids, COUNT, "65536", 16, 16777216, "Publications with an id that are remembered of each durable topic, and of all others of a worker, so that sending twice is safe; of all together four times as many.") \
    XX(S, ids_for, ids_ns, DURATION, "10m", PTN_SEC, 7 * 86400 * PTN_SEC, "And for how long.")

#define CONFIG_CONVERSATIONS_MAP(XX, S)                                                                    \
    XX(S, age, age_ns, DURATION, "0s", 0, UINT64_C(10000) * 86400 * PTN_SEC, "Messages older than this by their timestamp are removed; 0: never.  The newest of a conversation stays.") \
    XX(S, messages, messages, COUNT, "0", 0, UINT32_MAX, "Messages kept of each conversation; 0: all.") \
    XX(S, bytes, bytes, SIZE, "0", 0, UINT64_C(1) << 40, "The same in bytes of content and metadata.  The newest stays; messages stored before schema 6 count as empty.")

#define CONFIG_SYNC_MAP(XX, S)                                                                             \
    XX(S, items_max, items_max, COUNT, "100", 1, 1000, "Items in one POST /sync.")                         \
    XX(S, bytes_max, bytes_max, SIZE, "512KiB", 1024, 64 << 20, "And their size, as msgpack; bounded by limits.body too.")

#define CONFIG_QUEUE_MAP(XX, S)                                                                            \
    XX(S, window, window, COUNT, "256", 1, 65536, "Messages of one conversation that a device is sent without acknowledging any.") \
    XX(S, redeliver, redeliver_ns, DURATION, "30s", PTN_SEC, 86400 * PTN_SEC, "Time for an acknowledgement before messages are sent again; doubles each time.") \
    XX(S, deliveries, deliveries, COUNT, "10", 1, 1000, "Times that a message is sent before it becomes a dead letter.") \
    XX(S, ttl, ttl_ns, DURATION, "7d", 0, 3650 * 86400 * PTN_SEC, "Age at which a message that a device has not got becomes a dead letter.  0s: none.") \
    XX(S, messages, messages, COUNT, "10000", 0, 65536, "Messages that wait for one user: those that any device has not acknowledged, each once.  Past it the oldest become dead letters.  0: no limit but 65,536 when there is one of bytes.") \
    XX(S, bytes, bytes, SIZE, "16MiB", 0, UINT64_C(1) << 40, "The same in bytes of content and metadata.") \
    XX(S, conversations, conversations, COUNT, "1000", 1, 1000, "Conversations whose messages come to a connection by themselves, the newest.") \
    XX(S, devices, devices, COUNT, "32", 1, 1000, "Devices of one user whose place is kept; past it the one that was away longest is forgotten.") \
    XX(S, dead_letters, dead_letters, COUNT, "10000", 1, 100000000, "Dead letters that are kept; past it the oldest are forgotten.")

/* section (empty: top level), its map, help */
#define CONFIG_SECTION_MAP(SS)                                                                             \
    SS(listen, CONFIG_LISTEN_MAP, "Addresses.  An empty list switches a listener off.")                    \
    SS(log, CONFIG_LOG_MAP, "Log lines go to standard error.")                                             \
    SS(limits, CONFIG_LIMITS_MAP, "Bounds; what goes over them is refused with advice.")                   \
    SS(ws, CONFIG_WS_MAP, "WebSocket.")                                                                    \
    SS(store, CONFIG_STORE_MAP, "The database.")                                                           \
    SS(topics, CONFIG_TOPICS_MAP, "Topics; conversations are always stored.")                              \
    SS(conversations, CONFIG_CONVERSATIONS_MAP, "How long conversations are kept; offline clients miss what is removed.") \
    SS(sync, CONFIG_SYNC_MAP, "Clients that were offline.")                                                \
    SS(queue, CONFIG_QUEUE_MAP, "What waits for devices that have not acknowledged it.")                   \
    SS(auth, CONFIG_AUTH_MAP, "Tokens.")
/* clang-format on */

#define CONFIG_TYPE_HTTP struct config_list
#define CONFIG_TYPE_ZMQ struct config_list
#define CONFIG_TYPE_RULES struct config_list
#define CONFIG_TYPE_PATH char *
#define CONFIG_TYPE_COUNT uint32_t
#define CONFIG_TYPE_SIZE uint64_t
#define CONFIG_TYPE_DURATION ptn_time
#define CONFIG_TYPE_LEVEL enum ptn_log_level
#define CONFIG_TYPE_FORMAT enum config_log_format

struct postern_config {
#define XX(s, key, field, kind, def, min, max, help) CONFIG_TYPE_##kind field;
#define SS(section, map, help)                                                                     \
    struct {                                                                                       \
        map(XX, section)                                                                           \
    } section;
    CONFIG_TOP_MAP(XX, ) CONFIG_SECTION_MAP(SS)
#undef SS
#undef XX
};

/* One line for people: where, what, and what to do. */
struct config_error {
    char text[512];
};

struct config_flag { /* --listen.http=ADDR, --set listen.http=ADDR */
    const char *key, *value;
};

struct config_sources {
    const char *file; /* NULL: none */
    char *const *env; /* as environ; NULL: none */
    const struct config_flag *flags;
    size_t n_flags;
};

/* Reads all sources and checks the result.  0, or -PTN_EINVAL / -PTN_EIO / -PTN_ENOMEM with *reterr
 * filled. config_done() releases what it returned. */
int config_load(const struct config_sources *sources, struct postern_config *ret_config,
                struct config_error *reterr);
void config_done(struct postern_config *c);

/* "PATTERN [age=30d] [bytes=1GiB] [events=1000000]".  ret_rule->pattern points into text.  NULL:
 * good; otherwise static advice. */
struct topic_rule;
const char *config_rule_parse(const char *text, struct topic_rule *ret_rule);

#define CONFIG_CHANGES_BYTES 2048u /* the names of all keys */
/* Names of the keys whose values are others in b, with blanks between; what has no room is left
 * out.
 */
void config_changes(const struct postern_config *a, const struct postern_config *b, char *buf,
                    size_t buf_bytes);

/* Commented YAML of the defaults; config_load() accepts it. */
void config_print_default(FILE *out);

/* What `workers: 0` means here: affinity mask and cgroup quota (rounded up), at least 1, at most
 * PTN_WORKERS_MAX. */
unsigned config_workers(const struct postern_config *c);
/* The same from a cgroup directory and a number of processors, for tests. */
unsigned config_workers_of(const char *cgroup_dir, unsigned processors);

/* What `memory: 0` means here: half of the host's memory or of the cgroup's limit, at least
 * CONFIG_MEMORY_MIN. */
#define CONFIG_MEMORY_MIN (32u << 20)
uint64_t config_memory(const struct postern_config *c);
/* The limit of a cgroup directory, or host_bytes when that is less or there is none; for tests. */
uint64_t config_memory_of(const char *cgroup_dir, uint64_t host_bytes);

void config_edge_limits(const struct postern_config *c, edge_limits *ret_limits);

#endif
