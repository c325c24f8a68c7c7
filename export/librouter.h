/* librouter - asks a router blob (made by `router export`) to which domain a prompt belongs.
 *
 *     #include <librouter.h>
 *     #include <stdio.h>
 *
 *     int main(void) {
 *         char error[ROUTER_ERROR_BYTES];
 *         Router *router;
 *         if (router_open(&router, "router.safetensors", NULL, error, sizeof error) != ROUTER_OK) {
 *             fprintf(stderr, "%s\n", error);
 *             return 1;
 *         }
 *         RouterAnswer answer;
 *         const char *text = "Integrate x^2 e^x from 0 to 1.";
 *         int rc = router_classify(router, text, ROUTER_TERMINATED, &answer, NULL, error, sizeof error);
 *         if (rc == ROUTER_OK)
 *             printf("%s %.3f%s\n", router_label(router, answer.label), answer.probability,
 *                    answer.abstained ? " (too unsure to say)" : "");
 *         else
 *             fprintf(stderr, "%s\n", error);
 *         router_close(router);
 *         return rc;
 *     }
 *
 *     cc example.c -lrouter
 *     cc example.c librouter.a -lsentencepiece -lzstd -lstdc++ -lm -lpthread
 *
 * The library depends on libc, sentencepiece and zstd alone. It prints nothing, never ends the process and
 * keeps no global state (but for one permission: where there is AMX, router_open asks Linux for its
 * registers). Texts are any bytes; blobs are checked before they are believed (export/blob.h says
 * how). A Router may be used by any number of threads at once; only router_close must be alone. Answers are a
 * function of the blob and the text: they do not depend on threads, on what else is in a batch, or on the
 * machine.
 *
 * Functions that can fail return ROUTER_OK or another RouterStatus, and then write one line that says what
 * was wrong into error[0 .. error_bytes-1], cut to fit and terminated (error may be NULL). Outputs are then
 * unspecified, except that *out of an open is NULL. */
#ifndef LIBROUTER_H
#define LIBROUTER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define ROUTER_API __attribute__((visibility("default")))
#else
#define ROUTER_API
#endif

#define LIBROUTER_VERSION  "0.3.0"
#define ROUTER_ERROR_BYTES 1024         /* enough for any message */
#define ROUTER_TERMINATED  ((size_t)-1) /* as a length: the text ends at its NUL */

typedef enum {
    ROUTER_OK = 0,
    ROUTER_ARGUMENT = 1, /* a wrong argument */
    ROUTER_IO = 2,       /* the operating system refused */
    ROUTER_FORMAT = 3,   /* not a blob, a damaged one, or one of a newer kind */
    ROUTER_MEMORY = 5,   /* out of memory */
    ROUTER_NUMERIC = 6,  /* the blob's weights overflow */
    ROUTER_BACKEND = 7   /* a library below failed */
} RouterStatus;

typedef struct Router Router;

/* Zeros are the defaults. */
typedef struct {
    int threads;    /* that a call shares its work among: 0 or 1 the caller alone, -1 one per CPU */
    int trust;      /* 1: digests are not checked (faster to open; all other checks are made) */
    int max_tokens; /* truncate earlier than the blob says; 0: as it says */
    int map;        /* 1: router_open maps a plain file instead of reading it. Of the embeddings, only those
                       of tokens that occur then take memory. The file must stay as it is until
                       router_close: cutting it short ends the process. A packed file is read as ever. */
} RouterOptions;

/* Since 0.2.0 with the decision: programs must be compiled with the header of the library that they run with,
 * for as long as the version is below 1. */
typedef struct {
    int label;         /* the most probable one: 0 .. router_label_count() - 1 */
    float probability; /* of it, calibrated */
    int tokens;        /* that the model saw, [CLS] and [SEP] included */
    int truncated;     /* 1 when the text had more */
    int abstained;     /* 1 when the blob has a threshold and the score is below it: label is then only what
                          would have been said */
    int fallback;      /* the label whose expert the blob names for such prompts; -1: it names none */
    float score; /* how sure the answer is, by the score of the blob's threshold; without: probability */
} RouterAnswer;

/* Opens a blob: a file, or n bytes (copied), plain or packed. options may be NULL. Close with router_close.
 */
ROUTER_API int router_open(Router **out, const char *path, const RouterOptions *options, char *error,
                           size_t error_bytes);
ROUTER_API int router_open_memory(Router **out, const void *bytes, size_t n, const RouterOptions *options,
                                  char *error, size_t error_bytes);
ROUTER_API void router_close(Router *router); /* NULL is fine */

/* Classifies text[0 .. n-1]. probabilities: room for router_label_count() numbers, or NULL. */
ROUTER_API int router_classify(Router *router, const char *text, size_t n, RouterAnswer *answer,
                               float *probabilities, char *error, size_t error_bytes);

/* The same for count texts: lengths (NULL: all end at their NUL), answers (count), probabilities (count rows
 * of router_label_count() numbers, or NULL). The first text that fails fails the call, and is named. Texts go
 * through the model in groups, which is faster than one by one, the more so the shorter they are.
 *
 * One text, ids, or a batch: while another caller is using the router's threads, it is computed by its caller
 * alone. */
ROUTER_API int router_classify_batch(Router *router, const char *const *texts, const size_t *lengths,
                                     size_t count, RouterAnswer *answers, float *probabilities, char *error,
                                     size_t error_bytes);

/* Labels in the order of the probabilities; the names live as long as the router. NULL for any other index.
 */
ROUTER_API int router_label_count(const Router *router);
ROUTER_API const char *router_label(const Router *router, int label);

/* Since 0.3.0. How often the labels have been changed (added, renamed, retired), plus one: a router that was never
 * changed, and every blob from before, is 1. The metadata key "router.taxonomy.parent" then names the router that it was
 * made from: by the digest that its parent's blob has as "router.source.model_sha256". Ids keep their meaning from one
 * revision to the next: new labels are behind the old ones. */
ROUTER_API int router_revision(const Router *router);

/* Since 0.3.0. What belongs to a label, or NULL where nothing was said (or for any other index). */
ROUTER_API const char *router_label_description(const Router *router, int label);

/* Since 0.3.0. 1, or 0 for a label that is retired: it keeps its id and its place among the probabilities, and is not
 * answered any more (or for any other index). */
ROUTER_API int router_label_active(const Router *router, int label);

ROUTER_API int router_max_tokens(const Router *router);

/* Value of a metadata key of the blob ("router.license"), or NULL; lives as long as the router. */
ROUTER_API const char *router_metadata(const Router *router, const char *key);

/* The parts of router_classify. Ids of a text, at most `capacity` of them are stored
 * (router_max_tokens() is always enough); *count is how many there are after truncation. Logits
 * (router_label_count() numbers, before the temperature) of 1 .. router_max_tokens() ids. */
ROUTER_API int router_encode(Router *router, const char *text, size_t n, int32_t *ids, size_t capacity,
                             size_t *count, int *truncated, char *error, size_t error_bytes);
ROUTER_API int router_logits(Router *router, const int32_t *ids, size_t n, float *logits, char *error,
                             size_t error_bytes);

/* The same with the vector that the classifier made the logits of: router_width() numbers. */
ROUTER_API int router_pooled(Router *router, const int32_t *ids, size_t n, float *logits, float *pooled,
                             char *error, size_t error_bytes);
ROUTER_API int router_width(const Router *router);

/* Calibrated probabilities (or NULL) and the decision from finite logits; answer's tokens and truncated are 0.
 */
ROUTER_API int router_decide(Router *router, const float *logits, RouterAnswer *answer, float *probabilities,
                             char *error, size_t error_bytes);

/* Name of the kernels that this processor's instructions allow: "amx", "avx512vnni", "avxvnni", "avx2",
 * "neon", "portable". */
ROUTER_API const char *router_kernels(const Router *router);

/* LIBROUTER_VERSION of the library that is running. */
ROUTER_API const char *router_version(void);

#ifdef __cplusplus
}
#endif

#endif
