/* SPDX-License-Identifier: Apache-2.0
 *
 * version.h - what this build calls itself.
 */
#ifndef POSTERN_BROKER_VERSION_H
#define POSTERN_BROKER_VERSION_H

const char *postern_version(void);  /* "0.1.0" */
const char *postern_revision(void); /* commit, or "unknown" */

#endif
