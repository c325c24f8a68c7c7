/* eval/system_report.h - what `router system` found: as a table for people, as JSON, and as a page to send.
 *
 * JSON, keys stable (an interval is {"value", "low", "high"}; shares from 0 to 1; cost of 1,000 prompts; parameters in
 * billions):
 *   set, n, skipped, router {path, kind, labels}, experts_file, currency
 *   chosen_by    {set, n, lambda, budget_b (or null)}, set null: chosen on the rows themselves
 *   systems      [{system: single | routed | robust | labels | perfect, map: by_hand | coe | null, expert (or null),
 *                threshold, routed (both only of robust), accuracy, gain (intervals), cost, cost_ratio, active_b, total_b,
 *                regret_labels (routed and robust), regret_perfect, chosen_accuracy, chosen_cost (robust)}]
 *   best_single  name
 *   maps         {by_hand: null or {label: expert}, coe: {...}}
 *   misrouting   {map, total, cells: [{label, predicted, n, needed, got, lost}]}: cells that occur, most lost first
 *   curve        {map, fallback, points: [{threshold, routed, accuracy, cost, active_b}]}
 *   frontier     [{total_b, accuracy, map}]: CoE's best map within each budget, on the rows to choose by, labels known
 *   two_models   null or {weak, strong, apgr, cpt50, cpt80, points: [{threshold, strong, accuracy, cost}]} */
#ifndef EVAL_SYSTEM_REPORT_H
#define EVAL_SYSTEM_REPORT_H

#include "core/buf.h"
#include "eval/experts.h"
#include "eval/rowset.h"
#include "eval/system.h"

typedef struct {
    const char *path, *kind; /* of the router */
    const char *const *labels;
    const Experts *experts;
    const Rowset *set, *chosen; /* chosen: NULL where the rows themselves were chosen by */
    const System *system;
    SystemRule rule;
} SystemReport;

void system_report_table(Buf *out, const SystemReport *report);
void system_report_json(Buf *out, const SystemReport *report);

/* ERR_MEMORY aside nothing can fail; failures are the Buf's. */
void system_report_html(Buf *out, const SystemReport *report);

#endif
