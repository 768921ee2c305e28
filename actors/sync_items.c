/* SPDX-License-Identifier: Apache-2.0
 *
 * sync_items.c - items of POST /sync and their results: what every kind has in common.
 */
#include "actors/sync.h"

#include <postern/codec.h>
#include <postern/metrics.h>
#include <sodium.h>
#include <string.h>

static const struct {
    const char *name;
    enum ptn_edit_kind kind;
} kinds[] = {{"message", PTN_EDIT_MESSAGE},
             {"read", PTN_EDIT_READ},
             {"preferences", PTN_EDIT_PREFERENCES},
             {"conversation", PTN_EDIT_TITLE}};

/* ---- reading ------------------------------------------------------------------------------ */

static bool given(ptn_bytes raw, const char *key, ptn_bytes *ret_value) {
    return ptn_map_get(raw, key, ret_value) && ptn_kind_of(*ret_value) != PTN_KIND_NIL;
}

static void read_id(ptn_bytes raw, struct sync_item *item, ptn_fields *wrong) {
    static const char why[] = "a text of 1 to 128 bytes; of a message its ULID or UUID";
    ptn_str id;
    if (!ptn_map_get_str(raw, "id", &id) || id.n == 0 || id.n > SYNC_ID_BYTES_MAX)
        ptn_fields_add(wrong, "id", why);
    else
        item->id = id;
}

static void read_kind(ptn_bytes raw, struct sync_item *item, ptn_fields *wrong) {
    ptn_str kind;
    if (ptn_map_get_str(raw, "kind", &kind))
        for (size_t i = 0; i < PTN_ARRAY_LEN(kinds); i++)
            if (ptn_str_eqz(kind, kinds[i].name)) {
                item->kind = kinds[i].kind;
                return;
            }
    ptn_fields_add(wrong, "kind", "one of: message, read, preferences, conversation");
}

/* A clock that runs ahead must not win for ever: its time is at most ours. */
static void read_stamp(ptn_bytes raw, int64_t now_ms, struct sync_item *item, ptn_fields *wrong) {
    ptn_bytes value;
    ptn_str text;
    item->stamp_ms = now_ms;
    if (!given(raw, "timestamp", &value))
        return;
    if (!ptn_map_get_str(raw, "timestamp", &text) || !ptn_timestamp_parse(text, &item->stamp_ms) ||
        item->stamp_ms < 0)
        ptn_fields_add(wrong, "timestamp", "RFC 3339, for example 2026-01-31T12:00:00.000Z");
    else if (item->stamp_ms > now_ms)
        item->stamp_ms = now_ms;
}

void sync_item_read(ptn_bytes raw, int64_t now_ms, struct sync_item *ret_item,
                    ptn_fields *ret_wrong) {
    ptn_bytes value;
    ptn_str text;
    *ret_item = (struct sync_item){.raw = raw};
    *ret_wrong = (ptn_fields){.n = 0};
    if (ptn_kind_of(raw) != PTN_KIND_MAP) {
        ptn_fields_add(ret_wrong, "item", "an object is required");
        return;
    }
    read_id(raw, ret_item, ret_wrong);
    read_kind(raw, ret_item, ret_wrong);
    read_stamp(raw, now_ms, ret_item, ret_wrong);
    ret_item->based = given(raw, "baseVersion", &value);
    if (ret_item->based && !ptn_map_get_uint(raw, "baseVersion", &ret_item->base))
        ptn_fields_add(ret_wrong, "baseVersion", "a version number");
    if (!given(raw, "policy", &value))
        return;
    bool read = ptn_map_get_str(raw, "policy", &text);
    ret_item->reject = read && ptn_str_eqz(text, "reject");
    if (!ret_item->reject && !(read && ptn_str_eqz(text, "last_writer_wins")))
        ptn_fields_add(ret_wrong, "policy", "one of: last_writer_wins, reject");
}

void sync_pack_edit(ptn_pack *w, const struct sync_item *item) {
    uint8_t print[crypto_generichash_BYTES_MIN];
    (void)crypto_generichash(print, sizeof print, item->raw.p, item->raw.n, NULL, 0);
    ptn_pack_array(w, 7);
    ptn_pack_int(w, item->kind);
    ptn_pack_str(w, item->id);
    ptn_pack_bin(w, (ptn_bytes){print, sizeof print});
    ptn_pack_int(w, item->stamp_ms);
    if (item->based)
        ptn_pack_uint(w, item->base);
    else
        ptn_pack_nil(w);
    ptn_pack_bool(w, item->reject);
}

/* ---- outcomes ----------------------------------------------------------------------------- */

bool sync_edited_read(ptn_bytes edited, ptn_bytes *ret_record, ptn_unpack *ret_u, uint32_t *ret_n) {
    uint32_t n;
    *ret_u = ptn_unpack_of(edited);
    return ptn_unpack_array(ret_u, &n) && n == 2 && ptn_unpack_any(ret_u, ret_record) &&
           ptn_unpack_array(ret_u, ret_n);
}

bool sync_outcome_read(ptn_unpack *u, struct sync_outcome *ret_o) {
    uint32_t n;
    uint64_t outcome, version = 0;
    if (!ptn_unpack_array(u, &n) || n != 3 || !ptn_unpack_uint(u, &outcome) ||
        outcome > PTN_OUTCOME_REJECTED || !(ptn_unpack_nil(u) || ptn_unpack_uint(u, &version)) ||
        !ptn_unpack_any(u, &ret_o->value))
        return false;
    ret_o->outcome = (enum ptn_outcome)outcome;
    ret_o->version = version;
    return true;
}

void sync_pack_result(ptn_pack *w, ptn_str id, const struct sync_outcome *o) {
    static const struct {
        const char *name;
        enum ptn_counter counter;
    } outcomes[] = {[PTN_OUTCOME_APPLIED] = {"applied", PTN_C_SYNC_APPLIED},
                    [PTN_OUTCOME_DUPLICATE] = {"duplicate", PTN_C_SYNC_DUPLICATE},
                    [PTN_OUTCOME_SUPERSEDED] = {"superseded", PTN_C_SYNC_SUPERSEDED},
                    [PTN_OUTCOME_CONFLICT] = {"conflict", PTN_C_SYNC_CONFLICT},
                    [PTN_OUTCOME_REJECTED] = {"rejected", PTN_C_SYNC_REJECTED}};
    bool conflict = o->outcome == PTN_OUTCOME_CONFLICT;
    ptn_count(outcomes[o->outcome].counter, 1);
    ptn_pack_map(w, 3u + (o->version != 0) + conflict);
    ptn_pack_key(w, "id");
    ptn_pack_str_or_nil(w, id);
    ptn_pack_key(w, "outcome");
    ptn_pack_cstr(w, outcomes[o->outcome].name);
    if (conflict) {
        ptn_pack_key(w, "code");
        ptn_pack_cstr(w, ptn_code_info_of(PTN_CODE_CONFLICT)->code);
    }
    if (o->version != 0) {
        ptn_pack_key(w, "version");
        ptn_pack_uint(w, o->version);
    }
    ptn_pack_key(w, "data");
}

static void rejected_begin(ptn_pack *w, ptn_str id, int code, ptn_str message) {
    const ptn_code_info *info = ptn_code_info_of(code);
    ptn_count(PTN_C_SYNC_REJECTED, 1);
    ptn_pack_map(w, 6);
    ptn_pack_key(w, "id");
    ptn_pack_str_or_nil(w, id);
    ptn_pack_key(w, "outcome");
    ptn_pack_cstr(w, "rejected");
    ptn_pack_key(w, "code");
    ptn_pack_cstr(w, info->code);
    ptn_pack_key(w, "message");
    ptn_pack_str(w, message);
    ptn_pack_key(w, "retryable");
    ptn_pack_bool(w, info->retryable);
    ptn_pack_key(w, "details");
}

void sync_pack_rejected(ptn_pack *w, ptn_str id, int code, ptn_str message, ptn_bytes details) {
    rejected_begin(w, id, code, message);
    if (details.n > 0)
        ptn_pack_raw(w, details);
    else
        ptn_pack_map(w, 0);
}

void sync_pack_problem(ptn_pack *w, ptn_str id, ptn_bytes problem) {
    ptn_problem p;
    if (!ptn_problem_unpack(problem, &p))
        p = (ptn_problem){.code = PTN_CODE_INTERNAL, .message = PTN_STR("the item failed")};
    sync_pack_rejected(w, id, p.code, p.message, p.details);
}

void sync_pack_invalid(ptn_pack *w, ptn_str id, const ptn_fields *wrong) {
    rejected_begin(w, id, PTN_CODE_VALIDATION_FAILED,
                   PTN_STR("the item is not valid; details names each field"));
    ptn_pack_map(w, wrong->n);
    for (uint32_t i = 0; i < wrong->n; i++) {
        ptn_pack_key(w, wrong->name[i]);
        ptn_pack_cstr(w, wrong->reason[i]);
    }
}

/* ---- events ------------------------------------------------------------------------------- */

void sync_tell_preferences(ptn_ctx *c, const ptn_directory *d, ptn_str user, uint64_t version) {
    char topic[PTN_TOPIC_BYTES_MAX];
    size_t n = sizeof "user." - 1;
    if (user.n > sizeof topic - n)
        return;
    memcpy(topic, "user.", n);
    memcpy(topic + n, user.p, user.n);
    ptn_str name = {topic, n + user.n};
    ptn_pack w;
    ptn_pack_init(&w, 160);
    ptn_pack_array(&w, 2);
    ptn_pack_str(&w, name);
    ptn_pack_map(&w, 2);
    ptn_pack_key(&w, "type");
    ptn_pack_cstr(&w, "preferences.updated");
    ptn_pack_key(&w, "version");
    ptn_pack_uint(&w, version);
    ptn_buf *b = ptn_pack_finish(&w);
    if (b != NULL && ptn_cast(c, ptn_topic_owner(d, name), PTN_MSG_TOPIC_PUBLISH, b) == 0)
        return;
    ptn_buf_unref(b);
    ptn_count(PTN_C_DROPPED_HUB_OVERLOAD, 1);
}
