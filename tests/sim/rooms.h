/* SPDX-License-Identifier: Apache-2.0
 *
 * rooms.h - the two conversations of guests: who belongs to them, and what each device is owed.
 *
 * ROOM_FIXED keeps its members.  In ROOM_OPEN the host, who is one client and the only one to write
 * there, adds and removes people, one request at a time; what it knows is `struct membership`.
 */
#ifndef POSTERN_TESTS_SIM_ROOMS_H
#define POSTERN_TESTS_SIM_ROOMS_H

#include "world.h"

struct store_db;

unsigned device_user(unsigned device);
const char *device_name(unsigned device);
unsigned device_of(ptn_str user, ptn_str name); /* DEVICES_MAX: none of ours */
unsigned room_of(ptn_str conversation);         /* ROOMS: none of the two */

/* ---- ROOM_OPEN ------------------------------------------------------------------------------- */

struct membership *member_of(unsigned user);
void members_begin(void); /* a new life: nothing is under way */
void member_asked(unsigned user, bool in);
void member_answered(unsigned user);
/* It may have been done, or be done later. */
void member_unsure(unsigned user, ptn_time now);

void room_sent(uint32_t index); /* for the first time */
void room_acked(uint32_t index);
void room_heard(unsigned user, uint32_t index);

/* ---- devices --------------------------------------------------------------------------------- */

void device_got(unsigned device, unsigned room, uint64_t seq, uint32_t index);
/* A message of its feed, not of a subscription.  The first one of a session says where the feed is:
 * that something before it was passed over may have been told to a connection that was lost. */
void device_fed(unsigned device, unsigned room, uint64_t seq, uint32_t session);
void device_passed(unsigned device, unsigned room, uint64_t from, uint64_t to); /* it was told */
/* The newest that it has together with all before it that was not passed over. */
uint64_t device_has(unsigned device, unsigned room);
/* Something that it should have has not come; the newest, where others may be passed over. */
bool device_waits(unsigned device, unsigned room);
/* The oldest that it should have by now, at up to seq, and has not; 0: none, or it may have been
 * passed over. */
uint64_t device_lacks(unsigned device, unsigned room, uint64_t seq);
/* A device may begin where another one of its user is: not before that one is known. */
bool device_may_begin(unsigned device);

/* At the end: what is owed to a device and has not come is a dead letter. */
void check_devices(struct store_db *db);
/* ... and no cursor is behind what it was. */
void check_cursors(void);
/* They do not wait for the disk. */
void cursors_lost(void);

#endif
