/* export/blob.h - the blob: one file that holds a quantised router, its tokenizer and all that a runtime
 * needs to know. This comment is the specification; tests/peer/blob_peer.c is a reader written from it.
 *
 * CONTAINER. A blob is a safetensors file (u64 little-endian header length n, n bytes of JSON, data). Any
 * safetensors library opens it. On top of that:
 *   - n <= 64 MB, the file <= 16 GB; 8 + n is a multiple of 64, the JSON being padded with spaces.
 *   - The file's bytes from 8 on begin with  {"__metadata__":{"router.header_sha256":"  followed by 64
 *     lower-case hexadecimal digits: the SHA-256 of the first 8 + n bytes of the file in which these 64
 *     characters are replaced by '0'. (So it covers every byte of the header, white space included.)
 *   - The tensors lie in the order listed below and no others exist, except that a tensor whose size is no
 *     multiple of 64 bytes is followed by one named "router.pad.I", I being the number of the tensor that
 *     it follows (0, 1, ... in the list), of type U8 and 1 to 63 bytes, all zero. So every listed tensor
 *     begins at a multiple of 64, and every byte of the file is covered.
 *   - For each listed tensor, metadata "router.sha256.NAME" is the SHA-256 of its bytes, in 64 lower-case
 *     hexadecimal digits.
 *   - All numbers are little-endian, all matrices row-major [output, input].
 * For shipping the whole file may be one zstd frame that states its content size (at most 64 times the
 * packed size, or 16 MB), with nothing behind it; readers recognise it by its first bytes 28 B5 2F FD.
 *
 * METADATA. Strings; counts are decimal without sign or leading zero; floats are C99 hexadecimal, such as
 * "0x1.8p-1". All keys begin with "router.":
 *
 *   format                  "1.2": MAJOR.MINOR. A reader refuses another major number, and ignores keys that
 *                           it does not know. Anything that changes what is computed either raises the major
 *                           number or adds a word to
 *   required                words, separated by one space, that a reader must know or else refuse the file:
 *                           "int8-rows f16-positions", then those of "calibration-vector" and
 *                           "decision-threshold" (since 1.1) that the file needs, in this order
 *   architecture            "deberta-v3"
 *   byte_order              "little"
 *   vocab_size              V, 1 .. 4194304
 *   hidden_size             H, 1 .. 8192
 *   num_hidden_layers       1 .. 256
 *   num_attention_heads     A, a divisor of H
 *   intermediate_size       F, 1 .. 65536
 *   position_buckets        B, 2 .. 65536
 *   max_relative_positions  P, 1 .. 65536
 *   layer_norm_eps          float > 0, inside the root
 *   activation              "gelu-erf"
 *   attention               "c2c c2p p2c shared-key"
 *   pooler                  "first-token dense gelu"
 *   num_labels              K, 1 .. 4096
 *   label.0 .. label.K-1    names: 1 to 256 bytes, no control characters, all different; the number is the
 *                           row of the head
 *   taxonomy.revision       which of the router's states this is, 1 .. 1000000; absent, as in all files before 1.2: 1
 *   taxonomy.parent         source.model_sha256 of the revision that it was made from: 64 lower-case hexadecimal
 *                           digits, from revision 2 on and only then
 *   label.I.description     what belongs there: 1 to 1000 bytes of UTF-8, no control characters; may be absent
 *   label.I.active          "false": the label is retired, its row of the head is such that it does not win;
 *                           absent or "true" otherwise. At least two are active where K is above 1
 *   label.I.since           the revision in which the label came: not below the one of label I-1, not above
 *                           taxonomy.revision; absent: 1
 *   label.I.formerly.0, .1 .. at most .63
 *                           what it was called before, the oldest first, as the names: no two names of any labels,
 *                           former or not, are the same
 *   max_tokens              most tokens of an input, 2 .. 8192, [CLS] and [SEP] included
 *   truncation              "head": [CLS], the first max_tokens - 2 ids of the text, [SEP]
 *   plain_text              "true": the strings [CLS] ... in a text are text; "false": they are tokens
 *   tokenizer               "sentencepiece": tensor tokenizer.spm is a spm.model
 *   special.pad .cls .sep .unk .mask
 *                           ids, as the tokenizer has them, below V (special.mask may be above it where
 *                           plain_text is "true": it then never occurs)
 *   temperature             float > 0; see DECISION
 *   scale.0 .. scale.K-1    floats > 0, and
 *   bias.0 .. bias.K-1      floats: with the word calibration-vector, and only then
 *   decision.score          "max_probability", "margin", "entropy" or "energy": with the word
 *                           decision-threshold, and only then, as the following
 *   decision.threshold      float: for all labels; or instead of it
 *   decision.threshold.0 .. decision.threshold.K-1
 *                           floats: of each label
 *   decision.fallback       a label, for prompts that are not answered; may be absent
 *   weights                 "int8 symmetric per output row"
 *   activations             "int8 symmetric per token, dynamic"
 *   golden.count            number of golden vectors, 0 .. 4096; for each I below it
 *   golden.I.text           the input
 *   golden.I.ids            its ids, decimal, separated by one space
 *   golden.I.logits         K floats, separated by one space, of the int8 model
 *   golden.I.float_logits   the same of the float model, for comparison
 *   golden.tolerance        float: how far another implementation may be from golden.I.logits, as largest
 *                           |difference| / max(1, largest |logit|)
 *
 * and for people: tool, license (SPDX), description, date, source.model_sha256 (of the file model.safetensors or
 * pytorch_model.bin; absent where the weights were in several), source.weights_sha256 (of the numbers, in float32),
 * source.tokenizer_sha256,
 * decision.policy (what the thresholds were chosen for, such as "precision=0.98"), and as JSON in one line
 * decision.cost (the costs of that policy), train_config, metrics (a report of `router eval`, which names its
 * set), metrics.dev (what training measured on its dev rows) and calibration (what `router calibrate` fitted, on
 * which set, and what it measured).
 *
 * TENSORS, in this order. L(name, O, I) stands for three of them: name.weight I8 [O, I], name.weight_scale
 * F32 [O] (finite, > 0), name.bias F32 [O]. N(name) for two: name.weight F32 [H], name.bias F32 [H].
 *
 *   deberta.embeddings.word_embeddings.weight I8 [V, H]
 *   deberta.embeddings.word_embeddings.weight_scale F32 [V]
 *   N(deberta.embeddings.LayerNorm)
 *   for each layer I, names behind "deberta.encoder.layer.I.":
 *     L(attention.self.query_proj, H, H)
 *     L(attention.self.key_proj, H, H)
 *     L(attention.self.value_proj, H, H)
 *     attention.self.position_key F16 [2B, H]
 *     attention.self.position_query F16 [2B, H]
 *     L(attention.output.dense, H, H)
 *     N(attention.output.LayerNorm)
 *     L(intermediate.dense, F, H)
 *     L(output.dense, H, F)
 *     N(output.LayerNorm)
 *   pooler.dense.weight F32 [H, H]
 *   pooler.dense.bias F32 [H]
 *   classifier.weight F32 [K, H]
 *   classifier.bias F32 [K]
 *   tokenizer.spm U8 [any]
 *
 * A weight is int8 value * scale of its row; writers use -127 .. 127. All floats are finite.
 *
 * COMPUTATION of the logits of ids[0 .. L-1], D = H / A:
 *
 *   LN(x)   = (x - mean) / sqrt(variance + eps) * weight + bias
 *   gelu(x) = x (1 + erf(x / sqrt 2)) / 2
 *   x = LN(word[ids])
 *   per layer:
 *     q, k, v = query_proj(x), key_proj(x), value_proj(x)
 *     per head, on its columns:  r = row(i - j)
 *       score(i,j) = (q_i . k_j + q_i . position_key[r] + k_j . position_query[r]) / sqrt(3 D)
 *       context_i  = sum_j softmax_j(score(i,j)) v_j
 *     a = LN(attention.output.dense(context) + x)
 *     x = LN(output.dense(gelu(intermediate.dense(a))) + a)
 *   logits = classifier(gelu(pooler.dense(x[0])))
 *
 *   row(d)    = min(max(bucket(d) + B, 0), 2B - 1)
 *   bucket(d) = d where |d| <= M or P - 1 <= M, M = B / 2 rounded down; else, in float32,
 *               sign(d) * (ceil(ln(|d| / M) / ln((P - 1) / M) * (M - 1)) + M)
 *
 * position_key and position_query are key_proj and query_proj of the normalised relative embeddings,
 * projected in float when the blob was made. A linear layer marked L takes its input in 8 bits, with one
 * scale per token:
 *
 *   max = largest |x_i|,  scale = max / 127,  q_i = round half to even(x_i * (127 / max))
 *   y_o = (sum_i q_i weight(o,i)) * (scale * weight_scale_o) + bias_o
 *
 * with all q_i and scale 0 where max < 1e-30, and the sum exact, in 32 bits. pooler.dense and classifier are
 * computed in float. An implementation that adds floats in another order, or has another exp or erf, agrees
 * within golden.tolerance: now and then an activation falls on the other side of a rounding border.
 *
 * DECISION. From the logits l (K) of a text, in double precision (e and ln as exact as a good libm's):
 *
 *   z_k = l_k / temperature                          without the word calibration-vector
 *   z_k = l_k / temperature * scale.k + bias.k       with it
 *   p_k = e^(z_k - max z) / sum_j e^(z_j - max z)    the probabilities
 *   label = the first k with the largest z_k
 *
 * and with the word decision-threshold, the score being rounded to float32:
 *
 *   score = p_label                                  "max_probability"
 *           p_label - largest p of the other labels  "margin"; 0 where K = 1
 *           1 + sum_k p_k ln p_k / ln K              "entropy"; 1 where K = 1; 0 ln 0 is 0
 *           max l + ln sum_k e^(l_k - max l)         "energy": of the logits themselves
 *   the decision is to abstain where score < threshold (of all labels, or threshold.label), else label
 *
 * Abstaining is no label: a prompt that is surely "other" is answered with "other". The fallback, where there
 * is one, says to which label's expert such prompts go.
 *
 * READING. What blob_open returns has been checked against all of the above but the golden vectors, the
 * tokenizer's inside, and numbers that overflow while computing. Sizes are checked before anything of their
 * size is allocated; digests are checked unless `trust` says otherwise. A digest does not stop an attacker
 * who recomputes it: for trust in the origin, sign the file. Opening takes at most twice the file's size in
 * memory, and of a packed file at most 64 times that or 16 MB. A mapped file is only sound while nobody
 * changes it: a file that is cut short ends the process with SIGBUS, and other bytes are not noticed. */
#ifndef EXPORT_BLOB_H
#define EXPORT_BLOB_H

#include <stdbool.h>
#include <stdint.h>

#include "core/threads.h"
#include "export/decide.h"
#include "model/safetensors.h"
#include "model/taxonomy.h"

#define BLOB_FORMAT     "1.2"
#define BLOB_HEADER_MAX ((uint64_t)64 << 20)
#define BLOB_BYTES_MAX  ((uint64_t)16 << 30)
#define BLOB_TOKENS_MAX 8192
#define BLOB_LABEL_MAX  256
#define BLOB_ALIGN      64

/* The numbers of the metadata. decide's arrays and the taxonomy are the Blob's or the caller's; a taxonomy of zeros
 * is written as nothing. */
typedef struct {
    int vocab_size, hidden_size, num_hidden_layers, num_attention_heads, intermediate_size;
    int position_buckets, max_relative_positions, num_labels, max_tokens;
    int pad, cls, sep, unk, mask;
    bool plain_text;
    float layer_norm_eps;
    DecideRule decide;
    Taxonomy taxonomy;
} BlobConfig;

/* ---- the list of tensors ---- */

/* Numbers in the list: BLOB_WORD ...; BLOB_LAYER + layer * BLOB_PER_LAYER + BLOB_Q ...; blob_top() +
 * BLOB_POOL_W ... A linear layer's three follow each other: weight, scale, bias. */
enum { BLOB_WORD, BLOB_WORD_SCALE, BLOB_EMBED_NORM_W, BLOB_EMBED_NORM_B, BLOB_LAYER };
enum {
    BLOB_Q = 0,
    BLOB_K = 3,
    BLOB_V = 6,
    BLOB_POSITION_KEY = 9,
    BLOB_POSITION_QUERY,
    BLOB_O = 11,
    BLOB_ATTN_NORM_W = 14,
    BLOB_ATTN_NORM_B,
    BLOB_UP = 16,
    BLOB_DOWN = 19,
    BLOB_FFN_NORM_W = 22,
    BLOB_FFN_NORM_B,
    BLOB_PER_LAYER
};
enum { BLOB_POOL_W, BLOB_POOL_B, BLOB_HEAD_W, BLOB_HEAD_B, BLOB_SPM, BLOB_TOP };

#define BLOB_NAME_MAX 96

typedef struct {
    char name[BLOB_NAME_MAX];
    Dtype dtype;
    int rank;
    int64_t shape[2]; /* -1: any, >= 1 (tokenizer.spm) */
} BlobSpec;

size_t blob_top(const BlobConfig *config);   /* number of BLOB_POOL_W */
size_t blob_count(const BlobConfig *config); /* of listed tensors */
void blob_spec(BlobSpec *out, const BlobConfig *config, size_t i);

/* ---- reading ---- */

typedef struct {
    BlobConfig config;
    SafetensorsHeader header; /* metadata sorted by key */
    char *bytes;              /* the whole file, unpacked */
    size_t size, data_start;
    bool packed; /* was a zstd frame */
    bool mapped; /* bytes are a private mapping of the file: what is never touched takes no memory */
    void **data; /* blob_count() pointers into bytes, 64-byte aligned; forward_init rearranges some of them */
    size_t spm_bytes;
    const char **labels; /* num_labels */
} Blob;

typedef struct {
    bool trust; /* digests are not checked */
    bool map;   /* a plain file is mapped, not read; a packed one is read all the same */
} BlobOptions;

/* From a file or from n bytes (which are copied). options and threads may be NULL. Errors: ERR_IO,
 * ERR_MEMORY, ERR_FORMAT; they begin with `path`, or with "blob" for memory. */
ErrCode blob_open(Blob *out, const char *path, const BlobOptions *options, Threads *threads,
                  Err *err) ERR_CHECKED;
ErrCode blob_open_memory(Blob *out, const void *bytes, size_t n, bool trust, Threads *threads,
                         Err *err) ERR_CHECKED;
void blob_close(Blob *blob);

/* Whether a file begins like a blob, packed or not; false too when it cannot be read. */
bool blob_is(const char *path);

/* Value of a metadata key, or NULL. */
const char *blob_metadata(const Blob *blob, const char *key);

/* A count as metadata have it: ERR_FORMAT names the key. */
ErrCode blob_number(int *out, const char *key, const char *text, int min, int max, Err *err) ERR_CHECKED;

/* ---- writing ---- */

/* data: blob_count(config) pointers in the order of the list. metadata: what goes behind that which follows
 * from the other arguments and the digests. out is the whole file; equal arguments give equal bytes. */
ErrCode blob_write(Buf *out, const BlobConfig *config, const char *const *labels, const void *const *data,
                   size_t spm_bytes, const SafetensorsPair *metadata, size_t metadata_count,
                   Err *err) ERR_CHECKED;

/* Whether blob_write writes this key itself, so that it must not be among the metadata it is given. */
bool blob_writes(const char *key);

/* The file as a zstd frame. */
ErrCode blob_pack(Buf *out, const Buf *blob, Err *err) ERR_CHECKED;

#endif
