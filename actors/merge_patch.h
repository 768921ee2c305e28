/* SPDX-License-Identifier: Apache-2.0
 *
 * merge_patch.h - JSON Merge Patch (RFC 7396) on msgpack values.
 */
#ifndef POSTERN_ACTORS_MERGE_PATCH_H
#define POSTERN_ACTORS_MERGE_PATCH_H

#include <postern/pack.h>

#define MERGE_PATCH_DEPTH_MAX 16
#define MERGE_PATCH_MEMBERS_MAX 256 /* per object: members are compared pair by pair */

/* Appends the target changed by the patch.  target: an encoded map, or n == 0 for an empty one;
 * patch: a map. A nil in the patch removes the member.  -PTN_EINVAL: not maps; -PTN_ETOOBIG: more
 * than the bounds above; -PTN_ENOMEM.  On error w may hold part of the value. */
int merge_patch(ptn_bytes target, ptn_bytes patch, ptn_pack *w);

#endif
