/* SPDX-License-Identifier: Apache-2.0
 *
 * hub_latest.h - conflation: subscriptions that want the newest event of each topic, not all of
 * them (policy LATEST).
 *
 * An event goes out at once when the sink has got rid of the one before it and, if the subscription
 * has an interval, none of its topic has gone out in this one.  Otherwise it is kept, in the place
 * of an older one of its topic: that one is conflated.  What is kept goes out when the sink has
 * drained, or when the interval ends, whichever is later, so the newest event of a topic always
 * arrives.  No gap is told: an event stands for all of its topic before it.
 *
 * In a conversation that the client has taken over from its feed the cursor stands behind: it hears
 * of what goes out, and what was left out comes with the feed again.
 *
 * Intervals are those of the clock, not of a subscription's first event: all that have the same one
 * go out together, as many as a turn may send (ptn_hub_limits), and share what was encoded.
 *
 * Bounds: the bytes that one slow subscription and the hub may keep (ptn_hub_limits), topics
 * included.  Past them the newest event of a topic is lost, and then a gap says so unless a newer
 * one comes; without room for another topic the sink is reset.  With room in the sink, a topic for
 * which there is none here goes out as it comes.
 */
#ifndef POSTERN_ACTORS_HUB_LATEST_H
#define POSTERN_ACTORS_HUB_LATEST_H

#include "actors/hub_index.h"

/* The slot's function of a subscription (self) that has got no event yet; from then on it has
 * state, and sub->latest is set. */
enum ptn_sink_load hub_latest_first(ptn_ctx *c, void *self, ptn_event *e);
/* The sink has drained.  Nothing when nothing waits for that. */
void hub_latest_go_on(ptn_ctx *c, struct hub_sub *sub);
/* Forgets what is kept; the slot is the caller's again.  Nothing when there is no state. */
void hub_latest_end(struct hub_sub *sub);

#endif
