/* export/decide_json.h - the decision rule (export/decide.h) in a checkpoint's config.json, where other programs
 * pass over keys that begin with "router_":
 *
 *   router_temperature  number > 0; absent: 1
 *   router_scale        [K numbers > 0] and router_bias [K numbers]; both or neither
 *   router_decision     {"score": "max_probability", "threshold": number or [K numbers], "fallback": label}
 *                       absent: it always answers; fallback may be absent. Further members are for people
 *                       ("policy", "cost": see eval/policy.h).
 *
 * Numbers are taken to float32. */
#ifndef EXPORT_DECIDE_JSON_H
#define EXPORT_DECIDE_JSON_H

#include <cjson/cJSON.h>

#include "export/decide.h"

/* The arrays are there (decide_alloc) whatever the rule is. ERR_FORMAT names the key. */
ErrCode decide_json_read(DecideRule *out, const cJSON *root, const char *const *labels, int K,
                         Err *err) ERR_CHECKED;

/* Puts the rule in the place of what root has of these keys. */
ErrCode decide_json_write(cJSON *root, const DecideRule *rule, const char *const *labels, int K,
                          Err *err) ERR_CHECKED;

#endif
