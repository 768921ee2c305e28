/* SPDX-License-Identifier: Apache-2.0
 *
 * messages.h - the message catalogue: every kind of message that actors and adapters exchange, its
 * payload and its answer.  The only thing that actors/ and protocols/ have in common.
 *
 * Payloads are msgpack arrays in the order given here (pack.h); `?` may be nil.  Any ask may be
 * answered by PROBLEM instead of the kind named after the arrow; helpers at the end build and read
 * the common ones.
 */
#ifndef POSTERN_MESSAGES_H
#define POSTERN_MESSAGES_H

#include <postern/pack.h>
#include <postern/runtime.h>

/* clang-format off */
#define PTN_MSG_MAP(XX)                                                                                    \
    /* edge -> router -> owner.  ptn_request -> RESPONSE | STREAM | PROBLEM.  Owners see their route's     \
     * kind (PTN_ROUTE_MAP) instead of REQUEST. */                                                         \
    XX(REQUEST)                                                                                            \
    XX(RESPONSE)          /* [status, contentType?, headers? map, page? map, data] */                      \
    XX(STREAM)            /* [topic]: the edge subscribes and streams events (SSE) */                      \
    XX(PROBLEM)           /* [code, message, details? map] */                                              \
    XX(OK)                /* nil */                                                                        \
    XX(PUBLISH)           /* edge -> topics: ptn_publish_call of a user, what frames say so often that it   \
                           * is no REQUEST -> PUBLISHED */                                                 \
    XX(PUBLISHED)         /* [epoch, offset, durability] */                                                \
    /* identity */                                                                                         \
    XX(AUTH_TOKEN)        /* edge -> auth of its worker: [token] -> PRINCIPAL */                           \
    XX(AUTH_TICKET)       /* edge -> auth of its worker: PRINCIPAL -> AUTH_TICKET [ticket]: as good as     \
                           * its token, and as long, but for AUTH_RESUME alone */                          \
    XX(AUTH_RESUME)       /* edge -> auth of its worker: [ticket] -> PRINCIPAL */                          \
    XX(PRINCIPAL)         /* [user, name, session?, roles, expiresMs] */                                   \
    XX(AUTH_REVOKE)       /* issuer -> every verifier: [session, untilMs] -> OK */                         \
    XX(AUTH_LOOK)         /* verifier -> the others: something is over that they may not know; look what */ \
    XX(SESSION_REVOKED)   /* verifier -> edges of its worker: [session, user?]: close its connections, or   \
                           * (session empty) those that the user has without a session */                  \
    /* topics: hub <-> owner (topics shard, or conversation shard for conversation.<id>) */                \
    XX(TOPIC_ATTACH)      /* [topic, user, roles, sinceEpoch?, sinceOffset] -> TOPIC_ATTACHED */           \
    XX(TOPIC_ATTACHED)    /* [epoch, offset, recovered, stored, [[offset, data], ..]]: stored: the hub     \
                           * reads what a subscriber misses from the store, and the list is empty */      \
    XX(TOPIC_DETACH)      /* [topic] cast: the last local subscriber has gone */                               \
    XX(TOPIC_TRIMMED)     /* store -> owner: [topic, base] cast: everything up to base was removed */      \
    XX(TOPIC_WATCH_ALL)   /* [on] -> OK: the hub has wildcard subscribers and wants every event */        \
    XX(CONV_MARK)         /* offline queue, conversation -> conversation's shard, cast: [conversation,     \
                           * user, read, seq, messageId?, atMs]: the user has got or read all up to seq */ \
    XX(TOPIC_PUBLISH)     /* any actor -> owner: [topic, data] cast, for events of the broker itself */    \
    XX(EVENT)             /* owner -> hub: [topic, epoch, offset, data].  As an ask -> EVENT_COUNT */      \
    XX(EVENT_COUNT)       /* [subscribers] */                                                              \
    XX(HUB_SUBSCRIBE)     /* sink -> hub of its worker: hub.h packs it */                                  \
    XX(HUB_UNSUBSCRIBE)                                                                                    \
    XX(HUB_SINK_GONE)                                                                                      \
    XX(HUB_SINK_WRITABLE)                                                                                  \
    XX(HUB_FEED)          /* hub.h packs these two */                                                      \
    XX(HUB_ACK)                                                                                            \
    XX(HUB_JOINED)        /* conversation -> hubs: [topic, [user, ..], seq]: members from after seq on */  \
    XX(HUB_CURSOR)        /* offline queue, store -> hubs: [topic, user, device, seq, reason?]: again from \
                           * after seq; with a reason everything up to seq was passed, or acknowledged by  \
                           * another way (reason "acknowledged") */                                        \
    XX(QUEUE_OPEN)        /* hub -> offline queue of the user: [user, device] -> STORE_FEED */             \
    XX(QUEUE_ACK)         /* hub -> offline queue, cast: [user, device, conversation, seq, deliveries,     \
                           * gotSeq] */                                                                    \
    XX(QUEUE_DEAD)        /* hub -> offline queue, cast: [user, device, conversation, toSeq, fromSeq, 0]:  \
                           * delivered in vain */                                                          \
    XX(QUEUE_GOT)         /* edge -> offline queue, cast: [user, device, conversation, seq]: acknowledged  \
                           * by a client without a feed */                                                 \
    XX(HUB_EVICT)         /* conversation -> hubs: [topic, user]: no longer a member */                    \
    XX(OWNER_RESTARTED)   /* owner -> hubs, nil: what it knew of its topics is gone; sinks start over */   \
    /* store; all -> lane.  USER = [id, name, passwordHash, roles, household?, createdMs, preferences map, \
     * version] */                                                                                         \
    XX(STORE_USER_ADD)    /* [id, name, passwordHash, roles, household?, createdMs] -> STORE_USER.        \
                           * An existing id: the same user, or PROBLEM idempotency_mismatch */             \
    XX(STORE_USER_BY_NAME)/* [name] -> STORE_USER */                                                       \
    XX(STORE_USER_BY_ID)  /* [id] -> STORE_USER */                                                         \
    XX(STORE_USER_LIST)   /* [afterName?, limit] -> STORE_USERS, ordered by name */                        \
    XX(STORE_HOUSEHOLD)   /* [household, limit] -> STORE_USERS */                                          \
    XX(STORE_USER_PASSWORD)/* [id, passwordHash, nowMs] -> OK; ends the user's sessions and tokens */      \
    XX(STORE_USER)        /* USER */                                                                       \
    XX(STORE_USERS)       /* [USER, ..] */                                                                 \
    XX(STORE_SESSION_ADD) /* [session, user, refreshHash bin, expiresMs, createdMs] -> OK */               \
    XX(STORE_SESSION_ROTATE) /* [session, oldHash, newHash, expiresMs, nowMs] -> STORE_USER; a hash that is \
                              * not the current one revokes the session: PROBLEM unauthenticated with       \
                              * details {revoked: true}, later ones {ended: true} */                       \
    XX(STORE_SESSION_REVOKE) /* [session, nowMs] -> OK */                                                  \
    XX(STORE_SESSIONS_REVOKED) /* [changes, sinceMs, cutSinceMs] -> STORE_SESSIONS: revoked at or after     \
                                * that time; both empty when nothing has happened since `changes` (-1: ever) */ \
    XX(STORE_SESSIONS)    /* [changes, [session, ..], [[user, beforeMs], ..]]: users' tokens from up to     \
                           * then are over: their password was changed */                                 \
    /* CONV = [id, title?, creator, createdMs, epoch, lastSeq, [userId, ..], version, base]: everything    \
     * up to base was removed */                                                                           \
    XX(STORE_CONV_ADD)    /* [id, title?, creator, createdMs, epoch, [member, ..], requestHash? bin] ->    \
                           * STORE_CONV; unknown members: PROBLEM validation_failed.  An existing id: its  \
                           * CONV, or PROBLEM idempotency_mismatch for another hash.  The last may be left \
                           * out */                                                                        \
    XX(STORE_CONV_GET)    /* [id] -> STORE_CONV */                                                         \
    XX(STORE_CONV_LIST)   /* [user, afterId?, limit] -> STORE_CONVS, newest id first */                    \
    XX(STORE_MEMBERS_ADD) /* [id, [user, ..], nowMs] -> STORE_CONV */                                      \
    XX(STORE_MEMBERS_REMOVE) /* [id, [user, ..]] -> STORE_CONV */                                          \
    XX(STORE_CONV)        /* CONV */                                                                       \
    XX(STORE_CONVS)       /* [CONV, ..] */                                                                 \
    /* MESSAGE = map as on the wire (wire.md section 2), ready to be sent */                               \
    XX(STORE_MSG_APPEND)  /* [conversation, id, sender, type, content, metadata? map, timestampMs] ->      \
                           * STORE_MSG; replied after the commit is on disk.  The store assigns seq */     \
    XX(STORE_MSG)         /* [seq, isNew, MESSAGE]; isNew false: this id was there already */              \
    XX(STORE_MSG_RANGE)   /* [conversation, afterSeq?, beforeSeq?, limit] -> STORE_MSGS, ascending; with    \
                           * before only, or neither: the newest */                                        \
    XX(STORE_MSG_OWN_RANGE) /* the same, answered after every write that it can see: for the owner of the   \
                           * conversation */                                                               \
    XX(STORE_MSGS)        /* [lastSeq, [[seq, MESSAGE], ..]] */                                            \
    XX(STORE_TOPIC_OPEN)  /* [topic, epoch, ids, sinceMs]: makes it when it is not there -> STORE_TOPIC */ \
    XX(STORE_TOPIC)       /* [epoch, base, lastOffset, [[id bin, offset], ..]]: the newest with an id, ascending */ \
    XX(STORE_EVENTS_APPEND) /* [topic, epoch, offset, createdMs, [data, id? bin, data, ..]]: events of a   \
                           * durable topic from that offset on, all or none -> OK; another offset than     \
                           * the next: PROBLEM overloaded */                                               \
    XX(STORE_EVENTS_APPEND_WRITTEN) /* the same, committed but not waiting for the disk */                 \
    XX(STORE_EVENT_RANGE) /* [topic, afterOffset?, beforeOffset?, limit] -> STORE_MSGS of a durable topic */ \
    XX(STORE_FEED_OPEN)   /* [user, device, nowMs] -> STORE_FEED: new devices get cursors, and what is     \
                           * over a limit is passed */                                                     \
    XX(STORE_FEED)        /* [[conversation, ackedSeq, deliveries, gapFrom, reason?], ..], the newest      \
                           * conversations first; reason: gapFrom..ackedSeq were passed, are dead, and the \
                           * device has acknowledged nothing since */                                      \
    XX(STORE_FEED_TEND)   /* the store to itself: [nowMs]: the next devices, here or away, are looked at   \
                           * like that -> STORE_FEED_TENDED [more, rows, waiting, devices, [[conversation, \
                           * user, device, seq, reason], ..]]: rows that were looked at; what the round    \
                           * has counted so far; cursors that have passed something */                     \
    XX(STORE_FEED_TENDED)                                                                                  \
    XX(STORE_FEED_ACK)    /* [[[user, device, conversation, seq, deliveries, gotSeq], ..], nowMs] ->       \
                           * STORE_FEED_ACKED; gotSeq: up to there the device had them; 0: unknown */      \
    XX(STORE_FEED_ACKED)  /* [[conversation, user, seq], ..]: whose messages up to seq are delivered now */ \
    /* DEAD = [id, user, device, conversation, fromSeq, toSeq, reason, createdMs] */                       \
    XX(STORE_DEAD_ADD)    /* [user, device, conversation, fromSeq, toSeq, reason, nowMs] -> OK; the device's \
                           * cursor passes it */                                                           \
    XX(STORE_DEAD_LIST)   /* [afterId, limit] -> STORE_DEADS */                                            \
    XX(STORE_DEAD_REPLAY) /* [id, nowMs] -> STORE_DEADS, that one; its cursor is back before it */         \
    XX(STORE_DEAD_PURGE)  /* [all, id] -> STORE_DEADS, empty */                                           \
    XX(STORE_DEADS)       /* [DEAD, ..], oldest first */                                                   \
    XX(STORE_MSG_READ)    /* [messageId, user, nowMs] -> STORE_MSG; not a member: PROBLEM not_found */     \
    XX(STORE_EDIT)        /* [user, conversation?, nowMs, [EDIT, ..]] -> STORE_EDITED: all in order and in   \
                           * one transaction.  EDIT = [kind, id?, print? bin, stampMs?, baseVersion?,      \
                           * reject, body], see enum ptn_edit_kind; no stamp: made now, and wins */        \
    XX(STORE_EDITED)      /* [USER or CONV or nil, [[outcome, version?, value], ..]]; value: STORE_MSG,    \
                           * the preferences, the title?, of a rejected one the PROBLEM */                 \
    /* sync -> conversation shard: items of POST /sync, as the client wrote them */                        \
    XX(SYNC_APPLY)        /* [user, roles, conversation, [item map, ..]] -> SYNC_APPLIED */                \
    XX(SYNC_APPLIED)      /* [result map, ..]: one per item, as clients see it */                          \
    XX(STORE_SYNC)        /* [user, token?, limit] -> STORE_SYNC_PAGE: what has changed since */             \
    XX(STORE_SYNC_PAGE)   /* [reset, more, token, [preferences map]?, [CONV, ..], [MESSAGE, ..],           \
                           * [read mark map, ..], [delivery mark map, ..], [conversation that was left,    \
                           * ..]] */                                                                       \
    XX(STORE_STATS)       /* nil -> STORE_STATS_REPLY [users, conversations, messages, fileBytes,           \
                           * note?, [scrubState, scrubbedBytes, endedMs]]: what people should know of   \
                           * its state; how far the search for damage has come (enum ptn_store_scrub) */    \
    XX(STORE_STATS_REPLY)                                                                                  \
    XX(STORE_RETAIN)      /* the store to itself: [nowMs]: a piece of what the rules do not keep goes ->   \
                           * STORE_RETAINED [more, events, messages, [[topic, base], ..]] */               \
    XX(STORE_RETAINED)                                                                                     \
    XX(STORE_FLUSH)       /* nil: what was only written is on disk now -> OK */                            \
    XX(STORE_SCRUB)       /* the store to itself, nil: reads on, in search of damage -> STORE_SCRUBBED */     \
    XX(STORE_SCRUBBED)     /* [more, pages, tree, key, key]: and where it goes on */                         \
    XX(STORE_SCRUB_NOTE)  /* the store to itself: [rounds, tree, key, key, endedMs]: for the next start -> OK */ \
    XX(STORE_PROBE)       /* the store to itself, nil: writes a little, to see whether there is room -> OK */ \
    /* broker */                                                                                           \
    XX(DRAIN)             /* wiring -> edges: stop accepting, say goodbye */

/* method, pattern below /api/v1, kind, permission, owner, shard key.  `{}` is one segment, `{**}` the rest. */
#define PTN_ROUTE_MAP(XX)                                                                                  \
    XX(POST,   "/auth/login",                  AUTH_LOGIN,      NONE,  AUTH,         NONE)                 \
    XX(POST,   "/auth/refresh",                AUTH_REFRESH,    NONE,  AUTH,         NONE)                 \
    XX(POST,   "/auth/logout",                 AUTH_LOGOUT,     USER,  AUTH,         NONE)                 \
    XX(GET,    "/users/me",                    USERS_ME,        USER,  USERS,        NONE)                 \
    XX(PATCH,  "/users/me/preferences",        USERS_PREFS,     USER,  USERS,        NONE)                 \
    XX(GET,    "/users/family",                USERS_FAMILY,    USER,  USERS,        NONE)                 \
    XX(GET,    "/conversations",               CONV_LIST,       USER,  CONVERSATION, NONE)                 \
    XX(POST,   "/conversations",               CONV_CREATE,     USER,  CONVERSATION, NONE)                 \
    XX(POST,   "/conversations/messages",      MSG_SEND,        USER,  CONVERSATION, BODY)                 \
    XX(GET,    "/conversations/{}",            CONV_GET,        USER,  CONVERSATION, PATH)                 \
    XX(PATCH,  "/conversations/{}",            CONV_PATCH,      USER,  CONVERSATION, PATH)                 \
    XX(POST,   "/conversations/{}/members",    MEMBERS_ADD,     USER,  CONVERSATION, PATH)                 \
    XX(DELETE, "/conversations/{}/members",    MEMBERS_REMOVE,  USER,  CONVERSATION, PATH)                 \
    XX(GET,    "/conversations/{}/messages",   MSG_LIST,        USER,  CONVERSATION, PATH)                 \
    XX(POST,   "/conversations/{}/messages",   MSG_SEND_TO,     USER,  CONVERSATION, PATH)                 \
    XX(POST,   "/messages/{}/read",            MSG_READ,        USER,  CONVERSATION, NONE)                 \
    XX(POST,   "/sync",                        SYNC_PUSH,       USER,  SYNC,         NONE)                 \
    XX(GET,    "/sync",                        SYNC_PULL,       USER,  SYNC,         NONE)                 \
    XX(POST,   "/topics/{}",                   TOPIC_POST,      USER,  TOPICS,       PATH)                 \
    XX(GET,    "/topics/{}/events",            TOPIC_EVENTS,    USER,  TOPICS,       PATH)                 \
    XX(GET,    "/health",                      HEALTH,          NONE,  HEALTH,       NONE)                 \
    XX(GET,    "/openapi.json",                OPENAPI,         NONE,  HEALTH,       NONE)                 \
    XX(GET,    "/asyncapi.json",               ASYNCAPI,        NONE,  HEALTH,       NONE)                 \
    XX(GET,    "/system/status",               SYSTEM_STATUS,   USER,  HEALTH,       NONE)                 \
    XX(POST,   "/system/update",               SYSTEM_UPDATE,   ADMIN, HEALTH,       NONE)                 \
    XX(GET,    "/admin/users",                 ADMIN_USERS,     ADMIN, USERS,        NONE)                 \
    XX(POST,   "/admin/users",                 ADMIN_USER_ADD,  ADMIN, USERS,        NONE)                 \
    XX(GET,    "/admin/dead-letters",          DEAD_LIST,       ADMIN, QUEUE,        NONE)                 \
    XX(DELETE, "/admin/dead-letters",          DEAD_PURGE_ALL,  ADMIN, QUEUE,        NONE)                 \
    XX(DELETE, "/admin/dead-letters/{}",       DEAD_PURGE,      ADMIN, QUEUE,        NONE)                 \
    XX(POST,   "/admin/dead-letters/{}/replay", DEAD_REPLAY,    ADMIN, QUEUE,        NONE)                 \
    /* admin listener only, paths from the root */                                                         \
    XX(GET,    "/livez",                       LIVEZ,           PROBE, HEALTH,       NONE)                 \
    XX(GET,    "/readyz",                      READYZ,          PROBE, HEALTH,       NONE)                 \
    XX(GET,    "/startupz",                    STARTUPZ,        PROBE, HEALTH,       NONE)                 \
    XX(GET,    "/metrics",                     METRICS,         PROBE, HEALTH,       NONE)
/* clang-format on */

enum ptn_msg_type {
    PTN__MSG_FIRST = PTN_MSG_USER - 1,
#define XX(name) PTN_MSG_##name,
    PTN_MSG_MAP(XX)
#undef XX
#define XX(method, pattern, kind, permission, owner, shard) PTN_MSG_ROUTE_##kind,
        PTN_ROUTE_MAP(XX)
#undef XX
            PTN_MSG_TYPE_END
};
/* For logs and metrics; never NULL. */
const char *ptn_msg_type_name(uint32_t type);

/* How the search for damage stands (STORE_STATS_REPLY). */
enum ptn_store_scrub {
    PTN_SCRUB_NONE, /* there was no reason for one, or it is switched off */
    PTN_SCRUB_RUNNING,
    PTN_SCRUB_FAILED, /* something cannot be read now; it goes on later */
    PTN_SCRUB_DAMAGED,
    PTN_SCRUB_SOUND,
};

/* What an EDIT changes, and its body. */
enum ptn_edit_kind {
    PTN_EDIT_MESSAGE,     /* as STORE_MSG_APPEND */
    PTN_EDIT_READ,        /* as STORE_MSG_READ */
    PTN_EDIT_PREFERENCES, /* a merge patch (RFC 7396) */
    PTN_EDIT_TITLE,       /* text or nil */
};
enum ptn_outcome {
    PTN_OUTCOME_APPLIED,
    PTN_OUTCOME_DUPLICATE,  /* it was applied before */
    PTN_OUTCOME_SUPERSEDED, /* a later edit stands */
    PTN_OUTCOME_CONFLICT,   /* the record is not the one that the client has seen */
    PTN_OUTCOME_REJECTED,   /* with a PROBLEM */
};

/* ---- errors that clients see (wire.md section 2) ------------------------------------------ */

#define PTN_CODE_MAP(XX)                                                                           \
    XX(INVALID_REQUEST, "invalid_request", 400, "Invalid request", false)                          \
    XX(VALIDATION_FAILED, "validation_failed", 422, "Validation failed", false)                    \
    XX(UNAUTHENTICATED, "unauthenticated", 401, "Authentication required", false)                  \
    XX(TOKEN_EXPIRED, "token_expired", 401, "Token expired", false)                                \
    XX(FORBIDDEN, "forbidden", 403, "Forbidden", false)                                            \
    XX(NOT_FOUND, "not_found", 404, "Not found", false)                                            \
    XX(METHOD_NOT_ALLOWED, "method_not_allowed", 405, "Method not allowed", false)                 \
    XX(CONFLICT, "conflict", 409, "Conflict", false)                                               \
    XX(PAYLOAD_TOO_LARGE, "payload_too_large", 413, "Payload too large", false)                    \
    XX(UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", 415, "Unsupported media type", false)     \
    XX(IDEMPOTENCY_MISMATCH, "idempotency_mismatch", 422, "Idempotency key reused", false)         \
    XX(IDEMPOTENCY_IN_PROGRESS, "idempotency_in_progress", 409, "Request in progress", true)       \
    XX(RATE_LIMITED, "rate_limited", 429, "Too many requests", true)                               \
    XX(TIMEOUT, "timeout", 504, "Timed out", true)                                                 \
    XX(OVERLOADED, "overloaded", 503, "Overloaded", true)                                          \
    XX(DRAINING, "draining", 503, "Draining", true)                                                \
    XX(STORAGE_FULL, "storage_full", 507, "Storage full", true)                                    \
    XX(INTERNAL, "internal", 500, "Internal error", false)

enum ptn_code {
#define XX(id, code, status, title, retryable) PTN_CODE_##id,
    PTN_CODE_MAP(XX)
#undef XX
        PTN_CODE_COUNT
};
typedef struct ptn_code_info {
    const char *code, *title;
    int status;
    bool retryable;
} ptn_code_info;
const ptn_code_info *ptn_code_info_of(int code); /* out of range: INTERNAL */
/* The code and message for an ask that ended with a runtime error (negative). */
int ptn_code_of_err(int err, const char **ret_message);

/* ---- identity ------------------------------------------------------------------------------ */

#define PTN_ROLE_MAP(XX)                                                                           \
    XX(USER, "user", 1u)                                                                           \
    XX(ADMIN, "admin", 2u)                                                                         \
    XX(SERVICE, "service", 4u)
enum ptn_role {
#define XX(id, name, bit) PTN_ROLE_##id = (bit),
    PTN_ROLE_MAP(XX)
#undef XX
};
/* 0: no such role. */
uint32_t ptn_role_of(ptn_str name);
/* Packs an array of role names. */
void ptn_pack_roles(ptn_pack *w, uint32_t roles);

typedef struct ptn_principal {
    ptn_str user;    /* id; n == 0: anonymous */
    ptn_str name;    /* user name */
    ptn_str session; /* n == 0: a token without a session (command line) */
    uint32_t roles;
    int64_t expires_ms; /* Unix time */
} ptn_principal;
void ptn_principal_pack(ptn_pack *w, const ptn_principal *p); /* anonymous packs nil */
bool ptn_principal_unpack(ptn_unpack *u, ptn_principal *ret_p);
/* SESSION_REVOKED names p. */
bool ptn_principal_is_revoked(const ptn_principal *p, ptn_str session, ptn_str user);

/* ---- requests and responses ---------------------------------------------------------------- */

enum ptn_method {
    PTN_GET,
    PTN_HEAD,
    PTN_POST,
    PTN_PUT,
    PTN_PATCH,
    PTN_DELETE,
    PTN_OPTIONS,
    PTN_METHOD_OTHER
};
/* By the name on the wire, upper case; PTN_METHOD_OTHER for any other. */
enum ptn_method ptn_method_of(ptn_str name);
const char *ptn_method_name(enum ptn_method m);

enum ptn_protocol { PTN_PROTO_HTTP, PTN_PROTO_WS, PTN_PROTO_ZMQ, PTN_PROTO_SSE, PTN_PROTO_COUNT };
#define PTN_REQ_ADMIN_LISTENER 1u /* came through listen.admin */

typedef struct ptn_request { /* a view into a message */
    enum ptn_method method;
    ptn_str path;      /* as sent, percent-encoding kept, begins with '/', no query */
    ptn_str query;     /* without '?' */
    ptn_bytes headers; /* map of the forwarded ones (below), or n == 0 */
    ptn_principal principal;
    ptn_bytes trace_id;    /* 16 bytes */
    ptn_bytes parent_span; /* 8 bytes, or n == 0 */
    enum ptn_protocol protocol;
    uint32_t flags;
    ptn_bytes body; /* one encoded value; n == 0: none */
} ptn_request;

/* Headers that travel with a request, lower case; adapters drop the rest. */
#define PTN_FORWARDED_HEADERS                                                                      \
    "idempotency-key", "if-match", "if-none-match", "prefer", "last-event-id"

/* Writes everything but the body; the caller then packs exactly one value (nil for no body). */
void ptn_request_begin(ptn_pack *w, const ptn_request *r);
bool ptn_request_unpack(ptn_bytes b, ptn_request *ret_r);

/* Segment i (from 0, below /api/v1 when that prefix is there), percent-decoded into buf when it has
 * to be: a '/' in it is part of a name.  False: no such segment, bad encoding, NUL or invalid
 * UTF-8, or longer than buf. */
bool ptn_path_segment(ptn_str path, unsigned i, char *buf, size_t buf_bytes, ptn_str *ret_s);
/* Query parameter, percent- and plus-decoded into buf.  False: absent, malformed or longer; the
 * last two are for ptn_query_has() to tell. */
bool ptn_query_get(ptn_str query, const char *key, char *buf, size_t buf_bytes, ptn_str *ret_s);
bool ptn_query_has(ptn_str query, const char *key);
/* Integer query parameter: 1 found, 0 absent, <0 not an integer within [min, max]. */
int ptn_query_int(ptn_str query, const char *key, int64_t min, int64_t max, int64_t *ret_v);

typedef struct ptn_response { /* a view */
    unsigned status;
    /* n == 0: data is a value, the adapter adds the envelope and encodes it */
    ptn_str content_type;
    ptn_bytes headers; /* map of extra headers, or n == 0 */
    ptn_bytes page;    /* map, or n == 0 */
    ptn_bytes data;    /* one value; with a content type: str or bin, sent as it is */
} ptn_response;
bool ptn_response_unpack(ptn_bytes b, ptn_response *ret_r);

/* Writes everything but the data value. */
void ptn_response_begin(ptn_pack *w, unsigned status);
void ptn_response_begin_page(ptn_pack *w, unsigned status, ptn_str next, ptn_str prev);
/* With the header etag, which names a version of a record and what else its representation shows.
 */
void ptn_response_begin_version(ptn_pack *w, unsigned status, uint64_t version, uint64_t detail);
/* The version that If-Match asks for: 1, or 0 when it does not ask, or <0 when no version is meant.
 */
int ptn_if_match(ptn_bytes headers, uint64_t *ret_version);
/* STORE_EDIT of one record on the condition of If-Match, up to the EDIT's body, which comes next.
 * conversation: empty for none. */
void ptn_edit_begin(ptn_pack *w, ptn_str user, ptn_str conversation, int64_t now_ms,
                    enum ptn_edit_kind kind, ptn_bytes headers);
/* Finishes w and answers; out of memory becomes -PTN_ENOMEM for the asker. */
void ptn_response_send(ptn_ctx *c, ptn_reply_to to, ptn_pack *w);

typedef struct ptn_problem {
    int code;
    ptn_str message;
    ptn_bytes details; /* map, or n == 0 */
} ptn_problem;
bool ptn_problem_unpack(ptn_bytes b, ptn_problem *ret_p);
void ptn_problem_send(ptn_ctx *c, ptn_reply_to to, int code, const char *message);
/* With details {field: reason}: for validation_failed. */
void ptn_problem_send_field(ptn_ctx *c, ptn_reply_to to, int code, const char *message,
                            const char *field, const char *reason);
/* Begins the PROBLEM conflict, with details {current}: the caller packs the record as it stands,
 * then sends. */
void ptn_problem_begin_conflict(ptn_pack *w, const char *message);
/* Answers with an encoded PROBLEM; consumes w. */
void ptn_problem_send_packed(ptn_ctx *c, ptn_reply_to to, ptn_pack *w);
/* Wrong fields of one body, collected so that a client hears of all of them at once. */
#define PTN_FIELDS_MAX 8u
typedef struct ptn_fields {
    const char *name[PTN_FIELDS_MAX], *reason[PTN_FIELDS_MAX];
    uint32_t n;
} ptn_fields;
/* Past the bound: dropped. */
void ptn_fields_add(ptn_fields *f, const char *name, const char *reason);
/* validation_failed with every field in details. */
void ptn_problem_send_fields(ptn_ctx *c, ptn_reply_to to, const char *message, const ptn_fields *f);
/* Passes the outcome of an inner ask on: a PROBLEM reply as it is, a runtime error as its code. */
void ptn_problem_pass(ptn_ctx *c, ptn_reply_to to, int err, const ptn_msg *reply);

/* ---- who is where -------------------------------------------------------------------------- */

/* Filled by the composition root before the runtime runs; read-only afterwards. */
typedef struct ptn_directory {
    unsigned workers;
    ptn_addr router[PTN_WORKERS_MAX];       /* per worker */
    ptn_addr auth[PTN_WORKERS_MAX];         /* verifier per worker; also takes AUTH_* routes */
    ptn_addr hub[PTN_WORKERS_MAX];          /* per worker */
    ptn_addr edge[PTN_WORKERS_MAX];         /* http and ws connections, per worker */
    ptn_addr admin_edge[PTN_WORKERS_MAX];   /* those of listen.admin; PTN_ADDR_NONE: none */
    ptn_addr health[PTN_WORKERS_MAX];       /* per worker */
    ptn_addr conversation[PTN_WORKERS_MAX]; /* shards */
    ptn_addr topics[PTN_WORKERS_MAX];       /* shards */
    ptn_addr sync[PTN_WORKERS_MAX];         /* per worker */
    ptn_addr queue[PTN_WORKERS_MAX];        /* shards, by user */
    ptn_addr users;
    ptn_addr store;
    ptn_addr zmq;
} ptn_directory;
/* Stable for a given number of shards. */
unsigned ptn_shard(ptn_str key, unsigned shards);
/* The actor that owns a topic: a conversation shard for conversation.<id>, otherwise a topics
 * shard. */
ptn_addr ptn_topic_owner(const ptn_directory *d, ptn_str topic);

/* ---- topics -------------------------------------------------------------------------------- */

#define PTN_TOPIC_BYTES_MAX 255
/* Dot-separated non-empty segments of UTF-8 without control characters or blanks, 1 to 255 bytes,
 * no '*'. */
bool ptn_topic_is_valid(ptn_str topic);
/* The same with `*` for one segment and `**` as last segment for the rest. */
bool ptn_pattern_is_valid(ptn_str pattern);
bool ptn_pattern_has_wildcard(ptn_str pattern);
/* conversation.*, user.*, system.*: only owners publish, only entitled subscribers see them. */
bool ptn_topic_is_reserved(ptn_str topic);
/* Wildcards in the first segment never match reserved topics. */
bool ptn_pattern_matches(ptn_str pattern, ptn_str topic);

/* ---- publishing ---------------------------------------------------------------------------- */

#define PTN_DURABILITY_MAP(XX)                                                                     \
    XX(MEMORY, "memory")                                                                           \
    XX(WRITTEN, "written")                                                                         \
    XX(SYNCED, "synced")
enum ptn_durability {
#define XX(id, name) PTN_DURABILITY_##id,
    PTN_DURABILITY_MAP(XX)
#undef XX
        PTN_DURABILITY_DEFAULT /* of the topic; none is said */
};
/* DEFAULT and beyond: NULL. */
const char *ptn_durability_name(unsigned d);
bool ptn_durability_of(ptn_str name, enum ptn_durability *ret_d);

typedef struct ptn_publish_call { /* a view into a message */
    ptn_str topic;                /* valid */
    ptn_str user;                 /* id of the publisher; n == 0: anonymous */
    enum ptn_durability durability;
    ptn_str key; /* idempotency key; n == 0: none */
    ptn_bytes data;
} ptn_publish_call;
void ptn_publish_pack(ptn_pack *w, const ptn_publish_call *p);
bool ptn_publish_unpack(ptn_bytes b, ptn_publish_call *ret_p);

/* ---- small values -------------------------------------------------------------------------- */

/* ULID (github.com/ulid/spec): 26 characters, sortable by time. */
#define PTN_ULID_LEN 26
void ptn_ulid(ptn_ctx *c, char out[PTN_ULID_LEN + 1]);
void ptn_ulid_make(int64_t wall_ms, const uint8_t random[10], char out[PTN_ULID_LEN + 1]);
/* A ULID or a UUID in its text form. */
bool ptn_id_is_valid(ptn_str id);
/* RFC 3339, UTC, milliseconds: 2026-01-31T12:00:00.000Z */
#define PTN_TIMESTAMP_LEN 24
void ptn_timestamp_format(int64_t wall_ms, char out[PTN_TIMESTAMP_LEN + 1]);
bool ptn_timestamp_parse(ptn_str s, int64_t *ret_wall_ms);
void ptn_pack_timestamp(ptn_pack *w, int64_t wall_ms);

#endif
