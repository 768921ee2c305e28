/* SPDX-License-Identifier: Apache-2.0
 *
 * world.c - the plan of a run, and the oracles over everything that anybody ever saw.
 */
#include "world.h"

#include "actors/store_db.h"
#include "client.h"
#include "rooms.h"

#include <postern/metrics.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct world *world;

#define MEMORY_MIN (128u << 10)
#define MEMORY_MAX (1u << 20)

void oracle_failed(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(world->failure, sizeof world->failure, fmt, ap);
    va_end(ap);
    _exit(EXIT_ORACLE);
}

/* ---- the plan -------------------------------------------------------------------------------- */

static uint32_t pick(ptn_sim_rng *r, uint32_t odds_of_any, uint32_t min, uint32_t max) {
    if (ptn_sim_rng_below(r, odds_of_any) != 0)
        return 0;
    return min + (uint32_t)ptn_sim_rng_below(r, max - min + 1);
}

/* How the life ends.  Often at a moment when something could be believed that is not on disk. */
static void plan_death(ptn_sim_rng *r, unsigned life) {
    struct death *d = &world->plan.deaths[life];
    bool unsure = life > 0 && d[-1].sync != 0 && !d[-1].power;
    d->power = ptn_sim_rng_below(r, 2) == 0 || unsure;
    if (d->step != 0)
        return; /* the first life has its end already */
    switch (ptn_sim_rng_below(r, unsure ? 1 : 8)) {
    case 0:
        d->seen = 1 + ptn_sim_rng_exp(r, unsure ? 10 : 100);
        break;
    case 1:
    case 2:
        d->sync = 1 + ptn_sim_rng_exp(r, 200);
        break;
    case 3:
        d->disk_op = 1 + ptn_sim_rng_exp(r, ptn_sim_rng_below(r, 3) == 0 ? 40 : 3000);
        break;
    case 4:
        d->step = 1 + ptn_sim_rng_exp(r, 400); /* before the clients have done much */
        break;
    default:
        break;
    }
}

/* From numbers of its own: the rest of the story does not change with it. */
static void plan_storage(uint64_t seed) {
    ptn_sim_rng rng, *r = &rng;
    struct plan *p = &world->plan;
    ptn_sim_rng_seed(r, seed ^ UINT64_C(0xd15c));
    disk_faults_draw(r, &p->disk);
    p->durable = ptn_sim_rng_below(r, 2) == 0;
    p->cache_bytes = pick(r, 3, 16 << 10, 256 << 10);
    p->checkpoint_pages = pick(r, 2, 4, 400);
    for (unsigned i = 0; i < LIVES_MAX - 1; i++)
        plan_death(r, i);
    p->jobs_max = pick(r, 3, 4, 64);
    p->job_bytes_max = pick(r, 4, 4 << 10, 64 << 10);
}

/* In half of the runs; the others have no gateway. */
static void plan_zmq(uint64_t seed) {
    ptn_sim_rng rng, *r = &rng;
    struct plan *p = &world->plan;
    ptn_sim_rng_seed(r, seed ^ UINT64_C(0x2e40));
    p->zmq_clients = pick(r, 2, 1, ZMQ_CLIENTS_MAX);
    p->zmq_hwm = pick(r, 2, 1, 32);
    p->zmq_requests_max = pick(r, 3, 2, 32);
    p->zmq_lazy_ppm = pick(r, 2, 1000, 900000);
    p->vandal_ppm = pick(r, 2, 1000, 50000);
}

/* Standing queues and a spent budget of memory. */
static void plan_overload(uint64_t seed) {
    ptn_sim_rng rng, *r = &rng;
    struct plan *p = &world->plan;
    ptn_sim_rng_seed(r, seed ^ UINT64_C(0x10ad));
    p->queue_delay_ns = pick(r, 2, 1000, 1000);
    p->queue_delay_ns <<= ptn_sim_rng_below(r, 12); /* handlers take little virtual time */
    p->batch_max = pick(r, 2, 1, 4);
    p->memory_bytes = pick(r, 3, MEMORY_MIN, MEMORY_MAX);
}

/* Those who try one thing, each kind in a part of the runs. */
static void plan_guests(uint64_t seed) {
    ptn_sim_rng rng, *r = &rng;
    struct plan *p = &world->plan;
    ptn_sim_rng_seed(r, seed ^ UINT64_C(0x60e57));
    p->logins = pick(r, 3, 1, LOGINS_MAX);
    p->access_ttl_s = 1 + (uint32_t)ptn_sim_rng_below(r, 5);
    p->devices = pick(r, 3, 1, DEVICES_MAX);
    p->replicas = pick(r, 3, 1, 1);
    p->feed_window = pick(r, 2, 1, 8);
    p->feed_deliveries_max = ptn_sim_rng_below(r, 2) == 0 ? 2 : FEED_FOR_EVER;
    p->feed_redeliver_ms = 200 + (uint32_t)ptn_sim_rng_below(r, 1500);
    p->device_acks_ppm = pick(r, 2, 10000, 300000);
}

void world_plan(uint64_t seed) {
    ptn_sim_rng rng, *r = &rng;
    struct plan *p = &world->plan;
    ptn_sim_rng_seed(r, seed);
    *p = (struct plan){
        .workers = 1 + (unsigned)ptn_sim_rng_below(r, 2),
        .clients = 2 + (unsigned)ptn_sim_rng_below(r, CLIENTS_MAX - 1),
        .busy_ns = (3 + ptn_sim_rng_below(r, 12)) * PTN_SEC,
        .deaths = {{.step = ptn_sim_rng_below(r, 3) == 0 ? 200 + ptn_sim_rng_below(r, 10000) : 0}},
        .hub_mailbox = pick(r, 3, 2, 16),
        .owner_mailbox = pick(r, 4, 4, 64),
        .router_mailbox = pick(r, 6, 4, 64),
        .out_bytes_max = pick(r, 2, 8192, 65536),
        .topics_max = pick(r, 4, TOPICS, 2 * TOPICS),
        .history_max = pick(r, 3, 1, 32),
        .requests_max = pick(r, 3, 1, 8),
        .pipeline_max = pick(r, 3, 1, 4),
        .memory_ppm = pick(r, 6, 100, 30000),
        .drought_ppm = pick(r, 8, 10, 1000),
        .swarm = pick(r, 2, 2, SWARM_MAX),
        .swarm_mailbox = pick(r, 2, 4, 64),
        .pause_mean_ms = 5 + (uint32_t)ptn_sim_rng_below(r, 120),
        .long_message_ppm = pick(r, 2, 1000, 200000),
        .burst_ppm = pick(r, 3, 1000, 60000),
        .leave_ppm = pick(r, 2, 1000, 80000),
        .vanish_ppm = pick(r, 2, 50000, 600000),
    };
    ptn_sim_faults_draw(r, &p->faults);
    plan_storage(seed);
    plan_zmq(seed);
    plan_guests(seed);
    plan_overload(seed);
}

bool actors_may_fail(void) {
    return world->plan.faults.buggify_ppm > 0 || memory_may_fail();
}

bool memory_may_fail(void) {
    return world->plan.memory_ppm > 0 || world->plan.drought_ppm > 0;
}

bool may_fail(void) {
    const struct disk_faults *f = &world->plan.disk;
    return actors_may_fail() || f->read_ppm + f->write_ppm + f->sync_ppm > 0;
}

bool disk_may_be_full(void) {
    return world->plan.disk.full_ppm > 0;
}

/* ---- who is who ------------------------------------------------------------------------------ */

const char *user_id(unsigned user) {
    static const char *const ids[PEOPLE] = {
        "01J00000000000000000000001", "01J00000000000000000000002", "01J00000000000000000000003",
        "01J00000000000000000000004", "01J00000000000000000000005", "01J00000000000000000000006",
        "01J00000000000000000000007", "01J00000000000000000000008", "01J00000000000000000000009",
        "01J00000000000000000000010"};
    return ids[user];
}

const char *user_name(unsigned user) {
    static const char *const names[PEOPLE] = {"ada", "ben", "cleo", "dan", "eve",
                                              "fay", "gus", "hal",  "ida", "jon"};
    return names[user];
}

const char *conversation_id(unsigned conversation) {
    static const char *const ids[ROOMS] = {
        "01J0000000000000000000000A", "01J0000000000000000000000B", "01J0000000000000000000000C",
        "01J0000000000000000000000D", "01J0000000000000000000000E"};
    return ids[conversation];
}

bool is_member(unsigned conversation, unsigned user) {
    static const unsigned members[ROOMS] = {0xf, 0x3, 0xd, 1u << HOST_USER, 15u << HOST_USER};
    return members[conversation] >> user & 1;
}

const char *subject_name(unsigned subject) {
    static const char *const names[SUBJECTS] = {"conversation.01J0000000000000000000000A",
                                                "conversation.01J0000000000000000000000B",
                                                "conversation.01J0000000000000000000000C",
                                                "t.0",
                                                "t.1",
                                                "t.2",
                                                "t.3"};
    return names[subject];
}

unsigned subject_of(ptn_str topic) {
    for (unsigned i = 0; i < SUBJECTS; i++)
        if (ptn_str_eqz(topic, subject_name(i)))
            return i;
    return SUBJECTS;
}

/* ---- messages -------------------------------------------------------------------------------- */

/* "m<index> xxxx": which of ours it is, and whether all of it came back. */
static uint32_t index_of(ptn_bytes message) {
    ptn_str content, id;
    char digits[12] = {0};
    ORACLE(ptn_map_get_str(message, "content", &content) && ptn_map_get_str(message, "id", &id),
           "content: a message without content or id");
    for (size_t i = 1; i < content.n && i < sizeof digits && content.p[i] != ' '; i++)
        digits[i - 1] = content.p[i];
    uint32_t index = (uint32_t)strtoul(digits, NULL, 10);
    ORACLE(content.n > 1 && content.p[0] == 'm' && index < world->n_sent,
           "content: a message that nobody has sent: %.*s", (int)(content.n < 40 ? content.n : 40),
           content.p);
    const struct sent *s = &world->sent[index];
    ORACLE(ptn_str_eqz(id, s->id) && content.n == s->bytes,
           "content: message %u came back changed (%zu of %u bytes)", index, content.n, s->bytes);
    return index;
}

uint32_t saw_message(unsigned conversation, uint64_t seq, ptn_bytes message) {
    uint32_t index = index_of(message);
    struct sent *s = &world->sent[index];
    world->tally.seen++;
    ORACLE(s->conversation == conversation, "content: message %u is in the wrong conversation",
           index);
    ORACLE(seq > 0 && seq <= SENT_MAX, "order: seq %llu of message %u cannot be",
           (unsigned long long)seq, index);
    uint32_t *at = &world->order[conversation][seq];
    ORACLE(*at == 0 || *at == index + 1,
           "order: seq %llu of conversation %u is message %u here and %u there",
           (unsigned long long)seq, conversation, index, *at - 1);
    ORACLE(s->seq == 0 || s->seq == seq, "exactly once: message %u has seq %llu and %llu", index,
           (unsigned long long)s->seq, (unsigned long long)seq);
    *at = index + 1;
    s->seq = seq;
    if (seq > world->last_seq[conversation])
        world->last_seq[conversation] = seq;
    return index;
}

void saw_ack(unsigned conversation, ptn_bytes message, uint32_t expected, uint32_t session) {
    uint64_t seq;
    ORACLE(ptn_map_get_uint(message, "seq", &seq), "ack: a message without seq");
    uint32_t index = saw_message(conversation, seq, message);
    ORACLE(index == expected, "ack: message %u is acknowledged with %u", expected, index);
    struct sent *s = &world->sent[index];
    s->acked = true;
    if (conversation == ROOM_OPEN)
        room_acked(index);
    world->tally.acks++;
    if (session == 0 || s->attempts != 1 || s->session != session)
        return;
    for (uint32_t i = 0; i < world->n_sent; i++) {
        const struct sent *o = &world->sent[i];
        if (o->session != session || o->conversation != conversation || o->attempts != 1 ||
            !o->acked || i == index)
            continue;
        ORACLE((i < index) == (o->seq < seq),
               "fifo: session %u sent %u before %u, and they have seq %llu and %llu", session,
               i < index ? i : index, i < index ? index : i,
               (unsigned long long)(i < index ? o->seq : seq),
               (unsigned long long)(i < index ? seq : o->seq));
    }
}

void saw_place(unsigned topic, const char *epoch, uint64_t offset, uint32_t session, uint32_t n) {
    uint64_t key = UINT64_C(14695981039346656037) ^ topic;
    for (const char *p = epoch; *p != '\0'; p++)
        key = (key ^ (uint8_t)*p) * UINT64_C(1099511628211);
    key = (key ^ offset) * UINT64_C(1099511628211);
    key |= 1;
    for (uint64_t i = key >> 20, tried = 0; tried < PLACES_MAX; i++, tried++) {
        struct place *p = &world->places[i & (PLACES_MAX - 1)];
        if (p->key == 0)
            *p = (struct place){.key = key, .session = session, .n = n};
        if (p->key != key)
            continue;
        ORACLE(p->session == session && p->n == n,
               "order: t.%u offset %llu is event %u of session %u here and %u of %u there", topic,
               (unsigned long long)offset, n, session, p->n, p->session);
        return;
    }
}

/* ---- the store, afterwards ------------------------------------------------------------------- */

static uint64_t check_page(store_db *db, unsigned conversation, uint64_t after,
                           uint64_t *ret_last) {
    ptn_pack w;
    uint32_t n = 0, pair, type;
    uint64_t seq;
    ptn_bytes message;
    ptn_pack_init(&w, 64);
    ptn_pack_array(&w, 4);
    ptn_pack_cstr(&w, conversation_id(conversation));
    ptn_pack_uint(&w, after);
    ptn_pack_nil(&w);
    ptn_pack_uint(&w, 200);
    ptn_buf *ask = ptn_pack_finish(&w);
    ptn_buf *reply = store_db_execute(db, PTN_MSG_STORE_MSG_RANGE, ptn_buf_bytes(ask), &type);
    ORACLE(reply != NULL && type == PTN_MSG_STORE_MSGS, "store: conversation %u cannot be read",
           conversation);
    ptn_unpack u = ptn_unpack_of(ptn_buf_bytes(reply));
    ORACLE(ptn_unpack_array(&u, &n) && ptn_unpack_uint(&u, ret_last) && ptn_unpack_array(&u, &n),
           "store: a bad page");
    for (uint32_t i = 0; i < n; i++) {
        ORACLE(ptn_unpack_array(&u, &pair) && ptn_unpack_uint(&u, &seq) &&
                   ptn_unpack_any(&u, &message),
               "store: a bad row");
        after++;
        ORACLE(seq == after, "store: conversation %u goes from seq %llu to %llu", conversation,
               (unsigned long long)after - 1, (unsigned long long)seq);
        (void)saw_message(conversation, seq, message);
    }
    ptn_buf_unref(ask);
    ptn_buf_unref(reply);
    return after;
}

static void check_integrity(void) {
    sqlite3 *sql = NULL;
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_open_v2(DATABASE, &sql, SQLITE_OPEN_READWRITE, DISK_VFS);
    if (rc == SQLITE_OK)
        rc = sqlite3_prepare_v2(sql, "PRAGMA integrity_check(1)", -1, &s, NULL);
    const char *says = rc == SQLITE_OK && sqlite3_step(s) == SQLITE_ROW
                           ? (const char *)sqlite3_column_text(s, 0)
                           : NULL;
    ORACLE(says != NULL && strcmp(says, "ok") == 0, "store: the database is damaged: %s",
           says != NULL ? says : sqlite3_errmsg(sql));
    (void)sqlite3_finalize(s);
    (void)sqlite3_close(sql);
}

/* The broker has searched for damage after each crash, while it served. */
static void check_scrubs(void) {
    static ptn_metrics_snapshot m;
    ptn_metrics_sum(&m);
    ORACLE(m.counter[PTN_C_STORE_SCRUBS_DAMAGED] == 0,
           "store: damage was found where there is none");
}

/* The totals that the store keeps, against what it holds. */
static void check_totals(store_db *db, uint64_t messages) {
    uint32_t type, n;
    uint64_t total;
    static const uint8_t nil = 0xc0;
    ptn_buf *reply = store_db_execute(db, PTN_MSG_STORE_STATS, (ptn_bytes){&nil, 1}, &type);
    ORACLE(reply != NULL && type == PTN_MSG_STORE_STATS_REPLY, "store: no totals");
    ptn_unpack u = ptn_unpack_of(ptn_buf_bytes(reply));
    ORACLE(ptn_unpack_array(&u, &n) && ptn_unpack_uint(&u, &total) && ptn_unpack_uint(&u, &total) &&
               ptn_unpack_uint(&u, &total),
           "store: bad totals");
    ORACLE(total == messages, "store: it counts %llu messages and has %llu",
           (unsigned long long)total, (unsigned long long)messages);
    ptn_buf_unref(reply);
}

void check_store(void) {
    const char *why = "";
    store_db *db;
    uint64_t messages = 0;
    check_integrity();
    check_scrubs();
    check_cursors();
    ORACLE(store_db_open(DATABASE, &(store_db_opts){.vfs = DISK_VFS}, &db, &why) == 0,
           "store: cannot open: %s", why);
    for (unsigned k = 0; k < (guests_planned() > 0 ? ROOMS : CONVERSATIONS); k++) {
        uint64_t at = 0, last = 0, before;
        do {
            before = at;
            at = check_page(db, k, at, &last);
        } while (at > before);
        messages += at;
        ORACLE(at == last, "store: conversation %u ends at %llu instead of %llu", k,
               (unsigned long long)at, (unsigned long long)last);
        ORACLE(at >= world->last_seq[k],
               "durability: seq %llu of conversation %u was seen, not kept",
               (unsigned long long)world->last_seq[k], k);
    }
    for (uint32_t i = 0; i < world->n_sent; i++) {
        const struct sent *s = &world->sent[i];
        ORACLE(!s->acked || (s->seq != 0 && world->order[s->conversation][s->seq] == i + 1),
               "durability: message %u was acknowledged and is not in the store", i);
    }
    check_totals(db, messages);
    check_devices(db);
    store_db_close(db);
}
