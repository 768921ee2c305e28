/* SPDX-License-Identifier: Apache-2.0
 *
 * version.c - the names that the build gives; the only file compiled anew when they change.
 */
#include "broker/version.h"

#ifndef POSTERN_VERSION
#define POSTERN_VERSION "0.0.0"
#endif
#ifndef POSTERN_REVISION
#define POSTERN_REVISION "unknown"
#endif

const char *postern_version(void) {
    return POSTERN_VERSION;
}

const char *postern_revision(void) {
    return POSTERN_REVISION;
}
