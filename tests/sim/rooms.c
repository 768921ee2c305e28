/* SPDX-License-Identifier: Apache-2.0
 *
 * rooms.c - the oracles `members` and `feed`.
 *
 * Who is no member gets nothing that was sent after the removal was acknowledged, and nothing that
 * was acknowledged before the host asked for its return.  Who is one gets everything that was sent
 * after its arrival was acknowledged, on every device: at least once, or it is told.
 */
#include "rooms.h"

#include "actors/store_db.h"

#include <postern/messages.h>
#include <stdio.h>

#define STRAY_NS (30 * PTN_SEC) /* a request without an answer may be done for so long */
#define LETTERS_MAX 200u

unsigned device_user(unsigned device) {
    return DEVICE_USER + device % DEVICE_USERS;
}

const char *device_name(unsigned device) {
    return device < DEVICE_USERS ? "a" : "b";
}

unsigned device_of(ptn_str user, ptn_str name) {
    for (unsigned i = 0; i < world->plan.devices; i++)
        if (ptn_str_eqz(user, user_id(device_user(i))) && ptn_str_eqz(name, device_name(i)))
            return i;
    return DEVICES_MAX;
}

unsigned room_of(ptn_str conversation) {
    for (unsigned k = ROOM_OPEN; k < ROOMS; k++)
        if (ptn_str_eqz(conversation, conversation_id(k)))
            return k;
    return ROOMS;
}

static unsigned nth(unsigned room) {
    return room - ROOM_OPEN;
}

/* ---- ROOM_OPEN ------------------------------------------------------------------------------- */

struct membership *member_of(unsigned user) {
    return &world->members[user - DEVICE_USER];
}

void member_asked(unsigned user, bool in) {
    struct membership *m = member_of(user);
    bool again = m->is == (in ? JOINING : LEAVING);
    m->is = in ? JOINING : LEAVING;
    m->epoch += !again;
    for (unsigned i = 0; i < world->plan.devices; i++)
        if (device_user(i) == user)
            world->devices[i].first[nth(ROOM_OPEN)] = 0;
}

void member_answered(unsigned user) {
    struct membership *m = member_of(user);
    m->is = m->is == JOINING ? IN : OUT;
    m->since = world->n_sent;
    world->tally.joined += m->is == IN;
    world->tally.removed += m->is == OUT;
}

void members_begin(void) {
    for (unsigned i = 0; i < DEVICE_USERS; i++)
        world->members[i].unsure_until = 0;
}

void member_unsure(unsigned user, ptn_time now) {
    member_of(user)->unsure_until = now + STRAY_NS;
}

void room_sent(uint32_t index) {
    for (unsigned i = 0; i < DEVICE_USERS; i++) {
        struct membership *m = &world->members[i];
        if (m->is == OUT)
            m->apart[index] = m->epoch + 1;
    }
}

void room_acked(uint32_t index) {
    for (unsigned i = 0; i < DEVICE_USERS; i++) {
        struct membership *m = &world->members[i];
        if (m->is == OUT && m->apart[index] == m->epoch + 1)
            m->kept_from_it[index] = true;
    }
}

void room_heard(unsigned user, uint32_t index) {
    const struct membership *m = member_of(user);
    ORACLE(m->is != OUT || m->apart[index] != m->epoch + 1,
           "members: user %s is no member and hears message %u, sent after that", user_name(user),
           index);
    ORACLE(!m->kept_from_it[index],
           "members: user %s hears message %u, of a time when it was no member", user_name(user),
           index);
}

/* ---- devices --------------------------------------------------------------------------------- */

static const struct device *sibling(unsigned device) {
    unsigned other = (device + DEVICE_USERS) % DEVICES_MAX;
    return other < world->plan.devices ? &world->devices[other] : NULL;
}

bool device_may_begin(unsigned device) {
    return device < DEVICE_USERS ||
           world->devices[device - DEVICE_USERS].first[nth(ROOM_FIXED)] > 0;
}

static bool is_own(uint32_t index, unsigned user) {
    unsigned first = CLIENTS_MAX + ZMQ_CLIENTS_MAX + world->plan.logins + 1;
    unsigned client = world->sent[index].client;
    return client >= first && client < first + world->plan.devices &&
           device_user(client - first) == user;
}

void device_got(unsigned device, unsigned room, uint64_t seq, uint32_t index) {
    struct device *d = &world->devices[device];
    const struct membership *m = member_of(device_user(device));
    uint64_t *first = &d->first[nth(room)];
    d->got[nth(room)][seq] = true;
    if (*first == 0 && (room == ROOM_FIXED || (m->is == IN && index >= m->since)))
        *first = seq;
}

void device_fed(unsigned device, unsigned room, uint64_t seq, uint32_t session) {
    struct device *d = &world->devices[device];
    if (d->session[nth(room)] == session || world->plan.feed_deliveries_max == FEED_FOR_EVER)
        return;
    d->session[nth(room)] = session;
    if (d->fed[nth(room)] < seq)
        d->fed[nth(room)] = seq - 1;
}

void device_passed(unsigned device, unsigned room, uint64_t from, uint64_t to) {
    struct device *d = &world->devices[device];
    for (uint64_t seq = from; seq <= to; seq++)
        d->got[nth(room)][seq] = true;
    if (d->n_gaps < PTN_ARRAY_LEN(d->gaps))
        d->gaps[d->n_gaps++] = (struct gap){room, from, to};
    world->tally.passed += to - from + 1;
}

/* Where it begins: the first device of a user where the user does, another one where the furthest
 * is at that time. */
static uint64_t beginning(unsigned device, unsigned room) {
    const struct device *d = &world->devices[device], *other = sibling(device);
    if (other == NULL || (room == ROOM_FIXED && device < DEVICE_USERS))
        return 0;
    return d->first[nth(room)] > 0 ? d->first[nth(room)] - 1 : other->acked[nth(room)];
}

/* It should have the message of a place, and has not. */
static bool misses(unsigned device, unsigned room, uint64_t seq) {
    const struct membership *m = member_of(device_user(device));
    uint32_t at = world->order[room][seq];
    if (at == 0 || world->devices[device].got[nth(room)][seq] ||
        is_own(at - 1, device_user(device)))
        return false;
    return room == ROOM_FIXED || (m->is == IN && at - 1 >= m->since);
}

uint64_t device_has(unsigned device, unsigned room) {
    const struct device *d = &world->devices[device];
    uint64_t seq = beginning(device, room);
    if (seq < d->fed[nth(room)])
        seq = d->fed[nth(room)];
    while (seq < world->last_seq[room] && world->order[room][seq + 1] != 0 &&
           !misses(device, room, seq + 1))
        seq++;
    while (seq > 0 && !d->got[nth(room)][seq])
        seq--;
    return seq;
}

bool device_waits(unsigned device, unsigned room) {
    uint64_t seq = world->last_seq[room];
    if (world->plan.feed_deliveries_max == FEED_FOR_EVER) { /* all of them, then */
        while (seq > beginning(device, room) && !misses(device, room, seq))
            seq--;
        return seq > beginning(device, room);
    }
    while (seq > beginning(device, room) && world->order[room][seq] != 0 &&
           is_own(world->order[room][seq] - 1, device_user(device)))
        seq--;
    return seq > beginning(device, room) && misses(device, room, seq);
}

uint64_t device_lacks(unsigned device, unsigned room, uint64_t seq) {
    if (world->plan.feed_deliveries_max != FEED_FOR_EVER)
        return 0;
    for (uint64_t i = beginning(device, room) + 1; i <= seq; i++)
        if (misses(device, room, i))
            return i;
    return 0;
}

/* ---- the end --------------------------------------------------------------------------------- */

struct letters {
    uint32_t n;
    struct letter {
        unsigned device, room;
        int64_t from, to;
    } at[LETTERS_MAX];
};

static void read_letters(store_db *db, struct letters *ret_l) {
    ptn_pack w;
    uint32_t type, n, fields;
    ptn_pack_init(&w, 16);
    ptn_pack_array(&w, 2);
    ptn_pack_int(&w, 0);
    ptn_pack_uint(&w, LETTERS_MAX);
    ptn_buf *ask = ptn_pack_finish(&w);
    ptn_buf *reply = store_db_execute(db, PTN_MSG_STORE_DEAD_LIST, ptn_buf_bytes(ask), &type);
    ORACLE(reply != NULL && type == PTN_MSG_STORE_DEADS, "store: no list of dead letters");
    ptn_unpack u = ptn_unpack_of(ptn_buf_bytes(reply));
    ORACLE(ptn_unpack_array(&u, &n) && n <= LETTERS_MAX, "store: a bad list of dead letters");
    ret_l->n = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct letter *l = &ret_l->at[ret_l->n];
        ptn_str user, device, conversation, reason;
        int64_t id, created_ms;
        ORACLE(ptn_unpack_array(&u, &fields) && fields == 8 && ptn_unpack_int(&u, &id) &&
                   ptn_unpack_str(&u, &user) && ptn_unpack_str(&u, &device) &&
                   ptn_unpack_str(&u, &conversation) && ptn_unpack_int(&u, &l->from) &&
                   ptn_unpack_int(&u, &l->to) && ptn_unpack_str(&u, &reason) &&
                   ptn_unpack_int(&u, &created_ms),
               "store: a bad dead letter");
        l->device = device_of(user, device);
        l->room = room_of(conversation);
        ret_l->n += l->device < DEVICES_MAX && l->room < ROOMS;
    }
    ptn_buf_unref(ask);
    ptn_buf_unref(reply);
}

static bool is_dead(const struct letters *l, unsigned device, unsigned room, int64_t seq) {
    for (uint32_t i = 0; i < l->n; i++)
        if (l->at[i].device == device && l->at[i].room == room && l->at[i].from <= seq &&
            seq <= l->at[i].to)
            return true;
    return l->n == LETTERS_MAX;
}

/* Nothing could keep a letter from the store. */
static bool letters_arrive(void) {
    const struct plan *p = &world->plan;
    return world->life == 0 && !may_fail() && !disk_may_be_full() && p->hub_mailbox == 0 &&
           p->owner_mailbox == 0;
}

void check_devices(store_db *db) {
    static struct letters letters;
    bool may_pass = world->plan.feed_deliveries_max != FEED_FOR_EVER;
    if (world->plan.devices == 0)
        return;
    read_letters(db, &letters);
    ORACLE(may_pass || letters.n == 0, "feed: there are dead letters, and nothing may be passed");
    for (unsigned i = 0; i < world->plan.devices; i++) {
        const struct device *d = &world->devices[i];
        for (unsigned k = ROOM_OPEN; k < ROOMS; k++)
            for (uint64_t seq = beginning(i, k) + 1; seq <= world->last_seq[k]; seq++)
                ORACLE(!misses(i, k, seq) || is_dead(&letters, i, k, (int64_t)seq) ||
                           (may_pass && !letters_arrive()),
                       "feed: device %s of user %s never gets seq %llu of conversation %u",
                       device_name(i), user_name(device_user(i)), (unsigned long long)seq, k);
        for (uint32_t g = 0; g < d->n_gaps && letters_arrive(); g++)
            ORACLE(is_dead(&letters, i, d->gaps[g].room, (int64_t)d->gaps[g].from),
                   "feed: device %s of user %s was passed over, and there is no dead letter",
                   device_name(i), user_name(device_user(i)));
    }
}
