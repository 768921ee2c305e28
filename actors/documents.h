/* SPDX-License-Identifier: Apache-2.0
 *
 * documents.h - the machine-readable API documents, part of the program.
 *
 * The sources are docs/openapi.json and docs/asyncapi.json; the build makes the definitions from
 * them (cmake/embed.cmake), byte for byte, so what is served is what was reviewed.
 */
#ifndef POSTERN_ACTORS_DOCUMENTS_H
#define POSTERN_ACTORS_DOCUMENTS_H

#include <postern/base.h>

struct document {
    ptn_str text;
    const char *etag; /* strong: a digest of the text */
};

extern const struct document document_openapi, document_asyncapi;

#endif
