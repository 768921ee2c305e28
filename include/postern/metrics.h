/* SPDX-License-Identifier: Apache-2.0
 *
 * metrics.h - counters, gauges and histograms, one table for the whole program.
 *
 * Each thread writes only its own cells (a plain load and store, relaxed), readers sum over
 * threads: no locked instruction on the steady path.  Names and labels follow wire.md section 4;
 * never a user, a topic or an id as a label.  Any thread.
 */
#ifndef POSTERN_METRICS_H
#define POSTERN_METRICS_H

#include <postern/base.h>
#include <stdatomic.h>

/* clang-format off */
/* id, name, labels, help */
#define PTN_COUNTER_MAP(XX)                                                                                 \
    XX(CONNECTIONS_ACCEPTED_HTTP, "postern_connections_accepted_total", "protocol=\"http\"", "Connections accepted") \
    XX(CONNECTIONS_ACCEPTED_WS, "postern_connections_accepted_total", "protocol=\"ws\"", "")                \
    XX(CONNECTIONS_ACCEPTED_SSE, "postern_connections_accepted_total", "protocol=\"sse\"", "")              \
    XX(RECEIVED_HTTP, "postern_messages_received_total", "protocol=\"http\"", "Requests and frames received") \
    XX(RECEIVED_WS, "postern_messages_received_total", "protocol=\"ws\"", "")                               \
    XX(RECEIVED_ZMQ, "postern_messages_received_total", "protocol=\"zmq\"", "")                             \
    XX(DELIVERED_WS, "postern_messages_delivered_total", "protocol=\"ws\"", "Events handed to connections") \
    XX(DELIVERED_SSE, "postern_messages_delivered_total", "protocol=\"sse\"", "")                           \
    XX(DELIVERED_ZMQ, "postern_messages_delivered_total", "protocol=\"zmq\"", "")                           \
    XX(DROPPED_SLOW_CONSUMER, "postern_messages_dropped_total", "reason=\"slow_consumer\"", "Messages dropped, by reason") \
    XX(DROPPED_HUB_OVERLOAD, "postern_messages_dropped_total", "reason=\"hub_overload\"", "")               \
    XX(DROPPED_ZMQ_PEER, "postern_messages_dropped_total", "reason=\"zmq_peer_full\"", "")                  \
    XX(DROPPED_STORE, "postern_messages_dropped_total", "reason=\"store_failed\"", "")                   \
    XX(DEFLATE_PLAIN, "postern_ws_deflate_bytes_total", "what=\"plain\"", "Messages compressed for WebSocket clients, once however many get them: bytes before and after") \
    XX(DEFLATE_PACKED, "postern_ws_deflate_bytes_total", "what=\"packed\"", "")                             \
    XX(INFLATE_PACKED, "postern_ws_inflate_bytes_total", "what=\"packed\"", "Compressed messages of WebSocket clients: bytes before and after") \
    XX(INFLATE_PLAIN, "postern_ws_inflate_bytes_total", "what=\"plain\"", "")                               \
    XX(INFLATE_FAILED, "postern_ws_inflate_failures_total", "", "Compressed messages that were damaged or too large") \
    XX(WS_HELD, "postern_ws_held_back_total", "", "Times a WebSocket client was read no further because it did not take its answers") \
    XX(CONFLATED, "postern_messages_conflated_total", "", "Events that a newer one of their topic has replaced, for subscribers that asked for the latest") \
    XX(REDELIVERIES, "postern_offline_queue_redeliveries_total", "", "Messages sent again for lack of an acknowledgement") \
    XX(DEAD_LETTERS_DELIVERIES, "postern_offline_queue_dead_letters_total", "reason=\"max_deliveries\"", "Messages that a device's cursor has passed without an acknowledgement, by reason") \
    XX(DEAD_LETTERS_EXPIRED, "postern_offline_queue_dead_letters_total", "reason=\"expired\"", "")          \
    XX(DEAD_LETTERS_OVERFLOW, "postern_offline_queue_dead_letters_total", "reason=\"overflow\"", "")        \
    XX(ACKS_LOST, "postern_offline_queue_acks_lost_total", "", "Acknowledgements of devices that were not stored; what they were for comes again") \
    XX(FEED_RETRIES, "postern_offline_queue_feed_retries_total", "", "Feeds of devices that could not be opened, or continued, and were to be tried again") \
    XX(DEVICES_FORGOTTEN, "postern_offline_queue_devices_forgotten_total", "", "Devices forgotten because their user had too many") \
    XX(DEAD_LETTERS_PURGED, "postern_offline_queue_dead_letters_purged_total", "", "Dead letters forgotten because there were too many") \
    XX(CLOSED_SLOW_CONSUMER, "postern_disconnects_total", "reason=\"slow_consumer\"", "Connections cut off by the broker, by reason") \
    XX(CLOSED_PROTOCOL_ERROR, "postern_disconnects_total", "reason=\"protocol_error\"", "")                 \
    XX(CLOSED_TIMEOUT, "postern_disconnects_total", "reason=\"timeout\"", "")                               \
    XX(CLOSED_AUTH, "postern_disconnects_total", "reason=\"auth\"", "")                                     \
    XX(CLOSED_NO_PONG, "postern_disconnects_total", "reason=\"no_pong\"", "")                               \
    XX(CLOSED_TOO_BIG, "postern_disconnects_total", "reason=\"too_big\"", "")                               \
    XX(CLOSED_LIMIT, "postern_disconnects_total", "reason=\"connection_limit\"", "")                        \
    XX(SHED_DELAY, "postern_shed_total", "reason=\"delay\"", "Requests refused to keep the rest in time or in memory, by reason") \
    XX(SHED_MEMORY, "postern_shed_total", "reason=\"memory\"", "")                                          \
    XX(DEADLINE_EXPIRED, "postern_deadline_expired_total", "", "Requests whose deadline passed in a queue")   \
    XX(SUBSCRIPTIONS_REFUSED_ONE, "postern_subscriptions_refused_total", "reason=\"connection\"", "Subscriptions refused for their number, of a connection or of a worker") \
    XX(SUBSCRIPTIONS_REFUSED_ALL, "postern_subscriptions_refused_total", "reason=\"worker\"", "")           \
    XX(EDGE_PAUSES, "postern_edge_pauses_total", "", "Times an edge stopped reading because router or auth were behind") \
    XX(MEMORY_PRESSURE, "postern_memory_pressure_total", "", "Times the memory budget was reached")         \
    XX(AUTH_FAILED, "postern_auth_failures_total", "", "Logins and tokens refused")                         \
    XX(ACTOR_CRASHES, "postern_actor_crashes_total", "", "Actors that failed")                              \
    XX(STORE_COMMITS, "postern_store_commits_total", "", "Transactions committed")                          \
    XX(STORE_ROWS, "postern_store_messages_total", "", "Messages stored")                                   \
    XX(RETENTION_EVENTS, "postern_retention_removed_total", "what=\"event\"", "What retention has removed")    \
    XX(RETENTION_MESSAGES, "postern_retention_removed_total", "what=\"message\"", "")                        \
    XX(STORE_SALVAGES, "postern_store_salvages_total", "", "Damaged databases that were rebuilt")               \
    XX(STORE_SCRUB_PAGES, "postern_store_scrub_pages_total", "", "Pages of 4 KiB that the search for damage has read") \
    XX(STORE_SCRUBS_SOUND, "postern_store_scrubs_total", "result=\"sound\"", "Searches for damage that came to an end") \
    XX(STORE_SCRUBS_DAMAGED, "postern_store_scrubs_total", "result=\"damaged\"", "")                          \
    XX(IDS_EVICTED, "postern_topic_ids_evicted_total", "", "Ids of events forgotten before topics.ids_for because there were too many") \
    XX(STORE_ERRORS, "postern_store_errors_total", "", "Store operations that failed")                      \
    XX(SYNC_APPLIED, "postern_sync_items_total", "outcome=\"applied\"", "Items of clients that were offline, by outcome") \
    XX(SYNC_DUPLICATE, "postern_sync_items_total", "outcome=\"duplicate\"", "")                             \
    XX(SYNC_SUPERSEDED, "postern_sync_items_total", "outcome=\"superseded\"", "")                           \
    XX(SYNC_CONFLICT, "postern_sync_items_total", "outcome=\"conflict\"", "")                               \
    XX(SYNC_REJECTED, "postern_sync_items_total", "outcome=\"rejected\"", "")

#define PTN_GAUGE_MAP(XX)                                                                                   \
    XX(CONNECTIONS_HTTP, "postern_connections", "protocol=\"http\"", "Open connections")                    \
    XX(CONNECTIONS_WS, "postern_connections", "protocol=\"ws\"", "")                                        \
    XX(CONNECTIONS_SSE, "postern_connections", "protocol=\"sse\"", "")                                      \
    XX(SUBSCRIPTIONS, "postern_subscriptions", "", "Active subscriptions")                                  \
    XX(SLOW_SUBSCRIPTIONS, "postern_slow_subscriptions", "", "Subscriptions behind the live events")        \
    XX(OFFLINE_QUEUE, "postern_offline_queue_messages", "", "Messages that a device of their user, connected or away, has not acknowledged") \
    XX(OFFLINE_DEVICES, "postern_offline_queue_devices", "", "Devices that messages wait for")              \
    XX(TOPICS, "postern_topics", "", "Topics with state in memory")                                         \
    XX(STORE_LOG, "postern_store_log_bytes", "", "Log of the database that has not been moved into it")      \
    XX(STORE_SCRUBBING, "postern_store_scrub_rounds", "", "Searches for damage that are still to be done, the present one included") \
    XX(ACTORS_PRESSED, "postern_actors_under_pressure", "", "Watched actors whose mailbox is filling")       \
    XX(CONVERSATIONS_CACHED, "postern_conversations_cached", "", "Conversations in memory")

/* id, name, labels, help.  Unit: seconds (observed in ns). */
#define PTN_HISTOGRAM_MAP(XX)                                                                               \
    XX(REQUEST_HTTP_OK, "postern_request_duration_seconds", "protocol=\"http\",outcome=\"ok\"", "Time from a whole request to its response") \
    XX(REQUEST_HTTP_CLIENT, "postern_request_duration_seconds", "protocol=\"http\",outcome=\"client_error\"", "") \
    XX(REQUEST_HTTP_SERVER, "postern_request_duration_seconds", "protocol=\"http\",outcome=\"server_error\"", "") \
    XX(REQUEST_WS_OK, "postern_request_duration_seconds", "protocol=\"ws\",outcome=\"ok\"", "")             \
    XX(REQUEST_WS_CLIENT, "postern_request_duration_seconds", "protocol=\"ws\",outcome=\"client_error\"", "") \
    XX(REQUEST_WS_SERVER, "postern_request_duration_seconds", "protocol=\"ws\",outcome=\"server_error\"", "") \
    XX(REQUEST_ZMQ_OK, "postern_request_duration_seconds", "protocol=\"zmq\",outcome=\"ok\"", "")           \
    XX(REQUEST_ZMQ_CLIENT, "postern_request_duration_seconds", "protocol=\"zmq\",outcome=\"client_error\"", "") \
    XX(REQUEST_ZMQ_SERVER, "postern_request_duration_seconds", "protocol=\"zmq\",outcome=\"server_error\"", "") \
    XX(FANOUT, "postern_fanout_duration_seconds", "", "Time to hand one event to all local subscribers")    \
    XX(FSYNC, "postern_fsync_duration_seconds", "", "Time of one commit, fsync included")                   \
    XX(CHECKPOINT, "postern_checkpoint_duration_seconds", "", "Time to move the log into the database")
/* clang-format on */

enum ptn_counter {
#define XX(id, name, labels, help) PTN_C_##id,
    PTN_COUNTER_MAP(XX)
#undef XX
        PTN_COUNTER_COUNT
};
enum ptn_gauge {
#define XX(id, name, labels, help) PTN_G_##id,
    PTN_GAUGE_MAP(XX)
#undef XX
        PTN_GAUGE_COUNT
};
enum ptn_histogram {
#define XX(id, name, labels, help) PTN_H_##id,
    PTN_HISTOGRAM_MAP(XX)
#undef XX
        PTN_HISTOGRAM_COUNT
};

/* Upper bounds: powers of two from 1 us to 16.8 s; the last bucket is +Inf. */
#define PTN_HISTOGRAM_BUCKETS 26

typedef struct ptn_histogram_cells {
    _Atomic uint64_t bucket[PTN_HISTOGRAM_BUCKETS];
    _Atomic uint64_t sum_ns;
} ptn_histogram_cells;

typedef struct ptn_metrics_cells {
    _Atomic uint64_t counter[PTN_COUNTER_COUNT];
    _Atomic int64_t gauge[PTN_GAUGE_COUNT]; /* this thread's share; the sum is the value */
    ptn_histogram_cells histogram[PTN_HISTOGRAM_COUNT];
} ptn_metrics_cells;

extern _Thread_local ptn_metrics_cells *ptn__metrics_local;
ptn_metrics_cells *ptn__metrics_attach(void); /* first use on a thread; never NULL */

static inline ptn_metrics_cells *ptn__metrics(void) {
    ptn_metrics_cells *m = ptn__metrics_local;
    return PTN_LIKELY(m != NULL) ? m : ptn__metrics_attach();
}

/* Relaxed, one writer per cell; the readers' partner is ptn_metrics_sum(). */
static inline void ptn_count(enum ptn_counter k, uint64_t n) {
    _Atomic uint64_t *cell = &ptn__metrics()->counter[k];
    atomic_store_explicit(cell, atomic_load_explicit(cell, memory_order_relaxed) + n,
                          memory_order_relaxed);
}
static inline void ptn_gauge_add(enum ptn_gauge k, int64_t n) {
    _Atomic int64_t *cell = &ptn__metrics()->gauge[k];
    atomic_store_explicit(cell, atomic_load_explicit(cell, memory_order_relaxed) + n,
                          memory_order_relaxed);
}
/* One value into cells that belong to the calling thread. */
void ptn_histogram_add(ptn_histogram_cells *h, uint64_t ns);
/* The calling thread's cells of a histogram of the table. */
void ptn_observe_ns(enum ptn_histogram k, uint64_t ns);
/* The outcome class of an HTTP status for the request histograms; protocol as in messages.h. */
void ptn_observe_request(unsigned protocol, unsigned status, uint64_t ns);

/* Sums over all threads that ever attached. */
typedef struct ptn_metrics_snapshot {
    uint64_t counter[PTN_COUNTER_COUNT];
    int64_t gauge[PTN_GAUGE_COUNT];
    uint64_t bucket[PTN_HISTOGRAM_COUNT][PTN_HISTOGRAM_BUCKETS];
    uint64_t sum_ns[PTN_HISTOGRAM_COUNT];
} ptn_metrics_snapshot;
void ptn_metrics_sum(ptn_metrics_snapshot *ret_s);

#endif
