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
    struct hub_feed *late;                   /* those that are tried again later */
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

/* True: the feed is being opened, and the subscription waits for it, or is refused. */
bool hub_feed_holds(ptn_ctx *c, struct hub_sink *s, uint64_t tag, ptn_str topic, ptn_buf *b);
/* Refuses what it holds of the topic. */
void hub_feed_cancel(ptn_ctx *c, struct hub_sink *s, ptn_str topic, const char *message);
/* A subscription of the client's is being granted: what waits there for the device goes before it,
 * when the feed knows of it and is not there yet. */
void hub_feed_precede(ptn_ctx *c, ptn_hub *h, struct hub_sink *s, struct hub_topic *t);
/* taken: the client has subscribed there itself, before the feed knew of it. */
void hub_feed_granted(ptn_ctx *c, ptn_hub *h, struct hub_sub *sub, const struct feed_item *item,
                      bool taken);
/* Takes the item over when it is to be tried again. */
void hub_feed_refused(ptn_ctx *c, ptn_hub *h, struct hub_sink *s, struct feed_item **item, int err,
                      const ptn_msg *reply);
/* There is no room for an item's subscription: its client hears so once, and it is tried again. */
void hub_feed_no_room(ptn_ctx *c, ptn_hub *h, struct hub_sink *s, struct feed_item **item);
/* item NULL: no attach of a feed. */
void hub_feed_attach_ended(ptn_hub *h, struct hub_sink *s, const struct feed_item *item);
/* Subscribes to what is still to come. */
void hub_feed_go_on(ptn_ctx *c, ptn_hub *h);
/* The sink goes. */
void hub_feed_close(ptn_hub *h, struct hub_sink *s);
void hub_feed_reset_all(ptn_ctx *c, ptn_hub *h);
/* The hub was restarted, or ends: frees all of them. */
void hub_feed_done(ptn_hub *h);

/* Casts [user, device, conversation, a, b, c] to the queue of the sink's user. */
int hub_feed_tell(ptn_ctx *c, ptn_hub *h, const struct hub_sink *s, uint32_t type,
                  ptn_str conversation, uint64_t seq, uint64_t deliveries, uint64_t got);

/* ---- cursors ------------------------------------------------------------------------------ */

/* taken: the client has subscribed.  Without memory the sink is reset. */
void hub_cursor_new(ptn_ctx *c, ptn_hub *h, struct hub_sub *sub, uint64_t acked,
                    uint32_t deliveries, bool taken); /* The queue is to hear of it. */
void hub_cursor_report(ptn_ctx *c, struct hub_cursor *k);

/* A deliver function; self is the cursor. */
enum ptn_sink_load hub_cursor_deliver(ptn_ctx *c, void *self, ptn_event *e);
/* The device has not acknowledged enough.  NULL: false. */
bool hub_cursor_is_blocked(const struct hub_cursor *k);
/* Its subscription exists for the feed alone.  NULL: false. */
bool hub_cursor_is_fed(const struct hub_cursor *k);
/* Not all of the messages before the position of the client's subscription were sent.  NULL: false.
 */
bool hub_cursor_is_behind(const struct hub_cursor *k);
/* The client has subscribed.  since NULL: up to its position there still are messages, and it is
 * told so; otherwise it has everything up to there, and the caller tells it and sends the rest. */
void hub_cursor_take(ptn_ctx *c, struct hub_cursor *k, const uint64_t *since,
                     const ptn_subscribed *r);
/* The client has unsubscribed: the feed goes on, from what is acknowledged when events were left
 * out. */
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
