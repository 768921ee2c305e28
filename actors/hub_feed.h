/* SPDX-License-Identifier: Apache-2.0
 *
 * hub_feed.h - what a device has not acknowledged, and then whatever comes, as `message`.
 *
 * A feed belongs to a sink, and has a subscription to every conversation of its user.  Each of
 * those has a cursor: up to where the device has acknowledged, and what it was sent.  A cursor of a
 * feed sends at most a window of messages without an acknowledgement, sends again what is not
 * acknowledged in time (go back to the oldest), and passes it, as a dead letter, when that was in
 * vain too often.  Everything behind the newest event comes from the store (hub_flow.h).
 *
 * A subscription that the client asked for itself takes the cursor over: then messages come as
 * events and nothing waits for acknowledgements, but they still count.
 */
#ifndef POSTERN_ACTORS_HUB_FEED_H
#define POSTERN_ACTORS_HUB_FEED_H

#include "actors/hub_index.h"

struct hub_attach;
struct hub_feed;
struct hub_reader;
struct feed_item;

struct hub_feeds { /* of one hub */
    struct hub_feed *all;
    struct hub_reader *readers;              /* by user */
    struct hub_feed *line_first, *line_last; /* those with conversations to subscribe to */
    uint32_t n_attaching;
    struct hub_cursor *cursors; /* with something that the device or the queue has to hear of */
    ptn_timer ack_timer, due_timer, retry_timer;
};

/* ---- messages ----------------------------------------------------------------------------- */

int hub_feed_open(ptn_ctx *c, ptn_hub *h, const ptn_msg *m);
int hub_feed_ack(ptn_ctx *c, ptn_hub *h, const ptn_msg *m);
int hub_feed_moved(ptn_ctx *c, ptn_hub *h, const ptn_msg *m);
int hub_feed_joined(ptn_ctx *c, ptn_hub *h, const ptn_msg *m);

/* ---- what hub.c calls --------------------------------------------------------------------- */

/* True: the feed is being opened, and takes this up again when the conversation is known. */
bool hub_feed_holds(struct hub_sink *s, ptn_str topic, uint32_t type, ptn_buf *b);
/* taken: the client has subscribed there itself, before the feed came to it. */
void hub_feed_granted(ptn_ctx *c, ptn_hub *h, struct hub_sub *sub, const struct feed_item *item,
                      bool taken);
/* Takes the item over when it is to be tried again. */
void hub_feed_refused(ptn_ctx *c, ptn_hub *h, struct hub_sink *s, struct feed_item **item, int err,
                      const ptn_msg *reply);
/* item NULL: no attach of a feed. */
void hub_feed_attach_ended(ptn_hub *h, struct hub_sink *s, const struct feed_item *item);
/* Subscribes to what is still to come.  s: whose attach has ended; NULL: it has closed. */
void hub_feed_go_on(ptn_ctx *c, ptn_hub *h, struct hub_sink *s);
/* The sink goes. */
void hub_feed_close(ptn_hub *h, struct hub_sink *s);
void hub_feed_reset_all(ptn_ctx *c, ptn_hub *h);
/* The hub was restarted, or ends: frees all of them. */
void hub_feed_done(ptn_hub *h);

/* Casts [user, device, conversation, a, b, c] to the queue of the sink's user. */
int hub_feed_tell(ptn_ctx *c, ptn_hub *h, const struct hub_sink *s, uint32_t type,
                  ptn_str conversation, uint64_t seq, uint64_t deliveries, uint64_t got);

/* ---- cursors ------------------------------------------------------------------------------ */

enum hub_cursor_start {
    HUB_CURSOR_FED,
    HUB_CURSOR_HELD, /* sends nothing yet: the client is about to subscribe */
    HUB_CURSOR_TAKEN /* the client has subscribed */
};
/* Without memory the sink is reset. */
void hub_cursor_new(ptn_ctx *c, ptn_hub *h, struct hub_sub *sub, uint64_t acked,
                    uint32_t deliveries, enum hub_cursor_start how);
/* A subscription of the client's has not come about, or acknowledgements have come.  Accepts NULL.
 */
void hub_cursor_go_on(ptn_ctx *c, struct hub_cursor *k);

/* A deliver function; self is the cursor. */
enum ptn_sink_load hub_cursor_deliver(ptn_ctx *c, void *self, ptn_event *e);
/* The device has not acknowledged enough.  NULL: false. */
bool hub_cursor_is_blocked(const struct hub_cursor *k);
/* Its subscription exists for the feed alone.  NULL: false. */
bool hub_cursor_is_fed(const struct hub_cursor *k);
/* The client has subscribed.  backlog: up to its position there still are messages; then it is
 * told so, otherwise the caller does that. */
void hub_cursor_take(ptn_ctx *c, struct hub_cursor *k, bool backlog, const ptn_subscribed *r);
/* The client has unsubscribed: the feed goes on. */
void hub_cursor_return(ptn_ctx *c, ptn_hub *h, struct hub_cursor *k);
/* Again from after seq. */
void hub_cursor_rewind(ptn_ctx *c, struct hub_cursor *k, uint64_t seq);
/* By another way than the session. */
void hub_cursor_acknowledged(ptn_ctx *c, struct hub_cursor *k, uint64_t seq);
/* The store has passed everything up to seq. */
void hub_cursor_passed(ptn_ctx *c, struct hub_cursor *k, uint64_t seq, const char *reason);
/* The subscription ends: the queue hears what it has not.  Accepts NULL. */
void hub_cursor_leave(ptn_ctx *c, struct hub_cursor *k);
void hub_cursor_free(struct hub_cursor *k);

#endif
