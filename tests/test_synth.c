/* tests/test_synth.c - synthetic prompts: plan, answers, journal, near-duplicates, and whole runs against a server that speaks
 * the protocol of chat completions and does everything wrong. */
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>

#include "core/file.h"
#include "core/json.h"
#include "core/lines.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/rng.h"
#include "data/journal.h"
#include "data/near.h"
#include "data/synth.h"
#include "data/synth_answer.h"
#include "data/synth_plan.h"
#include "data/synth_rows.h"
#include "tests/http_server.h"
#include "tests/unit.h"

#define KEY "sk-test-0123456789abcdef"

/* ---- the server: a language model of sixty words ---- */

typedef enum {
    FINE,
    THROTTLED,
    BROKEN,
    CUT,
    GARBAGE,
    WRONG_JSON,
    HANG,
    TOO_SHORT,
    HUGE,
    SLOW,
    RESET,
    FAULTS
} Fault;

enum { ASKED_MAX = 4096 };

typedef struct {
    uint64_t hash; /* of a body */
    int count;
} Asked;

typedef struct {
    /* What it does. */
    bool faults; /* the first requests of a body go wrong */
    bool stream, dressed, chunked, usage_missing;
    bool same;  /* always the same prompts */
    int refuse; /* every request is answered with this status */
    double delay_s;
    const char *redirect;
    int bad_topics;     /* so many answers are no list */
    uint64_t misjudged; /* texts whose hash divides by it get a wrong label; 0: none */
    uint64_t storm;     /* the first requests, all 429 */
    const char *retry_after;
    bool no_list;
    /* What it saw. */
    Asked asked[ASKED_MAX];
    size_t asked_count;
    int keys, wrong_keys, judged, topics, rows;
    double tokens_in, tokens_out;    /* of all answers begun, as this server charges for them */
    double throttled_at, resumed_at; /* the last 429, the first request after it */
} Model;

static Model model;

static uint64_t hash_of(const char *text, size_t n) {
    uint64_t h = 1469598103934665603u;
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)text[i]) * 1099511628211u;
    return rng_mix(h);
}

static int count_asked(uint64_t hash) {
    for (size_t i = 0; i < model.asked_count; i++)
        if (model.asked[i].hash == hash) return ++model.asked[i].count;
    if (model.asked_count == ASKED_MAX) abort();
    model.asked[model.asked_count++] = (Asked){hash, 1};
    return 1;
}

static int times_asked(uint64_t hash) {
    for (size_t i = 0; i < model.asked_count; i++)
        if (model.asked[i].hash == hash) return model.asked[i].count;
    return 0;
}

/* "math: k3f9 ..." : domain, the body's hash, ten random words. */
static void put_prompt(Buf *out, const char *domain, uint64_t hash, uint64_t k) {
    static const char *const SYLLABLES[] = {"ba", "ko",  "ri",  "mu", "tel", "san", "vo", "qui",
                                            "pe", "dra", "lin", "ux", "ze",  "fa",  "go", "hy"};
    buf_printf(out, "%s %016llx", domain, (unsigned long long)hash);
    for (uint64_t w = 0; w < 10; w++) {
        const uint64_t r = rng_bits(hash + k * 977, w);
        buf_printf(out, " %s%s%s", SYLLABLES[r & 15], SYLLABLES[r >> 4 & 15], SYLLABLES[r >> 8 & 15]);
    }
}

static void put_list(Buf *out, const char *key, const char *const *texts, int count) {
    cJSON *o = cJSON_CreateObject(), *a = cJSON_AddArrayToObject(o, key);
    for (int i = 0; i < count; i++) cJSON_AddItemToArray(a, cJSON_CreateString(texts[i]));
    char *text = cJSON_PrintUnformatted(o);
    buf_puts(out, text);
    cJSON_free(text);
    cJSON_Delete(o);
}

/* As models dress up what they were asked for. */
static void dress(Buf *content, uint64_t hash) {
    Buf plain = *content, out = {0};
    if (hash % 5 == 1) {
        buf_printf(&out,
                   "<think>The user wants [\"lists\"].</think>\nSure! Here you "
                   "are:\n```json\n%s\n```\nAnything else?",
                   plain.data);
    } else if (hash % 5 == 2) { /* a comma at the end */
        buf_printf(&out, "%.*s,\n  ]}", (int)plain.len - 2, plain.data);
    } else if (hash % 5 == 3) { /* cut off behind the last item */
        buf_printf(&out, "%.*s, \"and then the ", (int)plain.len - 2, plain.data);
    } else if (hash % 5 == 4) { /* the bare list */
        const char *from = strchr(plain.data, '[');
        buf_printf(&out, "%.*s", (int)(plain.len - (size_t)(from - plain.data)) - 1, from);
    } else {
        buf_puts(&out, plain.data);
    }
    *content = out;
    buf_free(&plain);
}

static const char *member_text(const cJSON *o, const char *key) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(o, key);
    return cJSON_IsString(item) ? item->valuestring : "";
}

static void write_rows(Buf *content, const char *user, uint64_t hash) {
    char domain[65] = "", texts[64][400];
    const char *pointers[64];
    int count = 0;
    assert_int_equal(sscanf(user, "Write %d different user messages that all belong to the domain \"%64[^\"]",
                            &count, domain),
                     2);
    for (int k = 0; k < count; k++) {
        Buf text = {0};
        put_prompt(&text, domain, model.same ? strlen(domain) : hash, (uint64_t)k);
        (void)snprintf(texts[k], sizeof texts[k], "%s", text.data);
        pointers[k] = texts[k];
        buf_free(&text);
    }
    put_list(content, "prompts", pointers, count);
    if (model.dressed) dress(content, hash);
    model.rows++;
}

static void write_topics(Buf *content) {
    if (model.topics++ < model.bad_topics) {
        buf_puts(content, "I'd rather not.");
        return;
    }
    buf_puts(content, "{\"topics\": [{\"topic\": \"one\", \"subtopics\": [\"a\", \"b\"]}, \"two\"]}");
}

/* The first word of a text is its domain. */
static void write_votes(Buf *content, const char *user) {
    const char *pointers[64];
    char labels[64][65];
    int count = 0;
    for (const char *line = strstr(user, "numbered:\n"); line && count < 64; line = strchr(line + 1, '\n')) {
        int number;
        if (sscanf(line + (count == 0 ? 9 : 0), "\n%d. \"%64[a-z]", &number, labels[count]) != 2 ||
            number != count + 1)
            continue;
        const char *hex = strchr(strchr(line + 1, '"'), ' ');
        const uint64_t hash = (uint64_t)strtoull(hex, NULL, 16) + (unsigned)count;
        if (model.misjudged && hash % model.misjudged == 0) (void)snprintf(labels[count], 65, "nonsense");
        pointers[count] = labels[count];
        count++;
    }
    put_list(content, "labels", pointers, count);
    model.judged++;
}

static void reply_stream(HttpReply *r, const Buf *content) {
    Buf out = {0};
    buf_puts(
        &out,
        ": hello\r\n\r\ndata: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":null}}]}\r\n\r\n");
    for (size_t i = 0; i < content->len; i += 7) {
        char piece[8] = "";
        memcpy(piece, content->data + i, content->len - i < 7 ? content->len - i : 7);
        cJSON *text = cJSON_CreateString(piece);
        char *json = cJSON_PrintUnformatted(text);
        buf_printf(&out, "data: {\"choices\":[{\"delta\":{\"content\":%s}}]}\n\n", json);
        cJSON_free(json);
        cJSON_Delete(text);
    }
    buf_puts(&out, "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n");
    if (!model.usage_missing)
        buf_puts(&out,
                 "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":100,\"completion_tokens\":50}}\n\n");
    buf_puts(&out, "data: [DONE]\n\n");
    http_reply_header(r, "Content-Type: text/event-stream; charset=utf-8");
    http_reply_body(r, out.data, out.len);
    r->chunked = true;
    r->piece_bytes = 500;
    buf_free(&out);
}

static void reply_completion(HttpReply *r, const Buf *content) {
    cJSON *text = cJSON_CreateString(content->data);
    char *json = cJSON_PrintUnformatted(text);
    http_reply_header(r, "Content-Type: application/json");
    http_reply_text(r,
                    "{\"id\":\"x\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
                    "%s},\"finish_reason\":\"stop\"}]%s}",
                    json,
                    model.usage_missing
                        ? ""
                        : ",\"usage\":{\"prompt_tokens\":100,\"completion_tokens\":50,\"total_tokens\":150}");
    r->chunked = model.chunked;
    r->piece_bytes = model.chunked ? 100 : 0;
    cJSON_free(json);
    cJSON_Delete(text);
}

static void go_wrong(HttpReply *r, Fault fault) {
    static char block[1 << 16];
    switch (fault) {
        case THROTTLED:
            r->status = 429;
            http_reply_header(r, "Retry-After: %s", model.retry_after ? model.retry_after : "0");
            model.throttled_at = progress_clock();
            model.resumed_at = 0;
            http_reply_text(r, "{\"error\":{\"message\":\"slow down\"}}");
            break;
        case BROKEN: r->status = 503; break;
        case CUT:
            r->cut = true;
            r->cut_after = 40;
            break;
        case GARBAGE:
            http_reply_text(r, "\x01\x02 this is not HTTP");
            r->bare = true;
            break;
        case WRONG_JSON: http_reply_text(r, "{\"object\":\"list\",\"data\":[]}"); break;
        case HANG: r->hang = true; break;
        case TOO_SHORT:
            r->claimed_length = 100000;
            r->cut = true;
            r->cut_after = 60;
            break;
        case HUGE:
            memset(block, ' ', sizeof block);
            http_reply_body(r, block, sizeof block);
            r->repeat = 400; /* 25 MiB */
            break;
        case SLOW: r->delay_s = 0.1; break;
        case RESET:
            r->cut = r->reset = true;
            r->cut_after = 10;
            break;
        case FINE:
        case FAULTS: break;
    }
}

static void handle(void *arg, const HttpSeen *seen, HttpReply *r) {
    (void)arg;
    char header[256];
    Buf content = {0};
    cJSON *body = NULL;
    http_server_header(header, sizeof header, seen, "Authorization");
    model.keys += strcmp(header, "Bearer " KEY) == 0;
    model.wrong_keys += header[0] && strcmp(header, "Bearer " KEY) != 0;
    const uint64_t hash = hash_of(seen->body, seen->body_bytes);
    const int times = count_asked(hash);
    assert_string_equal(seen->method, "POST");
    assert_string_equal(seen->target, "/v1/chat/completions");
    assert_int_equal(json_parse(&body, seen->body, seen->body_bytes, NULL), ERR_OK);
    const cJSON *messages = cJSON_GetObjectItemCaseSensitive(body, "messages");
    const char *system = member_text(cJSON_GetArrayItem(messages, 0), "content"),
               *user = member_text(cJSON_GetArrayItem(messages, 1), "content");
    assert_true(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(body, "stream")) == model.stream);
    r->delay_s = model.delay_s;
    if (model.throttled_at > 0 && !(model.resumed_at > 0) && seen->number >= model.storm)
        model.resumed_at = progress_clock();
    if (model.no_list)
        buf_puts(&content, "As a language model I would rather talk about the weather.");
    else if (strncmp(system, "You sort", 8) == 0)
        write_votes(&content, user);
    else if (strncmp(system, "You plan", 8) == 0)
        write_topics(&content);
    else
        write_rows(&content, user, hash);
    if (model.stream)
        reply_stream(r, &content);
    else
        reply_completion(r, &content);
    if (model.redirect) {
        r->status = 307;
        http_reply_header(r, "Location: %s", model.redirect);
    } else if (model.refuse) {
        r->status = model.refuse;
        http_reply_text(r, "{\"error\":{\"message\":\"bad key %s\"}}", header);
    } else if (seen->number < model.storm) {
        go_wrong(r, THROTTLED);
    } else if (model.faults && times <= (int)(hash >> 8 & 1) + 1) {
        go_wrong(r, (Fault)((hash + (uint64_t)times) % FAULTS));
    }
    if (r->status == 200) {
        model.tokens_in += 100;
        model.tokens_out += 50;
    }
    cJSON_Delete(body);
    buf_free(&content);
}

/* ---- plans for it ---- */

static HttpServer *server;

static void begin(Model what) {
    model = what;
    server = http_server_start(handle, NULL);
    assert_non_null(server);
}

static void end(void) {
    http_server_stop(server);
    server = NULL;
}

/* A plan of two domains; `more` are further members, `endpoint` further ones of the endpoint. */
static void put_plan(Buf *out, const char *rows, const char *endpoint, const char *more) {
    buf_printf(out,
               "{\"endpoint\":{\"base_url\":\"%s/v1/"
               "\",\"model\":\"words-60\",\"max_tokens\":200,\"timeout_seconds\":0.5%s},"
               "\"rows\":%s,\"rows_per_request\":5,\"concurrency\":6,\"styles\":[\"chat\",\"exam\"],"
               "\"lengths\":[\"short\"],"
               "\"retry\":{\"attempts\":12,\"first_seconds\":0.01,\"longest_seconds\":0.05},"
               "\"domains\":[{\"name\":\"math\",\"description\":\"numbers\",\"topics\":{\"algebra\":["
               "\"lines\",\"curves\"]}},"
               "{\"name\":\"other\",\"not\":\"numbers\"}]%s}",
               http_server_url(server), endpoint, rows, more);
}

typedef struct {
    const char *out;
    FlagList examples, against;
    bool finish;
} Setup;

static ErrCode run_plan(SynthReport *report, const char *plan_text, const Setup *setup, Err *err) {
    SynthPlan plan;
    *report = (SynthReport){0};
    ErrCode rc = synth_plan_parse(&plan, plan_text, strlen(plan_text), err);
    if (rc == ERR_OK) {
        const SynthOptions o = {.plan = &plan,
                                .out = setup->out,
                                .examples = &setup->examples,
                                .against = &setup->against,
                                .ask = !setup->finish};
        rc = synth_run(report, &o, err);
    }
    synth_plan_free(&plan);
    return rc;
}

static SynthReport must_run(const char *plan_text, const char *out) {
    Err err = {0};
    SynthReport report;
    const Setup setup = {.out = out};
    ok(run_plan(&report, plan_text, &setup, &err), &err);
    return report;
}

/* Texts of a file of rows, one a line, each once; without what differs from run to run. Returns their number. */
static int texts_of(Buf *out, const char *path) {
    Lines *lines;
    Err err = {0};
    const char *text;
    size_t n;
    bool more = true;
    int count = 0;
    buf_clear(out);
    ok(lines_open(&lines, path, &err), &err);
    for (;;) {
        ok(lines_next(lines, &text, &n, &more, &err), &err);
        if (!more) break;
        cJSON *row = NULL;
        ok(json_parse(&row, text, n, &err), &err);
        const char *label = member_text(row, "label"), *prompt = member_text(row, "text");
        assert_int_equal(strncmp(prompt, label, strlen(label)), 0); /* the server writes the domain first */
        assert_string_equal(member_text(row, "kind"), "synthetic");
        assert_string_equal(member_text(row, "model"), "words-60");
        assert_int_equal(strlen(member_text(row, "template")), 16);
        assert_int_equal(strlen(member_text(row, "time")), 20);
        assert_true(strcmp(member_text(row, "style"), "chat") == 0 ||
                    strcmp(member_text(row, "style"), "exam") == 0);
        assert_int_equal(strcmp(label, "math") == 0, strncmp(member_text(row, "topic"), "algebra: ", 9) == 0);
        if (out->data) assert_null(strstr(out->data, prompt));
        buf_printf(out, "%s %s\n", member_text(row, "id"), prompt);
        cJSON_Delete(row);
        count++;
    }
    lines_close(lines);
    return count;
}

static void assert_no_key(const char *path) {
    Buf text = {0};
    read_file(&text, path);
    assert_null(strstr(text.data, KEY + 6));
    buf_free(&text);
}

/* ---- plans ---- */

static void test_plan(void **state) {
    (void)state;
#define GOOD_ENDPOINT "\"endpoint\":{\"base_url\":\"http://h/v1\",\"model\":\"m\"}"
#define GOOD_DOMAINS  "\"domains\":[{\"name\":\"a\",\"rows\":1},{\"name\":\"b\"}]"
    static const struct {
        const char *text, *message;
    } BAD[] = {
        {"", "not valid JSON"},
        {"[]", "expected an object"},
        {"{}", "key \"endpoint\" is missing"},
        {"{\"endpint\":{}}", "unknown key \"endpint\"; did you mean \"endpoint\"?"},
        {"{\"endpoint\":{}}", "endpoint: key \"base_url\" is missing"},
        {"{\"endpoint\":{\"base_url\":\"h\",\"model\":\"m\"}}", "endpoint: key \"base_url\": expected a URL"},
        {"{\"endpoint\":{\"base_url\":\"http://me:pw@h/\",\"model\":\"m\"}}", "without name, password"},
        {"{\"endpoint\":{\"base_url\":\"ftp://h/\",\"model\":\"m\"}}", "expected a URL"},
        {"{\"endpoint\":{\"base_url\":\"http://h/\",\"model\":\"m\",\"api_key\":\"sk-1\"}}",
         "unknown key \"api_key\"; known are base_url"},
        {"{\"endpoint\":{\"base_url\":\"http://h/\",\"model\":\"m\",\"api_key_env\":\"sk-12-3\"}}",
         "a key itself must not stand in a plan"},
        {"{\"endpoint\":{\"base_url\":\"http://h/\",\"model\":\"m\",\"json\":\"yes\"}}",
         "found \"yes\", expected one of off, object, schema"},
        {"{\"endpoint\":{\"base_url\":\"http://h/\",\"model\":\"m\",\"extra\":{\"n\":2}}}",
         "\"n\" is set by"},
        {"{\"endpoint\":{\"base_url\":\"http://h/\",\"model\":\"m\",\"temperature\":9}}",
         "key \"temperature\": found 9, expected 0 to 5"},
        {"{" GOOD_ENDPOINT "}", "key \"domains\": expected an array of 2 to 256"},
        {"{" GOOD_ENDPOINT ",\"domains\":[{\"name\":\"a\"},{\"name\":\"b\"}]}", "no domain wants any rows"},
        {"{" GOOD_ENDPOINT ",\"domains\":[{\"name\":\"a\",\"rows\":1},{\"name\":\"a\"}]}",
         "domains[1]: another domain is also named \"a\""},
        {"{" GOOD_ENDPOINT ",\"domains\":[{\"name\":\"a\",\"topcs\":1},{\"name\":\"b\"}]}",
         "domains[0]: unknown key \"topcs\"; did you mean \"topics\"?"},
        {"{" GOOD_ENDPOINT ",\"domains\":[{\"name\":\"a\",\"topics\":[1]},{\"name\":\"b\"}]}",
         "domains[0]: topics: expected strings"},
        {"{" GOOD_ENDPOINT ",\"domains\":[{\"name\":\"a\",\"topics\":{\"ask\":900}},{\"name\":\"b\"}]}",
         "key \"ask\": found 900"},
        {"{" GOOD_ENDPOINT "," GOOD_DOMAINS ",\"styles\":[]}", "key \"styles\": expected an array"},
        {"{" GOOD_ENDPOINT "," GOOD_DOMAINS ",\"styles\":[{\"name\":\"x\",\"weight\":0}]}",
         "all weights are 0"},
        {"{" GOOD_ENDPOINT "," GOOD_DOMAINS ",\"lengths\":[{\"text\":\"x\"}]}",
         "lengths[0]: key \"name\" is missing"},
        {"{" GOOD_ENDPOINT "," GOOD_DOMAINS ",\"hard_negatives\":[{\"label\":\"a\",\"near\":\"zebra\"}]}",
         "no domain is named \"zebra\""},
        {"{" GOOD_ENDPOINT "," GOOD_DOMAINS ",\"hard_negatives\":[{\"label\":\"a\",\"near\":\"a\"}]}",
         "the same domain"},
        {"{" GOOD_ENDPOINT "," GOOD_DOMAINS ",\"hard_negatives\":[{\"label\":\"a\",\"near\":\"b\",\"share\":"
         "0.6},{\"label\":\"a\",\"near\":\"b\",\"share\":0.6}]}",
         "1.2 together"},
        {"{" GOOD_ENDPOINT "," GOOD_DOMAINS ",\"filter\":{\"near\":0.2}}", "filter: key \"near\": found 0.2"},
        {"{" GOOD_ENDPOINT "," GOOD_DOMAINS ",\"budget\":{\"money\":1}}", "budget: unknown key \"money\""},
        {"{" GOOD_ENDPOINT "," GOOD_DOMAINS ",\"judge\":{\"votes\":3,\"agree\":4}}",
         "judge: key \"agree\": found 4, expected an integer from 1 to 3"},
        {"{" GOOD_ENDPOINT "," GOOD_DOMAINS ",\"judge\":{\"base_url\":\"http://other/v1\"}}",
         "a key of the endpoint is not sent to another host"},
        {"{" GOOD_ENDPOINT "," GOOD_DOMAINS ",\"seed\":1.5}", "key \"seed\": found 1.5, expected an integer"},
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        Err err = {0};
        SynthPlan plan;
        const ErrCode rc = synth_plan_parse(&plan, BAD[i].text, strlen(BAD[i].text), &err);
        if (rc != ERR_ARGUMENT || !strstr(err.msg, BAD[i].message))
            fail_msg("%s: found '%s'", BAD[i].text, err.msg);
        synth_plan_free(&plan);
    }
    static const char *const SAME[] = {
        "{" GOOD_ENDPOINT "," GOOD_DOMAINS "}",
        "{\"_x\":1,\"endpoint\":{\"base_url\":\"http://h2/"
        "v1\",\"model\":\"m\",\"price_in\":5,\"api_key_env\":\"X\",\"_y\":2}," GOOD_DOMAINS
        ",\"budget\":{\"cost\":1},\"concurrency\":3}",
        "{\"endpoint\":{\"base_url\":\"http://h/v1\",\"model\":\"m2\"}," GOOD_DOMAINS "}"};
    SynthPlan plans[3];
    Err err = {0};
    for (int i = 0; i < 3; i++) ok(synth_plan_parse(&plans[i], SAME[i], strlen(SAME[i]), &err), &err);
    assert_string_equal(plans[0].digest, plans[1].digest);
    assert_string_not_equal(plans[0].digest, plans[2].digest);
    for (int i = 0; i < 3; i++) synth_plan_free(&plans[i]);
    SynthPlan plan;
    ok(synth_plan_read(&plan, ROUTER_SOURCE_DIR "/configs/synth-modem.json", &err), &err);
    assert_int_equal(plan.domain_count, 5);
    assert_int_equal(plan.votes, 3);
    assert_int_equal(plan.judge.max_tokens, 400);
    assert_string_equal(plan.judge.model, plan.writer.model);
    assert_string_equal(plan.domains[0].topics.items[0], "arithmetic: fractions and percentages");
    synth_plan_free(&plan);
}

static void test_draws(void **state) {
    (void)state;
    Err err = {0};
    SynthPlan plan;
    ok(synth_plan_read(&plan, ROUTER_SOURCE_DIR "/configs/synth-modem.json", &err), &err);
    FlagList topics[5] = {{0}}, examples[5] = {{0}};
    static char *two[] = {"an example, one", "an example, two"};
    examples[0] = (FlagList){two, 2};
    topics[0] = plan.domains[0].topics;
    const SynthMaterial material = {topics, examples};
    enum { DRAWS = 20000 };
    int domains[5] = {0}, negatives = 0, chat = 0, math = 0;
    for (uint64_t i = 0; i < DRAWS; i++) {
        SynthDraw draw, again;
        synth_prompt_draw(&draw, &plan, &material, i);
        synth_prompt_draw(&again, &plan, &material, i);
        assert_true(draw.key == again.key && draw.topic == again.topic && draw.negative == again.negative);
        domains[draw.domain]++;
        assert_int_equal(draw.topic != NULL, draw.domain == 0);
        assert_int_equal(draw.example_count, draw.domain == 0 ? 2 : 0);
        if (draw.example_count == 2) assert_true(draw.examples[0] != draw.examples[1]);
        math += draw.domain == 0;
        negatives += draw.domain == 0 && draw.negative;
        if (draw.negative) assert_int_equal(draw.negative->label, draw.domain);
        chat += strcmp(draw.traits[SYNTH_STYLE]->name, "chat") == 0;
    }
    /* Shares as the plan says, within five standard deviations. */
    for (int d = 0; d < 5; d++)
        assert_in_range(domains[d], DRAWS * (d == 4 ? 3 : 2) / 11 - 300, DRAWS * (d == 4 ? 3 : 2) / 11 + 300);
    assert_in_range(negatives, math / 10 - 100, math / 10 + 100);
    assert_in_range(chat, DRAWS * 4 / 15.5 - 310, DRAWS * 4 / 15.5 + 310);
    Buf body = {0};
    SynthDraw draw;
    uint64_t i = 0;
    do synth_prompt_draw(&draw, &plan, &material, i++);
    while (draw.domain != 0 || !draw.negative);
    synth_prompt_rows(&body, &plan, &material, &draw);
    ok(buf_ok(&body, &err), &err);
    cJSON *tree = NULL;
    ok(json_parse(&tree, body.data, body.len, &err), &err);
    const char *user = member_text(cJSON_GetArrayItem(cJSON_GetObjectItem(tree, "messages"), 1), "content");
    assert_non_null(strstr(user, "Write 10 different"));
    assert_non_null(strstr(user, draw.topic));
    assert_non_null(strstr(user, draw.negative->hint));
    assert_non_null(strstr(user, "an example, two"));
    assert_null(cJSON_GetObjectItem(tree, "response_format"));
    cJSON_Delete(tree);
    for (int deep = 0; deep < 2; deep++) { /* the other bodies are JSON, too */
        plan.writer.json = (ChatJson)(1 + deep);
        buf_clear(&body);
        synth_prompt_topics(&body, &plan, 1, 0);
        ok(json_parse(&tree, body.data, body.len, &err), &err);
        assert_non_null(cJSON_GetObjectItem(tree, "response_format"));
        cJSON_Delete(tree);
    }
    buf_free(&body);
    synth_plan_free(&plan);
}

/* ---- answers ---- */

static void test_lists(void **state) {
    (void)state;
    static const struct {
        const char *text, *items;
        bool whole;
    } CASES[] = {
        {"{\"prompts\": [\"a\", \"b\"]}", "<a><b>", true},
        {"[\"a\",\"b\"]", "<a><b>", true},
        {"{\"prompts\":[]}", "", true},
        {"Sure:\n```json\n{\"prompts\": [\"a\", \"b\",]}\n```", "<a><b>", true},
        {"<think>[\"no\"]</think>{\"prompts\":[\"a\"]}", "<a>", true},
        {"{\"x\":[\"no\"],\"prompts\" : [\"a\"]}", "<a>", true},
        {"{\"prompts\":[{\"text\":\"a\"},{\"id\":3,\"prompt\":\"b\",}]}", "<a><b>", true},
        {"{\"prompts\":[\"a\",\"b\",\"cut of", "<a><b>", false},
        {"{\"prompts\":[\"a\",\"b\"", "<a><b>", false},
        {"{\"prompts\":[\"two\nlines\",\"t\tab\"]}", "<two\nlines><t\tab>", true},
        {"{\"prompts\":[\"\\(x\\) \\frac{1}{2} \\beta\",\"\\u00e4 \\u12 \\\\ \\\"q\\\"\"]}",
         "<\\(x\\) \\frac{1}{2} \\beta><\xc3\xa4 \\u12 \\ \"q\">", true},
        {"{\"prompts\":[\"he said \"no\" to me\",\"b\"]}", "<he said \"no\" to me><b>", true},
        {"[\n\"a\"\n\"b\"\n]", "<a><b>", true},
        {"{\"prompts\":[\"a\", null, -5.0, \"b\"]}", "<a><b>", false},
        {"{\"prompts\":[\"a\", \"he said \"no\", then left\",\n\"b\"]}", "<a><b>", false},
        {"{\"prompts\":[\"a\",\n null,\n \"b\"]}", "<a><b>", false},
        {"{\"prompts\":[\"NUL \\u0000 in it\",\"b\"]}", "<b>", true},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        Err err = {0};
        cJSON *list = NULL;
        bool whole = false;
        Buf items = {0};
        buf_puts(&items, "");
        ok(synth_answer_list(&list, &whole, CASES[i].text, strlen(CASES[i].text), "prompts", &err), &err);
        const cJSON *item;
        cJSON_ArrayForEach(item, list) {
            const char *text = synth_answer_text(item, "text|prompt");
            if (text) buf_printf(&items, "<%s>", text);
        }
        if (strcmp(items.data, CASES[i].items) != 0 || whole != CASES[i].whole)
            fail_msg("%s: found %s (%s)", CASES[i].text, items.data, whole ? "whole" : "not whole");
        buf_free(&items);
        cJSON_Delete(list);
    }
    static const char *const NONE[] = {"",      "I cannot.", "{\"prompts\":\"a\"}", "<think>[\"a\"]",
                                       "[1,2]", "[",         "{\"prompts\":["};
    for (size_t i = 0; i < sizeof NONE / sizeof *NONE; i++) {
        Err err = {0};
        cJSON *list = NULL;
        bool whole;
        assert_int_equal(synth_answer_list(&list, &whole, NONE[i], strlen(NONE[i]), "prompts", &err),
                         ERR_FORMAT);
        assert_string_equal(err.msg, "the answer holds no JSON list \"prompts\"");
    }
}

static void test_completions(void **state) {
    (void)state;
    ChatAnswer a;
    Err err = {0};
    const char *good =
        "{\"choices\":[{\"message\":{\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"text\":\"b\"}]},"
        "\"finish_reason\":\"length\"}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":9}}";
    ok(chat_answer(&a, good, strlen(good), &err), &err);
    assert_string_equal(a.content.data, "ab");
    assert_true(a.cut && a.ended && a.counted && a.tokens_in == 7 && a.tokens_out == 9);
    chat_answer_free(&a);
    static const struct {
        const char *body, *message;
    } BAD[] = {
        {"", "not valid JSON"},
        {"<html>", "not valid JSON"},
        {"[]", "expected an object"},
        {"{}", "expected an object with \"choices\""},
        {"{\"error\":{\"message\":\"the model is asleep\"}}",
         "the server reports an error: the model is asleep"},
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        assert_int_equal(chat_answer(&a, BAD[i].body, strlen(BAD[i].body), &err), ERR_FORMAT);
        assert_non_null(strstr(err.msg, BAD[i].message));
    }
    const char *odd =
        "{\"choices\":[{\"message\":{\"content\":null}}],\"usage\":{\"prompt_tokens\":-1,\"completion_"
        "tokens\":1e99}}";
    ok(chat_answer(&a, odd, strlen(odd), &err), &err);
    assert_true(!a.counted && a.content.len == 0);
    chat_answer_free(&a);
}

/* ---- the journal ---- */

static ErrCode count_entry(void *arg, cJSON *entry, Err *err) {
    int *next = arg;
    int64_t n = -1;
    TRY(json_get_int(&n, entry, "n", 0, 1000, err));
    assert_int_equal(n, *next);
    (*next)++;
    return ERR_OK;
}

static void add_entries(const char *path, int from, int to) {
    Journal *j;
    Err err = {0};
    uint64_t entries;
    int next = 0;
    ok(journal_open(&j, path, count_entry, &next, &entries, &err), &err);
    assert_int_equal(entries, from);
    for (int i = from; i < to; i++) {
        cJSON *e = cJSON_CreateObject();
        cJSON_AddNumberToObject(e, "n", i);
        cJSON_AddStringToObject(e, "text", "line\nbreak \xc3\xa4");
        ok(journal_add(j, e, &err), &err);
        cJSON_Delete(e);
    }
    ok(journal_sync(j, &err), &err);
    journal_close(j);
}

static void test_journal(void **state) {
    (void)state;
    Err err = {0};
    Buf whole = {0};
    add_entries(in_folder("j"), 0, 3);
    add_entries(in_folder("j"), 3, 5);
    read_file(&whole, in_folder("j"));
    size_t ends[6] = {0};
    for (size_t i = 0, k = 1; i < whole.len; i++)
        if (whole.data[i] == '\n') ends[k++] = i + 1;
    for (size_t n = 0; n <= whole.len; n++) { /* written as far as here when the power went off */
        size_t edge = 0;                      /* the bytes around the ends of lines, and some of the others */
        while (edge < 6 && n + 2 != ends[edge] && n + 1 != ends[edge] && n != ends[edge] &&
               n != ends[edge] + 1)
            edge++;
        if (edge == 6 && n % 13) continue;
        ok(file_save(in_folder("torn"), whole.data, n, &err), &err);
        int good = 0;
        while (good < 5 && ends[good + 1] <= n) good++;
        add_entries(in_folder("torn"), good, good + 1);
        add_entries(in_folder("torn"), good + 1, good + 1);
    }
    for (size_t i = 0; i + 1 < ends[4]; i += 3) { /* a damaged line with others behind it */
        whole.data[i] ^= 1;
        ok(file_save(in_folder("bad"), whole.data, whole.len, &err), &err);
        whole.data[i] ^= 1;
        Journal *j;
        uint64_t entries;
        int next = 0;
        assert_int_equal(journal_open(&j, in_folder("bad"), count_entry, &next, &entries, &err), ERR_FORMAT);
        assert_non_null(strstr(err.msg, "damaged"));
    }
    Journal *j;
    uint64_t entries;
    int next = 0;
    ok(journal_open(&j, in_folder("j"), count_entry, &next, &entries, &err), &err);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        Journal *second;
        next = 0;
        const ErrCode rc = journal_open(&second, in_folder("j"), count_entry, &next, &entries, &err);
        _exit(rc == ERR_IO && strstr(err.msg, "another process") ? 0 : 1);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    journal_close(j);
    buf_free(&whole);
}

/* ---- near-duplicates ---- */

static void test_near(void **state) {
    (void)state;
    enum { TEXTS = 400 };
    Near *near;
    Err err = {0};
    DedupSignature *all;
    ok(mem_new(&all, TEXTS, sizeof *all, "signatures", &err), &err);
    for (int exact = 0; exact < 2; exact++) {
        const double threshold = exact ? 1 : 0.7;
        int pairs = 0, found = 0, wrong = 0;
        ok(near_open(&near, threshold, &err), &err);
        for (uint64_t i = 0; i < TEXTS;
             i++) { /* thirty words, of which some are replaced in a copy of an earlier text */
            Buf text = {0};
            const uint64_t from = i % 3 == 2 ? i - 2 : i, changed = i % 3 == 2 ? rng_bits(9, i) % 8 : 0;
            for (uint64_t w = 0; w < 30; w++)
                buf_printf(&text, "w%u ", (unsigned)(rng_bits(w < changed ? i : from, w) % 100000));
            dedup_signature(&all[i], text.data, text.len);
            buf_free(&text);
            uint32_t first = NEAR_NONE;
            for (uint32_t k = 0; k < i && first == NEAR_NONE; k++)
                if (all[k].key == all[i].key ||
                    (threshold < 1 && dedup_similarity(&all[k], &all[i]) >= threshold))
                    first = k;
            const uint32_t got = near_find(near, &all[i]);
            pairs += first != NEAR_NONE;
            found += first != NEAR_NONE && got == first;
            wrong += first == NEAR_NONE && got != NEAR_NONE;
            ok(near_add(near, &all[i], &err), &err);
        }
        assert_int_equal(wrong, 0);
        assert_true(pairs > 10 && found >= pairs - 1); /* 99 of 100 at the threshold, more above it */
        assert_int_equal(near_count(near), TEXTS);
        near_close(near);
    }
    mem_free(all);
}

/* ---- whole runs ---- */

static void test_run(void **state) {
    (void)state;
    Buf plain = {0}, other = {0}, plan = {0};
    for (int variant = 0; variant < 5;
         variant++) { /* whole, dressed up, streamed, streamed without usage, in chunks */
        begin((Model){.dressed = variant == 1,
                      .stream = variant == 2 || variant == 3,
                      .usage_missing = variant == 3,
                      .chunked = variant == 4});
        buf_clear(&plan);
        put_plan(&plan, "23", variant == 2 || variant == 3 ? ",\"stream\":true" : "", "");
        const char *out = in_folder("run%d.jsonl%s", variant, variant == 4 ? ".zst" : "");
        SynthReport r = must_run(plan.data, out);
        assert_true(r.complete && !r.stopped && r.rows == 46 && r.wanted == 46);
        assert_int_equal(r.requests, http_server_requests(server));
        assert_in_range(r.requests, 10, 16); /* 46 rows by five, and few too many */
        assert_true(r.answers <= r.requests && r.retries == 0);
        assert_int_equal(model.keys, (int)r.requests);
        if (variant != 3) assert_int_equal(r.spent.in, 100 * (int64_t)r.answers);
        if (variant == 3)
            assert_true(r.spent.out == 200 * (int64_t)r.answers); /* the most it could have been */
        assert_int_equal(texts_of(variant ? &other : &plain, out), 46);
        assert_no_key(out);
        assert_no_key(in_folder("run%d.jsonl%s.journal", variant, variant == 4 ? ".zst" : ""));
        if (variant == 1 || variant == 4)
            assert_string_equal(plain.data, other.data); /* one body, one list */
        synth_report_free(&r);
        const uint64_t before = http_server_requests(server);
        r = must_run(plan.data, out); /* done is done */
        assert_int_equal(http_server_requests(server), before);
        assert_int_equal(texts_of(&other, out), 46);
        synth_report_free(&r);
        end();
    }
    buf_free(&plain);
    buf_free(&other);
    buf_free(&plan);
}

static void test_faults(void **state) {
    (void)state;
    Buf plan = {0}, good = {0}, bad = {0};
    for (int stream = 0; stream < 2; stream++) {
        begin((Model){.stream = stream});
        buf_clear(&plan);
        put_plan(&plan, "60", stream ? ",\"stream\":true" : "", "");
        SynthReport r = must_run(plan.data, in_folder("good%d.jsonl", stream));
        synth_report_free(&r);
        end();
        begin((Model){.faults = true, .stream = stream});
        buf_clear(&plan);
        put_plan(&plan, "60", stream ? ",\"stream\":true" : "", "");
        r = must_run(plan.data, in_folder("bad%d.jsonl", stream));
        assert_int_equal(texts_of(&good, in_folder("good%d.jsonl", stream)), 120);
        assert_int_equal(texts_of(&bad, in_folder("bad%d.jsonl", stream)), 120);
        /* A stream that is cut gives what of it was whole, so that other rows follow; else all are the same. */
        if (!stream) assert_string_equal(good.data, bad.data);
        assert_true(r.retries >= 15 && r.throttled > 0 && r.lost.in > 0 && r.gone == 0 && r.complete);
        assert_true(model.asked_count < r.requests);
        synth_report_free(&r);
        end();
    }
    buf_free(&plan);
    buf_free(&good);
    buf_free(&bad);
}

static void test_storm(void **state) {
    (void)state;
    Buf plan = {0};
    begin((Model){.storm = 25, .delay_s = 0.002});
    put_plan(&plan, "20", "", ",\"seed\":5");
    SynthReport r = must_run(plan.data, in_folder("storm.jsonl"));
    assert_true(r.complete && r.throttled == 25 && r.rows == 40 && r.gone == 0);
    assert_in_range(http_server_most_at_once(server), 1, 6);
    synth_report_free(&r);
    end();
    buf_free(&plan);
}

static int elsewhere_requests;

static void handle_elsewhere(void *arg, const HttpSeen *seen, HttpReply *r) {
    (void)arg;
    (void)seen;
    (void)r;
    elsewhere_requests++;
}

static void test_refusals(void **state) {
    (void)state;
    HttpServer *elsewhere = http_server_start(handle_elsewhere, NULL);
    char target[128];
    (void)snprintf(target, sizeof target, "%s/v1/chat/completions?key=1", http_server_url(elsewhere));
    const struct {
        Model model;
        const char *message;
        int most; /* requests */
    } CASES[] = {
        {{.redirect = target}, "redirected to another host, which was refused", 6},
        {{.refuse = 401}, "answers with status 401: bad key Bearer ****", 6},
        {{.refuse = 404}, "answers with status 404", 6},
        {{.refuse = 400}, "5 requests in a row were refused", 12},
        {{.refuse = 500}, "requests in a row failed in all attempts", 120}, /* five, and five beside them */
        {{.no_list = true},
         "20 answers in a row hold no JSON list; is \"words-60\" able to give one? The last begins: As a "
         "language",
         30},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        Err err = {0};
        SynthReport r;
        Buf plan = {0};
        begin(CASES[i].model);
        put_plan(&plan, "100", "", "");
        const Setup setup = {.out = in_folder("refused%zu.jsonl", i)};
        assert_int_not_equal(run_plan(&r, plan.data, &setup, &err), ERR_OK);
        if (!strstr(err.msg, CASES[i].message)) fail_msg("found '%s'", err.msg);
        assert_null(strstr(err.msg, KEY));
        assert_in_range(http_server_requests(server), 1, CASES[i].most);
        assert_int_equal(model.wrong_keys, 0);
        assert_false(file_exists(setup.out));
        assert_no_key(in_folder("refused%zu.jsonl.journal", i));
        synth_report_free(&r);
        model.redirect = NULL;
        model.refuse = 0;
        model.no_list = false;
        r = must_run(plan.data, setup.out); /* all is well again: it goes on */
        assert_int_equal(r.rows, 200);
        synth_report_free(&r);
        buf_free(&plan);
        end();
    }
    assert_int_equal(elsewhere_requests, 0);
    http_server_stop(elsewhere);
}

static void test_retry_after(void **state) {
    (void)state;
    Err err = {0};
    SynthReport r;
    Buf plan = {0};
    begin((Model){.storm = 1, .retry_after = "1"});
    put_plan(&plan, "2", "", ",\"seed\":9,\"budget\":{\"requests\":9}");
    *strchr(strstr(plan.data, "\"concurrency\":6"), '6') = '1';
    r = must_run(plan.data, in_folder("after.jsonl"));
    assert_int_equal(r.throttled, 1);
    assert_true(r.complete);
    assert_true(model.resumed_at - model.throttled_at >
                0.9); /* not before it was asked to: less some rounding of clocks */
    synth_report_free(&r);
    end();
    begin((Model){.storm = 1, .retry_after = "5000"});
    buf_clear(&plan);
    put_plan(&plan, "2", "", "");
    const Setup setup = {.out = in_folder("later.jsonl")};
    assert_int_equal(run_plan(&r, plan.data, &setup, &err), ERR_IO);
    assert_non_null(
        strstr(err.msg, "it asks to wait for 5000 s, the plan allows 600; the same command goes on later"));
    synth_report_free(&r);
    end();
    buf_free(&plan);
}

static void test_limits(void **state) {
    (void)state;
    static const struct {
        const char *budget, *stopped;
        Model model;
    } CASES[] = {
        {"\"requests\":7", "requests", {.faults = true}},
        {"\"tokens\":30000", "tokens", {.faults = true}},
        {"\"cost\":0.05", "cost", {.faults = true, .usage_missing = true}},
        {"\"cost\":0.02", "cost", {0}},
        {"\"minutes\":0.004", "time", {.delay_s = 0.05}},
        {"\"rows\":13", NULL, {0}},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        Buf plan = {0}, more = {0}, texts = {0};
        begin(CASES[i].model);
        buf_printf(&more, ",\"budget\":{%s}", CASES[i].budget);
        put_plan(&plan, "3000", ",\"price_in\":2,\"price_out\":10", more.data);
        const char *out = in_folder("limit%zu.jsonl", i);
        SynthReport r = must_run(plan.data, out);
        if (CASES[i].stopped)
            assert_string_equal(r.stopped, CASES[i].stopped);
        else
            assert_null(r.stopped);
        assert_int_equal(r.complete, i == 5);
        const double charged = 1e-6 * (2 * model.tokens_in + 10 * model.tokens_out);
        assert_true(charged <= r.spent.cost + r.lost.cost + 1e-9); /* rounding of the sums */
        assert_true(model.tokens_in + model.tokens_out <=
                    (double)(r.spent.in + r.spent.out + r.lost.in + r.lost.out));
        if (i == 0) assert_int_equal(http_server_requests(server), 7);
        if (i == 1) assert_true(r.spent.in + r.spent.out + r.lost.in + r.lost.out <= 30000);
        if (i == 2) assert_true(charged <= 0.05 && r.spent.cost + r.lost.cost <= 0.05);
        if (i == 3) assert_true(charged <= 0.02 && r.rows > 20);
        if (i == 5) assert_int_equal(r.rows, 13);
        assert_int_equal(texts_of(&texts, out), (int)r.rows);
        synth_report_free(&r);
        const uint64_t before = http_server_requests(server);
        if (i < 4) { /* a limit is one of all runs */
            r = must_run(plan.data, out);
            assert_int_equal(http_server_requests(server), before);
            synth_report_free(&r);
        }
        buf_free(&plan);
        buf_free(&more);
        buf_free(&texts);
        end();
    }
    Err err = {0};
    SynthReport r;
    Buf plan = {0};
    begin((Model){0});
    put_plan(&plan, "5", "", ",\"budget\":{\"cost\":1}");
    const Setup setup = {.out = in_folder("unpriced.jsonl")};
    assert_int_equal(run_plan(&r, plan.data, &setup, &err), ERR_ARGUMENT);
    assert_non_null(strstr(err.msg, "needs the prices"));
    synth_report_free(&r);
    buf_free(&plan);
    end();
}

/* Not the limit is what such a run has to tell. */
static void test_time_without_an_answer(void **state) {
    (void)state;
    Err err = {0};
    SynthReport r;
    Buf plan = {0};
    begin((Model){.storm = UINT64_MAX, .retry_after = "1"});
    put_plan(&plan, "5", "", ",\"budget\":{\"minutes\":0.005}");
    const Setup setup = {.out = in_folder("silent.jsonl")};
    assert_int_equal(run_plan(&r, plan.data, &setup, &err), ERR_IO);
    if (!strstr(err.msg, "no answer within the limit of time; the last failure: ") ||
        !strstr(err.msg, "status 429"))
        fail_msg("found '%s'", err.msg);
    assert_false(file_exists(setup.out));
    synth_report_free(&r);
    buf_free(&plan);
    end();
}

static void test_filters(void **state) {
    (void)state;
    Err err = {0};
    Buf plan = {0}, first = {0}, second = {0};
    begin((Model){.same = true});
    put_plan(&plan, "40", "", ""); /* five texts in each domain, again and again */
    SynthReport r = must_run(plan.data, in_folder("same.jsonl"));
    assert_true(r.complete && r.rows == 10 && r.tallies[0].exhausted && r.tallies[1].exhausted);
    assert_true(r.tallies[0].dropped[SYNTH_DROP_REPEAT] >= 5 * (SYNTH_LEDGER_STALE - 1));
    synth_report_free(&r);
    end();
    begin((Model){0});
    buf_clear(&plan);
    put_plan(&plan, "20", "", "");
    r = must_run(plan.data, in_folder("first.jsonl"));
    synth_report_free(&r);
    assert_int_equal(texts_of(&first, in_folder("first.jsonl")), 40);
    char *against[] = {(char *)(uintptr_t)in_folder("first.jsonl")},
         *examples[] = {(char *)(uintptr_t)in_folder("first.jsonl")};
    Setup setup = {.out = in_folder("second.jsonl"), .against = {against, 1}};
    ok(run_plan(&r, plan.data, &setup, &err),
       &err); /* the same answers, but all of those rows are in a benchmark now */
    assert_int_equal(texts_of(&second, setup.out), 40);
    assert_true(r.tallies[0].dropped[SYNTH_DROP_AGAINST] + r.tallies[1].dropped[SYNTH_DROP_AGAINST] >= 40);
    for (char *line = strtok(second.data, "\n"); line;
         line = strtok(NULL, "\n")) /* NOLINT(concurrency-mt-unsafe) */
        assert_null(strstr(first.data, strchr(line, ' ')));
    synth_report_free(&r);
    setup = (Setup){.out = in_folder("third.jsonl"), .examples = {examples, 1}};
    ok(run_plan(&r, plan.data, &setup, &err), &err); /* examples change what is asked */
    assert_int_equal(r.rows, 40);
    synth_report_free(&r);
    setup.examples = (FlagList){0};
    assert_int_equal(run_plan(&r, plan.data, &setup, &err), ERR_ARGUMENT);
    assert_non_null(strstr(err.msg, "this journal is of other examples"));
    synth_report_free(&r);
    buf_clear(&plan);
    put_plan(&plan, "21", "", "");
    assert_int_equal(run_plan(&r, plan.data, &(Setup){.out = in_folder("first.jsonl")}, &err), ERR_ARGUMENT);
    assert_non_null(strstr(err.msg, "this journal is of another plan; give another --out, or --overwrite"));
    synth_report_free(&r);
    end();
    buf_free(&plan);
    buf_free(&first);
    buf_free(&second);
}

static void test_judge(void **state) {
    (void)state;
    Buf plan = {0}, texts = {0};
    begin((Model){.misjudged = 3});
    put_plan(&plan, "25", "", ",\"judge\":{\"votes\":3,\"agree\":2,\"max_tokens\":100}");
    SynthReport r = must_run(plan.data, in_folder("judged.jsonl"));
    assert_true(r.complete && r.rows == 50);
    const uint64_t judged = r.tallies[0].dropped[SYNTH_DROP_JUDGED] + r.tallies[1].dropped[SYNTH_DROP_JUDGED];
    assert_in_range(judged, 10, 60); /* a third of some 75 to 90 rows */
    assert_true(model.judged >= 3 * 15);
    assert_int_equal(texts_of(&texts, in_folder("judged.jsonl")), 50);
    for (const char *line = texts.data; line && *line;
         line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        unsigned long long hash;
        unsigned item;
        char domain[65];
        assert_int_equal(sscanf(line, "%*[^-]-%*u-%u %64s %llx", &item, domain, &hash), 3);
        assert_true((hash + item) % 3 != 0);
    }
    synth_report_free(&r);
    end();
    buf_free(&plan);
    buf_free(&texts);
}

static void test_topics(void **state) {
    (void)state;
    Buf plan = {0}, journal = {0};
    for (int bad = 2; bad < 4; bad++) {
        Err err = {0};
        SynthReport r;
        begin((Model){.bad_topics = bad});
        buf_clear(&plan);
        buf_printf(&plan,
                   "{\"endpoint\":{\"base_url\":\"%s/"
                   "v1\",\"model\":\"words-60\"},\"rows\":10,\"domains\":[{\"name\":\"a\","
                   "\"topics\":{\"ask\":2,\"subtopics\":2}},{\"name\":\"b\",\"rows\":0}]}",
                   http_server_url(server));
        const Setup setup = {.out = in_folder("topics%d.jsonl", bad)};
        const ErrCode rc = run_plan(&r, plan.data, &setup, &err);
        if (bad == 3) {
            assert_int_equal(rc, ERR_FORMAT);
            assert_non_null(strstr(err.msg, "the model gave no list of topics for \"a\" in 3 attempts"));
        } else {
            ok(rc, &err);
            assert_int_equal(r.rows, 10);
            read_file(&journal, setup.out);
            assert_true(strstr(journal.data, "\"topic\":\"one: ") ||
                        strstr(journal.data, "\"topic\":\"two\""));
        }
        synth_report_free(&r);
        end();
    }
    buf_free(&plan);
    buf_free(&journal);
}

static void test_no_memory(void **state) {
    (void)state;
    Buf plan = {0};
    begin((Model){0});
    put_plan(&plan, "10", "", ",\"judge\":{\"votes\":1}");
    bool done = false;
    for (size_t n = 1; n < 1000000 && !done; n += 1 + n / 12) {
        Err err = {0};
        SynthReport r;
        const Setup setup = {.out = in_folder("memory.jsonl")};
        (void)unlink(in_folder("memory.jsonl.journal"));
        mem_fail_at(n);
        const ErrCode rc = run_plan(&r, plan.data, &setup, &err);
        mem_fail_at(0);
        if (rc != ERR_OK && rc != ERR_MEMORY) fail_msg("%zu: %s", n, err.msg);
        synth_report_free(&r);
        if (rc == ERR_OK && r.rows == 20) done = true;
        if (rc == ERR_OK) done = true; /* nothing was missing */
        if (!done) {
            r = must_run(plan.data, setup.out); /* what the journal has is good */
            assert_int_equal(r.rows, 20);
            synth_report_free(&r);
        }
    }
    assert_true(done);
    end();
    buf_free(&plan);
}

/* ---- as a process ---- */

static pid_t start(const char *plan, const char *out, const char *more) {
    const char *args[16] = {ROUTER_PROGRAM, "data", "synth", plan, "--out", out, "--quiet", more, NULL};
    (void)fflush(NULL);
    const pid_t pid = fork();
    if (pid < 0) fail_msg("fork failed");
    if (pid != 0) return pid;
    const int log = open(in_folder("stderr"), O_WRONLY | O_CREAT | O_TRUNC, 0600),
              result = open(in_folder("stdout"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (log < 0 || result < 0 || dup2(log, 2) < 0 || dup2(result, 1) < 0) _exit(99);
    (void)execv(ROUTER_PROGRAM, (char *const *)(uintptr_t)args);
    _exit(98);
}

static void nap(double seconds) {
    const struct timespec t = {(time_t)seconds, (long)(1e9 * (seconds - (double)(time_t)seconds))};
    (void)nanosleep(&t, NULL);
}

/* The bodies whose rows are in the journal (the server writes their hash into each row), with how often each was asked. */
static size_t journalled(Asked *out, const char *path) {
    Lines *lines;
    Err err = {0};
    const char *text;
    size_t n, count = 0;
    bool more = true;
    if (!file_exists(path)) return 0;
    ok(lines_open(&lines, path, &err), &err);
    while (more) {
        ok(lines_next(lines, &text, &n, &more, &err), &err);
        size_t bytes;
        const char *entry = more ? journal_line(text, n, &bytes) : NULL;
        if (!entry) continue;
        cJSON *e = NULL;
        ok(json_parse(&e, entry, bytes, &err), &err);
        const cJSON *first = cJSON_GetArrayItem(cJSON_GetObjectItem(e, "list"), 0);
        char domain[65];
        unsigned long long hash;
        if (strcmp(member_text(e, "job"), "rows") == 0 && first &&
            sscanf(first->valuestring, "%64s %llx", domain, &hash) == 2) {
            assert_in_range(count, 0, ASKED_MAX - 1);
            out[count++] = (Asked){hash, times_asked(hash)};
        }
        cJSON_Delete(e);
    }
    lines_close(lines);
    return count;
}

static void test_kill(void **state) {
    (void)state;
    static Asked paid[ASKED_MAX];
    enum { RUNS = 12 };
    size_t count = 0;
    int useful = 0, killed = 0;
    Buf plan = {0}, whole = {0}, broken = {0};
    begin((Model){.delay_s = 0.01});
    put_plan(&plan, "400", "", ",\"judge\":{\"votes\":1}");
    ok(file_save(in_folder("kill.json"), plan.data, plan.len, NULL), NULL);
    assert_int_equal(finish(start(in_folder("kill.json"), in_folder("whole.jsonl"), "--json")), 0);
    assert_int_equal(texts_of(&whole, in_folder("whole.jsonl")), 800);
    model.asked_count = 0;
    for (int run = 0;; run++) {
        const pid_t pid = start(in_folder("kill.json"), in_folder("broken.jsonl"), NULL);
        if (run < RUNS) {
            nap(0.03 + 0.12 * rng_uniform((uint64_t)time(NULL), (uint64_t)run));
            if (run == RUNS / 2) nap(0.1);
            (void)kill(pid, run == RUNS / 2 ? SIGINT : SIGKILL);
        }
        const int status = finish(pid);
        killed += status == -SIGKILL;
        nap(0.03); /* requests that were on their way arrive */
        /* What was in the journal before this run was not asked again. */
        for (size_t i = 0; i < count; i++) assert_int_equal(times_asked(paid[i].hash), paid[i].count);
        if (status == 0) break;
        assert_in_range(run, 0, RUNS - 1);
        if (run == RUNS / 2)
            assert_true(status == 130 || status == -SIGINT); /* the latter before its handler is there */
        else
            assert_int_equal(status, -SIGKILL);
        assert_no_key(in_folder("stderr"));
        assert_false(file_exists(in_folder("broken.jsonl")));
        count = journalled(paid, in_folder("broken.jsonl.journal"));
        useful += count > 0;
    }
    assert_true(killed >= 3 && useful >= 2);
    assert_int_equal(texts_of(&broken, in_folder("broken.jsonl")), 800);
    assert_string_equal(whole.data, broken.data);
    assert_no_key(in_folder("broken.jsonl.journal"));
    end();
    buf_free(&plan);
    buf_free(&whole);
    buf_free(&broken);
}

static void test_program(void **state) {
    (void)state;
    Buf plan = {0}, text = {0};
    begin((Model){0});
    put_plan(&plan, "10", ",\"price_in\":1,\"price_out\":2", "");
    ok(file_save(in_folder("p.json"), plan.data, plan.len, NULL), NULL);
    assert_int_equal(finish(start(in_folder("p.json"), in_folder("p.jsonl"), "--dry-run=2")), 0);
    read_file(&text, in_folder("stdout"));
    assert_non_null(strstr(text.data, "---- request 2 ----"));
    assert_non_null(strstr(text.data, "Nothing was sent."));
    assert_non_null(strstr(text.data, "key from ROUTER_API_KEY"));
    assert_null(strstr(text.data, KEY));
    assert_int_equal(http_server_requests(server), 0);
    assert_false(file_exists(in_folder("p.jsonl.journal")));
    assert_int_equal(finish(start(in_folder("p.json"), in_folder("p.jsonl"), "--finish")), 2);
    assert_int_equal(finish(start(in_folder("p.json"), in_folder("p.jsonl"), "--max-requests=1")), 0);
    read_file(&text, in_folder("stdout"));
    assert_non_null(strstr(text.data, "5 of 20 rows; stopped by the limit of requests"));
    assert_int_equal(finish(start(in_folder("p.json"), in_folder("p.jsonl"), "--finish")), 0);
    assert_int_equal(http_server_requests(server), 1);
    assert_int_equal(finish(start(in_folder("p.json"), in_folder("p.jsonl"), "--json")), 0);
    read_file(&text, in_folder("stdout"));
    cJSON *json = NULL;
    Err err = {0};
    ok(json_parse(&json, text.data, text.len, &err), &err);
    assert_true(cJSON_IsTrue(cJSON_GetObjectItem(json, "complete")));
    assert_true(cJSON_IsNull(cJSON_GetObjectItem(json, "stopped_by")));
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(json, "domains")), 2);
    cJSON_Delete(json);
    assert_int_equal(finish(start(in_folder("p.json"), in_folder("p.jsonl"), "--overwrite")), 0);
    assert_true(file_exists(in_folder("p.jsonl.journal.old")));
    (void)unlink(in_folder("p.jsonl.journal"));
    assert_int_equal(finish(start(in_folder("p.json"), in_folder("p.jsonl"), NULL)),
                     2); /* somebody else's file */
    end();
    buf_free(&plan);
    buf_free(&text);
}

int main(void) {
    static const char *const PROXIES[] = {"http_proxy",  "https_proxy", "all_proxy",
                                          "HTTPS_PROXY", "ALL_PROXY",   "OPENAI_API_KEY"};
    (void)signal(SIGPIPE, SIG_IGN);
    progress_quiet(true);
    for (size_t i = 0; i < sizeof PROXIES / sizeof *PROXIES; i++) (void)unsetenv(PROXIES[i]);
    if (setenv("ROUTER_API_KEY", KEY, 1) != 0 || !folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan),
        cmocka_unit_test(test_draws),
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_completions),
        cmocka_unit_test(test_journal),
        cmocka_unit_test(test_near),
        cmocka_unit_test(test_run),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_storm),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_retry_after),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_time_without_an_answer),
        cmocka_unit_test(test_filters),
        cmocka_unit_test(test_judge),
        cmocka_unit_test(test_topics),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_kill),
        cmocka_unit_test(test_program),
    };
    return folder_close(cmocka_run_group_tests(tests, NULL, NULL));
}
