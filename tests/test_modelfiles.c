/* tests/test_modelfiles.c - config.json, safetensors, pytorch_model.bin and weights folders: the published
 * golden files, round trips of fresh random content, and refusals with their exact words. */
#include <zip.h>

#include "core/file.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/rng.h"
#include "model/config.h"
#include "model/params.h"
#include "model/pickle.h"
#include "model/safetensors.h"
#include "model/weights.h"
#include "tests/unit.h"

static float draw_float(void) {
    return (float)rng_normal(seed, drawn += 2);
}

static double draw_decimal(
    void) { /* cJSON prints 15 digits and forgives the last bit, so 9 come back exactly */
    return (double)draw64(1000000000) / 1e9;
}

#define REFUSED(call, code, text)           \
    do {                                    \
        assert_int_equal(call, code);       \
        assert_string_equal(err.msg, text); \
    } while (0)

/* ---- config ---- */

#define GOOD_KEYS                                                                                          \
    "\"relative_attention\":true,\"share_att_key\":true,\"position_biased_input\":false,\"pos_att_type\":" \
    "\"p2c|c2p\",\"norm_rel_ebd\":\"layer_norm\""
#define GOOD_START "{" GOOD_KEYS ",\"position_buckets\":16"

static ErrCode parse_config(Config *out, const char *text, Err *err) {
    cJSON *root;
    *out = (Config){0};
    TRY(json_parse(&root, text, strlen(text), err));
    const ErrCode rc = config_parse(out, root, err);
    cJSON_Delete(root);
    return rc;
}

static void assert_same_config(const Config *a, const Config *b) {
    assert_int_equal(a->vocab_size, b->vocab_size);
    assert_int_equal(a->hidden_size, b->hidden_size);
    assert_int_equal(a->num_hidden_layers, b->num_hidden_layers);
    assert_int_equal(a->num_attention_heads, b->num_attention_heads);
    assert_int_equal(a->intermediate_size, b->intermediate_size);
    assert_int_equal(a->max_position_embeddings, b->max_position_embeddings);
    assert_int_equal(a->position_buckets, b->position_buckets);
    assert_int_equal(a->max_relative_positions, b->max_relative_positions);
    assert_int_equal(a->pad_token_id, b->pad_token_id);
    assert_int_equal(a->num_labels, b->num_labels);
    assert_true(a->layer_norm_eps == b->layer_norm_eps);
    assert_true(a->initializer_range == b->initializer_range);
    assert_true(a->hidden_dropout_prob == b->hidden_dropout_prob);
    assert_true(a->attention_probs_dropout_prob == b->attention_probs_dropout_prob);
    assert_true(a->pooler_dropout == b->pooler_dropout);
    assert_true(a->cls_dropout == b->cls_dropout);
    for (int i = 0; i < a->num_labels; i++) assert_string_equal(a->labels[i], b->labels[i]);
}

static void config_defaults(void **state) {
    (void)state;
    Err err;
    Config c;
    OK(parse_config(&c, GOOD_START "}", &err));
    const Config want = {.vocab_size = 128100,
                         .hidden_size = 1536,
                         .num_hidden_layers = 24,
                         .num_attention_heads = 24,
                         .intermediate_size = 6144,
                         .max_position_embeddings = 512,
                         .position_buckets = 16,
                         .max_relative_positions = 512,
                         .layer_norm_eps = 1e-7,
                         .initializer_range = 0.02,
                         .hidden_dropout_prob = 0.1,
                         .attention_probs_dropout_prob = 0.1,
                         .cls_dropout = 0.1};
    assert_same_config(&c, &want);
    config_free(&c);
    /* two labels are Hugging Face's default, which it leaves out of the file */
    OK(parse_config(&c, GOOD_START ",\"architectures\":[\"DebertaV2ForSequenceClassification\"]}", &err));
    assert_int_equal(c.num_labels, 2);
    assert_string_equal(c.labels[1], "LABEL_1");
    config_free(&c);
    OK(parse_config(&c, GOOD_START ",\"num_labels\":3,\"max_relative_positions\":0,\"cls_dropout\":null}",
                    &err));
    assert_int_equal(c.num_labels, 3);
    assert_string_equal(c.labels[2], "LABEL_2");
    config_free(&c);
}

static void config_accepts(void **state) {
    (void)state;
    static const char *const GOOD[] = {
        "\"_name_or_path\":\"x\",\"router_note\":1,\"torch_dtype\":\"float16\",\"dtype\":\"float32\"",
        "\"problem_type\":\"single_label_classification\",\"num_labels\":2",
        "\"problem_type\":\"regression\",\"num_labels\":1,\"problem_type_\":0",
        ("\"hidden_size\":64,\"num_attention_heads\":4,\"attention_head_size\":16,\"embedding_size\":64,"
         "\"pooler_hidden_size\":64"),
        "\"legacy\":true,\"z_steps\":0,\"is_decoder\":false,\"pruned_heads\":{},\"conv_kernel_size\":0",
        "\"id2label\":{\"1\":\"b\",\"0\":\"a\"},\"label2id\":{\"a\":0,\"b\":1}",
    };
    for (size_t i = 0; i < sizeof GOOD / sizeof GOOD[0]; i++) {
        Err err;
        Config c;
        const ErrCode rc = parse_config(&c, path_of("%s,%s}", GOOD_START, GOOD[i]), &err);
        if (i == 2) { /* a key that is unknown even beside its lookalike */
            assert_int_equal(rc, ERR_FORMAT);
            assert_string_equal(err.msg, "unknown key \"problem_type_\"; did you mean \"problem_type\"?");
        } else if (rc != ERR_OK) {
            fail_msg("%s: %s", GOOD[i], err.msg);
        }
        config_free(&c);
    }
    static const char *const TERMS[] = {"[\"c2p\",\"p2c\"]", "\"C2P | p2c\"", "\"p2c|c2p|c2p\""};
    for (size_t i = 0; i < 3; i++) {
        Err err;
        Config c;
        OK(parse_config(
            &c,
            path_of("{\"relative_attention\":true,\"share_att_key\":true,\"position_biased_input\":"
                    "false,\"norm_rel_ebd\":\"layer_norm\",\"position_buckets\":2,"
                    "\"pos_att_type\":%s}",
                    TERMS[i]),
            &err));
        config_free(&c);
    }
}

static void config_refusals(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } BAD[] = {
        {"[1]", "expected a JSON object"},
        {"{}", "key \"norm_rel_ebd\": found nothing, expected \"layer_norm\""},
        {"{\"hiden_size\":1}", "unknown key \"hiden_size\"; did you mean \"hidden_size\"?"},
        {"{\"quantum_entanglement_degree\":1}",
         "unknown key \"quantum_entanglement_degree\"; whether it changes the model is not known"},
        {"{" GOOD_KEYS "}", "key \"position_buckets\": found nothing, expected an integer from 2 to 65536"},
        {"{" GOOD_KEYS ",\"position_buckets\":-1}",
         "key \"position_buckets\": found -1, expected an integer from 2 to 65536"},
        {"{\"norm_rel_ebd\":\"none\"}", "key \"norm_rel_ebd\": found \"none\", expected \"layer_norm\""},
        {GOOD_START ",\"hidden_act\":\"relu\"}", "key \"hidden_act\": found \"relu\", expected \"gelu\""},
        {GOOD_START ",\"model_type\":\"deberta\"}",
         "key \"model_type\": found \"deberta\", expected \"deberta-v2\""},
        {GOOD_START ",\"type_vocab_size\":2}", "key \"type_vocab_size\": found 2, expected 0"},
        {GOOD_START ",\"conv_kernel_size\":3}", "key \"conv_kernel_size\": found 3, expected 0"},
        {GOOD_START ",\"embedding_size\":128}", "key \"embedding_size\": found 128, expected 1536"},
        {GOOD_START ",\"pooler_hidden_size\":8}", "key \"pooler_hidden_size\": found 8, expected 1536"},
        {GOOD_START ",\"attention_head_size\":32}", "key \"attention_head_size\": found 32, expected 64"},
        {GOOD_START ",\"is_decoder\":true}", "key \"is_decoder\": found true, expected false"},
        {GOOD_START ",\"pruned_heads\":{\"0\":[1]}}", "key \"pruned_heads\": found an object, expected none"},
        {GOOD_START ",\"hidden_size\":100,\"num_attention_heads\":16}",
         "key \"num_attention_heads\": found 16, expected a divisor of hidden_size 100"},
        {GOOD_START ",\"hidden_size\":8193}",
         "key \"hidden_size\": found 8193, expected an integer from 1 to 8192"},
        {GOOD_START ",\"vocab_size\":1.5}",
         "key \"vocab_size\": found 1.5, expected an integer from 1 to 4194304"},
        {GOOD_START ",\"pad_token_id\":128100}",
         "key \"pad_token_id\": found 128100, expected an integer from 0 to 128099"},
        {GOOD_START ",\"hidden_dropout_prob\":1}", "key \"hidden_dropout_prob\": found 1, expected 0 to 1"},
        {GOOD_START ",\"layer_norm_eps\":\"1e-7\"}",
         "key \"layer_norm_eps\": found a string, expected a number"},
        {GOOD_START ",\"problem_type\":\"multi_label_classification\",\"num_labels\":3}",
         "key \"problem_type\": found \"multi_label_classification\", expected "
         "\"single_label_classification\""},
        {GOOD_START ",\"problem_type\":\"regression\",\"num_labels\":2}",
         "key \"problem_type\": found \"regression\", expected \"single_label_classification\""},
        {GOOD_START ",\"id2label\":{\"0\":\"a\",\"2\":\"b\"}}",
         "id2label: found the id \"2\" among 2 labels, expected 0 to 1"},
        {GOOD_START ",\"id2label\":{\"0\":\"a\",\"01\":\"b\"}}",
         "id2label: found the id \"01\" among 2 labels, expected 0 to 1"},
        {GOOD_START ",\"id2label\":{\"0\":\"a\",\"1\":\"a\"}}", "id2label: the label \"a\" occurs twice"},
        {GOOD_START ",\"id2label\":{\"0\":7}}", "id2label: the label of id 0 is not a string"},
        {GOOD_START ",\"id2label\":{\"0\":\"a\\u0000\"}}",
         "id2label: the label of id 0 holds a NUL character"},
        {GOOD_START ",\"id2label\":{\"0\":\"a\",\"1\":\"b\"},\"label2id\":{\"a\":1,\"b\":0}}",
         "label2id: the label \"a\" has another id than in id2label"},
        {GOOD_START ",\"id2label\":{\"0\":\"a\",\"1\":\"b\"},\"label2id\":{\"a\":0}}",
         "label2id: found 1 labels, id2label has 2"},
        {GOOD_START ",\"label2id\":{\"a\":0}}", "key \"label2id\": there is no \"id2label\" beside it"},
        {GOOD_START ",\"id2label\":{\"0\":\"a\"},\"num_labels\":4}",
         "key \"num_labels\": found 4, but id2label has 1 labels"},
        {"{\"relative_attention\":true,\"share_att_key\":true,\"position_biased_input\":false,"
         "\"norm_rel_ebd\":\"layer_norm\",\"pos_att_type\":\"c2p\"}",
         "key \"pos_att_type\": found \"c2p\", expected \"c2p\" and \"p2c\", as \"p2c|c2p\" or as an array"},
        {"{\"norm_rel_ebd\":\"layer_norm\"}", "key \"relative_attention\": found nothing, expected true"},
    };
    for (size_t i = 0; i < sizeof BAD / sizeof BAD[0]; i++) {
        Err err;
        Config c;
        REFUSED(parse_config(&c, BAD[i].text, &err), ERR_FORMAT, BAD[i].message);
        assert_null(c.labels);
    }
}

static void config_round_trip(void **state) {
    (void)state;
    for (int round = 0; round < 50; round++) {
        Err err;
        Config c = {.num_attention_heads = 1 + (int)draw64(16)}, back, copy;
        c.hidden_size = c.num_attention_heads * (1 + (int)draw64(64));
        c.vocab_size = 1 + (int)draw64(200000);
        c.num_hidden_layers = 1 + (int)draw64(48);
        c.intermediate_size = 1 + (int)draw64(9000);
        c.max_position_embeddings = 1 + (int)draw64(2000);
        c.max_relative_positions = draw64(2) ? c.max_position_embeddings : 1 + (int)draw64(3000);
        c.position_buckets = 2 + (int)draw64(500);
        c.pad_token_id = (int)draw64((uint64_t)c.vocab_size);
        c.layer_norm_eps = (1 + (double)draw64(1000000)) / 1e13;
        c.initializer_range = draw_decimal();
        c.hidden_dropout_prob = draw_decimal();
        c.attention_probs_dropout_prob = draw_decimal();
        c.pooler_dropout = draw_decimal();
        c.cls_dropout = draw_decimal();
        char text[20][32];
        const char *names[20];
        const int n = (int)draw64(21);
        for (int i = 0; i < n; i++) {
            (void)snprintf(text[i], sizeof text[i],
                           "l\xc3\xa4"
                           "bel \"%d\\%llu",
                           i, (unsigned long long)draw64(1000));
            names[i] = text[i];
        }
        if (n) OK(config_set_labels(&c, names, n, &err));
        cJSON *root;
        Buf out = {0};
        OK(config_json(&root, &c, &err));
        json_print(&out, root);
        cJSON_Delete(root);
        OK(parse_config(&back, out.data, &err));
        buf_free(&out);
        assert_same_config(&c, &back);
        OK(config_copy(&copy, &back, &err));
        assert_same_config(&c, &copy);
        config_free(&back);
        config_free(&copy);
        config_free(&c);
    }
    Err err;
    Config c = {0};
    const char *twice[] = {"a", "b", "a"};
    REFUSED(config_set_labels(&c, twice, 3, &err), ERR_FORMAT, "id2label: the label \"a\" occurs twice");
    assert_int_equal(c.num_labels, 0);
}

static void config_golden(void **state) {
    (void)state;
    const char *dir = need_shared("golden/small-a");
    Err err;
    Config c;
    OK(config_read(&c, dir, &err));
    assert_int_equal(c.hidden_size, 64);
    assert_int_equal(c.max_relative_positions, 32);
    assert_int_equal(c.num_labels, 3);
    assert_string_equal(c.labels[2], "LABEL_2");
    config_free(&c);
    OK(config_read(&c, need_shared("golden/mid-b/config.json"), &err));
    assert_int_equal(c.position_buckets, 256);
    config_free(&c);
    OK(config_read(&c, need_shared("golden/pretrained-like"), &err));
    assert_int_equal(c.num_labels, 0);
    config_free(&c);
    OK(config_read(&c, need_shared("deberta-v3-tokenizer/deberta-v3-large.config.json"), &err));
    assert_int_equal(c.hidden_size, 1024);
    assert_int_equal(c.max_relative_positions, 512);
    config_free(&c);
}

static void config_files(void **state) {
    (void)state;
    Err err;
    Config c;
    const char *path = in_folder("config.json");
    OK(file_save(path, "{\"hidden_act\":1}", 16, &err));
    REFUSED(config_read(&c, folder, &err), ERR_FORMAT,
            path_of("%s: key \"hidden_act\": found 1, expected \"gelu\"", path));
    OK(file_save(path, "{", 1, &err));
    assert_int_equal(config_read(&c, path, &err), ERR_FORMAT);
    assert_int_equal(config_read(&c, in_folder("none"), &err), ERR_IO);
    config_free(&c);
}

/* Every allocation that `work` makes fails once; each time it says ERR_MEMORY. */
static void each_allocation_fails(ErrCode (*work)(void *arg, Err *err), void *arg) {
    for (size_t n = 1; n < 100000; n++) {
        Err err = {0};
        mem_fail_at(n);
        const ErrCode rc = work(arg, &err);
        mem_fail_at(0);
        if (rc == ERR_OK) {
            assert_true(n > 1); /* it did allocate */
            return;
        }
        if (rc != ERR_MEMORY) fail_msg("allocation %zu: %s", n, err.msg);
        assert_int_equal(err.code, ERR_MEMORY);
    }
    fail_msg("it never succeeds");
}

static ErrCode parse_tree(void *arg, Err *err) {
    Config c, copy = {0};
    ErrCode rc = config_parse(&c, arg, err);
    if (rc == ERR_OK) rc = config_copy(&copy, &c, err);
    config_free(&copy);
    config_free(&c);
    return rc;
}

static void config_memory(void **state) {
    (void)state;
    Err err;
    cJSON *root;
    const char text[] = GOOD_START ",\"id2label\":{\"0\":\"a\",\"1\":\"b\",\"2\":\"c\"}}";
    OK(json_parse(&root, text, strlen(text), &err));
    each_allocation_fails(parse_tree, root);
    cJSON_Delete(root);
}

/* ---- safetensors ---- */

static ErrCode parse_header(SafetensorsHeader *h, const char *json, uint64_t data, Err *err) {
    const size_t n = strlen(json);
    char *copy = mem_alloc(n, 1); /* a block of its own, so that a read too far shows */
    memcpy(copy, json, n);
    const ErrCode rc = safetensors_parse(h, copy, n, data, err);
    mem_free(copy);
    return rc;
}

static void safetensors_grammar(void **state) {
    (void)state;
    Err err;
    SafetensorsHeader h;
    OK(parse_header(&h, "{}", 0, &err));
    assert_int_equal(h.count, 0);
    safetensors_header_free(&h);
    OK(parse_header(
        &h,
        "{ \"b\":{\"shape\":[2, 1],\"data_offsets\":[4,12],\"dtype\":\"F32\"},\n\"\\u00e9\\ud83d\\ude00"
        "\\n\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,4]},\"e\":{\"dtype\":\"I64\","
        "\"shape\":[0,5],\"data_offsets\":[4,4]},\"s\":{\"dtype\":\"U8\",\"shape\":[],"
        "\"data_offsets\":[12,13]},\"__metadata__\":{\"z\":\"1\",\"a\\/b\":\"\"}}  ",
        13, &err));
    assert_int_equal(h.count, 4);
    assert_string_equal(h.entries[0].name, "\xc3\xa9\xf0\x9f\x98\x80\n");
    assert_string_equal(h.entries[1].name, "e");
    const SafetensorsEntry *b = safetensors_find(&h, "b");
    assert_non_null(b);
    assert_int_equal(b->rank, 2);
    assert_int_equal(b->shape[0], 2);
    assert_int_equal(b->shape[1], 1);
    assert_int_equal(b->begin, 4);
    assert_int_equal(b->dtype, DTYPE_F32);
    assert_int_equal(safetensors_find(&h, "s")->rank, 0);
    assert_null(safetensors_find(&h, "x"));
    assert_string_equal(safetensors_metadata(&h, "a/b"), "");
    assert_string_equal(safetensors_metadata(&h, "z"), "1");
    assert_null(safetensors_metadata(&h, "q"));
    safetensors_header_free(&h);
}

static void safetensors_refusals(void **state) {
    (void)state;
#define T(shape, a, b) "{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" a "," b "]}"
    static const struct {
        const char *json;
        uint64_t data;
        const char *message;
    } BAD[] = {
        {"", 0, "header ends at byte 0, expected '{'"},
        {" {}", 0, "header byte 0: found ' ', expected '{'"},
        {"{", 0, "header ends at byte 1, expected a string"},
        {"{}x", 0, "header byte 2: found 'x', expected the end of the header"},
        {"{\"a\"}", 0, "header byte 4: found '}', expected ':'"},
        {"{\"a\":[[[[", 0, "tensor \"a\": header byte 5: found '[', expected '{'"},
        {"{\"a\\u0000\":1}", 0, "header byte 5: a NUL in a string"},
        {"{\"a\\ud800x\":1}", 0, "header byte 9: half of a surrogate pair"},
        {"{\"a\\udc00\\udc00\":1}", 0, "header byte 9: half of a surrogate pair"},
        {"{\"a\\x\":1}", 0, "header byte 4: found 'x', expected an escape of JSON"},
        {"{\"a\\u12g4\":1}", 0, "header byte 7: found 'g', expected a hexadecimal digit"},
        {"{\"a\n\":1}", 0, "header byte 3: found '?', expected no control character in a string"},
        {"{\"a\xc0\x80\":1}", 0, "header byte 3: found '?', expected UTF-8"},
        {"{\"a\":{}}", 0, "tensor \"a\": header byte 6: found '}', expected a string"},
        {"{\"a\":{\"dtype\":\"F32\"}}", 0, "tensor \"a\": expected dtype, shape and data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}", 0,
         "tensor \"a\": header byte 20: found '\"', expected dtype, shape and data_offsets, each once"},
        {"{\"a\":{\"x\":1}}", 0,
         "tensor \"a\": header byte 6: found '\"', expected dtype, shape and data_offsets, each once"},
        {"{\"a\":{\"dtype\":\"F8_E4M3\"}}", 0, "tensor \"a\": unknown dtype \"F8_E4M3\""},
        {"{\"a\":" T("[1,1,1,1,1]", "0", "4") "}", 4,
         "tensor \"a\": header byte 37: found '1', expected at most 4 dimensions"},
        {"{\"a\":" T("[-1]", "0", "4") "}", 4,
         "tensor \"a\": header byte 29: found '-', expected a whole number"},
        {"{\"a\":" T("[1.0]", "0", "4") "}", 4, "tensor \"a\": header byte 30: found '.', expected ']'"},
        {"{\"a\":" T("[01]", "0", "4") "}", 4,
         "tensor \"a\": header byte 29: found '0', expected a number without a leading zero"},
        {"{\"a\":" T("[9223372036854775808]", "0", "4") "}", 4,
         "tensor \"a\": header byte 47: found '8', expected a number below 2^63"},
        {"{\"a\":" T("[4294967296,4294967296]", "0", "0") "}", 0,
         "tensor \"a\": the shape [4294967296, 4294967296] overflows"},
        {"{\"a\":" T("[2]", "0", "4") "}", 4, "tensor \"a\": has 4 bytes, expected 8 for F32 [2]"},
        {"{\"a\":" T("[1]", "0", "4") "}", 3, "tensor \"a\": bytes 0 to 4 lie outside the 3 bytes of data"},
        {"{\"a\":" T("[1]", "4", "0") "}", 4, "tensor \"a\": bytes 4 to 0 lie outside the 4 bytes of data"},
        {"{\"a\":" T("[1]", "4", "8") "}", 8,
         "tensor \"a\": begins at byte 4, expected 0 (a hole lies before it)"},
        {"{\"a\":" T("[2]", "0", "8") ",\"b\":" T("[1]", "4", "8") "}", 8,
         "tensor \"b\": begins at byte 4, expected 8 (it overlaps another tensor)"},
        {"{\"a\":" T("[1]", "0", "4") "}", 9, "the tensors end at byte 4 of 9 bytes of data"},
        {"{\"a\":" T("[1]", "0", "4") ",\"\\u0061\":" T("[1]", "4", "8") "}", 8,
         "tensor \"a\": occurs twice"},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "\"__metadata__\" occurs twice"},
        {"{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, "metadata key \"a\" occurs twice"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "header byte 21: found '1', expected a string"},
        {"{\"a\":" T("[1]", "0", "4") ",}", 4, "header byte 54: found '}', expected a string"},
    };
    for (size_t i = 0; i < sizeof BAD / sizeof BAD[0]; i++) {
        Err err;
        SafetensorsHeader h;
        REFUSED(parse_header(&h, BAD[i].json, BAD[i].data, &err), ERR_FORMAT, BAD[i].message);
        assert_null(h.strings);
    }
}

static void safetensors_round_trip(void **state) {
    (void)state;
    const char *path = in_folder("t.safetensors");
    for (int round = 0; round < 30; round++) {
        Err err;
        SafetensorsItem items[12];
        char names[12][64];
        unsigned char *data[12];
        size_t bytes[12];
        const size_t n = draw64(13);
        for (size_t i = 0; i < n; i++) {
            (void)snprintf(names[i], sizeof names[i], "t\xc3\xb8\"\\\n%zu.%llu", i,
                           (unsigned long long)draw64(99));
            Tensor t = {.rank = (int)draw64(5), .dtype = (Dtype)draw64(DTYPE_COUNT)};
            for (int d = 0; d < t.rank; d++) t.shape[d] = (int64_t)draw64(8);
            bytes[i] = (size_t)tensor_count(&t) * tensor_dtype_bytes(t.dtype);
            t.data = data[i] = mem_alloc(bytes[i], 1);
            for (size_t k = 0; k < bytes[i]; k++) data[i][k] = (unsigned char)draw64(256);
            items[i] = (SafetensorsItem){names[i], t};
        }
        const SafetensorsPair pairs[] = {{"format", "pt", 2}, {"n\xc3\xb6te", "line\n\"two\"", 10}};
        const size_t pair_count = draw64(3);
        OK(safetensors_save(path, items, n, pairs, pair_count, &err));
        Safetensors st;
        OK(safetensors_open(&st, path, &err));
        assert_int_equal(st.header.count, n);
        assert_int_equal(st.data_start % 8, 0);
        for (size_t i = 0; i < pair_count; i++)
            assert_string_equal(safetensors_metadata(&st.header, pairs[i].key), pairs[i].value);
        for (size_t i = 0; i < n; i++) {
            const SafetensorsEntry *e = safetensors_find(&st.header, names[i]);
            assert_non_null(e);
            assert_int_equal(e->dtype, items[i].tensor.dtype);
            assert_int_equal(e->rank, items[i].tensor.rank);
            assert_int_equal(e->end - e->begin, bytes[i]);
            assert_memory_equal(e->shape, items[i].tensor.shape, sizeof e->shape);
            unsigned char *back = mem_alloc(bytes[i], 1);
            OK(safetensors_read(&st, e, back, &err));
            assert_memory_equal(back, data[i], bytes[i]);
            mem_free(back);
            mem_free(data[i]);
        }
        safetensors_close(&st);
    }
}

static void safetensors_floats(void **state) {
    (void)state;
    enum { N = 20000 }; /* more than one piece of the converter */
    const char *path = in_folder("f.safetensors");
    Err err;
    float *f32 = mem_alloc(N, 4), *back = mem_alloc(N, 4);
    uint16_t *f16 = mem_alloc(N, 2), *bf16 = mem_alloc(N, 2);
    double *f64 = mem_alloc(N, 8);
    int64_t integer = 1;
    for (size_t i = 0; i < N; i++) {
        f32[i] = draw_float();
        f16[i] = tensor_f32_to_f16(f32[i]);
        uint32_t bits;
        memcpy(&bits, &f32[i], 4);
        bf16[i] = (uint16_t)(bits >> 16);
        f64[i] = (double)f32[i];
    }
    const SafetensorsItem items[] = {{"i", {&integer, {1}, 1, DTYPE_I64}},
                                     {"f32", {f32, {N}, 1, DTYPE_F32}},
                                     {"f16", {f16, {N}, 1, DTYPE_F16}},
                                     {"bf16", {bf16, {N}, 1, DTYPE_BF16}},
                                     {"f64", {f64, {N}, 1, DTYPE_F64}}};
    OK(safetensors_save(path, items, 5, NULL, 0, &err));
    Safetensors st;
    OK(safetensors_open(&st, path, &err));
    for (size_t k = 1; k < 5; k++) {
        OK(safetensors_read_f32(&st, safetensors_find(&st.header, items[k].name), back, &err));
        for (size_t i = 0; i < N; i++) {
            const float want = k == 2   ? tensor_f16_to_f32(f16[i])
                               : k == 3 ? tensor_bf16_to_f32(bf16[i])
                                        : f32[i];
            assert_true(back[i] == want);
        }
    }
    REFUSED(safetensors_read_f32(&st, safetensors_find(&st.header, "i"), back, &err), ERR_FORMAT,
            path_of("%s: tensor \"i\" is I64, expected a floating type", path));
    safetensors_close(&st);
    mem_free(f32);
    mem_free(f16);
    mem_free(bf16);
    mem_free(f64);
    mem_free(back);
    const SafetensorsItem twice[] = {{"a", {&integer, {1}, 1, DTYPE_I64}},
                                     {"a", {&integer, {1}, 1, DTYPE_I64}}};
    REFUSED(safetensors_save(path, twice, 2, NULL, 0, &err), ERR_FORMAT, "tensor \"a\": occurs twice");
    const char *bad = in_folder("bad.safetensors");
    OK(file_save(bad, "\xff\0\0\0\0\0\0\0{}", 10, &err));
    REFUSED(safetensors_open(&st, bad, &err), ERR_FORMAT,
            path_of("%s: not a safetensors file, or cut short: a header of 255 bytes in a file of 10", bad));
    OK(file_save(bad, "\2\0\0", 3, &err));
    REFUSED(safetensors_open(&st, bad, &err), ERR_FORMAT,
            path_of("%s: has 3 bytes, too few for a safetensors file", bad));
}

static ErrCode parse_text(void *arg, Err *err) {
    SafetensorsHeader h;
    const ErrCode rc = safetensors_parse(&h, arg, strlen(arg), 8, err);
    safetensors_header_free(&h);
    return rc;
}

static void safetensors_memory(void **state) {
    (void)state;
    char json[] = "{\"a\":" T("[2]", "0", "8") ",\"__metadata__\":{\"a\":\"b\"}}";
    each_allocation_fails(parse_text, json);
}

/* ---- pytorch_model.bin: made here opcode by opcode ---- */

static void put_string(Buf *b, const char *s) { /* BINUNICODE */
    const uint32_t n = (uint32_t)strlen(s);
    const char head[5] = {'X', (char)(n & 255), (char)(n >> 8 & 255), 0, 0};
    buf_put(b, head, 5);
    buf_puts(b, s);
}
static void put_int(Buf *b, int64_t v) { /* LONG1 of 8 bytes */
    buf_put(b, "\x8a\x08", 2);
    for (int i = 0; i < 8; i++) {
        const char byte = (char)((uint64_t)v >> (8 * i) & 255);
        buf_put(b, &byte, 1);
    }
}
static void put_ints(Buf *b, const int64_t *v, int n) { /* MARK ... TUPLE */
    buf_puts(b, "(");
    for (int i = 0; i < n; i++) put_int(b, v[i]);
    buf_puts(b, "t");
}

typedef struct {
    const char *name, *type, *storage;
    int64_t numel, offset;
    int rank;
    int64_t shape[4], stride[4];
} Made;

static void put_tensor(Buf *b, const Made *m, bool legacy) {
    buf_puts(b, "ctorch._utils\n_rebuild_tensor_v2\n((");
    put_string(b, "storage");
    buf_printf(b, "ctorch\n%s\n", m->type);
    put_string(b, m->storage);
    put_string(b, "cpu");
    put_int(b, m->numel);
    buf_puts(b, legacy ? "NtQ" : "tQ");
    put_int(b, m->offset);
    put_ints(b, m->shape, m->rank);
    put_ints(b, m->stride, m->rank);
    buf_puts(b,
             "\x89"
             "ccollections\nOrderedDict\n)RtR");
}

static void put_state(Buf *b, const Made *list, size_t n, bool legacy) {
    buf_puts(b, "\x80\x02}(");
    for (size_t i = 0; i < n; i++) {
        put_string(b, list[i].name);
        put_tensor(b, &list[i], legacy);
    }
    buf_puts(b, "u.");
}

typedef struct {
    const char *key;
    const void *data;
    size_t bytes, count;
} MadeStorage;

#define LEGACY_MAGIC "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."

static void put_legacy(Buf *b, const Made *list, size_t n, const MadeStorage *storages, size_t count) {
    buf_puts(b, LEGACY_MAGIC);
    buf_put(b, "\x80\x02M\xe9\x03.", 6);
    buf_puts(b, "\x80\x02}");
    put_string(b, "little_endian");
    buf_puts(b, "\x88s.");
    put_state(b, list, n, true);
    buf_puts(b, "\x80\x02](");
    for (size_t i = 0; i < count; i++) put_string(b, storages[i].key);
    buf_puts(b, "e.");
    for (size_t i = 0; i < count; i++) {
        const uint64_t k = storages[i].count;
        buf_put(b, &k, 8);
        buf_put(b, storages[i].data, storages[i].bytes);
    }
}

static void zip_put(zip_t *z, const char *name, const void *data, size_t n, bool deflate) {
    zip_source_t *s = zip_source_buffer(z, data, n, 0);
    const zip_int64_t index = zip_file_add(z, name, s, ZIP_FL_ENC_UTF_8);
    assert_true(index >= 0);
    assert_int_equal(
        zip_set_file_compression(z, (zip_uint64_t)index, deflate ? ZIP_CM_DEFLATE : ZIP_CM_STORE, 0), 0);
}

static void put_zip(Buf *out, const Buf *code, const char *byteorder, const MadeStorage *storages,
                    size_t count) {
    zip_error_t why;
    zip_source_t *source = zip_source_buffer_create(NULL, 0, 0, &why);
    zip_source_keep(source);
    zip_t *z = zip_open_from_source(source, ZIP_TRUNCATE, &why);
    assert_non_null(z);
    zip_put(z, "top/data.pkl", code->data, code->len, draw64(2));
    if (byteorder) zip_put(z, "top/byteorder", byteorder, strlen(byteorder), false);
    for (size_t i = 0; i < count; i++)
        zip_put(z, path_of("top/data/%s", storages[i].key), storages[i].data, storages[i].bytes, draw64(2));
    assert_int_equal(zip_close(z), 0);
    zip_stat_t st;
    assert_int_equal(zip_source_stat(source, &st), 0);
    assert_int_equal(zip_source_open(source), 0);
    char *to = buf_reserve(out, st.size);
    assert_int_equal(zip_source_read(source, to, st.size), (zip_int64_t)st.size);
    out->len += st.size;
    (void)zip_source_close(source);
    zip_source_free(source);
}

/* A block of exactly its size, so that a read too far shows. */
static ErrCode open_made(Pickle **p, const Buf *b, unsigned char **copy, Err *err) {
    *copy = mem_resize(NULL, b->len, 1);
    memcpy(*copy, b->data, b->len);
    return pickle_open_bytes(p, *copy, b->len, err);
}

static void pickle_layouts(void **state) {
    (void)state;
    enum { N = 30000 }; /* more than one piece, so that pieces and spans meet */
    Err err;
    float *f32 = mem_alloc(N, 4), *out = mem_alloc(N, 4);
    uint16_t *f16 = mem_alloc(N, 2);
    double *f64 = mem_alloc(N, 8);
    int64_t integers[4] = {1, 2, 3, 4};
    for (size_t i = 0; i < N; i++) {
        f32[i] = draw_float();
        f16[i] = tensor_f32_to_f16(f32[i]);
        f64[i] = (double)draw_float();
    }
    const int64_t cut = (int64_t)draw64(20000);
    const Made list[] = {
        {"whole", "FloatStorage", "7", N, 0, 2, {100, 300}, {300, 1}},
        {"part", "FloatStorage", "7", N, cut, 1, {9000}, {1}},
        {"turned", "FloatStorage", "7", N, 0, 2, {300, 100}, {1, 300}},
        {"spread", "DoubleStorage", "d", N, 0, 3, {2, 1, 4}, {0, 99, 5000}},
        {"half", "HalfStorage", "8", N, 0, 1, {N}, {1}},
        {"bf", "BFloat16Storage", "b", N, 3, 2, {3, 1000}, {2000, 2}},
        {"ids", "LongStorage", "i", 4, 0, 2, {1, 4}, {4, 1}},
        {"none", "FloatStorage", "7", N, N, 2, {0, 5}, {5, 1}},
        {"scalar", "FloatStorage", "7", N, 5, 0, {0}, {0}},
    };
    const MadeStorage storages[] = {{"b", f16, N * 2, N},
                                    {"7", f32, (size_t)N * 4, N},
                                    {"8", f16, N * 2, N},
                                    {"d", f64, (size_t)N * 8, N},
                                    {"i", integers, sizeof integers, 4}};
    for (int legacy = 0; legacy < 2; legacy++) {
        Buf code = {0}, file = {0};
        unsigned char *copy;
        Pickle *p;
        if (legacy) {
            put_legacy(&file, list, 9, storages, 5);
        } else {
            put_state(&code, list, 9, false);
            put_zip(&file, &code, draw64(2) ? "little" : NULL, storages, 5);
        }
        OK(open_made(&p, &file, &copy, &err));
        assert_int_equal(pickle_count(p), 9);
        for (size_t i = 0; i < 9; i++) {
            const PickleEntry e = pickle_entry(p, i);
            assert_string_equal(e.name, list[i].name);
            assert_int_equal(e.rank, list[i].rank);
            if (i == 6) {
                REFUSED(pickle_read_f32(p, i, out, &err), ERR_FORMAT,
                        "checkpoint: tensor \"ids\": is I64, expected a floating type");
                continue;
            }
            OK(pickle_read_f32(p, i, out, &err));
            size_t at = 0;
            const int64_t *n = list[i].shape, *s = list[i].stride;
            const int64_t n0 = e.rank > 0 ? n[0] : 1, n1 = e.rank > 1 ? n[1] : 1, n2 = e.rank > 2 ? n[2] : 1;
            for (int64_t a = 0; a < n0; a++)
                for (int64_t b = 0; b < n1; b++)
                    for (int64_t c = 0; c < n2; c++, at++) {
                        const int64_t k = list[i].offset + a * s[0] + b * s[1] + c * s[2];
                        const float want = i == 3   ? (float)f64[k]
                                           : i == 4 ? tensor_f16_to_f32(f16[k])
                                           : i == 5 ? tensor_bf16_to_f32(f16[k])
                                                    : f32[k];
                        if (memcmp(&out[at], &want, 4) != 0)
                            fail_msg("%s [%zu]: %g, expected %g", e.name, at, (double)out[at], (double)want);
                    }
        }
        pickle_close(p);
        mem_free(copy);
        buf_free(&code);
        buf_free(&file);
    }
    mem_free(f32);
    mem_free(f16);
    mem_free(f64);
    mem_free(out);
}

/* Opens a zip around `code`, with one storage "0" of 4 floats. */
static void expect_code(const char *code, size_t n, const char *message) {
    Err err = {0};
    const float values[4] = {1, 2, 3, 4};
    const MadeStorage storage = {"0", values, sizeof values, 4};
    Buf text = {0}, file = {0};
    unsigned char *copy;
    Pickle *p;
    buf_put(&text, code, n);
    put_zip(&file, &text, "little", &storage, 1);
    const ErrCode rc = open_made(&p, &file, &copy, &err);
    if (message) {
        assert_int_equal(rc, ERR_FORMAT);
        assert_string_equal(err.msg, message);
    } else if (rc != ERR_OK) {
        fail_msg("%s", err.msg);
    }
    pickle_close(p);
    mem_free(copy);
    buf_free(&text);
    buf_free(&file);
}

static void pickle_opcodes(void **state) {
    (void)state;
    static const struct {
        const char *code;
        size_t n;
        const char *message;
    } BAD[] = {
#define C(text) text, sizeof(text) - 1
        {C("}."), NULL},
        {C("\x80\x04\x95\x02\0\0\0\0\0\0\0}\x94."), NULL},
        {C("}(I5\nJ\xff\xff\xff\xffI01\nVx\nU\1yN\x8a\0G?\xf0\0\0\0\0\0\0"
           "T\1\0\0\0z)\x89(K\1l(K\2e]a\x85\x85u."),
         NULL},
        {C("}p0\n(K\1K\2dg0\n\x86"
           "0."),
         NULL},
        {C("(K\1K\2d}p3\n0g3\nNNN\x87"
           "0h\3."),
         NULL},
        {C("ccollections\nOrderedDict\n(](](K\1K\2e](X\1\0\0\0aNeetR."), NULL},
        {C("\x8c\x0b"
           "collections\x8c\x0bOrderedDict\x93)R}b."),
         NULL},
        {C("h\7."), "byte 0: pickle: memo slot 7 is empty"},
        {C(""), "pickle ends at byte 0 where 1 more bytes were expected"},
        {C("."), "byte 0: pickle: the stack is empty"},
        {C("K\1."), "holds an integer, expected a dict of tensors"},
        {C("cos\nsystem\n."), "byte 0: pickle: the global \"os.system\" is not allowed"},
        {C("\x8c\2os\x8c\6system\x93."), "byte 12: pickle: the global \"os.system\" is not allowed"},
        {C("(ios\nsystem\n."), "byte 1: pickle: opcode 0x69 ('i') is not allowed"},
        {C("}\x81."), "byte 1: pickle: opcode 0x81 ('?') is not allowed"},
        {C("ctorch\nFloatStorage\n)R."), "byte 21: pickle: a call of \"torch.FloatStorage\" is not allowed"},
        {C("})R."), "byte 2: pickle: a call of a dict with a tuple"},
        {C("ctorch._utils\n_rebuild_tensor_v2\n)R."), "byte 34: pickle: _rebuild_tensor_v2 with 0 arguments"},
        {C("ctorch._utils\n_rebuild_parameter\n)R."), "byte 34: pickle: _rebuild_parameter without a tensor"},
        {C("ccollections\nOrderedDict\nK\1\x85R."),
         "byte 28: pickle: arguments of OrderedDict that are not a list of pairs"},
        {C("]}b."), "byte 2: pickle: BUILD of a list from a dict is not allowed"},
        {C(")Q."), "byte 1: pickle: a persistent id that is not ('storage', type, key, location, size)"},
        {C("\x80\x06}."), "byte 0: pickle: protocol 6, expected at most 5"},
        {C("\x95\xff\0\0\0\0\0\0\0."), "byte 0: pickle: a frame of 255 bytes in the last 1"},
        {C("X\xff\xff\xff\xff."), "byte 0: pickle: a string of 4294967295 bytes, expected at most 1048576"},
        {C("X\x04\0\0\0a."), "byte 0: pickle ends at byte 7 where 4 more bytes were expected"},
        {C("(K\1a."), "byte 3: pickle: the stack is empty"},
        {C("}(K\1u."), "byte 4: pickle: a dict with a key and no value"},
        {C("})a."), "byte 2: pickle: opcode 'a' on a dict"},
        {C("}u."), "byte 1: pickle: no mark on the stack"},
        {C("Nr\0\0\x10\0."), "byte 1: pickle: memo slot 1048576, expected less than 1048576"},
        {C("I12x\n."), "byte 0: pickle: found '12x', expected an integer"},
        {C("I99999999999999999999\n."), "byte 0: pickle: found '99999999999999999999', expected an integer"},
        {C("Va\\u0041\n."), "byte 0: pickle: an escape in a string of opcode 'V'"},
        {C("}K\1\x87."), "byte 3: pickle: the stack is empty"},
    };
    for (size_t i = 0; i < sizeof BAD / sizeof BAD[0]; i++)
        expect_code(BAD[i].code, BAD[i].n, BAD[i].message);
}

static void pickle_tensors_refused(void **state) {
    (void)state;
    static const struct {
        Made made;
        const char *message;
    } BAD[] = {
        {{"a", "FloatStorage", "0", 4, 0, 1, {4}, {1}}, NULL},
        {{"a", "FloatStorage", "0", 4, 0, 1, {5}, {1}},
         "tensor \"a\": [5] from element 0 on reaches past its storage of 4 elements"},
        {{"a", "FloatStorage", "0", 4, 1, 1, {2}, {3}},
         "tensor \"a\": [2] from element 1 on reaches past its storage of 4 elements"},
        {{"a", "FloatStorage", "0", 4, -1, 1, {2}, {1}},
         "tensor \"a\": [2] from element -1 on reaches past its storage of 4 elements"},
        {{"a", "FloatStorage", "0", 4, 0, 2, {3, 3}, {INT64_MAX, INT64_MAX}},
         "tensor \"a\": [3, 3] from element 0 on reaches past its storage of 4 elements"},
        {{"a", "FloatStorage", "0", 4, 0, 2, {INT64_MAX, 3}, {0, 0}},
         "tensor \"a\": the shape [9223372036854775807, 3] overflows"},
        {{"a", "FloatStorage", "0", 4, 0, 1, {-2}, {1}},
         "tensor \"a\": its dimensions are not all integers of at least 0"},
        {{"a", "FloatStorage", "0", 4, 0, 1, {2}, {-1}},
         "tensor \"a\": its strides are not all integers of at least 0"},
        {{"a", "FloatStorage", "0", INT64_MAX, 0, 1, {2}, {1}},
         "tensor \"a\": its storage of 9223372036854775807 elements overflows"},
        {{"a", "FloatStorage", "0", 5, 0, 1, {2}, {1}},
         "tensor \"a\": storage \"0\" has another size in the zip than in data.pkl"},
        {{"a", "DoubleStorage", "0", 4, 0, 1, {2}, {1}},
         "tensor \"a\": storage \"0\" has another size in the zip than in data.pkl"},
        {{"a", "FloatStorage", "1", 4, 0, 1, {2}, {1}}, "tensor \"a\": storage \"1\" is not in the zip"},
    };
    for (size_t i = 0; i < sizeof BAD / sizeof BAD[0]; i++) {
        Buf code = {0};
        put_state(&code, &BAD[i].made, 1, false);
        expect_code(code.data, code.len, BAD[i].message);
        buf_free(&code);
    }
    Buf code = {0};
    const Made twice[] = {BAD[0].made, BAD[0].made};
    put_state(&code, twice, 2, false);
    expect_code(code.data, code.len, "tensor \"a\": occurs twice");
    buf_clear(&code); /* {"model": {...}, "epoch": 3} */
    buf_puts(&code, "\x80\x02}(");
    put_string(&code, "model");
    buf_puts(&code, "}");
    put_string(&code, "a");
    put_tensor(&code, &BAD[0].made, false);
    buf_puts(&code, "s");
    put_string(&code, "epoch");
    buf_puts(&code, "K\3u.");
    expect_code(code.data, code.len, NULL);
    buf_free(&code);
}

static void expect_file(const Buf *file, const char *message) {
    Err err = {0};
    unsigned char *copy;
    Pickle *p;
    const ErrCode rc = open_made(&p, file, &copy, &err);
    if (message) {
        assert_int_equal(rc, ERR_FORMAT);
        assert_string_equal(err.msg, message);
    } else if (rc != ERR_OK) {
        fail_msg("%s", err.msg);
    }
    pickle_close(p);
    mem_free(copy);
}

static void pickle_files_refused(void **state) {
    (void)state;
    Buf b = {0}, code = {0};
    const float values[4] = {1, 2, 3, 4};
    const Made made = {"a", "FloatStorage", "0", 4, 0, 1, {4}, {1}};
    MadeStorage storage = {"0", values, sizeof values, 4};
    expect_file(&(Buf){.data = "", .len = 0}, "neither a zip nor a pickle of torch.save");
    buf_puts(&b, "version https://git-lfs.github.com/spec/v1\n");
    expect_file(&b, "a Git LFS pointer, not the file itself; fetch it with 'git lfs pull'");
    buf_clear(&b);
    buf_puts(&b, "\x80\x02}.");
    expect_file(&b, "a pickle, but not of torch.save: the magic number is missing");
    buf_clear(&b);
    buf_puts(&b, LEGACY_MAGIC "\x80\x02K\1.");
    expect_file(&b, "a version of the legacy format other than 1001");
    buf_clear(&b);
    buf_puts(&b, LEGACY_MAGIC "\x80\x02M\xe9\x03.\x80\x02}.");
    expect_file(&b, "its numbers are not little-endian");
    buf_clear(&b);
    put_legacy(&b, &made, 1, &storage, 1);
    expect_file(&b, NULL);
    b.len--;
    expect_file(&b, "storage \"0\" is cut short");
    b.len++;
    buf_puts(&b, "x");
    expect_file(&b, "1 bytes behind the last storage");
    storage.count = 3;
    buf_clear(&b);
    put_legacy(&b, &made, 1, &storage, 1);
    expect_file(&b, "storage \"0\" has another size than its tensors say");
    storage.count = 4;
    storage.key = "1";
    buf_clear(&b);
    put_legacy(&b, &made, 1, &storage, 1);
    expect_file(&b, "the list of storages does not fit the tensors");
    buf_clear(&b);
    put_legacy(&b, &made, 1, &storage, 0);
    expect_file(&b, "tensor \"a\": storage \"0\" is not in the file");
    storage.key = "0";
    put_state(&code, &made, 1, false);
    buf_clear(&b);
    put_zip(&b, &code, "big", &storage, 1);
    expect_file(&b, "its numbers are not little-endian");
    buf_clear(&b);
    put_zip(&b, &code, "little", &storage, 1);
    expect_file(&b, NULL);
    b.len /= 2;
    expect_file(&b, "not a whole zip file: Not a zip archive");
    buf_free(&b);
    buf_free(&code);
}

/* Half of the bits of a stored storage are changed: the checksum of the zip must say so. */
static void pickle_damage(void **state) {
    (void)state;
    Err err;
    Buf b = {0}, code = {0};
    float values[8], out[8];
    for (size_t i = 0; i < 8; i++) values[i] = draw_float();
    const Made made = {"a", "FloatStorage", "0", 8, 0, 1, {8}, {1}};
    const MadeStorage storage = {"0", values, sizeof values, 8};
    put_state(&code, &made, 1, false);
    for (;;) { /* until chance has stored it plainly */
        buf_clear(&b);
        put_zip(&b, &code, NULL, &storage, 1);
        size_t at = 0;
        while (at + sizeof values <= b.len && memcmp(b.data + at, values, sizeof values) != 0) at++;
        if (at + sizeof values > b.len) continue;
        b.data[at + draw64(sizeof values)] ^= 0x55;
        break;
    }
    unsigned char *copy;
    Pickle *p;
    OK(open_made(&p, &b, &copy, &err));
    REFUSED(pickle_read_f32(p, 0, out, &err), ERR_FORMAT, "checkpoint: tensor \"a\": CRC error");
    pickle_close(p);
    mem_free(copy);
    buf_free(&b);
    buf_free(&code);
}

static ErrCode open_buf(void *arg, Err *err) {
    const Buf *b = arg;
    Pickle *p;
    const ErrCode rc = pickle_open_bytes(&p, b->data, b->len, err);
    pickle_close(p);
    return rc;
}

static ErrCode open_path(void *arg, Err *err) {
    Pickle *p;
    const ErrCode rc = pickle_open(&p, arg, err);
    pickle_close(p);
    return rc;
}

static void pickle_memory(void **state) {
    (void)state;
    Err err;
    Buf b = {0}, code = {0};
    const float values[4] = {1, 2, 3, 4};
    const Made made = {"a", "FloatStorage", "0", 4, 0, 1, {4}, {1}};
    const MadeStorage storage = {"0", values, sizeof values, 4};
    char path[128];
    (void)snprintf(path, sizeof path, "%s/m.bin", folder);
    put_legacy(&b, &made, 1, &storage, 1);
    each_allocation_fails(open_buf, &b);
    OK(file_save(path, b.data, b.len, &err));
    each_allocation_fails(open_path, path);
    buf_clear(&b);
    put_state(&code, &made, 1, false);
    put_zip(&b, &code, "little", &storage, 1);
    each_allocation_fails(open_buf, &b);
    OK(file_save(path, b.data, b.len, &err));
    each_allocation_fails(open_path, path);
    buf_free(&b);
    buf_free(&code);
}

/* ---- weights ---- */

typedef struct {
    Config config;
    Arena arena;
    Params params;
} Model;

static void model_alloc(Model *m) {
    Err err;
    m->arena = (Arena){0};
    params_layout(&m->params, &m->arena, &m->config, true, NULL);
    const size_t bytes = m->arena.used;
    OK(arena_init(&m->arena, bytes, "a test model", &err));
    params_layout(&m->params, &m->arena, &m->config, true, NULL);
}

static void model_free(Model *m) {
    config_free(&m->config);
    arena_free(&m->arena);
}

/* The block holds pointers as well, so values are compared tensor by tensor. */
static void assert_same_values(const Model *a, const Model *b) {
    size_t n, n2;
    ParamView *x = params_list(&a->params, &a->config, &n), *y = params_list(&b->params, &b->config, &n2);
    assert_int_equal(n, n2);
    for (size_t i = 0; i < n; i++)
        if (memcmp(x[i].data, y[i].data, (size_t)param_count(&x[i]) * sizeof(real)) != 0)
            fail_msg("%s differs", x[i].name);
    mem_free(x);
    mem_free(y);
}

static Model small_model(int labels) {
    Model m = {.config = {.vocab_size = 50,
                          .hidden_size = 8,
                          .num_hidden_layers = 2,
                          .num_attention_heads = 2,
                          .intermediate_size = 12,
                          .max_position_embeddings = 16,
                          .max_relative_positions = 16,
                          .position_buckets = 4,
                          .pad_token_id = 3,
                          .layer_norm_eps = 1e-7,
                          .initializer_range = 0.5}};
    static const char *const NAMES[] = {"a", "b", "c", "d"};
    Err err;
    if (labels) OK(config_set_labels(&m.config, NAMES, labels, &err));
    model_alloc(&m);
    return m;
}

static const char *new_dir(void) {
    static int count;
    Err err;
    const char *dir = path_of("%s/%d", folder, count++);
    OK(file_mkdirs(dir, &err));
    return dir;
}

static bool listed(const FlagList *list, const char *name) {
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->items[i], name) == 0) return true;
    return false;
}

static void weights_start(void **state) {
    (void)state;
    Model a = small_model(3), b = small_model(3);
    const uint64_t start = draw64(1000000);
    weights_init(&a.params, &a.config, start);
    weights_init(&b.params, &b.config, start);
    assert_same_values(&a, &b);
    for (int i = 0; i < 8; i++) {
        assert_true(a.params.word[3 * 8 + i] == 0); /* [PAD] */
        assert_true(a.params.embed_norm_w[i] == 1);
        assert_true(a.params.layer[1].q_b[i] == 0);
    }
    double sum = 0, squares = 0;
    for (int i = 0; i < 400; i++)
        sum += (double)a.params.word[i], squares += (double)(a.params.word[i] * a.params.word[i]);
    /* 392 values of deviation 0.5: mean within 5 of its 0.025, deviation within 25 % (7 of its 3.6 %) */
    assert_true(fabs(sum / 392) < 0.13);
    assert_true(fabs(sqrt(squares / 392) - 0.5) < 0.125);
    assert_true(a.params.layer[0].q_w[0] != a.params.layer[1].q_w[0]);
    model_free(&a);
    model_free(&b);
}

static void weights_round_trip(void **state) {
    (void)state;
    Err err;
    for (int labels = 0; labels < 3; labels++) {
        Model a = small_model(labels), b = small_model(labels);
        weights_init(&a.params, &a.config, draw64(1000));
        a.params.rel_norm_b[1] = (real)draw_float();
        const char *dir = new_dir(), *path = path_of("%s/model.safetensors", dir);
        const char *again = path_of("%s/again.safetensors", dir);
        OK(weights_save(path, &a.params, &a.config, &err));
        OK(weights_save(again, &a.params, &a.config, &err));
        Buf x = {0}, y = {0};
        OK(file_read(&x, path, 1 << 20, &err));
        OK(file_read(&y, again, 1 << 20, &err));
        assert_int_equal(x.len, y.len);
        assert_memory_equal(x.data, y.data, x.len);
        buf_free(&x);
        buf_free(&y);
        WeightsReport report;
        OK(weights_load(&b.params, &b.config, dir, 1, &report, &err));
        assert_same_values(&a, &b);
        assert_int_equal(report.initialised.count, 0);
        assert_int_equal(report.ignored.count, 0);
        assert_string_equal(report.source, "model.safetensors");
        weights_report_free(&report);
        Safetensors st;
        OK(safetensors_open(&st, path, &err));
        assert_string_equal(safetensors_metadata(&st.header, "format"), "pt");
        safetensors_close(&st);
        model_free(&a);
        model_free(&b);
    }
}

/* Writes the tensors of a model that `keep` accepts; `strip` leaves out "deberta.". */
static void save_some(const char *path, const Model *m, bool (*keep)(size_t i, const char *name),
                      bool strip) {
    Err err;
    size_t n, count = 0;
    ParamView *list = params_list(&m->params, &m->config, &n);
    SafetensorsItem *items = mem_alloc(n, sizeof *items);
    for (size_t i = 0; i < n; i++) {
        const ParamView *v = &list[i];
        if (keep && !keep(i, v->name)) continue;
        const bool prefixed = strip && strncmp(v->name, "deberta.", 8) == 0;
        items[count].name = v->name + (prefixed ? 8 : 0);
        items[count++].tensor = (Tensor){v->data, {v->rows, v->cols}, v->cols ? 2 : 1, DTYPE_F32};
    }
    OK(safetensors_save(path, items, count, NULL, 0, &err));
    mem_free(items);
    mem_free(list);
}

static bool keep_encoder(size_t i, const char *name) {
    (void)i;
    return strncmp(name, "deberta.", 8) == 0;
}
static bool keep_even(size_t i, const char *name) {
    (void)name;
    return i % 2 == 0;
}
static bool keep_odd(size_t i, const char *name) {
    return !keep_even(i, name);
}
static bool keep_no_bias(size_t i, const char *name) {
    (void)i;
    return strcmp(name, "classifier.bias") != 0;
}
static bool keep_no_norm(size_t i, const char *name) {
    (void)i;
    return strcmp(name, "deberta.encoder.layer.1.output.LayerNorm.bias") != 0;
}

static void weights_partial(void **state) {
    (void)state;
    Err err;
    Model a = small_model(3), b = small_model(3), fresh = small_model(3);
    const uint64_t start = draw64(1000);
    weights_init(&a.params, &a.config, 99999);
    weights_init(&fresh.params, &fresh.config, start);
    const char *dir = new_dir(), *path = path_of("%s/model.safetensors", dir);
    save_some(path, &a, keep_encoder, true);
    WeightsReport report;
    OK(weights_load(&b.params, &b.config, dir, start, &report, &err));
    assert_int_equal(report.initialised.count, 4);
    assert_true(listed(&report.initialised, "pooler.dense.weight"));
    assert_true(listed(&report.initialised, "classifier.bias"));
    weights_report_free(&report);
    assert_memory_equal(b.params.word, a.params.word, 400 * sizeof(real));
    assert_memory_equal(b.params.layer[1].down_w, a.params.layer[1].down_w, 96 * sizeof(real));
    assert_memory_equal(b.params.pool_w, fresh.params.pool_w, 64 * sizeof(real));
    assert_memory_equal(b.params.head_w, fresh.params.head_w, 24 * sizeof(real));
    Model c = small_model(0); /* no labels: the classifier of a checkpoint is not ours */
    save_some(path, &a, NULL, false);
    OK(weights_load(&c.params, &c.config, dir, start, &report, &err));
    assert_int_equal(report.ignored.count, 2);
    assert_true(listed(&report.ignored, "classifier.weight"));
    weights_report_free(&report);
    model_free(&a);
    model_free(&b);
    model_free(&c);
    model_free(&fresh);
}

static void save_index(const char *dir, const Model *m, const char *name, const char *even, const char *odd) {
    Err err;
    size_t n;
    ParamView *list = params_list(&m->params, &m->config, &n);
    Buf text = {0};
    buf_puts(&text, "{\"metadata\":{\"total_size\":1},\"weight_map\":{");
    for (size_t i = 0; i < n; i++)
        buf_printf(&text, "%s\"%s\":\"%s\"", i ? "," : "", list[i].name, i % 2 ? odd : even);
    buf_puts(&text, "}}");
    OK(file_save(path_of("%s/%s", dir, name), text.data, text.len, &err));
    buf_free(&text);
    mem_free(list);
}

static void weights_shards(void **state) {
    (void)state;
    Err err;
    Model a = small_model(2), b = small_model(2);
    weights_init(&a.params, &a.config, draw64(1000));
    const char *dir = new_dir();
    save_some(path_of("%s/m-1.safetensors", dir), &a, keep_even, false);
    save_some(path_of("%s/m-2.safetensors", dir), &a, keep_odd, false);
    save_index(dir, &a, "model.safetensors.index.json", "m-1.safetensors", "m-2.safetensors");
    WeightsReport report;
    OK(weights_load(&b.params, &b.config, dir, 1, &report, &err));
    assert_string_equal(report.source, "model.safetensors.index.json");
    assert_int_equal(report.ignored.count + report.initialised.count, 0);
    weights_report_free(&report);
    assert_same_values(&a, &b);
    const char *index = path_of("%s/model.safetensors.index.json", dir);
    save_index(dir, &a, "model.safetensors.index.json", "m-2.safetensors", "m-1.safetensors");
    REFUSED(
        weights_load(&b.params, &b.config, dir, 1, NULL, &err), ERR_FORMAT,
        path_of("%s: tensor \"deberta.embeddings.word_embeddings.weight\" is not in m-2.safetensors", index));
    save_index(dir, &a, "model.safetensors.index.json", "../m-1.safetensors", "m-2.safetensors");
    REFUSED(
        weights_load(&b.params, &b.config, dir, 1, NULL, &err), ERR_FORMAT,
        path_of("%s: weight_map: found \"../m-1.safetensors\", expected a file in the same folder", index));
    OK(file_save(index, "{}", 2, &err));
    REFUSED(weights_load(&b.params, &b.config, dir, 1, NULL, &err), ERR_FORMAT,
            path_of("%s: key \"weight_map\": expected an object from tensor to file", index));
    model_free(&a);
    model_free(&b);
}

static void weights_refusals(void **state) {
    (void)state;
    Err err;
    Model a = small_model(3), b = small_model(3), other = small_model(2);
    weights_init(&a.params, &a.config, 5);
    const char *dir = new_dir(), *path = path_of("%s/model.safetensors", dir);
    REFUSED(
        weights_load(&b.params, &b.config, dir, 1, NULL, &err), ERR_IO,
        path_of("%s: no weights: expected model.safetensors, pytorch_model.bin or an index of either", dir));
    save_some(path, &a, keep_no_bias, false);
    REFUSED(weights_load(&b.params, &b.config, dir, 1, NULL, &err), ERR_FORMAT,
            path_of("%s: has a tensor \"classifier.weight\" but no \"classifier.bias\"", dir));
    save_some(path, &a, keep_no_norm, false);
    REFUSED(weights_load(&b.params, &b.config, dir, 1, NULL, &err), ERR_FORMAT,
            path_of("%s: no tensor \"deberta.encoder.layer.1.output.LayerNorm.bias\" among its 41", dir));
    save_some(path, &a, NULL, false);
    REFUSED(
        weights_load(&other.params, &other.config, dir, 1, NULL, &err), ERR_SHAPE,
        path_of(
            "%s: tensor \"classifier.weight\" is for 3 labels, but the configuration has 2; use the labels "
            "of the checkpoint, or one without a classifier",
            path));
    b.config.vocab_size = 49;
    REFUSED(
        weights_load(&b.params, &b.config, dir, 1, NULL, &err), ERR_SHAPE,
        path_of(
            "%s: tensor \"deberta.embeddings.word_embeddings.weight\" has shape [50, 8], expected [49, 8] "
            "from config.json",
            path));
    b.config.vocab_size = 50;
    a.params.layer[1].up_b[7] = (real)INFINITY;
    save_some(path, &a, NULL, false);
    REFUSED(weights_load(&b.params, &b.config, dir, 1, NULL, &err), ERR_NUMERIC,
            path_of("%s: tensor \"deberta.encoder.layer.1.intermediate.dense.bias\" holds inf at index 7, "
                    "expected finite numbers",
                    path));
    model_free(&a);
    model_free(&b);
    model_free(&other);
}

static const char *work_dir;
static ErrCode load_model(void *arg, Err *err) {
    Model *m = arg;
    WeightsReport report;
    const ErrCode rc = weights_load(&m->params, &m->config, work_dir, 1, &report, err);
    weights_report_free(&report);
    if (rc != ERR_OK) return rc;
    return weights_save(in_folder("out.safetensors"), &m->params, &m->config, err);
}

static void weights_memory(void **state) {
    (void)state;
    char dir[128];
    Model m = small_model(2);
    weights_init(&m.params, &m.config, 5);
    (void)snprintf(dir, sizeof dir, "%s", new_dir());
    save_some(path_of("%s/model.safetensors", dir), &m, keep_encoder, false);
    work_dir = dir;
    each_allocation_fails(load_model, &m);
    model_free(&m);
}

/* The same weights, in every format that the golden folder has them, are the same bytes. */
static void golden_formats(const char *golden, const char *safetensors, size_t ignored, size_t initialised) {
    Err err;
    char from[512];
    (void)snprintf(from, sizeof from, "%s", need_shared(golden));
    const char *const FILES[][2] = {{safetensors, "model.safetensors"},
                                    {"pytorch_model.bin", "pytorch_model.bin"},
                                    {"pytorch_model_legacy.bin", "pytorch_model.bin"}};
    Model m[3];
    for (size_t i = 0; i < 3; i++) {
        static const char *const NAMES[] = {"x", "y", "z"};
        const char *dir = new_dir();
        OK(file_copy(path_of("%s/%s", dir, FILES[i][1]), path_of("%s/%s", from, FILES[i][0]), &err));
        OK(config_read(&m[i].config, from, &err));
        if (!m[i].config.num_labels) OK(config_set_labels(&m[i].config, NAMES, 3, &err));
        model_alloc(&m[i]);
        WeightsReport report;
        OK(weights_load(&m[i].params, &m[i].config, dir, 7, &report, &err));
        assert_string_equal(report.source, FILES[i][1]);
        assert_int_equal(report.initialised.count, initialised);
        if (i) assert_int_equal(report.ignored.count, ignored);
        weights_report_free(&report);
        assert_same_values(&m[0], &m[i]);
    }
    /* saved and read back: still the same */
    const char *dir = new_dir();
    OK(weights_save(path_of("%s/model.safetensors", dir), &m[0].params, &m[0].config, &err));
    OK(weights_load(&m[1].params, &m[1].config, dir, 8, NULL, &err));
    assert_same_values(&m[0], &m[1]);
    for (size_t i = 0; i < 3; i++) model_free(&m[i]);
}

static void weights_golden(void **state) {
    (void)state;
    golden_formats("golden/small-a", "model.safetensors", 1, 0); /* position_ids */
}

static void weights_golden_pretrained(void **state) {
    (void)state;
    golden_formats("golden/pretrained-like", "model_f16.safetensors", 13, 4);
}

int main(void) {
    seed_open();
    if (!folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(config_defaults),        cmocka_unit_test(config_accepts),
        cmocka_unit_test(config_refusals),        cmocka_unit_test(config_round_trip),
        cmocka_unit_test(config_files),           cmocka_unit_test(config_memory),
        cmocka_unit_test(config_golden),          cmocka_unit_test(safetensors_grammar),
        cmocka_unit_test(safetensors_refusals),   cmocka_unit_test(safetensors_round_trip),
        cmocka_unit_test(safetensors_floats),     cmocka_unit_test(safetensors_memory),
        cmocka_unit_test(pickle_layouts),         cmocka_unit_test(pickle_opcodes),
        cmocka_unit_test(pickle_tensors_refused), cmocka_unit_test(pickle_files_refused),
        cmocka_unit_test(pickle_damage),          cmocka_unit_test(pickle_memory),
        cmocka_unit_test(weights_start),          cmocka_unit_test(weights_round_trip),
        cmocka_unit_test(weights_partial),        cmocka_unit_test(weights_shards),
        cmocka_unit_test(weights_refusals),       cmocka_unit_test(weights_memory),
        cmocka_unit_test(weights_golden),         cmocka_unit_test(weights_golden_pretrained),
    };
    return folder_close(cmocka_run_group_tests(tests, NULL, NULL));
}
