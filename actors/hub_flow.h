/* SPDX-License-Identifier: Apache-2.0
 *
 * hub_flow.h - subscriptions that do not get events as they come: their connection is slow, or they
 * start from a position in the past.
 *
 * A subscription without a flow is live: the fan-out calls its sink.  One with a flow has its slot
 * turned to the flow, which drops, keeps or skips events after its policy.  A STORED flow reads
 * pages from the store as its sink drains; when it has reached the topic's offset the subscription
 * is live again.  So live events, history and the way back of a slow consumer are one stream with
 * one position, without a hole and without a duplicate.
 *
 * Bounds (ptn_hub_limits): events and bytes kept per subscription and per hub; pages being read at
 * a time, the others wait in line; one page ahead per flow.  At the bound the oldest kept event
 * goes, and a `gap` says so.
 */
#ifndef POSTERN_ACTORS_HUB_FLOW_H
#define POSTERN_ACTORS_HUB_FLOW_H

#include "actors/hub_index.h"

/* Past so many topics with a gap at one time the sink is reset instead. */
#define HUB_FLOW_GAPS_MAX 64u

/* The sink took an event and said FULL: from the next event on the policy decides. */
void hub_flow_full(ptn_ctx *c, ptn_hub *h, struct hub_sub *sub, uint64_t offset);
/* The subscription starts behind: everything after `pos` comes from the store first. */
void hub_flow_from(ptn_ctx *c, ptn_hub *h, struct hub_sub *sub, uint64_t pos);
/* The subscription starts over at the live position; what was kept for it goes. */
void hub_flow_drop(struct hub_sub *sub);
/* What it waited for, other than its sink, has come.  Nothing when it is live. */
void hub_flow_go_on(ptn_ctx *c, struct hub_sub *sub);
/* The subscription goes.  Accepts NULL. */
void hub_flow_end(struct hub_flow *f);
/* Goes on with the sinks that have drained. */
void hub_flow_resume(ptn_ctx *c, ptn_hub *h);
/* The hub was restarted, or ends: frees all of them. */
void hub_flow_done(ptn_hub *h);

#endif
