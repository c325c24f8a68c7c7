/* export/blob_rule.h - the decision rule in a blob's metadata: the keys required, temperature, scale.*, bias.*
 * and decision.* of export/blob.h; and how an existing blob gets another rule. */
#ifndef EXPORT_BLOB_RULE_H
#define EXPORT_BLOB_RULE_H

#include "export/blob.h"

/* Value of a metadata key, or NULL. */
typedef const char *BlobRuleGet(const void *arg, const char *key);

/* What the metadata say; the arrays are there (decide_alloc). ERR_FORMAT names the key. */
ErrCode blob_rule_read(DecideRule *out, BlobRuleGet *get, const void *arg, const char *const *labels, int K,
                       Err *err) ERR_CHECKED;

/* Hands every key with its value to `put`; false when memory is short. At most blob_rule_pairs(K) of them. */
typedef void BlobRulePut(void *arg, const char *key, const char *value);
bool blob_rule_write(const DecideRule *rule, const char *const *labels, int K, BlobRulePut *put, void *arg);
size_t blob_rule_pairs(size_t K);
bool blob_rule_writes(const char *key);

/* The blob's file with another rule, and with `more` instead of its own metadata of these keys (value NULL:
 * left out). All else, golden vectors among it, stays: logits come before the rule. The blob must be as it
 * was opened, without a Forward on it. */
ErrCode blob_rule_replace(Buf *out, const Blob *blob, const DecideRule *rule, const SafetensorsPair *more,
                          size_t more_count, Err *err) ERR_CHECKED;

#endif
