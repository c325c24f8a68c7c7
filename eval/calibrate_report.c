#include "eval/calibrate_report.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "core/text.h"

static const char *const KEYS[CALIBRATE_SETS] = {"calibration", "test", "ood"};

static const char *precision_of(const CalibrateModel *m) {
    return m->blob ? "int8" : "fp32";
}

/* Of rows of the test set where there are any, else of those that were fitted. */
static const CalibrateSet *shown_set(const CalibrateModel *m) {
    return m->sets[CALIBRATE_TEST].n ? &m->sets[CALIBRATE_TEST] : &m->sets[CALIBRATE_FITTED];
}

/* ---- JSON ---- */

static void put_text(Buf *out, const char *text) {
    text_put_json(out, text, strlen(text));
}

static void put_number(Buf *out, double value) {
    if (isfinite(value))
        buf_printf(out, "%.10g", value);
    else
        buf_puts(out, "null");
}

static void put_if(Buf *out, bool measured, double value) {
    put_number(out, measured ? value : (double)NAN);
}

static void put_float(Buf *out, float value) {
    buf_printf(out, "%.9g", (double)value);
}

static void put_interval(Buf *out, const char *key, const Interval *i) {
    buf_printf(out, "\"%s\": {\"value\": %.10g, \"low\": %.10g, \"high\": %.10g}", key, i->value, i->low,
               i->high);
}

static void put_floats(Buf *out, const char *key, const float *values, int K) {
    buf_printf(out, ", \"%s\": ", key);
    if (!values) {
        buf_puts(out, "null");
        return;
    }
    for (int k = 0; k < K; k++) {
        buf_puts(out, k ? ", " : "[");
        put_float(out, values[k]);
    }
    buf_puts(out, "]");
}

static void put_rule(Buf *out, const CalibrateModel *m) {
    const DecideRule *r = &m->rule;
    const bool decides = r->score != DECIDE_ALWAYS;
    buf_puts(out, "  \"rule\": {\"temperature\": ");
    put_float(out, r->temperature);
    put_floats(out, "scale", r->vector ? r->scale : NULL, m->K);
    put_floats(out, "bias", r->vector ? r->bias : NULL, m->K);
    buf_puts(out, ", \"score\": ");
    if (decides)
        put_text(out, decide_score_name(r->score));
    else
        buf_puts(out, "null");
    if (decides && !r->per_class) {
        buf_puts(out, ", \"threshold\": ");
        put_float(out, r->threshold[0]);
    } else {
        put_floats(out, "threshold", decides ? r->threshold : NULL, m->K);
    }
    buf_puts(out, ", \"fallback\": ");
    if (decides && r->fallback >= 0)
        put_text(out, m->labels[r->fallback]);
    else
        buf_puts(out, "null");
    buf_puts(out, "},\n");
}

static void put_policy(Buf *out, const CalibrateModel *m) {
    buf_puts(out, "  \"policy\": ");
    if (m->policy.kind == POLICY_NONE) {
        buf_puts(out, "null,\n");
        return;
    }
    buf_puts(out, "{\"policy\": ");
    put_text(out, m->policy_text);
    buf_puts(out, ", \"answers\": [");
    for (int k = 0; k < (m->policy.per_class ? m->K : 1); k++) {
        const PolicyChoice *c = &m->choices[k];
        buf_puts(out, k ? ",\n    {" : "\n    {");
        if (m->policy.per_class) {
            buf_puts(out, "\"label\": ");
            put_text(out, m->labels[k]);
            buf_puts(out, ", ");
        }
        buf_puts(out, "\"threshold\": ");
        put_float(out, c->threshold);
        buf_printf(out, ", \"n\": %llu, \"answered\": %llu, \"right\": %llu, \"at_least\": ",
                   (unsigned long long)c->rows, (unsigned long long)c->answered,
                   (unsigned long long)c->right);
        put_if(out, m->policy.kind == POLICY_PRECISION, c->bound);
        buf_puts(out, "}");
    }
    buf_puts(out, "\n  ]},\n");
}

static void put_metrics(Buf *out, const char *key, const Metrics *m) {
    const struct {
        const char *key;
        const Interval *value;
    } ALL[] = {{"accuracy", &m->accuracy},
               {"nll", &m->nll},
               {"brier", &m->brier},
               {"ece", &m->ece},
               {"adaptive_ece", &m->adaptive_ece}};
    buf_printf(out, ",\n      \"%s\": ", key);
    if (m->n == 0) {
        buf_puts(out, "null");
        return;
    }
    for (size_t i = 0; i < sizeof ALL / sizeof ALL[0]; i++) {
        buf_puts(out, i ? ",\n        " : "{");
        put_interval(out, ALL[i].key, ALL[i].value);
    }
    buf_puts(out, "}");
}

static void put_outcome(Buf *out, const CalibrateModel *m, const CalibrateSet *s) {
    const PolicyOutcome *o = &s->outcome;
    buf_puts(out, ",\n      \"answered\": ");
    if (o->rows == 0) {
        buf_puts(out, "null");
        return;
    }
    buf_printf(out, "{\"n\": %llu, ", (unsigned long long)o->answered);
    put_interval(out, "coverage", &o->coverage);
    buf_puts(out, ", ");
    put_interval(out, "precision", &o->precision);
    buf_puts(out, ", \"cost\": ");
    put_if(out, m->policy.kind == POLICY_COST, o->cost);
    buf_puts(out, ", \"cost_always\": ");
    put_if(out, m->policy.kind == POLICY_COST, o->cost_always);
    buf_puts(out, "}");
}

static void put_score(Buf *out, const char *name, const Scores *s, bool aurc) {
    buf_printf(out, "\"%s\": {\"auroc\": ", name);
    put_number(out, s->auroc);
    buf_puts(out, ", \"fpr95\": ");
    put_number(out, s->fpr95);
    buf_puts(out, aurc ? ", \"aurc\": " : ", \"aupr\": ");
    put_number(out, aurc ? s->aurc : s->aupr);
    buf_puts(out, "}");
}

static void put_scores(Buf *out, const Scores scores[DECIDE_SCORES], bool aurc) {
    for (int kind = DECIDE_MAX_PROBABILITY; kind < DECIDE_SCORES; kind++) {
        if (kind > DECIDE_MAX_PROBABILITY) buf_puts(out, ",\n        ");
        put_score(out, decide_score_name((DecideScore)kind), &scores[kind], aurc);
    }
}

static void put_set(Buf *out, const CalibrateModel *m, int which) {
    const CalibrateSet *s = &m->sets[which];
    buf_printf(out, "%s\n    \"%s\": ", which ? "," : "", KEYS[which]);
    if (s->rows == 0) {
        buf_puts(out, "null");
        return;
    }
    buf_puts(out, "{\"name\": ");
    put_text(out, s->name);
    buf_printf(out, ", \"rows\": %zu, \"n\": %zu", s->rows, s->n);
    put_metrics(out, "before", &s->before);
    put_metrics(out, "after", &s->after);
    put_outcome(out, m, s);
    buf_puts(out, ",\n      \"scores\": ");
    if (s->n) {
        buf_puts(out, "{");
        put_scores(out, s->right, true);
        buf_puts(out, "}}");
    } else {
        buf_puts(out, "null}");
    }
}

void calibrate_report_json(Buf *out, const CalibrateModel *m) {
    const Calibration *c = &m->fit;
    buf_puts(out, "{\n  \"model\": ");
    put_text(out, m->model);
    buf_printf(out, ",\n  \"precision\": \"%s\",\n  \"labels\": [", precision_of(m));
    for (int k = 0; k < m->K; k++) {
        if (k) buf_puts(out, ", ");
        put_text(out, m->labels[k]);
    }
    buf_printf(out,
               "],\n  \"fit\": {\"method\": \"%s\", \"temperature\": %.10g, \"folds\": %d, \"seed\": %llu",
               calibrate_kind_name(c->kind), c->temperature, c->folds, (unsigned long long)m->seed);
    buf_puts(out, ", \"vector_gain\": ");
    put_if(out, c->vector_tried, c->gain);
    buf_puts(out, ", \"vector_gain_error\": ");
    put_if(out, c->vector_tried, c->gain_error);
    buf_puts(out, "},\n");
    put_rule(out, m);
    put_policy(out, m);
    buf_puts(out, "  \"sets\": {");
    for (int s = 0; s < CALIBRATE_SETS; s++) put_set(out, m, s);
    buf_puts(out, "\n  },\n  \"ood\": ");
    if (m->has_ood) {
        const bool test = m->sets[CALIBRATE_TEST].rows > 0;
        buf_printf(out, "{\"against\": \"%s\", \"scores\": {",
                   KEYS[test ? CALIBRATE_TEST : CALIBRATE_FITTED]);
        put_scores(out, m->ood, false);
        if (m->has_distance) {
            buf_puts(out, ",\n        ");
            put_score(out, "distance", &m->distance, false);
        }
        buf_puts(out, "}, \"shrinkage\": ");
        put_if(out, m->has_distance, m->shrinkage);
        buf_puts(out, "}\n}\n");
    } else {
        buf_puts(out, "null\n}\n");
    }
}

/* ---- table ---- */

static void put_measures(Buf *out, const char *what, const Metrics *m) {
    buf_printf(out, "    %-8s%8.2f %%%9.4f%9.4f%9.4f  [%6.4f, %6.4f]%9.4f  [%6.4f, %6.4f]\n", what,
               100 * m->accuracy.value, m->nll.value, m->brier.value, m->ece.value, m->ece.low, m->ece.high,
               m->adaptive_ece.value, m->adaptive_ece.low, m->adaptive_ece.high);
}

static void put_excerpt(Buf *out, const char *format, const char *text, size_t most) {
    char shown[124];
    buf_printf(out, format, text_excerpt(shown, most, text, strlen(text)));
}

static void put_fit(Buf *out, const CalibrateModel *m) {
    const Calibration *c = &m->fit;
    const CalibrateSet *s = &m->sets[CALIBRATE_FITTED];
    put_excerpt(out, "model   %s", m->model, 76);
    buf_printf(out, " (%s)\n", precision_of(m));
    put_excerpt(out, "fitted  on %s", s->name, 64);
    buf_printf(out, ", %zu rows in %d folds\n", s->n, c->folds);
    if (c->kind == CALIBRATE_NOTHING)
        buf_printf(out,
                   "        nothing: the temperature %.4g would not lower both NLL (%.5f -> %.5f) and ECE\n"
                   "        (%.4f -> %.4f) on rows held out; it stays at 1\n",
                   c->temperature, c->nll[CALIBRATE_NOTHING], c->nll[CALIBRATE_TEMPERATURE],
                   c->ece[CALIBRATE_NOTHING], c->ece[CALIBRATE_TEMPERATURE]);
    else
        buf_printf(out, "        %s %.5g%s\n", "temperature", c->temperature,
                   c->kind == CALIBRATE_VECTOR ? ", and a scale and bias for each label" : "");
    if (c->vector_tried)
        buf_printf(
            out,
            "        scale and bias for each label: %+.5f nats a row better than the temperature alone\n"
            "        on rows held out, standard error %.5f: %s\n",
            c->gain, c->gain_error,
            c->kind == CALIBRATE_VECTOR      ? "taken"
            : c->gain > 1.96 * c->gain_error ? "not taken, as ECE would not be lower than before"
                                             : "not taken");
}

static void put_sets(Buf *out, const CalibrateModel *m) {
    buf_puts(
        out,
        "\n            accuracy      NLL    Brier      ECE  [95 % interval]  adaptive  [95 % interval]\n");
    for (int i = 0; i < CALIBRATE_SETS; i++) {
        const CalibrateSet *s = &m->sets[i];
        if (s->rows == 0) continue;
        buf_printf(out, "  %s", KEYS[i]);
        put_excerpt(out, ": %s", s->name, 60);
        buf_printf(out, ", %zu rows%s\n", s->n, i == CALIBRATE_FITTED ? ", each by a fit without it" : "");
        if (s->n < s->rows) buf_printf(out, "    (%zu more without a label)\n", s->rows - s->n);
        if (s->n == 0) continue;
        put_measures(out, "before", &s->before);
        put_measures(out, "after", &s->after);
    }
}

static void put_threshold(Buf *out, float threshold) {
    if (threshold >= FLT_MAX)
        buf_puts(out, "     never");
    else if (threshold <= -FLT_MAX)
        buf_puts(out, "    always");
    else
        buf_printf(out, "%10.6f", (double)threshold);
}

static void put_class_thresholds(Buf *out, const CalibrateModel *m) {
    buf_printf(out, "    %-24s threshold  answered     of rows   precision%s\n", "label",
               m->policy.kind == POLICY_PRECISION ? "   at least" : "");
    for (int k = 0; k < m->K; k++) {
        const PolicyChoice *c = &m->choices[k];
        char shown[28];
        buf_printf(out, "    %-24s", text_excerpt(shown, 20, m->labels[k], strlen(m->labels[k])));
        put_threshold(out, m->rule.threshold[k]);
        buf_printf(out, "%10llu%12llu", (unsigned long long)c->answered, (unsigned long long)c->rows);
        if (c->answered)
            buf_printf(out, "%10.2f %%", 100 * (double)c->right / (double)c->answered);
        else
            buf_puts(out, "           -");
        if (m->policy.kind == POLICY_PRECISION && c->answered) buf_printf(out, "%9.2f %%", 100 * c->bound);
        buf_puts(out, "\n");
    }
}

static void put_decision(Buf *out, const CalibrateModel *m) {
    const DecideRule *r = &m->rule;
    put_excerpt(out, "\npolicy  %s", m->policy_text, 50);
    buf_printf(out, " by %s", decide_score_name(r->score));
    if (r->per_class) {
        buf_puts(out, ", a threshold for each label\n");
        put_class_thresholds(out, m);
    } else {
        buf_puts(out, ", threshold");
        put_threshold(out, r->threshold[0]);
        buf_puts(out, "\n");
        if (m->policy.kind == POLICY_PRECISION)
            buf_printf(out,
                       "        precision at least %.2f %% with 95 %% confidence (%d thresholds tried)\n",
                       100 * m->choices[0].bound, POLICY_TRIES);
    }
    put_excerpt(out, "        fallback for what is not answered: %s\n",
                r->fallback < 0 ? "none" : m->labels[r->fallback], 60);
    const bool cost = m->policy.kind == POLICY_COST;
    buf_printf(out, "                     answered  [95 %% interval]    precision  [95 %% interval]%s\n",
               cost ? "       cost    always" : "");
    for (int i = 0; i < CALIBRATE_SETS; i++) {
        const PolicyOutcome *o = &m->sets[i].outcome;
        if (o->rows == 0) continue;
        buf_printf(out, "    %-12s%11.2f %%  [%6.2f, %6.2f]%11.2f %%  [%6.2f, %6.2f]", KEYS[i],
                   100 * o->coverage.value, 100 * o->coverage.low, 100 * o->coverage.high,
                   100 * o->precision.value, 100 * o->precision.low, 100 * o->precision.high);
        if (cost) buf_printf(out, "%11.4f%10.4f", o->cost, o->cost_always);
        buf_puts(out, i == CALIBRATE_FITTED ? "  chosen on these\n" : "\n");
    }
}

static void put_share(Buf *out, double value) {
    if (isfinite(value))
        buf_printf(out, "%9.4f", value);
    else
        buf_puts(out, "        -");
}

static void put_score_rows(Buf *out, const CalibrateModel *m) {
    const CalibrateSet *set = shown_set(m);
    buf_printf(out, "\n  right against wrong answers of %s",
               KEYS[set == &m->sets[CALIBRATE_TEST] ? CALIBRATE_TEST : CALIBRATE_FITTED]);
    buf_puts(out, m->has_ood ? "         its rows against ood\n" : "\n");
    buf_puts(out, "    score               AUROC    FPR95     AURC");
    buf_puts(out, m->has_ood ? "          AUROC    FPR95     AUPR\n" : "\n");
    for (int kind = DECIDE_MAX_PROBABILITY; kind < DECIDE_SCORES; kind++) {
        buf_printf(out, "    %-16s", decide_score_name((DecideScore)kind));
        put_share(out, set->right[kind].auroc);
        put_share(out, set->right[kind].fpr95);
        put_share(out, set->right[kind].aurc);
        if (m->has_ood) {
            buf_puts(out, "      ");
            put_share(out, m->ood[kind].auroc);
            put_share(out, m->ood[kind].fpr95);
            put_share(out, m->ood[kind].aupr);
        }
        buf_puts(out, "\n");
    }
    if (!m->has_distance) return;
    buf_printf(out, "    %-16s%33s", "distance", "");
    put_share(out, m->distance.auroc);
    put_share(out, m->distance.fpr95);
    put_share(out, m->distance.aupr);
    buf_printf(out, "\n    (the distance is not stored with the model; its covariance is shrunk by %.3f)\n",
               m->shrinkage);
}

void calibrate_report_table(Buf *out, const CalibrateModel *m) {
    put_fit(out, m);
    put_sets(out, m);
    if (m->policy.kind != POLICY_NONE) put_decision(out, m);
    put_score_rows(out, m);
}

void calibrate_report_line(Buf *out, const CalibrateModel *m) {
    const CalibrateSet *s = &m->sets[CALIBRATE_FITTED];
    if (m->fit.kind == CALIBRATE_NOTHING)
        buf_printf(out, "temperature 1: %zu rows held out would be no better calibrated with another", s->n);
    else
        buf_printf(out, "temperature %.5g%s from %zu rows; ECE %.4f -> %.4f on rows held out",
                   m->fit.temperature, m->fit.kind == CALIBRATE_VECTOR ? " and a vector" : "", s->n,
                   s->before.ece.value, s->after.ece.value);
}
