/* SPDX-License-Identifier: Apache-2.0
 *
 * messages.c - packing and reading the common kinds of the catalogue, and the tables behind them.
 *
 * Pure functions over bytes, any thread; those with a ptn_ctx answer an ask on the current worker.
 */
#include <postern/messages.h>

#include "protocols/codec/pack_inline.h"

#include <stdio.h>
#include <stdlib.h>

const char *ptn_msg_type_name(uint32_t type) {
    switch (type) {
#define XX(name)                                                                                   \
    case PTN_MSG_##name:                                                                           \
        return #name;
        PTN_MSG_MAP(XX)
#undef XX
#define XX(method, pattern, kind, permission, owner, shard)                                        \
    case PTN_MSG_ROUTE_##kind:                                                                     \
        return "ROUTE_" #kind;
        PTN_ROUTE_MAP(XX)
#undef XX
    default:
        return type < PTN_MSG_USER ? "runtime" : "unknown";
    }
}

/* ---- codes -------------------------------------------------------------------------------- */

static const ptn_code_info codes[PTN_CODE_COUNT] = {
#define XX(id, code, status, title, retryable) {code, title, status, retryable},
    PTN_CODE_MAP(XX)
#undef XX
};

const ptn_code_info *ptn_code_info_of(int code) {
    return code >= 0 && code < PTN_CODE_COUNT ? &codes[code] : &codes[PTN_CODE_INTERNAL];
}

int ptn_code_of_err(int err, const char **ret_message) {
    const char *message = "the broker failed to handle the request; its log has the details";
    int code = PTN_CODE_INTERNAL;
    switch (-err) {
    case PTN_EOVERLOAD:
        code = PTN_CODE_OVERLOADED;
        message = "the broker is busy; try again after the time in Retry-After";
        break;
    case PTN_EDEADLINE:
        code = PTN_CODE_TIMEOUT;
        message = "the deadline passed before the work was done; it may still complete";
        break;
    case PTN_ESTOPPING:
        code = PTN_CODE_DRAINING;
        message = "the broker is shutting down; connect again in a moment";
        break;
    case PTN_ETOOBIG:
        code = PTN_CODE_PAYLOAD_TOO_LARGE;
        message = "the message exceeds the configured limit";
        break;
    case PTN_EFULL:
        code = PTN_CODE_STORAGE_FULL;
        message = "the disk is full; nothing was stored; try again when there is room";
        break;
    default:
        break;
    }
    if (ret_message != NULL)
        *ret_message = message;
    return code;
}

/* ---- identity ----------------------------------------------------------------------------- */

static const struct {
    const char *name;
    uint32_t bit;
} roles_table[] = {
#define XX(id, name, bit) {name, bit},
    PTN_ROLE_MAP(XX)
#undef XX
};

uint32_t ptn_role_of(ptn_str name) {
    for (size_t i = 0; i < PTN_ARRAY_LEN(roles_table); i++)
        if (ptn_str_eqz(name, roles_table[i].name))
            return roles_table[i].bit;
    return 0;
}

void ptn_pack_roles(ptn_pack *w, uint32_t roles) {
    uint32_t n = 0;
    for (size_t i = 0; i < PTN_ARRAY_LEN(roles_table); i++)
        n += (roles & roles_table[i].bit) != 0;
    ptn_pack_array(w, n);
    for (size_t i = 0; i < PTN_ARRAY_LEN(roles_table); i++)
        if (roles & roles_table[i].bit)
            ptn_pack_cstr(w, roles_table[i].name);
}

void ptn_principal_pack(ptn_pack *w, const ptn_principal *p) {
    if (p == NULL || p->user.n == 0) {
        ptn_pack_nil(w);
        return;
    }
    ptn_pack_array(w, 5);
    ptn_pack_str(w, p->user);
    ptn_pack_str(w, p->name);
    ptn_pack_str_or_nil(w, p->session);
    ptn_pack_uint(w, p->roles);
    ptn_pack_int(w, p->expires_ms);
}

/* Every request is read two or three times on its way, and what it says is mostly short. */

static inline bool take_array(ptn_unpack *u, uint32_t n) {
    uint32_t got;
    return ptn__array_short(u, n) || (ptn_unpack_array(u, &got) && got == n);
}

static inline bool take_uint(ptn_unpack *u, uint64_t *ret_v) {
    return ptn__uint_short(u, ret_v) || ptn_unpack_uint(u, ret_v);
}

static inline bool take_str(ptn_unpack *u, ptn_str *ret_s) {
    return ptn__str_short(u, ret_s) || ptn_unpack_str(u, ret_s);
}

static inline bool take_bin(ptn_unpack *u, ptn_bytes *ret_b) {
    return ptn__bin_short(u, ret_b) || ptn_unpack_bin(u, ret_b);
}

static inline bool take_str_or_nil(ptn_unpack *u, ptn_str *ret_s) {
    *ret_s = PTN_STR("");
    return ptn__nil(u) || take_str(u, ret_s);
}

/* A value that may be nil: nil becomes the empty view. */
static inline bool take_optional(ptn_unpack *u, ptn_bytes *ret_raw) {
    *ret_raw = (ptn_bytes){0};
    return ptn__nil(u) || ptn_unpack_any(u, ret_raw);
}

bool ptn_principal_unpack(ptn_unpack *u, ptn_principal *ret_p) {
    ptn_principal p = {0};
    uint64_t roles;
    if (ptn__nil(u)) {
        *ret_p = p;
        return true;
    }
    if (!take_array(u, 5) || !take_str(u, &p.user) || !take_str(u, &p.name) ||
        !take_str_or_nil(u, &p.session) || !take_uint(u, &roles) ||
        !ptn_unpack_int(u, &p.expires_ms))
        return false;
    p.roles = (uint32_t)roles;
    *ret_p = p;
    return true;
}

bool ptn_principal_is_revoked(const ptn_principal *p, ptn_str session, ptn_str user) {
    if (session.n > 0)
        return ptn_str_eq(p->session, session);
    return user.n > 0 && p->session.n == 0 && ptn_str_eq(p->user, user);
}

/* ---- requests ----------------------------------------------------------------------------- */

static const char *const method_names[] = {"GET",   "HEAD",   "POST",    "PUT",
                                           "PATCH", "DELETE", "OPTIONS", "OTHER"};

enum ptn_method ptn_method_of(ptn_str name) {
    for (int m = PTN_GET; m < PTN_METHOD_OTHER; m++)
        if (ptn_str_eqz(name, method_names[m]))
            return (enum ptn_method)m;
    return PTN_METHOD_OTHER;
}

const char *ptn_method_name(enum ptn_method m) {
    return method_names[m];
}

void ptn_request_begin(ptn_pack *w, const ptn_request *r) {
    ptn_pack_array(w, 10);
    ptn_pack_uint(w, r->method);
    ptn_pack_str(w, r->path);
    ptn_pack_str(w, r->query);
    if (r->headers.n > 0)
        ptn_pack_raw(w, r->headers);
    else
        ptn_pack_nil(w);
    ptn_principal_pack(w, &r->principal);
    ptn_pack_bin(w, r->trace_id);
    ptn_pack_bin(w, r->parent_span);
    ptn_pack_uint(w, r->protocol);
    ptn_pack_uint(w, r->flags);
}

bool ptn_request_unpack(ptn_bytes b, ptn_request *ret_r) {
    ptn_request r = {0};
    ptn_unpack u = ptn_unpack_of(b);
    uint64_t method, protocol, flags;
    if (!take_array(&u, 10) || !take_uint(&u, &method) || method > PTN_METHOD_OTHER ||
        !take_str(&u, &r.path) || !take_str(&u, &r.query) || !take_optional(&u, &r.headers) ||
        !ptn_principal_unpack(&u, &r.principal) || !take_bin(&u, &r.trace_id) ||
        !take_bin(&u, &r.parent_span) || !take_uint(&u, &protocol) || protocol >= PTN_PROTO_COUNT ||
        !take_uint(&u, &flags) || !take_optional(&u, &r.body))
        return false;
    r.method = (enum ptn_method)method;
    r.protocol = (enum ptn_protocol)protocol;
    r.flags = (uint32_t)flags;
    *ret_r = r;
    return true;
}

/* ---- publishing --------------------------------------------------------------------------- */

static const char *const durability_names[] = {
#define XX(id, name) name,
    PTN_DURABILITY_MAP(XX)
#undef XX
};

const char *ptn_durability_name(unsigned d) {
    return d < PTN_ARRAY_LEN(durability_names) ? durability_names[d] : NULL;
}

bool ptn_durability_of(ptn_str name, enum ptn_durability *ret_d) {
#define XX(id, text)                                                                               \
    if (ptn_str_eq(name, PTN_STR(text))) {                                                         \
        *ret_d = PTN_DURABILITY_##id;                                                              \
        return true;                                                                               \
    }
    PTN_DURABILITY_MAP(XX)
#undef XX
    return false;
}

void ptn_publish_pack(ptn_pack *w, const ptn_publish_call *p) {
    ptn_pack_array(w, 5);
    ptn_pack_str(w, p->topic);
    ptn_pack_str(w, p->user);
    ptn_pack_uint(w, p->durability);
    ptn_pack_str(w, p->key);
    ptn_pack_raw(w, p->data);
}

bool ptn_publish_unpack(ptn_bytes b, ptn_publish_call *ret_p) {
    ptn_publish_call p;
    ptn_unpack u = ptn_unpack_of(b);
    uint64_t durability;
    if (!take_array(&u, 5) || !take_str(&u, &p.topic) || !take_str(&u, &p.user) ||
        !take_uint(&u, &durability) || durability > PTN_DURABILITY_DEFAULT ||
        !take_str(&u, &p.key) || !take_optional(&u, &p.data)) /* as a request's body */
        return false;
    p.durability = (enum ptn_durability)durability;
    *ret_p = p;
    return true;
}

/* ---- responses and problems --------------------------------------------------------------- */

void ptn_response_begin(ptn_pack *w, unsigned status) {
    ptn_pack_array(w, 5);
    ptn_pack_uint(w, status);
    ptn_pack_nil(w);
    ptn_pack_nil(w);
    ptn_pack_nil(w);
}

void ptn_response_begin_version(ptn_pack *w, unsigned status, uint64_t version, uint64_t detail) {
    char etag[48];
    (void)snprintf(etag, sizeof etag, "\"%llu.%llu\"", (unsigned long long)version,
                   (unsigned long long)detail);
    ptn_pack_array(w, 5);
    ptn_pack_uint(w, status);
    ptn_pack_nil(w);
    ptn_pack_map(w, 1);
    ptn_pack_key(w, "etag");
    ptn_pack_cstr(w, etag);
    ptn_pack_nil(w);
}

/* Strong comparison (RFC 9110 section 13.1.1) of one tag; what stands behind the point is shown
 * with the record and not part of it. */
int ptn_if_match(ptn_bytes headers, uint64_t *ret_version) {
    ptn_str tag;
    uint64_t version = 0;
    if (headers.n == 0 || !ptn_map_get_str(headers, "if-match", &tag) || ptn_str_eqz(tag, "*"))
        return 0;
    if (tag.n < 3 || tag.n > 47 || tag.p[0] != '"' || tag.p[tag.n - 1] != '"')
        return -1;
    size_t i = 1;
    while (i < tag.n - 1 && i < 20 && tag.p[i] >= '0' && tag.p[i] <= '9')
        version = version * 10 + (uint64_t)(tag.p[i++] - '0');
    if (i == 1 || (tag.p[i] != '.' && i != tag.n - 1))
        return -1;
    *ret_version = version;
    return 1;
}

void ptn_edit_begin(ptn_pack *w, ptn_str user, ptn_str conversation, int64_t now_ms,
                    enum ptn_edit_kind kind, ptn_bytes headers) {
    uint64_t version = 0;
    int wanted = ptn_if_match(headers, &version);
    ptn_pack_array(w, 4);
    ptn_pack_str(w, user);
    ptn_pack_str_or_nil(w, conversation);
    ptn_pack_int(w, now_ms);
    ptn_pack_array(w, 1);
    ptn_pack_array(w, 7);
    ptn_pack_int(w, kind);
    ptn_pack_nil(w); /* id, print, stamp: a change of now */
    ptn_pack_nil(w);
    ptn_pack_nil(w);
    if (wanted != 0)
        ptn_pack_uint(w, wanted > 0 ? version : 0); /* no record has version 0 */
    else
        ptn_pack_nil(w);
    ptn_pack_bool(w, true);
}

void ptn_response_begin_page(ptn_pack *w, unsigned status, ptn_str next, ptn_str prev) {
    ptn_pack_array(w, 5);
    ptn_pack_uint(w, status);
    ptn_pack_nil(w);
    ptn_pack_nil(w);
    ptn_pack_map(w, 2);
    ptn_pack_key(w, "next");
    ptn_pack_str_or_nil(w, next);
    ptn_pack_key(w, "prev");
    ptn_pack_str_or_nil(w, prev);
}

bool ptn_response_unpack(ptn_bytes b, ptn_response *ret_r) {
    ptn_response r = {0};
    ptn_unpack u = ptn_unpack_of(b);
    uint64_t status;
    if (!take_array(&u, 5) || !take_uint(&u, &status) || status < 100 || status > 599 ||
        !take_str_or_nil(&u, &r.content_type) || !take_optional(&u, &r.headers) ||
        !take_optional(&u, &r.page) || !ptn_unpack_any(&u, &r.data))
        return false;
    r.status = (unsigned)status;
    *ret_r = r;
    return true;
}

/* Seals w and answers with it; whatever fails, the asker hears of it, at the latest at its
 * deadline. */
static void reply_pack(ptn_ctx *c, ptn_reply_to to, uint32_t type, ptn_pack *w) {
    ptn_buf *b = ptn_pack_finish(w);
    if (b == NULL) {
        (void)ptn_reply_err(c, to, -PTN_ENOMEM);
        return;
    }
    if (ptn_reply(c, to, type, b) < 0)
        ptn_buf_unref(b); /* the asker has gone, or there is no memory to tell it with */
}

void ptn_response_send(ptn_ctx *c, ptn_reply_to to, ptn_pack *w) {
    reply_pack(c, to, PTN_MSG_RESPONSE, w);
}

bool ptn_problem_unpack(ptn_bytes b, ptn_problem *ret_p) {
    ptn_problem p = {0};
    ptn_unpack u = ptn_unpack_of(b);
    uint32_t n;
    uint64_t code;
    if (!ptn_unpack_array(&u, &n) || n != 3 || !ptn_unpack_uint(&u, &code) ||
        code >= PTN_CODE_COUNT || !ptn_unpack_str(&u, &p.message) || !take_optional(&u, &p.details))
        return false;
    p.code = (int)code;
    *ret_p = p;
    return true;
}

void ptn_problem_send(ptn_ctx *c, ptn_reply_to to, int code, const char *message) {
    ptn_pack w;
    ptn_pack_init(&w, 128);
    ptn_pack_array(&w, 3);
    ptn_pack_int(&w, code);
    ptn_pack_cstr(&w, message);
    ptn_pack_nil(&w);
    reply_pack(c, to, PTN_MSG_PROBLEM, &w);
}

void ptn_problem_send_field(ptn_ctx *c, ptn_reply_to to, int code, const char *message,
                            const char *field, const char *reason) {
    ptn_pack w;
    ptn_pack_init(&w, 192);
    ptn_pack_array(&w, 3);
    ptn_pack_int(&w, code);
    ptn_pack_cstr(&w, message);
    ptn_pack_map(&w, 1);
    ptn_pack_cstr(&w, field);
    ptn_pack_cstr(&w, reason);
    reply_pack(c, to, PTN_MSG_PROBLEM, &w);
}

void ptn_problem_begin_conflict(ptn_pack *w, const char *message) {
    ptn_pack_array(w, 3);
    ptn_pack_int(w, PTN_CODE_CONFLICT);
    ptn_pack_cstr(w, message);
    ptn_pack_map(w, 1);
    ptn_pack_key(w, "current");
}

void ptn_problem_send_packed(ptn_ctx *c, ptn_reply_to to, ptn_pack *w) {
    reply_pack(c, to, PTN_MSG_PROBLEM, w);
}

void ptn_fields_add(ptn_fields *f, const char *name, const char *reason) {
    if (f->n == PTN_FIELDS_MAX)
        return;
    f->name[f->n] = name;
    f->reason[f->n++] = reason;
}

void ptn_problem_send_fields(ptn_ctx *c, ptn_reply_to to, const char *message,
                             const ptn_fields *f) {
    ptn_pack w;
    ptn_pack_init(&w, 256);
    ptn_pack_array(&w, 3);
    ptn_pack_int(&w, PTN_CODE_VALIDATION_FAILED);
    ptn_pack_cstr(&w, message);
    ptn_pack_map(&w, f->n);
    for (uint32_t i = 0; i < f->n; i++) {
        ptn_pack_cstr(&w, f->name[i]);
        ptn_pack_cstr(&w, f->reason[i]);
    }
    reply_pack(c, to, PTN_MSG_PROBLEM, &w);
}

void ptn_problem_pass(ptn_ctx *c, ptn_reply_to to, int err, const ptn_msg *reply) {
    if (err == 0 && reply != NULL && reply->type == PTN_MSG_PROBLEM && reply->buf != NULL) {
        ptn_buf *b = ptn_buf_ref(reply->buf);
        if (ptn_reply(c, to, PTN_MSG_PROBLEM, b) < 0)
            ptn_buf_unref(b);
        return;
    }
    const char *message;
    int code = ptn_code_of_err(err, &message);
    ptn_problem_send(c, to, code, message);
}

/* ---- who is where ------------------------------------------------------------------------- */

unsigned ptn_shard(ptn_str key, unsigned shards) {
    if (shards <= 1)
        return 0;
    /* FNV-1a, 64 bit (draft-eastlake-fnv), folded: keys are ids and topics, never adversarial load
     * balancing: a bad spread costs balance, not correctness. */
    uint64_t h = UINT64_C(14695981039346656037);
    for (size_t i = 0; i < key.n; i++)
        h = (h ^ (uint8_t)key.p[i]) * UINT64_C(1099511628211);
    return (unsigned)((h ^ (h >> 32)) % shards);
}

#define CONVERSATION_PREFIX PTN_STR("conversation.")

ptn_addr ptn_topic_owner(const ptn_directory *d, ptn_str topic) {
    ptn_str prefix = CONVERSATION_PREFIX;
    if (ptn_str_starts(topic, prefix)) {
        ptn_str id = {topic.p + prefix.n, topic.n - prefix.n};
        return d->conversation[ptn_shard(id, d->workers)];
    }
    return d->topics[ptn_shard(topic, d->workers)];
}
