/* tests/test_experts.c - a router with its experts: the table, CoE against enumeration, the numbers by hand and against
 * plain loops, and the command. */
#include <glpk.h>

#include "core/file.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/rng.h"
#include "eval/coe.h"
#include "eval/experts.h"
#include "eval/system.h"
#include "eval/system_cmd.h"
#include "tests/unit.h"

static const char *const LABELS[] = {"math", "code"};

/* ---- the table ---- */

#define ONE(name) \
    "{\"name\": \"" name "\", \"parameters_b\": 7, \"price_in\": 1, \"price_out\": 2, \"accuracy\": 0.5}"

static void test_table(void **state) {
    (void)state;
    Experts e;
    Err err = {0};
    const char *path = save("experts.json",
                            "{\"_note\": 1, \"currency\": \"EUR\", \"output_tokens\": 100, \"fallback\": \"big\",\n"
                            " \"routes\": {\"code\": \"small\", \"math\": \"big\"},\n"
                            " \"router\": {\"parameters_b\": 0.3, \"price_in\": 0.01},\n"
                            " \"experts\": [" ONE("small") ",\n"
                            "  {\"name\": \"big\", \"parameters_b\": 70.6, \"price_in\": 3, \"price_out\": 4,\n"
                            "   \"input_tokens\": 10, \"output_tokens\": 20, \"accuracy\": {\"code\": 0.75, \"math\": "
                            "0.25}},\n"
                            "  {\"name\": \"told\", \"parameters_b\": 1, \"price_in\": 1, \"price_out\": 1, "
                            "\"correctness\": \"told.jsonl\"}]}");
    ok(experts_read(&e, path, LABELS, 2, &err), &err);
    assert_int_equal(e.count, 3);
    assert_string_equal(e.currency, "EUR");
    assert_int_equal(e.fallback, 1);
    assert_int_equal(e.routes[0], 1);
    assert_int_equal(e.routes[1], 0);
    assert_int_equal(e.router_parameters, 300);
    assert_int_equal(e.items[1].parameters, 70600);
    assert_near(e.items[0].output_tokens, 100, 0);
    assert_near(e.items[1].output_tokens, 20, 0);
    assert_near(e.items[0].accuracy[1], 0.5, 0);
    assert_near(e.items[1].accuracy[1], 0.75, 0);
    assert_string_equal(e.items[2].correctness, in_folder("told.jsonl"));
    assert_false(e.per_prompt);
    /* outcomes: tokens by bytes, by the table, by the file */
    Rows rows = {0};
    const char *data = save("rows.jsonl",
                            "{\"id\": \"x\", \"text\": \"12345\", \"label\": \"math\"}\n"
                            "{\"id\": 7, \"text\": \"1234\", \"label\": \"code\"}\n");
    ok(rows_read(&rows, data, &(RowsRule){.split = SPLIT_COUNT}, LABELS, 2, &err), &err);
    save("told.jsonl",
         "{\"id\": \"x\", \"correct\": true, \"input_tokens\": 1000, \"output_tokens\": 0}\n\n"
         "{\"id\": \"elsewhere\", \"correct\": false}\n{\"id\": 7, \"correct\": 0.25}\n");
    ExpertsOutcome o;
    ok(experts_outcome(&o, &e, &rows, &err), &err);
    const double quality[] = {0.5, 0.25, 1, 0.5, 0.75, 0.25};
    const double cost[] = {2 * 1 + 100 * 2, 10 * 3 + 20 * 4, 1000, 1 + 100 * 2, 10 * 3 + 20 * 4, 1 + 100};
    for (int i = 0; i < 6; i++) {
        assert_near(o.quality[i], quality[i], 0);
        assert_near(o.cost[i], 1e-6 * cost[i], 1e-18);
    }
    assert_near(o.router_cost[0], 2e-8, 1e-20);
    experts_outcome_free(&o);
    static const struct {
        const char *text, *message;
    } TOLD[] = {
        {"", "told.jsonl: nothing about the row with the id 'x'"},
        {"1\n", "told.jsonl:1: expected an object such as {\"id\": \"7\", \"correct\": true}"},
        {"{\"id\": \"x\", \"correct\": 2}\n", "told.jsonl:1: correct: found 2, expected a share from 0 to 1"},
        {"{\"id\": \"x\"}\n", "told.jsonl:1: correct: expected true, false or a share from 0 to 1"},
        {"{\"correct\": true}\n", "told.jsonl:1: id: expected a string or an integer"},
        {"{\"id\": \"x\", \"correct\": true}\n{\"id\": \"x\", \"correct\": true}\n",
         "told.jsonl:2: the id 'x' is that of line 1"},
        {"{\"id\": \"x\", \"right\": true}\n",
         "told.jsonl:1: expected id, correct, input_tokens and output_tokens only"},
        {"{\"id\": \"x\", \"correct\": true, \"input_tokens\": -1}\n",
         "told.jsonl:1: key \"input_tokens\": found -1, expected 0 to 1e+09"},
    };
    for (size_t i = 0; i < sizeof TOLD / sizeof *TOLD; i++) {
        save("told.jsonl", TOLD[i].text);
        assert_int_equal(experts_outcome(&o, &e, &rows, &err), ERR_FORMAT);
        assert_says(&err, TOLD[i].message);
    }
    rows.items[1].id_at = rows.items[0].id_at;
    assert_int_equal(experts_outcome(&o, &e, &rows, &err), ERR_FORMAT);
    assert_says(&err, "two rows have the id 'x': correctness cannot be told by id");
    save("told.jsonl", "{\"id\": \"x\", \"correct\": true}\n{\"id\": \"y\", \"correct\": true}\n");
    rows.count = 1;
    EACH_ALLOCATION_FAILS(200, experts_outcome(&o, &e, &rows, NULL));
    experts_outcome_free(&o);
    rows_free(&rows);
    experts_free(&e);
    experts_free(&e);
    EACH_ALLOCATION_FAILS(200, experts_read(&e, path, LABELS, 2, NULL));
    experts_free(&e);
}

static void test_bad_table(void **state) {
    (void)state;
#define WITH(member) \
    "{\"experts\": [{\"name\": \"a\", \"parameters_b\": 7, \"price_in\": 1, \"price_out\": 2, " member "}]}"
    static const struct {
        const char *text, *message;
    } BAD[] = {
        {"[]", "t.json: expected a JSON object with experts"},
        {"{}", "t.json: experts: expected an array of 1 to 256 objects"},
        {"{\"experts\": []}", "t.json: experts: expected an array of 1 to 256 objects"},
        {"{\"expert\": [" ONE("a") "]}", "t.json: unknown key \"expert\"; did you mean \"experts\"?"},
        {"{\"experts\": [1]}", "t.json: experts[0]: expected an object"},
        {"{\"experts\": [{}]}", "t.json: experts[0]: no name"},
        {"{\"experts\": [{\"name\": \"\"}]}", "t.json: experts[0]: key \"name\": empty"},
        {"{\"experts\": [" ONE("a") ", " ONE("a") "]}", "t.json: experts[1]: the name 'a' occurs twice"},
        {"{\"experts\": [{\"name\": \"a\"}]}",
         "t.json: experts[0]: 'a': expected parameters_b, price_in and price_out"},
        {WITH("\"params\": 1"), "t.json: experts[0]: unknown key \"params\""},
        {WITH("\"input_tokens\": \"many\""),
         "t.json: experts[0]: key \"input_tokens\": found a string, expected a number"},
        {WITH("\"_x\": 1"), "t.json: experts[0]: 'a': expected either accuracy or correctness"},
        {WITH("\"accuracy\": 1, \"correctness\": \"f\""),
         "t.json: experts[0]: 'a': expected either accuracy or correctness"},
        {WITH("\"accuracy\": \"good\""),
         "t.json: experts[0]: 'a': accuracy: expected a number, or {\"label\": number, ...}"},
        {WITH("\"accuracy\": 87.7"),
         "t.json: experts[0]: 'a': accuracy of 'math': expected a share from 0 to 1"},
        {WITH("\"accuracy\": {\"math\": 1}"),
         "t.json: experts[0]: 'a': accuracy: nothing about the label 'code'"},
        {WITH("\"accuracy\": {\"math\": 1, \"coed\": 1}"),
         "t.json: experts[0]: 'a': accuracy: 'coed' is no label of the router; did you mean 'code'?"},
        {"{\"experts\": [" ONE("a") "], \"routes\": {\"math\": \"b\"}}",
         "t.json: routes: 'math': 'b' is no expert; did you mean 'a'?"},
        {"{\"experts\": [" ONE("a") "], \"routes\": {\"math\": 1}}",
         "t.json: routes: 'math': expected a string, the name of an expert"},
        {"{\"experts\": [" ONE("a") "], \"routes\": {\"math\": \"a\"}}",
         "t.json: routes: no expert for the label 'code'"},
        {"{\"experts\": [" ONE("a") "], \"routes\": []}",
         "t.json: routes: expected {\"label\": \"expert\", ...}"},
        {"{\"experts\": [" ONE("general") "], \"fallback\": \"genral\"}",
         "t.json: fallback: 'genral' is no expert; did you mean 'general'?"},
        {"{\"experts\": [" ONE("a") "], \"router\": {\"size\": 1}}", "t.json: router: unknown key \"size\""},
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        Experts e;
        Err err = {0};
        assert_int_equal(experts_read(&e, save("t.json", BAD[i].text), LABELS, 2, &err), ERR_ARGUMENT);
        assert_says(&err, BAD[i].message);
        assert_int_equal(e.count, 0);
    }
}

/* ---- CoE ---- */

enum { E_MOST = 8, C_MOST = 6 };

/* All subsets: the best quality that each sum of sizes can reach, then what no smaller sum reaches. */
static size_t enumerate(int64_t sizes[], int64_t qualities[], const CoeProblem *p, int64_t budget) {
    size_t count = 0;
    for (unsigned subset = 1; subset < 1u << p->E; subset++) {
        int64_t size = 0, quality = 0;
        for (int e = 0; e < p->E; e++) size += subset >> e & 1 ? p->size[e] : 0;
        if (budget >= 0 && size > budget) continue;
        for (int c = 0; c < p->C; c++) {
            int64_t best = 0;
            for (int e = 0; e < p->E; e++)
                if (subset >> e & 1 && p->weight[c * p->E + e] > best) best = p->weight[c * p->E + e];
            quality += best;
        }
        sizes[count] = size;
        qualities[count++] = quality;
    }
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        bool dominated = false;
        for (size_t j = 0; j < count && !dominated; j++)
            dominated = (sizes[j] < sizes[i] && qualities[j] >= qualities[i]) ||
                        (sizes[j] <= sizes[i] && qualities[j] > qualities[i]) ||
                        (sizes[j] == sizes[i] && qualities[j] == qualities[i] && j < i);
        if (dominated) continue;
        const int64_t size = sizes[i], quality = qualities[i];
        size_t at = kept++;
        /* written at or before i: what is compared later stays as it is only behind i, so keep a copy apart */
        sizes[count + at] = size;
        qualities[count + at] = quality;
    }
    for (size_t i = 0; i < kept; i++) {
        sizes[i] = sizes[count + i];
        qualities[i] = qualities[count + i];
    }
    for (size_t i = 1; i < kept; i++)
        for (size_t j = i; j > 0 && sizes[j - 1] > sizes[j]; j--) {
            const int64_t size = sizes[j], quality = qualities[j];
            sizes[j] = sizes[j - 1];
            qualities[j] = qualities[j - 1];
            sizes[j - 1] = size;
            qualities[j - 1] = quality;
        }
    return kept;
}

static void check_frontier(const CoeFrontier *f, const CoeProblem *p, int64_t budget) {
    static int64_t sizes[2 << E_MOST], qualities[2 << E_MOST];
    const size_t count = enumerate(sizes, qualities, p, budget);
    assert_int_equal(f->count, count);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(f->points[i].parameters, sizes[i]);
        assert_int_equal(f->points[i].quality, qualities[i]);
        bool used[E_MOST] = {false};
        int64_t quality = 0, size = 0;
        for (int c = 0; c < p->C; c++) {
            const int e = f->points[i].expert[c];
            assert_in_range(e, 0, p->E - 1);
            quality += p->weight[c * p->E + e];
            used[e] = true;
        }
        for (int e = 0; e < p->E; e++) size += used[e] ? p->size[e] : 0;
        assert_int_equal(quality, qualities[i]);
        assert_int_equal(size, sizes[i]);
    }
}

static void test_coe(void **state) {
    (void)state;
    /* by hand: general 70 (0.6, 0.6), math 30 (0.9, 0.1), code 30 (0.2, 0.8), halves */
    const int64_t size[] = {70, 30, 30};
    const double share[] = {0.5, 0.5}, quality[] = {0.6, 0.9, 0.2, 0.6, 0.1, 0.8};
    int64_t weight[E_MOST * C_MOST], sizes[E_MOST];
    coe_weights(weight, share, quality, 2, 3);
    const CoeProblem hand = {2, 3, size, weight};
    CoeFrontier f;
    Err err = {0};
    ok(coe_frontier(&f, &hand, -1, &err), &err);
    assert_int_equal(f.count, 2);
    assert_int_equal(f.points[0].parameters, 30);
    assert_int_equal(f.points[0].quality, 500000);
    assert_int_equal(f.points[1].parameters, 60);
    assert_int_equal(f.points[1].quality, 850000);
    assert_int_equal(f.points[1].expert[0], 1);
    assert_int_equal(f.points[1].expert[1], 2);
    coe_free(&f);
    assert_int_equal(coe_frontier(&f, &hand, 29, &err), ERR_ARGUMENT);
    assert_string_equal(err.msg, "a budget of 0.029 billion parameters: the smallest expert has 0.03");
    EACH_ALLOCATION_FAILS(100, coe_frontier(&f, &hand, -1, NULL));
    coe_free(&f);
    const int64_t none[] = {0, 1, 1};
    assert_int_equal(coe_frontier(&f, &(CoeProblem){2, 3, none, weight}, -1, &err), ERR_ARGUMENT);
    assert_int_equal(coe_frontier(&f, &(CoeProblem){2, 20000, none, weight}, -1, &err), ERR_ARGUMENT);
    /* random ones: sizes of a few millions, of many, and equal; weights with ties and zeros */
    for (uint64_t round = 0; round < 400; round++) {
        const uint64_t at = 1000 * round;
        const CoeProblem p = {1 + (int)pick("C", at, C_MOST), 1 + (int)pick("E", at, E_MOST), sizes, weight};
        const size_t span = round % 3 == 0 ? 5 : round % 3 == 1 ? 400 : 500000;
        const size_t steps = round % 4 == 0 ? 4 : 150000;
        for (int e = 0; e < p.E; e++) sizes[e] = 1 + (int64_t)pick("size", at + (uint64_t)e, span);
        for (int i = 0; i < p.C * p.E; i++)
            weight[i] = (int64_t)(pick("weight", at + (uint64_t)i, steps) * (600000 / steps) / (size_t)p.C);
        const int64_t budget = round % 2 ? -1 : sizes[0] + (int64_t)pick("budget", at, 2 * span);
        ok(coe_frontier(&f, &p, budget, &err), &err);
        check_frontier(&f, &p, budget);
        coe_free(&f);
    }
}

/* GLPK ends the program when its memory is short; here it is an error, and the next problem is solved. */
static void test_coe_memory(void **state) {
    (void)state;
    enum { C = 60, E = 60 };
    static int64_t size[E], weight[C * E];
    for (int e = 0; e < E; e++) size[e] = 1 + (int64_t)pick("large size", (uint64_t)e, 1000);
    for (int i = 0; i < C * E; i++) weight[i] = (int64_t)pick("large weight", (uint64_t)i, COE_UNITS / C);
    CoeFrontier f;
    Err err = {0};
    glp_mem_limit(1); /* MiB */
    assert_int_equal(coe_frontier(&f, &(CoeProblem){C, E, size, weight}, 500, &err), ERR_BACKEND);
    assert_non_null(strstr(err.msg, "GLPK gave up: "));
    assert_int_equal(f.count, 0);
    ok(coe_frontier(&f, &(CoeProblem){2, 3, size, weight}, -1, &err), &err);
    coe_free(&f);
}

/* ---- the system ---- */

/* Experts and outcomes without files. Freed with free_made. */
static void make_experts(Experts *e, int count, int K) {
    *e = (Experts){
        .count = count, .K = K, .fallback = -1, .path = mem_strdup("made"), .currency = mem_strdup("USD")};
    e->items = mem_alloc((size_t)count, sizeof *e->items);
    for (int x = 0; x < count; x++) {
        char name[16];
        (void)snprintf(name, sizeof name, "e%d", x);
        e->items[x].name = mem_strdup(name);
    }
}

static void test_system_by_hand(void **state) {
    (void)state;
    /* two labels; experts: e0 good at math, e1 good at code and dear, e2 middling and cheap */
    Experts e;
    make_experts(&e, 3, 2);
    const int64_t parameters[] = {10000, 20000, 5000};
    for (int x = 0; x < 3; x++) e.items[x].parameters = parameters[x];
    e.router_parameters = 1000;
    e.routes = mem_alloc(2, sizeof *e.routes);
    e.routes[1] = 1;
    const double p[] = {0.9, 0.1, 0.4, 0.6, 0.2, 0.8, 0.7, 0.3};
    const int labels[] = {0, 0, 1, 1}; /* rows 1 and 3 are misrouted */
    double quality[] = {1, 0, 0.75, 1, 0, 0.75, 0, 1, 0.75, 0, 1, 0.75};
    double cost[] = {1, 2, 0.5, 1, 2, 0.5, 1, 2, 0.5, 1, 2, 0.5}, router_cost[] = {0.1, 0.1, 0.1, 0.1};
    const ExpertsOutcome o = {4, 3, quality, cost, router_cost};
    const SystemRows rows = {p, labels, 4, 2, &o};
    System s;
    Err err = {0};
    ok(system_compute(&s, &e, &rows, &rows, &(SystemRule){0, -1}, &err), &err);
    /* three singles, by hand, CoE, both robust, both with labels, perfect */
    assert_int_equal(s.count, 10);
    assert_int_equal(s.best_single, 2);
    assert_near(s.lines[2].cost, 500, 1e-9);
    assert_int_equal(s.main, 3);
    const SystemLine *routed = &s.lines[3], *robust = &s.lines[5], *known = &s.lines[7],
                     *perfect = &s.lines[9];
    assert_near(routed->accuracy.value, 0.5, 1e-15);
    assert_near(routed->cost, 1000 * (0.1 + 6.0 / 4), 1e-9);
    assert_near(routed->cost_ratio, 3.2, 1e-12);
    assert_near(routed->active, 15000 + 1000, 1e-9);
    assert_near(routed->total, 31000, 1e-9);
    assert_near(routed->regret_labels, 0.5, 1e-15);
    assert_near(routed->regret_perfect, 0.5, 1e-15);
    assert_near(known->accuracy.value, 1, 0);
    assert_near(perfect->accuracy.value, 1, 0);
    /* below 0.75 lie the rows of 0.6 and 0.7, both wrong: e2 is mostly right */
    assert_int_equal(robust->expert, 2);
    assert_near(robust->threshold, 0.75, 1e-15);
    assert_near(robust->accuracy.value, 0.875, 1e-15);
    assert_near(robust->routed, 0.5, 0);
    assert_near(robust->cost, 1000 * (0.1 + (1 + 0.5 + 2 + 0.5) / 4), 1e-9);
    assert_near(robust->chosen_accuracy, 0.875, 1e-15);
    assert_near(robust->total, 36000, 1e-9);
    /* of 1, .75, 1, .75: standard error sqrt(1/48 / 4) */
    assert_near(robust->accuracy.low, 0.875 - 1.959963984540054 * sqrt(1.0 / 192), 1e-12);
    const double lost[] = {0, 0.25, 0.25, 0};
    for (int i = 0; i < 4; i++) {
        assert_near(s.misrouting[i], lost[i], 1e-15);
        assert_int_equal(s.confusion[i], 1);
    }
    assert_int_equal(s.curve_fallback, 2);
    assert_int_equal(s.point_count, 5);
    const double accuracy[] = {0.5, 0.6875, 0.875, 0.8125,
                               0.75}; /* rows move in the order 0.6, 0.7, 0.8, 0.9 */
    for (size_t i = 0; i < 5; i++) {
        assert_near(s.points[i].accuracy, accuracy[i], 1e-15);
        assert_near(s.points[i].routed, 1 - (double)i / 4, 1e-15);
    }
    /* e0 and e1 are equally good: no stronger one */
    assert_false(s.two.there);
    system_free(&s);
    system_free(&s);
    /* money counts: at 1 point for 1 unit the cheap one takes more */
    ok(system_compute(&s, &e, &rows, &rows, &(SystemRule){1, -1}, &err), &err);
    assert_near(s.lines[5].threshold, 2, 0);
    assert_near(s.lines[5].chosen_cost, 600, 1e-9);
    system_free(&s);
    /* a budget of both specialists has no room for another fallback, which the map by hand may have */
    ok(system_compute(&s, &e, &rows, &rows, &(SystemRule){0, 30000}, &err), &err);
    assert_int_equal(s.lines[5].expert, 2);
    assert_int_not_equal(s.lines[6].expert, 2);
    system_free(&s);
    assert_int_equal(system_compute(&s, &e, &rows, NULL, &(SystemRule){0, 4999}, &err), ERR_ARGUMENT);
    EACH_ALLOCATION_FAILS(100, system_compute(&s, &e, &rows, &rows, &(SystemRule){0, -1}, NULL));
    system_free(&s);
    experts_free(&e);
}

static void test_two_models(void **state) {
    (void)state;
    Experts e;
    make_experts(&e, 2, 2);
    e.items[0].parameters = 1;
    e.items[1].parameters = 10;
    e.routes = mem_alloc(2, sizeof *e.routes);
    e.routes[1] = 1; /* label 1: needs the stronger */
    /* the weak one is right on rows 0 and 1, the strong one everywhere */
    const double p[] = {0.9, 0.1, 0.3, 0.7, 0.4, 0.6, 0.2, 0.8};
    const int labels[] = {0, 0, 1, 1};
    double quality[] = {1, 1, 1, 1, 0, 1, 0, 1}, cost[] = {1, 10, 1, 10, 1, 10, 1, 10}, none[4] = {0};
    const ExpertsOutcome o = {4, 2, quality, cost, none};
    const SystemRows rows = {p, labels, 4, 2, &o};
    System s;
    Err err = {0};
    ok(system_compute(&s, &e, &rows, NULL, &(SystemRule){0, -1}, &err), &err);
    assert_true(s.two.there && s.two.strong == 1 && s.two.weak == 0);
    /* rows by score for the strong: 0.8 (+1/2 of the gap), 0.7 (0), 0.6 (+1/2), 0.1 (0): PGR 0, .5, .5, 1, 1 */
    assert_near(s.two.apgr, (0.25 + 0.5 + 0.75 + 1) / 4, 1e-12);
    assert_near(s.two.cpt50, 0.25, 0);
    assert_near(s.two.cpt80, 0.75, 0);
    assert_int_equal(s.two.count, 5);
    assert_near(s.two.points[0].routed, 1, 0);
    assert_near(s.two.points[0].cost, 10000, 1e-9);
    assert_near(s.two.points[4].accuracy, 0.5, 1e-15);
    assert_false(s.chosen_apart);
    system_free(&s);
    /* scores that tie are chance */
    const double flat[] = {0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5};
    const SystemRows tied = {flat, labels, 4, 2, &o};
    ok(system_compute(&s, &e, &tied, NULL, &(SystemRule){0, -1}, &err), &err);
    assert_near(s.two.apgr, 0.5, 1e-12);
    assert_near(s.two.cpt50, 1, 0);
    system_free(&s);
    experts_free(&e);
}

/* The best fallback and threshold by trying them all. */
static double best_by_loops(const Experts *e, const SystemRows *rows, const int *map, double lambda) {
    double best = -HUGE_VAL;
    for (int x = 0; x < e->count; x++)
        for (size_t t = 0; t <= rows->n; t++) {
            const double threshold =
                t < rows->n ? system_confidence(rows->p + t * (size_t)rows->K, rows->K) : 2;
            double quality = 0, cost = 0;
            for (size_t i = 0; i < rows->n; i++) {
                const double *p = rows->p + i * (size_t)rows->K;
                const int expert =
                    system_confidence(p, rows->K) < threshold ? x : map[metrics_best(p, rows->K)];
                quality += rows->outcome->quality[i * (size_t)e->count + (size_t)expert];
                cost += rows->outcome->cost[i * (size_t)e->count + (size_t)expert] +
                        rows->outcome->router_cost[i];
            }
            best = fmax(best, (100 * quality - lambda * 1000 * cost) / (double)rows->n);
        }
    return best;
}

static void test_system_by_loops(void **state) {
    (void)state;
    enum { N = 60, K = 4, E = 5 };
    for (uint64_t round = 0; round < 60; round++) {
        const uint64_t key = rng_key(seed, "system", round);
        static double p[N * K], quality[N * E], cost[N * E], router_cost[N];
        static int labels[N];
        Experts e;
        make_experts(&e, E, K);
        for (int x = 0; x < E; x++)
            e.items[x].parameters = 1 + (int64_t)pick("parameters", 10 * round + (uint64_t)x, 50);
        e.routes = mem_alloc(K, sizeof *e.routes);
        for (uint64_t k = 0; k < K; k++) e.routes[k] = (int)(rng_bits(key, k) % E);
        for (uint64_t i = 0; i < N; i++) {
            double sum = 0;
            labels[i] = (int)(rng_bits(key + 1, i) % K);
            for (uint64_t k = 0; k < K; k++) /* few values, so that scores tie */
                sum += p[i * K + k] =
                    1 + (double)(rng_bits(key + 2, i * K + k) % 4) + 3 * ((int)k == labels[i]);
            for (uint64_t k = 0; k < K; k++) p[i * K + k] /= sum;
            for (uint64_t x = 0; x < E; x++) {
                quality[i * E + x] =
                    round % 2 ? (double)(rng_bits(key + 3, i * E + x) % 2) : rng_uniform(key + 3, i * E + x);
                cost[i * E + x] = 1e-3 * (1 + (double)x) * (0.5 + rng_uniform(key + 4, i));
            }
            router_cost[i] = 1e-5;
        }
        const ExpertsOutcome o = {N, E, quality, cost, router_cost};
        const SystemRows rows = {p, labels, N, K, &o};
        const double lambda = round % 3 ? 0.5 * (double)(round % 3) : 0;
        System s;
        Err err = {0};
        ok(system_compute(&s, &e, &rows, &rows, &(SystemRule){lambda, -1}, &err), &err);
        double cells = 0;
        uint64_t n = 0;
        for (int i = 0; i < K * K; i++) {
            cells += s.misrouting[i];
            n += s.confusion[i];
        }
        assert_int_equal(n, N);
        assert_near(cells, s.lines[s.main].regret_labels, 1e-12);
        const SystemLine *perfect = &s.lines[s.count - 1];
        assert_int_equal(perfect->kind, SYSTEM_PERFECT);
        for (size_t i = 0; i < s.count; i++) {
            const SystemLine *line = &s.lines[i];
            assert_true(line->accuracy.value <= perfect->accuracy.value + 1e-12);
            assert_true(line->accuracy.low <= line->accuracy.value &&
                        line->accuracy.value <= line->accuracy.high);
            assert_near(line->gain.value, line->accuracy.value - s.lines[s.best_single].accuracy.value,
                        1e-12);
            if (line->kind != SYSTEM_ROBUST) continue;
            /* chosen on the rows that are measured: the same numbers, and no better ones */
            assert_near(line->chosen_accuracy, line->accuracy.value, 1e-12);
            assert_near(line->chosen_cost, line->cost, 1e-9);
            assert_near(100 * line->accuracy.value - lambda * line->cost,
                        best_by_loops(&e, &rows, s.maps[line->map], lambda), 1e-8);
        }
        /* the curve's ends are the map and the fallback alone */
        assert_near(s.points[0].accuracy, s.lines[s.main].accuracy.value, 1e-12);
        assert_near(s.points[s.point_count - 1].accuracy, s.lines[s.curve_fallback].accuracy.value, 1e-12);
        assert_near(s.points[s.point_count - 1].routed, 0, 0);
        /* CoE's last point is what its map reaches with labels known, but for the units */
        assert_near((double)s.frontier.points[s.frontier.count - 1].quality / COE_UNITS,
                    s.lines[s.count - 2].accuracy.value, 1e-5);
        system_free(&s);
        experts_free(&e);
    }
}

/* ---- the command ---- */

static const cJSON *at(const cJSON *item, const char *key) {
    item = cJSON_GetObjectItemCaseSensitive(item, key);
    if (!item) fail_msg("no %s", key);
    return item;
}

static void test_command(void **state) {
    (void)state;
    save("data.jsonl",
         "{\"id\": \"w\", \"text\": \"1234\", \"label\": \"math\"}\n"
         "{\"id\": \"x\", \"text\": \"12345678\", \"label\": \"math\"}\n"
         "{\"id\": \"y\", \"text\": \"1234\", \"label\": \"code\", \"split\": \"test\"}\n"
         "{\"id\": \"z\", \"text\": \"1234\", \"label\": \"code\", \"split\": \"calibration\"}\n");
    save("answers.jsonl",
         "{\"id\": \"w\", \"scores\": {\"math\": 0.9, \"code\": 0.1}}\n"
         "{\"id\": \"x\", \"scores\": {\"math\": 0.4, \"code\": 0.6}}\n"
         "{\"id\": \"y\", \"scores\": {\"math\": 0.2, \"code\": 0.8}}\n"
         "{\"id\": \"z\", \"scores\": {\"math\": 0.7, \"code\": 0.3}}\n");
    const char *experts =
        save("e.json",
             "{\"output_tokens\": 1000, \"routes\": {\"math\": \"<m>\", \"code\": \"c\"}, \"experts\": ["
             "{\"name\": \"<m>\", \"parameters_b\": 10, \"price_in\": 0, \"price_out\": 1, "
             "\"accuracy\": {\"math\": 0.8, \"code\": 0.2}},"
             "{\"name\": \"c\", \"parameters_b\": 20, \"price_in\": 1000, \"price_out\": 3, "
             "\"accuracy\": {\"math\": 0.4, \"code\": 0.9}}]}");
    const char *const *args = ARGS(in_folder("answers.jsonl"), "--experts", experts, "--data",
                                   in_folder("data.jsonl"), "--json", "--report", in_folder("s.html"));
    Buf out = {0}, page = {0};
    Err err = {0};
    ok(run_command(&system_cmd, &out, &err, args), &err);
    cJSON *root;
    ok(json_parse(&root, out.data, out.len, &err), &err);
    assert_near(at(root, "n")->valuedouble, 4, 0);
    assert_string_equal(at(root, "best_single")->valuestring, "c");
    const cJSON *routed = cJSON_GetArrayItem(at(root, "systems"), 2);
    assert_string_equal(at(routed, "system")->valuestring, "routed");
    assert_near(at(at(routed, "accuracy"), "value")->valuedouble, (0.8 + 0.4 + 0.9 + 0.2) / 4, 1e-9);
    /* w and z to <m>: 1000 tokens at 1; x and y to c: 2 and 1 tokens at 1000, 1000 at 3 */
    assert_near(at(routed, "cost")->valuedouble, 1000 * 1e-6 * (1000 + 5000 + 4000 + 1000) / 4, 1e-9);
    assert_near(at(at(root, "misrouting"), "total")->valuedouble, (0.4 + 0.7) / 4, 1e-9);
    const cJSON *cell = cJSON_GetArrayItem(at(at(root, "misrouting"), "cells"), 0);
    assert_string_equal(at(cell, "label")->valuestring, "code");
    assert_near(at(cell, "lost")->valuedouble, 0.7 / 4, 1e-9);
    assert_true(cJSON_IsObject(at(root, "two_models")));
    assert_true(cJSON_IsNull(at(at(root, "chosen_by"), "set")));
    cJSON_Delete(root);
    ok(file_read(&page, in_folder("s.html"), 1 << 20, &err), &err);
    assert_non_null(strstr(page.data, "&lt;m&gt;"));
    assert_null(strstr(page.data, "<m>"));
    buf_free(&page);

    const char *const *chosen =
        ARGS(in_folder("answers.jsonl"), "--experts", experts, "--data", in_folder("data.jsonl"), "--split",
             "test", "--calibration", in_folder("data.jsonl"), "--budget", "30");
    ok(run_command(&system_cmd, &out, &err, chosen), &err);
    assert_non_null(strstr(out.data, "were chosen on 3 other rows"));
    assert_non_null(strstr(out.data, "Budget: 30 billion parameters."));
    assert_non_null(strstr(out.data, "\n1 rows, 2 experts, cost in USD for 1,000 prompts."));
    EACH_ALLOCATION_FAILS(2000, run_command(&system_cmd, &out, &err, chosen));
    const char *const *small = ARGS(in_folder("answers.jsonl"), "--experts", experts, "--data",
                                    in_folder("data.jsonl"), "--budget", "5");
    assert_int_equal(run_command(&system_cmd, &out, &err, small), ERR_ARGUMENT);
    assert_string_equal(err.msg, "a budget of 5 billion parameters: the smallest expert has 10");
    assert_int_equal(run_command(&system_cmd, &out, &err, ARGS(small[0])), ERR_ARGUMENT);
    assert_string_equal(err.msg, "--experts: expected the JSON file that describes them");
    buf_free(&out);
}

/* The example that is shipped can be read by a router of the five domains. */
static void test_example(void **state) {
    (void)state;
    static const char *const DOMAINS[] = {"coding", "health", "math", "other", "science"};
    Experts e;
    Err err = {0};
    ok(experts_read(&e, ROUTER_SOURCE_DIR "/configs/experts-example.json", DOMAINS, 5, &err), &err);
    assert_true(e.count >= 5 && e.routes);
    experts_free(&e);
}

int main(void) {
    seed_open();
    progress_quiet(true);
    if (!folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_bad_table),
        cmocka_unit_test(test_coe),
        cmocka_unit_test(test_coe_memory),
        cmocka_unit_test(test_system_by_hand),
        cmocka_unit_test(test_two_models),
        cmocka_unit_test(test_system_by_loops),
        cmocka_unit_test(test_command),
        cmocka_unit_test(test_example),
    };
    return folder_close(cmocka_run_group_tests(tests, NULL, NULL));
}
