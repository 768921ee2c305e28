/* SPDX-License-Identifier: Apache-2.0
 *
 * limits.h - how the codec reads ptn_codec_limits and fills ptn_codec_error, in one place.
 */
#ifndef POSTERN_CODEC_LIMITS_H
#define POSTERN_CODEC_LIMITS_H

#include <postern/codec.h>

#include "protocols/codec/pack_inline.h"

#define PTN__LIMIT_BYTES_DEFAULT ((size_t)1 << 20)
#define PTN__LIMIT_DEPTH_DEFAULT 32u

/* limits may be NULL: the defaults. */
static inline size_t ptn__limits_bytes(const ptn_codec_limits *limits) {
    if (limits == NULL || limits->bytes_max == 0)
        return PTN__LIMIT_BYTES_DEFAULT;
    return limits->bytes_max > PTN_BUF_BYTES_MAX ? PTN_BUF_BYTES_MAX : limits->bytes_max;
}

static inline uint32_t ptn__limits_depth(const ptn_codec_limits *limits) {
    if (limits == NULL || limits->depth_max == 0)
        return PTN__LIMIT_DEPTH_DEFAULT;
    return limits->depth_max > PTN__DEPTH_MAX ? PTN__DEPTH_MAX : limits->depth_max;
}

/* reterr may be NULL.  Returns err. */
static inline int ptn__codec_fail(ptn_codec_error *reterr, int err, const char *what,
                                  size_t offset) {
    if (reterr != NULL)
        *reterr = (ptn_codec_error){.what = what, .offset = offset};
    return err;
}

#endif
