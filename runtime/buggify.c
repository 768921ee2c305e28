/* SPDX-License-Identifier: Apache-2.0
 *
 * buggify.c - the one word behind PTN_BUGGIFY().
 */
#include <postern/buggify.h>

#ifdef PTN_WITH_BUGGIFY
struct ptn_buggify ptn__buggify;
#else
typedef int ptn__buggify_is_compiled_out; /* ISO C wants a declaration in every file */
#endif
