/* eval/page.h - the report of `router eval` as one HTML page (core/html.h: nothing fetched, no scripts, every text escaped).
 *
 * The page is a function of the JSON that is saved beside it, so that every number in it is one of the JSON's, rounded: shares
 * to hundredths of a percent, losses to four decimals. That JSON is eval/report.h's with four members more:
 *   mistakes   eval/listing.h
 *   training   eval/provenance.h, or null
 *   system     what `router system --out` wrote (eval/system_report.h), or null
 *   also       [reports of other sets, as `router eval --out` wrote them]
 * Members that are missing or of another kind leave their part of the page out. */
#ifndef EVAL_PAGE_H
#define EVAL_PAGE_H

#include <cjson/cJSON.h>

#include "core/buf.h"
#include "core/err.h"

/* Whether a tree is a report at all: an object with set, n, labels and accuracy. ERR_FORMAT says what is missing. */
ErrCode page_check(const cJSON *report, Err *err) ERR_CHECKED;

/* The whole page of a report that passed the check. */
void page_put(Buf *out, const cJSON *report);

#endif
