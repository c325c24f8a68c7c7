/* export/blob_taxonomy.h - the taxonomy (model/taxonomy.h) in a blob's metadata: the keys taxonomy.* and what follows
 * the names label.I in export/blob.h. */
#ifndef EXPORT_BLOB_TAXONOMY_H
#define EXPORT_BLOB_TAXONOMY_H

#include "export/blob_rule.h"

/* What the metadata say; free with taxonomy_free. ERR_FORMAT names the key or the label. */
ErrCode blob_taxonomy_read(Taxonomy *out, BlobRuleGet *get, const void *arg, const char *const *labels, int K,
                           Err *err) ERR_CHECKED;

/* Hands every key that is not at its default to `put`: exactly blob_taxonomy_pairs of them. */
void blob_taxonomy_write(const Taxonomy *t, BlobRulePut *put, void *arg);
size_t blob_taxonomy_pairs(const Taxonomy *t);

#endif
